"""A small ReLU network and its exact rescaling symmetry, under which the learning coefficient does not change."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llc_dynamics.errors import ConfigError
from llc_dynamics.seeding import torch_generator


class ReLUNetwork(nn.Module):
    """Fully connected, ReLU between the layers, linear at the end: `[B, H_L] = model(x [B, H_0])`.

    Parameters
    ----------
    widths : H_0 (inputs), H_1, ..., H_L (outputs); two or more numbers of at least 1.
    seed : of the initial weights, normal with variance 2 / fan-in. Biases start at zero.

    Attributes
    ----------
    weights : W_1, ..., W_L, with W_l of shape [H_l, H_(l-1)].
    biases : b_1, ..., b_L, with b_l of shape [H_l].

    Raises `ConfigError` for widths outside these ranges.
    """

    def __init__(self, widths: Sequence[int], seed: int = 0) -> None:
        super().__init__()
        self.widths = tuple(int(width) for width in widths)
        if len(self.widths) < 2 or min(self.widths) < 1 or self.widths != tuple(widths):
            raise ConfigError(f"widths must be two or more whole numbers of 1 or more; got {list(widths)}")
        self.weights = nn.ParameterList(
            torch.randn(after, before, generator=torch_generator(seed, "ReLU network", layer)) * (2 / before) ** 0.5
            for layer, (before, after) in enumerate(pairwise(self.widths))
        )
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
