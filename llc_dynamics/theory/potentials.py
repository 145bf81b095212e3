"""Tiny modules whose loss is a given function of the parameters, with exact answers in `llc_dynamics.theory`.

Each has outputs [B, k] whose squared norm is the potential, so that `squared_error` against zero targets is the given
loss, and any loss made from outputs at w against outputs at w* (a behavioural loss) can be had as well. Every module
starts at its minimum w* = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llc_dynamics.errors import ConfigError
from llc_dynamics.seeding import torch_generator


class Quadratic(nn.Module):
    """L(w) = 1/2 sum h_i w_i^2, as the squared norm of the outputs sqrt(h_i / 2) w_i, [B, d] for any x with B rows.

    Parameters
    ----------
    curvatures : h_i, finite and zero or more each.

    Exact answers: `theory.quadratic_llc`, `theory.quadratic_sgld_llc`. Raises `ConfigError` for other curvatures.
    """

    scale: Tensor

    def __init__(self, curvatures: Sequence[float]) -> None:
        super().__init__()
        if not len(curvatures) or not all(0 <= h < math.inf for h in curvatures):
            raise ConfigError(f"curvatures must be one or more finite numbers of zero or more; got {list(curvatures)}")
        self.num_outputs = len(curvatures)
        self.weight = nn.Parameter(torch.zeros(len(curvatures)))
        self.register_buffer("scale", torch.tensor([(h / 2) ** 0.5 for h in curvatures]))

    def forward(self, x: Tensor) -> Tensor:
        """The same d outputs in each of the B rows of `x`, whose values do not matter."""
        return (self.scale * self.weight).expand(len(x), -1)


class NormalCrossing(nn.Module):
    """L(w) = prod w_i^(2 k_i), as the square of the one output prod w_i^(k_i), [B, 1] for any x with B rows.

    Parameters
    ----------
    exponents : k_i, whole numbers of zero or more, not all zero; one of them alone is the potential w^(2k).

    Exact answers: `theory.normal_crossing_llc`, `theory.localized_normal_crossing_llc`. Raises `ConfigError` for other
    exponents.
    """

    def __init__(self, exponents: Sequence[int]) -> None:
        super().__init__()
        if not any(exponents) or any(exponent != int(exponent) or exponent < 0 for exponent in exponents):
            raise ConfigError(
                f"exponents must be whole numbers of zero or more, not all zero (k_i of prod w_i^(2 k_i)); "
                f"got {list(exponents)}"
            )
        self.exponents = tuple(int(exponent) for exponent in exponents)
        self.num_outputs = 1
        self.weight = nn.Parameter(torch.zeros(len(self.exponents)))

    def forward(self, x: Tensor) -> Tensor:
        """The same output in each of the B rows of `x`, whose values do not matter."""
        output = self.weight.new_ones(())
        for place, exponent in enumerate(self.exponents):
            # One power at a time: autograd's derivative of a product has no 0/0 at zero.
            output = output * self.weight[place].pow(exponent)
        return output.expand(len(x), 1)


class TwoParameterFamily(nn.Module):
    """The two-parameter polynomial network of arXiv 2608.20183: L layers that share [[t1+t2, t1^2], [t1^2, t2^2]].

    Outputs f(x) [B, 2] for x [B, 2], with the activation x^r between the layers; `family_data` gives inputs with the
    true targets, zero.

    Parameters
    ----------
    layers : L, 1 or more.
    power : r, 1 or more.

    Exact answers: `theory.two_parameter_family_llc`, `theory.localized_two_parameter_family_llc`. Raises `ConfigError`
    for other values.
    """

    def __init__(self, layers: int, power: int) -> None:
        super().__init__()
        for name, value in (("layers", layers), ("power", power)):
            if value != int(value) or value < 1:
                raise ConfigError(f"{name} must be a whole number of 1 or more; got {value}")
        self.layers, self.power = int(layers), int(power)
        self.num_outputs = 2
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [B, 2] for inputs [B, 2]."""
        t1, t2 = self.weight[0], self.weight[1]
        matrix = torch.stack([t1 + t2, t1.square(), t1.square(), t2.square()]).view(2, 2)
        x = F.linear(x, matrix)
        for _ in range(self.layers - 1):
            x = F.linear(x.pow(self.power), matrix)
        return x


def potential_data(
    model: Quadratic | NormalCrossing, num_samples: int, *, noise: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Data (x [n, 1], y [n, k]) for `squared_error`: x is zero, y is zero or noise around zero.

    With noise each sample's loss is |f(w) - y|^2, so that minibatches have gradient noise. Targets come in pairs y and
    -y: their sum is exactly zero, and over the whole data the loss is still L(w) plus a constant.

    Parameters
    ----------
    num_samples : n, even and 2 or more.
    noise : standard deviation of y, zero or more.
    seed : of the noise.

    Raises `ConfigError` for values outside these ranges.
    """
    if num_samples < 2 or num_samples % 2:
        raise ConfigError(f"num_samples must be even and 2 or more (targets come in pairs y, -y); got {num_samples}")
    if not 0 <= noise < math.inf:
        raise ConfigError(f"noise must be finite and zero or more; got {noise}")
    half = torch.randn(num_samples // 2, model.num_outputs, generator=torch_generator(seed, "potential data"))
    return torch.zeros(num_samples, 1), noise * torch.stack([half, -half], dim=1).flatten(0, 1)


def family_data(side: int = 4) -> tuple[Tensor, Tensor]:
    """Data (x [side^2, 2], y = 0) for a `TwoParameterFamily`: x on a regular grid of midpoints in [-1, 1]^2.

    A grid rather than random inputs: the loss is then an exact function of t, the same as in the theory room. Raises
    `ConfigError` for a side below 2.
    """
    if side < 2:
        raise ConfigError(f"side must be 2 or more; got {side}")
    axis = (2 * torch.arange(side) + 1) / side - 1
    x = torch.cartesian_prod(axis, axis)
    return x, torch.zeros_like(x)
