"""Figures of `crossover.py`: lambda_hat across the crossover, predicted against observed, free energies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from crossover_predictions import Prediction, as_solutions
from crossover_runs import RunRecord
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from llc_dynamics.plots import plot_free_energy
from llc_dynamics.plots.step_axis import format_step, set_step_axis
from llc_dynamics.plots.style import (
    CATEGORICAL,
    MUTED,
    PAPER,
    RC,
    SeriesStyle,
    axes_or_new,
    axis_colors,
    key_label,
    panel_title,
    small_legend,
)

_MARKERS = ("o", "s", "^", "D", "v", "P")
_GREY = "#aab2bb"


def draw_llc(records: Sequence[RunRecord], path: Path) -> None:
    """One panel an M: lambda_hat of every seed with t_crit and its interval, and M = infinity in grey."""
    tasks = sorted({record.num_tasks for record in records if record.finite})
    seeds = sorted({record.seed for record in records})
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    with mpl.rc_context(RC):
        figure, axes = plt.subplots(
            rows, columns, figsize=(3.4 * columns, 2.6 * rows + 0.3), layout="constrained", squeeze=False, sharey=True
        )
        first = min(int(record.llc.curve.steps[0]) for record in records)
        last = max(record.last_step for record in records)
        for number, ax in enumerate(axes.flat):
            if number >= len(tasks):
                ax.set_axis_off()
                continue
            axes_or_new(ax)
            for record in records:
                if not record.finite:
                    _draw_curve(ax, record, _GREY, 1)
            for record in records:
                if record.num_tasks == tasks[number]:
                    color = CATEGORICAL[seeds.index(record.seed) % len(CATEGORICAL)]
                    _draw_curve(ax, record, color, 3)
                    _draw_t_crit(ax, record, color)
            set_step_axis(ax, last, linear_width=1.0, first_step=0.8 * first)
            panel_title(ax, f"M = {key_label(tasks[number])}")
            if number < len(tasks) - columns:
                ax.set_xlabel("")
            if number % columns == 0:
                ax.set_ylabel(r"$\hat\lambda$")
        handles = [
            Line2D([], [], color=CATEGORICAL[place % len(CATEGORICAL)], label=f"seed {seed}")
            for place, seed in enumerate(seeds)
        ]
        handles += [
            Line2D([], [], color=_GREY, label="M = ∞, the same seeds"),
            Line2D([], [], color=MUTED, linestyle="--", linewidth=1.0, label=r"$t_\mathrm{crit}$, 90% interval"),
            Line2D([], [], color=MUTED, linestyle=":", linewidth=1.0, label="not resolved"),
            Line2D([], [], color=MUTED, marker="o", markerfacecolor=PAPER, linestyle="none", label="not converged"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        figure.savefig(path)
        plt.close(figure)


def _draw_curve(ax: Axes, record: RunRecord, color: str, order: int) -> None:
    llc = record.llc
    if llc.fit is not None:
        steps = np.expm1(llc.fit.grid)
        error = llc.paths.std(axis=0)
        ax.plot(steps, llc.fit.mean, color=color, linewidth=1.4, zorder=order)
        ax.fill_between(steps, llc.fit.mean - error, llc.fit.mean + error, color=color, alpha=0.18, linewidth=0)
    assert llc.curve.converged is not None
    for converged, face in ((True, color), (False, PAPER)):
        chosen = llc.curve.converged == converged
        ax.errorbar(
            llc.curve.steps[chosen],
            llc.curve.values[chosen],
            None if llc.curve.standard_errors is None else llc.curve.standard_errors[chosen],
            fmt="o",
            markersize=3.4,
            color=color,
            markerfacecolor=face,
            elinewidth=0.9,
            zorder=order + 0.5,
        )


def _draw_t_crit(ax: Axes, record: RunRecord, color: str) -> None:
    if record.status == "censored":
        return
    ax.axvspan(*record.t_crit_interval, color=color, alpha=0.10, linewidth=0)
    ax.axvline(record.t_crit, color=color, linewidth=1.0, linestyle="--" if record.status == "transient" else ":")


def draw_order(
    predictions: Mapping[str, Sequence[Prediction]], factors: Mapping[str, float | None], path: Path
) -> None:
    """Predicted against observed t_crit, one panel a definition; the prediction is c r with one fitted c a panel."""
    tasks = axis_colors({one.record.num_tasks for some in predictions.values() for one in some})
    seeds = sorted({one.record.seed for some in predictions.values() for one in some})
    with mpl.rc_context(RC):
        figure, axes = plt.subplots(
            1, len(predictions), figsize=(3.3 * len(predictions), 4.0), layout="constrained", squeeze=False, sharey=True
        )
        for ax, (definition, found) in zip(axes.flat, predictions.items(), strict=True):
            axes_or_new(ax)
            panel_title(ax, definition)
            _draw_panel(ax, found, factors[definition], tasks, seeds)
        axes[0, 0].set_ylabel(r"Observed $t_\mathrm{crit}$ (steps)")
        handles = [
            Line2D([], [], color=MUTED, marker=_MARKERS[k % len(_MARKERS)], linestyle="none", label=f"seed {seed}")
            for k, seed in enumerate(seeds)
        ]
        handles += [
            Line2D([], [], color=color, linewidth=4, label=f"M = {key_label(number)}")
            for number, color in tasks.items()
            if math.isfinite(number)
        ]
        dot: dict[str, Any] = {"color": MUTED, "linestyle": "none"}
        handles += [
            Line2D([], [], marker="o", markerfacecolor=PAPER, label="no verdict", **dot),
            Line2D([], [], marker="<", label="from the beginning (r = 0)", **dot),
            Line2D([], [], marker=">", label="never", **dot),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
        figure.savefig(path)
        plt.close(figure)


def _draw_panel(
    ax: Axes, found: Sequence[Prediction], factor: float | None, tasks: Mapping[float, str], seeds: Sequence[int]
) -> None:
    """Arrows at the left edge: predicted from the beginning (r = 0); at the right: never. Hollow: no verdict."""
    ax.set(xscale="log", yscale="log", xlabel=r"Predicted $t_\mathrm{crit}$ = c $\Delta\lambda/\Delta\ell$ (steps)")
    placed = [one for one in found if 0 < one.ratio < math.inf]
    if not found or not placed or factor is None:
        ax.text(0.5, 0.5, "no finite prediction", transform=ax.transAxes, ha="center", color=MUTED)
        return
    xs, ys = [factor * one.ratio for one in placed], [max(one.record.t_crit, 1) for one in found]
    left, right = min(*xs, *ys) / 3, max(*xs, *ys) * 3
    ax.plot([left, right], [left, right], color=MUTED, linewidth=0.9, zorder=1)
    for one in found:
        record, color = one.record, tasks[one.record.num_tasks]
        x = min(max(factor * one.ratio, left * 1.1), right / 1.1)
        y = max(record.t_crit, 1)
        bars = {"color": color, "linewidth": 0.9, "alpha": 0.7, "zorder": 2}
        if one.ratio_interval is not None:
            ends = [min(max(factor * end, left), right) for end in one.ratio_interval]
            ax.plot(ends, [y, y], **bars)
        if record.status == "censored":
            ax.annotate("", (x, y * 1.35), (x, y), arrowprops={"arrowstyle": "->", "color": color})
        else:
            ax.plot([x, x], [max(end, 1) for end in record.t_crit_interval], **bars)
        marker = "<" if one.ratio == 0 else ">" if math.isinf(one.ratio) else _MARKERS[seeds.index(record.seed) % 6]
        face = color if record.status == "transient" else PAPER
        ax.plot([x], [y], marker=marker, markersize=5.5, color=color, markerfacecolor=face, linestyle="none", zorder=3)
    ax.set_xlim(left, right)
    ax.set_ylim(min(ys) / 1.6, max(ys) * 1.8)
    for axis, low, high in ((ax.xaxis, left, right), (ax.yaxis, *ax.get_ylim())):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 60 * low else (1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_step(value)))
        axis.set_minor_formatter(NullFormatter())


def draw_free_energy(predictions: Mapping[str, Sequence[Prediction]], num_tasks: float, path: Path) -> None:
    """Free energy of dMMSE_M less ridge's against n in training sequences, at one M, one line a seed."""
    shown = {
        definition: [one for one in some if one.record.num_tasks == num_tasks]
        for definition, some in predictions.items()
        if definition != "loss only"
    }
    shown = {definition: some for definition, some in shown.items() if some}
    if not shown:
        return
    with mpl.rc_context(RC):
        figure, axes = plt.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.4), layout="constrained", squeeze=False)
        for ax, (definition, some) in zip(axes.flat, shown.items(), strict=True):
            names = ("ridge", "dMMSE")
            pairs = {
                f"seed {one.record.seed}": as_solutions(one.gain, one.price, one.price_error, names) for one in some
            }
            errors = {f"seed {one.record.seed}": one.gain_error for one in some}
            styles = {key: SeriesStyle(key, CATEGORICAL[place % len(CATEGORICAL)]) for place, key in enumerate(pairs)}
            plot_free_energy(pairs, loss_difference_error=errors, styles=styles, ax=ax)
            if len(pairs) > 1:
                small_legend(ax, loc="upper right")
            ax.set_xlabel("Training sequences n (log scale)")
            panel_title(ax, f"M = {key_label(num_tasks)}, {definition}")
        figure.savefig(path)
        plt.close(figure)
