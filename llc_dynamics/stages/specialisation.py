"""Specialisation: when, and how strongly, did the model approach the specialised predictor?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.ranges import between_0_and_1, finite_number, whole_number
from llc_dynamics.stages.evidence import Evidence, TimeGrid
from llc_dynamics.stages.points import check_reference, common_points
from llc_dynamics.stages.verdicts import SpecialisationVerdict


def detect_specialisation(
    specialised: Curve,
    *,
    reference_distance: float | None = None,
    scale: str = "log",
    min_ratio: float = 1.5,
    min_z: float = 4.0,
    level: float = 0.9,
    resolution: float = 0.5,
    num_bootstrap: int = 400,
    seed: int = 0,
) -> SpecialisationVerdict:
    """When and how strongly the distance to the specialised predictor fell, in distribution.

    The verdict is "specialised" if the trend of the distance at the end is at least `min_ratio` times below the start,
    by `min_z` standard errors (over evaluation sequences and jitter), and, where `reference_distance` is given, below
    that by 2 errors: a model that has become the general predictor has come nearer to the specialised one as well, but
    no nearer than the general predictor is.

    Parameters
    ----------
    specialised : mean squared distance to the specialised predictor (dMMSE_M), in distribution; with `samples` [C, S].
    reference_distance : mean squared distance in distribution between the general and the specialised predictor.
    scale : "log" or "linear": of which fall t_half, t_begin and t_end are the 50%, 10% and 90%.
    min_ratio, min_z : thresholds. level : probability of the intervals (bootstrap over sequences and jitter).
    resolution, num_bootstrap, seed : as in `detect_transience`.

    Raises `DataError` for fewer than 8 usable points or distances that are not positive, `ConfigError` for settings out
    of their range.
    """
    if scale not in ("log", "linear"):
        raise ConfigError(f"scale={scale!r}; choose 'log' or 'linear'")
    between_0_and_1("level", level)
    finite_number("resolution (a width in log(t + 1), such as 0.5)", resolution, zero=False)
    whole_number("num_bootstrap", num_bootstrap, 50)
    finite_number("min_z", min_z, zero=True)
    if finite_number("min_ratio", min_ratio, zero=False) < 1:
        raise ConfigError(f"min_ratio must be 1 or more, how many times nearer; got {min_ratio!r}")
    check_reference(reference_distance)
    points = common_points({"specialised": specialised})
    curve = points.curves["specialised"]
    if np.any(curve.values <= 0):
        raise DataError("specialised has values of zero or below; it must be a mean squared distance")
    notes = list(points.notes)
    grid = TimeGrid(points.steps, resolution, num_bootstrap, seed)
    fall = Evidence(curve, grid, log=True, exact_first=True)
    if fall.deviations is None:
        notes.append(
            "no samples: only the jitter between checkpoints"
            + (
                " and the standard errors, taken as independent, are counted"
                if fall.standard_errors is not None
                else " is counted"
            )
        )
    last = len(points.steps) - 1
    trend = fall.trend
    draws = trend[:, None] + fall.sampling_draws() + fall.jitter_draws()
    change = fall.change(0, last)
    drop = float(trend[0] - trend[-1])
    z = drop / change.error if change.error > 0 else float(np.sign(drop)) * float("inf") if drop else 0.0
    quantiles = [(1 - level) / 2, (1 + level) / 2]
    error = fall.level_error(last)
    start, end = float(np.exp(trend[0])), float(np.exp(trend[-1]))
    ratio_low, ratio_high = np.exp(np.quantile(draws[0] - draws[-1], quantiles))

    against = []
    if drop <= 0:
        against.append(f"the distance did not fall: {start:.3g} at the start, {end:.3g} at the end")
    elif z < min_z:
        against.append(f"the distance fell {np.exp(drop):.3g} times: within {min_z:g} of its errors")
    elif np.exp(drop) < min_ratio:
        against.append(f"the distance fell {np.exp(drop):.3g} times: real, but less than the {min_ratio:g} asked for")
    if reference_distance is not None and trend[-1] > np.log(reference_distance) - 2 * error:
        against.append(
            f"at the end the model is no nearer to the specialised predictor ({end:.3g}) "
            f"than the general predictor is ({reference_distance:.3g})"
        )
    found = not against
    half = begin = finish = interval = None
    if found:
        level_curve = trend if scale == "log" else np.exp(trend)
        begin, half, finish = (_passing_time(points.steps, level_curve, share) for share in (0.1, 0.5, 0.9))
        level_draws = draws if scale == "log" else np.exp(draws)
        times = [_passing_time(points.steps, column, 0.5) for column in level_draws.T]
        interval = _at_least_the_gap(points.steps, half, np.quantile(times, quantiles))
    cross = None
    if reference_distance is not None:
        above = np.flatnonzero(trend >= np.log(reference_distance))
        if len(above) == 0:
            cross = float(points.steps[0])
        elif above[-1] < last:
            cross = _interpolate(points.steps, trend, int(above[-1]), float(np.log(reference_distance)))
    return SpecialisationVerdict(
        kind="specialised" if found else "none",
        t_half=half,
        t_half_interval=interval,
        t_begin=begin,
        t_end=finish,
        level=level,
        start=start,
        end=end,
        end_error=end * error,
        ratio=start / end,
        ratio_interval=(float(ratio_low), float(ratio_high)),
        fall_z=z,
        t_cross=cross,
        scale=scale,
        reasons=tuple(against)
        or (f"the distance fell from {start:.3g} to {end:.3g} ({z:.1f} errors of the logarithm)",),
        notes=tuple(notes),
    )


def _passing_time(steps: NDArray[np.int64], trend: NDArray[np.float64], share: float) -> float:
    """Step at which `share` of the fall from first to last was done, for the first time."""
    target = float(trend[0] + share * (trend[-1] - trend[0]))
    below = np.flatnonzero(trend <= target)
    after = int(below[0]) if len(below) else len(trend) - 1
    return float(steps[0]) if after == 0 else _interpolate(steps, trend, after - 1, target)


def _interpolate(steps: NDArray[np.int64], trend: NDArray[np.float64], before: int, target: float) -> float:
    """Step between checkpoints `before` and the next at which the trend passes `target`, linear in log(t + 1)."""
    x = np.log1p(steps[before : before + 2].astype(np.float64))
    y = trend[before : before + 2]
    share = float(np.clip((y[0] - target) / (y[0] - y[1]), 0, 1)) if y[0] != y[1] else 1.0
    return float(np.expm1(x[0] + share * (x[1] - x[0])))


def _at_least_the_gap(
    steps: NDArray[np.int64], time: float | None, interval: NDArray[np.float64]
) -> tuple[float, float]:
    """The interval, widened to the two checkpoints around `time`."""
    assert time is not None
    after = int(np.clip(np.searchsorted(steps, time), 1, len(steps) - 1))
    return min(float(interval[0]), float(steps[after - 1])), max(float(interval[1]), float(steps[after]))
