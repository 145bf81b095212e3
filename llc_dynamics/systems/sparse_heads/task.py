"""Sparse regression in context (Chen, Zhao & Zou 2024, arXiv 2408.04532).

A context is n examples x ~ N(0, I_d), y = w.x + N(0, sigma^2), where s entries of w, at places drawn for each context,
are not zero. The sizes d = 16, s = 4, n = 40 and the distribution of the entries are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from llc_dynamics.errors import ConfigError
from llc_dynamics.settings import with_plain_numbers
from llc_dynamics.systems.linear_transformer.task import Contexts, Noise, draw, require_sizes

Coefficients = Literal["gaussian", "signs"]


@dataclass(frozen=True)
class SparseTask:
    """The distribution of contexts.

    dimension, sparsity, num_examples : d, s, n. sigma : standard deviation of the noise. coefficients : the s entries
    are N(0, 1) ("gaussian"), or +1 and -1 with equal chances ("signs").

    Raises `ConfigError` for values outside their ranges.
    """

    dimension: int = 16
    sparsity: int = 4
    num_examples: int = 40
    sigma: float = 1.0
    coefficients: Coefficients = "gaussian"

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        require_sizes(self.dimension, self.num_examples)
        if not 1 <= self.sparsity <= self.dimension:
            raise ConfigError(
                f"sparsity: of d = {self.dimension} weights 1 to {self.dimension} can be non-zero; got {self.sparsity}"
            )
        if not 0 <= self.sigma < math.inf:
            raise ConfigError(f"sigma: a standard deviation is 0 or more and finite; got {self.sigma}")
        if self.coefficients not in ("gaussian", "signs"):
            raise ConfigError(f"coefficients: '{self.coefficients}' is unknown; known: gaussian, signs")

    def weights(self, generator: torch.Generator, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Task vectors w [B, d]."""
        options: dict[str, Any] = {"generator": generator, "device": generator.device}
        shape = (count, self.sparsity)
        if self.coefficients == "gaussian":
            values = torch.randn(shape, dtype=dtype, **options)
        else:
            values = 2 * torch.randint(2, shape, **options).to(dtype) - 1
        support = torch.rand(count, self.dimension, **options).argsort(1)[:, : self.sparsity]
        return torch.zeros(count, self.dimension, dtype=dtype, device=generator.device).scatter(1, support, values)

    def contexts(
        self,
        generator: torch.Generator,
        count: int,
        num_examples: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Contexts:
        """Contexts by their moments, of n or another number of examples."""
        drawn = draw(generator, count, self.dimension, num_examples or self.num_examples, dtype)
        w = self.weights(generator, count, dtype)
        return replace(drawn, w=w.T).contexts(Noise(sigmas=(self.sigma,)))

    def tokens(
        self, generator: torch.Generator, count: int, num_queries: int, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Contexts token by token: z = (x, y) [B, n, d+1], queries [B, m, d], w [B, d]."""
        options: dict[str, Any] = {"generator": generator, "device": generator.device, "dtype": dtype}
        w = self.weights(generator, count, dtype)
        x = torch.randn(count, self.num_examples, self.dimension, **options)
        noise = self.sigma * torch.randn(count, self.num_examples, 1, **options)
        queries = torch.randn(count, num_queries, self.dimension, **options)
        return torch.cat((x, x @ w[:, :, None] + noise), dim=-1), queries, w


def answers(queries: Tensor, w: Tensor) -> Tensor:
    """w . x [B, m] for queries [B, m, d]."""
    return (queries @ w[:, :, None])[..., 0]


def excess_risk(estimate: Tensor, w: Tensor) -> Tensor:
    """|w_hat - w|^2 [B], the squared error at x ~ N(0, I) beyond that of the noise."""
    return (estimate - w).square().sum(-1)
