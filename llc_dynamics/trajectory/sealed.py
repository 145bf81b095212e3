"""Sealed files: HDF5 files that are written once, whole, and refused when a byte of them is not what was written.

A sealed file is an ordinary HDF5 file (contiguous datasets, readable by any HDF5 tool) behind an HDF5 user block::

    llc_dynamics sealed <schema version> <size of the user block> <SHA-256 of the JSON text>\\n
    {"bulk": [[offset, bytes], ...], "digest": "<SHA-256>", "kind": ..., "run_id": ..., "size": <file size>, ...}\\n
    zeros up to the size of the user block

`digest` covers every byte behind the user block that is not in one of the `bulk` ranges, the raw data of the large
datasets: HDF5's own structures and all small datasets, in the order of the file. It is checked before anything else is
read, so damaged structures are never interpreted. The large datasets carry a checksum per row instead (`checksum.py`),
checked when a row is read. Compressed rows (`packed.py`) are HDF5 chunks, one each, which the header lists as well.

Schema version 2 has other row checksums than version 1, may hold compressed rows, and shards may have fewer rows of
weights than steps. Every file says its own version; files of both may stand in one run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, TrajectoryError
from llc_dynamics.trajectory.atomic import replacing
from llc_dynamics.trajectory.checksum import row_checksum
from llc_dynamics.trajectory.opening import open_regular
from llc_dynamics.trajectory.packed import PackedRows, is_packed
from llc_dynamics.trajectory.placed import StructureError
from llc_dynamics.trajectory.sink import ErrorKeepingFile, start_writeback, write_at
from llc_dynamics.trajectory.structure import StoredDataset, stored_datasets

SCHEMA_VERSION = 2
MAGIC = b"llc_dynamics sealed "
_LARGEST_USER_BLOCK = 1 << 24
DAMAGED = "the file is damaged. Restore it from a copy; `llc-dynamics verify` lists everything that is"


@dataclass(frozen=True)
class Header:
    """What the user block of a sealed file says about it."""

    version: int
    kind: str
    run_id: str
    size: int
    digest: str
    bulk: list[tuple[int, int]]
    user_block: int
    details: dict[str, Any]


def write_sealed(
    path: Path,
    kind: str,
    run_id: str,
    details: Mapping[str, Any],
    tables: Mapping[str, NDArray],
    bulk: Mapping[str, NDArray],
    row_steps: Mapping[str, Sequence[int]] | None = None,
    packed: Mapping[str, PackedRows] | None = None,
) -> None:
    """Write datasets to `path` so that it appears whole or not at all.

    Parameters
    ----------
    details : JSON values for the header.
    tables : small datasets by their path in the file; covered by the header's digest.
    bulk : large C-contiguous datasets; `checksum/<path>`, uint64 [R], is stored for each.
    row_steps : for each large dataset the steps to which its R rows belong; None checksums every dataset as a single
        row of step 0.
    packed : large datasets that are compressed row by row; they need `row_steps` as well.

    Raises
    ------
    TrajectoryError
        The disk is full, the folder read-only, ...: nothing is left behind, and a former file is as it was.
    """
    packed = packed or {}
    chunks = sum(len(rows) for rows in packed.values())
    room = len(json.dumps(dict(details))) + 48 * (len(bulk) + chunks) + 48 * chunks + 512
    user_block = 1 << max(9, math.ceil(math.log2(room)))
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    ranges: list[tuple[int, str, NDArray]] = []
    sums: dict[str, tuple[int, NDArray[np.uint64]]] = {}
    steps = {name: [0] if row_steps is None else row_steps[name] for name in (*bulk, *packed)}
    with replacing(path) as temporary, temporary.open("w+b", buffering=0) as stream:
        # HDF5 writes the structures and lays the large datasets out; their bytes are then written with plain system
        # calls, in one piece each.
        sink = ErrorKeepingFile(stream)
        with h5py.File(sink, "w", libver=("v110", "v110"), userblock_size=user_block) as file:
            file.attrs["format"] = f"llc_dynamics {kind}"
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["run_id"] = run_id
            for name, table in tables.items():
                file.create_dataset(name, data=table)
            for name, array in bulk.items():
                dataset = file.create_dataset(name, shape=array.shape, dtype=array.dtype, dcpl=early)
                if array.nbytes:
                    ranges.append((int(dataset.id.get_offset()), name, array))
            chunked = {name: rows.write(file, name) for name, rows in packed.items()}
            for name in steps:
                table = file.create_dataset(f"checksum/{name}", shape=(len(steps[name]),), dtype="<u8", dcpl=early)
                if len(steps[name]):
                    sums[name] = int(table.id.get_offset()), np.empty(len(steps[name]), "<u8")
        sink.raise_error()
        ranges.sort(key=lambda item: item[0])
        begins = {name: offset for offset, name, _ in ranges}
        for name, array in bulk.items():
            end = begins.get(name, 0)
            for row, step in enumerate(steps[name]):
                content = np.ascontiguousarray(array if row_steps is None else array[row])
                if content.nbytes:
                    start, end = end, write_at(stream, end, content.reshape(-1).view(np.uint8).data)
                    start_writeback(stream, start, end)
                # While the disk is busy with the row.
                sums[name][1][row] = row_checksum(step, name, content)
        for name, rows in packed.items():
            for row, step in enumerate(steps[name]):
                sums[name][1][row] = row_checksum(step, name, rows.rows[row])
        for offset, table in sums.values():
            write_at(stream, offset, table.view(np.uint8).data)
        located = {name: rows.locate(stream, chunked[name], user_block) for name, rows in packed.items()}
        size = stream.seek(0, os.SEEK_END)
        written = {name: (array.shape, array.dtype) for name, array in {**tables, **bulk}.items()}
        written |= {name: (rows.rows.shape, rows.dtype) for name, rows in packed.items()}
        _require_readable(stream, user_block, size, written)
        extents = [(offset, array.nbytes) for offset, _, array in ranges]
        extents += [(offset, length) for places in located.values() for offset, length, _ in places]
        extents.sort()
        described = {
            **details,
            **({"packed": located} if located else {}),
            "schema_version": SCHEMA_VERSION,
            "kind": kind,
            "run_id": run_id,
            "size": size,
            "digest": digest_outside(stream, user_block, size, extents),
            "bulk": extents,
        }
        write_at(stream, 0, memoryview(encode_header(described, user_block)))
        os.fsync(stream.fileno())


def encode_header(described: Mapping[str, Any], user_block: int) -> bytes:
    """The user block of `user_block` bytes that says `described`."""
    text = json.dumps(described, sort_keys=True, separators=(",", ":")).encode()
    head = MAGIC + f"{SCHEMA_VERSION} {user_block} {hashlib.sha256(text).hexdigest()}\n".encode()
    block = head + text + b"\n"
    assert len(block) <= user_block, f"the header needs {len(block)} bytes of {user_block}"
    return block.ljust(user_block, b"\0")


def read_header(path: Path, kind: str, run_id: str | None = None) -> Header:
    """Read and check the user block and the file's length, without HDF5 and without reading the data.

    Raises `CorruptRunError` if the file is cut short, damaged, of another kind or of another run, and
    `TrajectoryError` if it was written by a newer version or cannot be read at all.
    """
    try:
        with open_regular(path) as stream:
            actual = os.fstat(stream.fileno()).st_size
            block = stream.read(512)
            head, _, rest = block.partition(b"\n")
            fields = head[len(MAGIC) :].split(b" ")
            if not head.startswith(MAGIC) or len(fields) != 3 or not all(field.isalnum() for field in fields):
                raise CorruptRunError(f"{path}: no valid header ({actual} bytes): {DAMAGED}")
            if not fields[0].isdigit() or not fields[1].isdigit() or len(fields[1]) > 9:
                raise CorruptRunError(f"{path}: no valid header ({actual} bytes): {DAMAGED}")
            version, user_block = int(fields[0]), int(fields[1])
            if version > SCHEMA_VERSION:
                raise newer_schema(path, version)
            if version < 1 or not 512 <= user_block <= min(_LARGEST_USER_BLOCK, actual):
                raise CorruptRunError(f"{path}: no valid header ({actual} bytes): {DAMAGED}")
            rest += stream.read(user_block - len(block))
    except FileNotFoundError:
        raise CorruptRunError(f"{path}: the file is missing. Restore it from a copy of the run") from None
    except OSError as error:
        raise TrajectoryError(f"{path}: cannot read ({error.strerror})") from error
    text = rest.partition(b"\n")[0]
    if hashlib.sha256(text).hexdigest().encode() != fields[2]:
        raise CorruptRunError(f"{path}: the header does not match its checksum: {DAMAGED}")
    try:
        described = json.loads(text)
        if described["schema_version"] != version:
            raise ValueError("two schema versions")
        header = Header(
            version=version,
            kind=str(described.pop("kind")),
            run_id=str(described.pop("run_id")),
            size=int(described.pop("size")),
            digest=str(described.pop("digest")),
            bulk=[(int(offset), int(length)) for offset, length in described.pop("bulk")],
            user_block=user_block,
            details=described,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CorruptRunError(f"{path}: the header is not the one of a sealed file: {DAMAGED}") from None
    if header.size != actual:
        raise CorruptRunError(f"{path}: {actual} bytes where {header.size} were written: {DAMAGED}")
    if header.kind != kind:
        raise CorruptRunError(
            f"{path}: this is a file of kind '{header.kind}', not '{kind}'; it was renamed or misplaced"
        )
    if run_id is not None and header.run_id != run_id:
        raise CorruptRunError(
            f"{path}: this file belongs to another run ({header.run_id}, not {run_id}); it was misplaced"
        )
    return header


def newer_schema(path: Path, version: Any) -> TrajectoryError:
    """The error for files of a later schema version."""
    return TrajectoryError(
        f"{path}: schema version {version}, but this llc-dynamics reads up to {SCHEMA_VERSION}; install a newer "
        "llc-dynamics"
    )


def check_structure(path: Path, header: Header) -> None:
    """Compare everything but the large datasets with the header's digest; raises `CorruptRunError`."""
    position = header.user_block
    for offset, length in header.bulk:
        if offset < position or length < 0 or offset + length > header.size:
            raise CorruptRunError(f"{path}: the header claims data outside the file: {DAMAGED}")
        position = offset + length
    try:
        with path.open("rb", buffering=0) as stream:
            digest = digest_outside(stream, header.user_block, header.size, header.bulk)
    except FileNotFoundError:
        raise CorruptRunError(f"{path}: the file is gone. If the run was moved, open it at its new place") from None
    except OSError as error:
        raise TrajectoryError(f"{path}: cannot read ({error.strerror})") from error
    if digest != header.digest:
        raise CorruptRunError(f"{path}: the HDF5 structures or small tables do not match their checksum: {DAMAGED}")


@contextmanager
def open_datasets(path: Path, header: Header, packed: Collection[str] = ()) -> Iterator[dict[str, StoredDataset]]:
    """All datasets of a sealed file by path, each known to be plain: hard-linked, contiguous, inside the file.

    Call `check_structure` first. The HDF5 library is not asked: it trusts the structures of a file, and behind a valid
    seal they are what the file's author made them (see `structure.py`). Links that lead elsewhere, virtual, external,
    compressed or oversized datasets are refused with `CorruptRunError`. Only those that are named in `packed` may be
    compressed, in the one way of `packed.py`.
    """
    try:
        with open_regular(path) as stream:
            datasets = stored_datasets(stream, header.user_block, header.size)
            for name, dataset in datasets.items():
                if dataset.chunks is not None and not (name in packed and is_packed(dataset)):
                    raise StructureError(f"'{name}' is not a plain dataset")
            yield datasets
    except (ValueError, KeyError, IndexError, TypeError, struct.error, OverflowError, MemoryError) as error:
        # In the structures, or in what the caller looked for among the datasets.
        raise CorruptRunError(f"{path}: refused, this file was not written here ({error}): {DAMAGED}") from error
    except FileNotFoundError:
        raise CorruptRunError(f"{path}: the file is gone. If the run was moved, open it at its new place") from None
    except OSError as error:
        raise TrajectoryError(f"{path}: cannot read ({error.strerror})") from error


def _require_readable(stream: BinaryIO, user_block: int, size: int, written: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise `TrajectoryError` unless the datasets are found again with the shapes and formats that they have."""
    try:
        found = stored_datasets(stream, user_block, size)
        problem = next(
            (name for name, form in written.items() if form != (found[name].shape, found[name].dtype)),
            None,
        )
    except (StructureError, struct.error, IndexError, KeyError) as error:
        problem = str(error)
    if problem is not None:
        raise TrajectoryError(
            f"the HDF5 library ({h5py.version.hdf5_version}) laid a file out in a way that would not be read back "
            f"({problem}); use another version of h5py, or fewer different metrics"
        )


def digest_outside(stream: Any, start: int, size: int, extents: list[tuple[int, int]]) -> str:
    """SHA-256 of the bytes from `start` to `size` that lie in none of the sorted `extents`."""
    digest = hashlib.sha256()
    for offset, length in [*extents, (size, 0)]:
        stream.seek(start)
        remaining = offset - start
        while remaining > 0:
            piece = stream.read(min(remaining, 1 << 20))
            if not piece:
                break
            digest.update(piece)
            remaining -= len(piece)
        start = offset + length
    return digest.hexdigest()
