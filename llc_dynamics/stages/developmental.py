"""Developmental stages of a curve with errors, such as an LLC curve: boundaries with intervals and probabilities.

Hoogland et al. 2024 (arXiv 2402.02364) call what lies between two critical points of lambda_hat over log t a stage, of
type A where it rises while the loss falls, and of type B where both fall. Here the critical points of any curve are
read from a Gaussian process with the measured errors (`gaussian_process`, `boundaries`), and nothing is called a stage
without the probability that it is one.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.finding import Finding
from llc_dynamics.pca.cosine import RANDOM_WALK_LIKE, cosine_content
from llc_dynamics.ranges import between_0_and_1
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.settings import plain_number
from llc_dynamics.stages.boundaries import Found, Kind, change_between, find_boundaries
from llc_dynamics.stages.gaussian_process import SmoothFit, fit_curve
from llc_dynamics.stages.points import common_points
from llc_dynamics.stages.verdicts import json_ready

_PATHS = 1000
# Boundaries with less are not worth a line.
_LEAST_PROBABILITY = 0.05
# A change is resolved from so many of its errors on.
_RESOLVED = 2.0

StageType = Literal["rise", "fall", "flat", "unresolved"]


@dataclass(frozen=True)
class Boundary:
    """Where one stage ends and the next begins.

    Attributes
    ----------
    step : the median of its place, in steps. interval : (low, high) in steps at the report's `level`, made in log time,
        at least from the checkpoint before the nearest one to the one after it.
    probability : that there is such a boundary: over the posterior of the curve, times the weight of a smooth curve
        or a staircase against a constant and a random walk as accounts of the same points.
    kind : "turn" (the curve's slope changes sign), "plateau" (it nearly vanishes in between), "onset" (a flat curve
        begins to rise or fall) or "end" (of a rise or fall, in flatness).
    resolved : whether the probability reaches the report's threshold.
    """

    step: float
    interval: tuple[float, float]
    probability: float
    kind: Kind
    resolved: bool


@dataclass(frozen=True)
class Stage:
    """What lies between two resolved boundaries.

    Attributes
    ----------
    start, end : steps. change, change_error : of the curve from start to end, and its standard error.
    loss_change, loss_change_error : the same of the loss, None without one.
    type : "flat" up to an onset or from an end on; else "rise", "fall", or "unresolved" where the change is within two
        of its errors.
    """

    start: float
    end: float
    change: float
    change_error: float
    type: StageType
    loss_change: float | None = None
    loss_change_error: float | None = None


@dataclass(frozen=True)
class StageReport:
    """What `detect_stages` found.

    Attributes
    ----------
    boundaries : all candidates from a probability of .05 on, in order of time; those that count are `resolved`.
    stages : between the resolved boundaries and the ends of the curve.
    threshold, level : probability from which a boundary is resolved; of the intervals.
    weight : of a smooth curve or a staircase against a constant and random walks, given the points. noise : standard
        deviation of the noise that was fitted on top of the measured errors.
    notes : what was left out, estimated, or speaks against the verdict.
    fit : the fitted curve and its slope, for `plot_stages`.
    """

    name: str
    boundaries: tuple[Boundary, ...]
    stages: tuple[Stage, ...]
    threshold: float
    level: float
    weight: float
    noise: float
    notes: tuple[Finding, ...]
    fit: SmoothFit

    @property
    def resolved(self) -> tuple[Boundary, ...]:
        """The boundaries that count."""
        return tuple(boundary for boundary in self.boundaries if boundary.resolved)

    def to_dict(self) -> dict[str, Any]:
        """JSON types, without the fit."""
        fields = dict(json_ready(asdict(self)))
        del fields["fit"]
        return fields

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.resolved)} boundaries resolved of {len(self.boundaries)} candidates"]
        for each in self.boundaries:
            low, high = each.interval
            mark = "" if each.resolved else ", not resolved"
            lines.append(
                f"  {each.kind} at {each.step:,.0f} ({low:,.0f} to {high:,.0f}), probability "
                f"{each.probability:.2f}{mark}"
            )
        for stage in self.stages:
            kind = "not resolved" if stage.type == "unresolved" else stage.type
            loss = "" if stage.loss_change is None else f", loss {stage.loss_change:+.3g}"
            change = f"{stage.change:+.3g} ± {stage.change_error:.2g}{loss}"
            lines.append(f"  {stage.start:,.0f} to {stage.end:,.0f}: {change}: {kind}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def detect_stages(
    curve: Curve,
    loss: Curve | None = None,
    *,
    component: int | None = None,
    threshold: float = 0.9,
    level: float = 0.9,
    seed: int = 0,
) -> StageReport:
    """Developmental stages of a curve over training.

    Works on any curve: an LLC curve, a weight-restricted one, a loss, a principal component. Points that are NaN or
    marked as not converged are left out, and said. With a covariance of the errors (common noise), what points share is
    no stage, and what they share does not hide one. Without standard errors the noise is estimated from the scatter of
    neighbouring points; errors that neighbours share cannot be seen then.

    Parameters
    ----------
    curve : at least 8 usable points, unevenly spaced in time as they are.
    loss : of the same run, at the curve's steps or at more: its change over every stage stands beside the curve's.
    component : k = 1, 2, ... if the curve is the k-th principal component of a trajectory. PCA of a random walk gives
        cosines of k half periods, which have turns that mean nothing; where the component is nearly one, no boundary
        is resolved.
    threshold : probability from which a boundary is resolved.
    level : of the intervals.
    seed : of the posterior samples.

    Raises `DataError` for fewer than 8 usable points, a curve that is NaN throughout, or a loss from other steps;
    `ConfigError` for a threshold or level outside (0, 1).
    """
    threshold, level = between_0_and_1("threshold", threshold), between_0_and_1("level", level)
    points = common_points({"curve": curve})
    used = points.curves["curve"]
    x = np.log1p(used.steps.astype(np.float64))
    fit = fit_curve(used)
    content = 0.0 if component is None else _cosine_content(used, component)
    allowed = 0.0 if content >= RANDOM_WALK_LIKE else 1.0
    paths = fit.paths(_PATHS, numpy_generator(seed, "stages"))
    boundaries = []
    for found in find_boundaries(fit, level, paths, threshold):
        probability = allowed * found.probability
        if probability >= _LEAST_PROBABILITY:
            low, high = (float(np.expm1(edge)) for edge in _between_checkpoints(found, x))
            counts = probability >= threshold
            boundaries.append(Boundary(float(np.expm1(found.x)), (low, high), probability, found.kind, counts))
    resolved = [each for each in boundaries if each.resolved]
    edges = [float(used.steps[0]), *(each.step for each in resolved), float(used.steps[-1])]
    flat = [
        (before in (None, "end") and after in (None, "onset") and before != after)
        for before, after in itertools.pairwise((None, *(each.kind for each in resolved), None))
    ]
    notes = (*points.notes, *_notes_on_errors(fit, used))
    if not allowed:
        text = f"component {component} is nearly the cosine that PCA makes of a random walk, whose turns mean nothing"
        notes += (Finding("cosine_like", f"cosine content {content:.2f}: {text}"),)
    if fit.weight < threshold:
        notes += (_explained_otherwise(fit),)
    return StageReport(
        name=curve.name,
        boundaries=tuple(boundaries),
        stages=_stages(fit, paths[0], edges, flat, _loss_changes(loss, curve, edges, seed)),
        threshold=threshold,
        level=level,
        weight=fit.weight,
        noise=fit.noise,
        notes=notes,
        fit=fit,
    )


def _cosine_content(curve: Curve, component: int) -> float:
    """NaN where it cannot be told."""
    component = plain_number(component)
    if isinstance(component, bool) or not isinstance(component, int) or component < 1:
        raise ConfigError(f"component must be 1, 2, ... (the number of the principal component), got {component!r}")
    return float(cosine_content(curve.values, [component])[0])


def _notes_on_errors(fit: SmoothFit, curve: Curve) -> list[Finding]:
    errors = curve.standard_errors
    if errors is None or not errors.any():
        text = "no standard errors were given: estimated from the scatter of neighbours; shared errors are unseen"
        return [Finding("errors_estimated", text)]
    if curve.covariance is not None:  # what neighbours share does not part them
        own = np.diag(curve.covariance)
        apart = own[1:] + own[:-1] - 2 * np.diag(curve.covariance, 1)
        errors = np.sqrt(np.clip(apart, 0.0, None) / 2)
    typical = float(np.median(errors))
    if fit.noise <= typical:
        return []
    beyond = f"neighbouring points scatter by {fit.noise:.3g} beyond their own errors ({typical:.3g})"
    return [Finding("errors_too_small", f"{beyond}; counted as noise")]


def _explained_otherwise(fit: SmoothFit) -> Finding:
    others = set(fit.log_evidence) - {"smooth", "staircase"}
    best = max(sorted(others), key=lambda name: fit.log_evidence[name])
    text = f"a {best} explains the points as well as a smooth curve or a staircase (weight of these {fit.weight:.2f})"
    return Finding("not_smooth", text)


def _between_checkpoints(found: Found, x: NDArray[np.float64]) -> tuple[float, float]:
    """The interval in x, at least from the checkpoint before the nearest one to the one after it.

    What lies between checkpoints was not seen; a fit that is sure of it there is sure by its prior alone.
    """
    nearest = int(np.abs(x - found.x).argmin())
    low = min(found.low, float(x[max(nearest - 1, 0)]))
    high = max(found.high, float(x[min(nearest + 1, len(x) - 1)]))
    return max(low, float(x[0])), min(high, float(x[-1]))


def _changes(fit: SmoothFit, values: NDArray[np.float64], edges: list[float]) -> list[tuple[float, float]]:
    places = [int(np.abs(fit.grid - math.log1p(step)).argmin()) for step in edges]
    return [change_between(values, start, stop) for start, stop in itertools.pairwise(places)]


def _loss_changes(loss: Curve | None, curve: Curve, edges: list[float], seed: int) -> list[tuple[float, float]] | None:
    if loss is None:
        return None
    if not isinstance(loss, Curve):
        raise DataError(f"loss is a {type(loss).__name__}; give an ld.Curve(steps, values)")
    if not np.isin(curve.steps, loss.steps).all():
        missing = np.setdiff1d(curve.steps, loss.steps)
        raise DataError(
            f"the loss has no value at step {missing[0]} of the curve (and {len(missing) - 1} more): both must come "
            "from the same run, the loss at the curve's steps or at more"
        )
    points = common_points({"loss": loss}).curves["loss"]
    fit = fit_curve(points)
    values, _ = fit.paths(_PATHS, numpy_generator(seed, "stages, loss"))
    return _changes(fit, values, edges)


def _stages(
    fit: SmoothFit,
    values: NDArray[np.float64],
    edges: list[float],
    flat: list[bool],
    loss_changes: list[tuple[float, float]] | None,
) -> tuple[Stage, ...]:
    stages = []
    for place, (change, error) in enumerate(_changes(fit, values, edges)):
        kind: StageType = "rise" if change > 0 else "fall"
        if flat[place]:
            kind = "flat"
        # a random walk's changes are real, but of no stage
        elif abs(change) <= _RESOLVED * error or fit.weight < 0.5:
            kind = "unresolved"
        of_loss = (None, None) if loss_changes is None else loss_changes[place]
        stages.append(Stage(edges[place], edges[place + 1], change, error, kind, *of_loss))
    return tuple(stages)
