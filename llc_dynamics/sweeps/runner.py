"""All runs of a sweep, and all points of their LLC curves, on a pool of single-threaded worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llc_dynamics.errors import ConfigError, TrajectoryError
from llc_dynamics.llc import Problem, llc_point
from llc_dynamics.llc.storage import curve_folder, stored_points
from llc_dynamics.sampling.flat_model import LossFunction
from llc_dynamics.settings import from_mapping, to_mapping
from llc_dynamics.sweeps.config import LLCConfig, SweepConfig
from llc_dynamics.sweeps.folders import write_sweep_file
from llc_dynamics.systems.in_context_regression.task import InContextRegression
from llc_dynamics.systems.in_context_regression.transformer import InContextTransformer
from llc_dynamics.training import RunConfig, load_config, train
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.workers import Job, report, require_workers, run_jobs


def run_sweep(
    sweep: SweepConfig,
    folder: str | Path,
    *,
    workers: int | None = None,
    estimate: bool = False,
    device: str = "cpu",
    show: bool | None = None,
) -> list[Path]:
    """Train the runs of `sweep` into `folder/M-...`; with `estimate`, their LLC curves too, each as its run ends.

    What is finished is left as it is, what was stopped goes on. `workers=None` is one for every core. Results do not
    depend on the number of workers. Returns the run folders in the order of the sweep.
    """
    workers = require_workers(workers)
    require_device(device)
    folder = Path(folder)
    write_sweep_file(folder, to_mapping(sweep))
    configs = sweep.run_configs()
    # Longest first: the last worker to end is then never far behind the others.
    order = sorted(configs, key=lambda label: -configs[label].training.num_steps)
    jobs = [
        Job(
            _train_run,
            (to_mapping(configs[label]), str(folder / label), device),
            bar=_training_bar(folder / label),
            total=configs[label].training.num_steps,
        )
        for label in order
    ]

    def after(job: Job, result: Any) -> list[Job]:
        if not estimate or job.function is not _train_run:
            return []
        return _point_jobs(Trajectory(result), sweep.llc, name="llc", device=device)

    run_jobs(jobs, workers=workers, after=after, show=show)
    return [folder / label for label in configs]


def estimate_curves(
    runs: Sequence[Trajectory],
    settings: LLCConfig,
    *,
    name: str = "llc",
    overwrite: bool = False,
    workers: int | None = None,
    device: str = "cpu",
    show: bool | None = None,
) -> None:
    """Estimate the LLC curves of in-context runs, stored beside each run; points that are there already are kept.

    overwrite : compute points again that were made with other settings, and drop those at steps that are not wanted.
    """
    workers = require_workers(workers)
    require_device(device)
    jobs = [job for run in runs for job in _point_jobs(run, settings, name=name, device=device, overwrite=overwrite)]
    # Only now, when every run is known to be one that the curve can be computed for.
    for run in runs if overwrite else ():
        wanted = settings.choose_steps(run.weight_steps)
        for step, path in stored_points(curve_folder(run.path, name)).items():
            if step not in wanted:
                path.unlink()
    run_jobs(jobs, workers=workers, show=show)


def _point_jobs(run: Trajectory, settings: LLCConfig, *, name: str, device: str, overwrite: bool = False) -> list[Job]:
    require_in_context([run])  # the message comes before any work is done
    steps = settings.choose_steps(run.weight_steps)
    return [
        Job(
            _estimate_point,
            (str(run.path), step, to_mapping(settings), name, device, overwrite),
            bar=f"LLC {run.path.name}",
            total=len(steps),
            advance=1,
        )
        for step in steps
    ]


def require_in_context(runs: Sequence[Trajectory]) -> None:
    """Raise `TrajectoryError` unless this program trained the runs and each holds a checkpoint."""
    for run in runs:
        try:
            if "task" not in run.config:
                raise ConfigError("there is no task in its configuration")
            load_config(run)
        except ConfigError as error:
            raise TrajectoryError(
                f"{run.path}: not an in-context run of `llc-dynamics train` ({error}); for a run of another training "
                "loop call ld.llc_curve(run, model, loss_fn, data) in Python"
            ) from None
        if len(run.weight_steps) == 0:
            raise TrajectoryError(f"{run.path}: no checkpoint is stored yet; go on with `llc-dynamics train`")


def require_device(device: str) -> None:
    """Raise `ConfigError` for a device that torch does not know or does not have here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        problem = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"device '{device}' cannot be used here ({problem}); choose cpu, or cuda with a GPU"
        ) from None


def _training_bar(path: Path) -> str:
    return f"train {path.name}"


def _train_run(config: dict[str, Any], path: str, device: str) -> str:
    """In a worker: train one run."""
    bar = _training_bar(Path(path))
    run = train(from_mapping(RunConfig, config), path, device=device, progress=lambda step, _: report(bar, step))
    report(bar, int(run.steps[-1]))
    return path


def _estimate_point(path: str, step: int, mapping: dict[str, Any], name: str, device: str, overwrite: bool) -> None:
    """In a worker: one point of one curve."""
    llc = from_mapping(LLCConfig, mapping)
    run = Trajectory(path)
    settings = replace(llc.estimate, seed=load_config(run).seed)
    llc_point(run, step, problem_of(run, llc.loss_fn, device), settings, name=name, overwrite=overwrite)


def problem_of(run: Trajectory, loss_fn: LossFunction, device: str) -> Problem:
    """What the estimates of an in-context run are made for."""
    config = load_config(run)
    return Problem(
        InContextTransformer(config.model, seed=config.seed),
        loss_fn,
        config.task.sample,
        device=device,
        data_id=data_name(config.task),
    )


def data_name(task: InContextRegression) -> str:
    """What identifies the data of stored estimates: q_M has no bytes to take a digest of."""
    return f"fresh sequences from q_M, {task}"
