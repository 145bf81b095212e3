"""How far a model's predictions are from those of the ideal predictors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from llc_dynamics.curve import Curve
from llc_dynamics.plots.bands import CurveOrCurves, as_mapping, draw_curve, last_step
from llc_dynamics.plots.step_axis import set_log_axis, set_step_axis
from llc_dynamics.plots.style import (
    DMMSE_COLOR,
    INK,
    RIDGE_COLOR,
    SeriesStyle,
    axes_or_new,
    legend_settings,
    panel_title,
    series_styles,
    small_legend,
)

_DASHED = "--"


def plot_distances(
    to_ridge: CurveOrCurves,
    to_dmmse: CurveOrCurves | None = None,
    *,
    t_crit: float | None = None,
    title: str | None = None,
    styles: Mapping[Any, SeriesStyle] | None = None,
    linear_width: float | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Mean squared difference between the model's predictions and those of ridge and of dMMSE_M, over training.

    One distribution of sequences per axes (in distribution q_M, or out of distribution q_inf), as in Carroll et al.
    2025. For one run (a single curve each) colours tell the predictors apart; for several (`{M: curve}`) colours tell
    the runs apart, and distances to ridge are solid, to dMMSE_M dashed.

    Parameters
    ----------
    to_ridge, to_dmmse : an `ld.Curve` or `{M: curve}` each. Curves without any finite value (there is no dMMSE at
        M = infinity) are left out.
    t_crit : step to mark with a thin line.
    title, styles, linear_width, ax : as in the other plots. legend : whether to draw one.
    """
    ridge = as_mapping(to_ridge, "plot_distances")
    dmmse = {} if to_dmmse is None else as_mapping(to_dmmse, "plot_distances")
    several = isinstance(to_ridge, Mapping)
    ax = axes_or_new(ax)
    if several:
        for key, style in series_styles([*ridge, *(key for key in dmmse if key not in ridge)], styles).items():
            _draw(ax, ridge.get(key), style.color, "-", style.label)
            _draw(ax, dmmse.get(key), style.color, _DASHED, None)
    else:
        _draw(ax, next(iter(ridge.values())), RIDGE_COLOR, "-", "to ridge")
        _draw(ax, next(iter(dmmse.values()), None), DMMSE_COLOR, _DASHED, "to dMMSE")
    set_step_axis(ax, max(last_step(ridge), last_step(dmmse) if dmmse else 0), linear_width)
    values = [line.get_ydata() for line in ax.get_lines()]
    if values and min(np.nanmin(v) for v in values) > 0:
        set_log_axis(ax)
    if t_crit is not None:
        ax.axvline(t_crit, color=INK, linewidth=0.8, linestyle=":", label="_t_crit")
    ax.set_ylabel("Mean squared difference of predictions")
    if title is not None:
        panel_title(ax, title)
    first = small_legend(ax, loc="lower left") if legend else None
    if legend and several and dmmse:
        if first is not None:
            ax.add_artist(first)
        keys = [Line2D([], [], color=INK, label="to ridge"), Line2D([], [], color=INK, ls=_DASHED, label="to dMMSE")]
        ax.legend(handles=keys, loc="upper right", **legend_settings(ax))
    return ax


def _draw(ax: Axes, curve: Curve | None, color: str, linestyle: str, label: str | None) -> None:
    if curve is not None and np.isfinite(curve.values).any():
        draw_curve(ax, curve, color=color, linestyle=linestyle, label=label)
