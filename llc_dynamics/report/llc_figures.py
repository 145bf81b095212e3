"""Figures of the LLC: over training, and at the end against M."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from llc_dynamics import plots
from llc_dynamics.curve import Curve
from llc_dynamics.plots.style import Key, SeriesStyle
from llc_dynamics.report.analysis import Analysis
from llc_dynamics.report.canvas import ReportFigure, finish, new_figure
from llc_dynamics.report.numbers import listed, plain
from llc_dynamics.report.words import resolution


def llc_curves(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """All stored curves, with what did not converge marked."""
    curves: dict[Key, Curve] = {run.label: run.llc for run in analysis.runs if run.llc is not None}
    if not curves:
        return
    figure, ax = new_figure(7.0, 3.9)
    crit = {
        run.label: float(run.transience.t_crit)
        for run in analysis.runs
        if run.transience is not None and run.transience.t_crit is not None
    }
    plots.plot_llc_curve(curves, t_crit=crit, styles=styles, ax=ax)
    caption = f"Estimated with {resolution(analysis)}. " + (
        "Bars and bands are 95% of the Monte Carlo error. Hollow points did not pass the convergence checks and should "
        "not be believed; crosses on the axis are checkpoints without an estimate. Dotted lines mark the least "
        "out-of-distribution loss of runs judged transient."
    )
    rows = []
    for label, curve in curves.items():
        bad = 0 if curve.converged is None else int((~curve.converged).sum())
        known = curve.values[np.isfinite(curve.values)]
        span = f"from {plain(known[0])} to {plain(known[-1])}" if len(known) else "without any estimate"
        rows.append(f"{label} {span}, {bad} of {len(curve)} points unconverged")
    alt = f"Line plot of the LLC over training: {'; '.join(rows)}."
    yield finish(figure, "llc", "LLC over training", caption, alt)


def llc_against_tasks(analysis: Analysis, _: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """The last point of each curve, where it is that of the last checkpoint; the colours of M are those of all runs."""
    rows = [
        (run.num_tasks, run.llc)
        for run in analysis.runs
        if run.llc is not None and run.num_tasks is not None and run.llc.steps[-1] == run.steps[-1]
    ]
    if len({tasks for tasks, _ in rows}) < 2:
        return
    tasks = [m for m, _ in rows]
    values = [float(curve.values[-1]) for _, curve in rows]
    errors = [math.nan if curve.standard_errors is None else float(curve.standard_errors[-1]) for _, curve in rows]
    good = [True if curve.converged is None else bool(curve.converged[-1]) for _, curve in rows]
    everything = plots.task_colors([run.num_tasks for run in analysis.runs if run.num_tasks is not None])
    colors: dict[Key, SeriesStyle] = {m: SeriesStyle(plots.task_label(m), everything[m]) for m in tasks}
    figure, ax = new_figure(5.4, 3.4)
    plots.plot_llc_against_tasks(tasks, values, errors, good, styles=colors, ax=ax)
    caption = (
        "LLC of the last checkpoint of each run, with 95% Monte Carlo error; M = ∞ stands apart at the right. "
        "Hollow points did not converge. Runs may have been trained for different numbers of steps."
    )
    points = [
        f"{plots.task_label(m)} {plain(value)}{'' if ok else ' (did not converge)'}"
        for m, value, ok in zip(tasks, values, good, strict=True)
    ]
    yield finish(
        figure, "llc-tasks", "LLC at the end against M", caption, f"Plot of the final LLC: {'; '.join(points)}."
    )


def calibration(analysis: Analysis, _: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """What the calibration of the LLC tried, and what it found."""
    found = analysis.calibration
    if found is None or not found.trials:
        return
    figure, ax = new_figure(7.0, 3.9)
    plots.plot_calibration(found, ax=ax)
    chosen = found.settings.sampler.localization
    said = [finding.text[0].upper() + finding.text[1:] for finding in found.findings]
    caption = (
        f"How the LLC depends on its resolution, with the {found.loss} loss: each line is a checkpoint, bars are 95%. "
        f"Chosen was gamma = {plain(chosen)}. {'. '.join(said)}."
    )
    places = list(dict.fromkeys(trial.place for trial in found.trials))
    alt = (
        f"Line plot of the LLC against the localisation gamma at {listed(places)}; "
        f"{'a plateau was' if found.plateau else 'no plateau was'} seen."
    )
    yield finish(figure, "calibration", "Calibration of the LLC", caption, alt)
