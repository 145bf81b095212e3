"""One run in one HDF5 file: how it is sealed. `export.py` writes such files, `restore.py` reads them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import TrajectoryError
from llc_dynamics.trajectory.atomic import is_temporary, replacing, storage_errors
from llc_dynamics.trajectory.checksum import row_checksum
from llc_dynamics.trajectory.lock import is_locked
from llc_dynamics.trajectory.sealed import SCHEMA_VERSION, digest_outside, encode_header
from llc_dynamics.trajectory.sink import ErrorKeepingFile, write_at

KIND = "export"
#: Rows are moved in pieces of about this size.
_PIECE_BYTES = 8 << 20
POINT = re.compile(r"step-\d{1,19}\.h5")


@dataclass(frozen=True)
class RowTable:
    """A large dataset to be: one row for each of `steps`, read a piece at a time.

    read(start, stop) : the rows from `start` up to `stop`.
    """

    dtype: np.dtype
    row_shape: tuple[int, ...]
    steps: Sequence[int]
    read: Callable[[int, int], NDArray]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.steps), *self.row_shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[tuple[int, NDArray]]:
        """The first row and the values of each piece."""
        rows = max(1, _PIECE_BYTES * len(self.steps) // max(1, self.nbytes))
        for start in range(0, len(self.steps), rows):
            yield start, self.read(start, min(start + rows, len(self.steps)))


def write_archive(
    path: Path,
    run_id: str,
    details: Mapping[str, Any],
    tables: Iterator[tuple[str, NDArray]],
    rows: Mapping[str, RowTable],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write and seal an archive in bounded memory: `path` appears whole or not at all, and nothing is overwritten.

    Parameters
    ----------
    details : JSON values for the header.
    tables : small datasets, covered by the digest in the header.
    rows : large datasets; `checksum/<path>`, uint64 [R], is stored for each.
    progress : called with the bytes of rows that are written, and their total.

    Raises
    ------
    TrajectoryError
        There is something at `path` already, or it cannot be written (nothing is left behind).
    """
    require_absent(path)
    user_block = 1 << max(12, math.ceil(math.log2(len(json.dumps(dict(details))) + 48 * len(rows) + 512)))
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    done, total = 0, sum(table.nbytes for table in rows.values())
    with storage_errors(path, "make the folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
    with replacing(path) as temporary, temporary.open("w+b", buffering=0) as stream:
        _hold(stream.fileno())
        sink = ErrorKeepingFile(stream)
        extents: list[tuple[int, int]] = []
        with h5py.File(sink, "w", libver=("v110", "v110"), userblock_size=user_block) as file:
            file.attrs["format"] = f"llc_dynamics {KIND}"
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["run_id"] = run_id
            for name, values in tables:
                file.create_dataset(name, data=values)
                sink.raise_error()
            for name, table in rows.items():
                dataset = file.create_dataset(name, shape=table.shape, dtype=table.dtype, dcpl=early)
                if table.nbytes:
                    extents.append((int(dataset.id.get_offset()), table.nbytes))
                sums = np.empty(len(table.steps), "<u8")
                for start, values in table.pieces():
                    if values.nbytes:
                        dataset[start : start + len(values)] = values
                    for row, content in enumerate(values, start=start):
                        sums[row] = row_checksum(int(table.steps[row]), name, content)
                    sink.raise_error()
                    done += values.nbytes
                    if progress is not None:
                        progress(done, total)
                file.create_dataset(f"checksum/{name}", data=sums)
        sink.raise_error()
        size = stream.seek(0, os.SEEK_END)
        extents.sort()
        described = {
            **details,
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "run_id": run_id,
            "size": size,
            "digest": digest_outside(stream, user_block, size, extents),
            "bulk": extents,
        }
        write_at(stream, 0, memoryview(encode_header(described, user_block)))
        os.fsync(stream.fileno())
        require_absent(path)


def require_absent(path: Path) -> None:
    """Raise `TrajectoryError` if there is anything at `path`."""
    if path.exists() or path.is_symlink():
        raise TrajectoryError(f"{path}: exists already and is not overwritten; give a new name, or remove it first")


def text_array(value: Any) -> NDArray[np.uint8]:
    """JSON as a dataset of its UTF-8 bytes."""
    return np.frombuffer(json.dumps(value, indent=1).encode(), np.uint8)


def _hold(descriptor: int) -> None:
    """Lock the temporary file, so that `_remove_abandoned` knows it for one that is being written."""
    try:
        import fcntl
    except ImportError:
        return
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files that exports to `path` left when they were killed."""
    for entry in path.parent.iterdir():
        if is_temporary(entry.name) and entry.name.startswith(f".{path.name}.") and not is_locked(entry):
            entry.unlink(missing_ok=True)
