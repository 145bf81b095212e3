"""Deep linear networks at points whose learning coefficient is known (`llc_dynamics.theory.deep_linear_llc`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llc_dynamics.errors import ConfigError
from llc_dynamics.seeding import numpy_generator, torch_generator


class DeepLinearNetwork(nn.Module):
    """x -> W_L ... W_2 W_1 x, `[B, H_L] = model(x [B, H_0])`, without biases.

    Parameters
    ----------
    widths : H_0 (inputs), H_1, ..., H_L (outputs); two or more numbers of at least 1.
    seed : of the initial weights, normal with variance 1 / fan-in.

    Attributes
    ----------
    weights : W_1, ..., W_L, with W_l of shape [H_l, H_(l-1)].

    Raises `ConfigError` for widths outside these ranges.
    """

    def __init__(self, widths: Sequence[int], seed: int = 0) -> None:
        super().__init__()
        self.widths = tuple(int(width) for width in widths)
        if len(self.widths) < 2 or min(self.widths) < 1 or self.widths != tuple(widths):
            raise ConfigError(f"widths must be two or more whole numbers of 1 or more; got {list(widths)}")
        self.weights = nn.ParameterList(
            torch.randn(after, before, generator=torch_generator(seed, "deep linear network", layer)) / before**0.5
            for layer, (before, after) in enumerate(pairwise(self.widths))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [B, H_L] for inputs [B, H_0]."""
        for weight in self.weights:
            x = F.linear(x, weight)
        return x

    def product(self) -> Tensor:
        """W_L ... W_1, [H_L, H_0]: the map that the network computes."""
        first, *others = self.weights
        total = first
        for weight in others:
            total = weight @ total
        return total


def rank_minimal_network(
    widths: Sequence[int], rank: int, seed: int = 0, *, largest_singular_value: float = 2.0
) -> DeepLinearNetwork:
    """A network whose product has the given rank r, and each of whose layers has no more than that rank.

    There the local learning coefficient is the value of Aoyagi's formula, which is the minimum over all weights with
    the same product. At a point where a layer has a larger rank, as it has in a network whose random layers were
    cut to low rank one by one (the published protocol), the local value can be larger than the formula's.

    W_l = Q_l diag(t)^(1/L) Q_(l-1)' with orthonormal frames Q_l of shape [H_l, r], drawn independently for each layer.
    The product Q_L diag(t) Q_0' has the singular values t_i, drawn log-uniformly from [1/c, c]; those of the layers are
    t_i^(1/L): of order 1 at any depth. All other singular values are zero up to rounding to float32. Any other
    rank-minimal weights with that product differ from these by an invertible linear change of the hidden units, so the
    choice loses no generality in lambda (it does fix how stiff and how curved the valley is).

    Parameters
    ----------
    widths : H_0, ..., H_L.
    rank : r, from 0 to the smallest width.
    seed : of the frames and the singular values.
    largest_singular_value : c, 1 or more; 1 makes all t_i equal to 1.

    Raises `ConfigError` for values outside these ranges.
    """
    network = DeepLinearNetwork(widths, seed)
    if rank != int(rank) or not 0 <= rank <= min(network.widths):
        raise ConfigError(
            f"rank must be a whole number from 0 to the smallest width, {min(network.widths)}; got {rank}"
        )
    if not 1 <= largest_singular_value < math.inf:
        raise ConfigError(f"largest_singular_value must be finite and 1 or more; got {largest_singular_value}")
    frames = [
        torch.linalg.qr(_normal(width, int(rank), torch_generator(seed, "rank-minimal frame", place))).Q
        for place, width in enumerate(network.widths)
    ]
    uniform = torch.rand(
        int(rank), generator=torch_generator(seed, "rank-minimal singular values"), dtype=torch.float64
    )
    layer_values = torch.exp((2 * uniform - 1) * math.log(largest_singular_value) / len(network.weights))
    with torch.no_grad():
        for weight, (before, after) in zip(network.weights, pairwise(frames), strict=True):
            weight.copy_((after * layer_values) @ before.T)
    return network


@dataclass(frozen=True)
class DeepLinearData:
    """Inputs x and targets y = T x + noise, fresh in every batch: `(x [B, H_0], y [B, H_L]) = data(generator, B)`.

    The default, standard normal inputs and unit noise, makes `half_squared_error` the negative log likelihood (up to a
    constant) of the model that generated the data. Furman & Lau's published code has inputs="uniform", uniform on
    [-10, 10], with noise=0 and `mean_squared_error`.

    Parameters
    ----------
    teacher : T, [H_L, H_0], on the CPU; `rank_minimal_network(...).product().detach()`.
    inputs : "normal" (N(0, 1), independent) or "uniform" (on [-10, 10]).
    noise : standard deviation of the targets, zero or more.

    Raises `ConfigError` for values outside these ranges.
    """

    teacher: Tensor
    inputs: str = "normal"
    noise: float = 1.0

    def __post_init__(self) -> None:
        if self.teacher.ndim != 2 or self.teacher.requires_grad:
            raise ConfigError(
                "teacher must be a matrix without gradient, such as network.product().detach(); got shape "
                f"{tuple(self.teacher.shape)}, requires_grad={self.teacher.requires_grad}"
            )
        if self.inputs not in ("normal", "uniform"):
            raise ConfigError(f'inputs must be "normal" or "uniform"; got {self.inputs!r}')
        if not 0 <= self.noise < math.inf:
            raise ConfigError(f"noise must be finite and zero or more; got {self.noise}")

    @property
    def input_variance(self) -> float:
        """E[x_i^2]: 1, or 100/3 on [-10, 10]."""
        return 1.0 if self.inputs == "normal" else 100 / 3

    def __call__(self, generator: torch.Generator, batch_size: int) -> tuple[Tensor, Tensor]:
        """A fresh batch of float32 samples."""
        outputs, inputs = self.teacher.shape
        if self.inputs == "normal":
            x = torch.randn(batch_size, inputs, generator=generator)
        else:
            x = 20 * torch.rand(batch_size, inputs, generator=generator) - 10
        y = F.linear(x, self.teacher.to(x))
        if self.noise:
            y = y + self.noise * torch.randn(batch_size, outputs, generator=generator)
        return x, y

    def population_loss(self, network: DeepLinearNetwork) -> Tensor:
        """E[`half_squared_error`] in closed form, a scalar: (E[x_i^2] |W_L ... W_1 - T|^2 + H_L noise^2) / 2."""
        difference = network.product() - self.teacher.to(network.weights[0])
        return (self.input_variance * difference.square().sum() + len(difference) * self.noise**2) / 2


@dataclass(frozen=True)
class SizeClass:
    """Numbers of layers and widths that networks of a class are drawn from (both ends included)."""

    num_parameters: int
    num_layers: tuple[int, int]
    widths: tuple[int, int]


# The ranges for 100K and 1M are those of runs in Furman & Lau's published code (github.com/edmundlth/
# validating_lambdahat). The table of the paper could not be read: those for 1K and 10K are ours.
SIZE_CLASSES: dict[str, SizeClass] = {
    "1K": SizeClass(1_000, (2, 5), (5, 50)),
    "10K": SizeClass(10_000, (2, 5), (5, 50)),
    "100K": SizeClass(100_000, (2, 20), (50, 300)),
    "1M": SizeClass(1_000_000, (2, 20), (100, 1_000)),
}


def random_deep_linear(size_class: str, seed: int) -> tuple[tuple[int, ...], int]:
    """Widths and rank of a random network in the manner of Furman & Lau (arXiv 2402.03698).

    The number of layers and each width are uniform on the ranges of `SIZE_CLASSES`, redrawn until the number of
    parameters is within a factor of 2 of the class's name. The rank is that of the product in their protocol: each
    layer has full rank with probability 1/2 and otherwise a rank uniform on 1, ..., full; the product has the least of
    these. Use `rank_minimal_network(widths, rank)` for the weights.

    Parameters
    ----------
    size_class : "1K", "10K", "100K" or "1M".
    seed : each gives one network of each class.

    Raises `ConfigError` for an unknown class.
    """
    if size_class not in SIZE_CLASSES:
        raise ConfigError(f"size_class must be one of {', '.join(SIZE_CLASSES)}; got {size_class!r}")
    ranges = SIZE_CLASSES[size_class]
    generator = numpy_generator(seed, "random deep linear network", size_class)
    while True:
        num_layers = int(generator.integers(ranges.num_layers[0], ranges.num_layers[1] + 1))
        widths = tuple(generator.integers(ranges.widths[0], ranges.widths[1] + 1, num_layers + 1).tolist())
        if 0.5 <= sum(before * after for before, after in pairwise(widths)) / ranges.num_parameters <= 2:
            break
    full_ranks = [min(layer) for layer in pairwise(widths)]
    ranks = [int(generator.integers(1, full + 1)) if generator.random() < 0.5 else full for full in full_ranks]
    return widths, min(ranks)


def _normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)
