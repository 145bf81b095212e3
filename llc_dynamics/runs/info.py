"""What is in a run folder, without reading its rows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llc_dynamics.errors import LLCDynamicsError
from llc_dynamics.finding import Finding
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.files import is_locked, read_at_most
from llc_dynamics.trajectory.formats import STORAGE
from llc_dynamics.trajectory.manifest import read_complete
from llc_dynamics.trajectory.names import (
    ARRAYS,
    COMPLETE,
    LLC,
    LOCK,
    MANIFEST,
    RESUME,
    SHARDS,
    VIEW,
    curve_folders,
    encoded,
    stored_points,
)


@dataclass(frozen=True)
class RunInfo:
    """What `run_info` found.

    Attributes
    ----------
    steps : stored steps, increasing.
    weight_steps : those of them at which weights are stored.
    storage : how weights are kept, the settings of `WeightStorage`.
    shards : sealed files of rows.
    complete : whether the run was marked as finished.
    writer : who holds the run's lock, None if nobody does.
    problems : shards that are damaged or missing, and the like; `verify` finds more.
    tensors : number format -> {"tensors": how many, "elements": numbers, "parameters": those of parameters}.
    shapes : shape of a row of "outputs" and of each metric's samples.
    row_bytes : bytes of one row in the reader's number formats: "weights", "outputs", "samples".
    disk_bytes : bytes of the files: "shards", "arrays", "resume", "llc", "view", "other".
    curves : steps of the stored points of each LLC curve.
    """

    path: Path
    run_id: str
    created: str
    steps: list[int]
    weight_steps: list[int]
    storage: dict[str, Any]
    shards: int
    complete: bool
    writer: str | None
    problems: list[Finding]
    tensors: dict[str, dict[str, int]]
    metrics: list[str]
    shapes: dict[str, list[int]]
    arrays: list[str]
    row_bytes: dict[str, int]
    disk_bytes: dict[str, int]
    curves: dict[str, list[int]]
    config: dict[str, Any]
    provenance: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON types."""
        return asdict(self) | {"path": str(self.path)}


def run_info(run: str | Path) -> RunInfo:
    """Describe a run: manifest, headers and sizes are read, rows are not.

    Raises `TrajectoryError` if the folder is no run, `CorruptRunError` if its manifest is damaged. Damaged shards are
    listed in `problems`.
    """
    opened = Trajectory(run, skip_damaged=True)
    path, layout = opened.path, opened.manifest.state
    problems: list[Finding] = []
    complete = False
    try:
        Trajectory(path).require_whole()
    except LLCDynamicsError as error:
        problems.append(Finding("damaged", str(error)))
    try:
        finished = read_complete(path, opened.manifest.run_id)
        complete = finished is not None
        if finished is not None and finished != len(opened):
            text = f"{path}: finished with {finished} checkpoints, but {len(opened)} are there"
            problems.append(Finding("missing_rows", text))
    except LLCDynamicsError as error:
        problems.append(Finding("damaged", str(error)))
    metrics: list[str] = []
    shapes: dict[str, list[int]] = {}
    try:
        metrics = opened.metric_names
        names = {"outputs": "outputs", **{f"samples/{encoded(name)}": name for name in opened.sample_names}}
        shapes = {names[link]: list(rows.shape[1:]) for link, rows in opened.function_rows().items()}
    except LLCDynamicsError as error:
        problems.append(Finding("damaged", str(error)))
    tensors = {
        dtype: {
            "tensors": sum(entry.dtype == dtype for entry in layout.entries),
            "elements": size // STORAGE[dtype][1],
            "parameters": sum(
                math.prod(entry.shape) for entry in layout.entries if entry.dtype == dtype and entry.kind == "parameter"
            ),
        }
        for dtype, size in layout.sizes().items()
    }
    functions = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    return RunInfo(
        path=path,
        run_id=opened.manifest.run_id,
        created=opened.manifest.created,
        steps=opened.steps.tolist(),
        weight_steps=opened.weight_steps.tolist(),
        storage=opened.manifest.storage.to_json(),
        shards=len(list((path / SHARDS).glob("shard-*.h5"))),
        complete=complete,
        writer=_holder(path / LOCK),
        problems=problems,
        tensors=tensors,
        metrics=metrics,
        shapes=shapes,
        arrays=opened.array_names,
        row_bytes={
            "weights": layout.row_bytes(),
            "outputs": functions.pop("outputs", 0),
            "samples": sum(functions.values()),
        },
        disk_bytes=_disk_bytes(path),
        curves=curve_steps(path),
        config=opened.config,
        provenance=opened.provenance,
    )


def curve_steps(run: Path) -> dict[str, list[int]]:
    """The steps of the points of every LLC curve that is stored beside a run."""
    return {folder.name: list(stored_points(folder)) for folder in curve_folders(run)}


def _holder(lock: Path) -> str | None:
    """Who holds a lock, as the holder wrote it there."""
    if not is_locked(lock):
        return None
    return (read_at_most(lock, 200) or b"").decode(errors="replace").strip() or "another process"


def _disk_bytes(run: Path) -> dict[str, int]:
    kinds = {SHARDS: "shards", ARRAYS: "arrays", RESUME: "resume", LLC: "llc", VIEW: "view"}
    kinds |= dict.fromkeys((MANIFEST, COMPLETE, LOCK), "manifest")
    sizes = dict.fromkeys(("shards", "arrays", "resume", "llc", "view", "manifest", "other"), 0)
    for entry in run.iterdir():
        files = [entry] if entry.is_file() else [each for each in entry.rglob("*") if each.is_file()]
        sizes[kinds.get(entry.name, "other")] += sum(each.lstat().st_size for each in files)
    return {kind: size for kind, size in sizes.items() if size}
