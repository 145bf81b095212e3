"""Going back: dropping the last rows of a run, so that another training can go on from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llc_dynamics.errors import TrajectoryError
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.files import RunLock, fsync_folder, storage_errors
from llc_dynamics.trajectory.manifest import remove_complete
from llc_dynamics.trajectory.names import LOCK, RESUME, SHARDS, require_own_folder, shard_name
from llc_dynamics.trajectory.pending import RowBuffer
from llc_dynamics.trajectory.resume import read_resume
from llc_dynamics.trajectory.shards import ShardList


def rewind_run(path: str | Path, step: int) -> int:
    """Drop all rows after `step`; the number of rows that were dropped.

    The last shards are removed one by one from the end, then the shard in which `step` lies is replaced by one that
    ends there: a kill at any moment leaves a sound run that ends at `step` or later. A resume state that goes on after
    dropped rows, and the mark of a finished run, are removed first. Points of LLC curves stay.

    Raises
    ------
    TrajectoryError
        `step` is before the first row (remove the folder instead), or the files cannot be removed.
    RunLockedError
        A writer has the run open.
    CorruptRunError
        The run is damaged; nothing is changed.
    """
    path = Path(path)
    run = Trajectory(path)
    lock = RunLock(path / LOCK)
    try:
        require_own_folder(path, SHARDS)
        shards = ShardList(path, run.manifest)
        shards.refresh()
        shards.require_whole()
        kept = int(np.searchsorted(shards.steps, step, side="right"))
        dropped = shards.num_rows - kept
        if not dropped:
            return 0
        if not kept:
            raise TrajectoryError(
                f"{path}: nothing is stored up to step {step} (the run begins at {shards.steps[0]}), so nothing would "
                "be left; to begin anew, remove the folder or record into another one"
            )
        last = int(np.searchsorted(shards.bounds, kept, side="left")) - 1
        buffer = _first_rows(run, shards, last, kept)
        remove_complete(path)
        with storage_errors(path, "remove rows"):
            resume = read_resume(path, run.manifest.run_id, tensors=False)
            if resume is not None and resume[1] > kept:
                (path / RESUME).unlink()
                fsync_folder(path)
            for index in range(len(shards) - 1, last, -1):
                (path / SHARDS / shard_name(index)).unlink()
                fsync_folder(path / SHARDS)
        if buffer is not None:
            buffer.write(path, last)
        return dropped
    finally:
        lock.release()


def _first_rows(run: Trajectory, shards: ShardList, index: int, kept: int) -> RowBuffer | None:
    """The rows of a shard that belong to the first `kept` of the run; None if all of them do."""
    start, stop = map(int, shards.bounds[index : index + 2])
    if stop == kept:
        return None
    buffer = RowBuffer(run.manifest, kept - start)
    for row in run.whole_rows(run.steps[start:kept]):
        buffer.append(row)
    return buffer
