"""Lines with error bands, the element that most figures are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import DataError
from llc_dynamics.plots.style import Key

Z95 = 1.959964
"""Half width of a 95% normal interval in standard errors."""

CurveOrCurves = Curve | Mapping[Any, Curve]
_DECADE = 10.0
_LARGEST = 1e200  # the limits of an axis overflow beyond


def as_mapping(curves: CurveOrCurves, name: str) -> dict[Key, Curve]:
    """`{key: curve}`; a single curve gets its own name as key. Raises `DataError` if there is nothing to draw."""
    found: dict[Key, Curve] = {curves.name: curves} if isinstance(curves, Curve) else dict(curves)
    if not found:
        raise DataError(f"{name}: no curves were given; give an ld.Curve, or a mapping such as {{8: curve}}")
    for key, curve in found.items():
        if not isinstance(curve, Curve):
            raise DataError(f"{name}: {key!r} is a {type(curve).__name__}, not an ld.Curve(steps=..., values=...)")
    return found


def last_step(curves: Mapping[Any, Curve]) -> int:
    """The latest step of any curve."""
    return max(int(curve.steps[-1]) for curve in curves.values())


def suits_log_scale(curves: Iterable[Curve]) -> bool:
    """Whether all known values are positive and span more than a decade."""
    values = np.concatenate([curve.values for curve in curves])
    known = values[drawable(values)]
    return bool(known.size and known.min() > 0 and known.max() > _DECADE * known.min())


def drawable(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values are finite and not too large for an axis."""
    return np.asarray(np.abs(values) < _LARGEST)


def trusted(curve: Curve) -> NDArray[np.bool_]:
    """Which points have a value and were not found unconverged."""
    finite = np.isfinite(curve.values)
    return finite if curve.converged is None else finite & np.asarray(curve.converged, dtype=bool)


def curve_errors(curve: Curve) -> NDArray[np.float64] | None:
    """The curve's own standard errors, or those of the mean over its samples; None where neither is known."""
    if curve.standard_errors is not None:
        return curve.standard_errors
    if curve.samples is None or curve.samples.shape[1] < 2:
        return None
    samples = np.asarray(curve.samples, dtype=np.float64)
    return np.asarray(samples.std(axis=1, ddof=1) / math.sqrt(samples.shape[1]))


def change_errors(curve: Curve) -> NDArray[np.float64] | None:
    """Standard error of the change to the next point that is known, at either side: their root mean square [C].

    From the covariance of the curve; None without one, NaN where a point or both its neighbours are unknown.
    """
    if curve.covariance is None:
        return None
    own = np.diag(curve.covariance)
    known = np.flatnonzero(np.isfinite(own) & trusted(curve))
    before, after = known[:-1], known[1:]
    changes = np.full((2, len(curve)), math.nan)
    changes[0, after] = changes[1, before] = own[before] + own[after] - 2 * curve.covariance[before, after]
    sides = np.isfinite(changes).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sqrt(np.nansum(changes.clip(0), axis=0) / np.where(sides, sides, math.nan)))


def draw_band(ax: Axes, curve: Curve, color: str, alpha: float = 0.16) -> None:
    """The 95% band of the curve's standard errors, if it has any, and inside it that of changes between neighbours.

    The second one is drawn where errors move together (`Curve.covariance`): it is that of the curve's shape.
    """
    for errors, strength in ((curve_errors(curve), alpha), (change_errors(curve), 2.5 * alpha)):
        known = np.isfinite(errors) & drawable(curve.values) if errors is not None else np.zeros(0, dtype=bool)
        if errors is not None and known.any():
            values, spread = curve.values[known], Z95 * errors[known]
            steps = curve.steps[known]
            ax.fill_between(steps, values - spread, values + spread, color=color, alpha=strength, linewidth=0)


def draw_curve(ax: Axes, curve: Curve, *, color: str, **line: Any) -> None:
    """A line through the known points, with its 95% band.

    Where values are missing in between, as for a metric that is measured at some checkpoints only, dots show which
    points are known.
    """
    draw_band(ax, curve, color)
    known = np.flatnonzero(drawable(curve.values))
    inner_gaps = len(known) and known[-1] - known[0] + 1 > len(known)
    marks: dict[str, Any] = {"marker": ".", "markersize": 5} if inner_gaps or len(known) == 1 else {}
    ax.plot(curve.steps[known], curve.values[known], color=color, **marks, **line)


def value_at(curve: Curve, step: float) -> float:
    """The curve's known value at the stored step nearest to `step`; NaN where none is known."""
    known = np.flatnonzero(np.isfinite(curve.values))
    if not len(known):
        return math.nan
    return float(curve.values[known[int(np.abs(curve.steps[known] - step).argmin())]])
