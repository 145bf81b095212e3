"""The figures of a page: which ones, in which order, and in whose colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llc_dynamics import plots
from llc_dynamics.plots.style import CATEGORICAL, Key, SeriesStyle
from llc_dynamics.report import geometry_figures, llc_figures, loss_figures, pca_figures, stage_figures
from llc_dynamics.report.analysis import Analysis
from llc_dynamics.report.canvas import ReportFigure, plain_text
from llc_dynamics.report.distance_figures import distances

_LINES = ("-", "--", "-.", ":")  # seeds of one M


def report_figures(analysis: Analysis) -> list[ReportFigure]:
    """All figures that the runs have data for, in the order of the page."""
    styles = run_styles(analysis)
    makers: tuple[Callable[[Analysis, dict[Key, SeriesStyle]], Iterator[ReportFigure]], ...] = (
        loss_figures.ood_loss,
        loss_figures.rebound,
        distances,
        pca_figures.trajectory_pca,
        pca_figures.components,
        geometry_figures.geometry,
        llc_figures.llc_curves,
        stage_figures.stages,
        llc_figures.llc_against_tasks,
        llc_figures.calibration,
        loss_figures.losses,
        loss_figures.other_metrics,
    )
    return [figure for maker in makers for figure in maker(analysis, styles)]


def run_styles(analysis: Analysis) -> dict[Key, SeriesStyle]:
    """One style for each run in all figures: the colour tells M, the line style tells runs of one M apart."""
    colors = plots.task_colors([run.num_tasks for run in analysis.runs if run.num_tasks is not None])
    seen: dict[float, int] = {}
    styles: dict[Key, SeriesStyle] = {}
    others = 0
    for run in analysis.runs:
        if run.num_tasks is None:
            styles[run.label] = SeriesStyle(plain_text(run.label), CATEGORICAL[others % len(CATEGORICAL)])
            others += 1
        else:
            repeat = seen[run.num_tasks] = seen.get(run.num_tasks, -1) + 1
            line = _LINES[repeat % len(_LINES)]
            styles[run.label] = SeriesStyle(plain_text(run.label), colors[run.num_tasks], line)
    return styles
