"""Rows that are recorded and not yet sealed: what a user hands to `TrajectoryWriter.record`, as it is stored."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import DataError
from llc_dynamics.trajectory.formats import WeightStorage, widened
from llc_dynamics.trajectory.names import SHARDS, shard_name, to_link
from llc_dynamics.trajectory.sealed import MOST_AXES
from llc_dynamics.trajectory.sealing import Rows, write_sealed
from llc_dynamics.trajectory.state import Model, StateLayout, empty_rows

if TYPE_CHECKING:
    from llc_dynamics.trajectory.shards import Shard

#: Metrics and samples of the rows of a shard, which its header lists by name: 16 MiB hold so many in any case.
_MOST_NAMES = 5_000


class RowBuffer:
    """The rows of the next shard, copied out of the model when they were recorded.

    There is room for `capacity` rows with weights, which is made when the first of them comes.
    """

    def __init__(self, layout: StateLayout, capacity: int, storage: WeightStorage | None = None) -> None:
        self._layout = layout
        self._capacity = capacity
        self._storage = WeightStorage.of(storage)
        self._state: dict[str, NDArray] | None = None
        self._extra: dict[str, list[NDArray[np.float32] | None]] = {}
        self._metrics: list[dict[str, float]] = []
        self._metric_names: set[str] = set()
        self.steps: list[int] = []
        #: The steps of those rows that have weights.
        self.state_steps: list[int] = []

    def __len__(self) -> int:
        return len(self.steps)

    def append(
        self,
        step: int,
        model: Model | None,
        metrics: Mapping[str, float],
        extra: Mapping[str, NDArray[np.float32]],
        vectors: Mapping[str, NDArray] | None = None,
    ) -> None:
        """Copy one row in; `extra` holds "outputs" and "samples/..." by path.

        The weights are those of `model`, or the stored `vectors` by number format; with neither there are none.
        """
        if model is not None or vectors is not None:
            if self._state is None:
                self._state = empty_rows(self._layout, self._capacity, self._storage)
            row = {name: rows[len(self.state_steps)] for name, rows in self._state.items()}
            if model is not None:
                self._layout.copy_into(model, row, self._storage)
            else:
                for name, vector in (vectors or {}).items():
                    row[name][:] = vector
            self.state_steps.append(step)
        for name in {*self._extra, *extra}:
            column = self._extra.setdefault(name, [None] * len(self.steps))
            column.append(extra[name].copy() if name in extra else None)
        self._metrics.append(dict(metrics))
        self._metric_names |= metrics.keys()
        self.steps.append(step)

    def state_row(self, index: int) -> dict[str, NDArray]:
        """The vectors of the row with weights number `index`, by number format, as they will be read back."""
        assert self._state is not None
        return {name: widened(rows[index], self._storage.format_of(name), name) for name, rows in self._state.items()}

    def clear(self) -> None:
        """Forget the rows; the room for weights is kept for the next ones."""
        self.steps, self.state_steps, self._metrics, self._extra = [], [], [], {}
        self._metric_names = set()

    def write(self, run: Path, index: int, run_id: str) -> None:
        """Seal the rows as shard number `index`."""
        assert self.steps
        steps, state_steps = np.array(self.steps, np.int64), np.array(self.state_steps, np.int64)
        tables: dict[str, NDArray] = {"step": steps, "state_step": state_steps}
        for name in sorted(self._metric_names):
            tables[f"metrics/{to_link(name, 'metric')}"] = np.array([row.get(name, np.nan) for row in self._metrics])
        state = self._state or empty_rows(self._layout, 0, self._storage)
        rows = {f"state/{name}": Rows.of(each[: len(state_steps)], self.state_steps) for name, each in state.items()}
        rows |= {name: Rows.of(_filled(column), self.steps) for name, column in sorted(self._extra.items())}
        details = {"index": index, "steps": self.steps, "state_steps": self.state_steps}
        write_sealed(run / SHARDS / shard_name(index), "shard", run_id, details, tables, rows)

    def has_room(self, metrics: Mapping[str, Any], extra: Mapping[str, Any]) -> bool:
        """Whether the header of the shard still has room for these names, beside those of the rows that are here."""
        return len(self._metric_names | metrics.keys()) + len(self._extra.keys() | extra.keys()) <= _MOST_NAMES

    def difference(self, shard: Shard, row: int) -> str | None:
        """What differs between the only row here and a stored one, in words; None if nothing does."""
        if (shard.state_index(row) is None) == bool(self.state_steps):
            return f"weights ({'recorded now, not stored' if self.state_steps else 'stored, not recorded now'})"
        if self.state_steps:
            entry = self._layout.first_difference(shard.read_state(row), self.state_row(0))
            if entry is not None:
                return f"{entry.kind} '{entry.name}'"
        metrics, given = shard.metrics(), self._metrics[0]
        for name in sorted({*metrics, *given}):
            there = float(metrics[name][row]) if name in metrics else math.nan
            here = given.get(name, math.nan)
            if there != here and not (math.isnan(there) and math.isnan(here)):
                return f"metric '{name}' ({there!r} stored, {here!r} now)"
        for name in sorted({*shard.extra_shapes, *self._extra}):
            values = self._extra[name][0] if name in self._extra else None
            shape = shard.extra_shapes.get(name, () if values is None else values.shape)
            blank = np.full(shape, np.nan, np.float32)
            stored = shard.read(name, row, row + 1)[0] if name in shard.extra_shapes else blank
            if not np.array_equal(stored, blank if values is None else values, equal_nan=True):
                return name
        return None


def _filled(column: list[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    """One array [R, ...] from rows of one shape, NaN where there is none."""
    shape = next(values.shape for values in column if values is not None)
    filled = np.empty((len(column), *shape), np.float32)
    for row, values in enumerate(column):
        filled[row] = np.nan if values is None else values
    return filled


def require_few_names(step: int, metrics: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """`DataError` if a row has more names than a shard has room for."""
    if (count := len(metrics) + len(extra)) > _MOST_NAMES:
        raise DataError(
            f"step {step}: {count:,} names of metrics and samples, and at most {_MOST_NAMES:,} are stored; record "
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
            values[name] = float(value)
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
    import torch

    if isinstance(values, torch.Tensor):
        values = values.detach()
        if values.is_complex():
            raise DataError(f"{name}: complex values cannot be stored; give real and imaginary parts")
        values = values.to(device="cpu", dtype=torch.float32).numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "iufb" or array.ndim >= MOST_AXES:
        raise DataError(
            f"{name}: expected an array of real numbers with fewer than {MOST_AXES} axes, got {array.dtype} "
            f"{list(array.shape)}"
        )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)
