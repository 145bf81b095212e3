"""Specialisation: when, and how strongly, did the model approach the specialised predictor?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.finding import Finding
from llc_dynamics.ranges import finite_number
from llc_dynamics.stages.evidence import Evidence, TimeGrid, check_bootstrap
from llc_dynamics.stages.points import checked_reference, common_points
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
    specialised : mean squared distance to the specialised predictor, in distribution; with `samples` [C, S].
    reference_distance : mean squared distance in distribution between the general and the specialised predictor.
    scale : "log" or "linear": of which fall t_half, t_begin and t_end are the 50%, 10% and 90%.
    min_ratio, min_z : thresholds. level : probability of the intervals (bootstrap over sequences and jitter).
    resolution, num_bootstrap, seed : as in `detect_transience`.

    Raises `DataError` for fewer than 8 usable points or distances that are not positive, `ConfigError` for settings out
    of their range.
    """
    if scale not in ("log", "linear"):
        raise ConfigError(f"scale={scale!r}; choose 'log' or 'linear'")
    check_bootstrap(level, resolution, num_bootstrap)
    finite_number("min_z", min_z, zero=True)
    if finite_number("min_ratio", min_ratio, zero=False) < 1:
        raise ConfigError(f"min_ratio must be 1 or more, how many times nearer; got {min_ratio!r}")
    reference_distance = checked_reference(reference_distance)
    points = common_points({"specialised": specialised})
    curve = points.curves["specialised"]
    if np.any(curve.values <= 0):
        raise DataError("specialised has values of zero or below; it must be a mean squared distance")
    fall = Evidence(curve, TimeGrid(points.steps, resolution, num_bootstrap, seed), log=True, exact_first=True)
    quantiles = [(1 - level) / 2, (1 + level) / 2]
    draws = fall.trend[:, None] + fall.sampling_draws() + fall.jitter_draws()
    ratio_low, ratio_high = np.exp(np.quantile(draws[0] - draws[-1], quantiles))
    last = len(fall.trend) - 1
    z, end_error = fall.change(last, 0).z, fall.level_error(last)
    start, end = (float(np.exp(fall.trend[place])) for place in (0, -1))
    asked = (
        _too_small(fall.trend, z, min_z, min_ratio),
        _not_near_enough(float(fall.trend[-1]), end_error, reference_distance),
    )
    against = tuple(finding for finding in asked if finding is not None)
    half = begin = finish = interval = None
    if not against:
        trend, samples = (fall.trend, draws) if scale == "log" else (np.exp(fall.trend), np.exp(draws))
        begin, half, finish = (_passing_time(points.steps, trend, share) for share in (0.1, 0.5, 0.9))
        times = [_passing_time(points.steps, column, 0.5) for column in samples.T]
        interval = _at_least_the_gap(points.steps, half, np.quantile(times, quantiles))
    return SpecialisationVerdict(
        kind="none" if against else "specialised",
        t_half=half,
        t_half_interval=interval,
        t_begin=begin,
        t_end=finish,
        level=level,
        start=start,
        end=end,
        end_error=end * end_error,
        ratio=start / end,
        ratio_interval=(float(ratio_low), float(ratio_high)),
        fall_z=z,
        t_cross=None if reference_distance is None else _crossing(points.steps, fall.trend, reference_distance),
        scale=scale,
        reasons=against
        or (Finding("fell", f"the distance fell from {start:.3g} to {end:.3g} ({z:.1f} errors of the logarithm)"),),
        notes=(*points.notes, *_limits(fall)),
    )


def _too_small(trend: NDArray[np.float64], z: float, min_z: float, min_ratio: float) -> Finding | None:
    start, end = np.exp(trend[0]), np.exp(trend[-1])
    ratio = np.exp(float(trend[0] - trend[-1]))
    if trend[0] <= trend[-1]:
        return Finding("no_fall", f"the distance did not fall: {start:.3g} at the start, {end:.3g} at the end")
    if z < min_z:
        return Finding("fall_within_errors", f"the distance fell {ratio:.3g} times: within {min_z:g} of its errors")
    if ratio < min_ratio:
        return Finding(
            "fall_too_small", f"the distance fell {ratio:.3g} times: real, but less than the {min_ratio:g} asked for"
        )
    return None


def _not_near_enough(end: float, error: float, reference: float | None) -> Finding | None:
    """`end` and its error are those of the logarithm."""
    if reference is None or end <= np.log(reference) - 2 * error:
        return None
    return Finding(
        "no_nearer_than_general",
        f"at the end the model is no nearer to the specialised predictor ({np.exp(end):.3g}) "
        f"than the general predictor is ({reference:.3g})",
    )


def _limits(fall: Evidence) -> list[Finding]:
    """What could not be known from what was given."""
    if fall.deviations is not None or fall.covariance is not None:
        return []
    if fall.standard_errors is not None:
        counted = " and the standard errors, taken as independent, are counted"
        return [Finding("errors_taken_as_independent", f"no samples: only the jitter between checkpoints{counted}")]
    return [Finding("no_errors", "no samples: only the jitter between checkpoints is counted")]


def _crossing(steps: NDArray[np.int64], trend: NDArray[np.float64], reference: float) -> float | None:
    """Step from which the logarithm of the distance stays below that of `reference`, None if it does not."""
    above = np.flatnonzero(trend >= np.log(reference))
    if len(above) == 0:
        return float(steps[0])
    if above[-1] == len(trend) - 1:
        return None
    return _interpolate(steps, trend, int(above[-1]), float(np.log(reference)))


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


def _at_least_the_gap(steps: NDArray[np.int64], time: float, interval: NDArray[np.float64]) -> tuple[float, float]:
    """The interval, widened to the two checkpoints around `time`."""
    after = int(np.clip(np.searchsorted(steps, time), 1, len(steps) - 1))
    return min(float(interval[0]), float(steps[after - 1])), max(float(interval[1]), float(steps[after]))
