"""Runs that appear whole or not at all: built in a hidden folder beside their place, then renamed."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from numpy.typing import NDArray

from llc_dynamics.errors import LLCDynamicsError, TrajectoryError
from llc_dynamics.trajectory import Trajectory, TrajectoryWriter
from llc_dynamics.trajectory.files import RunLock, fsync_folder, storage_errors
from llc_dynamics.trajectory.manifest import Manifest
from llc_dynamics.trajectory.names import LOCK, classify
from llc_dynamics.trajectory.shards import WholeRow
from llc_dynamics.trajectory.state import Model
from llc_dynamics.trajectory.writer import begin_run

_AT_FDCWD = -100
# RENAME_EXCHANGE of Linux (renameat2) and RENAME_SWAP of macOS (renamex_np) have the same value.
_SWAP = 2


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

    def __init__(self, target: Path, stage: Path, model: Model | None, replace: bool) -> None:
        self.target = target
        self.path = stage
        self._model = model
        self._replace = replace
        stored = Trajectory(stage)
        #: The last step that an interrupted attempt has stored already, -1 if none.
        self.last_step = int(stored.steps[-1]) if len(stored) else -1
        self._writer: TrajectoryWriter | None = None

    @property
    def writer(self) -> TrajectoryWriter:
        """Records into the run; `record` takes the tensors of the `model` that `staged_run` got."""
        if self._writer is None:
            self._writer = TrajectoryWriter(self.path, self._model, resume=True)
        return self._writer

    def record(self, row: WholeRow) -> None:
        """Add a row; one that an interrupted attempt stored is left as it is."""
        if row.step > self.last_step:
            self.writer.record_kept(row)

    def publish(self) -> None:
        """Give the folder its final name, while the lock keeps everybody else out.

        A run that it replaces is removed after the two have changed places.
        """
        self.writer.seal()
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


@contextlib.contextmanager
def staged_run(
    target: Path,
    manifest: Manifest,
    arrays: Mapping[str, Mapping[str, NDArray]],
    *,
    model: Model | None = None,
    replace: bool = False,
) -> Iterator[StagedRun]:
    """Build a run that `StagedRun.publish` puts at `target`.

    An attempt that was killed left its hidden folder: if it was for a run of the same manifest (but for run id and
    time) it goes on, otherwise it starts anew. So it does after a full disk and an interrupt; any other error removes
    the folder.

    Parameters
    ----------
    manifest : what the run is; its run id and date are those of an interrupted attempt, if that goes on.
    arrays : the fixed arrays that the manifest lists.
    model : tensors by name, for rows that `StagedRun.writer` records of them.
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
            begin_run(stage, manifest, arrays)
    finally:
        lock.release()
    staged: StagedRun | None = None
    try:
        staged = StagedRun(target, stage, model, replace)
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


def exchange(first: Path, second: Path) -> None:
    """Exchange what two names in one folder lead to, in one step: at no moment does either name lead nowhere.

    Raises `TrajectoryError`, with nothing changed, where the system or the file system cannot do so.
    """
    if os.name != "posix":
        raise _impossible(second, f"{sys.platform} has no call for it")
    system = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if sys.platform == "darwin" and hasattr(system, "renamex_np"):
        failed = system.renamex_np(*names, ctypes.c_uint(_SWAP))
    elif sys.platform.startswith("linux") and hasattr(system, "renameat2"):
        failed = system.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_SWAP))
    else:
        raise _impossible(second, f"{sys.platform} has no call for it")
    if failed:
        raise _impossible(second, os.strerror(ctypes.get_errno()))
    with storage_errors(second, "make the exchange durable"):
        fsync_folder(second.parent)


def _impossible(path: Path, reason: str) -> TrajectoryError:
    return TrajectoryError(
        f"{path}: cannot be exchanged for its successor in one step here ({reason}), and anything else could lose it "
        "in a crash. Write the new run into another folder instead, and replace this one by hand"
    )


def _same_begun(stage: Path, manifest: Manifest) -> bool:
    try:
        begun = Manifest.read(stage)
        Trajectory(stage).require_whole()
    except LLCDynamicsError:
        return False
    return begun == dataclasses.replace(manifest, run_id=begun.run_id, created=begun.created)
