"""What a stored run says, as curves and levels; what it lacks is None, what is damaged raises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError, CorruptRunError, TrajectoryError
from llc_dynamics.finding import Finding
from llc_dynamics.llc import LLCCurve
from llc_dynamics.llc.storage import curve_folder, read_point, stored_points
from llc_dynamics.plots.bands import curve_errors
from llc_dynamics.systems.description import Description, description_of, loss_metric
from llc_dynamics.trajectory import Trajectory

PROBES = "probes"
MEAN_SQUARED_ERROR = "mean squared error"


@dataclass(frozen=True)
class Level:
    """A mean over evaluation samples and its standard error."""

    value: float
    standard_error: float


def read_description(
    run: Trajectory, notes: list[Finding], describe: Callable[[Trajectory], Description] | None = None
) -> Description:
    """The stored description, or what `describe` says of a run that has none.

    The default one, with a note, where the stored one cannot be used.
    """
    if describe is not None and not run.description:
        return describe(run)
    try:
        return description_of(run)
    except ConfigError as error:
        notes.append(Finding("bad_description", f"the stored description is not used: {error}"))
        return Description()


def read_curve(run: Trajectory, name: str) -> Curve | None:
    """The metric `name` as a curve, with per-sample values where they are stored; None if never measured."""
    if name not in run.metric_names:
        return None
    values = run.metrics(name)
    if not np.isfinite(values).any():
        return None
    return Curve(run.steps, values, name=name, samples=run.samples(name) if name in run.sample_names else None)


def without_samples(curve: Curve) -> Curve:
    """The same curve with the samples condensed to standard errors."""
    errors = curve_errors(curve) if curve.covariance is None else None
    return Curve(curve.steps, curve.values, errors, curve.name, curve.converged, covariance=curve.covariance)


def known_points(curve: Curve) -> Curve:
    """The curve at the steps where it has a value. A metric that is measured at some checkpoints only has gaps."""
    known = np.isfinite(curve.values)
    return curve if known.all() else curve.at(known)


def last_value(curve: Curve) -> float:
    """The last known value."""
    return float(known_points(curve).values[-1])


def read_probes(run: Trajectory) -> Mapping[str, NDArray]:
    """The arrays of the probes: `<probe>/batch/<i>`, `<probe>/target`, `<probe>/reference/<reference>`."""
    return run.arrays(PROBES) if PROBES in run.array_names else {}


def mean_squared(arrays: Mapping[str, NDArray], first: str, second: str) -> Level | None:
    """Mean squared difference of two arrays [S, ...] over samples and positions; None where they cannot be compared."""
    if first not in arrays or second not in arrays:
        return None
    one, two = (np.asarray(arrays[name], np.float64) for name in (first, second))
    if one.shape != two.shape or not one.ndim or not one.size:
        return None
    per_sample = ((one - two) ** 2).reshape(len(one), -1).mean(axis=1)
    spread = float(per_sample.std(ddof=1)) if len(per_sample) > 1 else math.nan
    return Level(float(per_sample.mean()), spread / math.sqrt(len(per_sample)))


def reference_losses(description: Description, arrays: Mapping[str, NDArray]) -> dict[str, dict[str, Level]]:
    """Losses of the references on each probe, {'loss/<probe>': {reference: level}}, where the loss is squared error."""
    if description.loss.strip().casefold() != MEAN_SQUARED_ERROR:
        return {}
    found: dict[str, dict[str, Level]] = {}
    for probe in description.probes:
        for reference in description.references:
            level = mean_squared(arrays, f"{probe}/reference/{reference}", f"{probe}/target")
            if level is not None and math.isfinite(level.value):
                found.setdefault(loss_metric(probe), {})[reference] = level
    return found


def reference_gap(arrays: Mapping[str, NDArray], probe: str, first: str, second: str | None) -> Level | None:
    """Mean squared difference between two references on a probe; None where it is not known or zero."""
    if second is None:
        return None
    gap = mean_squared(arrays, f"{probe}/reference/{first}", f"{probe}/reference/{second}")
    return gap if gap is not None and gap.value > 0 and math.isfinite(gap.value) else None


def read_llc(run: Trajectory, name: str, notes: list[Finding]) -> LLCCurve | None:
    """The points of the stored LLC curve that can be read; None, with a note, where there is none."""
    if not curve_folder(run.path, name).is_dir():
        return None
    try:
        return LLCCurve.load(run, name)
    except CorruptRunError as error:
        points = stored_points(curve_folder(run.path, name))
        sound = [step for step, path in points.items() if _is_sound(path)]
        if sound:
            which = f"{len(points) - len(sound)} of {len(points)} points of the LLC curve '{name}'"
            notes.append(Finding("llc_points_left_out", f"{which} cannot be read and are left out: {error}"))
            return LLCCurve.load(run, name, sound)
        notes.append(Finding("llc_left_out", f"the LLC curve '{name}' was left out: {error}"))
    except ConfigError as error:
        notes.append(Finding("llc_left_out", f"the LLC curve '{name}' was left out: {error}"))
    except TrajectoryError:
        notes.append(Finding("llc_empty", f"the LLC curve '{name}' holds no finished point"))
    return None


def _is_sound(point: Path) -> bool:
    try:
        read_point(point)
    except TrajectoryError:
        return False
    return True


def planned_steps(run: Trajectory) -> int | None:
    """The step at which training was to end, where the configuration has one of ours."""
    training = run.config.get("training")
    steps = training.get("num_steps") if isinstance(training, Mapping) else None
    return steps if isinstance(steps, int) and not isinstance(steps, bool) and steps > 0 else None
