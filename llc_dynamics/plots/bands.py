"""Lines with error bands, the element that most figures are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
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


def curve_errors(curve: Curve) -> NDArray[np.float64] | None:
    """The curve's own standard errors, or those of the mean over its samples; None where neither is known."""
    if curve.standard_errors is not None:
        return curve.standard_errors
    if curve.samples is None or curve.samples.shape[1] < 2:
        return None
    samples = np.asarray(curve.samples, dtype=np.float64)
    return np.asarray(samples.std(axis=1, ddof=1) / math.sqrt(samples.shape[1]))


def draw_band(ax: Axes, curve: Curve, color: str, alpha: float = 0.16) -> None:
    """The 95% band of the curve's standard errors, if it has any."""
    errors = curve_errors(curve)
    if errors is not None and np.any(np.isfinite(errors)):
        low, high = curve.values - Z95 * errors, curve.values + Z95 * errors
        ax.fill_between(curve.steps, low, high, color=color, alpha=alpha, linewidth=0)


def draw_curve(ax: Axes, curve: Curve, *, color: str, band: bool = True, **line: Any) -> None:
    """A line with its 95% band; gaps where values are NaN."""
    if band:
        draw_band(ax, curve, color)
    ax.plot(curve.steps, curve.values, color=color, **line)


def value_at(curve: Curve, step: float) -> float:
    """The curve's value at the stored step nearest to `step`."""
    return float(curve.values[int(np.abs(curve.steps - step).argmin())])
