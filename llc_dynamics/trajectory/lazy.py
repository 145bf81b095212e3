"""Arrays over the rows of a run that are read when they are indexed: function vectors, samples, single tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import DataError
from llc_dynamics.trajectory.formats import restore
from llc_dynamics.trajectory.shards import ShardList
from llc_dynamics.trajectory.state import StateEntry

if TYPE_CHECKING:
    import torch

#: So many bytes of whole rows are read at a time where only a part of each row is wanted.
_PIECE = 32 << 20


class LazyRows:
    """float32 [C, ...] that is read from the shards when it is indexed, and only as far as it is indexed.

    `rows[i]`, `rows[a:b:c]`, `rows[index_array]`, `rows[bool_mask]` and `rows[first, rest...]` give numpy arrays;
    `np.asarray(rows)` reads everything. Each row that is read is compared with its checksum (`CorruptRunError`). Rows
    that were recorded without a value are NaN.
    """

    def __init__(self, shards: ShardList, name: str, row_shape: tuple[int, ...], rows: NDArray[np.int64]) -> None:
        self._shards = shards
        self._name = name
        self._rows = rows
        self.shape: tuple[int, ...] = (len(rows), *row_shape)
        self.dtype: np.dtype = np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that reading everything takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{self._name}: float32 {list(self.shape)}, read when indexed>"

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        chosen, rest = _chosen(self._name, self._rows, key)
        if chosen.ndim == 0:
            return self._read(chosen.reshape(1))[0][rest]
        if not rest or not len(chosen):
            return self._read(chosen)[(slice(None), *rest)]
        # A slice of each row may be far smaller than the rows, which are then not all held at once.
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        pieces = np.array_split(chosen, min(len(chosen), -(-len(chosen) * row_bytes // _PIECE)))
        return np.concatenate([self._read(piece)[(slice(None), *rest)].copy() for piece in pieces])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        if copy is False:
            raise ValueError(f"{self._name} are read from disk, so an array of them is always a copy")
        read = self._read(self._rows)
        return read if dtype is None else read.astype(dtype, copy=False)

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        result = np.empty((len(rows), *self.shape[1:]), np.float32)
        bounds, shards = self._shards.bounds, self._shards.shards
        owners = np.searchsorted(bounds, rows, side="right") - 1
        # Runs of neighbouring rows of one shard are read with one call each, straight to where they belong.
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(owners) != 0)) + 1
        for start, stop in zip([0, *breaks], [*breaks, len(rows)], strict=True):
            if start == stop:
                continue
            shard, first = shards[owners[start]], int(rows[start] - bounds[owners[start]])
            if self._name in shard.extra_shapes:
                shard.read(self._name, first, first + int(stop - start), out=result[start:stop])
            else:
                result[start:stop] = np.nan
        return result


class TensorRows:
    """A tensor of the state at several checkpoints, [W, ...], that is read when it is indexed, as `LazyRows` is.

    Indexing gives CPU tensors. Every checkpoint is read whole and compared with its checksum (`CorruptRunError`), one
    at a time: memory is needed for one checkpoint and the result.

    Attributes
    ----------
    steps : int64 [W], the checkpoints.
    shape, dtype : of the whole, in torch's terms.
    """

    def __init__(self, shards: ShardList, entry: StateEntry, steps: NDArray[np.int64]) -> None:
        import torch

        self._shards = shards
        self._entry = entry
        self.steps = steps
        self.shape: tuple[int, ...] = (len(steps), *entry.shape)
        self.dtype: torch.dtype = getattr(torch, entry.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{self._entry.name}: {self._entry.dtype} {list(self.shape)}, read when indexed>"

    def __getitem__(self, key: Any) -> torch.Tensor:
        import torch

        chosen, rest = _chosen(self._entry.name, self.steps, key)
        if chosen.ndim == 0:
            return self._read(int(chosen))[rest]
        sample = torch.empty(self._entry.shape, dtype=self.dtype, device="meta")[rest]
        result = torch.empty((len(chosen), *sample.shape), dtype=self.dtype)
        for row, step in enumerate(chosen):
            result[row] = self._read(int(step))[rest]
        return result

    def _read(self, step: int) -> torch.Tensor:
        found = self._shards.locate(step)
        assert found is not None
        shard, row = found
        entry = self._entry
        vector = shard.read_vector(entry.dtype, row)
        return restore(vector[entry.offset : entry.offset + entry.size], entry.dtype, entry.shape)


def _chosen(name: str, checkpoints: NDArray[np.int64], key: Any) -> tuple[NDArray[np.int64], tuple[Any, ...]]:
    """Those checkpoints that an index chooses, none or one axis of them, and the rest of the index."""
    first, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
    if first is Ellipsis or first is None or isinstance(first, tuple):
        raise DataError(f"{name}: index the checkpoints (the first axis) with a number, slice or array first")
    chosen = np.asarray(checkpoints[first])
    if chosen.ndim > 1:
        raise DataError(f"{name}: index the checkpoints with an array of one dimension, got {chosen.ndim}")
    return chosen, rest
