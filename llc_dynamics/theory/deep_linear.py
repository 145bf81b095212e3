"""The learning coefficient of deep linear networks (Aoyagi 2024, theorem 1); two layers: reduced-rank regression."""

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


def reduced_rank_llc(inputs: int, hidden: int, outputs: int, rank: int) -> float:
    """Learning coefficient lambda of x -> B A x with squared error, A [H, M], B [N, H], where the true B A has rank r.

    This is `deep_linear_llc` of two layers. With M inputs, H hidden units and N outputs it is, by cases (the first that
    applies; Aoyagi & Watanabe, "Stochastic complexities of reduced rank regression in Bayesian estimation", Neural
    Networks 18 (2005), main theorem):

        N + r > M + H :  lambda = (H M - H r + N r) / 2
        M + r > N + H :  lambda = (H N - H r + M r) / 2
        H + r > M + N :  lambda = M N / 2
        otherwise     :  lambda = (2 (H + r)(M + N) + 2 M N - (H + r)^2 - M^2 - N^2 + odd) / 8

    where odd is 1 if M + H + N + r is odd, and 0 if not.

    Parameters
    ----------
    inputs, hidden, outputs : M, H and N, of 1 or more.
    rank : r, from 0 to the smallest of them.

    Raises `ConfigError` for values outside these ranges.
    """
    return deep_linear_llc(_two_layers(inputs, hidden, outputs), rank)


def reduced_rank_multiplicity(inputs: int, hidden: int, outputs: int, rank: int) -> int:
    """Multiplicity that belongs to `reduced_rank_llc`: 2 in its last case if M + H + N + r is odd, otherwise 1."""
    return deep_linear_multiplicity(_two_layers(inputs, hidden, outputs), rank)


def _two_layers(inputs: int, hidden: int, outputs: int) -> list[int]:
    return [
        whole_number("inputs", inputs, 1),
        whole_number("hidden", hidden, 1),
        whole_number("outputs", outputs, 1),
    ]


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
