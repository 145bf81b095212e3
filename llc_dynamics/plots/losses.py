"""Losses and distances over training, and how far a loss rose above its least value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from llc_dynamics.curve import Curve
from llc_dynamics.errors import DataError
from llc_dynamics.plots.bands import CurveOrCurves, as_mapping, draw_curve, last_step, suits_log_scale, value_at
from llc_dynamics.plots.step_axis import set_log_axis, set_step_axis
from llc_dynamics.plots.style import (
    CATEGORICAL,
    INK,
    LINES,
    MUTED,
    SeriesStyle,
    axes_or_new,
    draw_mark,
    panel_title,
    series_styles,
    small_legend,
    small_size,
)


def plot_loss(
    curves: CurveOrCurves,
    *,
    ylabel: str = "Loss",
    levels: Mapping[str, float] | None = None,
    verdicts: Mapping[Any, Any] | Any = None,
    log: bool | None = None,
    styles: Mapping[Any, SeriesStyle] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Any metric over training, one line per run through the points that are known.

    Parameters
    ----------
    curves : an `ld.Curve`, or `{key: curve}`, a key being a number or a name. Bands are 95% of the standard errors.
    ylabel : label of the y axis, with the unit. levels : `{label: value}`, horizontal reference lines.
    verdicts : a verdict of `detect_transience`, or `{key: verdict}`. A transient one is marked with a diamond at
        (t_crit, value there) and its interval; others are not marked.
    log : whether the y axis is logarithmic; None for positive values that span more than a decade.
    styles : see `series_styles`. ax : where to draw; a new figure if None.

    Raises `DataError` for what is no curve, and for one verdict beside several curves.
    """
    found = as_mapping(curves, "plot_loss")
    if not isinstance(verdicts, Mapping):
        if verdicts is not None and len(found) != 1:
            raise DataError(f"plot_loss: one verdict for {len(found)} curves; give {{key: verdict}}")
        verdicts = {} if verdicts is None else dict.fromkeys(found, verdicts)
    ax = axes_or_new(ax)
    for key, style in series_styles(found, styles).items():
        draw_curve(ax, found[key], color=style.color, linestyle=style.linestyle, label=style.label)
        verdict = verdicts.get(key)
        if verdict is not None and verdict.transient and verdict.t_crit is not None:
            _mark_t_crit(ax, verdict, value_at(found[key], verdict.t_crit), style.color)
    set_step_axis(ax, last_step(found))
    if suits_log_scale(found.values()) if log is None else log:
        set_log_axis(ax)
    for label, level in (levels or {}).items():
        draw_level(ax, level, label)
    low, high = ax.get_ylim()
    if ax.get_yscale() == "linear" and 0 < low < 0.25 * high:
        ax.set_ylim(0.0, high)
    ax.set_ylabel(ylabel)
    small_legend(ax)
    return ax


def plot_distances(
    curves: CurveOrCurves,
    *,
    t_crit: float | None = None,
    title: str | None = None,
    log: bool | None = None,
    styles: Mapping[Any, SeriesStyle] | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """How far one run's outputs are from those of reference solutions, over training, on one set of samples.

    Parameters
    ----------
    curves : `{reference: ld.Curve}` of mean squared differences; colours and line styles tell the references apart.
        Curves without any finite value are left out.
    t_crit : step to mark with a thin line. title : over the left edge. legend : whether to draw one.
    log, styles, ax : as in `plot_loss`.
    """
    found = as_mapping(curves, "plot_distances")
    ax = axes_or_new(ax)
    given = dict(styles or {})
    for key, color, line in zip(found, cycle(CATEGORICAL), cycle(LINES)):
        given.setdefault(key, SeriesStyle(f"to {key}", color, line))
    for key, style in series_styles(found, given).items():
        if np.isfinite(found[key].values).any():
            draw_curve(ax, found[key], color=style.color, linestyle=style.linestyle, label=style.label)
    set_step_axis(ax, last_step(found))
    if suits_log_scale(found.values()) if log is None else log:
        set_log_axis(ax)
    if t_crit is not None:
        ax.axvline(t_crit, color=INK, linewidth=0.8, linestyle=":", label="_t_crit")
    ax.set_ylabel("Mean squared difference of outputs")
    if title is not None:
        panel_title(ax, title)
    if legend:
        small_legend(ax, loc="lower left")
    return ax


def plot_rebound(
    curves: CurveOrCurves,
    *,
    since: Mapping[Any, int] | None = None,
    styles: Mapping[Any, SeriesStyle] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Paired change of a loss since its least value: how far it has rebounded, in percent of that value.

    At each step the difference to the step of least loss is taken sample by sample, so that the spread between
    samples cancels; the band is 95% of the standard error of that paired mean. Steps before it are left out.

    Parameters
    ----------
    curves : an `ld.Curve` with `samples` [C, S], or `{key: curve}`; without samples no band is drawn.
    since : `{key: step}`, the step to compare with, such as `verdict.minimum_step`; by default that of the least value.
    styles, ax : see `plot_loss`.
    """
    found = as_mapping(curves, "plot_rebound")
    ax = axes_or_new(ax)
    changes = {key: since_minimum(curve, (since or {}).get(key)) for key, curve in found.items()}
    for key, style in series_styles(found, styles).items():
        draw_curve(ax, changes[key], color=style.color, linestyle=style.linestyle, label=style.label)
    ax.axhline(0.0, color=MUTED, linewidth=0.8)
    first = min(int(curve.steps[0]) for curve in changes.values())
    set_step_axis(ax, last_step(found), first_step=first)
    ax.set_ylabel("Rise above the least loss (%)")
    small_legend(ax)
    return ax


def since_minimum(curve: Curve, step: int | None = None) -> Curve:
    """Change since `step` (default: that of the least value), in percent of the value there, with its paired error."""
    least = int(np.nanargmin(curve.values)) if step is None else int(np.abs(curve.steps - step).argmin())
    scale = 100.0 / abs(float(curve.values[least]))
    errors = None
    if curve.samples is not None and curve.samples.shape[1] > 1:
        paired = np.asarray(curve.samples[least:], dtype=np.float64) - np.asarray(curve.samples[least], np.float64)
        errors = scale * paired.std(axis=1, ddof=1) / math.sqrt(paired.shape[1])
    change = scale * (curve.values[least:] - curve.values[least])
    return Curve(curve.steps[least:], change, errors, name=f"{curve.name} since its minimum")


def draw_level(ax: Axes, level: float, label: str, color: str = MUTED) -> None:
    """A dashed horizontal line across the axes, with its label on it at the left."""
    ax.axhline(level, color=color, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1.5)
    ax.annotate(
        label,
        (0.012, level),
        xycoords=ax.get_yaxis_transform(),
        xytext=(0, 2.5),
        textcoords="offset points",
        color=INK,
        fontsize=small_size(ax),
    )


def _mark_t_crit(ax: Axes, verdict: Any, loss: float, color: str) -> None:
    low, high = verdict.t_crit_interval if verdict.t_crit_interval is not None else (verdict.t_crit, verdict.t_crit)
    ax.plot([low, high], [loss, loss], color=color, linewidth=4.0, alpha=0.45, solid_capstyle="butt", zorder=3)
    draw_mark(ax, (verdict.t_crit, loss), color=color, marker="D", size=6, zorder=4, gid="t_crit")
