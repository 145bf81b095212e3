"""Networks with known answers: deep linear ones at points of known learning coefficient, and a small ReLU network.

`theory.deep_linear_llc` has the learning coefficient of the first; that of the second does not change under `rescaled`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llc_dynamics.errors import ConfigError
from llc_dynamics.seeding import torch_generator


class _Layers(nn.Module):
    """Weight matrices W_1, ..., W_L, [H_l, H_(l-1)] each, normal with variance gain / fan-in."""

    def __init__(self, widths: Sequence[int], seed: int, purpose: str, gain: float) -> None:
        super().__init__()
        self.widths = tuple(int(width) for width in widths)
        if len(self.widths) < 2 or min(self.widths) < 1 or self.widths != tuple(widths):
            raise ConfigError(f"widths must be two or more whole numbers of 1 or more; got {list(widths)}")
        self.weights = nn.ParameterList(
            torch.randn(after, before, generator=torch_generator(seed, purpose, layer)) * (gain / before) ** 0.5
            for layer, (before, after) in enumerate(pairwise(self.widths))
        )


class DeepLinearNetwork(_Layers):
    """x -> W_L ... W_2 W_1 x, `[B, H_L] = model(x [B, H_0])`, without biases.

    Parameters
    ----------
    widths : H_0 (inputs), H_1, ..., H_L (outputs); two or more numbers of at least 1.
    seed : of the initial `weights` W_l, [H_l, H_(l-1)] each, normal with variance 1 / fan-in.

    Raises `ConfigError` for widths outside these ranges.
    """

    def __init__(self, widths: Sequence[int], seed: int = 0) -> None:
        super().__init__(widths, seed, "deep linear network", gain=1.0)

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

    There the local learning coefficient is the value of Aoyagi's formula, the minimum over all weights with the same
    product. Where a layer has a larger rank, as in the published protocol, which cuts random layers to low rank one by
    one, the local value can be larger.

    W_l = Q_l diag(t)^(1/L) Q_(l-1)' with orthonormal frames Q_l of shape [H_l, r], drawn independently for each layer.
    The product Q_L diag(t) Q_0' has the singular values t_i, drawn log-uniformly from [1/c, c]; all others are zero up
    to rounding to float32. Any other rank-minimal weights with that product differ from these by an invertible linear
    change of the hidden units: that changes how stiff and curved the valley is, but not lambda.

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
    rank = int(rank)
    frames = []
    for place, width in enumerate(network.widths):
        generator = torch_generator(seed, "rank-minimal frame", place)
        frames.append(torch.linalg.qr(torch.randn(width, rank, generator=generator, dtype=torch.float64)).Q)
    generator = torch_generator(seed, "rank-minimal singular values")
    uniform = torch.rand(rank, generator=generator, dtype=torch.float64)
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


class ReLUNetwork(_Layers):
    """Fully connected, ReLU between the layers, linear at the end: `[B, H_L] = model(x [B, H_0])`.

    Arguments, `weights` and errors are those of `DeepLinearNetwork`, with an initial variance of 2 / fan-in; the
    `biases` b_l, [H_l] each, start at zero.
    """

    def __init__(self, widths: Sequence[int], seed: int = 0) -> None:
        super().__init__(widths, seed, "ReLU network", gain=2.0)
        self.biases = nn.ParameterList(torch.zeros(width) for width in self.widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [B, H_L] for inputs [B, H_0]."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = F.linear(F.relu(x) if layer else x, weight, bias)
        return x


def rescaled(network: ReLUNetwork, factors: Sequence[float | Tensor]) -> ReLUNetwork:
    """A copy that computes the same function with neuron j of hidden layer l scaled by c_lj > 0.

    Its incoming weights and bias are multiplied by c, its outgoing weights by 1/c; as relu(c a) = c relu(a), the
    outputs do not change. With factors that are powers of two they agree to the last bit, barring overflow; otherwise
    to rounding.

    Parameters
    ----------
    factors : for each of the L - 1 hidden layers a positive number, or a tensor [H_l] of them.

    Raises `ConfigError` for a wrong number, shape or sign of factors.
    """
    hidden = network.widths[1:-1]
    if len(factors) != len(hidden):
        raise ConfigError(f"the network has {len(hidden)} hidden layers; got factors for {len(factors)}")
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for layer, factor in enumerate(factors):
            c = torch.as_tensor(factor).to(copied.weights[layer])
            if c.shape not in [(), (hidden[layer],)] or not (c.isfinite() & (c > 0)).all():
                raise ConfigError(
                    f"factors[{layer}] must be a positive finite number or {hidden[layer]} of them, one for each "
                    f"neuron; got shape {tuple(c.shape)} with smallest value {float(c.min())}"
                )
            c = c.expand(hidden[layer])
            copied.weights[layer].mul_(c[:, None])
            copied.biases[layer].mul_(c)
            copied.weights[layer + 1].div_(c)
    return copied
