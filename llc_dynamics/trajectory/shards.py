"""Shards: sealed files that hold successive checkpoints as rows, and all of a run's as one sequence.

Datasets of a shard of R rows, W of them with weights::

    step             int64   [R]       optimiser updates, strictly increasing
    state_step       int64   [W]       the steps of which weights are stored
    state/<format>   raw     [W, N]    all tensors of that number format, end to end, as the manifest lists them
    outputs          float32 [R, ...]  the function vector (NaN where a row has none); absent if no row has one
    samples/<name>   float32 [R, S]    a metric's value for each evaluation sequence; as above
    metrics/<name>   float64 [R]       as above

`state/...`, `outputs` and `samples/...` are rows with checksums. Weights are in the formats of the manifest's
`storage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, TrajectoryError
from llc_dynamics.trajectory.formats import widened
from llc_dynamics.trajectory.manifest import Manifest, same_run
from llc_dynamics.trajectory.names import SHARDS, from_link, shard_index, shard_name
from llc_dynamics.trajectory.sealed import SealedFile, row_checksum

_METRICS = "metrics/"
_SAMPLES = "samples/"
_BLANK = np.float32(np.nan).tobytes()


@dataclass(frozen=True)
class WholeRow:
    """All that a run holds of one step.

    `vectors` are the weights as they are kept, by number format, None without any. `functions` are "outputs" and
    "samples/..." by path, left out where the row has none.
    """

    step: int
    vectors: Mapping[str, NDArray] | None
    metrics: dict[str, float]
    functions: dict[str, NDArray[np.float32]]


class Shard:
    """A sealed shard, opened for reading.

    Header and index are checked at once, the small tables when something is first read, and every row's checksum
    whenever the row is read. `CorruptRunError` names the file and, where it can, the step.
    """

    def __init__(self, run: Path, index: int, manifest: Manifest) -> None:
        self.path = run / SHARDS / shard_name(index)
        self._run = run
        self._manifest = manifest
        self.file = SealedFile(self.path, "shard", manifest.run_id)
        details = self.file.details
        if details.get("index") != index:
            raise CorruptRunError(f"{self.path}: this is shard {str(details.get('index'))[:20]}; it was renamed")
        self.steps = self._listed(details.get("steps"))
        #: The steps whose rows have weights.
        self.state_steps = self._listed(details.get("state_steps"))
        if not len(self.steps) or not np.isin(self.state_steps, self.steps).all():
            raise self._refused("the header lists no valid steps")
        #: Dataset -> shape of a row, for outputs and samples.
        self.extra_shapes: dict[str, tuple[int, ...]] = {}
        #: Dataset -> name of the metric in it.
        self.metric_links: dict[str, str] = {}
        self._check_claims()
        self._tables: dict[str, NDArray] | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def metrics(self) -> dict[str, NDArray[np.float64]]:
        """All metrics by name, each [R]."""
        tables = self._load()
        return {name: tables[link] for link, name in self.metric_links.items()}

    def rows_of(self, name: str) -> NDArray[np.int64]:
        """The steps to which the rows of the dataset `name` belong."""
        return self.state_steps if name.startswith("state/") else self.steps

    def read(self, name: str, start: int, stop: int, out: NDArray | None = None) -> NDArray:
        """Rows `start:stop` of the dataset `name`, each compared with its checksum.

        The rows of `state/...` are counted among those that have weights, and come in the format that they are kept in.
        `out` is C-contiguous room for the rows.
        """
        sums = self._load()[f"checksum/{name}"][start:stop].tolist()
        steps = self.rows_of(name)[start:stop].tolist()
        with same_run(self._run, self._manifest.run_id):
            rows = self.file.rows(name, start, stop, out)
            for step, row, checksum in zip(steps, rows, sums, strict=True):
                if row_checksum(step, name, row) != checksum:
                    raise self.file.replaced() or CorruptRunError(
                        f"{self.path}: step {step}: the stored {name.split('/')[0]} do not match their checksum; the "
                        "file is damaged. Restore it from a copy; `llc-dynamics verify` lists everything that is"
                    )
        return rows

    def state_index(self, row: int) -> int | None:
        """The number of `row` among those that have weights, None if it has none."""
        step = self.steps[row]
        place = int(np.searchsorted(self.state_steps, step))
        return place if place < len(self.state_steps) and self.state_steps[place] == step else None

    def whole_row(self, row: int, weights: bool = True) -> WholeRow:
        """Everything that is stored of a row (without `weights` those are left out)."""
        vectors, place = None, self.state_index(row)
        if weights and place is not None:
            vectors = {name: self.read(f"state/{name}", place, place + 1)[0] for name in self._manifest.state.sizes()}
        functions = {name: present(self.read(name, row, row + 1)[0]) for name in self.extra_shapes}
        return WholeRow(
            int(self.steps[row]),
            vectors,
            {name: float(column[row]) for name, column in self.metrics().items()},
            {name: values for name, values in functions.items() if values is not None},
        )

    def read_state(self, row: int) -> dict[str, NDArray]:
        """One row's vectors by number format; the row must have weights."""
        return {name: self.read_vector(name, row) for name in self._manifest.state.sizes()}

    def read_vector(self, name: str, row: int) -> NDArray:
        """All tensors of number format `name`, end to end, of a row that has weights."""
        place = self.state_index(row)
        assert place is not None, f"row {row} has no weights"
        return widened(self.read(f"state/{name}", place, place + 1)[0], self._manifest.storage.format_of(name), name)

    def _load(self) -> dict[str, NDArray]:
        if self._tables is None:
            with same_run(self._run, self._manifest.run_id):
                tables = self.file.tables()
            for name, steps in (("step", self.steps), ("state_step", self.state_steps)):
                if not np.array_equal(tables[name], steps):
                    raise self._refused(f"'{name}' does not agree with the header")
            self._tables = tables
        return self._tables

    def _check_claims(self) -> None:
        """Hold names, formats and shapes against the manifest before anything is allocated."""
        count, kept, datasets = len(self.steps), len(self.state_steps), self.file.datasets
        wanted: dict[str, tuple[Any, tuple[int, ...]]] = {"step": ("<i8", (count,)), "state_step": ("<i8", (kept,))}
        rows = [f"state/{name}" for name in self._manifest.state.sizes()]
        for name, size in self._manifest.state.sizes().items():
            wanted[f"state/{name}"] = (self._manifest.storage.dtype_of(name), (kept, size))
        try:
            for name, entry in datasets.items():
                if name.startswith(_METRICS):
                    self.metric_links[name] = from_link(name.removeprefix(_METRICS))
                    wanted[name] = ("<f8", (count,))
                elif name == "outputs" or name.startswith(_SAMPLES):
                    if name != "outputs":
                        from_link(name.removeprefix(_SAMPLES))
                    wanted[name] = ("<f4", (count, *entry.shape[1:]))
                    self.extra_shapes[name] = entry.shape[1:]
                    rows.append(name)
        except ValueError as error:
            raise self._refused(str(error)) from None
        wanted |= {f"checksum/{name}": ("<u8", (len(self.rows_of(name)),)) for name in rows}
        for name in [*wanted, *datasets]:
            if name not in datasets:
                raise self._refused(f"the dataset '{name}' is missing")
            if name not in wanted:
                raise self._refused(f"'{name[:80]}' is no dataset of a shard")
            dtype, shape = wanted[name]
            if datasets[name].dtype != np.dtype(dtype) or datasets[name].shape != shape:
                raise self._refused(
                    f"'{name[:80]}' is {datasets[name].dtype} {list(datasets[name].shape)} where the manifest needs "
                    f"{np.dtype(dtype)} {list(shape)}"
                )

    def _listed(self, steps: Any) -> NDArray[np.int64]:
        """Steps as the header lists them; `CorruptRunError` if they are none."""
        if not isinstance(steps, list) or not all(type(step) is int and 0 <= step < 1 << 62 for step in steps):
            raise self._refused("the header lists no valid steps")
        return np.array(steps, np.int64)

    def _refused(self, problem: str) -> CorruptRunError:
        return CorruptRunError(
            f"{self.path}: {problem}. Restore the file from a copy; `llc-dynamics verify` lists all damage"
        )


class ShardList:
    """Shards in the order of their numbers; those that are damaged or missing are kept as errors in `damage`."""

    def __init__(self, run: Path, manifest: Manifest) -> None:
        self._run = run
        self._manifest = manifest
        self._next = 0
        self.shards: list[Shard] = []
        self.damage: list[CorruptRunError] = []
        self.steps: NDArray[np.int64] = np.empty(0, np.int64)
        #: The steps whose rows have weights.
        self.state_steps: NDArray[np.int64] = np.empty(0, np.int64)
        self._times: list[float] = []
        #: First row of every shard, and the end.
        self.bounds: NDArray[np.int64] = np.zeros(1, np.int64)

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def num_rows(self) -> int:
        return len(self.steps)

    @property
    def last_step(self) -> int:
        return int(self.steps[-1]) if len(self.steps) else -1

    def refresh(self) -> int:
        """Take in shards that were sealed since the last call; the number of new rows."""
        before = self.num_rows
        folder = self._run / SHARDS
        while True:
            path = folder / shard_name(self._next)
            later = None if path.exists() else self._later(folder)
            # A listing may show a newer shard and not this one, so this one is looked for again after it.
            if later is not None and not path.exists():
                missing = later - self._next
                what = "the shard is missing" if missing == 1 else f"it and {missing - 1} more shards are missing"
                self.damage.append(
                    CorruptRunError(f"{path}: {what}, later ones are there; restore from a copy of the run")
                )
                # To the next that is there, not through all between: the number in a name may be anything.
                self._next = later
            elif not path.exists():
                break
            else:
                try:
                    with same_run(self._run, self._manifest.run_id):
                        self.append(Shard(self._run, self._next, self._manifest))
                except CorruptRunError as error:
                    self.damage.append(error)
                    self._next += 1
        return self.num_rows - before

    def append(self, shard: Shard) -> None:
        if np.any(np.diff(shard.steps) <= 0) or shard.steps[0] <= self.last_step:
            raise CorruptRunError(
                f"{shard.path}: its steps ({shard.steps[0]} to {shard.steps[-1]}) do not come after {self.last_step}; "
                "restore it from a copy"
            )
        self._next += 1
        self.shards.append(shard)
        self.steps = np.concatenate([self.steps, shard.steps])
        self.state_steps = np.concatenate([self.state_steps, shard.state_steps])
        self.steps.flags.writeable = self.state_steps.flags.writeable = False
        self.bounds = np.append(self.bounds, len(self.steps))

    def require_whole(self) -> None:
        """Raise the first damage, if there is any."""
        if self.damage:
            raise self.damage[0]

    def locate(self, step: int) -> tuple[Shard, int] | None:
        """The shard that holds `step` and the row in it."""
        row = int(np.searchsorted(self.steps, step))
        if row >= len(self.steps) or self.steps[row] != step:
            return None
        shard = int(np.searchsorted(self.bounds, row, side="right")) - 1
        return self.shards[shard], row - int(self.bounds[shard])

    def sealed_times(self) -> NDArray[np.float64]:
        """For every row the date of its file, NaN for a file that is gone; each file is asked once."""
        for shard in self.shards[len(self._times) :]:
            try:
                self._times.append(shard.path.stat().st_mtime)
            except OSError:
                self._times.append(np.nan)
        return np.repeat(np.array(self._times), np.diff(self.bounds))

    def extra_shapes(self) -> dict[str, tuple[int, ...]]:
        """Row shapes of "outputs" and "samples/..." over all shards; `CorruptRunError` if two shards disagree."""
        shapes: dict[str, tuple[int, ...]] = {}
        for shard in self.shards:
            for name, shape in shard.extra_shapes.items():
                if shapes.setdefault(name, shape) != shape:
                    raise CorruptRunError(
                        f"{shard.path}: {name} {list(shape)} a row, but {list(shapes[name])} in earlier shards"
                    )
        return shapes

    def sample_names(self) -> list[str]:
        return sorted(from_link(name.removeprefix(_SAMPLES)) for name in self.extra_shapes() if name != "outputs")

    def kept_rows(self, name: str, start: int, stop: int) -> NDArray:
        """Rows `start:stop` of the dataset `state/<name>` over all shards, in the format that they are kept in."""
        pieces, first = [], 0
        for shard in self.shards:
            end = first + len(shard.state_steps)
            if first < stop and start < end:
                pieces.append(shard.read(f"state/{name}", max(start - first, 0), min(stop, end) - first))
            first = end
        return np.concatenate(pieces)

    def _later(self, folder: Path) -> int | None:
        """The smallest number of a shard after the next one that is there, None if there is none."""
        try:
            numbers = (shard_index(entry.name) for entry in folder.iterdir())
            return min((number for number in numbers if number is not None and number > self._next), default=None)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TrajectoryError(f"{folder}: cannot look into the folder ({error.strerror})") from error


def row_difference(first: WholeRow, second: WholeRow) -> str | None:
    """What differs, bit for bit, between metrics and functions of two rows, in words; None if nothing does."""
    for name in sorted({*first.metrics, *second.metrics}):
        values = (first.metrics.get(name, np.nan), second.metrics.get(name, np.nan))
        if values[0] != values[1] and not all(map(np.isnan, values)):
            return f"metric '{name}' ({values[0]!r} and {values[1]!r})"
    for name in sorted({*first.functions, *second.functions}):
        mine, other = present(first.functions.get(name)), present(second.functions.get(name))
        if mine is None and other is None:
            continue
        if mine is None or other is None or mine.shape != other.shape or mine.tobytes() != other.tobytes():
            return name
    return None


def present(values: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """None for what the reader gives where nothing was recorded: NaN of one bit pattern throughout."""
    if values is not None and values.size and np.isnan(values.flat[0]) and values.tobytes() == _BLANK * values.size:
        return None
    return values
