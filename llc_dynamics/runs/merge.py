"""The runs of a sweep that several machines trained, in one folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llc_dynamics.errors import CorruptRunError, LLCDynamicsError, RunLockedError, TrajectoryError
from llc_dynamics.finding import Finding
from llc_dynamics.runs.export import POINT_KIND
from llc_dynamics.runs.staging import claim, clear, copy_through, exchange, remove, staging_folder
from llc_dynamics.trajectory import Trajectory, verify_run
from llc_dynamics.trajectory.files import RunLock, fsync_folder, is_locked, is_temporary, storage_errors, write_whole
from llc_dynamics.trajectory.manifest import config_difference, parsed
from llc_dynamics.trajectory.names import (
    ARRAYS,
    COMPLETE,
    LLC,
    LOCK,
    MANIFEST,
    RESUME,
    SHARDS,
    curve_folders,
    is_run,
    require_own_folder,
    run_folders,
    stored_points,
)
from llc_dynamics.trajectory.sealed import SealedFile
from llc_dynamics.trajectory.shards import row_difference

#: The manifest last: only with it a folder is a run.
_FILES = (ARRAYS, SHARDS, RESUME, COMPLETE, MANIFEST)
#: The settings of a sweep, beside its runs.
_SWEEP = "sweep.json"


@dataclass
class _Copies:
    """The copies of one run that were found, under one name, and the one of them that reaches farthest."""

    best: Trajectory
    paths: list[Path]
    #: curve -> step -> file
    points: dict[str, dict[int, Path]] = field(default_factory=dict)


@dataclass(frozen=True)
class MergeReport:
    """What `merge_runs` did, by the names of the runs; `notes` say what was not merged (sweep_left_out, foreign)."""

    path: Path
    added: list[str]
    continued: list[str]
    unchanged: list[str]
    notes: list[Finding]

    def __str__(self) -> str:
        counts = {"added": self.added, "replaced by a continuation": self.continued, "there already": self.unchanged}
        lines = [f"{self.path}: {len(self.added) + len(self.continued) + len(self.unchanged)} runs"]
        lines += [f"{what}: {', '.join(names)}" for what, names in counts.items() if names]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def merge_runs(
    sources: Iterable[str | Path], out: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> MergeReport:
    """Bring runs from several folders together in one; the sources are never changed.

    Runs are compared by run id and content. The same run in several places is taken once; of two that agree bit for
    bit in their common rows and of which one goes on longer, the longer one; points of LLC curves are united. `out` may
    hold runs already, which take part like a source; a run there is replaced only by its own continuation, which is
    built beside it, checked and exchanged for it in one step. Everything is compared before anything is written, and a
    merge that was killed is completed by the same call.

    Parameters
    ----------
    sources : run folders, or folders of runs.
    out : the folder of all runs.
    progress : called with the runs that are done and their number.

    Raises
    ------
    TrajectoryError
        Different runs of one name, a run in two names, copies of one run that contradict each other: all of them are
        listed, and nothing is written. Or the disk is full.
    RunLockedError
        One of the runs is being written.
    CorruptRunError
        One of the runs is damaged.
    """
    out, folders = Path(out), [Path(source) for source in sources]
    if not folders:
        raise TrajectoryError("merge: give at least one folder with runs")
    if out.exists() and (not out.is_dir() or is_run(out)):
        raise TrajectoryError(
            f"{out}: {'a run' if out.is_dir() else 'a file'}; give a folder that holds runs, or a new one"
        )
    present = (
        [out]
        if out.is_dir() and any(is_run(child) for child in out.iterdir() if not child.name.startswith("."))
        else []
    )
    if out.is_dir() and not present and any(not _is_leftover(entry) for entry in out.iterdir()):
        raise TrajectoryError(f"{out}: not empty and holds no run; nothing in it was changed. Give a new folder")
    copies = _compare([*present, *folders])
    sweep, notes = _sweep(present + folders)
    notes += _not_merged(folders)
    with storage_errors(out, "make the folder"):
        out.mkdir(parents=True, exist_ok=True)
    added, continued, unchanged = [], [], []
    for done, (name, found) in enumerate(sorted(copies.items()), start=1):
        place = out / name
        if not place.exists():
            _bring(found, place, replace=False)
            added.append(name)
        elif found.best.path != place:
            _bring(found, place, replace=True)
            continued.append(name)
        else:
            remove(staging_folder(place))
            _unite_points(found, place)
            unchanged.append(name)
        if progress is not None:
            progress(done, len(copies))
    if sweep is not None and not (out / _SWEEP).exists():
        write_whole(out / _SWEEP, json.dumps(sweep, indent=1).encode())
    return MergeReport(out, added, continued, unchanged, notes)


def _compare(folders: list[Path]) -> dict[str, _Copies]:
    """The runs of all folders by name; raises `TrajectoryError` that lists everything that does not go together."""
    copies: dict[str, _Copies] = {}
    names: dict[str, str] = {}
    conflicts: list[str] = []
    for folder in folders:
        for path in run_folders(folder):
            if is_locked(path / LOCK):
                raise RunLockedError(f"{path}: a process is writing to this run; merge when it has ended, or stop it")
            run = Trajectory(path)
            run.require_whole()
            name = path.resolve().name
            known = names.setdefault(run.manifest.run_id, name)
            if known != name:
                conflicts.append(f"{path}: the same run as {copies[known].best.path}, under another name")
                continue
            if name not in copies:
                copies[name] = _Copies(run, [])
            elif (problem := _contradiction(copies[name].best, run)) is not None:
                conflicts.append(problem)
                continue
            elif _reach(run) > _reach(copies[name].best):
                copies[name].best = run
            copies[name].paths.append(path)
            conflicts += _add_points(copies[name], path)
    if conflicts:
        raise TrajectoryError(
            "nothing was merged; rename or leave out what does not go together:\n  " + "\n  ".join(conflicts)
        )
    return copies


def _reach(run: Trajectory) -> tuple[int, bool, bool]:
    """What makes one of two copies the farther one."""
    return len(run), run.complete, run.resume_state() is not None


def _contradiction(first: Trajectory, second: Trajectory) -> str | None:
    """Why two runs of one name are not the same run, or neither the continuation of the other; None if they are."""
    where = f"{first.path} and {second.path}"
    if first.manifest.run_id != second.manifest.run_id:
        return f"{where}: different runs of one name"
    if difference := first.manifest.state.difference(second.manifest.state):
        return f"{where}: one run id, but other tensors ({difference})"
    if difference := config_difference(first.config, second.config):
        return f"{where}: one run id, but another configuration ({difference})"
    if first.manifest.arrays != second.manifest.arrays:
        return f"{where}: one run id, but other fixed arrays"
    common = min(len(first), len(second))
    if first.steps[:common].tolist() != second.steps[:common].tolist():
        return f"{where}: one run id, but other steps are stored"
    steps = first.steps[:common]
    if first.manifest.storage != second.manifest.storage:
        return f"{where}: one run id, but weights are kept in other ways"
    for mine, other in zip(first.whole_rows(steps), second.whole_rows(steps), strict=True):
        if (mine.vectors is None) != (other.vectors is None):
            difference = "one of them has weights there, the other has none"
        elif (entry := first.manifest.state.first_difference(mine.vectors, other.vectors)) is not None:
            difference = f"'{entry.name}'"
        else:
            difference = row_difference(mine, other)
        if difference is not None:
            return f"{where}: they contradict each other at step {mine.step}: {difference}"
    return None


def _add_points(copies: _Copies, path: Path) -> list[str]:
    """Unite the points of all LLC curves; what contradicts what is there, in words."""
    conflicts = []
    for folder in curve_folders(path):
        known = copies.points.setdefault(folder.name, {})
        for step, file in stored_points(folder).items():
            if step in known:
                if known[step].read_bytes() != file.read_bytes():
                    conflicts.append(f"{known[step]} and {file}: different results for one point; remove one of them")
            else:
                if known:
                    other = next(iter(known.values()))
                    difference = config_difference(_settings(other), _settings(file), "")
                    if difference:
                        difference = difference.removeprefix(".")
                        conflicts.append(f"{other} and {file}: one curve, made with other settings ({difference})")
                        break
                known[step] = file
    return conflicts


def _settings(point: Path) -> dict[str, Any]:
    """What is the same along the curve of a stored point."""
    file = SealedFile(point, POINT_KIND)
    file.check()
    identity = file.details.get("identity")
    settings = identity.get("curve") if isinstance(identity, dict) else None
    if not isinstance(settings, dict):
        raise CorruptRunError(f"{point}: not a stored LLC estimate; remove it, or restore it from a copy")
    return settings


def _bring(found: _Copies, place: Path, replace: bool) -> None:
    """Copy a run beside its place, check it, and give it its name."""
    stage = staging_folder(place)
    lock = claim(stage)
    old = RunLock(place / LOCK) if replace else None
    try:
        clear(stage)
        source = found.best.path
        with storage_errors(stage):
            for name in _FILES:
                if (source / name).is_dir():
                    (stage / name).mkdir(exist_ok=True)
                    for entry in sorted((source / name).iterdir()):
                        if not is_temporary(entry.name):
                            copy_through(entry, stage / name / entry.name)
                elif (source / name).is_file():
                    copy_through(source / name, stage / name)
            for entry in sorted(place.iterdir()) if replace else ():
                # What was made of the run in the folder of all runs stays there; points are united below.
                if entry.name not in (*_FILES, LOCK, LLC) and entry.is_file() and not is_temporary(entry.name):
                    copy_through(entry, stage / entry.name)
        _unite_points(found, stage)
        report = verify_run(stage)
        broken = [problem.text for problem in report.problems if problem.code != "foreign"]
        if broken:
            raise CorruptRunError(f"{source}: {broken[0].replace(str(stage), str(source))}")
        if replace:
            exchange(stage, place)
            remove(stage)
            return
        with storage_errors(place, "give the finished run its name"):
            os.rename(stage, place)
            fsync_folder(place.parent)
    except LLCDynamicsError:
        remove(stage)
        raise
    finally:
        lock.release()
        if old is not None:
            old.release()


def _unite_points(found: _Copies, place: Path) -> None:
    for curve, files in found.points.items():
        folder = require_own_folder(place, LLC, curve)
        for file in files.values():
            if not (folder / file.name).exists():
                with storage_errors(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                write_whole(folder / file.name, file.read_bytes())


def _sweep(folders: list[Path]) -> tuple[dict[str, Any] | None, list[Finding]]:
    """The settings that all sweep folders share, with the runs of all of them; None, and why, if they differ."""
    found = [
        (folder, parsed((folder / _SWEEP).read_bytes(), folder / _SWEEP))
        for folder in folders
        if (folder / _SWEEP).is_file()
    ]
    if not found:
        return None, []
    merged = dict(found[0][1])
    for folder, settings in found[1:]:
        own = {key: value for key, value in settings.items() if key not in ("runs", "name")}
        if own != {key: value for key, value in merged.items() if key not in ("runs", "name")}:
            differing = sorted(key for key in {*own, *merged} - {"runs", "name"} if own.get(key) != merged.get(key))
            text = (
                f"{_SWEEP} was left out: {found[0][0]} and {folder} are sweeps with other settings "
                f"({', '.join(differing)}); the runs keep their own, and `llc` needs --config or --settings"
            )
            return None, [Finding("sweep_left_out", text)]
        runs = merged.get("runs", [])
        merged["runs"] = [*runs, *(run for run in settings.get("runs", []) if run not in runs)]
    return merged, []


def _not_merged(folders: list[Path]) -> list[Finding]:
    """Notes on what lies beside the runs in the sources."""
    notes = []
    for folder in folders:
        if is_run(folder):
            continue
        other = [
            entry.name
            for entry in sorted(folder.iterdir())
            if not (entry.is_dir() and is_run(entry)) and entry.name != _SWEEP and not entry.name.startswith(".")
        ]
        if other:
            text = f"{folder}: not merged, because they are no runs: {', '.join(other)}"
            notes.append(Finding("foreign", text))
    return notes


def _is_leftover(entry: Path) -> bool:
    return entry.is_dir() and entry.name.startswith(".") and entry.name.endswith(".unfinished")
