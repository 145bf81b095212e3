"""Rows that are recorded and not yet sealed: what a user hands to `TrajectoryWriter.record`, as it is stored."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import DataError
from llc_dynamics.ranges import array_of
from llc_dynamics.trajectory.manifest import Manifest
from llc_dynamics.trajectory.names import SHARDS, shard_name, to_link
from llc_dynamics.trajectory.sealed import MOST_AXES
from llc_dynamics.trajectory.sealing import Rows, write_sealed
from llc_dynamics.trajectory.shards import WholeRow
from llc_dynamics.trajectory.state import Model

#: Metrics and samples of the rows of a shard, which its header lists by name: 16 MiB hold so many in any case.
_MOST_NAMES = 5_000


class RowBuffer:
    """The rows of the next shard, copied out of the model when they were recorded.

    There is room for `capacity` rows with weights, which is made when the first of them comes.
    """

    def __init__(self, manifest: Manifest, capacity: int) -> None:
        self._manifest = manifest
        self._capacity = capacity
        self._state: dict[str, NDArray] | None = None
        self._extra: dict[str, list[NDArray[np.float32] | None]] = {}
        self._metrics: list[Mapping[str, float]] = []
        self._metric_names: set[str] = set()
        self.steps: list[int] = []
        #: The steps of those rows that have weights.
        self.state_steps: list[int] = []

    def __len__(self) -> int:
        return len(self.steps)

    def append(self, row: WholeRow, model: Model | None = None) -> None:
        """Copy one row in, with the weights of `model` in place of the row's own if it is given."""
        if model is not None or row.vectors is not None:
            if self._state is None:
                self._state = empty_rows(self._manifest, self._capacity)
            place = {name: rows[len(self.state_steps)] for name, rows in self._state.items()}
            if model is not None:
                self._manifest.state.copy_into(model, place, self._manifest.storage)
            for name, vector in (row.vectors or {}).items():
                place[name][:] = vector
            self.state_steps.append(row.step)
        for name in {*self._extra, *row.functions}:
            column = self._extra.setdefault(name, [None] * len(self.steps))
            column.append(row.functions[name].copy() if name in row.functions else None)
        self._metrics.append(dict(row.metrics))
        self._metric_names |= row.metrics.keys()
        self.steps.append(row.step)

    def clear(self) -> None:
        """Forget the rows; the room for weights is kept for the next ones."""
        self.steps, self.state_steps, self._metrics, self._extra = [], [], [], {}
        self._metric_names = set()

    def write(self, run: Path, index: int) -> None:
        """Seal the rows as shard number `index`."""
        assert self.steps
        steps, state_steps = np.array(self.steps, np.int64), np.array(self.state_steps, np.int64)
        tables: dict[str, NDArray] = {"step": steps, "state_step": state_steps}
        for name in sorted(self._metric_names):
            tables[f"metrics/{to_link(name, 'metric')}"] = np.array([row.get(name, np.nan) for row in self._metrics])
        state = self._state or empty_rows(self._manifest, 0)
        rows = {f"state/{name}": Rows.of(each[: len(state_steps)], self.state_steps) for name, each in state.items()}
        rows |= {name: Rows.of(_filled(column), self.steps) for name, column in sorted(self._extra.items())}
        details = {"index": index, "steps": self.steps, "state_steps": self.state_steps}
        write_sealed(run / SHARDS / shard_name(index), "shard", self._manifest.run_id, details, tables, rows)

    def has_room(self, row: WholeRow) -> bool:
        """Whether the header of the shard still has room for the names of this row, beside those that are here."""
        return len(self._metric_names | row.metrics.keys()) + len(self._extra.keys() | row.functions) <= _MOST_NAMES


def _filled(column: list[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    """One array [R, ...] from rows of one shape, NaN where there is none."""
    shape = next(values.shape for values in column if values is not None)
    filled = np.empty((len(column), *shape), np.float32)
    for row, values in enumerate(column):
        filled[row] = np.nan if values is None else values
    return filled


def empty_rows(manifest: Manifest, count: int) -> dict[str, NDArray]:
    """Uninitialised room for `count` rows, as they are kept: [count, elements] for each number format."""
    return {
        name: np.empty((count, size), manifest.storage.dtype_of(name)) for name, size in manifest.state.sizes().items()
    }


def require_few_names(row: WholeRow) -> None:
    """`DataError` if a row has more names than a shard has room for."""
    if (count := len(row.metrics) + len(row.functions)) > _MOST_NAMES:
        raise DataError(
            f"step {row.step}: {count:,} names of metrics and samples, and at most {_MOST_NAMES:,} are stored; record "
            "large tables as outputs"
        )


def step_number(step: Any) -> int:
    """A whole number of optimiser updates, 0 or more; `DataError` otherwise."""
    try:
        number = operator.index(step)
    except TypeError:
        raise DataError(f"step {step!r}: expected a whole number of optimiser updates") from None
    if isinstance(step, bool) or not 0 <= number < 1 << 62:
        raise DataError(f"step {step!r}: expected a whole number of optimiser updates, 0 or more")
    return number


def metric_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """One number for each name, from Python, NumPy or torch; `DataError` for anything else."""
    values = {}
    for name, value in metrics.items():
        to_link(name, "metric")
        try:
            values[name] = float(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            shape = list(getattr(value, "shape", []))
            raise DataError(
                f"metric '{name}': expected one number, got "
                f"{type(value).__name__}{f' of shape {shape}' if shape else ''}"
            ) from None
    return values


def function_values(outputs: Any, samples: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """ "outputs" and "samples/..." by path as float32; `DataError` for samples that are not [S], and as below."""
    found = {} if outputs is None else {"outputs": float32_array("outputs", outputs)}
    for name, values in samples.items():
        found[f"samples/{to_link(name, 'sample')}"] = array = float32_array(f"samples '{name}'", values)
        if array.ndim != 1:
            raise DataError(
                f"samples '{name}': expected one value per evaluation sequence, [S], got {list(array.shape)}"
            )
    return found


def float32_array(name: str, values: Any) -> NDArray[np.float32]:
    """An array of real numbers, from NumPy or torch on any device; `DataError` for anything else."""
    try:
        array = array_of(values)
    except (TypeError, ValueError):
        raise DataError(f"{name}: expected an array of real numbers, got {type(values).__name__}") from None
    if array.dtype.kind not in "iufb" or array.ndim >= MOST_AXES:
        raise DataError(
            f"{name}: expected an array of real numbers with fewer than {MOST_AXES} axes, got {array.dtype} "
            f"{list(array.shape)}"
        )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)
