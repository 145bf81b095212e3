"""One setting for the LLC of all runs of a sweep, so that their curves compare."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

from llc_dynamics.errors import CorruptRunError, TrajectoryError
from llc_dynamics.llc import read_settings
from llc_dynamics.llc.calibration import Calibration, CalibrationOptions
from llc_dynamics.llc.settings import Loss
from llc_dynamics.llc.trials import Progress, calibrate_problems, spread
from llc_dynamics.sweeps.config import LLCConfig
from llc_dynamics.sweeps.runner import problem_of, require_device, systems_of
from llc_dynamics.sweeps.stored import stored_llc
from llc_dynamics.systems.system import System
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.workers import executor_of

#: What `calibrate_runs` writes into a folder, beside the settings and the evidence of `Calibration.save`.
TRIALS = "trials"


def calibrate_runs(
    runs: Sequence[Trajectory],
    config: LLCConfig,
    folder: Path,
    *,
    system: type[System] | None = None,
    gradients: int = 4000,
    target_error: float = 0.05,
    seed: int = 0,
    max_seconds: float | None = 300.0,
    workers: int | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Calibration:
    """Calibrate for the curves of runs, and write settings, evidence and figure into `folder`.

    Tried are checkpoints that the curves will have: of one run at a third, two thirds and the end of its points, of
    several runs the last two of these each. Finished trials are kept in `folder/trials`; the same call goes on there.

    Parameters
    ----------
    config : its loss, and the batch size and n of its estimate, are what is calibrated for; the rest is chosen.
    system : the runs' system where it is not part of this package, or they were recorded in another loop.
    others : as in `ld.calibrate`.

    Raises what `ld.calibrate` raises, and `TrajectoryError` for runs whose system nobody named.
    """
    if executor is None:
        require_device(device)
    systems = systems_of(runs, system)
    estimate = config.estimate_of(systems[0])
    problems, points = [], []
    for run, own in zip(runs, systems, strict=True):
        problem = problem_of(run, own, config, device)
        steps = config.choose_steps(run.weight_steps)
        points += [problem.at(run, step, several_runs=len(runs) > 1) for step in steps]
        tried = spread(steps, len(runs))
        problems += [problem.at(run, step, several_runs=len(runs) > 1) for step in tried]
    options = CalibrationOptions(
        gradients=gradients,
        target_error=target_error,
        num_chains=estimate.num_chains,
        batch_size=estimate.batch_size,
        num_samples=estimate.num_samples,
        seed=seed,
        max_seconds=max_seconds,
    )
    with executor_of(executor, workers, device) as pool:
        found = calibrate_problems(
            problems, options, points=points, store=folder / TRIALS, executor=pool, progress=progress
        )
    found.save(folder)
    return found


def llc_config(folder: str | Path, settings_file: Path | None = None) -> LLCConfig:
    """How the curves of a folder are estimated: as stored with its sweep, or as in a settings file of `calibrate`.

    With a settings file only the points of the curve are the stored ones, or the usual ones where none are.
    """
    if settings_file is None:
        return stored_llc(folder)
    settings, loss = read_settings(settings_file)
    return replace(_stored_or_usual(folder), estimate=settings, loss=loss)


def to_calibrate(folder: str | Path, loss: Loss, batch_size: int | None, num_samples: int | None) -> LLCConfig:
    """What to calibrate for: the loss, and batch size and n as given, or as stored with the sweep."""
    stored = _stored_or_usual(folder)
    estimate = replace(
        stored.estimate,
        batch_size=stored.estimate.batch_size if batch_size is None else batch_size,
        num_samples=stored.estimate.num_samples if num_samples is None else num_samples,
    )
    return replace(stored, loss=loss, estimate=estimate)


def _stored_or_usual(folder: str | Path) -> LLCConfig:
    """Runs that were copied out of their sweep have no stored settings."""
    try:
        return stored_llc(folder)
    except CorruptRunError:
        raise
    except TrajectoryError:
        return LLCConfig()
