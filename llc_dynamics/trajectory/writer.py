"""Recording a run: checkpoints of any `torch.nn.Module` into sealed shards."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from llc_dynamics.errors import ConfigError, DataError, ManifestMismatchError, TrajectoryError
from llc_dynamics.provenance import provenance as current_provenance
from llc_dynamics.settings import plain_number
from llc_dynamics.trajectory import extras as array_sets
from llc_dynamics.trajectory.extras import write_resume
from llc_dynamics.trajectory.files import RunLock, fsync_folder, is_temporary, storage_errors
from llc_dynamics.trajectory.formats import WeightStorage
from llc_dynamics.trajectory.manifest import Manifest, plain_config, remove_complete, write_complete, write_signed
from llc_dynamics.trajectory.names import ARRAYS, LOCK, MANIFEST, SHARDS, classify, require_own_folder
from llc_dynamics.trajectory.pending import (
    RowBuffer,
    empty_rows,
    function_values,
    metric_values,
    require_few_names,
    step_number,
)
from llc_dynamics.trajectory.shards import Shard, ShardList, WholeRow, row_difference
from llc_dynamics.trajectory.state import Model, StateLayout

if TYPE_CHECKING:
    import torch

_SHARD_BYTES = 64 << 20
_SHARD_ROWS = 32
#: The header of a shard lists its steps.
_MOST_ROWS = 1 << 16


class TrajectoryWriter:
    """Records checkpoints of a model into a run folder.

    At most the rows since the last seal are lost when the process dies; every sealed row is read back bit-exact or
    refused by name. One writer at a time may have a run open; any number of readers may read it meanwhile.

    Parameters
    ----------
    path : run folder; made if it is missing.
    model : the module to record; its parameters and buffers are those of `model.state_dict()`. Or a mapping of names to
        tensors, as it is at each `record`: floating-point ones count as parameters.
    config : settings that made the run, of JSON types; stored in the manifest.
    rows_per_shard : checkpoints that are sealed together; None for 32, or fewer when their weights would take over
        64 MiB.
    arrays : fixed arrays that belong to the run, such as evaluation batches: {set: {name: array}}.
    storage : how weights are kept, a `WeightStorage` or a mapping of its settings; None for all bits.
    resume : continue the run in the folder if there is one. Temporary files of a writer that died are removed,
        numbering goes on, and a step that is stored already must come out bit-identical (then it is skipped). A
        `config`, `arrays`, `storage` or `description` of None is then not compared.
    provenance : what made the run; None for the package versions, git commit and machine.
    description : names and words for whoever shows the run, of JSON types: `Description.to_dict()`.

    Raises
    ------
    TrajectoryError
        The folder holds a run and `resume` is false, or it holds something else (which is left alone), or cannot be
        written.
    RunLockedError
        Another writer has the run open.
    ManifestMismatchError
        `resume` with another model, config, arrays, storage or description than the run was recorded with.
    CorruptRunError
        `resume` of a damaged run.
    ConfigError, DataError
        A setting, tensor or array that cannot be stored.
    """

    def __init__(
        self,
        path: str | Path,
        model: Model | None,
        config: Mapping[str, Any] | None = None,
        *,
        rows_per_shard: int | None = None,
        arrays: Mapping[str, array_sets.ArraySet] | None = None,
        storage: WeightStorage | Mapping[str, Any] | None = None,
        resume: bool = False,
        provenance: Mapping[str, Any] | None = None,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self._model = model
        layout = None if model is None else StateLayout.of(model)
        plain = None if config is None else plain_config(config)
        told = None if description is None else plain_config(description, "description")
        sets = None
        if arrays is not None:
            sets = {name: array_sets.plain_arrays(name, given) for name, given in arrays.items()}
        for name in sets or {}:
            array_sets.arrays_file(self.path, name)
        kept = None if storage is None else WeightStorage.of(storage)
        _check_rows(rows_per_shard)
        self._check_folder(resume)
        with storage_errors(self.path, "make the folder"):
            self.path.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(self.path / LOCK)
        try:
            # Once more under the lock: another writer may have begun a run in between.
            if self._check_folder(resume) == "run":
                self._manifest = Manifest.read(self.path)
                if isinstance(model, Mapping):
                    layout = StateLayout.of(model, {each.name: each.kind for each in self._manifest.state.entries})
                digests = None if sets is None else {name: array_sets.digest(each) for name, each in sets.items()}
                self._manifest.require_same(self.path, layout or self._manifest.state, plain, digests, kept, told)
            elif layout is None:
                raise TrajectoryError(f"{self.path}: no run in this folder to go on with; give the model to record")
            else:
                origin = current_provenance() if provenance is None else plain_config(provenance, "provenance")
                digests = {name: array_sets.digest(each) for name, each in (sets or {}).items()}
                storage = kept or WeightStorage()
                self._manifest = Manifest(layout, plain or {}, origin, digests, storage, told or {})
                begin_run(self.path, self._manifest, sets or {})
            self._remove_leftovers()
            self._stored = ShardList(self.path, self._manifest)
            self._stored.refresh()
            self._stored.require_whole()
            self._shapes = self._stored.extra_shapes()
        except BaseException:
            self._lock.release()
            raise
        self._rows_per_shard, self._rows_without = _shard_rows(rows_per_shard, self._manifest)
        self._buffer = RowBuffer(self._manifest, self._rows_per_shard)
        self._last_recorded = -1
        self._closed = False

    @property
    def pending(self) -> int:
        """Rows that are recorded and not yet sealed."""
        return len(self._buffer)

    @property
    def rows_per_shard(self) -> int:
        """Rows with weights that fill a shard."""
        return self._rows_per_shard

    @property
    def full(self) -> bool:
        """Whether the pending rows fill a shard: the next `record` seals them unless `seal` does before."""
        return len(self._buffer.state_steps) >= self._rows_per_shard or self.pending >= self._rows_without

    def record(
        self,
        step: int,
        metrics: Mapping[str, float] | None = None,
        outputs: NDArray | torch.Tensor | None = None,
        samples: Mapping[str, NDArray | torch.Tensor] | None = None,
        *,
        weights: bool = True,
    ) -> None:
        """Record the model's weights and buffers as they are now.

        Parameters
        ----------
        step : optimiser updates so far; must increase from call to call.
        metrics : numbers by name; NaN is allowed.
        outputs : the function vector, of the same shape at every step; stored as float32.
        samples : values of a metric for each evaluation sequence, [S] by the metric's name; stored as float32.
        weights : false stores all the rest without the weights and buffers, which take the most room.

        The values are copied at once. A full buffer is sealed by the next call, so that a loop that has a state to
        store with it can call `seal(state)` first.

        Raises
        ------
        DataError
            A step that does not increase, or a value of another shape or type than it should have.
        ManifestMismatchError
            The model changed, or a step that the run holds already comes out differently this time.
        TrajectoryError
            The shard cannot be written; the recorded rows are kept, and `seal` can be tried again.
        """
        if weights and self._model is None:
            raise DataError(f"step {step}: this writer was opened without a model, so there are no weights to record")
        functions = function_values(outputs, samples or {})
        row = WholeRow(step_number(step), None, metric_values(metrics or {}), functions)
        self.record_kept(row, self._model if weights else None)

    def record_kept(self, row: WholeRow, model: Model | None = None) -> None:
        """Record a row as a run with the same manifest keeps it, bit for bit, or with the weights of `model`."""
        self._require_open()
        if row.step <= self._last_recorded:
            raise DataError(f"step {row.step}: steps must increase, and {self._last_recorded} was recorded before it")
        require_few_names(row)
        for name, array in row.functions.items():
            if self._shapes.get(name, array.shape) != array.shape:
                raise DataError(
                    f"step {row.step}: {name} has shape {list(array.shape)}, but {list(self._shapes[name])} at "
                    "earlier steps"
                )
        if row.step <= self._stored.last_step:
            self._require_same_row(row, model)
        else:
            if self.full or not self._buffer.has_room(row):
                self.seal()
            self._buffer.append(row, model)
            self._shapes |= {name: array.shape for name, array in row.functions.items()}
        self._last_recorded = row.step

    def seal(self, state: Mapping[str, Any] | None = None) -> None:
        """Write the pending rows as one sealed shard, then `state`, each so that it appears whole or not at all.

        `state` is what the caller needs to continue from here: nested mappings and lists of tensors, arrays, int,
        float, bool, str and None; `Trajectory.resume_state` gives it back. A crash between the two leaves the former
        state beside the new rows, which the rerun then meets again and must reproduce bit for bit.

        Raises `TrajectoryError` if the disk is full and the like: nothing stored is harmed, the rows stay pending.
        """
        self._require_open()
        if self.pending:
            with storage_errors(self.path / SHARDS, "make the folder"):
                require_own_folder(self.path, SHARDS).mkdir(exist_ok=True)
            remove_complete(self.path)
            index = len(self._stored)
            self._buffer.write(self.path, index)
            self._buffer.clear()
            self._stored.append(Shard(self.path, index, self._manifest))
        if state is not None:
            write_resume(self.path, self._manifest.run_id, state, self._stored.num_rows)

    def finish(self) -> None:
        """Seal what is pending and mark the run as complete."""
        self.seal()
        write_complete(self.path, self._manifest.run_id, self._stored.num_rows, self._stored.last_step)

    def close(self) -> None:
        """Seal what is pending and let other writers in; the run stays unfinished unless `finish` was called."""
        if self._closed:
            return
        try:
            self.seal()
        finally:
            self._closed = True
            self._lock.release()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # What was recorded before the error is sound; but if it cannot be sealed, the first error is the one to see.
        with contextlib.suppress(TrajectoryError):
            self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise TrajectoryError(f"{self.path}: this writer is closed; open another one with resume=True")

    def _check_folder(self, resume: bool) -> str:
        content = classify(self.path)
        if content == "file":
            raise TrajectoryError(f"{self.path}: this is a file; give a folder for the run")
        if content == "foreign":
            raise TrajectoryError(
                f"{self.path}: the folder is not empty and holds no run; nothing in it was changed. Give an empty "
                "or new folder"
            )
        if content == "run" and not resume:
            raise TrajectoryError(
                f"{self.path}: the folder holds a run already; continue it with resume=True, or give another folder"
            )
        for folder in (SHARDS, ARRAYS):
            require_own_folder(self.path, folder)
        return content

    def _remove_leftovers(self) -> None:
        """Remove the temporary files of a writer that died; under the lock nobody else can be writing them."""
        with storage_errors(self.path, "remove temporary files"):
            for folder in (self.path, self.path / SHARDS, self.path / ARRAYS):
                for entry in folder.iterdir() if folder.is_dir() else ():
                    if is_temporary(entry.name):
                        entry.unlink()

    def _require_same_row(self, row: WholeRow, model: Model | None) -> None:
        """Raise `ManifestMismatchError` unless the row, with the weights of `model`, is the stored one of its step."""
        step, found = row.step, self._stored.locate(row.step)
        if found is None:
            raise ManifestMismatchError(
                f"{self.path}: step {step} is recorded now, but the stored run went past it without a checkpoint "
                "there; resume with the same checkpoint schedule, or record into another folder"
            )
        if model is not None:
            vectors = {name: rows[0] for name, rows in empty_rows(self._manifest, 1).items()}
            self._manifest.state.copy_into(model, vectors, self._manifest.storage)
            row = dataclasses.replace(row, vectors=vectors)
        shard, place = found
        stored = shard.whole_row(place)
        if (stored.vectors is None) != (row.vectors is None):
            now = "recorded now, not stored" if stored.vectors is None else "stored, not recorded now"
            difference: str | None = f"weights ({now})"
        elif (entry := self._manifest.state.first_difference(stored.vectors, row.vectors)) is not None:
            difference = f"{entry.kind} '{entry.name}'"
        else:
            difference = row_difference(stored, row)
        if difference is not None:
            raise ManifestMismatchError(
                f"{self.path}: step {step} is stored already, and this time it comes out differently: "
                f"{difference}. The rerun is not the same computation (another seed, device, thread count or "
                "version?); record it into another folder"
            )


def begin_run(run: Path, manifest: Manifest, sets: Mapping[str, Mapping[str, NDArray]]) -> None:
    """Write the fixed arrays and then the manifest, whose presence makes the folder a run."""
    with storage_errors(run, "make the folders"):
        for folder in (SHARDS, ARRAYS):
            (run / folder).mkdir(exist_ok=True)
        for leftover in (run / ARRAYS).glob("*.h5"):
            leftover.unlink()
        fsync_folder(run)
    for name, arrays in sets.items():
        array_sets.write_arrays(run, name, arrays, manifest.run_id)
    write_signed(run / MANIFEST, manifest.to_json())


def _shard_rows(given: int | None, manifest: Manifest) -> tuple[int, int]:
    """How many rows with weights, and how many rows in all, fill a shard."""
    if given is not None:
        return int(given), int(given)
    row_bytes = manifest.state.row_bytes(manifest.storage)
    return max(1, min(_SHARD_ROWS, _SHARD_BYTES // max(1, row_bytes))), _SHARD_ROWS


def _check_rows(given: int | None) -> None:
    given = plain_number(given)
    whole = isinstance(given, int) and not isinstance(given, bool)
    if given is not None and not (whole and 1 <= given <= _MOST_ROWS):
        raise ConfigError(f"rows_per_shard: expected a whole number from 1 to {_MOST_ROWS:,}, got {given!r}")
