"""One tensor of the state over all checkpoints, read lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import DataError
from llc_dynamics.trajectory.dtypes import restore
from llc_dynamics.trajectory.shards import ShardList
from llc_dynamics.trajectory.state import StateEntry

if TYPE_CHECKING:
    import torch


class TensorRows:
    """A tensor of the state at several checkpoints, [W, ...], that is read when it is indexed.

    `rows[i]`, `rows[a:b:c]`, `rows[index_array]`, `rows[bool_mask]` and `rows[first, rest...]` give CPU tensors. Every
    checkpoint is read whole and compared with its checksum (`CorruptRunError`), one at a time: memory is needed for one
    checkpoint and the result.

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

        first, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
        if first is Ellipsis or first is None or isinstance(first, tuple):
            raise DataError(f"{self._entry.name}: index the checkpoints (the first axis) first")
        chosen = self.steps[first]
        if chosen.ndim == 0:
            return self._read(int(chosen))[rest]
        if chosen.ndim != 1:
            raise DataError(f"{self._entry.name}: index the checkpoints with an array of one dimension")
        sample = torch.empty(self._entry.shape, dtype=self.dtype, device="meta")[rest]
        result = torch.empty((len(chosen), *sample.shape), dtype=self.dtype)
        for row, step in enumerate(chosen):
            result[row] = self._read(int(step))[rest]
        return result

    def _read(self, step: int) -> torch.Tensor:
        found = self._shards.locate(step)
        assert found is not None
        shard, row = found
        place = shard.state_index(row)
        assert place is not None
        entry = self._entry
        vector = shard.read_vector(entry.dtype, place)
        return restore(vector[entry.offset : entry.offset + entry.size], entry.dtype, entry.shape)
