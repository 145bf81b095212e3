"""What the figures of a page have in common: how they begin, how they end, and what they are on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llc_dynamics import plots
from llc_dynamics.curve import Curve
from llc_dynamics.plots.style import Key
from llc_dynamics.report.analysis import RunAnalysis
from llc_dynamics.report.embed import figure_markup


@dataclass(frozen=True)
class ReportFigure:
    """A figure as it stands on the page. `alt` is for those who do not see it, `caption` says how to read it.

    `figure` is what `markup` was drawn from, for those who want it as a file.
    """

    identifier: str
    title: str
    caption: str
    alt: str
    markup: str
    colors: frozenset[str]
    figure: Figure

    def save(self, path: Path) -> None:
        """Write the figure as an image; the ending of `path` chooses the format."""
        with mpl.rc_context(plots.RC):
            self.figure.savefig(path, dpi=160)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one axes, `width` by `height` inches, that pyplot does not know."""
    figure, panels = new_panels(1, 1, width, height)
    return figure, panels[0, 0]


def new_panels(
    rows: int, columns: int, width: float, height: float, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, np.ndarray]:
    """A figure of `rows` by `columns` axes [row, column]."""
    with mpl.rc_context(plots.RC):
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)


def finish(figure: Figure, identifier: str, title: str, caption: str, alt: str) -> ReportFigure:
    """The figure as markup with its words."""
    with mpl.rc_context(plots.RC):
        markup, colors = figure_markup(figure, identifier, alt)
    return ReportFigure(identifier, title, caption, alt, markup, frozenset(colors), figure)


def one_y_label(figure: Figure, panels: np.ndarray, label: str) -> None:
    """One label for all panels instead of one each."""
    for ax in panels.ravel():
        ax.set_ylabel("")
    figure.supylabel(label, fontsize=plots.RC["axes.labelsize"], color=plots.RC["axes.labelcolor"])


def curves_of(runs: Sequence[RunAnalysis], name: str) -> dict[Key, Curve]:
    """The metric `name` of all runs that have it, by label."""
    return {run.label: run.curves[name] for run in runs if name in run.curves}


def plain_text(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would begin a formula, a leading underscore hide the line."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
