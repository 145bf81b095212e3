"""Sealed files: HDF5 files that any HDF5 tool opens, behind a header that is their whole index.

In front of the HDF5 data stands an HDF5 user block::

    llc_dynamics sealed <schema version> <bytes of the user block> <xxh3_128 of the JSON text>\\n
    {"datasets": {<name>: [<dtype>, <shape>, <offset or null>, <bytes>], ...}, "digest": ..., "kind": ...,
     "run_id": ..., "schema_version": ..., "size": <bytes of the file>, <what the kind adds>}\\n
    zeros up to the size of the user block

Reading takes the header and plain reads at offsets. The HDF5 structures of a file are never interpreted: the HDF5
library trusts them, a seal tells damage and not authors, and a structure that was made to harm can crash the library.

A dataset with a twin `checksum/<name>` (uint64 [R]) is one of *rows*: each of its R rows is compared with its checksum
when it is read. All other bytes behind the user block, structures and small tables, are covered by `digest`, the
xxh3_128 of them in the order of the file.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, TrajectoryError
from llc_dynamics.trajectory.files import open_regular

SCHEMA_VERSION = 3
MAGIC = b"llc_dynamics sealed "
DAMAGED = "the file is damaged. Restore it from a copy; `llc-dynamics verify` lists everything that is"
#: Bytes of a user block. What JSON of a few bytes becomes in memory takes up to twenty times as many.
LARGEST_USER_BLOCK = 1 << 24
#: The formats of stored datasets.
DTYPES = frozenset({"<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8"})
#: HDF5 knows no more axes.
MOST_AXES = 32
_PIECE = 1 << 20


def row_checksum(step: int, dataset: str, row: NDArray) -> int:
    """The checksum of a C-contiguous `row`, which lies in `dataset` and belongs to `step`.

    xxh3_64 of the step (int64, little-endian), the dataset's name in UTF-8, a zero byte, and the row's bytes. It guards
    against accidents, not against someone who means to deceive.
    """
    found = xxhash.xxh3_64(int(step).to_bytes(8, "little", signed=True) + dataset.encode() + b"\0")
    found.update(row.reshape(-1).view(np.uint8).data)
    return found.intdigest()


@dataclass(frozen=True)
class Entry:
    """A dataset as the index has it: `nbytes` bytes at `offset` in the file, None if there are no bytes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int | None
    nbytes: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


class SealedFile:
    """A sealed file, opened for reading: header and index are checked, and nothing else is read yet.

    Attributes
    ----------
    datasets : all datasets by name, each of a known format, inside the file, and apart from every other.
    details : what the kind of the file adds to the header, JSON as it stands there.
    digest : of all bytes that are not in rows.

    Raises
    ------
    CorruptRunError
        The file is missing, cut short, damaged, of another kind or of another run.
    TrajectoryError
        It was written by another version, or cannot be read at all.
    """

    def __init__(self, path: Path, kind: str, run_id: str | None = None) -> None:
        self.path = path
        text, self.user_block, actual = _read_header(path)
        try:
            described = json.loads(text)
            version = described.pop("schema_version")
            found_kind, self.run_id, self.digest = (described.pop(key) for key in ("kind", "run_id", "digest"))
            self.size, listed = described.pop("size"), described.pop("datasets")
            if (
                type(version) is not int
                or version != SCHEMA_VERSION
                or not all(isinstance(each, str) for each in (found_kind, self.run_id, self.digest))
            ):
                raise ValueError("wrong types")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise CorruptRunError(f"{path}: the header is not the one of a sealed file: {DAMAGED}") from None
        if self.size != actual:
            raise CorruptRunError(f"{path}: {actual} bytes where {str(self.size)[:20]} were written: {DAMAGED}")
        if found_kind != kind:
            raise CorruptRunError(
                f"{path}: this is a file of kind '{found_kind[:40]}', not '{kind}'; it was renamed or misplaced"
            )
        if run_id is not None and self.run_id != run_id:
            raise CorruptRunError(
                f"{path}: this file belongs to another run ({self.run_id[:40]}, not {run_id}); it was misplaced"
            )
        try:
            self.datasets = checked_index(listed, self.user_block, self.size)
        except ValueError as error:
            raise CorruptRunError(f"{path}: refused, this file was not written here ({error}): {DAMAGED}") from None
        self.details: dict[str, Any] = described
        self._text = text
        self._kind = kind

    def check(self) -> None:
        """Compare everything but the rows with the digest; `CorruptRunError` if it does not match."""
        with _reading(self.path) as stream:
            self._check(stream)

    def _check(self, stream: Any) -> None:
        if digest_outside_rows(stream, self.datasets, self.user_block, self.size) != self.digest:
            raise self.replaced() or CorruptRunError(
                f"{self.path}: the HDF5 structures or small tables do not match their checksum: {DAMAGED}"
            )

    def tables(self) -> dict[str, NDArray]:
        """All datasets that are not rows, compared with the digest; `CorruptRunError` if they do not match."""
        with _reading(self.path) as stream:
            self._check(stream)  # of these bytes: another file may stand here when it is opened again
            return {name: self._whole(stream, name) for name in self.datasets if not self.is_rows(name)}

    def table(self, name: str) -> NDArray:
        """One dataset whole, as it stands in the file; call `check` first. KeyError if there is none."""
        with _reading(self.path) as stream:
            return self._whole(stream, name)

    def _whole(self, stream: Any, name: str) -> NDArray:
        entry = self.datasets[name]
        values = np.empty(entry.shape, entry.dtype)
        if entry.offset is not None:
            _read_into(stream, entry.offset, values.reshape(-1).view(np.uint8).data, self.path)
        return values

    def rows(self, name: str, start: int, stop: int, out: NDArray | None = None) -> NDArray:
        """Rows `start:stop` of a dataset, not yet compared with their checksums.

        `out` is C-contiguous room for them, of this format and shape; without it new room is made.
        """
        entry = self.datasets[name]
        found = np.empty((stop - start, *entry.shape[1:]), entry.dtype) if out is None else out
        if found.nbytes and entry.offset is not None:
            with _reading(self.path) as stream:
                place = found.reshape(-1).view(np.uint8).data
                _read_into(stream, entry.offset + start * entry.row_bytes, place, self.path)
        return found

    def is_rows(self, name: str) -> bool:
        """Whether the rows of a dataset have checksums of their own."""
        return f"checksum/{name}" in self.datasets

    def replaced(self) -> CorruptRunError | None:
        """The error that says so, if another file stands here than the one that was opened; None if it is this one."""
        try:
            now = SealedFile(self.path, self._kind, self.run_id)
        except CorruptRunError as error:
            return error
        except TrajectoryError:
            return None
        if now._text == self._text:
            return None
        return CorruptRunError(f"{self.path}: the file was replaced while the run was open; open the run again")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The file as a stream; `CorruptRunError` if it is gone, `TrajectoryError` if it cannot be read."""
    try:
        with open_regular(path) as stream:
            yield stream
    except FileNotFoundError:
        raise CorruptRunError(
            f"{path}: the file is missing. If the run was moved, open it at its new place; otherwise restore the file "
            "from a copy of the run"
        ) from None
    except OSError as error:
        raise TrajectoryError(f"{path}: cannot read ({error.strerror})") from error


def checked_index(listed: Any, user_block: int, size: int) -> dict[str, Entry]:
    """The datasets that a header lists; ValueError unless each is plain, inside the file, and apart from the others."""
    if not isinstance(listed, dict) or type(size) is not int:
        raise ValueError("no index")
    datasets: dict[str, Entry] = {}
    for name, item in listed.items():
        if not isinstance(item, list) or len(item) != 4:
            raise ValueError("an entry of the index is none")
        dtype, shape, offset, nbytes = item
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise ValueError(f"'{name[:80]}' is not of plain numbers")
        if not isinstance(shape, list) or len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"'{name[:80]}' has no plain shape")
        own = np.dtype(dtype)
        if math.prod(n for n in shape if n) * own.itemsize >= 1 << 63 or nbytes != math.prod(shape) * own.itemsize:
            raise ValueError(f"'{name[:80]}' has another size than its shape")
        if type(nbytes) is not int or (offset is None) != (nbytes == 0):
            raise ValueError(f"'{name[:80]}' has no valid place")
        if offset is not None and (type(offset) is not int or not user_block <= offset <= size - nbytes):
            raise ValueError(f"'{name[:80]}' lies outside the file")
        datasets[name] = Entry(own, tuple(shape), offset, nbytes)
    begin = 0
    for offset, nbytes, name in sorted(
        (e.offset, e.nbytes, name) for name, e in datasets.items() if e.offset is not None
    ):
        if offset < begin:
            raise ValueError(f"'{name[:80]}' overlaps another dataset")
        begin = offset + nbytes
    for name, entry in datasets.items():
        sums = datasets.get(f"checksum/{name}")
        if sums is not None and (not entry.shape or (sums.dtype.str, sums.shape) != ("<u8", entry.shape[:1])):
            raise ValueError(f"the checksums of '{name[:80]}' are none")
    return datasets


def digest_outside_rows(stream: Any, datasets: Mapping[str, Entry], user_block: int, size: int) -> str:
    """xxh3_128 of the bytes from the user block to `size` that lie in no dataset of rows."""
    found, start = xxhash.xxh3_128(), user_block
    ranges = sorted(
        (entry.offset, entry.nbytes)
        for name, entry in datasets.items()
        if entry.offset is not None and f"checksum/{name}" in datasets
    )
    for offset, nbytes in [*ranges, (size, 0)]:
        stream.seek(start)
        while start < offset:
            piece = stream.read(min(offset - start, _PIECE))
            if not piece:
                break
            found.update(piece)
            start += len(piece)
        start = offset + nbytes
    return found.hexdigest()


def encode_header(described: Mapping[str, Any], user_block: int) -> bytes:
    """The user block of `user_block` bytes that says `described`."""
    text = json.dumps(described, separators=(",", ":")).encode()
    head = MAGIC + f"{SCHEMA_VERSION} {user_block} {xxhash.xxh3_128_hexdigest(text)}\n".encode()
    block = head + text + b"\n"
    assert len(block) <= user_block, f"the header needs {len(block)} bytes of {user_block}"
    return block.ljust(user_block, b"\0")


def _read_header(path: Path) -> tuple[bytes, int, int]:
    """The JSON text of a header, compared with its checksum, and the sizes of the user block and of the file."""
    with _reading(path) as stream:
        actual = os.fstat(stream.fileno()).st_size
        block = stream.read(512)
        head, _, rest = block.partition(b"\n")
        fields = head[len(MAGIC) :].split(b" ")
        valid = head.startswith(MAGIC) and len(fields) == 3 and all(field.isalnum() for field in fields)
        if not valid or not fields[0].isdigit() or len(fields[0]) > 9 or not fields[1].isdigit() or len(fields[1]) > 9:
            raise CorruptRunError(f"{path}: no valid header ({actual} bytes): {DAMAGED}")
        version, user_block = int(fields[0]), int(fields[1])
        if version != SCHEMA_VERSION:
            raise other_schema(path, version)
        if not 512 <= user_block <= min(LARGEST_USER_BLOCK, actual):
            raise CorruptRunError(f"{path}: no valid header ({actual} bytes): {DAMAGED}")
        remaining = bytearray(user_block - len(block))
        _read_into(stream, len(block), memoryview(remaining), path)
    text = (rest + bytes(remaining)).partition(b"\n")[0]
    if xxhash.xxh3_128_hexdigest(text).encode() != fields[2]:
        raise CorruptRunError(f"{path}: the header does not match its checksum: {DAMAGED}")
    return text, user_block, actual


def other_schema(path: Path, version: int) -> TrajectoryError:
    """The error for files of another schema version."""
    advice = "install a newer llc-dynamics" if version > SCHEMA_VERSION else "record the run again"
    return TrajectoryError(
        f"{path}: schema version {version}, but this llc-dynamics reads version {SCHEMA_VERSION}; {advice}"
    )


def _read_into(stream: Any, offset: int, place: memoryview, path: Path) -> None:
    stream.seek(offset)
    while len(place):
        count = stream.readinto(place)
        if not count:
            raise CorruptRunError(f"{path}: the file ends before its data does: {DAMAGED}")
        place = place[count:]
