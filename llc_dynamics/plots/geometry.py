"""A run's way through two principal components, with its osculating circles and where it turns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from llc_dynamics.errors import DataError
from llc_dynamics.plots.step_axis import format_step
from llc_dynamics.plots.style import (
    CATEGORICAL,
    INK,
    MUTED,
    PAPER,
    axes_or_new,
    draw_ends,
    small_size,
    trajectory_legend,
)
from llc_dynamics.stages import TrajectoryGeometry, TurningPoint

_NEAR = 0.05  # vertices nearer than this share of the trajectory's extent may share a label


def plot_osculating_circles(
    geometry: TrajectoryGeometry,
    *,
    scores: ArrayLike | None = None,
    num_circles: int = 16,
    min_probability: float = 0.5,
    explained_variance_ratio: ArrayLike | None = None,
    color: str = CATEGORICAL[0],
    ax: Axes | None = None,
) -> Axes:
    """The smoothed trajectory, its osculating circles, and its turning points with the steps at which they are.

    Faint circles are equally spaced along the curve; those of vertices are strong, with their centres (crosses).
    A circle larger than the figure is left out. Filled diamonds are vertices, hollow squares reversals of a component.

    Parameters
    ----------
    geometry : from `ld.stages.trajectory_geometry`.
    scores : the checkpoints themselves, [checkpoint, component], as dots.
    num_circles : of the faint ones; 0 for none.
    min_probability : turning points that are less probable are not drawn.
    explained_variance_ratio : float [component], for the axis labels.
    color : of the trajectory. ax : where to draw; a new figure if None. Its aspect is made equal.

    Raises `DataError` for something else than a `TrajectoryGeometry`, or scores that lack one of the components.
    """
    if not isinstance(geometry, TrajectoryGeometry):
        raise DataError(
            f"plot_osculating_circles: got a {type(geometry).__name__}; give what "
            "ld.stages.trajectory_geometry(steps, scores) returns"
        )
    ax = axes_or_new(ax, 4.8, 4.4)
    path = geometry.position
    if scores is not None:
        table = np.asarray(scores, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] <= max(geometry.components):
            raise DataError(f"plot_osculating_circles: scores have shape {table.shape}; wanted [checkpoint, component]")
        dots = table[:, list(geometry.components)]
        ax.plot(*dots.T, linestyle="none", marker=".", markersize=3, color=MUTED, alpha=0.5, gid="checkpoints")
    extent = float(np.hypot(*np.ptp(path, axis=0)))
    for place in evenly_along(path, num_circles):
        if geometry.radius[place] < extent:
            _circle(ax, geometry.center[place], geometry.radius[place], color=MUTED, linewidth=0.5, alpha=0.4)
    ax.plot(*path.T, color=color, gid="trajectory")
    draw_ends(ax, path, color)
    drawn = [point for point in geometry.turning_points if point.probability >= min_probability]
    for point in drawn:
        vertex = point.kind == "vertex"
        look: dict[str, Any] = {"marker": "D", "markersize": 6.5, "markeredgecolor": PAPER, "markeredgewidth": 0.9}
        if not vertex:
            look = {"marker": "s", "markersize": 5.5, "markerfacecolor": PAPER, "markeredgewidth": 1.2}
        ax.plot(*point.position, color=INK, linestyle="none", zorder=5 if vertex else 4, gid=point.kind, **look)
        if vertex:
            _circle(ax, point.center, point.radius, color=INK, linewidth=1.0, alpha=0.8)
            ax.plot(*point.center, color=INK, linestyle="none", marker="+", markersize=7, gid="center")
    _label_vertices(ax, [point for point in drawn if point.kind == "vertex"], extent)
    low, high = frame_of(path, [(point.center, point.radius) for point in drawn if point.kind == "vertex"], extent)
    ax.set_aspect("equal", adjustable="box")
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    for number, axis in zip(geometry.components, (ax.xaxis, ax.yaxis), strict=True):
        label = f"PC{number + 1}"
        if explained_variance_ratio is not None:
            label += f" ({100 * float(np.asarray(explained_variance_ratio)[number]):.1f}%)"
        axis.set_label_text(label)
    _legend(ax, {point.kind for point in drawn})
    return ax


def evenly_along(path: np.ndarray, count: int) -> list[int]:
    """Grid points nearest to `count` places equally spaced along the length of `path`, ends left out."""
    length = np.concatenate([[0.0], np.hypot(*np.diff(path, axis=0).T).cumsum()])
    return [int(np.searchsorted(length, (k + 1) / (count + 1) * length[-1])) for k in range(count)]


def _circle(ax: Axes, center: Any, radius: float, **line: Any) -> None:
    if math.isfinite(radius) and np.isfinite(center).all():
        ax.add_patch(Circle((float(center[0]), float(center[1])), radius, fill=False, zorder=1.5, **line))


def _label_vertices(ax: Axes, vertices: list[TurningPoint], extent: float) -> None:
    """Their steps on the outside of the turn; one label for neighbours on one side, whose labels would overlap."""
    labels: list[tuple[np.ndarray, np.ndarray, list[float]]] = []
    for point in vertices:
        away = np.subtract(point.position, point.center)
        away = away / max(float(np.hypot(*away)), 1e-300)
        for position, direction, steps in labels:
            if np.hypot(*np.subtract(point.position, position)) < _NEAR * extent and away @ direction > 0:
                steps.append(point.step)
                break
        else:
            labels.append((np.array(point.position), away, [point.step]))
    for position, away, steps in labels:
        _label(ax, position, away, steps)


def _label(ax: Axes, position: np.ndarray, away: np.ndarray, steps: list[float]) -> None:
    rounded = dict.fromkeys(format_step(float(f"{step:.2g}")) for step in steps)
    ax.annotate(
        f"step{'s' if len(rounded) > 1 else ''} {', '.join(rounded)}",
        (float(position[0]), float(position[1])),
        xytext=(float(10 * away[0]), float(10 * away[1])),
        textcoords="offset points",
        ha="left" if away[0] > 0.3 else "right" if away[0] < -0.3 else "center",
        va="bottom" if away[1] > 0.3 else "top" if away[1] < -0.3 else "center",
        fontsize=small_size(ax),
        path_effects=[withStroke(linewidth=2.5, foreground=PAPER)],
        zorder=6,
    )


def frame_of(
    path: np.ndarray, circles: list[tuple[tuple[float, float], float]], extent: float
) -> tuple[np.ndarray, np.ndarray]:
    """Limits that hold the path and the vertices' circles, up to a margin; faint circles may leave the frame."""
    corners = [path.min(axis=0), path.max(axis=0)]
    for center, radius in circles:
        corners += [np.subtract(center, radius), np.add(center, radius)]
    low = np.maximum(np.min(corners, axis=0), path.min(axis=0) - 0.5 * extent) - 0.1 * extent
    high = np.minimum(np.max(corners, axis=0), path.max(axis=0) + 0.5 * extent) + 0.1 * extent
    return low, high


def _legend(ax: Axes, kinds: set[str]) -> None:
    marks = []
    if "vertex" in kinds:
        marks.append(("vertex", Line2D([], [], linestyle="none", color=INK, marker="D", markersize=6)))
    if "reversal" in kinds:
        hollow = Line2D([], [], linestyle="none", color=INK, marker="s", markersize=5.5, markerfacecolor=PAPER)
        marks.append(("one component\nturns back", hollow))
    trajectory_legend(ax, [], marks)
