"""Joint trajectory PCA in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.plots.losses import draw_level
from llc_dynamics.plots.step_axis import set_step_axis
from llc_dynamics.plots.style import (
    CATEGORICAL,
    INK,
    MUTED,
    PAPER,
    Key,
    SeriesStyle,
    axes_or_new,
    draw_ends,
    draw_mark,
    panel_title,
    series_styles,
    shown_text,
    small_legend,
    small_size,
    trajectory_legend,
)
from llc_dynamics.systems.description import description_of


def plot_trajectory_pca(
    pca: Any,
    runs: Any = None,
    *,
    components: Sequence[int] = (0, 1),
    references: Mapping[str, ArrayLike] | None = None,
    reference_of: Mapping[str, Key] | None = None,
    explained_variance_ratio: ArrayLike | None = None,
    steps: Mapping[Any, ArrayLike] | None = None,
    t_crit: Mapping[Any, float | None] | None = None,
    styles: Mapping[Any, SeriesStyle] | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Two or three principal components of the runs' function vectors, with reference solutions.

    A hollow circle is a run's first checkpoint, a filled one its last, a diamond the checkpoint at t_crit. A reference
    is a star, or a square in the colour of the run that it belongs to. References are projected, never fitted.

    Parameters
    ----------
    pca, runs : a fitted `ld.JointTrajectoryPCA`, and what its `fit` took: a list of trajectories or of arrays
        [checkpoint, ...], or one of them. Or scores, `{key: float [checkpoint, component]}`, and no runs.
    components : which two or three, counted from 0; three are drawn on an `ax` with projection "3d".
    references : `{name: float [component]}`; with a fitted PCA, function vectors as its `transform` takes them.
    reference_of : `{reference name: key of the run whose colour it takes}`; others are drawn in ink.
    explained_variance_ratio : float [component], for the axis labels; with a fitted PCA its own.
    steps, t_crit : `{key: int [checkpoint]}` and `{key: step or None}`, to mark t_crit on the trajectories.
    styles, ax : see `plot_loss`. legend : whether to draw one.

    Raises `DataError` for scores that lack one of the components, a t_crit without steps, or no runs.
    """
    if not isinstance(pca, Mapping):
        if not hasattr(pca, "transform") or runs is None:
            raise DataError(
                f"plot_trajectory_pca: got a {type(pca).__name__}; give a fitted ld.JointTrajectoryPCA and its runs, "
                "plot_trajectory_pca(pca, runs), or the scores {key: [checkpoint, component]}"
            )
        named = _by_name(runs)
        steps = {key: run.steps for key, run in named.items() if hasattr(run, "steps")} if steps is None else steps
        ratio = pca.explained_variance_ratio_ if explained_variance_ratio is None else explained_variance_ratio
        explained_variance_ratio = ratio
        references = {name: np.asarray(pca.transform(vector)) for name, vector in (references or {}).items()}
        pca = {key: pca.transform(run) for key, run in named.items()}
    if not pca:
        raise DataError("plot_trajectory_pca: no scores were given")
    axes = list(components)
    points = {key: _with_components(value, key, max(axes))[:, axes] for key, value in pca.items()}
    ax = _axes_of_space(ax, len(axes))
    found = series_styles(points, styles)
    for key, style in found.items():
        path = points[key]
        ax.plot(*path.T, color=style.color, linewidth=1.4, alpha=0.9, linestyle=style.linestyle, label=style.label)
        draw_ends(ax, path, style.color)
        step = None if t_crit is None else t_crit.get(key)
        if step is not None:
            if steps is None or key not in steps:
                raise DataError(f"plot_trajectory_pca: t_crit of {key!r} was given without its steps={{...}}")
            row = int(np.abs(np.asarray(steps[key]) - step).argmin())
            draw_mark(ax, path[row], color=style.color, marker="D", size=6.5, gid="t_crit", zorder=4)
    owned: dict[str, Key] = {}
    places: list[NDArray[np.float64]] = []
    for name, value in (references or {}).items():
        owner = (reference_of or {}).get(name)
        place = np.asarray(value, dtype=np.float64)[axes]
        if owner is not None and owner in found:
            owned[name] = owner
        marker, size, color = ("s", 7, found[owned[name]].color) if name in owned else ("*", 12, INK)
        draw_mark(ax, place, color=color, marker=marker, size=size, zorder=5, gid="reference")
        if name not in owned:
            _name_reference(ax, name, place, below=len(places) % 2 == 0)
            places.append(place)
    for name, component in zip("xyz", axes, strict=False):
        getattr(ax, f"set_{name}label")(_component_label(component, explained_variance_ratio))
    ax.margins(0.07)
    if legend:
        _legend(ax, list(owned), any(step is not None for step in (t_crit or {}).values()))
    return ax


def _axes_of_space(ax: Axes | None, dimensions: int) -> Axes:
    if dimensions == 2:
        return axes_or_new(ax, 4.8, 4.2)
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.figure(figsize=(5.6, 4.6), layout="constrained").add_subplot(projection="3d")
    if getattr(ax, "name", "") != "3d":
        raise DataError('plot_trajectory_pca: three components need an ax with projection="3d"')
    return ax


def _by_name(runs: Any) -> dict[Key, Any]:
    """Runs by the label of their axis or their folder's name, arrays as 'run 0', 'run 1', ..."""
    listed = [runs] if hasattr(runs, "outputs") or hasattr(runs, "shape") else list(runs)
    named: dict[Key, Any] = {}
    for number, run in enumerate(listed):
        name = f"run {number}"
        if hasattr(run, "path"):
            name = shown_text(_axis_label(run) or run.path.name)
        named[name if name not in named else f"{name}, {number}"] = run
    return named


def _axis_label(run: Any) -> str | None:
    try:
        axis = description_of(run).axis
    except (AttributeError, ConfigError):  # something like a trajectory, or a description that cannot be used
        return None
    return None if axis is None else axis.label


def plot_explained_variance(explained_variance_ratio: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Share of the variance of all function vectors that each component holds (bars), and their sum (line), in percent.

    Parameters
    ----------
    explained_variance_ratio : float [component], from 0 to 1.
    ax : where to draw; a new figure if None.
    """
    ratio = 100 * np.asarray(explained_variance_ratio, dtype=np.float64)
    if ratio.ndim != 1 or not ratio.size:
        raise DataError(f"plot_explained_variance: wanted a list of shares, got shape {ratio.shape}")
    ax = axes_or_new(ax, 3.8, 2.8)
    numbers = np.arange(1, len(ratio) + 1)
    ax.bar(numbers, ratio, color=CATEGORICAL[0], width=0.65, label="each")
    ax.plot(numbers, ratio.cumsum(), color=INK, marker="o", markersize=4, linewidth=1.1, label="sum so far")
    for number, share in zip(numbers, ratio, strict=True):
        inside = share > 12
        ax.annotate(
            f"{share:.1f}",
            (number, share),
            xytext=(0, -4 if inside else 2),
            textcoords="offset points",
            ha="center",
            va="top" if inside else "bottom",
            color="white" if inside else INK,
            fontsize=small_size(ax),
        )
    ax.set_xticks(numbers)
    ax.set_ylim(0, 105)
    ax.set_xlabel("Principal component")
    ax.set_ylabel("Explained variance (%)")
    small_legend(ax, loc="center right")
    return ax


def plot_components_over_time(
    scores: Mapping[Any, ArrayLike],
    steps: Mapping[Any, ArrayLike],
    *,
    component: int = 0,
    explained_variance_ratio: ArrayLike | None = None,
    cosine_content: Mapping[Any, ArrayLike] | None = None,
    references: Mapping[str, ArrayLike] | None = None,
    styles: Mapping[Any, SeriesStyle] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One principal component of every run over training, with its cosine content in the legend.

    PCA of a random walk gives cosines; a content near 1 means the component shows no more structure than that.

    Parameters
    ----------
    scores, steps : `{key: float [checkpoint, component]}` and `{key: int [checkpoint]}`.
    component : which one, counted from 0.
    explained_variance_ratio : float [component], for the axis label.
    cosine_content : `{key: float [component]}` from `ld.pca.cosine_content`, each from 0 to 1.
    references : `{name: float [component]}`, drawn as horizontal lines.
    styles, ax : see `plot_loss`.
    """
    if not scores or set(scores) - set(steps):
        raise DataError("plot_components_over_time: give scores and steps with the same keys")
    ax = axes_or_new(ax)
    points = {key: _with_components(value, key, component) for key, value in scores.items()}
    for key, style in series_styles(points, styles).items():
        label = style.label
        if cosine_content is not None and key in cosine_content:
            label += f" (cosine content {float(np.asarray(cosine_content[key])[component]):.2f})"
        ax.plot(np.asarray(steps[key]), points[key][:, component], color=style.color, ls=style.linestyle, label=label)
    set_step_axis(ax, max(int(np.asarray(steps[key])[-1]) for key in points))
    for name, value in (references or {}).items():
        level = float(np.asarray(value, dtype=np.float64)[component])
        draw_level(ax, level, name)
    ax.set_ylabel(_component_label(component, explained_variance_ratio))
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) > 1:
        small_legend(ax, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2 if len(handles) > 3 else 1)
    elif labels:
        panel_title(ax, labels[0])
    return ax


def _with_components(value: ArrayLike, key: Key, largest: int) -> NDArray[np.float64]:
    points = np.asarray(value, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] <= largest:
        raise DataError(
            f"scores of {key!r} have shape {points.shape}; wanted [checkpoint, component] with component "
            f"{largest + 1}; fit with a larger n_components"
        )
    return points


def _component_label(component: int, ratio: ArrayLike | None) -> str:
    if ratio is None:
        return f"PC{component + 1}"
    return f"PC{component + 1} ({100 * float(np.asarray(ratio)[component]):.1f}% of the variance)"


def _name_reference(ax: Any, name: str, place: NDArray[np.float64], below: bool) -> None:
    if len(place) == 3:
        ax.text(*place, f"  {name}", fontsize=small_size(ax), color=INK)
        return
    ax.annotate(
        name,
        (float(place[0]), float(place[1])),
        xytext=(7, -12 if below else 4),
        textcoords="offset points",
        fontsize=small_size(ax),
        color=INK,
        zorder=6,
        path_effects=[withStroke(linewidth=2.5, foreground=PAPER)],
    )


def _legend(ax: Axes, owned: list[str], crit: bool) -> None:
    """Runs, marks, and the references that take the colours of runs: names beside many squares would overlap."""
    handles, labels = ax.get_legend_handles_labels()
    every = -(-len(labels) // 9)  # a long sweep's legend names every second or third run; their order tells the rest
    dot: dict[str, Any] = {"linestyle": "none", "color": MUTED}
    marks = [(r"$t_{\mathrm{crit}}$", Line2D([], [], marker="D", markersize=6, **dot))] if crit else []
    if owned:
        marks.append((_common_name(owned), Line2D([], [], marker="s", markersize=7, **dot)))
    trajectory_legend(ax, zip(labels[::every], handles[::every], strict=True), marks)


def _common_name(names: list[str]) -> str:
    """'X' of 'X, M = 2' and 'X, M = 8': what stands before the comma, where that is one text."""
    stems = {name.split(",")[0] for name in names}
    return names[0] if len(names) == 1 else stems.pop() if len(stems) == 1 else "references of the runs"
