"""The learning coefficient of reduced-rank regression, by cases (Aoyagi & Watanabe 2005)."""

from __future__ import annotations

from llc_dynamics.errors import ConfigError
from llc_dynamics.ranges import whole_number


def reduced_rank_llc(inputs: int, hidden: int, outputs: int, rank: int) -> float:
    """Learning coefficient lambda of x -> B A x with squared error, A [H, M], B [N, H], where the true B A has rank r.

    With M inputs, H hidden units and N outputs, the first case that applies:

        N + r > M + H :  lambda = (H M - H r + N r) / 2
        M + r > N + H :  lambda = (H N - H r + M r) / 2
        H + r > M + N :  lambda = M N / 2
        otherwise     :  lambda = (2 (H + r)(M + N) + 2 M N - (H + r)^2 - M^2 - N^2 + odd) / 8

    where odd is 1 if M + H + N + r is odd, and 0 if not. It is the two-layer case of `deep_linear_llc`, derived on its
    own, and like there the smallest local learning coefficient over all (A, B) with that product.

    Parameters
    ----------
    inputs, hidden, outputs : M, H and N, of 1 or more.
    rank : r, from 0 to the smallest of them.

    Raises `ConfigError` for values outside these ranges.

    Source: M. Aoyagi and S. Watanabe, "Stochastic complexities of reduced rank regression in Bayesian estimation",
    Neural Networks 18 (2005), main theorem.
    """
    return _by_case(inputs, hidden, outputs, rank)[0]


def reduced_rank_multiplicity(inputs: int, hidden: int, outputs: int, rank: int) -> int:
    """Multiplicity that belongs to `reduced_rank_llc`: 2 in its last case if M + H + N + r is odd, otherwise 1."""
    return _by_case(inputs, hidden, outputs, rank)[1]


def _by_case(inputs: int, hidden: int, outputs: int, rank: int) -> tuple[float, int]:
    m = whole_number("inputs", inputs, 1)
    h = whole_number("hidden", hidden, 1)
    n = whole_number("outputs", outputs, 1)
    r = whole_number("rank", rank, 0)
    if r > min(m, h, n):
        raise ConfigError(
            f"rank is {r}, but a map of {m} inputs through {h} hidden units to {n} outputs has at most rank "
            f"{min(m, h, n)}; lower the rank"
        )
    if n + r > m + h:
        return (h * m - h * r + n * r) / 2, 1
    if m + r > n + h:
        return (h * n - h * r + m * r) / 2, 1
    if h + r > m + n:
        return m * n / 2, 1
    odd = (m + h + n + r) % 2
    return (2 * (h + r) * (m + n) + 2 * m * n - (h + r) ** 2 - m**2 - n**2 + odd) / 8, 1 + odd
