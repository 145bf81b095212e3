"""What the verbs print: tables and sentences for a terminal or a pipe."""

from __future__ import annotations

import io
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import indent

import numpy as np
from rich.progress import Progress, TaskID

from llc_dynamics.cli.show_runs import show_archive_verification
from llc_dynamics.errors import TrajectoryError
from llc_dynamics.finding import sentences
from llc_dynamics.llc import Calibration, LLCCurve
from llc_dynamics.llc.storage import curve_folder, damaged_points, stored_points
from llc_dynamics.plots import plot_calibration
from llc_dynamics.progress import progress_bars
from llc_dynamics.report import RunAnalysis, analyse
from llc_dynamics.report.developmental import LLC, StageFindings
from llc_dynamics.report.geometry import COSINE_LIKE, LIKELY, turning_phrase
from llc_dynamics.report.joint_pca import analyse_pca
from llc_dynamics.report.words import pca_sentences, run_sentences
from llc_dynamics.stages import null_rates
from llc_dynamics.sweeps import find_runs
from llc_dynamics.sweeps.folders import SWEEP_FILE, run_folders, stored_sweep
from llc_dynamics.training import number_of_tasks
from llc_dynamics.trajectory import Trajectory, verify_run
from llc_dynamics.trajectory.files import is_temporary, storage_errors, write_whole
from llc_dynamics.trajectory.names import curve_folders

_NOTHING = {
    "constant": "constant curves with this noise",
    "monotone": "smooth monotone curves with this noise",
    "random_walk": "random walks with this noise",
    "permuted": "random orders of these points",
    "component": "second principal components of random walks",
}


def show_findings(folder: Path, seed: int = 0, name: str = "llc", repetitions: int = 0) -> None:
    """The verdicts on every run, in words; with `repetitions`, and the rates at which nothing looks like a stage."""
    notes: list[str] = []
    analysis = analyse(find_runs(folder, notes.append), name, seed=seed, notes=notes)
    for note in analysis.notes:
        print(f"note: {note}")
    for run in analysis.runs:
        print(f"\n{run.label}  ({len(run.steps)} checkpoints, last step {run.steps[-1]:,})")
        for sentence in run_sentences(run):
            print(f"  {sentence}")
        for note in run.notes:
            print(f"  note: {note}")
        if run.llc is None:
            command = f"llc-dynamics llc {shlex.quote(str(folder))}" + (
                "" if name == "llc" else f" --name {shlex.quote(name)}"
            )
            if run.num_tasks is None:  # the command knows the model and data of in-context runs only
                command = f"ld.llc_curve(run, model, loss, data, name={name!r}, settings=...)"
            print(f"  note: no LLC curve '{name}' to find stages in; `{command}` estimates one")
        if run.stages is not None:
            _show_stages(run, run.stages, repetitions, seed)
        if run.geometry is not None:
            marked = f" ({COSINE_LIKE})" if run.geometry.cosine_like else ""
            print(f"  turns in PC1-PC2, probability {LIKELY:g} or more: {turning_phrase(run.geometry)}{marked}")


def _show_stages(run: RunAnalysis, found: StageFindings, repetitions: int, seed: int) -> None:
    for report in found.reports.values():
        print(indent(f"stages of the {report}".replace("the Out", "the out"), "  "))
    for name, both in found.agreements.items():
        print(f"  {found.changes[name]}")
        print(f"    {both}")
    if repetitions and not found.curves:
        print("  null check: not possible, no curve of this run has enough usable points (see the notes)")
    elif repetitions:
        label, curve = next(iter(found.curves.items()))
        print(f"  null check of the {label if label == LLC else label.lower()}: at the points and errors of this curve")
        with progress_bars() as bars:
            bar = bars.add_task(f"null check {run.name}, curves", total=None)
            for rate in null_rates(curve, repetitions, seed=seed, progress=partial(_advance, bars, bar)):
                low, high = rate.interval
                print(
                    f"    such a boundary arises from nothing in {rate.rate:.1%} of {rate.repetitions} "
                    f"{_NOTHING[rate.kind]} (95% interval {100 * low:.1f} to {high:.1%})"
                )


def show_curves(runs: Sequence[Trajectory], name: str) -> None:
    """The LLC curves as tables, and why points did not converge."""
    for run in runs:
        curve = LLCCurve.load(run, name)
        first = curve.results[0]
        print(
            f"\n{run.path.name}  LLC '{name}'  ({first.loss} loss, nbeta {first.nbeta:.4g}, "
            f"gamma {first.localization:.4g})"
        )
        print(f"  {'step':>9}  {'LLC':>10}  {'error':>8}  {'virial':>7}  converged")
        for result, step, reasons in zip(curve.results, curve.steps, curve.reasons, strict=True):
            verdict = "yes" if result.converged else f"no: {sentences(reasons)}"
            print(f"  {step:>9,}  {result.llc:>10.3f}  {result.standard_error:>8.3f}  {result.virial:>7.3f}  {verdict}")


def draw_calibration(found: Calibration, path: Path) -> None:
    """The figure of a calibration, as a PNG."""
    figure = plot_calibration(found).get_figure(root=True)
    assert figure is not None
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150, bbox_inches="tight")
    with storage_errors(path):
        write_whole(path, drawn.getvalue())


def show_calibration(found: Calibration, folder: Path, out: Path) -> None:
    """The trials as a table, what was found in words, and how to go on."""
    print(found.table())
    print()
    for finding in found.findings:
        print(f"- {finding}")
    print(f"\nsettings: {out / 'settings.toml'} ({found.loss} loss); with them:")
    print(f"  llc-dynamics llc {shlex.quote(str(folder))} --settings {shlex.quote(str(out / 'settings.toml'))}")


def show_pca(folder: Path, num_components: int) -> None:
    """Explained variance, where the references lie, and how each run moved, of the joint PCA."""
    runs = find_runs(folder)
    labels = [run.path.name for run in runs]
    tasks = [number_of_tasks(run.config) for run in runs]
    found, notes = analyse_pca(runs, labels, tasks, num_components)
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


def show_verification(folder: Path) -> int:
    """Every run's report, or that of an exported file; 1 if anything is wrong with any of them, else 0."""
    if folder.is_file():
        return show_archive_verification(folder)
    problems = 0
    for path in run_folders(folder):
        with progress_bars() as bars:
            bar = bars.add_task(f"verify {path.name}", total=None)
            report = verify_run(path, partial(_advance, bars, bar))
        print(report)
        problems += len(report.problems)
        for curve in curve_folders(path):
            points = stored_points(curve_folder(path, curve.name))
            damaged = damaged_points(points.values())
            print(f"  LLC '{curve.name}': {len(points) - len(damaged)} of {len(points)} points in order")
            known = {*points.values(), *(entry for entry in curve.iterdir() if is_temporary(entry.name))}
            foreign = [
                f"{entry}: not a point of an LLC curve; move it elsewhere" for entry in {*curve.iterdir()} - known
            ]
            for message in [*damaged, *sorted(foreign)]:
                print(f"  {message}")
            problems += len(damaged) + len(foreign)
    if (folder / SWEEP_FILE).exists():
        stored_sweep(folder)
    return 1 if problems else 0


def _advance(bars: Progress, bar: TaskID, done: int, total: int) -> None:
    bars.update(bar, completed=done, total=total)


def _row(label: str, values: np.ndarray) -> None:
    print(f"{label:24}" + "".join(f"{value:10.3f}" for value in values))
