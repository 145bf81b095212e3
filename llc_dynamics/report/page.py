"""One self-contained HTML page about a set of runs: it opens anywhere and fetches nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from llc_dynamics.errors import TrajectoryError
from llc_dynamics.finding import Finding
from llc_dynamics.report import words
from llc_dynamics.report.analysis import Analysis, analyse, stored_calibration
from llc_dynamics.report.canvas import ReportFigure, color_rules
from llc_dynamics.report.developmental import stage_sentences
from llc_dynamics.report.figures import report_figures
from llc_dynamics.report.joint_pca import pca_sentences
from llc_dynamics.report.reproduce import provenance_markup, reproduce_markup
from llc_dynamics.report.tables import run_table, unconverged_table
from llc_dynamics.report.transitions import verdict_notes
from llc_dynamics.systems.description import Description
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.files import storage_errors, write_whole


def write_report(
    runs: Sequence[Trajectory] | Trajectory | str | Path,
    path: str | Path,
    *,
    llc_name: str = "llc",
    seed: int = 0,
    figures: str | Path | None = None,
    describe: Callable[[Trajectory], Description] | None = None,
) -> Path:
    """Write the page and return its path. The file appears whole or not at all.

    Parameters
    ----------
    runs : opened runs, one run, or a run folder or folder of runs.
    path : the page to write; folders on the way are made.
    llc_name : name of the stored LLC curves. seed : of the detectors' bootstrap.
    figures : a folder to write every figure of the page into as well, as PNG.
    describe : what describes a run that stores no description.

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
    analysis = analyse(opened, llc_name, seed, notes, calibration, describe)
    drawn = report_figures(analysis)
    if figures is not None:
        with storage_errors(Path(figures)):
            Path(figures).mkdir(parents=True, exist_ok=True)
            for figure in drawn:
                figure.save(Path(figures) / f"{figure.identifier}.png")
    text = render(analysis, folder, drawn)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # a folder name that is no UTF-8 is shown by its bytes
        write_whole(path, text.encode("utf-8", "backslashreplace"))
    return path


def render(analysis: Analysis, folder: Path | None = None, figures: Sequence[ReportFigure] | None = None) -> str:
    """The page as text. `folder` is where the runs are, for the title and the commands."""
    figures = report_figures(analysis) if figures is None else figures
    colors: set[str] = set().union(*(figure.colors for figure in figures))
    name = (folder.resolve().name if folder is not None else "") or analysis.runs[0].name
    style = Template(_text("page.css")).safe_substitute(colors=color_rules(colors))
    now = datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0")
    runs = len(analysis.runs)
    return Template(_text("page.html")).substitute(
        title=escape(f"How the runs in {name} developed" if runs > 1 else f"How {name} developed"),
        style=style,
        meta=escape(f"{runs} run{'' if runs == 1 else 's'}; written by llc-dynamics on {now}."),
        introduction="\n".join(f'<p class="note">{_prose(text)}</p>' for text in words.introduction(analysis)),
        verdict=_verdict(analysis),
        notes=_notes(analysis),
        table=run_table(analysis),
        evidence=_evidence(analysis),
        figures="\n".join(map(_figure, figures)) or "<p>The runs hold nothing that can be drawn.</p>",
        limits="\n".join(f"<li>{_prose(text)}</li>" for text in words.limits(analysis)),
        unconverged=_unconverged(analysis),
        provenance=provenance_markup(analysis),
        reproduce=reproduce_markup(folder, analysis),
    )


def _verdict(analysis: Analysis) -> str:
    items = [_item(run.label, words.verdicts_of(run)) for run in analysis.runs]
    items.append(_item("LLC", words.llc_verdict(analysis)))
    return f"<p>{_prose(words.headline(analysis))}</p>\n<ul>\n{''.join(items)}</ul>"


def _evidence(analysis: Analysis) -> str:
    items = [_item(run.label, [*words.evidence_of(run), *stage_sentences(run.stages)]) for run in analysis.runs]
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
    return escaped


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
    return (
        f'<figure id="figure-{figure.identifier}">\n<h3>{escape(figure.title)}</h3>\n'
        f'<div class="scroll">{figure.markup}</div>\n<figcaption>{_prose(figure.caption)}</figcaption>\n</figure>'
    )


def _unconverged(analysis: Analysis) -> str:
    rows = unconverged_table(analysis)
    if rows is None:
        return ""
    return f'<details id="unconverged"><summary>LLC points that did not converge, and why</summary>{rows}</details>'


def _text(name: str) -> str:
    return (resources.files("llc_dynamics.report") / name).read_text(encoding="utf-8")
