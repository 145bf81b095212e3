"""Which training steps get a checkpoint."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import ConfigError


def checkpoint_schedule(num_steps: int, linear_interval: int | None = 100, num_log: int = 1000) -> NDArray[np.int64]:
    """Steps at which to store a checkpoint: evenly spaced ones joined with logarithmically spaced ones.

    {0, L, 2L, ... <= T} united with {floor(T^(j / (N - 1))), j = 0 .. N - 1} and {T}; Carroll et al. 2025 (arXiv
    2501.17745) use T = 150,000, L = 100, N = 1000, which gives 2,203 steps.

    Parameters
    ----------
    num_steps : T, the last optimiser update.
    linear_interval : L; None leaves the evenly spaced part (and with it step 0) out.
    num_log : N; 0 leaves the logarithmic part out.

    Returns
    -------
    int64 [C], strictly increasing; the floors are those of exact arithmetic, T is always in.

    Raises
    ------
    ConfigError
        num_steps or linear_interval below 1, num_log 1 or negative, or a number that is not whole.
    """
    last = _whole("num_steps", num_steps, 1)
    steps = {last}
    if linear_interval is not None:
        steps.update(range(0, last + 1, _whole("linear_interval", linear_interval, 1)))
    count = _whole("num_log", num_log, 0)
    if count == 1:
        raise ConfigError("num_log: 1 point has no logarithmic spacing; give 0 (none) or at least 2")
    steps.update(_floor_power(last, j, count - 1) for j in range(count))
    return np.array(sorted(steps), dtype=np.int64)


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
