"""A figure of the page: panels that are drawn twice, by plotly on the page and by matplotlib as a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from llc_dynamics import plots
from llc_dynamics.curve import Curve
from llc_dynamics.plots.style import Key, SeriesStyle, panel_title, shown_text
from llc_dynamics.report.analysis import RunAnalysis
from llc_dynamics.report.interactive import Trace
from llc_dynamics.trajectory.files import storage_errors, write_whole


@dataclass(frozen=True)
class Panel:
    """One axes. `traces` and `layout` are plotly's; `draw(ax=...)` draws the same with matplotlib."""

    traces: Sequence[Trace]
    layout: Trace
    draw: Callable[..., object]
    title: str = ""
    projection: str | None = None


@dataclass(frozen=True)
class ReportFigure:
    """A figure as it stands on the page. `alt` is for those who do not see it, `caption` says how to read it.

    legend : what the colours mean, by the name of the lines. controls, below : markup before and after the panels.
    data : what the page's script needs besides. files : the panels of the static figure where they are others.
    """

    identifier: str
    title: str
    caption: str
    alt: str
    panels: Sequence[Panel]
    legend: Mapping[str, SeriesStyle] = field(default_factory=dict)
    controls: str = ""
    below: str = ""
    data: Any = None
    files: Sequence[Panel] = ()

    def static(self) -> Figure:
        """The figure as matplotlib draws it; pyplot does not know it."""
        panels = self.files or self.panels
        number = len(panels)
        columns = 1 if number == 1 else 2 if number in (2, 4) else 3
        rows = -(-number // columns)
        width, height = (6.8, 4.0) if number == 1 else (4.4 * columns, 3.3 * rows)
        with mpl.rc_context(plots.RC):
            figure = Figure(figsize=(width, height))
            figure.set_layout_engine("constrained")
            for place, panel in enumerate(panels, start=1):
                ax = figure.add_subplot(rows, columns, place, projection=panel.projection)
                panel.draw(ax=ax)
                if panel.title:
                    panel_title(ax, shown_text(panel.title))
        return figure

    def save(self, folder: Path) -> None:
        """Write the figure into `folder`, as PNG and as SVG."""
        with mpl.rc_context({**plots.RC, "svg.hashsalt": self.identifier}):
            figure = self.static()
            for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                save_figure(figure, folder / f"{self.identifier}.{ending}", dpi=160, metadata=metadata)


def save_figure(figure: Figure, path: Path, **settings: Any) -> None:
    """Write a figure as an image, whole or not at all; the ending of `path` chooses the format."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.removeprefix("."), **settings)
    with storage_errors(path):
        write_whole(path, drawn.getvalue())


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly from first to last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def curves_of(runs: Sequence[RunAnalysis], name: str) -> dict[Key, Curve]:
    """The metric `name` of all runs that have it, by label."""
    return {run.label: run.curves[name] for run in runs if name in run.curves}


def of_runs(styles: Mapping[Key, SeriesStyle], labels: Sequence[Any]) -> dict[str, SeriesStyle]:
    """The legend of these runs; none for a single one, which the title names."""
    return {str(label): styles[label] for label in labels} if len(labels) > 1 else {}
