"""Is a predicted order the observed one? Rank correlations with measurement errors, groups and censored values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from llc_dynamics.errors import DataError
from llc_dynamics.ranges import between_0_and_1, numbers_of, whole_number
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.settings import to_mapping

Array = NDArray[np.float64]

# Groups with fewer members have no within-group correlation that means anything.
_LEAST = 3
_TINY = 1e-12


@dataclass(frozen=True)
class RankAgreement:
    """How far two orders of the same members agree.

    Attributes
    ----------
    spearman, kendall : rho, and tau-b, over all members together; NaN where either order is one single tie.
    spearman_interval, kendall_interval : percentile intervals at `level`.
    within_groups : mean over the groups of Spearman's rho within the group; `groups_used` of them have 3 members or
        more that are not all tied.
    p_value : of the pooled rho, by permutation of the observed values within the groups: the share of permutations with
        a rho as large or larger (one-sided, add-one rule). p_value_within : the same for `within_groups`.
    members, groups, censored : how many there were; censored ones are among the members unless they were dropped.
    level : probability of the intervals.
    """

    spearman: float
    kendall: float
    spearman_interval: tuple[float, float]
    kendall_interval: tuple[float, float]
    within_groups: float
    groups_used: int
    p_value: float
    p_value_within: float
    members: int
    groups: int
    censored: int
    level: float

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types."""
        return dict(to_mapping(asdict(self)))


def rank_agreement(
    predicted: ArrayLike,
    observed: ArrayLike,
    groups: Sequence[Any],
    *,
    predicted_draws: ArrayLike | None = None,
    observed_draws: ArrayLike | None = None,
    drop_censored: bool = False,
    level: float = 0.9,
    num_bootstrap: int = 4000,
    num_permutations: int = 20_000,
    seed: int = 0,
) -> RankAgreement:
    """Rank correlation of `predicted` with `observed`, with an interval and a permutation test within groups.

    Spearman's rho is Pearson's correlation of the ranks, ties sharing their mean rank; Kendall's tau-b counts pairs in
    the same order less pairs in the other, over the geometric mean of the pairs not tied in each (both as in
    `scipy.stats`). Infinity is larger than everything and ties with itself: an observation that is *censored* (had not
    happened when watching ended) is given as infinity. That is right as long as nothing that was observed happened
    later than a censored one was watched; `drop_censored` leaves them out.

    The interval is the percentile bootstrap: each draw takes one row of `predicted_draws` and `observed_draws`, the
    measurement errors, and then resamples members with replacement within each group. Its limits:

    - The values carry one error already, the draws add a second: for noisy values the interval lies nearer to zero than
      the estimate by the usual attenuation. It is cautious against finding agreement.
    - It speaks of other members of *these* groups. With three groups (seeds) nothing can be said about groups: two
      degrees of freedom, and no resampling of three things makes more. Where the members of all groups are the same few
      designs (M = 8, 12, ...) they are no random sample of designs, either.
    - It is somewhat too narrow. Where there is no agreement it holds zero, at nominal 90%, in 86% of cases with three
      groups of 6, 88% with three of 4, 82% with three of 3 (400 repetitions each, without measurement errors).

    The permutation test needs none of this: exchangeability of the observed values within each group is all it
    supposes. With few members its least value is large: two groups of three give 1/36.

    Parameters
    ----------
    predicted, observed : [member]; finite or infinity. groups : the group of each member, such as its seed.
    predicted_draws, observed_draws : [draw, member], draws from the measurement errors, joint by rows; by default no
        errors. Both must have the same number of rows if both are given.
    drop_censored : leave out members whose `observed` is infinite.
    level : probability of the intervals. num_bootstrap, num_permutations : how many draws. seed : of all draws.

    Raises `DataError` for fewer than 3 members, NaN, or shapes that do not fit, `ConfigError` for settings out of
    their range.
    """
    level = between_0_and_1("level", level)
    num_bootstrap = whole_number("num_bootstrap", num_bootstrap, 100)
    num_permutations = whole_number("num_permutations", num_permutations, 100)
    x, y = _members("predicted", predicted), _members("observed", observed)
    if x.shape != y.shape or len(groups) != len(x):
        raise DataError(f"{len(x)} predicted and {len(y)} observed values and {len(groups)} groups; give one each")
    x_draws, y_draws = _draws("predicted_draws", predicted_draws, x), _draws("observed_draws", observed_draws, y)
    if predicted_draws is not None and observed_draws is not None and len(x_draws) != len(y_draws):
        raise DataError(f"{len(x_draws)} rows of predicted_draws and {len(y_draws)} of observed_draws: they are joint")
    labels = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)[1]
    kept = np.isfinite(y) if drop_censored else np.ones(len(y), dtype=bool)
    x, y, x_draws, y_draws, labels = x[kept], y[kept], x_draws[:, kept], y_draws[:, kept], labels[kept]
    if len(x) < _LEAST:
        raise DataError(
            f"{len(x)} members{' that are not censored' if drop_censored else ''}: an order needs 3 or more"
        )
    parts = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    generator = numpy_generator(seed, "rank agreement: bootstrap")
    places = np.concatenate([part[generator.integers(len(part), size=(num_bootstrap, len(part)))] for part in parts], 1)
    rows = np.arange(num_bootstrap)[:, None]
    x_ranks = rankdata(x_draws[rows % len(x_draws), places], axis=1)
    y_ranks = rankdata(y_draws[rows % len(y_draws), places], axis=1)

    generator = numpy_generator(seed, "rank agreement: permutations")
    orders = np.tile(np.arange(len(x)), (num_permutations, 1))
    for part in parts:
        orders[:, part] = part[np.argsort(generator.random((num_permutations, len(part))), axis=1)]
    rho = float(_pearson(rankdata(x)[None], rankdata(y)[None])[0])
    null = _pearson(rankdata(x)[None], rankdata(y)[orders])
    within, used = _within(x, y[None], parts)
    null_within, _ = _within(x, y[orders], parts)
    return RankAgreement(
        spearman=rho,
        kendall=float(_kendall(rankdata(x)[None], rankdata(y)[None])[0]),
        spearman_interval=_interval(_pearson(x_ranks, y_ranks), level),
        kendall_interval=_interval(_kendall(x_ranks, y_ranks), level),
        within_groups=float(within[0]),
        groups_used=used,
        p_value=_share_above(null, rho),
        p_value_within=_share_above(null_within, float(within[0])),
        members=len(x),
        groups=len(parts),
        censored=int(np.isinf(y).sum()),
        level=level,
    )


def _members(name: str, values: ArrayLike) -> Array:
    array = numbers_of(name, values)
    if array.ndim != 1 or np.isnan(array).any():
        raise DataError(f"{name} must be a list of numbers without NaN; got shape {array.shape}: drop what is missing")
    return array


def _draws(name: str, draws: ArrayLike | None, values: Array) -> Array:
    array = values[None] if draws is None else numbers_of(name, draws)
    if array.ndim != 2 or array.shape[1] != len(values) or not len(array) or np.isnan(array).any():
        raise DataError(f"{name} must be [draw, member] with {len(values)} members, without NaN; got {array.shape}")
    return array


def _pearson(x: Array, y: Array) -> Array:
    """Correlation of the rows of x and y, [N]; NaN where one is constant."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    size = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.where(size > _TINY, (x * y).sum(axis=1) / np.where(size > _TINY, size, 1.0), np.nan)


def _kendall(x: Array, y: Array) -> Array:
    """tau-b of the rows of ranks x and y, [N]; NaN where one is constant."""
    first, second = np.triu_indices(x.shape[1], k=1)
    a, b = np.sign(x[:, first] - x[:, second]), np.sign(y[:, first] - y[:, second])
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.where(size > 0, (a * b).sum(axis=1) / np.where(size > 0, size, 1.0), np.nan)


def _within(x: Array, y: Array, parts: Sequence[NDArray[np.intp]]) -> tuple[Array, int]:
    """Mean over the groups of rho within each, for every row of y; and how many groups have one."""
    found = [_pearson(rankdata(x[part])[None], rankdata(y[:, part], axis=1)) for part in parts if len(part) >= _LEAST]
    found = [rho for rho in found if not np.isnan(rho).any()]
    return (np.mean(found, axis=0) if found else np.full(len(y), np.nan)), len(found)


def _interval(values: Array, level: float) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _share_above(null: Array, value: float) -> float:
    return float("nan") if np.isnan(value) else float((1 + np.sum(null >= value - 1e-9)) / (1 + len(null)))
