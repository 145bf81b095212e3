"""What `crossover.py` reads from the runs of one seed: times, losses and the LLC, each with draws from its errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from crossover_llc import DRAWS, SmoothLLC, smooth_llc
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import DataError, LLCDynamicsError, TrajectoryError
from llc_dynamics.llc import LLCCurve
from llc_dynamics.llc.storage import curve_folder
from llc_dynamics.report.reading import Level, read_curve, read_probes, reference_gap, reference_losses
from llc_dynamics.stages import TransienceVerdict, detect_transience
from llc_dynamics.stages.evidence import Evidence, TimeGrid
from llc_dynamics.stages.points import common_points
from llc_dynamics.sweeps import find_runs
from llc_dynamics.systems.description import description_of
from llc_dynamics.trajectory import Trajectory

Array = NDArray[np.float64]

_RESOLUTION = 0.5  # of detect_transience, whose trend and bootstrap are repeated here for the draws behind its interval
_LEAST_TASKS = 3


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run. Losses are mean squared errors, times in steps.

    Attributes
    ----------
    status : "transient", by `detect_transience`; "not resolved", where there is an inner minimum but no such verdict;
        "censored", where the out-of-distribution loss falls to the end; "at the start", where it never fell.
    t_crit, t_crit_interval : step of least out-of-distribution loss (of its trend) with its 90% interval, whatever the
        verdict; for a censored run its last step.
    t_draws : draws of t_crit [draw], infinite where the minimum fell on the last step.
    ridge, dmmse : losses of the ideal predictors on q_M; gap : their difference, as E_qM (ridge - dMMSE)^2, which is
        the same in expectation (dMMSE_M is the posterior mean) and less noisy; paired_gap : the plain difference of the
        losses on the same sequences. None at M = infinity.
    loss_at, loss_end : measured loss on q_M at t_crit and at the end.
    fall, fall_error, fall_draws : how far the loss on q_M falls from t_crit to the end, as the fall of the distance to
        dMMSE_M on q_M, which again is the same in expectation and whose sequences are stored: smoothed, with the errors
        over sequences (paired) and the jitter of the weights.
    nats : log-likelihood of one training sequence per unit of mean squared error, K / (2 s2).
    batch_size : training sequences a step.
    """

    seed: int
    num_tasks: float
    folder: Path
    complete: bool
    last_step: int
    status: str
    verdict: TransienceVerdict
    t_crit: int
    t_crit_interval: tuple[int, int]
    t_draws: Array
    ridge: Level | None
    dmmse: Level | None
    gap: Level | None
    paired_gap: Level | None
    loss_at: float
    loss_end: float
    fall: float
    fall_error: float
    fall_draws: Array
    llc: SmoothLLC
    nats: float
    batch_size: int

    @property
    def finite(self) -> bool:
        """Whether M is finite; M = infinity is the control."""
        return math.isfinite(self.num_tasks)

    @property
    def observed(self) -> float:
        """t_crit, infinite where it is censored."""
        return math.inf if self.status == "censored" else float(self.t_crit)


def read_seeds(folders: Sequence[Path], name: str, unconverged: bool = False) -> list[RunRecord]:
    """The records of all runs of one sweep folder a seed, by seed and M.

    Raises `TrajectoryError` for what is no sweep folder or lacks LLC curves called `name`, and `DataError` for folders
    without a run at M = infinity, with fewer than 3 finite M, with several runs of one M, or of one seed.
    """
    records: list[RunRecord] = []
    for folder in folders:
        runs = find_runs(folder)
        tasks = [number_of_tasks(run) for run in runs]
        _check_sweep(folder, runs, tasks, name)
        seeds = {run.config.get("seed") for run in runs}
        if len(seeds) > 1 or not isinstance(next(iter(seeds)), int):
            raise DataError(
                f"{folder}: its runs have the seeds {sorted(map(str, seeds))}; give one sweep folder a seed"
            )
        if seeds & {record.seed for record in records}:
            raise DataError(f"{folder}: another folder has seed {next(iter(seeds))} already; give one folder a seed")
        records += [read_run(run, name, unconverged) for run in runs]
    return sorted(records, key=lambda record: (record.seed, record.num_tasks))


def read_run(run: Trajectory, name: str, unconverged: bool = False) -> RunRecord:
    """One run; with `unconverged` its unconverged LLC points count like the others."""
    wanted = ("loss/ood", "distance/ood/ridge", "distance/ood/dmmse", "loss/id")
    curves = {key: read_curve(run, key) for key in wanted}
    missing = [key for key in ("loss/ood", "distance/ood/ridge", "loss/id") if curves[key] is None]
    if missing:
        raise DataError(f"{run.path}: {', '.join(missing)} not measured; train it with `llc-dynamics train`")
    arrays = read_probes(run)
    levels = reference_losses(description_of(run), arrays).get("loss/id", {})
    specialised = curves["distance/ood/dmmse"]
    gap_ood, gap_id = (reference_gap(arrays, probe, "ridge", "dmmse") for probe in ("ood", "id"))
    verdict = detect_transience(  # as `llc-dynamics stages` calls it
        general=curves["distance/ood/ridge"],
        specialised=specialised,
        ood_loss=curves["loss/ood"],
        reference_distance=gap_ood.value if gap_ood and specialised is not None else None,
        seed=0,
    )
    points = common_points(
        {
            "ood_loss": curves["loss/ood"],
            "general": curves["distance/ood/ridge"],
            "specialised": specialised,
            "id": read_curve(run, "distance/id/dmmse"),
        }
    )
    grid = TimeGrid(points.steps, _RESOLUTION, DRAWS, 0)
    trend, deviations = _trend(points.curves["ood_loss"], grid)
    last, best = len(points.steps) - 1, int(np.argmin(trend))
    drawn = np.argmin(trend[:, None] + deviations, axis=0)
    status = "transient" if verdict.transient else {0: "at the start", last: "censored"}.get(best, "not resolved")
    low, high = np.quantile(drawn, [0.05, 0.95], method="nearest")
    interval = (int(points.steps[min(low, max(best - 1, 0))]), int(points.steps[max(high, min(best + 1, last))]))
    if verdict.t_crit_interval is not None:
        interval = verdict.t_crit_interval
    fall, fall_error, fall_draws = 0.0, 0.0, np.zeros(DRAWS)
    if "id" in points.curves and best != last:
        distance = Evidence(points.curves["id"], grid)
        change = distance.change(best, last)
        fall, fall_error = -change.value, change.error
        paths = distance.trend[:, None] + distance.sampling_draws() + distance.jitter_draws()
        start = np.where(drawn == last, best, drawn)  # a draw without an inner minimum keeps the run's own t_crit
        fall_draws = paths[start, np.arange(DRAWS)] - paths[last]
    t_draws = np.where(drawn == last, math.inf, points.steps[drawn].astype(np.float64))
    measured = curves["loss/id"]
    assert measured is not None
    step = int(points.steps[best])
    system, training = run.config["system"], run.config["training"]
    return RunRecord(
        seed=int(run.config["seed"]),
        num_tasks=float(number_of_tasks(run) or math.nan),
        folder=Path(run.path),
        complete=run.complete,
        last_step=int(points.steps[last]),
        status=status,
        verdict=verdict,
        t_crit=step,
        t_crit_interval=interval,
        t_draws=t_draws,
        ridge=levels.get("ridge"),
        dmmse=levels.get("dmmse"),
        gap=gap_id,
        paired_gap=None if gap_id is None else _paired_gap(arrays),
        loss_at=float(measured.values[np.searchsorted(measured.steps, step)]),
        loss_end=float(measured.values[-1]),
        fall=fall,
        fall_error=fall_error,
        fall_draws=fall_draws,
        llc=smooth_llc(LLCCurve.load(run, name), unconverged, int(run.config["seed"])),
        nats=float(system["context_length"]) / (2 * float(system["noise_variance"])),
        batch_size=int(training["batch_size"]),
    )


def _trend(curve: Curve, grid: TimeGrid) -> tuple[Array, Array]:
    evidence = Evidence(curve, grid)
    return evidence.trend, evidence.sampling_draws() + evidence.jitter_draws()


def number_of_tasks(run: Trajectory) -> float | None:
    """M of a run of in-context regression, from its axis; None for another run."""
    axis = description_of(run).axis
    return None if axis is None or axis.name != "M" or isinstance(axis.value, str) else float(axis.value)


def _paired_gap(arrays: Mapping[str, NDArray]) -> Level:
    names = ("id/target", "id/reference/ridge", "id/reference/dmmse")
    y, ridge, dmmse = (np.asarray(arrays[name], np.float64) for name in names)
    each = ((ridge - y) ** 2 - (dmmse - y) ** 2).reshape(len(y), -1).mean(axis=1)
    return Level(float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each))))


def _check_sweep(folder: Path, runs: Sequence[Trajectory], tasks: Sequence[float | None], name: str) -> None:
    strange = [run.path.name for run, number in zip(runs, tasks, strict=True) if number is None]
    if strange:
        raise DataError(f"{folder}: {', '.join(strange)} has no number of tasks; give sweeps of in-context regression")
    if math.inf not in tasks:
        raise DataError(f"{folder}: no run at M = infinity, which is the control and ridge's LLC; train one as well")
    finite = [number for number in tasks if number is not None and math.isfinite(number)]
    if len(finite) < _LEAST_TASKS:
        raise DataError(f"{folder}: {len(finite)} finite values of M; an order needs {_LEAST_TASKS} or more")
    if len(set(tasks)) < len(tasks):
        raise DataError(f"{folder}: several runs of one M; give one sweep folder a seed")
    without = []
    for run in runs:
        try:
            LLCCurve.load(run, name)
        except TrajectoryError:
            without.append((run.path.name, _names(run)))
        except LLCDynamicsError:
            raise
    if without:
        stored = sorted({other for _, names in without for other in names})
        raise TrajectoryError(
            f"{folder}: no LLC curve '{name}' in {', '.join(run for run, _ in without)} (stored there: "
            f"{', '.join(stored) or 'none'}); estimate it with `llc-dynamics llc {folder} --name {name}`"
        )


def _names(run: Trajectory) -> list[str]:
    parent = curve_folder(Path(run.path), "llc").parent
    return sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
