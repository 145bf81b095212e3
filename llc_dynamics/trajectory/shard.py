"""Shards: sealed files that hold successive checkpoints as rows.

Datasets of a shard of R rows::

    step             int64   [R]       optimiser updates, strictly increasing
    state/<format>   raw     [R, N]    all tensors of that number format, end to end, as the manifest lists them
    outputs          float32 [R, ...]  the function vector (NaN where a row has none); absent if no row has one
    samples/<name>   float32 [R, S]    a metric's value for each evaluation sequence; as above
    metrics/<name>   float64 [R]       as above
    checksum/<path>  uint64  [R]       `row_checksum` of every dataset named state/..., outputs, samples/...
    checksum/metrics uint64  [R]       the same over the row's metrics, joined in the order of their encoded names
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError
from llc_dynamics.trajectory.checksum import row_checksum
from llc_dynamics.trajectory.dtypes import storage_dtype
from llc_dynamics.trajectory.manifest import Manifest
from llc_dynamics.trajectory.names import SHARDS, from_link, shard_name, to_link
from llc_dynamics.trajectory.sealed import BulkDataset, check_structure, open_datasets, read_header, write_sealed
from llc_dynamics.trajectory.state import StateLayout, empty_rows

if TYPE_CHECKING:
    import torch


class RowBuffer:
    """The rows that are recorded and not yet sealed, copied out of the model when they were recorded."""

    def __init__(self, layout: StateLayout, capacity: int) -> None:
        self._layout = layout
        self._capacity = capacity
        self._state: dict[str, NDArray] | None = None
        self._extra: dict[str, NDArray[np.float32]] = {}
        self._metrics: list[dict[str, float]] = []
        self.steps: list[int] = []

    def __len__(self) -> int:
        return len(self.steps)

    def append(
        self, step: int, model: torch.nn.Module, metrics: Mapping[str, float], extra: Mapping[str, NDArray[np.float32]]
    ) -> None:
        """Copy one row in; `extra` holds "outputs" and "samples/..." by dataset path."""
        row = len(self.steps)
        if self._state is None:
            self._state = empty_rows(self._layout, self._capacity)
        self._layout.copy_into(model, {dtype: vectors[row] for dtype, vectors in self._state.items()})
        for name, values in extra.items():
            if name not in self._extra:
                self._extra[name] = np.empty((self._capacity, *values.shape), np.float32)
                self._extra[name][:row] = np.nan
            self._extra[name][row] = values
        for name in self._extra.keys() - extra.keys():
            self._extra[name][row] = np.nan
        self._metrics.append(dict(metrics))
        self.steps.append(step)

    def row(self, index: int) -> dict[str, NDArray]:
        """One row's vectors by number format."""
        assert self._state is not None
        return {dtype: vectors[index] for dtype, vectors in self._state.items()}

    def clear(self) -> None:
        """Forget the rows; the room for weights is kept for the next ones."""
        self.steps, self._metrics, self._extra = [], [], {}

    def write(self, run: Path, index: int, run_id: str) -> None:
        """Seal the rows as shard number `index`."""
        count = len(self.steps)
        assert count
        assert self._state is not None
        bulk = {f"state/{dtype}": vectors[:count] for dtype, vectors in self._state.items()}
        bulk |= {name: values[:count] for name, values in sorted(self._extra.items())}
        names = sorted({to_link(name, "metric") for row in self._metrics for name in row})
        table = np.full((count, len(names)), np.nan)
        column = {name: position for position, name in enumerate(names)}
        for position, row in enumerate(self._metrics):
            for name, value in row.items():
                table[position, column[to_link(name, "metric")]] = value
        tables: dict[str, NDArray] = {"step": np.array(self.steps, np.int64)}
        tables |= {f"metrics/{name}": table[:, position].copy() for name, position in column.items()}
        sums = [row_checksum(step, "metrics", values) for step, values in zip(self.steps, table, strict=True)]
        tables["checksum/metrics"] = np.array(sums, np.uint64)
        details = {"index": index, "steps": self.steps}
        write_sealed(run / SHARDS / shard_name(index), "shard", run_id, details, tables, bulk, self.steps)


class Shard:
    """A sealed shard, opened for reading.

    The header is checked at once, the HDF5 structures and small tables when something is first read, and every row's
    checksum whenever the row is read. `CorruptRunError` names the file and, where it can, the step.
    """

    def __init__(self, run: Path, index: int, manifest: Manifest) -> None:
        self.path = run / SHARDS / shard_name(index)
        self._manifest = manifest
        self._header = read_header(self.path, "shard", manifest.run_id)
        steps = self._header.details.get("steps")
        if self._header.details.get("index") != index:
            raise CorruptRunError(f"{self.path}: this is shard {self._header.details.get('index')}; it was renamed")
        if (
            not isinstance(steps, list)
            or not steps
            or not all(type(step) is int and 0 <= step < 1 << 62 for step in steps)
        ):
            raise CorruptRunError(f"{self.path}: the header lists no valid steps; restore the file from a copy")
        self.steps: NDArray[np.int64] = np.array(steps, np.int64)
        self._tables: dict[str, NDArray] | None = None
        #: Dataset path -> shape of a row, for outputs and samples; filled with `tables`.
        self._extra_shapes: dict[str, tuple[int, ...]] = {}
        #: Where in the file the large datasets lie; filled with `tables`.
        self._bulk: dict[str, BulkDataset] = {}

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def num_bytes(self) -> int:
        return self._header.size

    def metrics(self) -> dict[str, NDArray[np.float64]]:
        """All metrics by name, each [R]."""
        tables = self._load()
        prefix = "metrics/"
        return {from_link(name[len(prefix) :]): table for name, table in tables.items() if name.startswith(prefix)}

    def extra_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of a row of "outputs" and of every "samples/<encoded name>" that the shard holds."""
        self._load()
        return self._extra_shapes

    def read(self, name: str, start: int, stop: int) -> NDArray:
        """Rows `start:stop` of the dataset at path `name`, each compared with its checksum."""
        sums = self._load()[f"checksum/{name}"]
        rows = self._bulk[name].read(start, stop)
        for position in range(start, stop):
            if row_checksum(int(self.steps[position]), name, rows[position - start]) != int(sums[position]):
                raise CorruptRunError(
                    f"{self.path}: step {self.steps[position]}: the stored {name.split('/')[0]} do not match their "
                    "checksum; the file is damaged. Restore it from a copy; `llc-dynamics verify` lists "
                    "everything that is"
                )
        return rows

    def read_state(self, row: int) -> dict[str, NDArray]:
        """One row's vectors by number format."""
        return {dtype: self.read(f"state/{dtype}", row, row + 1)[0] for dtype in self._manifest.state.sizes()}

    def _load(self) -> dict[str, NDArray]:
        if self._tables is None:
            check_structure(self.path, self._header)
            with open_datasets(self.path) as datasets:
                self._check_claims(datasets)
                small = {name for name in datasets if name.split("/")[0] in ("step", "metrics", "checksum")}
                tables = {name: datasets[name][()] for name in sorted(small)}
                for name in datasets.keys() - small:
                    self._bulk[name] = BulkDataset.of(self.path, self._header, datasets[name])
                    if not name.startswith("state/"):
                        self._extra_shapes[name] = tuple(datasets[name].shape[1:])
            if not np.array_equal(tables["step"], self.steps):
                raise self._refused("'step' does not agree with the header")
            names = [name for name in tables if name.startswith("metrics/")]
            joined = np.stack([tables[name] for name in names], axis=1) if names else np.empty((len(self), 0))
            for row, step in enumerate(self.steps):
                if row_checksum(int(step), "metrics", joined[row]) != int(tables["checksum/metrics"][row]):
                    raise self._refused(f"step {step}: the metrics do not match their checksum")
            self._tables = tables
        return self._tables

    def _check_claims(self, datasets: Mapping[str, h5py.Dataset]) -> None:
        """Hold names, formats and shapes against the manifest before anything is allocated."""
        count = len(self)
        wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
            "step": ("<i8", (count,)),
            "checksum/metrics": ("<u8", (count,)),
        }
        for dtype, size in self._manifest.state.sizes().items():
            wanted[f"state/{dtype}"] = (storage_dtype(dtype), (count, size))
        for name, dataset in datasets.items():
            if name.startswith("metrics/"):
                wanted[name] = ("<f8", (count,))
            elif name == "outputs" or name.startswith("samples/"):
                wanted[name] = ("<f4", (count, *dataset.shape[1:]))
        for name in [*wanted]:
            if name == "outputs" or name.startswith(("state/", "samples/")):
                wanted[f"checksum/{name}"] = ("<u8", (count,))
        for name in [*wanted, *datasets]:
            if name not in datasets:
                raise self._refused(f"the dataset '{name}' is missing")
            if name not in wanted:
                raise self._refused(f"'{name}' is no dataset of a shard")
            dtype, shape = wanted[name]
            if datasets[name].dtype != np.dtype(dtype) or datasets[name].shape != shape:
                raise self._refused(
                    f"'{name}' is {datasets[name].dtype} {list(datasets[name].shape)} where the manifest needs "
                    f"{np.dtype(dtype)} {list(shape)}"
                )

    def _refused(self, problem: str) -> CorruptRunError:
        return CorruptRunError(
            f"{self.path}: {problem}. Restore the file from a copy; `llc-dynamics verify` lists all damage"
        )
