"""Which training steps get a checkpoint."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import ConfigError


def checkpoint_schedule(
    num_steps: int, linear_interval: int | None = 100, num_log: int = 1000, *, count: int | None = None
) -> NDArray[np.int64]:
    """Steps at which to store a checkpoint: evenly spaced ones joined with logarithmically spaced ones.

    {0, L, 2L, ... <= T} united with {floor(T^(j / (N - 1))), j = 0 .. N - 1} and {T}; Carroll et al. 2025 (arXiv
    2501.17745) use T = 150,000, L = 100, N = 1000, which gives 2,203 steps.

    Parameters
    ----------
    num_steps : T, the last optimiser update.
    linear_interval : L; None leaves the evenly spaced part (and with it step 0) out.
    num_log : N; 0 leaves the logarithmic part out.
    count : this many checkpoints in all, instead of the two: from step 0 to T, as evenly spaced in log(step + 1) as
        whole steps allow. Every step, if T + 1 is not larger.

    Returns
    -------
    int64 [C], strictly increasing; the floors are those of exact arithmetic, T is always in.

    Raises
    ------
    ConfigError
        num_steps or linear_interval below 1, num_log 1 or negative, count below 2 or beside one of the two, or a number
        that is not whole.
    """
    last = _whole("num_steps", num_steps, 1)
    if count is not None:
        if (linear_interval, num_log) != (100, 1000):
            raise ConfigError("count: chooses all steps; give either count, or linear_interval and num_log")
        return _evenly_in_log(last, _whole("count", count, 2))
    steps = {last}
    if linear_interval is not None:
        steps.update(range(0, last + 1, _whole("linear_interval", linear_interval, 1)))
    points = _whole("num_log", num_log, 0)
    if points == 1:
        raise ConfigError("num_log: 1 point has no logarithmic spacing; give 0 (none) or at least 2")
    steps.update(_floor_power(last, j, points - 1) for j in range(points))
    return np.array(sorted(steps), dtype=np.int64)


def _evenly_in_log(last: int, count: int) -> NDArray[np.int64]:
    """`count` steps from 0 to `last`, each at least one after the former; all of them if there are no more."""
    if count > last:
        return np.arange(last + 1, dtype=np.int64)
    wanted = np.rint(np.expm1(np.linspace(0.0, np.log1p(last), count))).astype(np.int64)
    # Early points fall on the same step: each is moved up to the next free one, and from the end down where that
    # goes beyond the last.
    ranks = np.arange(count)
    steps = np.maximum.accumulate(wanted - ranks) + ranks
    return np.minimum(steps, last - ranks[::-1])


def _floor_power(base: int, numerator: int, denominator: int) -> int:
    """floor(base^(numerator / denominator)) without rounding error."""
    estimate = base ** (numerator / denominator)
    nearest = round(estimate)
    if abs(estimate - nearest) > 1e-9 * estimate:
        return int(estimate)
    # So near to a whole number that the float may lie on the wrong side of it: compare exactly.
    return nearest if nearest**denominator <= base**numerator else nearest - 1


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name}: expected a whole number, got {value!r}") from None
    if isinstance(value, bool) or number < least:
        raise ConfigError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return number
