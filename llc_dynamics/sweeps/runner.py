"""All runs of a sweep, and all points of their LLC curves, on a pool of single-threaded worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llc_dynamics.settings import to_mapping
from llc_dynamics.sweeps.config import LLCConfig, SweepConfig
from llc_dynamics.sweeps.folders import write_sweep_file
from llc_dynamics.sweeps.pool import Job, default_workers, run_jobs
from llc_dynamics.trajectory import Trajectory


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
    folder = Path(folder)
    write_sweep_file(folder, to_mapping(sweep))
    configs = sweep.run_configs()
    # Longest first: the last worker to end is then never far behind the others.
    order = sorted(configs, key=lambda label: -configs[label].training.num_steps)
    jobs = [
        Job(
            _train_run,
            (to_mapping(configs[label]), str(folder / label), device, f"train {label}"),
            bar=f"train {label}",
            total=configs[label].training.num_steps,
        )
        for label in order
    ]

    def after(job: Job, result: Any) -> list[Job]:
        if not estimate or job.function is not _train_run:
            return []
        return _point_jobs(Trajectory(result), sweep.llc, name="llc", overwrite=False, device=device)

    run_jobs(jobs, workers=workers or default_workers(), after=after, show=show)
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
    """Estimate the LLC curves of in-context runs, stored beside each run; points that are there already are kept."""
    jobs = [job for run in runs for job in _point_jobs(run, settings, name=name, overwrite=overwrite, device=device)]
    run_jobs(jobs, workers=workers or default_workers(), show=show)
