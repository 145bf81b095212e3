"""In-context regression with a noise level of its own in every context (Vladymyrov et al. 2024, arXiv 2402.14180).

A context is n tokens z_i = (x_i, y_i) with x ~ N(0, I_d), y = w.x + N(0, sigma^2), w ~ N(0, I_d). A linear transformer
and every predictor of `references.py` see it only through its moments G = sum_i z_i z_i', which are drawn as such.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llc_dynamics.errors import ConfigError, DataError


@dataclass(frozen=True)
class Noise:
    """The distribution of sigma, a standard deviation, over contexts: U(0, sigma_max), or uniform on the set `sigmas`.

    Raises `ConfigError` for a negative or infinite sigma and for an empty set.
    """

    sigma_max: float = 5.0
    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.sigmas is not None:
            object.__setattr__(self, "sigmas", tuple(map(float, self.sigmas)))
            if not self.sigmas:
                raise ConfigError("sigmas: the set of noise levels is empty; name at least one, or leave it out")
        for name, value in (("sigma_max", self.sigma_max), *(("sigmas", each) for each in self.sigmas or ())):
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name}: a standard deviation is 0 or more and finite; got {value}")

    @property
    def mean_variance(self) -> float:
        """E sigma^2."""
        if self.sigmas is None:
            return self.sigma_max**2 / 3
        return sum(sigma**2 for sigma in self.sigmas) / len(self.sigmas)

    @property
    def label(self) -> str:
        """'sigma up to 5' or 'sigma in 1, 3'."""
        if self.sigmas is None:
            return f"sigma up to {self.sigma_max:g}"
        return f"sigma in {', '.join(f'{sigma:g}' for sigma in self.sigmas)}"

    def levels(self, uniform: Tensor) -> Tensor:
        """sigma at quantiles `uniform` in [0, 1), so that all settings are made of the same draw."""
        if self.sigmas is None:
            return self.sigma_max * uniform
        values = torch.tensor(self.sigmas, dtype=uniform.dtype, device=uniform.device)
        return values[(uniform * len(values)).long().clamp(max=len(values) - 1)]


@dataclass(frozen=True, eq=False)
class Contexts:
    """Contexts by their moments: G [B, d+1, d+1], the task vector w [B, d], and sigma [B]."""

    moments: Tensor
    w: Tensor
    sigma: Tensor
    num_examples: int

    @property
    def dimension(self) -> int:
        """d."""
        return self.w.shape[1]

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """What a model and its loss take: (G, w)."""
        return self.moments, self.w

    def to(self, dtype: torch.dtype) -> Contexts:
        """The same in another format."""
        return replace(self, moments=self.moments.to(dtype), w=self.w.to(dtype), sigma=self.sigma.to(dtype))


@dataclass(frozen=True, eq=False)
class Draw:
    """What is random in contexts whatever their noise: moments of (x, unit noise), w, and the quantile of sigma.

    The moments are A A' with the lower triangle A [d+1, d+1, B] of Bartlett's decomposition: for p = d+1 independent
    standard normals, A_jj^2 ~ chi^2(n-j) and A_ij ~ N(0, 1) below; from column n on, A is zero. Contexts are the last
    dimension in memory, which is what the model's recursion wants.
    """

    triangle: Tensor
    w: Tensor
    uniform: Tensor
    num_examples: int

    def contexts(self, noise: Noise) -> Contexts:
        """The contexts of this draw with the noise of one setting: z = C (x, e), C = [[I, 0], [w', sigma]]."""
        sigma = noise.levels(self.uniform)
        upper = self.triangle[:-1]
        last = (self.w[:, None] * upper).sum(0) + sigma * self.triangle[-1]
        rows = torch.cat((upper, last[None])).permute(2, 0, 1)
        moments = rows @ rows.mT
        return Contexts(moments, self.w.T, sigma, self.num_examples)


def draw(
    generator: torch.Generator, batch_size: int, dimension: int, num_examples: int, dtype: torch.dtype = torch.float32
) -> Draw:
    """Draw `batch_size` contexts of n = `num_examples` tokens with inputs in R^d; it serves all noise settings."""
    options: dict[str, Any] = {"generator": generator, "device": generator.device, "dtype": dtype}
    size = dimension + 1
    triangle = torch.randn(size, size, batch_size, **options) * torch.ones(size, size).tril(-1).to(
        device=generator.device, dtype=dtype
    ).unsqueeze(-1)
    freedom = (num_examples - torch.arange(size, device=generator.device, dtype=dtype)).clamp(min=0)
    gamma = torch._standard_gamma((freedom / 2).clamp(min=0.5)[:, None].expand(size, batch_size), generator=generator)
    place = torch.arange(size, device=generator.device)
    triangle[place, place] = (2 * gamma).sqrt()
    triangle[:, num_examples:] = 0
    w = torch.randn(dimension, batch_size, **options)
    return Draw(triangle, w, torch.rand(batch_size, **options), num_examples)


def draw_tokens(
    generator: torch.Generator,
    batch_size: int,
    dimension: int,
    num_examples: int,
    noise: Noise,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Contexts token by token: x [B, n, d], y [B, n], w [B, d], sigma [B]."""
    options: dict[str, Any] = {"generator": generator, "device": generator.device, "dtype": dtype}
    w = torch.randn(batch_size, dimension, **options)
    sigma = noise.levels(torch.rand(batch_size, **options))
    x = torch.randn(batch_size, num_examples, dimension, **options)
    error = torch.randn(batch_size, num_examples, **options)
    return x, (x @ w[:, :, None])[..., 0] + sigma[:, None] * error, w, sigma


def moments_of(x: Tensor, y: Tensor) -> Tensor:
    """G = sum_i z_i z_i' [B, d+1, d+1] of tokens x [B, n, d], y [B, n]. Raises `DataError` for other shapes."""
    if x.ndim != 3 or y.shape != x.shape[:2]:
        raise DataError(f"x must be [B, n, d] and y [B, n]; got {list(x.shape)} and {list(y.shape)}")
    z = torch.cat((x, y[..., None]), dim=-1)
    return z.mT @ z


def query_loss(estimate: Tensor, w: Tensor) -> Tensor:
    """Half the squared error [B] in its mean over the query x ~ N(0, I): 1/2 |w_hat - w|^2."""
    return 0.5 * (estimate - w).square().sum(-1)


def require_sizes(dimension: int, num_examples: int) -> None:
    """Raise `ConfigError` unless d and n are 1 or more."""
    for name, value in (("dimension", dimension), ("num_examples", num_examples)):
        if value < 1:
            raise ConfigError(f"{name} must be 1 or more; got {value}")


PUBLISHED: Sequence[Noise] = (*(Noise(float(each)) for each in range(8)), Noise(sigmas=(1, 3)), Noise(sigmas=(1, 3, 5)))
