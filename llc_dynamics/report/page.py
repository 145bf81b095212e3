"""One self-contained HTML page about a set of runs: it opens anywhere and fetches nothing."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from llc_dynamics.errors import TrajectoryError
from llc_dynamics.provenance import provenance
from llc_dynamics.report import words
from llc_dynamics.report.analysis import Analysis, RunAnalysis, analyse, stored_calibration
from llc_dynamics.report.developmental import stage_sentences
from llc_dynamics.report.embed import color_rules
from llc_dynamics.report.figures import ReportFigure, report_figures
from llc_dynamics.report.limits import limits
from llc_dynamics.report.numbers import listed
from llc_dynamics.report.reproduce import reproduce_commands
from llc_dynamics.report.tables import run_table, table, unconverged_table
from llc_dynamics.report.toml_text import toml_text
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.files import storage_errors


def write_report(
    runs: Sequence[Trajectory] | Trajectory | str | Path,
    path: str | Path,
    *,
    llc_name: str = "llc",
    seed: int = 0,
    figures: str | Path | None = None,
) -> Path:
    """Write the page and return its path. The file appears whole or not at all.

    Parameters
    ----------
    runs : opened runs, one run, or a run folder or folder of runs.
    path : the page to write; folders on the way are made.
    llc_name : name of the stored LLC curves. seed : of the detectors' bootstrap.
    figures : a folder to write every figure of the page into as well, as PNG.

    Raises `TrajectoryError` if there is no run or none can be read.
    """
    folder = None
    notes: list[str] = []
    if isinstance(runs, str | Path):
        from llc_dynamics.sweeps import find_runs

        folder = Path(runs)
        opened: list[Trajectory] = find_runs(folder, notes.append)
    elif isinstance(runs, Trajectory):
        folder, opened = runs.path, [runs]
    else:
        opened = list(runs)
        parents = {run.path.parent for run in opened}
        folder = parents.pop() if len(parents) == 1 else None
    calibration = None if folder is None else stored_calibration(folder, notes)
    analysis = analyse(opened, llc_name, seed, notes, calibration)
    drawn = report_figures(analysis)
    if figures is not None:
        Path(figures).mkdir(parents=True, exist_ok=True)
        for figure in drawn:
            figure.save(Path(figures) / f"{figure.identifier}.png")
    return _write_whole(Path(path), render(analysis, folder, drawn))


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
        verdict=_verdict(analysis),
        reading=_reading(analysis),
        notes=_notes(analysis),
        table=run_table(analysis),
        evidence=_evidence(analysis),
        figures="\n".join(map(_figure, figures)) or "<p>The runs hold nothing that can be drawn.</p>",
        limits="\n".join(f"<li>{_prose(text)}</li>" for text in limits(analysis)),
        unconverged=_unconverged(analysis),
        provenance=_provenance(analysis),
        reproduce=_reproduce(folder, analysis),
    )


def _verdict(analysis: Analysis) -> str:
    items = [_item(run.label, words.verdict_sentences(run)) for run in analysis.runs]
    items.append(_item("LLC", words.llc_verdict(analysis)))
    return f"<p>{_prose(words.headline(analysis))}</p>\n<ul>\n{''.join(items)}</ul>"


def _reading(analysis: Analysis) -> str:
    in_context = any(run.num_tasks is not None for run in analysis.runs)
    return f'<p class="note">{_prose(words.READING)}</p>' if in_context else ""


def _evidence(analysis: Analysis) -> str:
    items = [_item(run.label, [*words.evidence_sentences(run), *stage_sentences(run.stages)]) for run in analysis.runs]
    if analysis.pca is not None:
        items.append(_item("Joint trajectory PCA", words.pca_sentences(analysis.pca)))
    found = "".join(items)
    return f'<ul class="findings">\n{found}</ul>' if found else ""


def _item(label: str, sentences: Sequence[str]) -> str:
    return f"<li><b>{_prose(label)}</b> {_prose(' '.join(sentences))}</li>\n" if sentences else ""


def _prose(text: str) -> str:
    """Escaped, and without line breaks inside 'M = 8' and '3.2 ± 0.1'."""
    escaped = escape(text)
    for together in ("M = ", " ± ", "z = ", "nbeta = ", "gamma = "):
        escaped = escaped.replace(together, together.replace(" ", "&nbsp;"))
    return escaped


def _notes(analysis: Analysis) -> str:
    notes = [*analysis.notes, *(f"{run.label}: {note}" for run in analysis.runs for note in run.notes)]
    for run in analysis.runs:
        for verdict in (run.transience, run.specialisation):
            for note in () if verdict is None else verdict.notes:
                # At M = infinity there is no specialised predictor to be given.
                if run.num_tasks != math.inf or note.code != "no_specialised_predictor":
                    notes.append(f"{run.label}: {words.predictor_names(str(note))}")
    if not notes:
        return ""
    unique = list(dict.fromkeys(notes))
    rows = "\n".join(f"<li>{_prose(note)}.</li>".replace("..<", ".<") for note in unique)
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


def _provenance(analysis: Analysis) -> str:
    groups: dict[tuple[str, ...], list[str]] = {}
    for run in analysis.runs:
        seed = "not recorded" if run.seed is None else str(run.seed)
        groups.setdefault((*_origin(run.provenance), seed), []).append(run.label)
    rows = [[listed(labels), *origin] for origin, labels in groups.items()]
    rows.append(["This page", *_origin(provenance()), f"{analysis.seed} (bootstrap)"])
    parts = [table(["", "Versions", "git commit", "Seed"], rows)]
    return "\n".join([*parts, *map(_settings, analysis.runs)])


def _origin(found: Mapping[str, Any]) -> tuple[str, str]:
    """Versions and commit, in words."""
    commit = found.get("git_commit")
    if not commit:
        return _versions(found), "not recorded"
    commit, _, changed = str(commit).partition("+")
    return _versions(found), commit[:12] + (" with uncommitted changes" if changed else "")


def _settings(run: RunAnalysis) -> str:
    text = toml_text(run.config) if run.config else "no settings were recorded with this run\n"
    extra = ""
    if run.llc is not None and run.llc.results:
        shown = json.dumps(run.llc.results[0].settings, indent=2, default=str)
        extra = f"<p>LLC curve, {len(run.llc)} points, one setting for all:</p><pre>{escape(shown)}</pre>"
    return (
        f"<details><summary>Settings of {escape(run.label)} ({escape(run.name)})</summary>"
        f"<pre>{escape(text)}</pre>{extra}</details>"
    )


def _versions(found: Any) -> str:
    versions = found.get("versions")
    rows = [f"{name} {version}" for name, version in versions.items()] if isinstance(versions, dict) else []
    if found.get("python"):
        rows.append(f"Python {found['python']}")
    if found.get("device"):
        rows.append(str(found["device"]))
    return ", ".join(rows) or "not recorded"


def _reproduce(folder: Path | None, analysis: Analysis) -> str:
    text, preset = reproduce_commands(folder, analysis.llc_name)
    block = f"<pre>{escape(text)}</pre>"
    if preset is not None:
        block += (
            "<details><summary>The preset file that these runs were trained with</summary>"
            f"<pre>{escape(preset)}</pre></details>"
        )
    return block


def _text(name: str) -> str:
    return (resources.files("llc_dynamics.report") / name).read_text(encoding="utf-8")


def _write_whole(path: Path, text: str) -> Path:
    if path.is_dir():
        raise TrajectoryError(f"{path}: is a folder; name the page to write, for example {path / 'report.html'}")
    with storage_errors(path):
        return _replace(path, text)


def _replace(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
