"""One self-contained HTML page about a set of runs: it opens anywhere and fetches nothing."""

from __future__ import annotations

import base64
import colorsys
import functools
import gzip
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from llc_dynamics.errors import TrajectoryError
from llc_dynamics.finding import Finding
from llc_dynamics.plots.style import GRID, INK, MUTED, PAPER, SeriesStyle
from llc_dynamics.report import words
from llc_dynamics.report.analysis import Analysis, analyse, stored_calibration
from llc_dynamics.report.developmental import null_sentences, stage_sentences
from llc_dynamics.report.figure import ReportFigure
from llc_dynamics.report.figures import report_figures
from llc_dynamics.report.joint_pca import pca_sentences
from llc_dynamics.report.reproduce import provenance_markup, reproduce_markup
from llc_dynamics.report.tables import run_table, unconverged_table
from llc_dynamics.report.transitions import verdict_notes
from llc_dynamics.systems.description import Description
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.files import storage_errors, write_whole

_HEX = re.compile(r"#[0-9a-f]{6}\b")
# What the neutral colours become on a dark page. Others are made light enough to be seen on it.
_DARK = {INK: "#e6e9ec", MUTED: "#98a2ad", GRID: "#2f353b", PAPER: "#16191d"}
_DARK_LIGHTNESS = 0.62


def write_report(
    runs: Sequence[Trajectory] | Trajectory | str | Path,
    path: str | Path,
    *,
    llc_name: str = "llc",
    seed: int = 0,
    figures: str | Path | None = None,
    describe: Callable[[Trajectory], Description] | None = None,
    null_check: int = 0,
) -> Path:
    """Write the page and return its path. The file appears whole or not at all.

    Parameters
    ----------
    runs : opened runs, one run, or a run folder or folder of runs.
    path : the page to write; folders on the way are made.
    llc_name : name of the stored LLC curves. seed : of the detectors' bootstrap.
    figures : a folder to write every figure of the page into as well, as PNG and as SVG.
    describe : what describes a run that stores no description.
    null_check : curves of each kind without stages, for the false-positive rates of each run; 0 for none.

    Raises `TrajectoryError` if there is no run, none can be read, or something cannot be written.
    """
    path, folder = Path(path), None
    notes: list[Finding] = []
    if path.is_dir():
        raise TrajectoryError(f"{path}: is a folder; name the page to write, for example {path / 'report.html'}")
    if isinstance(runs, str | Path):
        from llc_dynamics.sweeps import find_runs

        folder = Path(runs)
        opened: list[Trajectory] = find_runs(folder, lambda text: notes.append(Finding("run_left_out", text)))
    elif isinstance(runs, Trajectory):
        folder, opened = runs.path, [runs]
    else:
        opened = list(runs)
        parents = {run.path.parent for run in opened}
        folder = parents.pop() if len(parents) == 1 else None
    calibration = None if folder is None else stored_calibration(folder, notes)
    analysis = analyse(opened, llc_name, seed, notes, calibration, describe, null_check)
    drawn = report_figures(analysis)
    if figures is not None:
        with storage_errors(Path(figures)):
            Path(figures).mkdir(parents=True, exist_ok=True)
            for figure in drawn:
                figure.save(Path(figures))
    text = render(analysis, folder, drawn)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # a folder name that is no UTF-8 is shown by its bytes
        write_whole(path, text.encode("utf-8", "backslashreplace"))
    return path


def render(analysis: Analysis, folder: Path | None = None, figures: Sequence[ReportFigure] | None = None) -> str:
    """The page as text. `folder` is where the runs are, for the title and the commands."""
    figures = report_figures(analysis) if figures is None else figures
    name = (folder.resolve().name if folder is not None else "") or analysis.runs[0].name
    data = json.dumps(_data(figures), allow_nan=False, separators=(",", ":"))
    dark = {color: dark_variant(color) for color in sorted(set(_HEX.findall(data)))}
    data = f'{{"dark":{json.dumps(dark)},{data[1:]}'
    variables = "".join(f"--c{color[1:]}:{variant};" for color, variant in dark.items())
    now = datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0")
    runs = len(analysis.runs)
    return Template(_text("page.html")).substitute(
        title=escape(f"How the runs in {name} developed" if runs > 1 else f"How {name} developed"),
        style=_text("page.css").replace("$colors", variables),
        meta=escape(f"{runs} run{'' if runs == 1 else 's'}; written by llc-dynamics on {now}."),
        introduction="\n".join(f'<p class="note">{_prose(text)}</p>' for text in words.introduction(analysis)),
        verdict=_verdict(analysis),
        contents=_contents(figures),
        notes=_notes(analysis),
        table=run_table(analysis),
        evidence=_evidence(analysis),
        figures="\n".join(map(_figure, figures)) or "<p>The runs hold nothing that can be drawn.</p>",
        limits="\n".join(f"<li>{_prose(text)}</li>" for text in words.limits(analysis)),
        unconverged=_unconverged(analysis),
        provenance=provenance_markup(analysis),
        reproduce=reproduce_markup(folder, analysis),
        data=_packed(data),
        plotly=_plotly(),
        script=_text("page.js"),
    )


def _data(figures: Sequence[ReportFigure]) -> dict[str, Any]:
    """What the script of the page draws."""
    panels = {
        f"panel-{figure.identifier}-{number}": {"traces": panel.traces, "layout": panel.layout}
        for figure in figures
        for number, panel in enumerate(figure.panels)
    }
    return {"panels": panels, "chains": next((figure.data for figure in figures if figure.data is not None), [])}


@functools.cache
def _plotly() -> str:
    return _packed((resources.files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8"))


def _packed(text: str) -> str:
    """Compressed, in letters that no reader of HTML takes for anything else."""
    return base64.b64encode(gzip.compress(text.encode("utf-8", "backslashreplace"), mtime=0)).decode("ascii")


def dark_variant(color: str) -> str:
    """The colour to use on a dark page: the same hue, at least `_DARK_LIGHTNESS` light."""
    if color in _DARK:
        return _DARK[color]
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    rgb = colorsys.hls_to_rgb(hue, max(lightness, _DARK_LIGHTNESS), saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def _contents(figures: Sequence[ReportFigure]) -> str:
    """Links to all parts of the page."""
    parts = [("runs", "Runs"), *((f"figure-{figure.identifier}", figure.title) for figure in figures)]
    parts += [("limits", "What this page does not show"), ("settings", "Settings and provenance")]
    rows = "".join(
        f'<li><a href="#{place}">{escape(title)}</a></li>'
        for place, title in [*parts, ("reproduce", "To reproduce this")]
    )
    return f'<nav aria-label="Contents"><ul>{rows}</ul></nav>'


def _verdict(analysis: Analysis) -> str:
    items = [_item(run.label, words.verdicts_of(run)) for run in analysis.runs]
    items.append(_item("LLC", words.llc_verdict(analysis)))
    return f"<p>{_prose(words.headline(analysis))}</p>\n<ul>\n{''.join(items)}</ul>"


def _evidence(analysis: Analysis) -> str:
    items = [
        _item(
            run.label,
            [*words.evidence_of(run), *stage_sentences(run.stages), *null_sentences(run.stages, run.null_rates)],
        )
        for run in analysis.runs
    ]
    if analysis.pca is not None:
        items.append(_item("Joint trajectory PCA", pca_sentences(analysis.pca)))
    found = "".join(items)
    return f'<ul class="findings">\n{found}</ul>' if found else ""


def _item(label: str, sentences: Sequence[str]) -> str:
    return f"<li><b>{_prose(label)}</b> {_prose(' '.join(sentences))}</li>\n" if sentences else ""


def _prose(text: str) -> str:
    """Escaped, and without line breaks inside 'M = 8' and '3.2 ± 0.1'."""
    escaped = escape(text)
    for together in (" = ", " ± "):
        escaped = escaped.replace(together, together.replace(" ", "&nbsp;"))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)


def _notes(analysis: Analysis) -> str:
    notes = [str(note) for note in analysis.notes]
    notes += [f"{run.label}: {note}" for run in analysis.runs for note in run.notes]
    for run in analysis.runs:
        for found in run.transitions:
            notes += [f"{run.label}: {note}" for note in verdict_notes(found, run.description)]
    if not notes:
        return ""
    rows = "\n".join(f"<li>{_prose(note)}.</li>".replace("..<", ".<") for note in dict.fromkeys(notes))
    return f'<section id="notes"><h2>Missing or left out</h2>\n<ul class="limits">\n{rows}\n</ul></section>'


def _figure(figure: ReportFigure) -> str:
    panels = "".join(
        f"<div>{f'<h4>{escape(panel.title)}</h4>' if panel.title else ''}"
        f'<div class="panel" data-panel id="panel-{figure.identifier}-{number}" tabindex="0" role="group" '
        f'aria-label="{escape(panel.title or figure.alt)}"></div></div>'
        for number, panel in enumerate(figure.panels)
    )
    keys = "".join(
        f'<button type="button" data-line="{escape(name)}" aria-pressed="true">{_swatch(style)}{escape(name)}</button>'
        for name, style in figure.legend.items()
    )
    kind = f"panels of{min(len(figure.panels), 3)}"
    return (
        f'<figure id="figure-{figure.identifier}" aria-label="{escape(figure.alt)}">\n<h3>{escape(figure.title)}</h3>\n'
        f'<div class="legend">{keys}</div>{figure.controls}<div class="{kind}">{panels}</div>{figure.below}'
        f"<figcaption>{_prose(figure.caption)}</figcaption>\n</figure>"
    )


def _swatch(style: SeriesStyle) -> str:
    """A piece of the line, in the colour that it has on the page."""
    dashes = {"--": "6 3", "-.": "6 2 2 2", ":": "2 2"}.get(style.linestyle, "none")
    color = f"var(--c{style.color[1:]},{style.color})"
    look = f"stroke:{color};stroke-width:3;stroke-dasharray:{dashes}"
    return f'<svg width="22" height="8" aria-hidden="true"><path d="M0 4H22" style="{look}"/></svg>'


def _unconverged(analysis: Analysis) -> str:
    rows = unconverged_table(analysis)
    if rows is None:
        return ""
    return f'<details id="unconverged"><summary>LLC points that did not converge, and why</summary>{rows}</details>'


def _text(name: str) -> str:
    return (resources.files("llc_dynamics.report") / name).read_text(encoding="utf-8")
