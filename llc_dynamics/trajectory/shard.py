"""Shards: sealed files that hold successive checkpoints as rows.

Datasets of a shard of R rows, W of them with weights::

    step             int64   [R]       optimiser updates, strictly increasing
    state_step       int64   [W]       the steps of which weights are stored (in version 1 there is none: all)
    state/<format>   raw     [W, N]    all tensors of that number format, end to end, as the manifest lists them
    outputs          float32 [R, ...]  the function vector (NaN where a row has none); absent if no row has one
    samples/<name>   float32 [R, S]    a metric's value for each evaluation sequence; as above
    metrics/<name>   float64 [R]       as above
    checksum/<path>  uint64  [R or W]  `row_checksum` of every dataset named state/..., outputs, samples/...
    checksum/metrics uint64  [R]       the same over the row's metrics, joined in the order of their encoded names

`state/...` is in the formats of the manifest's `storage` (`storage.py`), and compressed (`packed.py`) if that says so;
its checksums are those of the rows before compression.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError
from llc_dynamics.trajectory.bulk import BulkDataset, PackedDataset
from llc_dynamics.trajectory.checksum import row_checksum, row_checksums
from llc_dynamics.trajectory.dtypes import storage_dtype
from llc_dynamics.trajectory.manifest import Manifest
from llc_dynamics.trajectory.names import SHARDS, from_link, shard_name, to_link
from llc_dynamics.trajectory.packed import PackedRows
from llc_dynamics.trajectory.sealed import check_structure, open_datasets, read_header, write_sealed
from llc_dynamics.trajectory.state import StateLayout, empty_rows
from llc_dynamics.trajectory.storage import WeightStorage, from_differences, widened
from llc_dynamics.trajectory.structure import StoredDataset

if TYPE_CHECKING:
    import torch

#: So many bytes of differences are held while they are undone.
_DIFFERENCES = 16 << 20


class RowBuffer:
    """The rows that are recorded and not yet sealed, copied out of the model when they were recorded.

    There is room for `capacity` rows with weights, which is made when the first of them comes.
    """

    def __init__(self, layout: StateLayout, capacity: int, storage: WeightStorage | None = None) -> None:
        self._layout = layout
        self._capacity = capacity
        self._storage = WeightStorage.of(storage)
        self._state: dict[str, NDArray] | None = None
        self._extra: dict[str, list[NDArray[np.float32] | None]] = {}
        self._metrics: list[dict[str, float]] = []
        self.steps: list[int] = []
        #: The steps of those rows that have weights.
        self.state_steps: list[int] = []

    def __len__(self) -> int:
        return len(self.steps)

    def append(
        self,
        step: int,
        model: torch.nn.Module | None,
        metrics: Mapping[str, float],
        extra: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Copy one row in, without weights if `model` is None; `extra` holds "outputs" and "samples/..." by path."""
        if model is not None:
            if self._state is None:
                self._state = empty_rows(self._layout, self._capacity, self._storage)
            place = len(self.state_steps)
            self._layout.copy_into(model, {name: rows[place] for name, rows in self._state.items()}, self._storage)
            self.state_steps.append(step)
        for name in {*self._extra, *extra}:
            column = self._extra.setdefault(name, [None] * len(self.steps))
            column.append(extra[name].copy() if name in extra else None)
        self._metrics.append(dict(metrics))
        self.steps.append(step)

    def state_row(self, index: int) -> dict[str, NDArray]:
        """The vectors of the row with weights number `index`, by number format, as they will be read back."""
        assert self._state is not None
        return {name: widened(rows[index], self._storage.format_of(name), name) for name, rows in self._state.items()}

    def clear(self) -> None:
        """Forget the rows; the room for weights is kept for the next ones."""
        self.steps, self.state_steps, self._metrics, self._extra = [], [], [], {}

    def write(self, run: Path, index: int, run_id: str) -> None:
        """Seal the rows as shard number `index`."""
        count, kept = len(self.steps), len(self.state_steps)
        assert count
        state = self._state or empty_rows(self._layout, 0, self._storage)
        rows = {f"state/{name}": vectors[:kept] for name, vectors in state.items()}
        packed = {
            name: PackedRows(vectors, self._storage)
            for name, vectors in rows.items()
            if self._storage.packed and vectors.size
        }
        bulk = {name: self._differences(vectors) for name, vectors in rows.items() if name not in packed}
        bulk |= {name: _filled(column) for name, column in sorted(self._extra.items())}
        names = sorted({to_link(name, "metric") for row in self._metrics for name in row})
        table = np.full((count, len(names)), np.nan)
        column = {name: position for position, name in enumerate(names)}
        for position, row in enumerate(self._metrics):
            for name, value in row.items():
                table[position, column[to_link(name, "metric")]] = value
        tables: dict[str, NDArray] = {
            "step": np.array(self.steps, np.int64),
            "state_step": np.array(self.state_steps, np.int64),
        }
        tables |= {f"metrics/{name}": table[:, position].copy() for name, position in column.items()}
        sums = [row_checksum(step, "metrics", values) for step, values in zip(self.steps, table, strict=True)]
        tables["checksum/metrics"] = np.array(sums, np.uint64)
        details = {"index": index, "steps": self.steps, "state_steps": self.state_steps}
        row_steps = {name: self.state_steps if name in rows else self.steps for name in (*bulk, *packed)}
        write_sealed(run / SHARDS / shard_name(index), "shard", run_id, details, tables, bulk, row_steps, packed)

    def _differences(self, empty: NDArray) -> NDArray:
        """What is not packed under a `delta` has no numbers, but the format of differences all the same."""
        return empty.view(f"<u{empty.itemsize}") if self._storage.delta else empty


def _filled(column: list[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    """One array [R, ...] from rows of one shape, NaN where there is none."""
    shape = next(values.shape for values in column if values is not None)
    filled = np.empty((len(column), *shape), np.float32)
    for row, values in enumerate(column):
        filled[row] = np.nan if values is None else values
    return filled


class Shard:
    """A sealed shard, opened for reading.

    The header is checked at once, the HDF5 structures and small tables when something is first read, and every row's
    checksum whenever the row is read. `CorruptRunError` names the file and, where it can, the step.
    """

    def __init__(self, run: Path, index: int, manifest: Manifest) -> None:
        self.path = run / SHARDS / shard_name(index)
        self._manifest = manifest
        self._header = read_header(self.path, "shard", manifest.run_id)
        details = self._header.details
        if details.get("index") != index:
            raise CorruptRunError(f"{self.path}: this is shard {details.get('index')}; it was renamed")
        self.steps = self._listed(details.get("steps"))
        #: The steps whose rows have weights.
        self.state_steps = self.steps if self._header.version == 1 else self._listed(details.get("state_steps"))
        if not len(self.steps) or not np.isin(self.state_steps, self.steps).all():
            raise CorruptRunError(f"{self.path}: the header lists no valid steps; restore the file from a copy")
        self._tables: dict[str, NDArray] | None = None
        #: Dataset path -> shape of a row, for outputs and samples; filled with `tables`.
        self._extra_shapes: dict[str, tuple[int, ...]] = {}
        #: Where in the file the large datasets lie; filled with `tables`.
        self._bulk: dict[str, BulkDataset | PackedDataset] = {}
        #: The row of differences that was undone last: dataset path -> (row, numbers).
        self._undone: dict[str, tuple[int, NDArray]] = {}

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

    def rows_of(self, name: str) -> NDArray[np.int64]:
        """The steps to which the rows of the dataset at path `name` belong."""
        return self.state_steps if name.startswith("state/") else self.steps

    def read(self, name: str, start: int, stop: int, out: NDArray | None = None) -> NDArray:
        """Rows `start:stop` of the dataset at path `name`, each compared with its checksum.

        The rows of `state/...` are counted among those that have weights, and come in the format that they are kept in.
        `out` is C-contiguous room for rows that are neither compressed nor differences.
        """
        sums, steps = self._load()[f"checksum/{name}"], self.rows_of(name)
        dataset = self._bulk[name]
        if isinstance(dataset, BulkDataset):
            rows = dataset.read(start, stop, out)
        else:
            rows = self._undo(dataset, start, stop)
        found = row_checksums(steps[start:stop].tolist(), name, rows, self._header.version)
        for position, checksum in zip(range(start, stop), found, strict=True):
            if checksum != int(sums[position]):
                raise CorruptRunError(
                    f"{self.path}: step {steps[position]}: the stored {name.split('/')[0]} do not match their "
                    "checksum; the file is damaged. Restore it from a copy; `llc-dynamics verify` lists "
                    "everything that is"
                )
        return rows

    def state_index(self, row: int) -> int | None:
        """The number of `row` among those that have weights, None if it has none."""
        step = self.steps[row]
        place = int(np.searchsorted(self.state_steps, step))
        return place if place < len(self.state_steps) and self.state_steps[place] == step else None

    def read_state(self, row: int) -> dict[str, NDArray]:
        """One row's vectors by number format; the row must have weights."""
        place = self.state_index(row)
        assert place is not None, f"row {row} has no weights"
        return {name: self.read_vector(name, place) for name in self._manifest.state.sizes()}

    def read_vector(self, name: str, place: int, out: NDArray | None = None) -> NDArray:
        """All tensors of number format `name`, end to end, of the row with weights number `place`."""
        stored = self._manifest.storage.format_of(name)
        rows = self.read(f"state/{name}", place, place + 1, None if out is None else out.reshape(1, -1))
        return widened(rows[0], stored, name)

    def _undo(self, dataset: PackedDataset, start: int, stop: int) -> NDArray:
        """Rows of a compressed dataset as numbers; differences need all rows from the first, or the last undone, on."""
        storage = self._manifest.storage
        if not storage.delta:
            return dataset.read(start, stop)
        dtype = storage_dtype(storage.format_of(dataset.name.removeprefix("state/")))
        rows = np.empty((stop - start, dataset.shape[1]), dtype)
        at, former = self._undone.get(dataset.name, (-1, None))
        if at >= start:
            at, former = -1, None
        at_once = max(1, _DIFFERENCES // max(1, dataset.shape[1] * dtype.itemsize))
        while at + 1 < stop:
            # Several at a time, because HDF5 has to open the file for each read.
            for stored in dataset.read(at + 1, min(at + 1 + at_once, stop)):
                at += 1
                former = from_differences(stored, former, dtype)
                if at >= start:
                    rows[at - start] = former
        if former is not None:
            self._undone = {**self._undone, dataset.name: (at, former)}
        return rows

    def _load(self) -> dict[str, NDArray]:
        if self._tables is None:
            storage = self._manifest.storage
            storage.require_codec(f"reading {self.path}")
            check_structure(self.path, self._header)
            packed = {f"state/{name}" for name in self._manifest.state.sizes()} & self._listed_packed()
            with open_datasets(self.path, self._header, packed) as datasets:
                self._check_claims(datasets)
                small = {
                    name for name in datasets if name.split("/")[0] in ("step", "state_step", "metrics", "checksum")
                }
                tables = {name: datasets[name][()] for name in sorted(small)}
                for name in datasets.keys() - small:
                    if name in packed:
                        self._bulk[name] = PackedDataset.of(self.path, self._header, datasets[name])
                    else:
                        self._bulk[name] = BulkDataset.of(self.path, self._header, datasets[name])
                    if not name.startswith("state/"):
                        self._extra_shapes[name] = tuple(datasets[name].shape[1:])
            if not np.array_equal(tables.get("state_step", self.state_steps), self.state_steps):
                raise self._refused("'state_step' does not agree with the header")
            if not np.array_equal(tables["step"], self.steps):
                raise self._refused("'step' does not agree with the header")
            names = [name for name in tables if name.startswith("metrics/")]
            joined = np.stack([tables[name] for name in names], axis=1) if names else np.empty((len(self), 0))
            for row, step in enumerate(self.steps):
                found = row_checksum(int(step), "metrics", joined[row], self._header.version)
                if found != int(tables["checksum/metrics"][row]):
                    raise self._refused(f"step {step}: the metrics do not match their checksum")
            self._tables = tables
        return self._tables

    def _check_claims(self, datasets: Mapping[str, StoredDataset]) -> None:
        """Hold names, formats and shapes against the manifest before anything is allocated."""
        count, kept = len(self), len(self.state_steps)
        wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
            "step": ("<i8", (count,)),
            "checksum/metrics": ("<u8", (count,)),
        }
        if self._header.version > 1:
            wanted["state_step"] = ("<i8", (kept,))
        for name, size in self._manifest.state.sizes().items():
            wanted[f"state/{name}"] = (self._manifest.storage.dtype_of(name), (kept, size))
        for name, dataset in datasets.items():
            if name.startswith("metrics/"):
                wanted[name] = ("<f8", (count,))
            elif name == "outputs" or name.startswith("samples/"):
                wanted[name] = ("<f4", (count, *dataset.shape[1:]))
        for name in [*wanted]:
            if name == "outputs" or name.startswith(("state/", "samples/")):
                wanted[f"checksum/{name}"] = ("<u8", (len(self.rows_of(name)),))
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

    def _listed(self, steps: Any) -> NDArray[np.int64]:
        """Steps as the header lists them; `CorruptRunError` if they are none."""
        if not isinstance(steps, list) or not all(type(step) is int and 0 <= step < 1 << 62 for step in steps):
            raise CorruptRunError(f"{self.path}: the header lists no valid steps; restore the file from a copy")
        return np.array(steps, np.int64)

    def _listed_packed(self) -> set[str]:
        """The datasets that the header says are compressed, if the manifest says that there may be any."""
        listed = self._header.details.get("packed") if self._manifest.storage.packed else None
        return set(listed) if isinstance(listed, dict) else set()

    def _refused(self, problem: str) -> CorruptRunError:
        return CorruptRunError(
            f"{self.path}: {problem}. Restore the file from a copy; `llc-dynamics verify` lists all damage"
        )
