"""The learning coefficient of deep linear networks (Aoyagi 2024, theorem 1)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

from llc_dynamics.errors import ConfigError
from llc_dynamics.ranges import whole_number, whole_numbers


def deep_linear_llc(widths: Sequence[int], rank: int) -> float:
    """Learning coefficient lambda of x -> W_L ... W_1 x with squared error, where the true product has rank r.

    With M_s = H_s - r, let Sigma be the l + 1 smallest M_s such that max Sigma < min of the rest,
    S = sum Sigma >= l max Sigma and S < l (min of the rest); m = ceil(S / l), a = S - (m - 1) l. Then

        lambda = (r (H_0 + H_L) - r^2) / 2 + a (l - a) / (4 l) - l (l - 1) / 4 (S / l)^2 + 1/2 sum_{i<j} M_i M_j,

    with the last sum over the pairs in Sigma.

    This is the smallest local learning coefficient over all weights with that product. It is attained where every
    W_s has rank r (`rank_minimal_network`); elsewhere the local value can be larger: 2 instead
    of 3/2 for widths (2, 2, 2) and r = 0 at W_1 = I, W_2 = 0.

    Parameters
    ----------
    widths : H_0 (inputs), H_1, ..., H_L (outputs); two or more numbers of at least 1.
    rank : r, from 0 to the smallest width.

    Raises `ConfigError` for values outside these ranges.

    Source: M. Aoyagi, "Consideration on the learning efficiency of multiple-layered neural networks with linear
    units", Neural Networks 172 (2024), theorem 1.
    """
    excess, widths, rank = _bottleneck(widths, rank)
    layers, total, remainder = _division(excess)
    llc = Fraction(rank * (widths[0] + widths[-1]) - rank**2, 2)
    llc += Fraction(remainder * (layers - remainder), 4 * layers)
    llc -= Fraction(layers * (layers - 1), 4) * Fraction(total, layers) ** 2
    llc += Fraction(sum(one * other for one, other in combinations(excess, 2)), 2)
    return float(llc)


def deep_linear_multiplicity(widths: Sequence[int], rank: int) -> int:
    """Multiplicity a (l - a) + 1 that belongs to `deep_linear_llc`, with the same symbols, ranges and source.

    The multiplicity m is the order of the pole: the volume of weights with loss below t is about t^lambda
    (-log t)^(m - 1).
    """
    excess, _, _ = _bottleneck(widths, rank)
    layers, _, remainder = _division(excess)
    return remainder * (layers - remainder) + 1


def _bottleneck(widths: Sequence[int], rank: int) -> tuple[list[int], list[int], int]:
    """Sigma (ascending), with the checked widths and rank."""
    widths = whole_numbers("widths", widths, 1)
    if len(widths) < 2:
        raise ConfigError(f"widths must name the inputs and the outputs at least, such as [10, 5, 10]; got {widths}")
    rank = whole_number("rank", rank, 0)
    if rank > min(widths):
        raise ConfigError(
            f"rank is {rank}, but a product through widths {widths} has at most rank {min(widths)}; lower the rank"
        )
    excess = sorted(width - rank for width in widths)
    for size in range(2, len(excess)):
        inside, following, total = excess[:size], excess[size], sum(excess[:size])
        # These two bounds imply the third condition, max Sigma < min of the rest.
        if (size - 1) * inside[-1] <= total < (size - 1) * following:
            return inside, widths, rank
    return excess, widths, rank


def _division(excess: list[int]) -> tuple[int, int, int]:
    """l, S and a = S - (ceil(S / l) - 1) l."""
    layers, total = len(excess) - 1, sum(excess)
    return layers, total, total - (-(-total // layers) - 1) * layers
