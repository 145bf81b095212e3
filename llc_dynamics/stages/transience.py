"""Transience: did the model come near a general solution and then leave it for a specialised one?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import DataError
from llc_dynamics.finding import Finding
from llc_dynamics.stages.evidence import Change, Evidence, TimeGrid, check_bootstrap
from llc_dynamics.stages.points import Points, checked_reference, common_points
from llc_dynamics.stages.smoothing import unimodal_fit
from llc_dynamics.stages.transience_criteria import Measured, Thresholds, reasons_against, reasons_for
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
    """Whether a run came near the general predictor and then left it for the specialised one.

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
    general, specialised : mean squared distance of the model's predictions to the general (such as ridge) and to
        the specialised predictor (such as dMMSE_M), out of distribution. `specialised=None` where there is none.
    ood_loss : loss out of distribution. For squared errors its trend is `general` plus a constant, if the general
        predictor is the optimal one.
    reference_distance : mean squared distance between the two predictors on the same sequences.
    min_relative_rebound, min_z, max_false_alarm, min_nearness, min_nearness_beyond_line : thresholds, see above.
    level : probability of the interval of t_crit: percentiles over the bootstrap of sequences and jitter together.
    resolution : half width of the smoother in log(t + 1). What is shorter is taken for jitter.
    num_bootstrap, seed : number of bootstrap draws; seed of every draw.

    Give the curves `samples` [C, S], the values on the S evaluation sequences: only then is there an error over
    sequences, paired between checkpoints. Points that are NaN or unconverged in any curve are dropped, and noted.

    Raises `DataError` for curves of different steps, fewer than 8 usable points, all NaN, or negative distances, and
    `ConfigError` for thresholds out of their range.
    """
    thresholds = Thresholds(min_relative_rebound, min_z, max_false_alarm, min_nearness, min_nearness_beyond_line)
    check_bootstrap(level, resolution, num_bootstrap)
    reference_distance = checked_reference(reference_distance)
    points = _usable_points(general, specialised, ood_loss)
    grid = TimeGrid(points.steps, resolution, num_bootstrap, seed)
    loss = Evidence(points.curves["ood_loss"], grid)
    found = _measure(points, loss, reference_distance)
    against = reasons_against(found, thresholds)
    low, high = _time_interval(loss, found.best, level)
    return TransienceVerdict(
        kind="none" if against else "transient",
        t_crit=None if against else found.step,
        t_crit_interval=None if against else (low, high),
        level=level,
        minimum_step=found.step,
        minimum=found.minimum,
        rebound=found.rebound.value,
        rebound_relative=found.rebound.value / found.minimum if found.minimum > 0 else float("nan"),
        rebound_sampling_error=found.rebound.sampling_error,
        rebound_jitter_error=found.rebound.jitter_error,
        rebound_standard_error=found.rebound.error,
        rebound_z=found.rebound.z,
        rebound_paired_z=Change(found.rebound.value, found.rebound.sampling_error, 0.0).z,
        false_alarm_probability=found.false_alarm,
        depth=float(points.curves["ood_loss"].values[0] - found.minimum),
        general_distance=found.general,
        general_distance_error=found.general_error,
        specialised_distance=found.specialised,
        nearness=found.nearness,
        nearness_beyond_line=found.beyond_line,
        general_change=found.away.value,
        general_change_error=found.away.error,
        specialised_change=None if found.towards is None else found.towards.value,
        specialised_change_error=None if found.towards is None else found.towards.error,
        reasons=against or reasons_for(found),
        notes=(*points.notes, *_limits(loss, found)),
    )


def line_distance(start_to_general: float, start_to_specialised: float, reference_distance: float) -> float:
    """Least squared distance of the general predictor to the straight way from the start to the specialised one.

    All three are mean squared distances, so the inner product of the two directions follows from the cosine rule.
    """
    if start_to_specialised <= 0:
        return start_to_general
    inner = (start_to_general + start_to_specialised - reference_distance) / 2
    share = float(np.clip(inner / start_to_specialised, 0.0, 1.0))
    return max(start_to_general - 2 * share * inner + share**2 * start_to_specialised, 0.0)


def _usable_points(general: Curve, specialised: Curve | None, ood_loss: Curve) -> Points:
    for role, curve in (("general", general), ("ood_loss", ood_loss)):
        if curve is None:
            raise DataError(f"{role} is None; only the specialised predictor may be missing: give an ld.Curve")
    points = common_points({"ood_loss": ood_loss, "general": general, "specialised": specialised})
    for role in ("general", "specialised"):
        if role in points.curves and np.any(points.curves[role].values < 0):
            raise DataError(f"{role} has negative values; it must be a mean squared distance")
    return points


def _measure(points: Points, loss: Evidence, reference_distance: float | None) -> Measured:
    """Everything that the criteria ask about, at the minimum of the loss and from there to the end."""
    best, last = int(np.argmin(loss.trend)), len(points.steps) - 1
    general, specialised = points.curves["general"], points.curves.get("specialised")
    near = Evidence(general, loss.grid, window=loss.window)
    start, distance = float(general.values[0]), float(near.trend[best])
    rebound = _rebound(loss, best)
    far_distance = towards = along = beyond = None
    if specialised is not None:
        far = Evidence(specialised, loss.grid, window=loss.window)
        far_distance, towards = float(far.trend[best]), far.change(best, last)
        along = Evidence(_difference(general, specialised), loss.grid, window=loss.window).change(best, last)
        if reference_distance is not None:
            line = line_distance(start, float(specialised.values[0]), reference_distance)
            beyond = 1.0 - distance / line if line > 0 else 0.0
    return Measured(
        step=int(points.steps[best]),
        best=best,
        last=last,
        minimum=float(loss.trend[best]),
        rebound=rebound,
        false_alarm=_false_alarm_probability(loss, rebound.z) if 0 < best < last else 1.0,
        general=distance,
        general_error=near.level_error(best),
        specialised=far_distance,
        reference=reference_distance,
        nearness=1.0 - distance / start if start > 0 else float("nan"),
        beyond_line=beyond,
        away=near.change(best, last),
        towards=towards,
        along=along,
    )


def _rebound(loss: Evidence, best: int) -> Change:
    """End minus minimum; by cross-fitting over the sequences where there are samples."""
    last = len(loss.trend) - 1
    plain = loss.change(best, last)
    fitted = loss.cross_fitted_rebound() if best != last else None
    return plain if fitted is None else Change(fitted, plain.sampling_error, plain.jitter_error)


def _difference(general: Curve, specialised: Curve) -> Curve:
    """Distance to the general minus distance to the specialised predictor, paired where the sequences are the same."""
    g, s = general, specialised
    paired = g.samples is not None and s.samples is not None and g.samples.shape == s.samples.shape
    errors = None
    if not paired and g.standard_errors is not None and s.standard_errors is not None:
        errors = np.hypot(g.standard_errors, s.standard_errors)
    samples = g.samples - s.samples if g.samples is not None and s.samples is not None and paired else None
    return Curve(g.steps, g.values - s.values, errors, "general minus specialised", samples=samples)


def _false_alarm_probability(loss: Evidence, z: float) -> float:
    """Share of falling curves with the same two noises whose rebound has at least this z (add-one rule).

    The falling curve is the best non-increasing fit to the trend (isotonic regression), the nearest case without
    rebound.
    """
    last = len(loss.trend) - 1
    curves = unimodal_fit(loss.trend, last)[:, None] + loss.draws
    error = np.hypot(loss.sampling_errors(last), loss.jitter_errors(last))
    lowest = np.argmin(curves, axis=0)
    rises = curves[-1] - curves[lowest, np.arange(curves.shape[1])]
    null = np.where(lowest == last, 0.0, rises / np.where(error > 0, error, np.inf)[lowest])
    return float((1 + np.sum(null >= z)) / (1 + len(null)))


def _time_interval(loss: Evidence, best: int, level: float) -> tuple[int, int]:
    """Percentiles of the step of least loss over its draws, at least from the checkpoint before to the one after."""
    steps: NDArray[np.int64] = loss.steps
    lowest = np.argmin(loss.trend[:, None] + loss.draws, axis=0)
    low, high = np.quantile(lowest, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return (
        int(steps[max(0, min(int(low), best - 1))]),
        int(steps[min(len(steps) - 1, max(int(high), best + 1))]),
    )


def _limits(loss: Evidence, found: Measured) -> list[Finding]:
    """What could not be known from what was given."""
    notes = []
    if loss.deviations is None and loss.covariance is None and loss.standard_errors is not None:
        text = "ood_loss has standard errors but no samples: they are taken as independent, which is too wide"
        notes.append(Finding("errors_taken_as_independent", text))
    elif loss.deviations is None and loss.covariance is None:
        text = "ood_loss has neither samples nor standard errors: only the jitter between checkpoints is counted"
        notes.append(Finding("no_errors", text))
    if found.towards is None:
        text = "no specialised predictor was given: where the model went after the minimum is not known"
        notes.append(Finding("no_specialised_predictor", text))
    return notes
