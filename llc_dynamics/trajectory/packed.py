"""Compressed rows: HDF5 chunks of one row each, behind the filters "shuffle" and "zstd".

HDF5 decompresses them in a file of its own, but only bytes that were compared with a CRC-32 in the header first, and
only where the zstd frame says that it holds exactly one row: a claim that HDF5's filter would otherwise believe and
make room for.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from llc_dynamics.trajectory.storage import WeightStorage, to_differences, zstd_filter
from llc_dynamics.trajectory.structure import StoredDataset

_SHUFFLE, _ZSTD = 2, 32015
_MAGIC = b"\x28\xb5\x2f\xfd"
#: A block of a zstd frame takes at least 3 bytes and gives at most 128 KiB.
_LARGEST_RATIO = (128 << 10) // 3
#: HDF5 counts the bytes of a chunk in 32 bits.
LARGEST_ROW = (1 << 32) - 1


@dataclass(frozen=True)
class PackedRows:
    """Rows [R, N] to be written compressed, as differences if `storage.delta` says so."""

    rows: NDArray
    storage: WeightStorage

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dtype(self) -> np.dtype:
        """The format of the dataset: of differences, unsigned whole numbers."""
        return np.dtype(f"<u{self.rows.itemsize}") if self.storage.delta else self.rows.dtype

    def write(self, file: h5py.File, name: str) -> list[tuple[int, int]]:
        """Compress into a new dataset; the place, as HDF5 counts it, and the length of every row."""
        chunk = (1, self.rows.shape[1])
        dataset = file.create_dataset(
            name, shape=self.rows.shape, dtype=self.dtype, chunks=chunk, **zstd_filter("compressing weights")
        )
        for position, content in enumerate(self._contents()):
            dataset[position] = content
        return chunk_places(dataset)

    def locate(self, stream: Any, places: list[tuple[int, int]], user_block: int) -> list[list[int]]:
        """[offset in the file, length, CRC-32] of every compressed row, as the header lists them.

        HDF5 before 1.14.4 counts places from the end of the user block, later ones from the start of the file; which it
        was shows where the frames are.
        """
        for shift in (0, user_block):
            found = []
            for offset, length in places:
                stream.seek(offset + shift)
                content = read_whole(stream, length)
                if frame_content_size(content) != self.rows[0].nbytes:
                    break
                found.append([offset + shift, length, zlib.crc32(content)])
            else:
                return found
        raise OSError(0, "the compressed rows are not where HDF5 says they are")

    def _contents(self) -> Iterator[NDArray]:
        former = None
        for row in self.rows:
            yield to_differences(row, former) if self.storage.delta else row
            former = row


def chunk_places(dataset: h5py.Dataset) -> list[tuple[int, int]]:
    """(offset, length) of the chunk of every row of a packed dataset, in the order of the rows.

    KeyError if a row has none, or it was written past the filters.
    """
    infos = [dataset.id.get_chunk_info(index) for index in range(dataset.id.get_num_chunks())]
    by_row = {info.chunk_offset[0]: (int(info.byte_offset), int(info.size)) for info in infos if not info.filter_mask}
    return [by_row[row] for row in range(dataset.shape[0])]


def is_packed(dataset: StoredDataset) -> bool:
    """Whether a dataset is [R, N] in chunks of one row, with the two filters and no other."""
    chunk = (1, *dataset.shape[1:])
    return len(dataset.shape) == 2 and dataset.chunks == chunk and dataset.filters == (_SHUFFLE, _ZSTD)


def unpacked(frames: Sequence[bytes], dtype: np.dtype, length: int) -> NDArray:
    """Rows [R, length] from their compressed bytes, each of which says that it holds one row.

    HDF5 undoes the filters, in a file of its own that is made here in memory: the file that the bytes are from is not
    shown to it. OSError, ValueError or RuntimeError for bytes that are not what they say.
    """
    with h5py.File(io.BytesIO(), "w", libver=("v110", "v110")) as file:
        shape = (len(frames), length)
        dataset = file.create_dataset("rows", shape=shape, dtype=dtype, chunks=(1, length), **zstd_filter("reading"))
        for row, frame in enumerate(frames):
            dataset.id.write_direct_chunk((row, 0), frame)
        return np.asarray(dataset[()])


def believable(row_bytes: int, length: int) -> bool:
    """Whether `length` compressed bytes can hold a row of `row_bytes`."""
    return row_bytes <= _LARGEST_RATIO * length


def frame_content_size(frame: bytes) -> int:
    """What a zstd frame says it holds, -1 if it does not say or is none (RFC 8878, section 3.1.1)."""
    if len(frame) < 6 or not frame.startswith(_MAGIC):
        return -1
    descriptor = frame[4]
    flag, single, dictionary = descriptor >> 6, descriptor >> 5 & 1, descriptor & 3
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[dictionary]
    size = (single, 2, 4, 8)[flag]
    if size == 0 or len(frame) < start + size:
        return -1
    return int.from_bytes(frame[start : start + size], "little") + (256 if size == 2 else 0)


def read_whole(stream: Any, length: int) -> bytes:
    """Exactly `length` bytes from where the unbuffered `stream` stands, fewer at its end."""
    pieces = []
    while length > 0:
        piece = stream.read(length)
        if not piece:
            break
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)
