"""What the verbs print: tables and sentences for a terminal or a pipe, or JSON."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np

from llc_dynamics.errors import TrajectoryError
from llc_dynamics.finding import Finding, sentences
from llc_dynamics.llc import Calibration, LLCCurve
from llc_dynamics.llc.storage import curve_folder, stored_points
from llc_dynamics.plots import plot_calibration
from llc_dynamics.progress import duration
from llc_dynamics.report import RunAnalysis, analyse
from llc_dynamics.report.developmental import NOTHING, StageFindings
from llc_dynamics.report.figure import save_figure
from llc_dynamics.report.geometry import COSINE_LIKE, LIKELY, turning_phrase
from llc_dynamics.report.joint_pca import analyse_pca, pca_sentences
from llc_dynamics.report.reading import read_description
from llc_dynamics.report.transitions import verdict_notes
from llc_dynamics.report.words import run_sentences
from llc_dynamics.settings import load_toml, to_mapping
from llc_dynamics.stages.verdicts import json_ready
from llc_dynamics.sweeps import LLCConfig, find_runs
from llc_dynamics.systems.description import Description
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.workers import require_workers

_WORTH_SAYING = 60.0  # seconds


def describer(system: str | None) -> Callable[[Trajectory], Description] | None:
    """What `--system my_file.py:MySystem` says of a run that stores no description."""
    if system is None:
        return None
    from llc_dynamics.systems.registry import system_class, system_of_run

    given = system_class(system)
    return lambda run: system_of_run(run.config, str(run.path), given).describe()


def show_findings(
    folder: Path,
    seed: int = 0,
    name: str = "llc",
    repetitions: int = 0,
    as_json: bool = False,
    system: str | None = None,
) -> None:
    """The findings on every run, in words or as JSON; with `repetitions`, the false-positive rates of boundaries."""
    notes: list[Finding] = []
    runs = find_runs(folder, lambda text: notes.append(Finding("run_left_out", text)))
    analysis = analyse(runs, name, seed=seed, notes=notes, describe=describer(system), null_check=repetitions)
    if as_json:
        found = analysis.to_dict()
        for shown in found["runs"] if repetitions else ():
            shown["null_check"] = shown.pop("null_rates")
        _print_json(found)
        return
    for note in analysis.notes:
        print(f"note: {note}")
    for run in analysis.runs:
        print(f"\n{run.label}  ({len(run.steps)} checkpoints, last step {run.steps[-1]:,})")
        for sentence in run_sentences(run):
            print(f"  {sentence}")
        told = [text for found in run.transitions for text in verdict_notes(found, run.description)]
        for text in [*map(str, run.notes), *told]:
            print(f"  note: {text}")
        if run.llc is None:
            print(f"  note: no LLC curve '{name}' to find stages in; {_how_to_estimate(run, folder, name)}")
        if run.stages is not None:
            _show_stages(run, run.stages, repetitions)
        if run.geometry is not None:
            marked = f" ({COSINE_LIKE})" if run.geometry.cosine_like else ""
            print(f"  turns in PC1-PC2, probability {LIKELY:g} or more: {turning_phrase(run.geometry)}{marked}")


def _how_to_estimate(run: RunAnalysis, folder: Path, name: str) -> str:
    named = "" if name == "llc" else f" --name {shlex.quote(name)}"
    # a run of a built-in system says so in its settings; another needs its model and data
    own = "" if "system" in run.config else " --system FILE.py:SYSTEM"
    return f"`llc-dynamics llc {shlex.quote(str(folder))}{own}{named}` estimates one"


def _show_stages(run: RunAnalysis, found: StageFindings, repetitions: int) -> None:
    for report in found.reports.values():
        print(indent(f"stages of the {report}", "  "))
    for name, both in found.agreements.items():
        print(f"  {found.changes[name]}")
        if both.boundaries:
            print(f"    {both}")
    if repetitions and not found.curves:
        print("  null check: not possible, no curve of this run has enough usable points (see the notes)")
    elif repetitions:
        print(f"  null check of the {next(iter(found.curves))}: at the points and errors of this curve")
        for rate in run.null_rates:
            low, high = rate.interval
            print(
                f"    such a boundary is found in {rate.rate:.1%} of {rate.repetitions} "
                f"{NOTHING[rate.kind]} (95% interval {100 * low:.1f} to {high:.1%})"
            )


def show_curves(runs: Sequence[Trajectory], name: str, as_json: bool = False) -> None:
    """The LLC curves as tables, and why points did not converge."""
    curves = [(run, LLCCurve.load(run, name)) for run in runs]
    if as_json:
        _print_json(
            [
                {
                    "name": run.path.name,
                    "curve": name,
                    "points": [
                        {"step": int(step), **result.to_dict()}
                        for step, result in zip(curve.steps, curve.results, strict=True)
                    ],
                }
                for run, curve in curves
            ]
        )
        return
    for run, curve in curves:
        first = curve.results[0]
        print(
            f"\n{run.path.name}  LLC '{name}'  ({first.loss} loss, nbeta {first.nbeta:.4g}, "
            f"gamma {first.localization:.4g})"
        )
        print(f"  {'step':>9}  {'LLC':>10}  {'error':>8}  {'virial':>7}  converged")
        for result, step, reasons in zip(curve.results, curve.steps, curve.reasons, strict=True):
            verdict = "yes" if result.converged else f"no: {sentences(reasons)}"
            print(f"  {step:>9,}  {result.llc:>10.3f}  {result.standard_error:>8.3f}  {result.virial:>7.3f}  {verdict}")


def say_cost(
    runs: Sequence[Trajectory], config: LLCConfig, name: str, settings_file: Path | None, workers: int | None
) -> None:
    """On standard error, where it is minutes: the points to estimate, and how long they take by the calibration."""
    seconds = 0.0 if settings_file is None else load_toml(settings_file).get("calibration", {}).get("seconds", 0.0)
    points = sum(
        len({*config.choose_steps(run.weight_steps)} - {*stored_points(curve_folder(run.path, name))}) for run in runs
    )
    workers = min(require_workers(workers), max(points, 1))
    if points * seconds / workers >= _WORTH_SAYING:
        crew = "1 worker" if workers == 1 else f"{workers} workers"
        print(
            f"{points} points, about {duration(math.ceil(points / workers) * seconds)} on {crew}: "
            f"{duration(seconds)} a point by the trials of the calibration",
            file=sys.stderr,
        )


def draw_calibration(found: Calibration, path: Path) -> None:
    """The figure of a calibration, as a PNG."""
    figure = plot_calibration(found).get_figure(root=True)
    assert figure is not None
    save_figure(figure, path, dpi=150, bbox_inches="tight")


def show_calibration(
    found: Calibration, folder: Path, out: Path, system: str | None = None, as_json: bool = False
) -> None:
    """The trials as a table, what was found in words, and how to go on."""
    if as_json:
        _print_json({**asdict(found), "settings": to_mapping(found.settings), "file": str(out / "settings.toml")})
        return
    print(found.table())
    print()
    for finding in found.findings:
        print(f"- {finding}")
    print(f"\nsettings: {out / 'settings.toml'} ({found.loss} loss); with them:")
    own = "" if system is None else f" --system {shlex.quote(system)}"
    print(f"  llc-dynamics llc {shlex.quote(str(folder))}{own} --settings {shlex.quote(str(out / 'settings.toml'))}")


def show_pca(folder: Path, num_components: int, as_json: bool = False, system: str | None = None) -> None:
    """Explained variance, where the references lie, and how each run moved, of the joint PCA."""
    runs = find_runs(folder)
    notes: list[Finding] = []
    describe = describer(system)
    descriptions = [read_description(run, notes, describe) for run in runs]
    found, more = analyse_pca(runs, [run.path.name for run in runs], descriptions, num_components)
    notes += more
    if as_json and found is not None:
        _print_json({**found.to_dict(), "notes": [note.to_dict() for note in notes]})
        return
    for note in notes:
        print(f"note: {note}")
    if found is None:
        raise TrajectoryError(f"{folder}: no joint PCA; see the notes above")
    for sentence in pca_sentences(found):
        print(sentence)
    names = "".join(f"{f'PC{i + 1}':>10}" for i in range(len(found.explained_variance_ratio)))
    print(f"\n{'':24}{names}")
    _row("explained variance", found.explained_variance_ratio)
    for name, scores in found.references.items():
        _row(name, scores)
    for label, scores in found.scores.items():
        _row(f"{label}, first", scores[0])
        _row(f"{label}, last", scores[-1])
        _row(f"{label}, cosine content", found.cosine_content[label])


def _row(label: str, values: np.ndarray) -> None:
    print(f"{label:24}" + "".join(f"{value:10.3f}" for value in values))


def _print_json(content: Any) -> None:
    print(json.dumps(json_ready(content), indent=1, allow_nan=False))
