"""Figures of the LLC: over training, with its stages, at the end against the axis of the runs, and its calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeGuard

import numpy as np

from llc_dynamics import plots
from llc_dynamics.curve import Curve
from llc_dynamics.plots.style import Key, SeriesStyle, axis_colors, shown_text
from llc_dynamics.report.analysis import Analysis
from llc_dynamics.report.canvas import ReportFigure, finish, new_figure, new_panels
from llc_dynamics.report.developmental import LLC, StageFindings
from llc_dynamics.report.numbers import listed, plain, step
from llc_dynamics.report.words import reaches_the_end, resolution
from llc_dynamics.systems.description import Axis

_MAX_PANELS = 8


def llc_curves(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """All stored curves, with what did not converge marked."""
    curves: dict[Key, Curve] = {run.label: run.llc for run in analysis.runs if run.llc is not None}
    if not curves:
        return
    figure, ax = new_figure(7.0, 3.9)
    crit = {run.label: float(run.t_crit) for run in analysis.runs if run.t_crit is not None}
    plots.plot_llc_curve(curves, t_crit=crit, styles=styles, ax=ax)
    caption = f"Estimated with {resolution(analysis)}. " + (
        "Bars and bands are 95% of the standard error. Hollow points did not pass the convergence checks and should "
        "not be believed; crosses on the axis are checkpoints without an estimate."
    )
    if any(curve.covariance is not None for curve in curves.values()):
        caption += (
            " All points of a curve have the same noise, so that their errors move together: the light band is the "
            "error of the level, the dark one that of a change from a point to the next."
        )
    if crit:
        caption += " Dotted lines mark the least loss of runs judged transient."
    rows = []
    for label, curve in curves.items():
        bad = 0 if curve.converged is None else int((~curve.converged).sum())
        known = curve.values[np.isfinite(curve.values)]
        span = f"from {plain(known[0])} to {plain(known[-1])}" if len(known) else "without any estimate"
        rows.append(f"{label} {span} up to step {step(curve.steps[-1])}, {bad} of {len(curve)} points unconverged")
    alt = f"Line plot of the LLC over training: {'; '.join(rows)}."
    yield finish(figure, "llc", "LLC over training", caption, alt)


def stages(analysis: Analysis, _: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """The LLC with its boundaries, and the change points below."""
    found: dict[str, StageFindings] = {
        run.label: run.stages for run in analysis.runs if run.stages is not None and LLC in run.stages.reports
    }
    if not found:
        return
    labels = list(found)
    shown = labels[:_MAX_PANELS]
    columns = min(len(shown), 2)
    rows = -(-len(shown) // columns)
    figure, panels = new_panels(rows, columns, 7.0 if columns == 1 else 9.0, 3.0 * rows + 0.3)
    for number, ax in enumerate(panels.ravel()):
        if number >= len(shown):
            ax.set_visible(False)
            continue
        each = found[shown[number]]
        title = shown_text(shown[number])
        plots.plot_stages(each.reports[LLC], each.curves[LLC], changes=each.changes, title=title, ax=ax)
    caption = (
        "Points: the estimates with 95% of their errors, hollow where they did not converge and were left out. Blue: "
        "the fitted curve with its 95% band, darker that of its shape. Orange lines: boundaries between stages that "
        "are resolved, with their probability and, shaded, their interval; dashed grey lines: candidates that are "
        "not. The strip says whether the curve rises (A) or falls (B) in a stage; a dash means not resolved, or a "
        "loss that does not fall. Marks on the lower edge: change points of the LLC alone (triangles) and of the "
        "joint signal with losses and components (diamonds), filled where they lie within 0.1 decades of a resolved "
        "boundary, so that both methods agree. Straight lines cut a round turn at its two shoulders, so what is not "
        "found again is not thereby refuted. `llc-dynamics stages --null-check` gives the false-positive rate at "
        "these points and errors."
    )
    if len(shown) < len(labels):
        caption += f" {len(shown)} of {len(labels)} runs are shown."
    rows_of_text = []
    for label in shown:
        report = found[label].reports[LLC]
        where = listed([step(each.step) for each in report.resolved]) if report.resolved else "none"
        rows_of_text.append(f"{label}: {where}")
    alt = f"Line plots of the LLC with boundaries between stages, at steps: {'; '.join(rows_of_text)}."
    yield finish(figure, "stages", "Developmental stages of the LLC", caption, alt)


def llc_against_axis(analysis: Analysis, _: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """The last point of each curve, where it is that of the last checkpoint, against a numeric axis of the runs."""
    rows = [
        (run.axis, float(run.axis.value), run.llc)
        for run in analysis.runs
        if run.llc is not None and run.axis is not None and not isinstance(run.axis.value, str) and reaches_the_end(run)
    ]
    if len({place for _, place, _ in rows}) < 2 or len({axis.name for axis, *_ in rows}) > 1:
        return
    places = [place for _, place, _ in rows]
    values = [float(curve.values[-1]) for *_, curve in rows]
    errors = [math.nan if curve.standard_errors is None else float(curve.standard_errors[-1]) for *_, curve in rows]
    good = [True if curve.converged is None else bool(curve.converged[-1]) for *_, curve in rows]
    colors = axis_colors(float(run.axis.value) for run in analysis.runs if _is_numeric(run.axis))
    styles: dict[Key, SeriesStyle] = {place: SeriesStyle(axis.label, colors[place]) for axis, place, _ in rows}
    name = rows[0][0].name
    figure, ax = new_figure(5.4, 3.4)
    plots.plot_llc_against(places, values, errors, good, name=shown_text(name), styles=styles, ax=ax)
    caption = "LLC of the last checkpoint of each run, with 95% Monte Carlo error"
    caption += f"; {name} = ∞ stands apart at the right" if any(map(math.isinf, places)) else ""
    caption += ". Hollow points did not converge. Runs may have been trained for different numbers of steps."
    points = [
        f"{axis.label} {plain(value)}{'' if ok else ' (did not converge)'}"
        for (axis, *_), value, ok in zip(rows, values, good, strict=True)
    ]
    alt = f"Plot of the final LLC: {'; '.join(points)}."
    yield finish(figure, "llc-axis", f"LLC at the end against {name}", caption, alt)


def _is_numeric(axis: Axis | None) -> TypeGuard[Axis]:
    return axis is not None and not isinstance(axis.value, str)


def calibration(analysis: Analysis, _: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """What the calibration of the LLC tried, and what it found."""
    found = analysis.calibration
    if found is None or not found.trials:
        return
    figure, ax = new_figure(7.0, 3.9)
    plots.plot_calibration(found, ax=ax)
    chosen = found.settings.sampler.localization
    said = [str(each) for each in found.findings]
    caption = (
        f"How the LLC depends on its resolution, with the {found.loss} loss: each line is a checkpoint, bars are 95%. "
        f"Chosen was gamma = {plain(chosen)}. {'. '.join(text[:1].upper() + text[1:] for text in said)}."
    )
    places = list(dict.fromkeys(trial.place for trial in found.trials))
    alt = (
        f"Line plot of the LLC against the localisation gamma at {listed(places)}; "
        f"{'a plateau was' if found.plateau else 'no plateau was'} seen."
    )
    yield finish(figure, "calibration", "Calibration of the LLC", caption, alt)
