"""The figure of distances to the ideal predictors: one panel for each run and distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes

from llc_dynamics import plots
from llc_dynamics.plots.style import Key, SeriesStyle
from llc_dynamics.report.analysis import Analysis, RunAnalysis
from llc_dynamics.report.canvas import ReportFigure, finish, new_panels, one_y_label, plain_text
from llc_dynamics.report.numbers import plain

_MAX_PANELS = 8


def distances(analysis: Analysis, _: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """Each panel is one run: its colours tell the predictors apart, not the runs."""
    runs = [run for run in analysis.runs if {"ridge_distance_ood", "ridge_distance_id"} & set(run.curves)]
    if not runs:
        return
    shown = _spread(runs, _MAX_PANELS)
    columns = min(len(shown), 4)
    blocks = -(-len(shown) // columns)
    # A single run has its two panels side by side; several stand in columns, in distribution above.
    rows = (1, 2) if len(shown) == 1 else (2 * blocks, columns)
    width = min(2.45 * rows[1] + 0.8, 10.5) if rows[1] > 2 else 7.0
    figure, panels = new_panels(*rows, width, 2.45 * rows[0] + 0.3, sharex=True, sharey=True)
    used: set[Axes] = set()
    for number, run in enumerate(shown):
        block, column = divmod(number, columns)
        for row, (where, words) in enumerate((("id", "in distribution"), ("ood", "out of distribution"))):
            ax = panels[0, row] if len(shown) == 1 else panels[2 * block + row, column]
            if f"ridge_distance_{where}" not in run.curves:
                continue
            used.add(ax)
            crit = None if run.transience is None else run.transience.t_crit
            plots.plot_distances(
                run.curves[f"ridge_distance_{where}"],
                run.curves.get(f"dmmse_distance_{where}"),
                t_crit=crit,
                title=f"{plain_text(run.label)}, {words}",
                legend=number == 0 and row == 0,
                ax=ax,
            )
    # The panels share their x axis, and each has just set it to its own last step.
    plots.set_step_axis(panels[-1, 0], max(float(run.steps[-1]) for run in shown))
    for (row, column), ax in np.ndenumerate(panels):
        if ax not in used:
            ax.set_visible(False)
        if column:
            ax.set_ylabel("")
        if row < len(panels) - 1:
            ax.set_xlabel("")
    if len(panels) > 1:
        one_y_label(figure, panels, "Mean squared difference of predictions")
    caption = (
        "Blue: to ridge. Orange, dashed: to dMMSE of the run's own M. In distribution means sequences whose task is "
        "one of the M training tasks; out of distribution, any Gaussian task. The dotted line marks the least "
        "out-of-distribution loss of runs judged transient. There is no dMMSE at M = ∞."
    )
    if len(shown) < len(runs):
        caption += f" {len(shown)} of {len(runs)} runs are shown, spread evenly over M."
    ends = []
    for run in shown:
        for name, words in (("ridge_distance_ood", "ridge"), ("dmmse_distance_ood", "dMMSE")):
            if name in run.curves:
                values = run.curves[name].values
                least, end = plain(float(np.nanmin(values))), plain(float(values[-1]))
                ends.append(f"{run.label} to {words}: {least} at least, {end} at the end")
    alt = f"Line plots of distances to the ideal predictors over training; out of distribution, {'; '.join(ends)}."
    yield finish(figure, "distances", "Distances to the ideal predictors", caption, alt)


def _spread(runs: Sequence[RunAnalysis], number: int) -> list[RunAnalysis]:
    if len(runs) <= number:
        return list(runs)
    return [runs[round(i * (len(runs) - 1) / (number - 1))] for i in range(number)]
