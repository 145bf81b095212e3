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
from llc_dynamics.stages.gaussian_process import without_level

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


def draw_band(ax: Axes, curve: Curve, color: str, alpha: float = 0.16) -> bool:
    """The 95% band of the curve's standard errors, if it has any; with a covariance also that of its shape (whether).

    The finer band is without the level that all points share, and covers itself and the wider one.
    """
    errors = curve_errors(curve)
    if errors is None:
        return False
    known = np.isfinite(errors) & drawable(curve.values)
    bands = [errors[known]]
    if curve.covariance is not None and known.sum() > 1:
        shape, level = without_level(curve.covariance[np.ix_(known, known)])
        bands += [np.sqrt(np.diag(shape))] if level > 0 else []
    for error in bands if known.any() else ():
        low, high = (curve.values[known] + sign * Z95 * error for sign in (-1, 1))
        ax.fill_between(curve.steps[known], low, high, color=color, alpha=alpha, linewidth=0)
    return len(bands) > 1


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
