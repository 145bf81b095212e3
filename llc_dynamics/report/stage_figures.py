"""The figure of developmental stages: one panel for each run with stages of its LLC."""

from __future__ import annotations

from collections.abc import Iterator

from llc_dynamics import plots
from llc_dynamics.plots.style import Key, SeriesStyle
from llc_dynamics.report.analysis import Analysis
from llc_dynamics.report.canvas import ReportFigure, finish, new_panels, plain_text
from llc_dynamics.report.developmental import LLC, StageFindings
from llc_dynamics.report.numbers import listed, step

_MAX_PANELS = 8


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
        title = plain_text(shown[number])
        plots.plot_stages(each.reports[LLC], each.curves[LLC], changes=each.changes, title=title, ax=ax)
    caption = (
        "Points: the estimates with 95% of their errors, hollow where they did not converge and were left out. Blue: "
        "the fitted curve with its 95% band. Orange lines: boundaries between stages that are resolved, with their "
        "probability and, shaded, their interval; dashed grey lines: candidates that are not. The strip says whether "
        "the curve rises (A) or falls (B) in a stage; a dash means not resolved, or a loss that does not fall. Marks "
        "on the lower edge: change points of the LLC alone (triangles) and of the joint signal with the "
        "out-of-distribution loss and the components (diamonds), filled where they lie within 0.1 decades of a "
        "resolved boundary, so that both methods agree. Straight lines cut a round turn at its two shoulders, so what "
        "is not found again is not thereby refuted. "
        "`llc-dynamics stages --null-check` says how often a boundary arises from nothing."
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
