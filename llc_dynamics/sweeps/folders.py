"""From a folder that a user names to the runs in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llc_dynamics.errors import CorruptRunError, TrajectoryError
from llc_dynamics.sweeps.config import SweepConfig, sweep_from_mapping
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.atomic import write_whole

SWEEP_FILE = "sweep.json"


def is_run(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def find_runs(folder: str | Path) -> list[Trajectory]:
    """The runs of a folder: itself if it is a run, else its subfolders that are, ordered by M (infinity last).

    Raises `TrajectoryError` if the folder is missing or holds no run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TrajectoryError(f"{folder}: no such folder; give a run folder or a folder of runs")
    if is_run(folder):
        return [Trajectory(folder)]
    runs = [Trajectory(child) for child in sorted(folder.iterdir()) if is_run(child)]
    if not runs:
        raise TrajectoryError(
            f"{folder}: neither a run nor a folder of runs (there is no manifest.json in it or in its subfolders); "
            "record one with `llc-dynamics train CONFIG --out FOLDER` or ld.TrajectoryWriter"
        )
    return sorted(runs, key=lambda run: (_num_tasks(run), run.path.name))


def write_sweep_file(folder: Path, resolved: dict[str, Any]) -> None:
    """Keep the resolved settings beside the runs. Raises `TrajectoryError` if the folder belongs to something else."""
    path = folder / SWEEP_FILE
    if path.exists():
        stored = read_sweep_file(folder)
        if stored != resolved:
            differing = sorted(key for key in {*stored, *resolved} if stored.get(key) != resolved.get(key))
            raise TrajectoryError(
                f"{folder}: holds a sweep with other settings (they differ in: {', '.join(differing)}); "
                "choose another --out, or continue it without changes"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TrajectoryError(f"{folder}: not empty and not a sweep of this program; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(resolved, indent=1).encode())


def stored_sweep(folder: str | Path) -> SweepConfig:
    """The settings of a sweep folder, or of the sweep that a run folder stands in."""
    folder = Path(folder).resolve()
    for candidate in (folder, folder.parent):
        if (candidate / SWEEP_FILE).is_file():
            return sweep_from_mapping(read_sweep_file(candidate), where=str(candidate / SWEEP_FILE))
    raise TrajectoryError(
        f"{folder}: no {SWEEP_FILE} here or one folder up, so the settings are not known; give them with --config"
    )


def read_sweep_file(folder: Path) -> dict[str, Any]:
    """The settings in a sweep folder. Raises `TrajectoryError` if it is none, `CorruptRunError` if unreadable."""
    path = folder / SWEEP_FILE
    if not path.is_file():
        raise TrajectoryError(f"{folder}: neither a run nor a sweep folder (no manifest.json, no {SWEEP_FILE})")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptRunError(f"{path}: cannot be read ({error}); restore it or delete it and train again") from None
    if not isinstance(content, dict):
        raise CorruptRunError(f"{path}: not a table of settings; restore it or delete it and train again")
    return content


def _num_tasks(run: Trajectory) -> float:
    try:
        return float(run.config["task"]["num_tasks"])
    except (KeyError, TypeError, ValueError):
        return float("inf")
