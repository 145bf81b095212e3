"""All shards of a run as one file, without a copy: HDF5 virtual datasets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llc_dynamics.errors import TrajectoryError
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.files import replacing, storage_errors
from llc_dynamics.trajectory.names import SHARDS, VIEW, encoded, shard_name
from llc_dynamics.trajectory.sealed import SCHEMA_VERSION
from llc_dynamics.trajectory.sealing import ErrorKeepingFile
from llc_dynamics.trajectory.shards import Shard

if TYPE_CHECKING:
    import h5py

_FORMAT = "llc_dynamics view"
#: More pieces than this make opening the view slow, so single tensors are left out.
_MOST_PIECES = 50_000


def write_view(run: str | Path) -> Path:
    """Write `view.h5` into a run folder: every dataset of the shards over all checkpoints, and every tensor by name.

    The file holds references only, by relative paths, so that the folder can be moved. It shows the shards that were
    sealed when it was made; made again, it is replaced. What is read through it is not compared with checksums, and
    where a shard is missing HDF5 shows fill values: -1 in `step`, NaN or 0 elsewhere.

    Returns
    -------
    The file.

    Raises
    ------
    TrajectoryError
        The run has no checkpoint yet, cannot be written to, or a file of this name is something else.
    CorruptRunError
        A shard is damaged or missing.
    """
    import h5py

    opened = Trajectory(run)
    path = opened.path / VIEW
    steps = opened.steps
    if len(steps) == 0:
        raise TrajectoryError(f"{opened.path}: no checkpoint has been sealed yet, so there is nothing to view")
    _require_own(path)
    pieces = _pieces(opened)
    entries = opened.manifest.state.entries
    with replacing(path) as stream:
        sink = ErrorKeepingFile(stream)
        with h5py.File(sink, "w", libver=("v110", "v110")) as file:
            file.attrs["format"] = _FORMAT
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["run_id"] = opened.manifest.run_id
            file.attrs["rows"] = len(steps)
            text = json.dumps(opened.manifest.to_json(), indent=1).encode()
            file.create_dataset("manifest", data=np.frombuffer(text, np.uint8))
            for name, found in pieces.items():
                rows = len(opened.weight_steps) if name.startswith("state") else len(steps)
                _virtual(file, name, rows, found, found[0].shape[1:], slice(None))
            if len(entries) * len(pieces["step"]) <= _MOST_PIECES:
                for entry in entries:
                    part = slice(entry.offset, entry.offset + entry.size)
                    found = pieces.get(f"state/{entry.dtype}", [])
                    if entry.size and found:
                        pair = (2,) if entry.dtype.startswith("complex") else ()
                        name = f"tensors/{encoded(entry.name)}"
                        _virtual(file, name, len(opened.weight_steps), found, (*entry.shape, *pair), part)
        sink.raise_error()
    return path


@dataclass(frozen=True)
class _Piece:
    """One dataset of one shard, and the row of the run with which it begins."""

    source: str
    name: str
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype


def _pieces(run: Trajectory) -> dict[str, list[_Piece]]:
    """The datasets of all shards by name, checksums left out."""
    found: dict[str, list[_Piece]] = {}
    start = state_start = index = 0
    while start < len(run):
        shard = Shard(run.path, index, run.manifest)
        shard.file.check()
        for name, dataset in shard.file.datasets.items():
            if not name.startswith("checksum/"):
                first = state_start if name.startswith("state") else start
                found.setdefault(name, []).append(
                    _Piece(f"{SHARDS}/{shard_name(index)}", name, first, dataset.shape, dataset.dtype)
                )
        start += len(shard)
        state_start += len(shard.state_steps)
        index += 1
    return found


def _virtual(
    file: h5py.File, name: str, rows: int, pieces: list[_Piece], row_shape: tuple[int, ...], part: slice
) -> None:
    """A dataset [rows, *row_shape] of `part` of the second axis of each piece (all of it for a full slice)."""
    import h5py

    dtype = pieces[0].dtype
    layout = h5py.VirtualLayout((rows, *row_shape), dtype)
    for piece in pieces:
        # A percent sign in a name, from an encoded '/', would begin a pattern.
        source = h5py.VirtualSource(piece.source, piece.name.replace("%", "%%"), piece.shape, piece.dtype)
        taken = source if part == slice(None) else source[:, part]
        if piece.shape[0]:
            layout[piece.start : piece.start + piece.shape[0]] = taken
    blank = -1 if name in ("step", "state_step") else np.nan if dtype.kind == "f" else 0
    file.create_virtual_dataset(name, layout, fillvalue=blank)


def _require_own(path: Path) -> None:
    """Raise `TrajectoryError` if there is a file that `write_view` did not make."""
    import h5py

    if not path.exists():
        return
    try:
        with storage_errors(path, "read"), h5py.File(path, "r", locking=False) as file:
            own = file.attrs.get("format") == _FORMAT
    except TrajectoryError:
        own = False
    if not own:
        raise TrajectoryError(f"{path}: not a view that was made here, so it is not replaced; move it elsewhere")
