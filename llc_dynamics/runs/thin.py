"""Fewer checkpoints of a run: every n-th, or evenly spaced in log(step)."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import ConfigError, RunLockedError, TrajectoryError
from llc_dynamics.runs.info import curve_steps
from llc_dynamics.runs.staging import StagedRun, copy_through, remove, require_free, staged_run, staging_folder
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.files import RunLock, is_locked, is_temporary, storage_errors
from llc_dynamics.trajectory.names import ARRAYS, COMPLETE, LLC, LOCK, MANIFEST, RESUME, SHARDS, VIEW
from llc_dynamics.trajectory.resume import read_resume

#: What `thin_run` writes itself, or what does not outlast it.
_REWRITTEN = frozenset({MANIFEST, SHARDS, ARRAYS, RESUME, COMPLETE, LOCK, VIEW})


@dataclass(frozen=True)
class ThinReport:
    """What `thin_run` did: the thinned run, the steps that it kept, and those that it left out.

    `orphans` are the points of LLC curves whose checkpoint was left out: {curve: steps}. They are kept; only they
    cannot be computed again. With `weights_only`, `removed` are the steps that lost their weights.
    """

    path: Path
    kept: NDArray[np.int64]
    removed: NDArray[np.int64]
    bytes_before: int
    bytes_after: int
    orphans: dict[str, list[int]]

    def __str__(self) -> str:
        if not len(self.removed):
            return f"{self.path}: thinned by this rule before; nothing was done"
        lines = [
            f"{self.path}: {len(self.kept)} of {len(self.kept) + len(self.removed)} checkpoints kept; shards took "
            f"{self.bytes_before / 1e6:.1f} MB and take {self.bytes_after / 1e6:.1f} MB"
        ]
        lines += [
            f"LLC '{curve}': {len(steps)} points belong to checkpoints that were left out; the points were kept, and "
            "cannot be computed again from this run"
            for curve, steps in self.orphans.items()
        ]
        return "\n".join(lines)


def thin_run(
    run: str | Path,
    out: str | Path | None = None,
    *,
    every: int | None = None,
    num_log: int | None = None,
    weights_only: bool = False,
    in_place: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ThinReport:
    """Keep some of the checkpoints of a run, with all that was recorded at their steps, bit for bit.

    A rule is applied to the checkpoints with weights, and by itself to those without. The first and the last of either
    are always kept, and so is what a resumed training would have to meet again (rows sealed after the resume state).
    The thinned run has a run id of its own, and `thinned` in its provenance says what it was made from. LLC curves are
    copied; in place, all other files of the run folder are kept, too.

    In place, the thinned run is built whole beside the old one, the two folders are exchanged in one step, and only
    then the old one is removed: a kill at any moment leaves the old or the new run whole under its name. Until then
    both take room on the disk. A run that was thinned in place by the same rule before is left as it is.

    Parameters
    ----------
    out : the folder for the thinned run, which must not exist; None with `in_place`.
    every : keep every n-th checkpoint, counted from the first.
    num_log : keep the checkpoints nearest to this many steps spaced evenly in log(step + 1). With both, the union.
    weights_only : leave out weights alone; metrics, outputs and samples of all steps are kept.
    in_place : put the thinned run in the place of the old one.
    progress : called with the checkpoints that are done and their number.

    Raises
    ------
    ConfigError
        Settings that say nothing or contradict each other.
    RunLockedError
        A writer has the run open.
    TrajectoryError
        Nothing would be left out, there is something at `out`, the disk is full, or (in place) the file system cannot
        exchange folders in one step.
    CorruptRunError
        The run is damaged; it is left as it is.
    """
    # A link to the run must not be exchanged for the run.
    path = Path(run).resolve() if in_place else Path(run)
    if (out is None) != in_place:
        raise ConfigError("thin: give either another folder for the thinned run (--out), or --in-place")
    target = path if out is None else Path(out)
    if not in_place:
        require_free(target)
    source = Trajectory(path)
    if not in_place and is_locked(path / LOCK):
        raise RunLockedError(f"{path}: a process is writing to this run; wait for it to end, or stop it")
    lock = RunLock(path / LOCK) if in_place else None
    try:
        rule = {"every": every, "num_log": num_log, "weights_only": weights_only}
        before = source.provenance.get("thinned")
        if in_place and before is not None and {key: before.get(key) for key in rule} == rule:
            # Done before, and perhaps killed before the old run was removed.
            remove(staging_folder(path))
            return ThinReport(path, source.weight_steps, source.steps[:0], _shard_bytes(path), _shard_bytes(path), {})
        state, sealed_rows = _resume(source)
        needed = source.steps[sealed_rows:]
        weights = np.union1d(
            thinned_steps(source.weight_steps, every, num_log), np.intersect1d(needed, source.weight_steps)
        )
        others = np.setdiff1d(source.steps, source.weight_steps)
        kept = (
            source.steps
            if weights_only
            else np.union1d(weights, np.union1d(thinned_steps(others, every, num_log), needed))
        )
        removed = np.setdiff1d(source.weight_steps, weights) if weights_only else np.setdiff1d(source.steps, kept)
        if not len(removed):
            raise TrajectoryError(f"{path}: all of its {len(source)} checkpoints would be kept, so nothing was done")
        origin = rule | {"run_id": source.manifest.run_id, "kept": len(kept), "of": len(source), "before": before}
        manifest = dataclasses.replace(
            source.manifest, run_id=secrets.token_hex(16), provenance=source.provenance | {"thinned": origin}
        )
        arrays = {name: source.arrays(name) for name in source.array_names}
        with staged_run(target, manifest, arrays, replace=in_place) as staged:
            last = int(source.steps[sealed_rows - 1]) if sealed_rows else -1
            with_weights = frozenset(weights.tolist())
            for row in source.whole_rows(kept[kept > staged.last_step], with_weights):
                if row.step > last:
                    _seal_resume(staged, state)
                staged.record(row)
                if progress is not None:
                    progress(int(np.searchsorted(kept, row.step)) + 1, len(kept))
            _seal_resume(staged, state)
            _carry_over(path, staged.path, None if in_place else (LLC,))
            staged.writer.seal()
            if source.complete:
                staged.writer.finish()
            orphans = {curve: sorted({*steps} & {*removed.tolist()}) for curve, steps in curve_steps(path).items()}
            report = ThinReport(
                target,
                kept,
                removed,
                _shard_bytes(path),
                _shard_bytes(staged.path),
                {curve: steps for curve, steps in orphans.items() if steps},
            )
            staged.publish()
            return report
    finally:
        if lock is not None:
            lock.release()


def thinned_steps(steps: NDArray[np.int64], every: int | None, num_log: int | None) -> NDArray[np.int64]:
    """Those of `steps` that `thin_run` chooses, before it adds what a resumed training needs."""
    if every is None and num_log is None:
        raise ConfigError("thin: say what to keep, --every N or --num-log N")
    chosen = {0, len(steps) - 1} if len(steps) else set()
    if every is not None:
        if every < 2:
            raise ConfigError(f"every: expected 2 or more, got {every}")
        chosen.update(range(0, len(steps), every))
    if num_log is not None and num_log < 2:
        raise ConfigError(f"num_log: expected 2 or more, got {num_log}")
    if num_log is not None and len(steps):
        logs = np.log1p(steps.astype(np.float64))
        chosen.update(int(np.abs(logs - wanted).argmin()) for wanted in np.linspace(logs[0], logs[-1], num_log))
    return steps[sorted(chosen)]


def _resume(source: Trajectory) -> tuple[dict[str, Any] | None, int]:
    """The resume state, and the number of rows that had been sealed when it was stored."""
    state = source.resume_state()
    if state is None:
        return None, len(source)
    resume = read_resume(source.path, source.manifest.run_id, tensors=False)
    assert resume is not None
    return state, resume[1]


def _seal_resume(staged: StagedRun, state: dict[str, Any] | None) -> None:
    """Store the resume state, once, when exactly the rows before it are there."""
    if state is not None and not (staged.path / RESUME).exists():
        staged.writer.seal(state)


def _carry_over(source: Path, place: Path, names: tuple[str, ...] | None) -> None:
    """Copy what else lies in the run folder, or those entries of it that are named."""
    with storage_errors(place):
        for entry in sorted(source.iterdir()):
            wanted = names is None or entry.name in names
            if wanted and entry.name not in _REWRITTEN and not is_temporary(entry.name):
                _copy(entry, place / entry.name)


def _copy(source: Path, place: Path) -> None:
    if source.is_symlink():
        place.unlink(missing_ok=True)
        os.symlink(os.readlink(source), place)
    elif source.is_dir():
        place.mkdir(exist_ok=True)
        for entry in sorted(source.iterdir()):
            if not is_temporary(entry.name):
                _copy(entry, place / entry.name)
        shutil.copystat(source, place)
    else:
        copy_through(source, place)
        shutil.copystat(source, place)


def _shard_bytes(run: Path) -> int:
    return sum(entry.stat().st_size for entry in (run / SHARDS).iterdir()) if (run / SHARDS).is_dir() else 0
