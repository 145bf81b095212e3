"""Checking a whole run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llc_dynamics.errors import LLCDynamicsError, TrajectoryError
from llc_dynamics.trajectory.arrays import read_arrays
from llc_dynamics.trajectory.atomic import is_temporary
from llc_dynamics.trajectory.complete import read_complete
from llc_dynamics.trajectory.lock import is_locked
from llc_dynamics.trajectory.manifest import Manifest
from llc_dynamics.trajectory.names import ARRAYS, KNOWN, LOCK, RESUME, SHARDS, classify, shard_index
from llc_dynamics.trajectory.nested import read_nested
from llc_dynamics.trajectory.shards import ShardList


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_run` found.

    `rows` checkpoints in `shards` shards were read and match their checksums; `problems` lists, in words, everything
    that does not match, is missing or does not belong into the folder. `ok` is true if there is nothing to list.
    """

    path: Path
    rows: int
    shards: int
    num_bytes: int
    complete: bool
    being_written: bool
    problems: list[str]

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        state = "complete" if self.complete else "being written" if self.being_written else "not finished"
        head = (
            f"{self.path}: {self.rows} checkpoints in {self.shards} shards ({self.num_bytes / 1e6:.1f} MB) are "
            f"sound; the run is {state}"
        )
        return "\n".join([head, *(f"problem: {problem}" for problem in self.problems)])


def verify_run(path: str | Path, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Read every byte of the run at `path` and compare it with its checksums.

    Checked: manifest, shard headers, numbering, structures and every row, order of the steps, fixed arrays, resume
    state, the completion mark, and that nothing foreign lies in the folder. Damage is reported, not raised; only a
    folder that is no run at all raises `TrajectoryError`. `progress(done, total)` is called after every shard.
    """
    run = Path(path)
    if classify(run) != "run":
        raise TrajectoryError(f"{run}: not a run folder (it has no manifest.json); give the folder of a recorded run")
    # Asked before looking for temporary files: those of a living writer are no problem.
    being_written = is_locked(run / LOCK)
    problems: list[str] = []
    try:
        manifest = Manifest.read(run)
    except LLCDynamicsError as error:
        # Without the manifest nothing in the shards can be understood.
        return VerifyReport(run, 0, 0, 0, False, being_written, [str(error)])
    manifest.storage.require_codec(f"verifying {run}")
    shards = ShardList(run, manifest)
    shards.refresh()
    problems += map(str, shards.damage)
    rows = sound = size = 0
    shapes: dict[str, tuple[int, ...]] = {}
    for done, shard in enumerate(shards.shards, start=1):
        found: list[str] = []
        try:
            extra = shard.extra_shapes()
            found += [
                f"{shard.path}: {name} has {list(shape)} a row, but {list(shapes[name])} in earlier shards"
                for name, shape in extra.items()
                if shapes.setdefault(name, shape) != shape
            ]
            names = [*(f"state/{dtype}" for dtype in manifest.state.sizes()), *extra]
        except LLCDynamicsError as error:
            found, names = [str(error)], []
        bad_rows: set[int] = set()
        for name in names:
            for row, step in enumerate(shard.rows_of(name)):
                try:
                    shard.read(name, row, row + 1)
                except LLCDynamicsError as error:
                    found.append(str(error))
                    bad_rows.add(int(step))
        rows += len(shard) - len(bad_rows) if names else 0
        sound += not found
        size += shard.num_bytes
        problems += found
        if progress is not None:
            progress(done, len(shards.shards))
    for name, digest in manifest.arrays.items():
        try:
            read_arrays(run, name, manifest.run_id, digest)
        except LLCDynamicsError as error:
            problems.append(str(error))
    complete = False
    try:
        if (run / RESUME).exists():
            _, details = read_nested(run / RESUME, "resume", manifest.run_id)
            continues_after = details.get("rows")
            if not isinstance(continues_after, int):
                problems.append(f"{run / RESUME}: not a resume state; restore it from a copy")
            elif continues_after > shards.num_rows and not being_written:
                problems.append(
                    f"{run / RESUME}: continues after {continues_after} checkpoints, {shards.num_rows} are there"
                )
        mark = read_complete(run, manifest.run_id)
        complete = mark is not None
        if mark is not None and mark["rows"] != shards.num_rows:
            problems.append(f"{run}: finished with {mark['rows']} checkpoints, but {shards.num_rows} are there")
    except LLCDynamicsError as error:
        problems.append(str(error))
    problems += _foreign(run, manifest, being_written)
    return VerifyReport(run, rows, sound, size, complete, being_written, problems)


def _foreign(run: Path, manifest: Manifest, being_written: bool) -> list[str]:
    """Files that are no part of a run, and temporary files that nobody is writing any more."""
    problems = []
    arrays = {f"{name}.h5" for name in manifest.arrays}
    folders = {run: None, run / SHARDS: None, run / ARRAYS: arrays}
    for folder, wanted in folders.items():
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            if is_temporary(entry.name):
                if not being_written:
                    problems.append(f"{entry}: left by a writer that died; resuming the run removes it")
            elif folder == run:
                if entry.name not in KNOWN:
                    problems.append(f"{entry}: does not belong to a run; move it elsewhere")
            elif wanted is None:
                if shard_index(entry.name) is None:
                    problems.append(f"{entry}: not the name of a shard; move it elsewhere")
            elif entry.name not in wanted:
                problems.append(f"{entry}: the manifest lists no such arrays; move it elsewhere")
    return problems
