"""Writing sealed files (`sealed.py`): shards, sets of arrays, resume states, exported runs, points of LLC curves."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import DataError, TrajectoryError
from llc_dynamics.trajectory.files import replacing, write_at
from llc_dynamics.trajectory.sealed import (
    DTYPES,
    LARGEST_USER_BLOCK,
    SCHEMA_VERSION,
    checked_index,
    digest_outside_rows,
    encode_header,
    row_checksum,
)

#: Rows are read, written and summed up in pieces of about this size.
_PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class Rows:
    """A dataset to be of one row for each of `steps`; read(start, stop) gives the rows from `start` up to `stop`."""

    dtype: np.dtype
    row_shape: tuple[int, ...]
    steps: Sequence[int]
    read: Callable[[int, int], NDArray]

    @classmethod
    def of(cls, rows: Any, steps: Sequence[int]) -> Rows:
        """From an array, or what is read like one."""
        return cls(rows.dtype, rows.shape[1:], steps, lambda start, stop: rows[start:stop])

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.steps), *self.row_shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[tuple[int, NDArray]]:
        """The first row and the values of each piece."""
        count = max(1, _PIECE_BYTES * len(self.steps) // max(1, self.nbytes))
        for start in range(0, len(self.steps), count):
            yield start, np.ascontiguousarray(self.read(start, min(start + count, len(self.steps))))


def write_sealed(
    path: Path,
    kind: str,
    run_id: str,
    details: Mapping[str, Any],
    tables: Mapping[str, NDArray],
    rows: Mapping[str, Rows] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write datasets to `path` so that it appears whole or not at all; rows are held one piece at a time.

    Parameters
    ----------
    details : JSON values for the header.
    tables : datasets by name, covered by the digest.
    rows : datasets whose rows get a checksum each, in `checksum/<name>`.
    progress : called with the bytes of rows that are written, and their total.

    Raises
    ------
    DataError
        There are so many names that the header would not be read back; nothing is written.
    TrajectoryError
        The disk is full, the folder read-only, ...: nothing is left behind, and a former file is as it was.
    """
    import h5py

    rows = rows or {}
    sums = {name: np.empty(len(each.steps), "<u8") for name, each in rows.items()}
    small: dict[str, NDArray] = {**tables, **{f"checksum/{name}": table for name, table in sums.items()}}
    forms = {name: (each.dtype, each.shape) for name, each in small.items()}
    forms |= {name: (each.dtype, each.shape) for name, each in rows.items()}
    described = {**details, "schema_version": SCHEMA_VERSION, "kind": kind, "run_id": run_id}
    user_block = _room(path, described, forms)
    with replacing(path) as stream:
        # HDF5 writes the structures and lays the datasets out; their bytes are then written with plain system calls.
        sink = ErrorKeepingFile(stream)
        with h5py.File(sink, "w", libver=("v110", "v110"), userblock_size=user_block) as file:
            file.attrs["format"] = f"llc_dynamics {kind}"
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["run_id"] = run_id
            early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            places = {}
            for name, (dtype, shape) in forms.items():
                # A scalar gets no place before it has a value.
                given = {"shape": shape, "dtype": dtype, "dcpl": early} if shape else {"data": np.zeros((), dtype)}
                dataset = file.create_dataset(name, **given)
                places[name] = int(dataset.id.get_offset()) if 0 not in shape else None
        sink.raise_error()
        done, total = 0, sum(each.nbytes for each in rows.values())
        for name, each in rows.items():
            end = places[name] or 0
            for first, values in each.pieces():
                start, end = end, _write(stream, end, values)
                _start_writeback(stream, start, end)
                for row, content in enumerate(values, start=first):
                    # While the disk is busy with the piece.
                    sums[name][row] = row_checksum(each.steps[row], name, content)
                done += values.nbytes
                if progress is not None:
                    progress(done, total)
        for name, table in small.items():
            _write(stream, places[name] or 0, table)
        size = stream.seek(0, os.SEEK_END)
        index = {
            name: [dtype.str, list(shape), places[name], _bytes(dtype, shape)] for name, (dtype, shape) in forms.items()
        }
        try:
            datasets = checked_index(index, user_block, size)
        except ValueError as error:
            raise TrajectoryError(
                f"{path}: the HDF5 library ({h5py.version.hdf5_version}) laid the file out in a way that would not be "
                f"read back ({error}); use another version of h5py"
            ) from None
        digest = digest_outside_rows(stream, datasets, user_block, size)
        described |= {"size": size, "digest": digest, "datasets": index}
        write_at(stream, 0, memoryview(encode_header(described, user_block)))


class ErrorKeepingFile:
    """Passes HDF5's writes on to `stream`; the first error is kept for `raise_error`, and HDF5 is told all is well.

    HDF5 cannot recover from a write that fails (disk full): closing the file fails as well, and the handle and its
    memory stay for good. So it never gets to see one.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._error: OSError | None = None

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def write(self, content: Any) -> int:
        view = memoryview(content)
        self._attempt(lambda: write_at(self._stream, self._stream.tell(), view), 0)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        """h5py takes an object for a file if it has this; HDF5 itself reads with `readinto`."""
        return bytes(self._stream.read(size))

    def readinto(self, place: Any) -> int:
        return self._attempt(lambda: int(self._stream.readinto(place)), 0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._attempt(lambda: int(self._stream.seek(offset, whence)), offset)

    def tell(self) -> int:
        return int(self._stream.tell())

    def truncate(self, size: int) -> int:
        return self._attempt(lambda: int(self._stream.truncate(size)), size)

    def flush(self) -> None:
        """Nothing is buffered."""

    def _attempt(self, action: Callable[[], int], otherwise: int) -> int:
        try:
            return action()
        except OSError as error:
            self._error = self._error or error
            return otherwise


def _room(path: Path, described: Mapping[str, Any], forms: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> int:
    """Bytes of a user block that is large enough wherever HDF5 puts the datasets."""
    for name, (dtype, _) in forms.items():
        if dtype.str not in DTYPES:
            raise DataError(f"{path}: '{name}' holds {dtype}; only plain little-endian numbers can be stored")
    far = 1 << 60
    widest = {name: [dtype.str, list(shape), far, _bytes(dtype, shape)] for name, (dtype, shape) in forms.items()}
    text = json.dumps({**described, "size": far, "digest": "0" * 32, "datasets": widest}, separators=(",", ":"))
    room = 1 << max(9, math.ceil(math.log2(len(text.encode()) + 128)))
    if room > LARGEST_USER_BLOCK:
        raise DataError(
            f"{path}: the names of its {len(forms):,} datasets would take {len(text) >> 20} MiB, and at most "
            f"{LARGEST_USER_BLOCK >> 20} are read back; use fewer or shorter names"
        )
    return room


def _bytes(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * dtype.itemsize


def _write(stream: Any, offset: int, values: NDArray) -> int:
    if not values.nbytes:
        return offset
    return write_at(stream, offset, np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def _start_writeback(stream: Any, start: int, end: int) -> None:
    """Ask the system to begin writing this range to the disk now, so that the fsync at the end finds less to do.

    The advice says that the range is not needed any more; what is still being written stays in memory all the same.
    """
    if end - start >= 1 << 20 and hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(stream.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)
