"""Transience: did the model come near a general solution and then leave it for a specialised one?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.stages.evidence import Change, Evidence, TimeGrid
from llc_dynamics.stages.points import common_points
from llc_dynamics.stages.smoothing import falling_fit


@dataclass(frozen=True)
class TransienceVerdict:
    """What `detect_transience` found. Distances and losses are in the units of the curves, times in steps.

    Attributes
    ----------
    kind : "transient" or "none"; `transient` is the same as a bool.
    t_crit : the step of least out-of-distribution loss (of its trend), None where there is no verdict.
    t_crit_interval : (low, high) in steps at probability `level`, never narrower than the neighbouring checkpoints.
    minimum_step, minimum : where the trend of the loss is least and its value there, whatever the verdict.
    rebound : trend of the loss at the end minus at its minimum, the minimum chosen on other sequences than those it is
        measured on (where there are samples).
    rebound_relative : rebound / minimum.
    rebound_sampling_error : standard error over evaluation sequences, of the paired differences end minus minimum.
    rebound_jitter_error : standard error from the jitter between checkpoints.
    rebound_standard_error : both together.
    rebound_z : rebound / rebound_standard_error. rebound_paired_z : rebound / rebound_sampling_error.
    false_alarm_probability : how often a curve that only falls, with the same two noises, shows a z as large.
    depth : fall of the loss from the first checkpoint to the minimum.
    general_distance, general_distance_error, specialised_distance : trend of the two distances at the minimum.
    nearness : 1 - general_distance / (distance at the first checkpoint): 1 at the general predictor, 0 no nearer to it
        than at the start.
    nearness_beyond_line : 1 - general_distance / (least distance that the straight way from the start to the
        specialised predictor has to the general one): 0 on that way, 1 at the general predictor. None without
        `reference_distance`.
    general_change, specialised_change : change of the distances from the minimum to the end; `_error` their errors.
    reasons : the verdict in words. notes : what was left out or could not be known.
    """

    kind: str
    t_crit: int | None
    t_crit_interval: tuple[int, int] | None
    level: float
    minimum_step: int
    minimum: float
    rebound: float
    rebound_relative: float
    rebound_sampling_error: float
    rebound_jitter_error: float
    rebound_standard_error: float
    rebound_z: float
    rebound_paired_z: float
    false_alarm_probability: float
    depth: float
    general_distance: float
    general_distance_error: float
    specialised_distance: float | None
    nearness: float
    nearness_beyond_line: float | None
    general_change: float
    general_change_error: float
    specialised_change: float | None
    specialised_change_error: float | None
    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def transient(self) -> bool:
        return self.kind == "transient"

    def to_dict(self) -> dict[str, Any]:
        """JSON types only; infinite ratios (of a noiseless curve) become None."""
        return {"transient": self.transient, **json_ready(asdict(self))}

    def summary(self) -> str:
        """The verdict in one sentence."""
        if not self.transient or self.t_crit is None or self.t_crit_interval is None:
            return f"No transience: {self.reasons[0]}."
        low, high = self.t_crit_interval
        return (
            f"Transient: the out-of-distribution loss is least at step {self.t_crit:,} ({self.level:.0%} interval "
            f"{low:,} to {high:,}), then rises by {self.rebound_relative:.1%} ({self.rebound_z:.1f} standard errors); "
            f"at its best the distance to the general predictor had fallen by {self.nearness:.0%}."
        )


def json_ready(value: Any) -> Any:
    """Tuples to lists, numpy numbers to Python's, what is not finite to None."""
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [json_ready(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def detect_transience(
    *,
    general: Curve,
    specialised: Curve | None,
    ood_loss: Curve,
    reference_distance: float | None = None,
    min_relative_rebound: float = 0.05,
    min_z: float = 4.0,
    max_false_alarm: float = 0.05,
    min_nearness: float = 0.5,
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
    points = common_points({"ood_loss": ood_loss, "general": general, "specialised": specialised})
    notes = list(points.notes)
    for role in ("general", "specialised"):
        if role in points.curves and np.any(points.curves[role].values < 0):
            raise DataError(f"{role} has negative values; it must be a mean squared distance")
    if reference_distance is not None and not (np.isfinite(reference_distance) and reference_distance > 0):
        raise DataError(f"reference_distance={reference_distance!r}; give the positive distance between the predictors")

    grid = TimeGrid(points.steps, resolution, num_bootstrap, seed)
    loss = Evidence(points.curves["ood_loss"], grid)
    near = Evidence(points.curves["general"], grid, window=loss.window)
    far = None
    if "specialised" in points.curves:
        far = Evidence(points.curves["specialised"], grid, window=loss.window)
    last = len(points.steps) - 1
    if loss.deviations is None:
        notes.append(
            "ood_loss has standard errors but no samples: they are taken as independent, which is too wide"
            if loss.standard_errors is not None
            else "ood_loss has neither samples nor standard errors: only the jitter between checkpoints is counted"
        )

    best = int(np.argmin(loss.trend))
    minimum = float(loss.trend[best])
    plain = loss.change(best, last)
    fitted = loss.cross_fitted_rebound()
    rebound = Change(plain.value if fitted is None else fitted, plain.sampling_error, plain.jitter_error)
    relative = rebound.value / minimum if minimum > 0 else float("inf") * np.sign(rebound.value or 1.0)
    draws = loss.sampling_draws() + loss.jitter_draws()
    false_alarm = _false_alarm_probability(loss, draws, rebound.z if best not in (0, last) else 0.0)
    interval = _time_interval(points.steps, np.argmin(loss.trend[:, None] + draws, axis=0), best, level)
    start_distance = float(points.curves["general"].values[0])
    distance = float(near.trend[best])
    nearness = 1.0 - distance / start_distance if start_distance > 0 else float("nan")
    beyond = None
    if far is not None and reference_distance is not None:
        line = line_distance(start_distance, float(points.curves["specialised"].values[0]), reference_distance)
        beyond = 1.0 - distance / line if line > 0 else 0.0
    away = near.change(best, last)
    towards = far.change(best, last) if far is not None else None
    along = None if far is None else Evidence(_difference(points.curves), grid, window=loss.window).change(best, last)
    specialised_distance = float(far.trend[best]) if far is not None else None

    against = []
    # a minimum inside the run, and a rebound
    percent = f"{relative:.1%} +- {rebound.error / abs(minimum) if minimum else float('nan'):.1%}"
    if best == last:
        against.append("the out-of-distribution loss falls to the end: no rebound")
    elif best == 0:
        against.append("the out-of-distribution loss is least at the first checkpoint: it never fell")
    # near the general predictor
    at_best = f"at its best (step {points.steps[best]:,}) its distance to the general predictor was {distance:.3g}"
    if specialised_distance is not None and distance >= specialised_distance:
        against.append(
            f"the model was never near the general predictor: {at_best}, "
            f"to the specialised one {specialised_distance:.3g}"
        )
    elif reference_distance is not None and distance >= reference_distance:
        against.append(
            f"the model was never near the general predictor: {at_best}, "
            f"no less than the {reference_distance:.3g} of the specialised one"
        )
    elif beyond is not None and beyond < min_nearness_beyond_line:
        against.append(
            f"the model was never near the general predictor: {at_best}, as a model has that goes "
            f"straight to the specialised one ({distance / (1 - beyond):.3g})"
        )
    elif beyond is None and not nearness >= min_nearness:
        against.append(
            f"the model was never near the general predictor: {at_best}, "
            f"{max(nearness, 0.0):.0%} less than at the start, and {min_nearness:.0%} is asked for"
        )
    # the rebound is beyond both errors
    if best in (0, last):
        pass
    elif rebound.value <= 0:
        against.append("the out-of-distribution loss stays at its minimum to the end: no rebound")
    elif rebound.z < min_z:
        against.append(f"the out-of-distribution loss rose by {percent} at the end: within {min_z:g} of its errors")
    elif false_alarm > max_false_alarm:
        against.append(
            f"the out-of-distribution loss rose by {percent}, but a falling curve with this noise does so "
            f"in {false_alarm:.0%} of cases"
        )
    elif relative < min_relative_rebound:
        against.append(
            f"the out-of-distribution loss rose by {percent}: real, but less than the {min_relative_rebound:.0%} "
            "asked for"
        )
    # from the one to the other
    if best != last and away.z < 2:
        against.append(f"after the minimum the distance to the general predictor does not grow ({_signed(away)})")
    if best != last and along is not None and along.z < 2:
        against.append(
            "after the minimum the model does not move from the general towards the specialised predictor "
            f"(distance to the one minus distance to the other changes by {_signed(along)})"
        )
    if towards is None:
        notes.append("no specialised predictor was given: where the model went after the minimum is not known")

    transient = not against
    reasons = tuple(against) or (
        f"the out-of-distribution loss rose by {percent} after step {points.steps[best]:,} ({rebound.z:.1f} errors)",
        f"{at_best}, {nearness:.0%} less than at the start"
        + ("" if specialised_distance is None else f"; to the specialised one {specialised_distance:.3g}"),
        f"from there to the end the distance to the general predictor changed by {_signed(away)}"
        + ("" if towards is None else f" and to the specialised one by {_signed(towards)}"),
    )
    return TransienceVerdict(
        kind="transient" if transient else "none",
        t_crit=int(points.steps[best]) if transient else None,
        t_crit_interval=interval if transient else None,
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
        specialised_distance=specialised_distance,
        nearness=nearness,
        nearness_beyond_line=beyond,
        general_change=away.value,
        general_change_error=away.error,
        specialised_change=None if towards is None else towards.value,
        specialised_change_error=None if towards is None else towards.error,
        reasons=reasons,
        notes=tuple(notes),
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
    if z <= 0:
        return 1.0
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


def _signed(change: Change) -> str:
    return f"{change.value:+.3g} +- {change.error:.2g}"


def _check_settings(
    level: float, resolution: float, num_bootstrap: int, min_z: float, min_relative: float, max_false_alarm: float
) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level={level!r}; give a probability between 0 and 1, such as 0.9")
    if not resolution > 0:
        raise ConfigError(f"resolution={resolution!r}; give a positive width in log(t + 1), such as 0.5")
    if num_bootstrap < 50:
        raise ConfigError(f"num_bootstrap={num_bootstrap!r}; at least 50 draws are needed for an interval")
    if min_z < 0 or min_relative < 0 or not 0 < max_false_alarm <= 1:
        raise ConfigError("min_z and min_relative_rebound must not be negative, max_false_alarm lie in (0, 1]")
