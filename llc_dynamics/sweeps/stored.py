"""The settings of a sweep, kept beside its runs in `sweep.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llc_dynamics.errors import CorruptRunError, TrajectoryError
from llc_dynamics.sweeps.config import LLCConfig, SweepConfig
from llc_dynamics.sweeps.folders import SWEEP_FILE, read_sweep_file, sweep_folder
from llc_dynamics.systems.registry import is_file
from llc_dynamics.systems.system import System
from llc_dynamics.trajectory.files import write_whole


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
