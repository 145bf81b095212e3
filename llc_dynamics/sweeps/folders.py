"""From a folder that a user names to the runs in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llc_dynamics.errors import ConfigError, CorruptRunError, TrajectoryError
from llc_dynamics.systems.description import description_of
from llc_dynamics.trajectory import Trajectory
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
