"""Everything that a report says about a set of runs, as numbers and verdicts; nothing here draws or formats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError, DataError, TrajectoryError
from llc_dynamics.finding import Finding
from llc_dynamics.llc import Calibration, LLCCurve
from llc_dynamics.progress import progress_bars
from llc_dynamics.report.developmental import StageFindings, find_stages
from llc_dynamics.report.geometry import find_geometry
from llc_dynamics.report.joint_pca import PCAAnalysis, analyse_pca
from llc_dynamics.report.numbers import count, step
from llc_dynamics.report.reading import (
    Level,
    planned_steps,
    read_curve,
    read_description,
    read_llc,
    read_probes,
    reference_losses,
    without_samples,
)
from llc_dynamics.report.transitions import TransitionFindings, judge_transition
from llc_dynamics.stages import NullRate, TrajectoryGeometry, null_rates
from llc_dynamics.systems.description import Axis, Description, distance_metric, loss_metric
from llc_dynamics.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class RunAnalysis:
    """One run.

    Attributes
    ----------
    label : unique among the runs, see `unique_labels`. name : of its folder.
    complete : whether training was marked as finished. planned_steps : the last step that was planned, or None.
    steps : int64 [C]. weight_step : the last one with weights, or None.
    curves : every metric that was measured, by name; only losses on which transitions are judged keep their samples.
    levels : losses of the references, {'loss/<probe>': {reference: level}}.
    transitions : what was found of each transition that the description declares.
    notes : what is missing or was left out. stages : see `find_stages`. geometry : see `find_geometry`.
    null_rates : false-positive rates at the points and errors of the first curve with stages, where asked for.
    """

    label: str
    name: str
    description: Description
    seed: int | None
    complete: bool
    planned_steps: int | None
    steps: NDArray[np.int64]
    weight_step: int | None
    curves: Mapping[str, Curve]
    levels: Mapping[str, Mapping[str, Level]]
    transitions: tuple[TransitionFindings, ...]
    llc: LLCCurve | None
    notes: tuple[Finding, ...]
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    stages: StageFindings | None = None
    geometry: TrajectoryGeometry | None = None
    null_rates: tuple[NullRate, ...] = ()

    @property
    def axis(self) -> Axis | None:
        """How this run differs from the others of its sweep."""
        return self.description.axis

    @property
    def t_crit(self) -> int | None:
        """The step of least loss of the first transient solution."""
        return next((found.t_crit for found in self.transitions if found.t_crit is not None), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; curves as lists of steps, values and standard errors, by the names of their metrics."""
        return {
            "label": self.label,
            "name": self.name,
            "description": self.description.to_dict(),
            "seed": self.seed,
            "complete": self.complete,
            "curves": {name: _curve_dict(curve) for name, curve in self.curves.items()},
            "references": {
                metric: {
                    name: {key: _plain(value) for key, value in asdict(level).items()} for name, level in levels.items()
                }
                for metric, levels in self.levels.items()
            },
            "transitions": [found.to_dict() for found in self.transitions],
            "llc": None if self.llc is None else _llc_dict(self.llc),
            "stages": None if self.stages is None else self.stages.to_dict(),
            "geometry": None if self.geometry is None else self.geometry.to_dict(arrays=False),
            "null_rates": [rate.to_dict() for rate in self.null_rates],
            "notes": [note.to_dict() for note in self.notes],
        }


@dataclass(frozen=True, eq=False)
class Analysis:
    """All runs of a report, with what only several runs together show.

    Attributes
    ----------
    runs : in the order of their axis; those without one in the order given.
    pca : None where it cannot be had; `notes`, which are about the set of runs, say why.
    llc_name, seed : name of the stored LLC curves, and the seed of every bootstrap.
    """

    runs: tuple[RunAnalysis, ...]
    pca: PCAAnalysis | None
    notes: tuple[Finding, ...]
    llc_name: str
    seed: int
    calibration: Calibration | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        findings = None if self.calibration is None else self.calibration.findings
        return {
            "runs": [run.to_dict() for run in self.runs],
            "pca": None if self.pca is None else self.pca.to_dict(),
            "notes": [note.to_dict() for note in self.notes],
            "llc_name": self.llc_name,
            "seed": self.seed,
            "calibration": None if findings is None else [each.to_dict() for each in findings],
        }


def analyse(
    runs: Sequence[Trajectory],
    llc_name: str = "llc",
    seed: int = 0,
    notes: Sequence[Finding] = (),
    calibration: Calibration | None = None,
    describe: Callable[[Trajectory], Description] | None = None,
    null_check: int = 0,
) -> Analysis:
    """Verdicts, curves, levels and joint PCA of `runs`, from what is stored with them.

    The detectors run for each transition that a run's description declares: transience by loss and distances on its
    probe, specialisation on its specialised probe. Runs that lack a metric, a curve or function vectors are analysed as
    far as they go; a damaged run is left out, with a note.

    Parameters
    ----------
    runs : opened run folders, `find_runs(folder)`. llc_name : name of the stored LLC curves.
    seed : of the detectors' bootstrap. notes : what is to be said about the set of runs besides.
    calibration : of the LLC, to be shown with the rest; see `stored_calibration`.
    describe : what describes a run that stores no description.
    null_check : curves of each kind without stages, for the false-positive rates; 0 for none.

    Raises `DataError` without any run, and the run's own error if none can be read.
    """
    if not runs:
        raise DataError("analyse: no runs were given; open a folder with find_runs(folder)")
    read: list[tuple[RunAnalysis, Trajectory]] = []
    found_notes = list(notes)
    problem: TrajectoryError | None = None
    for run in runs:
        try:
            if len(run.steps) == 0:
                raise TrajectoryError(f"{run.path.name}: no checkpoint is stored yet; go on with the training")
            read.append((_analyse_run(run, llc_name, seed, describe), run))
        except TrajectoryError as error:
            problem = error
            found_notes.append(Finding("run_left_out", f"{run.path.name} was left out: {error}"))
    if not read and problem is not None:
        raise problem
    read.sort(key=lambda pair: (1, (0.0, "")) if pair[0].axis is None else (0, pair[0].axis.order()))
    found, kept = [one for one, _ in read], [run for _, run in read]
    labels = unique_labels(found)
    found = [replace(run, label=label) for run, label in zip(found, labels, strict=True)]
    pca, pca_notes = analyse_pca(kept, labels, [run.description for run in found])
    found = [_developed(run, pca, seed, null_check) for run in found]
    return Analysis(tuple(found), pca, (*found_notes, *pca_notes), llc_name, seed, calibration)


def stored_calibration(folder: Path, notes: list[Finding]) -> Calibration | None:
    """What `llc-dynamics calibrate` left in the folder of the runs; a damaged one is left out, with a note."""
    if not (folder / "calibration" / "settings.toml").is_file():
        return None
    try:
        return Calibration.load(folder / "calibration")
    except ConfigError as error:
        notes.append(Finding("calibration_left_out", f"the calibration was left out: {error}"))
        return None


def unique_labels(runs: Sequence[RunAnalysis]) -> list[str]:
    """Axis labels or folder names; with the seed, and then the folder name, where several runs would share one."""
    names = [run.name if run.axis is None else run.axis.label for run in runs]
    for addition in ([f"seed {run.seed}" for run in runs], [run.name for run in runs]):
        shared = {name for name, number in Counter(names).items() if number > 1}
        names = [f"{name}, {more}" if name in shared else name for name, more in zip(names, addition, strict=True)]
    return names


def _analyse_run(
    run: Trajectory, llc_name: str, seed: int, describe: Callable[[Trajectory], Description] | None
) -> RunAnalysis:
    notes: list[Finding] = []
    description = read_description(run, notes, describe)
    arrays = read_probes(run)
    curves = {name: curve for name in run.metric_names if (curve := read_curve(run, name)) is not None}
    _note_missing(description, curves, notes)
    transitions = tuple(judge_transition(each, curves, arrays, seed, notes) for each in description.transitions)
    sampled = {loss_metric(each.probe) for each in description.transitions}
    curves = {name: curve if name in sampled else without_samples(curve) for name, curve in curves.items()}
    planned = planned_steps(run)
    if not run.complete:
        of = "" if planned is None else f" of {planned:,}"
        text = f"training is not finished: the last stored step is {int(run.steps[-1]):,}{of}"
        notes.append(Finding("not_finished", text))
    llc = read_llc(run, llc_name, notes)
    weights = run.weight_steps
    if llc is not None and len(weights) and llc.steps[-1] < weights[-1]:
        later = int((np.asarray(weights) > llc.steps[-1]).sum())
        text = (
            f"the LLC curve ends at step {step(llc.steps[-1])} of {step(weights[-1])}: {count(len(llc), 'point')} "
            f"{'is' if len(llc) == 1 else 'are'} stored, and {count(later, 'checkpoint')} with weights "
            f"{'comes' if later == 1 else 'come'} after the last"
        )
        notes.append(Finding("llc_ends_early", text))
    seed_of_run = run.config.get("seed")
    return RunAnalysis(
        label=run.path.name,
        name=run.path.name,
        description=description,
        seed=seed_of_run if isinstance(seed_of_run, int) else None,
        complete=run.complete,
        planned_steps=planned,
        steps=run.steps,
        weight_step=int(weights[-1]) if len(weights) else None,
        curves=curves,
        levels=reference_losses(description, arrays),
        transitions=transitions,
        llc=llc,
        notes=tuple(notes),
        config=run.config,
        provenance=run.provenance,
    )


def _note_missing(description: Description, curves: Mapping[str, Curve], notes: list[Finding]) -> None:
    """Metrics that a transition needs and the run does not hold."""
    wanted: list[str] = []
    for each in description.transitions:
        wanted += [loss_metric(each.probe), *(distance_metric(*pair) for pair in each.distances())]
    missing = [name for name in dict.fromkeys(wanted) if name not in curves]
    if missing:
        notes.append(Finding("not_measured", f"not measured in this run: {', '.join(missing)}"))


def _developed(run: RunAnalysis, pca: PCAAnalysis | None, seed: int, null_check: int) -> RunAnalysis:
    stages = find_stages(run.label, run.description, run.curves, run.llc, pca, seed)
    geometry, notes = find_geometry(run.label, pca, seed)
    rates: tuple[NullRate, ...] = ()
    if null_check and stages.curves:
        with progress_bars() as bars:
            bar = bars.add_task(f"null check {run.name}, curves", total=None)
            curve = next(iter(stages.curves.values()))
            say = partial(_say_progress, bars, bar)
            rates = null_rates(curve, null_check, seed=seed, progress=say)
    notes = [*run.notes, *stages.notes, *notes]
    return replace(run, stages=stages, geometry=geometry, null_rates=rates, notes=tuple(notes))


def _say_progress(bars: Any, bar: Any, done: int, total: int) -> None:
    bars.update(bar, completed=done, total=total)


def _plain(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return ("inf" if value > 0 else "-inf") if math.isinf(value) else float(value)


def _curve_dict(curve: Curve) -> dict[str, Any]:
    errors = None if curve.standard_errors is None else [*map(_plain, curve.standard_errors)]
    return {"steps": curve.steps.tolist(), "values": [*map(_plain, curve.values)], "standard_errors": errors}


def _llc_dict(llc: LLCCurve) -> dict[str, Any]:
    assert llc.converged is not None
    reasons = [[reason.to_dict() for reason in found] for found in llc.reasons]
    return {**_curve_dict(llc), "converged": llc.converged.tolist(), "reasons": reasons}
