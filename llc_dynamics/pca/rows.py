"""Function vectors of several runs seen as the rows of one tall matrix, read a block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import DataError
from llc_dynamics.ranges import array_of

#: Bytes that are read at a time, before they become a part of a float64 block.
_PIECE = 4 << 20


def is_trajectory(item: Any) -> bool:
    """True for anything that stores function vectors like `llc_dynamics.Trajectory` (it has a method `outputs`)."""
    return callable(getattr(item, "outputs", None))


def vectors_of(item: Any, label: str) -> NDArray[Any]:
    """An array of what was given; a `DataError` says that it is none."""
    try:
        return array_of(item)
    except (TypeError, ValueError):
        raise DataError(
            f"{label} ({type(item).__name__}) is no array of numbers; give function vectors, [checkpoint, ...]"
        ) from None


class RunRows:
    """The function vectors of one run: `num_rows` checkpoints, each flattened to `num_features` numbers.

    Parameters
    ----------
    item : a `Trajectory`, or an array (or lazily read array with `shape` and slicing) [checkpoint, ...].
    label : how error messages call the run.

    Raises `DataError` if there are no outputs, or not at least one axis besides the checkpoints'.
    """

    def __init__(self, item: Any, label: str) -> None:
        self.steps: NDArray[np.int64] | None = None
        if is_trajectory(item):
            label = f"{label} ('{getattr(item, 'path', '?')}')"
            self.steps = np.asarray(item.steps)
            item = item.outputs()
            if item is None:
                raise DataError(
                    f"{label} stores no function vectors; record them with writer.record(step, outputs=...), "
                    "the model's outputs on one fixed batch"
                )
        if not hasattr(item, "shape") or getattr(item, "is_sparse", False):  # of these no slices can be taken
            item = vectors_of(item, label)
        shape = tuple(int(n) for n in item.shape)
        if len(shape) < 2:
            raise DataError(f"{label} has shape {shape}; wanted one function vector per checkpoint, [checkpoint, ...]")
        if 0 in shape:
            raise DataError(f"{label} holds no function vectors (shape {shape}); record some with outputs=...")
        self.label = label
        self.item = item
        self.num_rows = shape[0]
        self.feature_shape = shape[1:]
        self.num_features = int(np.prod(shape[1:]))

    def read(self, start: int, stop: int, room: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Rows `start` to `stop` as float64 [row, feature]; a `DataError` names the step of a NaN or infinity.

        They are put into `room`, if it is given, which saves asking the system for fresh memory again and again.
        """
        stop = min(stop, self.num_rows)
        room = np.empty((stop - start, self.num_features)) if room is None else room
        block = room[: stop - start]
        at_once = max(1, _PIECE // (8 * self.num_features))
        for first in range(start, stop, at_once):
            last = min(first + at_once, stop)
            piece = vectors_of(self.item[first:last], self.label)
            if piece.dtype.kind not in "fiub":
                raise DataError(f"{self.label} holds {piece.dtype} values; function vectors must be real numbers")
            block[first - start : last - start] = piece.reshape(last - first, self.num_features)
        # A single NaN or infinity spoils the sum, which is quicker to take than to look at every number.
        with np.errstate(over="ignore", invalid="ignore"):
            sound = np.isfinite(block.sum())
        bad = np.zeros(len(block), bool) if sound else ~np.isfinite(block).all(axis=1)
        if bad.any():
            row = start + int(np.argmax(bad))
            where = f"step {self.steps[row]}" if self.steps is not None else f"checkpoint {row}"
            raise DataError(
                f"{self.label} has a NaN or infinite output at {where} ({int(bad.sum())} such rows in this block); "
                f"the run diverged there: fit on the part before it, run.outputs()[:{row}]"
            )
        return block


def gather_runs(items: Any) -> list[RunRows]:
    """The runs to fit, as `RunRows` of one and the same width.

    `items` is a list of trajectories or arrays [checkpoint, ...]; a single trajectory or array counts as a list of one.
    Raises `DataError` for an empty list or runs whose outputs differ in size.
    """
    if is_trajectory(items) or hasattr(items, "shape"):
        items = [items]
    if isinstance(items, (str, bytes, dict)) or not hasattr(items, "__iter__"):
        raise DataError(
            f"fit was given {type(items).__name__}; give a list of trajectories, [ld.Trajectory(path), ...], "
            "or of arrays [checkpoint, ...]"
        )
    items = list(items)
    if not items:
        raise DataError("fit was given no runs; give a list with at least one trajectory")
    runs = []
    for number, item in enumerate(items):
        if isinstance(item, (str, bytes)):
            raise DataError(f"run {number} is the text {item!r}; open it first: ld.Trajectory({item!r})")
        runs.append(RunRows(item, f"run {number}"))
    first = runs[0]
    for run in runs[1:]:
        if run.num_features != first.num_features:
            raise DataError(
                f"{run.label} has function vectors of shape {run.feature_shape} ({run.num_features} numbers), but "
                f"{first.label} of shape {first.feature_shape} ({first.num_features}); a joint PCA needs outputs "
                "on the same fixed batch in every run"
            )
    return runs


class StackedRows:
    """All rows of several runs below one another, in blocks of bounded size.

    Parameters
    ----------
    runs : the runs, in order.
    block_bytes : largest size of a float64 block [row, feature]; at least one row is read at a time.
    """

    def __init__(self, runs: Sequence[RunRows], block_bytes: int) -> None:
        self.runs = list(runs)
        self.num_features = self.runs[0].num_features
        self.num_rows = sum(run.num_rows for run in self.runs)
        self.block_rows = max(1, block_bytes // (8 * self.num_features))
        self.mean: NDArray[np.float64] = self._mean()

    def _mean(self) -> NDArray[np.float64]:
        total = np.zeros(self.num_features)
        for _, block in self._raw():
            total += block.sum(axis=0)
        return total / self.num_rows

    def _raw(self, first: int = 0) -> Iterator[tuple[int, NDArray[np.float64]]]:
        offset, room = 0, np.empty((min(self.block_rows, self.num_rows), self.num_features))
        for run in self.runs:
            for start in range(0, run.num_rows, self.block_rows):
                stop = min(start + self.block_rows, run.num_rows)
                if offset + start >= first:
                    yield offset + start, run.read(start, stop, room)
            offset += run.num_rows

    def blocks(self, first: int = 0) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """`(index of the first row, centred rows)`, for the blocks that begin at or after row `first`.

        A block lies where the one before it lay: it is good until the next one is asked for.
        """
        for start, block in self._raw(first):
            block -= self.mean
            yield start, block
