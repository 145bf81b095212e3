"""The files of a run folder, and what a folder holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from llc_dynamics.errors import DataError, TrajectoryError
from llc_dynamics.trajectory.atomic import is_temporary

MANIFEST = "manifest.json"
SHARDS = "shards"
ARRAYS = "arrays"
RESUME = "resume.h5"
COMPLETE = "complete.json"
LOCK = "run.lock"
VIEW = "view.h5"
#: Rooms in the run folder for what other parts of the package make of a run.
RESULTS = ("llc", "calibration", "pca", "stages", "report", "figures", "report.html")
KNOWN = frozenset({MANIFEST, SHARDS, ARRAYS, RESUME, COMPLETE, LOCK, VIEW, *RESULTS})

_SHARD = re.compile(r"shard-(\d{6,9})\.h5")
_ARRAYS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def shard_name(index: int) -> str:
    return f"shard-{index:06d}.h5"


def shard_index(name: str) -> int | None:
    """The number in a shard's file name, None for any other name."""
    match = _SHARD.fullmatch(name)
    index = int(match[1]) if match else -1
    return index if match and shard_name(index) == name else None


def arrays_file(run: Path, name: str) -> Path:
    """The file of the fixed arrays `name`; `DataError` for a name that is no plain file name."""
    if not isinstance(name, str) or not _ARRAYS.fullmatch(name):
        raise DataError(f"arrays {name!r}: use letters, digits, '_', '-' and '.', starting with a letter or a digit")
    return run / ARRAYS / f"{name}.h5"


def to_link(name: str, what: str) -> str:
    """A metric's (sample's, array's) name as a name of one HDF5 link: '/' and the like are percent-encoded."""
    if not isinstance(name, str) or not name or len(name) > 200:
        raise DataError(f"{what} name {name!r}: give a string of 1 to 200 characters")
    link = quote(name, safe=" +:()[]{},=@#&!*'")
    return "%2E" + link[1:] if link.startswith(".") else link


def from_link(link: str) -> str:
    return unquote(link)


def is_run(folder: Path) -> bool:
    """Whether `folder` holds a run, sound or not."""
    return (folder / MANIFEST).is_file()


Content = Literal["missing", "empty", "unfinished", "run", "foreign", "file"]


def classify(run: Path) -> Content:
    """What is at `run`: "unfinished" is a run whose writer died before the manifest was written."""
    try:
        if not run.exists():
            return "missing"
        if not run.is_dir():
            return "file"
        names = {entry.name for entry in run.iterdir()}
        if MANIFEST in names:
            return "run"
        names = {name for name in names if not is_temporary(name)}
        if not names:
            return "empty"
        own = LOCK in names and names <= {LOCK, ARRAYS, SHARDS}
        if own and all(
            is_temporary(entry.name) or (folder == ARRAYS and entry.suffix == ".h5")
            for folder in (ARRAYS, SHARDS)
            if (run / folder).is_dir()
            for entry in (run / folder).iterdir()
        ):
            return "unfinished"
    except OSError as error:
        raise TrajectoryError(f"{run}: cannot look into the folder ({error.strerror})") from error
    return "foreign"
