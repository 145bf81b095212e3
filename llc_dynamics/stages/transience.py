"""Transience: did the model come near a general solution and then leave it for a specialised one?"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.ranges import between_0_and_1, finite_number, whole_number
from llc_dynamics.stages.evidence import Change, Evidence, TimeGrid
from llc_dynamics.stages.points import check_reference, common_points
from llc_dynamics.stages.smoothing import falling_fit
from llc_dynamics.stages.verdicts import TransienceVerdict


def detect_transience(
    *,
    general: Curve,
    specialised: Curve | None,
    ood_loss: Curve,
    reference_distance: float | None = None,
    min_relative_rebound: float = 0.05,
    min_z: float = 4.0,
    max_false_alarm: float = 0.05,
    min_nearness: float = 0.6,
    min_nearness_beyond_line: float = 0.15,
    level: float = 0.9,
    resolution: float = 0.5,
    num_bootstrap: int = 400,
    seed: int = 0,
) -> TransienceVerdict:
    """Whether a run came near the general predictor and then left it for the specialised one (transient ridge).

    Following Carroll et al. 2025 (arXiv 2501.17745), t_crit is the step of least out-of-distribution loss. All curves
    are smoothed by local linear regression in log(t + 1); the verdict is "transient" if, for that trend,

    1. the minimum of the loss lies inside the run, and the rise from there to the end (the rebound) is at least
       `min_relative_rebound` of the minimum, at least `min_z` standard errors (paired over evaluation sequences, and
       the jitter of the weights between checkpoints), and larger than a falling curve with these two noises shows with
       probability `max_false_alarm`;
    2. the model had been near the general predictor: at t_crit it is nearer to it than to the specialised one, and
       - with `reference_distance`: nearer than the specialised predictor is, and at least the share
         `min_nearness_beyond_line` nearer than any point of the straight way from the start to the specialised
         predictor. A model that goes straight there passes the general one at some distance, and its loss dips too;
       - without: its distance has fallen by at least the share `min_nearness` since the first checkpoint;
    3. from t_crit to the end it moves away from the general predictor, and along the line from there to the specialised
       one, each by 2 errors. The place on that line is (1 + (g - s) / r) / 2 for distances g, s and r between the two:
       a model that becomes unstable moves away from both, and does not count.

    Parameters
    ----------
    general, specialised : mean squared distance of the model's predictions to the general (ridge) and to the
        specialised (dMMSE_M) predictor, out of distribution. `specialised=None` where there is none (M = infinity).
    ood_loss : loss out of distribution. For squared errors its trend is `general` plus a constant, if the general
        predictor is the optimal one.
    reference_distance : mean squared distance between the two predictors on the same sequences.
    min_relative_rebound, min_z, max_false_alarm, min_nearness, min_nearness_beyond_line : thresholds, see above.
    level : probability of the interval of t_crit: percentiles over the bootstrap of sequences and jitter together.
    resolution : half width of the smoother in log(t + 1). What is shorter is taken for jitter.
    num_bootstrap : number of bootstrap draws.
    seed : seed of every draw.

    Give the curves `samples` [C, S], the values on the S evaluation sequences: only then is there an error over
    sequences, paired between checkpoints. Points that are NaN or unconverged in any curve are dropped, and noted.

    Raises `DataError` for curves of different steps, fewer than 8 usable points, all NaN, or negative distances, and
    `ConfigError` for thresholds out of their range.
    """
    _check_settings(level, resolution, num_bootstrap, min_z, min_relative_rebound, max_false_alarm)
    if any(math.isnan(least) for least in (min_nearness, min_nearness_beyond_line)):
        raise ConfigError("min_nearness and min_nearness_beyond_line must be numbers; got NaN")
    check_reference(reference_distance)
    for role, curve in (("general", general), ("ood_loss", ood_loss)):
        if curve is None:
            raise DataError(f"{role} is None; only the specialised predictor may be missing: give an ld.Curve")
    points = common_points({"ood_loss": ood_loss, "general": general, "specialised": specialised})
    for role in ("general", "specialised"):
        if role in points.curves and np.any(points.curves[role].values < 0):
            raise DataError(f"{role} has negative values; it must be a mean squared distance")

    grid = TimeGrid(points.steps, resolution, num_bootstrap, seed)
    loss = Evidence(points.curves["ood_loss"], grid)
    near = Evidence(points.curves["general"], grid, window=loss.window)
    best, last = int(np.argmin(loss.trend)), len(points.steps) - 1
    rebound = _rebound(loss, best)
    draws = loss.sampling_draws() + loss.jitter_draws()
    interval = _time_interval(points.steps, np.argmin(loss.trend[:, None] + draws, axis=0), best, level)
    false_alarm = _false_alarm_probability(loss, draws, rebound.z) if 0 < best < last else 1.0

    minimum, distance = float(loss.trend[best]), float(near.trend[best])
    start = float(points.curves["general"].values[0])
    away = near.change(best, last)
    far_distance = towards = along = line = None
    if "specialised" in points.curves:
        far = Evidence(points.curves["specialised"], grid, window=loss.window)
        far_distance, towards = float(far.trend[best]), far.change(best, last)
        along = Evidence(_difference(points.curves), grid, window=loss.window).change(best, last)
        if reference_distance is not None:
            line = line_distance(start, float(points.curves["specialised"].values[0]), reference_distance)
    nearness = 1.0 - distance / start if start > 0 else float("nan")
    beyond = None if line is None else 1.0 - distance / line if line > 0 else 0.0
    relative = rebound.value / minimum if minimum > 0 else float("nan")

    at_best = f"at its best (step {points.steps[best]:,}) its distance to the general predictor was {distance:.3g}"
    against = []
    if best == last:
        against.append("the out-of-distribution loss falls to the end: no rebound")
    elif best == 0:
        against.append("the out-of-distribution loss is least at the first checkpoint: it never fell")
    distant = _why_never_near(
        _Nearness(distance, far_distance, reference_distance, nearness, beyond), min_nearness, min_nearness_beyond_line
    )
    if distant is not None:
        against.append(f"the model was never near the general predictor: {at_best}, {distant}")
    if 0 < best < last:
        weak = _why_no_rebound(rebound, minimum, false_alarm, min_z, max_false_alarm, min_relative_rebound)
        against += [] if weak is None else [weak]
    if best != last and away.z < 2:
        against.append(f"after the minimum the distance to the general predictor does not grow ({_signed(away)})")
    if best != last and along is not None and along.z < 2:
        against.append(
            "after the minimum the model does not move from the general towards the specialised predictor "
            f"(distance to the one minus distance to the other changes by {_signed(along)})"
        )
    reasons = tuple(against) or (
        f"the out-of-distribution loss rose by {_percent(rebound, minimum)} after step {points.steps[best]:,} "
        f"({rebound.z:.1f} errors)",
        f"{at_best}, {nearness:.0%} less than at the start"
        + ("" if far_distance is None else f"; to the specialised one {far_distance:.3g}"),
        f"from there to the end the distance to the general predictor changed by {_signed(away)}"
        + ("" if towards is None else f" and to the specialised one by {_signed(towards)}"),
    )
    return TransienceVerdict(
        kind="none" if against else "transient",
        t_crit=None if against else int(points.steps[best]),
        t_crit_interval=None if against else interval,
        level=level,
        minimum_step=int(points.steps[best]),
        minimum=minimum,
        rebound=rebound.value,
        rebound_relative=relative,
        rebound_sampling_error=rebound.sampling_error,
        rebound_jitter_error=rebound.jitter_error,
        rebound_standard_error=rebound.error,
        rebound_z=rebound.z,
        rebound_paired_z=Change(rebound.value, rebound.sampling_error, 0.0).z,
        false_alarm_probability=false_alarm,
        depth=float(points.curves["ood_loss"].values[0] - minimum),
        general_distance=distance,
        general_distance_error=near.level_error(best),
        specialised_distance=far_distance,
        nearness=nearness,
        nearness_beyond_line=beyond,
        general_change=away.value,
        general_change_error=away.error,
        specialised_change=None if towards is None else towards.value,
        specialised_change_error=None if towards is None else towards.error,
        reasons=reasons,
        notes=(*points.notes, *_limits(loss, towards)),
    )


class _Nearness(NamedTuple):
    """Distances at the minimum, and the two shares that say how near it came."""

    distance: float
    specialised: float | None
    reference: float | None
    nearness: float
    beyond: float | None


def _rebound(loss: Evidence, best: int) -> Change:
    """End minus minimum; by cross-fitting over the sequences where there are samples."""
    last = len(loss.trend) - 1
    plain = loss.change(best, last)
    fitted = loss.cross_fitted_rebound() if best != last else None
    return plain if fitted is None else Change(fitted, plain.sampling_error, plain.jitter_error)


def _why_never_near(found: _Nearness, min_nearness: float, min_beyond: float) -> str | None:
    """In words, or None if the model was near the general predictor."""
    if found.specialised is not None and found.distance >= found.specialised:
        return f"to the specialised one {found.specialised:.3g}"
    if found.beyond is None:
        if found.nearness >= min_nearness:
            return None
        return f"{max(found.nearness, 0.0):.0%} less than at the start, and {min_nearness:.0%} is asked for"
    if found.reference is not None and found.distance >= found.reference:
        return f"no less than the {found.reference:.3g} of the specialised one"
    if found.beyond < min_beyond:
        nearest = found.distance / (1 - found.beyond)
        return f"and a model that goes straight to the specialised one comes as near as {nearest:.3g}"
    return None


def _why_no_rebound(
    rebound: Change, minimum: float, false_alarm: float, min_z: float, max_false_alarm: float, min_relative: float
) -> str | None:
    """In words, or None if the rebound is beyond its errors and large enough."""
    percent = _percent(rebound, minimum)
    if rebound.value <= 0:
        return "the out-of-distribution loss stays at its minimum to the end: no rebound"
    if rebound.z < min_z:
        return f"the out-of-distribution loss rose by {percent} at the end: within {min_z:g} of its errors"
    if false_alarm > max_false_alarm:
        return (
            f"the out-of-distribution loss rose by {percent}, but a falling curve with this noise does so "
            f"in {false_alarm:.0%} of cases"
        )
    if rebound.value < min_relative * minimum:
        return f"the out-of-distribution loss rose by {percent}: real, but less than the {min_relative:.0%} asked for"
    return None


def _limits(loss: Evidence, towards: Change | None) -> list[str]:
    """What could not be known from what was given."""
    notes = []
    if loss.deviations is None:
        notes.append(
            "ood_loss has standard errors but no samples: they are taken as independent, which is too wide"
            if loss.standard_errors is not None
            else "ood_loss has neither samples nor standard errors: only the jitter between checkpoints is counted"
        )
    if towards is None:
        notes.append("no specialised predictor was given: where the model went after the minimum is not known")
    return notes


def line_distance(start_to_general: float, start_to_specialised: float, reference_distance: float) -> float:
    """Least squared distance of the general predictor to the straight way from the start to the specialised one.

    All three are mean squared distances, so the inner product of the two directions follows from the cosine rule.
    """
    if start_to_specialised <= 0:
        return start_to_general
    inner = (start_to_general + start_to_specialised - reference_distance) / 2
    share = float(np.clip(inner / start_to_specialised, 0.0, 1.0))
    return max(start_to_general - 2 * share * inner + share**2 * start_to_specialised, 0.0)


def _difference(curves: dict[str, Curve]) -> Curve:
    """Distance to the general minus distance to the specialised predictor, paired where the sequences are the same."""
    g, s = curves["general"], curves["specialised"]
    paired = g.samples is not None and s.samples is not None and g.samples.shape == s.samples.shape
    errors = None
    if not paired and g.standard_errors is not None and s.standard_errors is not None:
        errors = np.hypot(g.standard_errors, s.standard_errors)
    samples = g.samples - s.samples if g.samples is not None and s.samples is not None and paired else None
    return Curve(g.steps, g.values - s.values, errors, "general minus specialised", samples=samples)


def _false_alarm_probability(loss: Evidence, draws: NDArray[np.float64], z: float) -> float:
    """Share of falling curves with the same two noises whose rebound has at least this z (add-one rule).

    The falling curve is the best non-increasing fit to the trend (isotonic regression), the nearest case without
    rebound.
    """
    falling = falling_fit(loss.trend)
    curves = falling[:, None] + draws
    last = len(falling) - 1
    error = np.hypot(loss.sampling_errors(last), loss.jitter_errors(last))
    lowest = np.argmin(curves, axis=0)
    rises = curves[-1] - curves[lowest, np.arange(curves.shape[1])]
    null = np.where(lowest == last, 0.0, rises / np.where(error > 0, error, np.inf)[lowest])
    return float((1 + np.sum(null >= z)) / (1 + len(null)))


def _time_interval(steps: NDArray[np.int64], draws: NDArray[np.intp], best: int, level: float) -> tuple[int, int]:
    """Percentile interval of a checkpoint index, in steps, at least from the checkpoint before to the one after."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return (
        int(steps[max(0, min(int(low), best - 1))]),
        int(steps[min(len(steps) - 1, max(int(high), best + 1))]),
    )


def _percent(rebound: Change, minimum: float) -> str:
    """The rebound and its error relative to the minimum, or as they are where that is not positive."""
    if minimum <= 0:
        return _signed(rebound)
    return f"{rebound.value / minimum:.1%} +- {rebound.error / minimum:.1%}"


def _signed(change: Change) -> str:
    return f"{change.value:+.3g} +- {change.error:.2g}"


def _check_settings(
    level: float, resolution: float, num_bootstrap: int, min_z: float, min_relative: float, max_false_alarm: float
) -> None:
    between_0_and_1("level", level)
    finite_number("resolution (a width in log(t + 1), such as 0.5)", resolution, zero=False)
    whole_number("num_bootstrap", num_bootstrap, 50)
    finite_number("min_z", min_z, zero=True)
    finite_number("min_relative_rebound", min_relative, zero=True)
    if finite_number("max_false_alarm", max_false_alarm, zero=False) > 1:
        raise ConfigError(f"max_false_alarm must be a probability, 1 at most; got {max_false_alarm!r}")
