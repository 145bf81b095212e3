"""Everything that a report says about a set of runs, as numbers and verdicts; nothing here draws or formats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError, CorruptRunError, DataError, TrajectoryError
from llc_dynamics.llc import Calibration, LLCCurve
from llc_dynamics.llc.storage import curve_folder
from llc_dynamics.report.developmental import StageFindings, find_stages
from llc_dynamics.report.geometry import find_geometry
from llc_dynamics.report.joint_pca import PCAAnalysis, analyse_pca
from llc_dynamics.report.reading import Level, ideal_levels, read_curve, without_samples
from llc_dynamics.stages import (
    SpecialisationVerdict,
    TrajectoryGeometry,
    TransienceVerdict,
    detect_specialisation,
    detect_transience,
)
from llc_dynamics.training import number_of_tasks
from llc_dynamics.trajectory import Trajectory

METRICS = (
    "train_loss",
    "id_loss",
    "ood_loss",
    "ridge_distance_id",
    "ridge_distance_ood",
    "dmmse_distance_id",
    "dmmse_distance_ood",
)


@dataclass(frozen=True, eq=False)
class RunAnalysis:
    """One run.

    Attributes
    ----------
    label : unique among the runs: 'M = 8', with seed or folder name where that is not enough.
    name : folder name. num_tasks : M, or None. seed : of the run, or None.
    complete : whether training was marked as finished. planned_steps : the last step that was planned, or None.
    steps : int64 [C].
    curves : every metric that was measured, by name; only 'ood_loss' keeps its samples.
    ideal : see `ideal_levels`.
    transience, specialisation : verdicts; None where the run does not hold what they need (`notes` says what).
    llc : the stored LLC curve, or None.
    notes : what is missing or was left out, in words.
    config, provenance : as stored.
    stages : of the LLC and of the out-of-distribution loss, see `find_stages`.
    geometry : of the run in the first two components of the joint PCA, see `find_geometry`; None where not to be had.
    """

    label: str
    name: str
    num_tasks: float | None
    seed: int | None
    complete: bool
    planned_steps: int | None
    steps: NDArray[np.int64]
    curves: Mapping[str, Curve]
    ideal: Mapping[str, Level]
    transience: TransienceVerdict | None
    specialisation: SpecialisationVerdict | None
    llc: LLCCurve | None
    notes: tuple[str, ...]
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    stages: StageFindings | None = None
    geometry: TrajectoryGeometry | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON types; curves as lists of steps, values and standard errors."""
        return {
            "label": self.label,
            "name": self.name,
            "num_tasks": _plain(self.num_tasks),
            "seed": self.seed,
            "complete": self.complete,
            "curves": {name: _curve_dict(curve) for name, curve in self.curves.items()},
            "ideal": {
                name: {"value": _plain(level.value), "standard_error": _plain(level.standard_error)}
                for name, level in self.ideal.items()
            },
            "transience": None if self.transience is None else self.transience.to_dict(),
            "specialisation": None if self.specialisation is None else self.specialisation.to_dict(),
            "llc": None if self.llc is None else self._llc_dict(self.llc),
            "stages": None if self.stages is None else self.stages.to_dict(),
            "geometry": None if self.geometry is None else self.geometry.to_dict(arrays=False),
            "notes": list(self.notes),
        }

    @staticmethod
    def _llc_dict(llc: LLCCurve) -> dict[str, Any]:
        assert llc.converged is not None
        reasons = [[reason.to_dict() for reason in found] for found in llc.reasons]
        return {**_curve_dict(llc), "converged": llc.converged.tolist(), "reasons": reasons}


@dataclass(frozen=True, eq=False)
class Analysis:
    """All runs of a report, with what only several runs together show.

    Attributes
    ----------
    runs : in the order given (`find_runs`: by M).
    pca : joint trajectory PCA, or None (`notes` says why).
    notes : about the set of runs.
    llc_name, seed : name of the stored LLC curves, and the seed of every bootstrap.
    calibration : that of the LLC's settings, or None.
    """

    runs: tuple[RunAnalysis, ...]
    pca: PCAAnalysis | None
    notes: tuple[str, ...]
    llc_name: str
    seed: int
    calibration: Calibration | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "runs": [run.to_dict() for run in self.runs],
            "pca": None if self.pca is None else self.pca.to_dict(),
            "notes": list(self.notes),
            "llc_name": self.llc_name,
            "seed": self.seed,
            "calibration": None if self.calibration is None else [each.to_dict() for each in self.calibration.findings],
        }


def analyse(
    runs: Sequence[Trajectory],
    llc_name: str = "llc",
    seed: int = 0,
    notes: Sequence[str] = (),
    calibration: Calibration | None = None,
) -> Analysis:
    """Verdicts, curves, levels and joint PCA of `runs`.

    Transience is judged out of distribution: distances to ridge (general) and to dMMSE_M (specialised; none at
    M = infinity), and the OOD loss. Specialisation is judged in distribution. Runs that lack a metric, a curve or
    function vectors are analysed as far as they go; a damaged run is left out, with a note.

    Parameters
    ----------
    runs : opened run folders, `find_runs(folder)`. llc_name : name of the stored LLC curves.
    seed : of the detectors' bootstrap. notes : what is to be said about the set of runs besides.
    calibration : of the LLC, to be shown with the rest; see `stored_calibration`.

    Raises `DataError` without any run, and the run's own error if none can be read.
    """
    if not runs:
        raise DataError("analyse: no runs were given; open a folder with find_runs(folder)")
    found: list[RunAnalysis] = []
    kept: list[Trajectory] = []
    found_notes = list(notes)
    problem: TrajectoryError | None = None
    for run in runs:
        try:
            if len(run.steps) == 0:
                raise TrajectoryError(f"{run.path.name}: no checkpoint is stored yet; go on with `llc-dynamics train`")
            found.append(_analyse_run(run, llc_name, seed))
            kept.append(run)
        except TrajectoryError as error:
            problem = error
            found_notes.append(f"{run.path.name} was left out: {error}")
    if not found and problem is not None:
        raise problem
    labels = unique_labels(found)
    found = [replace(run, label=label) for run, label in zip(found, labels, strict=True)]
    pca, pca_notes = analyse_pca(kept, labels, [run.num_tasks for run in found])
    found = [_developed(run, pca, seed) for run in found]
    return Analysis(tuple(found), pca, (*found_notes, *pca_notes), llc_name, seed, calibration)


def stored_calibration(folder: Path, notes: list[str]) -> Calibration | None:
    """What `llc-dynamics calibrate` left in the folder of the runs; a damaged one is left out, with a note."""
    if not (folder / "calibration" / "settings.toml").is_file():
        return None
    try:
        return Calibration.load(folder / "calibration")
    except ConfigError as error:
        notes.append(f"the calibration was left out: {error}")
        return None


def unique_labels(runs: Sequence[RunAnalysis]) -> list[str]:
    """'M = 8', or a folder name; with the seed, and then the folder name, where several runs would share a label."""
    names = [_task_label(run.num_tasks) or run.name for run in runs]
    for addition in ([f"seed {run.seed}" for run in runs], [run.name for run in runs]):
        shared = {name for name, count in Counter(names).items() if count > 1}
        names = [f"{name}, {more}" if name in shared else name for name, more in zip(names, addition, strict=True)]
    return names


def _analyse_run(run: Trajectory, llc_name: str, seed: int) -> RunAnalysis:
    notes: list[str] = []
    config = run.config
    tasks = number_of_tasks(config)
    arrays = run.arrays("evaluation") if "evaluation" in run.array_names else {}
    ideal = ideal_levels(arrays)
    known = {name: curve for name in METRICS if (curve := read_curve(run, name)) is not None}
    if tasks is not None:
        expected = [name for name in METRICS if tasks != math.inf or not name.startswith("dmmse")]
        missing = [name for name in expected if name not in known]
        if missing:
            notes.append(f"not measured in this run: {', '.join(missing)}")
    transience = judge_transience(known, ideal, tasks, seed, notes)
    specialisation = judge_specialisation(known, ideal, seed, notes)
    others = [name for name in run.metric_names if name not in METRICS and not name.endswith("_se")]
    curves = {name: curve if name == "ood_loss" else without_samples(curve) for name, curve in known.items()}
    for name in others:
        if (other := read_curve(run, name)) is not None:
            curves[name] = without_samples(other)
    training = config.get("training")
    planned = training.get("num_steps") if isinstance(training, Mapping) else None
    complete = run.complete
    if not complete:
        of = f" of {planned:,}" if isinstance(planned, int) else ""
        notes.append(f"training is not finished: the last stored step is {int(run.steps[-1]):,}{of}")
    seed_of_run = config.get("seed")
    return RunAnalysis(
        label=run.path.name,
        name=run.path.name,
        num_tasks=tasks,
        seed=seed_of_run if isinstance(seed_of_run, int) else None,
        complete=complete,
        planned_steps=planned if isinstance(planned, int) else None,
        steps=run.steps,
        curves=curves,
        ideal=ideal,
        transience=transience,
        specialisation=specialisation,
        llc=_llc(run, llc_name, notes),
        notes=tuple(notes),
        config=config,
        provenance=run.provenance,
    )


def _developed(run: RunAnalysis, pca: PCAAnalysis | None, seed: int) -> RunAnalysis:
    stages = find_stages(run.label, run.curves, run.llc, pca, seed)
    geometry, notes = find_geometry(run.label, pca, seed)
    return replace(run, stages=stages, geometry=geometry, notes=(*run.notes, *stages.notes, *notes))


def judge_transience(
    curves: Mapping[str, Curve],
    ideal: Mapping[str, Level],
    tasks: float | None,
    seed: int = 0,
    notes: list[str] | None = None,
) -> TransienceVerdict | None:
    """Transience of an in-context run, out of distribution, from its metrics by name and `ideal_levels`.

    None where the metrics do not allow a verdict; why is appended to `notes`. tasks : M, None if not known.
    """
    notes = [] if notes is None else notes
    if "ood_loss" not in curves or "ridge_distance_ood" not in curves:
        if tasks is not None:
            notes.append("no verdict on transience: it needs ood_loss and ridge_distance_ood")
        return None
    specialised = curves.get("dmmse_distance_ood")
    if specialised is None and tasks is not None and tasks != math.inf:
        notes.append("transience was judged without the distance to dMMSE: dmmse_distance_ood was not measured")
    gap = ideal.get("gap_ood")
    try:
        return detect_transience(
            general=curves["ridge_distance_ood"],
            specialised=specialised,
            ood_loss=curves["ood_loss"],
            reference_distance=gap.value if gap is not None and specialised is not None and gap.value > 0 else None,
            seed=seed,
        )
    except DataError as error:
        notes.append(f"no verdict on transience: {error}")
        return None


def judge_specialisation(
    curves: Mapping[str, Curve], ideal: Mapping[str, Level], seed: int = 0, notes: list[str] | None = None
) -> SpecialisationVerdict | None:
    """Specialisation of an in-context run, in distribution; otherwise as `judge_transience`."""
    notes = [] if notes is None else notes
    distance = curves.get("dmmse_distance_id")
    if distance is None:
        return None
    gap = ideal.get("gap_id")
    try:
        return detect_specialisation(
            distance, reference_distance=gap.value if gap is not None and gap.value > 0 else None, seed=seed
        )
    except DataError as error:
        notes.append(f"no verdict on specialisation: {error}")
        return None


def _llc(run: Trajectory, name: str, notes: list[str]) -> LLCCurve | None:
    if not curve_folder(run.path, name).is_dir():
        return None
    try:
        return LLCCurve.load(run, name)
    except (ConfigError, CorruptRunError) as error:
        notes.append(f"the LLC curve '{name}' was left out: {error}")
    except TrajectoryError:
        notes.append(f"the LLC curve '{name}' holds no finished point")
    return None


def _task_label(tasks: float | None) -> str | None:
    if tasks is None:
        return None
    return "M = ∞" if math.isinf(tasks) else f"M = {tasks:,.0f}"


def _plain(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return ("inf" if value > 0 else "-inf") if math.isinf(value) else float(value)


def _curve_dict(curve: Curve) -> dict[str, Any]:
    errors = None if curve.standard_errors is None else [_plain(error) for error in curve.standard_errors]
    return {
        "steps": curve.steps.tolist(),
        "values": [_plain(value) for value in curve.values],
        "standard_errors": errors,
    }
