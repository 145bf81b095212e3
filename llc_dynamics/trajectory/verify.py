"""Checking a whole run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llc_dynamics.errors import LLCDynamicsError, TrajectoryError
from llc_dynamics.finding import Finding
from llc_dynamics.trajectory.arrays import read_arrays
from llc_dynamics.trajectory.files import is_locked, is_temporary
from llc_dynamics.trajectory.manifest import Manifest, read_complete
from llc_dynamics.trajectory.names import ARRAYS, KNOWN, LOCK, RESUME, SHARDS, classify, shard_index
from llc_dynamics.trajectory.resume import read_resume
from llc_dynamics.trajectory.shards import Shard, ShardList


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_run` found.

    `rows` checkpoints in `shards` shards were read and match their checksums; `problems` lists everything that does not
    match ("damaged"), is missing ("missing_rows"), was left by a writer that died ("left_over") or does not belong into
    the folder ("foreign"). `ok` is true if there is nothing to list.
    """

    path: Path
    rows: int
    shards: int
    num_bytes: int
    complete: bool
    being_written: bool
    problems: list[Finding]

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
    try:
        manifest = Manifest.read(run)
    except LLCDynamicsError as error:
        # Without the manifest nothing in the shards can be understood.
        return VerifyReport(run, 0, 0, 0, False, being_written, [_damaged(error)])
    shards = ShardList(run, manifest)
    shards.refresh()
    problems = [_damaged(error) for error in shards.damage]
    rows = sound = 0
    shapes: dict[str, tuple[int, ...]] = {}
    for done, shard in enumerate(shards.shards, start=1):
        found, sound_rows = _shard_problems(shard, manifest, shapes)
        rows += sound_rows
        sound += not found
        problems += found
        if progress is not None:
            progress(done, len(shards.shards))
    for name, digest in manifest.arrays.items():
        try:
            read_arrays(run, name, manifest.run_id, digest)
        except LLCDynamicsError as error:
            problems.append(_damaged(error))
    complete = False
    try:
        resume = read_resume(run, manifest.run_id, tensors=False)
        if resume is not None and resume[1] > shards.num_rows and not being_written:
            text = f"{run / RESUME}: continues after {resume[1]} checkpoints, {shards.num_rows} are there"
            problems.append(Finding("missing_rows", text))
    except LLCDynamicsError as error:
        problems.append(_damaged(error))
    try:
        finished = read_complete(run, manifest.run_id)
        complete = finished is not None
        if finished is not None and finished != shards.num_rows:
            text = f"{run}: finished with {finished} checkpoints, but {shards.num_rows} are there"
            problems.append(Finding("missing_rows", text))
    except LLCDynamicsError as error:
        problems.append(_damaged(error))
    problems += _foreign(run, manifest, being_written)
    size = sum(shard.file.size for shard in shards.shards)
    return VerifyReport(run, rows, sound, size, complete, being_written, problems)


def _shard_problems(shard: Shard, manifest: Manifest, shapes: dict[str, tuple[int, ...]]) -> tuple[list[Finding], int]:
    """What is wrong with a shard, and how many of its rows are sound; `shapes` are those of earlier shards."""
    problems = [
        Finding("damaged", f"{shard.path}: {name} has {list(shape)} a row, but {list(shapes[name])} in earlier shards")
        for name, shape in shard.extra_shapes.items()
        if shapes.setdefault(name, shape) != shape
    ]
    try:
        shard.metrics()
    except LLCDynamicsError as error:
        return [*problems, _damaged(error)], 0
    bad_rows: set[int] = set()
    for name in [*(f"state/{dtype}" for dtype in manifest.state.sizes()), *shard.extra_shapes]:
        for row, step in enumerate(shard.rows_of(name)):
            try:
                shard.read(name, row, row + 1)
            except LLCDynamicsError as error:
                problems.append(_damaged(error))
                bad_rows.add(int(step))
    return problems, len(shard) - len(bad_rows)


def _damaged(error: LLCDynamicsError) -> Finding:
    return Finding("damaged", str(error))


def _foreign(run: Path, manifest: Manifest, being_written: bool) -> list[Finding]:
    """Files that are no part of a run, and temporary files that nobody is writing any more."""
    problems: list[Finding] = []
    text: str | None
    arrays = {f"{name}.h5" for name in manifest.arrays}
    folders = {run: None, run / SHARDS: None, run / ARRAYS: arrays}
    for folder, wanted in folders.items():
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            if is_temporary(entry.name):
                if not being_written:
                    text = f"{entry}: left by a writer that died; resuming the run removes it"
                    problems.append(Finding("left_over", text))
                continue
            text = None
            if folder == run:
                if entry.name not in KNOWN:
                    text = f"{entry}: does not belong to a run; move it elsewhere"
            elif wanted is None:
                if shard_index(entry.name) is None:
                    text = f"{entry}: not the name of a shard; move it elsewhere"
            elif entry.name not in wanted:
                text = f"{entry}: the manifest lists no such arrays; move it elsewhere"
            if text is not None:
                problems.append(Finding("foreign", text))
    return problems
