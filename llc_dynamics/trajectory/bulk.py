"""The large datasets of a sealed file whose structure was checked, read past HDF5."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, TrajectoryError
from llc_dynamics.trajectory.packed import LARGEST_ROW, believable, frame_content_size, read_whole, unpacked
from llc_dynamics.trajectory.sealed import DAMAGED, Header
from llc_dynamics.trajectory.structure import StoredDataset


@dataclass(frozen=True)
class BulkDataset:
    """A large dataset of a sealed file whose structure was checked.

    HDF5 has laid it out as one contiguous range, which the header lists, so rows are read from there with plain system
    calls.
    """

    path: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, header: Header, dataset: StoredDataset) -> BulkDataset:
        """The place of an open dataset; `CorruptRunError` if the header does not list it."""
        if dataset.nbytes and (dataset.offset, dataset.nbytes) not in header.bulk:
            raise CorruptRunError(f"{path}: '{dataset.name}' lies where the header lists no data: {DAMAGED}")
        return cls(path, dataset.offset, dataset.dtype, dataset.shape)

    def read(self, start: int, stop: int, out: NDArray | None = None) -> NDArray:
        """Rows `start:stop`, not yet compared with their checksums; `CorruptRunError` if the file ends before them.

        `out` is C-contiguous room for them, of this format and shape; without it new room is made.
        """
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype) if out is None else out
        if rows.nbytes == 0:
            return rows
        place = rows.reshape(-1).view(np.uint8).data
        try:
            with self.path.open("rb", buffering=0) as stream:
                stream.seek(self.offset + start * (rows.nbytes // len(rows)))
                while len(place):
                    count = stream.readinto(place)
                    if not count:
                        raise CorruptRunError(f"{self.path}: the file ends before its data does: {DAMAGED}")
                    place = place[count:]
        except FileNotFoundError:
            raise _gone(self.path) from None
        except OSError as error:
            raise TrajectoryError(f"{self.path}: cannot read ({error.strerror})") from error
        return rows


@dataclass(frozen=True)
class PackedDataset:
    """A compressed dataset of a sealed file whose structure was checked; `places` as `PackedRows.locate` gives them."""

    path: Path
    name: str
    places: list[tuple[int, int, int]]
    dtype: np.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, header: Header, dataset: StoredDataset) -> PackedDataset:
        """The rows of an open dataset; `CorruptRunError` if the header does not list as many, inside the file."""
        shape, dtype, name = dataset.shape, dataset.dtype, dataset.name
        row_bytes = shape[1] * dtype.itemsize
        try:
            places = [(int(offset), int(length), int(crc)) for offset, length, crc in header.details["packed"][name]]
        except (KeyError, TypeError, ValueError):
            raise CorruptRunError(f"{path}: '{name}' has compressed rows that are not listed: {DAMAGED}") from None
        listed = set(header.bulk)
        fits = (
            len(places) == shape[0]
            and all((offset, length) in listed for offset, length, _ in places)
            and row_bytes <= LARGEST_ROW
            and all(believable(row_bytes, length) for _, length, _ in places)
        )
        if not fits:
            raise CorruptRunError(f"{path}: '{name}' has compressed rows where the header lists none: {DAMAGED}")
        return cls(path, name, places, dtype, shape)

    def read(self, start: int, stop: int) -> NDArray:
        """Rows `start:stop` as they are stored, not yet compared with their checksums.

        `CorruptRunError` if the compressed bytes are not what was written.
        """
        row_bytes = self.shape[1] * self.dtype.itemsize
        frames = []
        try:
            with self.path.open("rb", buffering=0) as stream:
                for offset, length, crc in self.places[start:stop]:
                    stream.seek(offset)
                    frames.append(read_whole(stream, length))
                    if zlib.crc32(frames[-1]) != crc or frame_content_size(frames[-1]) != row_bytes:
                        raise CorruptRunError(
                            f"{self.path}: the compressed {self.name} do not match their checksum: {DAMAGED}"
                        )
        except FileNotFoundError:
            raise _gone(self.path) from None
        except OSError as error:
            raise TrajectoryError(f"{self.path}: cannot read ({error.strerror})") from error
        try:
            return unpacked(frames, self.dtype, self.shape[1])
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise CorruptRunError(f"{self.path}: cannot decompress {self.name} ({reason}): {DAMAGED}") from error


def _gone(path: Path) -> CorruptRunError:
    return CorruptRunError(f"{path}: the file is gone. Restore it from a copy of the run")
