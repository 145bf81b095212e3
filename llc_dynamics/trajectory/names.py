"""The files of a run folder, what a folder holds, and the names of metrics and arrays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from llc_dynamics.errors import DataError, TrajectoryError, printable
from llc_dynamics.trajectory.files import is_temporary, storage_errors

MANIFEST = "manifest.json"
SHARDS = "shards"
ARRAYS = "arrays"
RESUME = "resume.h5"
COMPLETE = "complete.json"
LOCK = "run.lock"
VIEW = "view.h5"
LLC = "llc"
#: Rooms in the run folder for what other parts of the package make of a run.
RESULTS = (LLC, "calibration", "pca", "stages", "report", "figures", "report.html")
KNOWN = frozenset({MANIFEST, SHARDS, ARRAYS, RESUME, COMPLETE, LOCK, VIEW, *RESULTS})

_SHARD = re.compile(r"shard-(\d{6,9})\.h5")
_ARRAYS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_POINT = re.compile(r"step-(\d{1,19})\.h5")
#: Characters of a name of a metric or array.
_LONGEST_NAME = 200


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
    """A metric's (sample's, array's) name as a name of one HDF5 link: '/' and the like are percent-encoded.

    `DataError` for a name that is empty, too long, or has characters that cannot be printed (a terminal would obey
    them).
    """
    if not isinstance(name, str) or not name or len(name) > _LONGEST_NAME or not name.isprintable():
        shown = repr(name if not isinstance(name, str) or len(name) <= 80 else name[:80] + "...")
        raise DataError(f"{what} name {shown}: give a string of 1 to {_LONGEST_NAME} printable characters")
    return encoded(name)


def encoded(name: str) -> str:
    """`name` as a name of one HDF5 link, not checked."""
    link = quote(name, safe=" +:()[]{},=@#&!*'", errors="surrogatepass")
    return "%2E" + link[1:] if link.startswith(".") else link


def from_link(link: str) -> str:
    """The inverse of `to_link`; ValueError for a link that it does not make."""
    name = unquote(link)
    try:
        made = to_link(name, "stored")
    except DataError as error:
        raise ValueError(str(error)) from None
    if made != link:
        raise ValueError(f"{link[:80]!r} is not the name of a metric or array")
    return name


def require_own_folder(run: Path, *names: str) -> Path:
    """The folder run/names[0]/..., there or not; `TrajectoryError` if any of the names is a link.

    A writer changes nothing in a folder that lies elsewhere.
    """
    place = run
    for name in names:
        place = place / name
        if place.is_symlink():
            raise TrajectoryError(
                f"{place}: a link, and a writer changes no folder that lies elsewhere; put the folder itself in its "
                "place"
            )
    return place


def curve_folders(run: Path) -> list[Path]:
    """The folders of LLC curves beside a run, by name."""
    return sorted(entry for entry in (run / LLC).iterdir() if entry.is_dir()) if (run / LLC).is_dir() else []


def stored_points(folder: Path) -> dict[int, Path]:
    """The files of the finished points of an LLC curve, by step."""
    if not folder.is_dir():
        return {}
    found = ((match, entry) for entry in folder.iterdir() if (match := _POINT.fullmatch(entry.name)))
    return dict(sorted((int(match[1]), entry) for match, entry in found))


def is_run(folder: Path) -> bool:
    """Whether `folder` holds a run, sound or not."""
    return (folder / MANIFEST).is_file()


def run_folders(folder: str | Path) -> list[Path]:
    """The run folders of a folder, by name; nothing is opened. Raises `TrajectoryError` if there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise TrajectoryError(f"{printable(str(folder))}: no such folder; give a run folder or a folder of runs")
    if is_run(folder):
        return [folder]
    with storage_errors(folder, "read"):
        # A hidden folder is a run that is being built, or was when its process died.
        children = [child for child in sorted(folder.iterdir()) if is_run(child) and not child.name.startswith(".")]
    if not children:
        raise TrajectoryError(
            f"{folder}: neither a run nor a folder of runs (there is no manifest.json in it or in its subfolders); "
            "record one with `llc-dynamics train CONFIG --out FOLDER` or ld.TrajectoryWriter"
        )
    return children


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
