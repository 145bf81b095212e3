"""All runs of a sweep, and all points of their LLC curves, as units of work on an executor."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llc_dynamics.errors import ConfigError, TrajectoryError
from llc_dynamics.llc import Problem, llc_point
from llc_dynamics.llc.storage import curve_folder, stored_points
from llc_dynamics.seeding import torch_generator
from llc_dynamics.settings import to_mapping
from llc_dynamics.sweeps.config import LLCConfig, SweepConfig
from llc_dynamics.sweeps.stored import write_sweep_file
from llc_dynamics.systems.checks import check_system
from llc_dynamics.systems.registry import calling, spec_of, system_class, system_mapping, system_of_run
from llc_dynamics.systems.system import System
from llc_dynamics.training import RunConfig, train
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.workers import ALL, Job, Shard, report, require_workers, run_jobs


def run_sweep(
    sweep: SweepConfig,
    folder: str | Path,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    shard: Shard = ALL,
    estimate: bool = False,
    device: str = "cpu",
) -> list[Path]:
    """Train the runs of `sweep` into folders inside `folder`; with `estimate`, their LLC curves too, as each run ends.

    What is finished is left as it is, what was stopped goes on. `workers=None` is one process for every core, or for
    the device `cuda` one for every GPU; `executor`, any `concurrent.futures.Executor`, takes their place. Results do
    not depend on either. Returns the run folders in the order of the sweep; of a `shard`, only its own.
    """
    if executor is None:
        require_workers(workers)
        require_device(device)
    folder = Path(folder)
    configs = dict(shard.of(list(sweep.run_configs().items())))
    if not folder.exists():
        first = next(iter(configs.values()))
        check_system(first.system, first.seed)  # before anything is written
    write_sweep_file(folder, sweep)
    spec = spec_of(sweep.system)
    # Longest first: the last worker to end is then never far behind the others.
    order = sorted(configs, key=lambda label: -configs[label].training.num_steps)
    jobs = [
        Job(
            _train_run,
            (configs[label].to_mapping(), spec, str((folder / label).absolute()), device),
            bar=f"train {label}",
            total=configs[label].training.num_steps,
        )
        for label in order
    ]

    def after(job: Job, result: Any) -> list[Job]:
        if not estimate or job.function is not _train_run:
            return []
        return _point_jobs(Trajectory(result), sweep.llc, type(sweep.system), "llc", device)

    run_jobs(jobs, workers=workers, executor=executor, device=device, after=after)
    return [folder / label for label in configs]


def estimate_curves(
    runs: Sequence[Trajectory],
    settings: LLCConfig,
    *,
    system: type[System] | None = None,
    name: str = "llc",
    overwrite: bool = False,
    workers: int | None = None,
    executor: Executor | None = None,
    shard: Shard = ALL,
    device: str = "cpu",
) -> None:
    """Estimate the LLC curves of runs, stored beside each run; points that are there already are kept.

    system : the runs' system where it is not part of this package, or they were recorded in another loop.
    overwrite : compute points again that were made with other settings, and drop those at steps that are not wanted.
    workers, executor, shard : as in `run_sweep`; a shard has its share of all points.
    """
    if executor is None:
        require_device(device)
    jobs = shard.of([job for run in runs for job in _point_jobs(run, settings, system, name, device, overwrite)])
    # Only now, when every run is known to be one that the curve can be computed for.
    for run in runs if overwrite else ():
        wanted = settings.choose_steps(run.weight_steps)
        for step, path in stored_points(curve_folder(run.path, name)).items():
            if step not in wanted:
                path.unlink()
    run_jobs(jobs, workers=workers, executor=executor, device=device)


def _point_jobs(
    run: Trajectory,
    settings: LLCConfig,
    system: type[System] | None,
    name: str,
    device: str,
    overwrite: bool = False,
) -> list[Job]:
    (own,) = systems_of([run], system)  # the messages come before any work is done
    stored = {} if overwrite else stored_points(curve_folder(run.path, name))
    return [
        Job(
            _estimate_point,
            (str(run.path.absolute()), step, spec_of(own), to_mapping(settings), name, device, overwrite),
            # Apart, because they are found in no time, which says nothing about how long the others take.
            bar=f"stored LLC {run.path.name}" if step in stored else f"LLC {run.path.name}",
            advance=1,
        )
        for step in settings.choose_steps(run.weight_steps)
    ]


def systems_of(runs: Sequence[Trajectory], given: type[System] | None) -> list[System]:
    """The system of each run: the one that it was trained with, or `given` for runs of another loop.

    Raises `TrajectoryError` for a run whose system nobody named, or that holds no checkpoint.
    """
    for run in runs:
        if len(run.weight_steps) == 0:
            raise TrajectoryError(f"{run.path}: no checkpoint is stored yet; go on with `llc-dynamics train`")
    return [system_of_run(run.config, str(run.path), given) for run in runs]


def require_device(device: str) -> None:
    """Raise `ConfigError` for a device that torch does not know or does not have here."""
    try:
        torch.zeros(1, device=device).item()  # the device "meta" has no values
    except (RuntimeError, AssertionError) as error:
        problem = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"device '{device}' cannot be used here ({problem}); choose cpu, or cuda with a GPU"
        ) from None


def _train_run(config: dict[str, Any], spec: str, path: str, device: str) -> str:
    """In a worker: train one run."""
    require_device(device)
    bar = f"train {Path(path).name}"
    chosen = RunConfig.from_mapping(config, path, system_class(spec))
    run = train(chosen, path, device=device, progress=lambda step, _: report(bar, step))
    report(bar, int(run.steps[-1]))
    return path


def _estimate_point(
    path: str, step: int, spec: str, mapping: dict[str, Any], name: str, device: str, overwrite: bool
) -> None:
    """In a worker: one point of one curve."""
    require_device(device)
    llc = LLCConfig.from_mapping(mapping, "llc")
    run = Trajectory(path)
    (system,) = systems_of([run], system_class(spec))
    settings = replace(llc.estimate_of(system), seed=_seed(run))
    llc_point(run, step, problem_of(run, system, llc, device), settings, name=name, overwrite=overwrite)


def problem_of(run: Trajectory, system: System, config: LLCConfig, device: str) -> Problem:
    """What the estimates of a run are made for."""
    data, data_id = system.data(), None
    if data is None and config.fixed_samples is not None:
        data = system.sample(torch_generator(_seed(run), "LLC data"), config.fixed_samples)
    elif data is None:
        # A function has no bytes to take a digest of.
        data, data_id = system.sample, f"fresh samples of {system_mapping(system)}"
    return Problem(
        calling(f"{type(system).__name__}: build", system.build, _seed(run)),
        config.loss_of(system),
        data,
        device=device,
        data_id=data_id,
    )


def _seed(run: Trajectory) -> int:
    seed = run.config.get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else 0
