"""Runs that appear whole or not at all: built in a hidden folder beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from llc_dynamics.errors import LLCDynamicsError, TrajectoryError
from llc_dynamics.trajectory.arrays import write_arrays
from llc_dynamics.trajectory.atomic import fsync_folder, storage_errors
from llc_dynamics.trajectory.exchange import exchange
from llc_dynamics.trajectory.holder import StateHolder
from llc_dynamics.trajectory.lock import RunLock
from llc_dynamics.trajectory.manifest import FORMAT, Manifest, read_signed, write_signed
from llc_dynamics.trajectory.names import ARRAYS, LOCK, MANIFEST, SHARDS, classify
from llc_dynamics.trajectory.reader import Trajectory
from llc_dynamics.trajectory.sealed import SCHEMA_VERSION
from llc_dynamics.trajectory.storage import WeightStorage
from llc_dynamics.trajectory.whole_rows import WholeRow
from llc_dynamics.trajectory.writer import TrajectoryWriter

#: Keys of a manifest that are new at every start and do not make two of them different.
_FRESH = ("run_id", "created", "checksum")


def staging_folder(target: Path) -> Path:
    """Where the run for `target` is built."""
    target = Path(os.path.abspath(target))
    return target.with_name(f".{target.name}.unfinished")


def require_free(target: Path) -> None:
    """Raise `TrajectoryError` if there is anything at `target` but an empty folder."""
    content = classify(target)
    if content not in ("missing", "empty"):
        what = {"file": "this is a file", "run": "the folder holds a run"}.get(content, "the folder is not empty")
        raise TrajectoryError(f"{target}: {what}; nothing in it was changed. Give a new name")


class StagedRun:
    """A run that is being built; see `staged_run`."""

    def __init__(self, target: Path, stage: Path, manifest: Manifest, replace: bool) -> None:
        self.target = target
        self.path = stage
        self._replace = replace
        self.manifest = manifest
        stored = Trajectory(stage)
        #: The last step that an interrupted attempt has stored already, -1 if none.
        self.last_step = int(stored.steps[-1]) if len(stored) else -1
        parameters = [entry.name for entry in manifest.state.entries if entry.kind == "parameter"]
        self._holder = StateHolder({}, parameters)
        self._writer: TrajectoryWriter | None = None

    def record(self, row: WholeRow) -> None:
        """Add a row; one that an interrupted attempt stored is left as it is."""
        if row.step <= self.last_step:
            return
        if row.tensors is not None:
            self._holder.tensors = row.tensors
        self._open().record(row.step, row.metrics, row.outputs, row.samples, weights=row.tensors is not None)

    def seal(self, state: Mapping[str, Any] | None = None) -> None:
        """Seal the pending rows and, if one is given, a resume state."""
        if self._writer is not None or state is not None:
            self._open().seal(state)

    def finish(self) -> None:
        """Seal what is pending and mark the run as complete."""
        self._open().finish()

    def add_file(self, name: str, source: Path) -> None:
        """Copy a file to `name`, a path inside the run, through the disk."""
        place = self.path / name
        with storage_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            copy_through(source, place)

    def publish(self) -> None:
        """Give the folder its final name, while the lock keeps everybody else out.

        A run that it replaces is removed after the two have changed places.
        """
        self._open().seal()
        if self._replace:
            exchange(self.path, self.target)
            remove(self.path)
            return
        require_free(self.target)
        with storage_errors(self.target, "give the finished run its name"):
            os.rename(self.path, self.target)
            fsync_folder(self.target.parent)

    def close(self) -> None:
        if self._writer is not None:
            # Pending rows of an attempt that failed are sealed if that is possible: it may go on from them.
            with contextlib.suppress(LLCDynamicsError):
                self._writer.close()

    def _open(self) -> TrajectoryWriter:
        if self._writer is None:
            if not self._holder.tensors:
                self._holder.tensors = _blank(self.manifest)
            self._writer = TrajectoryWriter(self.path, self._holder, resume=True)
        return self._writer


@contextlib.contextmanager
def staged_run(
    target: Path, manifest: Mapping[str, Any], arrays: Mapping[str, Mapping[str, NDArray]], *, replace: bool = False
) -> Iterator[StagedRun]:
    """Build a run that `StagedRun.publish` puts at `target`.

    An attempt that was killed left its hidden folder: if it was for a run of the same manifest (but for run id and
    time) it goes on, otherwise it starts anew. So it does after a full disk and an interrupt; any other error removes
    the folder.

    Parameters
    ----------
    manifest : the content of `manifest.json`, without its checksum.
    arrays : the fixed arrays that the manifest lists.
    replace : there is a run at `target`, locked by the caller, whose place this one takes.

    Raises
    ------
    RunLockedError
        Another process is building the same run.
    TrajectoryError
        The disk is full, the folder read-only, ...
    """
    stage = staging_folder(target)
    lock = claim(stage)
    try:
        if not replace:
            require_free(target)
        if not _same_begun(stage, manifest):
            clear(stage)
            _begin(stage, manifest, arrays)
    finally:
        lock.release()
    staged: StagedRun | None = None
    try:
        staged = StagedRun(target, stage, Manifest.read(stage), replace)
        yield staged
    except LLCDynamicsError as error:
        if staged is not None:
            staged.close()
        if not isinstance(error.__cause__, OSError):
            remove(stage)
        raise
    finally:
        if staged is not None:
            staged.close()


def claim(stage: Path) -> RunLock:
    """Make the folder of an attempt, or take over the one that an attempt left, and lock it.

    Raises `RunLockedError` if another process is at it, `TrajectoryError` if the folder is somebody else's.
    """
    with storage_errors(stage, "make the folder"):
        stage.parent.mkdir(parents=True, exist_ok=True)
        stage.mkdir(exist_ok=True)
        if any(stage.iterdir()) and not (stage / LOCK).exists():
            raise TrajectoryError(f"{stage}: in the way, and not left by an interrupted attempt; move it elsewhere")
    return RunLock(stage / LOCK)


def clear(stage: Path) -> None:
    """Remove everything but the lock from a claimed folder."""
    with storage_errors(stage, "remove what an interrupted attempt left"):
        for entry in stage.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()


def remove(stage: Path) -> None:
    """Remove the folder of an attempt; nothing is said if that fails, the next attempt begins with it."""
    with contextlib.suppress(LLCDynamicsError, OSError):
        if (stage / LOCK).exists() or not any(stage.iterdir()):
            # The lock goes last: by it the next attempt knows what the folder is.
            clear(stage)
            shutil.rmtree(stage, ignore_errors=True)


def copy_through(source: Path, place: Path) -> None:
    """Copy the bytes of a file and fsync them; raises OSError."""
    with source.open("rb") as reading, place.open("wb") as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)
        writing.flush()
        os.fsync(writing.fileno())
    fsync_folder(place.parent)


def _same_begun(stage: Path, manifest: Mapping[str, Any]) -> bool:
    try:
        begun = read_signed(stage / MANIFEST, FORMAT)
        Trajectory(stage).require_whole()
    except LLCDynamicsError:
        return False
    wanted = {key: value for key, value in current_manifest(manifest).items() if key not in _FRESH}
    return {key: value for key, value in begun.items() if key not in _FRESH} == wanted


def _begin(stage: Path, manifest: Mapping[str, Any], arrays: Mapping[str, Mapping[str, NDArray]]) -> None:
    with storage_errors(stage, "make the folders"):
        for folder in (SHARDS, ARRAYS):
            (stage / folder).mkdir(exist_ok=True)
        fsync_folder(stage)
    for name, values in arrays.items():
        write_arrays(stage, name, values, str(manifest["run_id"]))
    write_signed(
        stage / MANIFEST, {key: value for key, value in current_manifest(manifest).items() if key != "checksum"}
    )


def current_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of any version as one of the version that the writer writes."""
    return {"storage": WeightStorage().to_json(), **manifest, "schema_version": SCHEMA_VERSION}


def _blank(manifest: Manifest) -> dict[str, Any]:
    import torch

    return {entry.name: torch.zeros(entry.shape, dtype=getattr(torch, entry.dtype)) for entry in manifest.state.entries}
