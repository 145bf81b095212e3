"""The figures of a page: which ones, in which order, and in whose colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from llc_dynamics.plots.style import CATEGORICAL, LINES, Key, SeriesStyle, axis_colors, shown_text
from llc_dynamics.report import llc_figures, metric_figures, pca_figures, stage_figures
from llc_dynamics.report.analysis import Analysis
from llc_dynamics.report.chains import chains
from llc_dynamics.report.figure import ReportFigure


def report_figures(analysis: Analysis) -> list[ReportFigure]:
    """All figures that the runs have data for, in the order of the page."""
    styles = run_styles(analysis)
    makers: tuple[Callable[[Analysis, dict[Key, SeriesStyle]], Iterator[ReportFigure]], ...] = (
        metric_figures.judged_losses,
        metric_figures.distances,
        pca_figures.trajectory_pca,
        pca_figures.components,
        pca_figures.geometry,
        llc_figures.llc_curves,
        chains,
        stage_figures.stages,
        stage_figures.null_rates,
        llc_figures.llc_against_axis,
        llc_figures.calibration,
        metric_figures.losses,
        metric_figures.other_metrics,
    )
    found: dict[str, ReportFigure] = {}
    for figure in (figure for maker in makers for figure in maker(analysis, styles)):
        name = figure.identifier if figure.identifier not in found else f"{figure.identifier}-{len(found)}"
        found[name] = replace(figure, identifier=name)
    return list(found.values())


def run_styles(analysis: Analysis) -> dict[Key, SeriesStyle]:
    """One style for each run in all figures: the colour tells its place on the axis, the line style repeats of it."""
    colors = axis_colors(run.axis.value for run in analysis.runs if run.axis is not None)
    seen: Counter[Key] = Counter()
    styles: dict[Key, SeriesStyle] = {}
    for run in analysis.runs:
        if run.axis is None:
            color, line = CATEGORICAL[seen[""] % len(CATEGORICAL)], LINES[0]
            seen[""] += 1
        else:
            color, line = colors[run.axis.value], LINES[seen[run.axis.value] % len(LINES)]
            seen[run.axis.value] += 1
        styles[run.label] = SeriesStyle(shown_text(run.label), color, line)
    return styles
