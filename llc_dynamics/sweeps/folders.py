"""From a folder that a user names to the runs in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llc_dynamics.errors import ConfigError, CorruptRunError, TrajectoryError
from llc_dynamics.sweeps.config import LLCConfig, SweepConfig
from llc_dynamics.systems.description import description_of
from llc_dynamics.systems.registry import is_file
from llc_dynamics.systems.system import System
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.files import write_whole
from llc_dynamics.trajectory.names import run_folders as run_folders

SWEEP_FILE = "sweep.json"


def find_runs(folder: str | Path, on_damage: Callable[[str], None] | None = None) -> list[Trajectory]:
    """The runs of a folder: itself if it is a run, else its subfolders that are, in the order of their axis
    (M = 2, 12, infinity), then those without one by name.

    on_damage : called with a message for a run that cannot be opened, which is then left out; None raises its error.

    Raises `TrajectoryError` if the folder is missing or holds no run, and the run's own error if none can be opened.
    """
    runs, problem = [], None
    for path in run_folders(folder):
        try:
            runs.append(Trajectory(path))
        except TrajectoryError as error:
            if on_damage is None:
                raise
            problem = error
            on_damage(f"{path.name} was left out: {error}")
    if not runs and problem is not None:
        raise problem
    return sorted(runs, key=_by_axis)


def write_sweep_file(folder: Path, sweep: SweepConfig) -> None:
    """Keep the resolved settings beside the runs. Raises `TrajectoryError` if the folder belongs to something else."""
    path, resolved = folder / SWEEP_FILE, sweep.to_mapping()
    if path.exists():
        # Compared as settings: a later version may know settings, with defaults, that the file does not hold.
        stored = SweepConfig.from_mapping(read_sweep_file(folder), str(path), system=type(sweep.system)).to_mapping()
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


def stored_sweep(folder: str | Path, system: type[System] | None = None) -> SweepConfig:
    """The settings of a sweep folder, or of the sweep that a run folder stands in; see `SweepConfig.from_mapping`."""
    place = sweep_folder(folder)
    return SweepConfig.from_mapping(read_sweep_file(place), str(place / SWEEP_FILE), system=system)


def stored_settings(folder: str | Path) -> dict[str, Any]:
    """The same as a mapping; of a sweep whose system is a user's file only its name and seed are checked."""
    place = sweep_folder(folder)
    mapping, where = read_sweep_file(place), f"{place / SWEEP_FILE}"
    system = mapping.get("system")
    if isinstance(system, Mapping) and is_file(str(system.get("name"))):
        if not isinstance(mapping.get("name"), str) or type(mapping.get("seed")) is not int:
            raise CorruptRunError(f"{where}: no name or seed of a sweep; restore it or delete it and train again")
        return mapping
    return SweepConfig.from_mapping(mapping, where).to_mapping()


def stored_llc(folder: str | Path) -> LLCConfig:
    """How the curves of a sweep are estimated; its system is not needed for that."""
    place = sweep_folder(folder)
    return LLCConfig.from_mapping(read_sweep_file(place).get("llc", {}), f"{place / SWEEP_FILE}: llc")


def sweep_folder(folder: str | Path) -> Path:
    """The folder itself or the one that it stands in, whichever holds the settings of a sweep."""
    folder = Path(folder).resolve()
    for candidate in (folder, folder.parent):
        if (candidate / SWEEP_FILE).is_file():
            return candidate
    raise TrajectoryError(
        f"{folder}: no {SWEEP_FILE} here or one folder up, so the settings are not known; give them with --config, or "
        "choose them with `llc-dynamics calibrate` and give them with --settings"
    )


def read_sweep_file(folder: Path) -> dict[str, Any]:
    """The settings in a sweep folder. Raises `TrajectoryError` if it is none, `CorruptRunError` if unreadable."""
    path = folder / SWEEP_FILE
    if not path.is_file():
        raise TrajectoryError(f"{folder}: neither a run nor a sweep folder (no manifest.json, no {SWEEP_FILE})")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptRunError(f"{path}: cannot be read ({error}); restore it or delete it and train again") from None
    if not isinstance(content, dict):
        raise CorruptRunError(f"{path}: not a table of settings; restore it or delete it and train again")
    return content


def _by_axis(run: Trajectory) -> tuple[int, tuple[float, str], list[tuple[int, int, str]]]:
    name = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", run.path.name)]
    try:
        axis = description_of(run).axis
    except ConfigError:
        axis = None
    return (1, (0.0, ""), name) if axis is None else (0, axis.order(), name)
