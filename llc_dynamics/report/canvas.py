"""What the figures of a page have in common: how they begin, and what they are on the page.

A figure is markup that needs no other file: inline SVG in the colours of the page, or PNG where that is smaller.
"""

from __future__ import annotations

import base64
import colorsys
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llc_dynamics import plots
from llc_dynamics.curve import Curve
from llc_dynamics.plots.style import GRID, INK, MUTED, PAPER, Key
from llc_dynamics.report.analysis import RunAnalysis
from llc_dynamics.trajectory.files import storage_errors, write_whole

_HEX = re.compile(r"#[0-9a-f]{6}\b")
# What the neutral colours become on a dark page. Others are made light enough to be seen on it.
_DARK = {INK: "#e6e9ec", MUTED: "#98a2ad", GRID: "#2f353b", PAPER: "#16191d"}
_DARK_LIGHTNESS = 0.62
_PNG_DPI = 144
_LARGE_SVG = 150_000  # characters, from which a PNG is tried


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
            save_figure(self.figure, path, dpi=160)


def save_figure(figure: Figure, path: Path, **settings: Any) -> None:
    """Write a figure as an image, whole or not at all; the ending of `path` chooses the format."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.removeprefix("."), **settings)
    with storage_errors(path):
        write_whole(path, drawn.getvalue())


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


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly from first to last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def one_y_label(figure: Figure, panels: np.ndarray, label: str) -> None:
    """One label for all panels instead of one each."""
    for ax in panels.ravel():
        ax.set_ylabel("")
    figure.supylabel(label, fontsize=plots.RC["axes.labelsize"], color=plots.RC["axes.labelcolor"])


def curves_of(runs: Sequence[RunAnalysis], name: str) -> dict[Key, Curve]:
    """The metric `name` of all runs that have it, by label."""
    return {run.label: run.curves[name] for run in runs if name in run.curves}


def figure_markup(figure: Figure, identifier: str, alt: str) -> tuple[str, set[str]]:
    """Markup of `figure` and the colours in it, for `color_rules`.

    `identifier` (letters, digits, '-') is unique on the page: all ids in the SVG begin with it. `alt` says in words
    what the figure shows, for those who do not see it.
    """
    # Once: saving would lay the figure out again each time, and that is most of the work.
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    svg = _svg(figure, identifier, alt)
    png = _png(figure, alt) if len(svg) > _LARGE_SVG else None
    if png is not None and len(png) < len(svg):
        return png, set()
    colors = set(_HEX.findall(svg))
    return _HEX.sub(lambda match: f"var(--c{match[0][1:]},{match[0]})", svg), colors


def color_rules(colors: set[str]) -> str:
    """CSS variables for the colours of figures, for dark pages: `--c3355cc: #...;`. Light pages use the defaults."""
    return "".join(f"--c{color[1:]}:{dark_variant(color)};" for color in sorted(colors))


def dark_variant(color: str) -> str:
    """The colour to use on a dark page: the same hue, at least `_DARK_LIGHTNESS` light."""
    if color in _DARK:
        return _DARK[color]
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    rgb = colorsys.hls_to_rgb(hue, max(lightness, _DARK_LIGHTNESS), saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def _svg(figure: Figure, identifier: str, alt: str) -> str:
    buffer = io.StringIO()
    # Glyphs as paths: the labels fit whatever fonts the reader has. The salt makes the same figure the same text.
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": identifier}):
        figure.savefig(buffer, format="svg", facecolor=PAPER, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text, count=2).replace("xlink:href", "href")
    text = _own_identifiers(text, identifier)
    # A hundredth of a point is enough for paths; the scales of glyphs need all their digits.
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d{2})\d+", r"\1", path[0]), text)
    text = re.sub(r">\s+<", "><", text)
    label = f'<svg role="img" aria-label="{html.escape(alt)}"'
    return text.replace("<svg", label, 1).strip()


def _own_identifiers(svg: str, prefix: str) -> str:
    """Drop the ids that nothing refers to, and put `prefix` before the others: ids are shared by the whole page."""
    used = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", svg))

    def renamed(match: re.Match[str]) -> str:
        return f' id="{prefix}-{match[1]}"' if match[1] in used else ""

    svg = re.sub(r'\s+id="([^"]*)"', renamed, svg)
    return re.sub(r'(href="|url\()#', rf"\1#{prefix}-", svg)


def _png(figure: Figure, alt: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PNG_DPI, facecolor=PAPER, metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
