"""Reading a run."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, DataError, StepNotStoredError, TrajectoryError
from llc_dynamics.settings import nearest, plain_number
from llc_dynamics.trajectory import extras as array_sets
from llc_dynamics.trajectory.extras import read_resume
from llc_dynamics.trajectory.formats import restore
from llc_dynamics.trajectory.lazy import LazyRows, TensorRows
from llc_dynamics.trajectory.loading import Fit
from llc_dynamics.trajectory.manifest import Manifest, read_complete, same_run
from llc_dynamics.trajectory.names import RESUME, classify, from_link, to_link
from llc_dynamics.trajectory.shards import Shard, ShardList, WholeRow
from llc_dynamics.trajectory.state import StateEntry

if TYPE_CHECKING:
    import torch

    from llc_dynamics.trajectory.verify import VerifyReport


class Trajectory:
    """A recorded run, opened for reading; nothing in the folder is ever changed.

    Opening reads the manifest and the headers of the shards. Whatever is read later is compared with its checksum
    first: what does not match raises `CorruptRunError`, naming the file and the step. A run may be read while it is
    written; see `refresh`.

    Parameters
    ----------
    path : run folder.
    skip_damaged : leave out shards that are missing or whose header is damaged. Otherwise they make everything that
        spans the run (`steps`, `metrics`, `outputs`, `samples`) raise `CorruptRunError`; single checkpoints in sound
        shards can be read either way.

    Raises
    ------
    TrajectoryError
        No such folder, not a run, or written by a newer version.
    CorruptRunError
        The manifest is damaged.
    """

    def __init__(self, path: str | Path, *, skip_damaged: bool = False) -> None:
        self.path = Path(path)
        content = classify(self.path)
        if content != "run":
            reason = {
                "missing": "no such folder",
                "empty": "the folder is empty",
                "file": "this is a file, not a run folder",
                "unfinished": "a run was begun here and died before its manifest was written; record it again",
            }.get(content, "not a run folder (it has no manifest.json)")
            raise TrajectoryError(f"{self.path}: {reason}; give the folder that a TrajectoryWriter recorded into")
        self.manifest = Manifest.read(self.path)
        self._skip_damaged = skip_damaged
        self._shards = ShardList(self.path, self.manifest)
        self._shards.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Trajectory, skip_damaged=self._skip_damaged), (self.path.absolute(),)

    def __repr__(self) -> str:
        return f"Trajectory({str(self.path)!r}, {self._shards.num_rows} checkpoints)"

    def __len__(self) -> int:
        return self._shards.num_rows

    @property
    def config(self) -> dict[str, Any]:
        """The settings that the run was recorded with (a copy)."""
        return copy.deepcopy(self.manifest.config)

    @property
    def description(self) -> dict[str, Any]:
        """Names and words for whoever shows the run, as stored and unchecked (a copy); see `description_of`."""
        return copy.deepcopy(self.manifest.description)

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, git commit and machine that began the run (a copy)."""
        return copy.deepcopy(self.manifest.provenance)

    @property
    def steps(self) -> NDArray[np.int64]:
        """int64 [C], the optimiser updates at which checkpoints are stored, increasing."""
        return self._whole().steps

    @property
    def weight_steps(self) -> NDArray[np.int64]:
        """int64 [W], those of `steps` at which weights are stored, and not only metrics and outputs."""
        return self._whole().state_steps

    @property
    def sealed_times(self) -> NDArray[np.float64]:
        """float64 [C], when each checkpoint was sealed, in seconds since 1970 by the date of its file.

        A run that was copied without its dates has those of the copy; a clock that was set back shows in them.
        """
        return self._whole().sealed_times()

    @property
    def complete(self) -> bool:
        """Whether the run was marked as finished. Raises `CorruptRunError` if rows of a finished run are missing."""
        with same_run(self.path, self.manifest.run_id):
            rows = read_complete(self.path, self.manifest.run_id)
        if rows is None:
            return False
        if rows > self._shards.num_rows:
            self.refresh()
        if rows != self._shards.num_rows and not self._skip_damaged:
            self._shards.require_whole()
            raise CorruptRunError(
                f"{self.path}: the finished run had {rows} checkpoints and {self._shards.num_rows} are there; "
                "shards are missing. Restore them from a copy"
            )
        return True

    @property
    def metric_names(self) -> list[str]:
        """All metrics of the run, sorted."""
        return sorted({name for shard in self._whole().shards for name in shard.metric_links.values()})

    @property
    def sample_names(self) -> list[str]:
        """The metrics of which `samples` are stored, sorted."""
        links = self._whole().extra_shapes()
        return sorted(from_link(link.removeprefix("samples/")) for link in links if link != "outputs")

    @property
    def array_names(self) -> list[str]:
        """The sets of fixed arrays that are stored with the run."""
        return sorted(self.manifest.arrays)

    def refresh(self) -> int:
        """See the shards that were sealed since the run was opened; returns the number of new checkpoints."""
        return self._shards.refresh()

    def require_whole(self) -> None:
        """Raise `CorruptRunError` if a shard is missing or its header is damaged; rows are not read."""
        self._shards.require_whole()

    def state_dict(self, step: int, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
        """Parameters and buffers after `step` optimiser updates: new CPU tensors by name, bit for bit as recorded.

        (Where the run was recorded with a narrower `storage.dtype`, as they were rounded then.) The tensors of one call
        lie side by side in one piece of memory; of those that are picked by `names` each has its own, and the rest of
        the row is not kept.

        Raises `StepNotStoredError`, naming the nearest steps with weights, `TrajectoryError` for a name that is no
        tensor of the run, and `CorruptRunError`.
        """
        shard, row = self._locate_weights(step)
        if names is None:
            return self.manifest.state.tensors(shard.read_state(row))
        wanted = [self._entry(name) for name in names]
        vectors = {name: shard.read_vector(name, row) for name in {entry.dtype for entry in wanted}}
        return {
            entry.name: restore(
                vectors[entry.dtype][entry.offset : entry.offset + entry.size], entry.dtype, entry.shape
            )
            for entry in wanted
        }

    def whole_rows(
        self, steps: Iterable[int] | None = None, weights: Collection[int] | None = None
    ) -> Iterator[WholeRow]:
        """All that is stored at `steps` (None: all), row by row, and weights only at `weights` if these are given.

        Each row has every metric of the run, NaN where it was not recorded, so that a copy knows the same names.
        """
        blank = dict.fromkeys(self.metric_names, math.nan)
        for step in self.steps if steps is None else steps:
            shard, row = self._locate(step)
            found = shard.whole_row(row, weights is None or int(step) in weights)
            yield dataclasses.replace(found, metrics={**blank, **found.metrics})

    def kept_rows(self, name: str, start: int, stop: int) -> NDArray:
        """Rows `start:stop` of the weights of number format `name`, [W, N], as they are kept."""
        return self._whole().kept_rows(name, start, stop)

    def tensor(self, name: str, steps: Iterable[int] | None = None) -> TensorRows:
        """One tensor of the state, [W, ...], at all `weight_steps` or at `steps`, read when indexed (`TensorRows`)."""
        entry = self._entry(name)
        chosen = self.weight_steps if steps is None else np.array([int(step) for step in steps], np.int64)
        for step in chosen if steps is not None else ():
            self._locate_weights(int(step))
        return TensorRows(self._whole(), entry, chosen)

    def load_into(self, model: torch.nn.Module, step: int) -> None:
        """Load the checkpoint of `step` into `model`, on whatever device it is.

        The names of the model decide: those of the run may have a prefix or wrappers (`module.`), one name of a tied
        tensor is enough, floating-point formats may be narrower than the model's, and buffers that the model makes
        itself (masks, counters) may be missing on either side.

        Raises `ManifestMismatchError`, naming the first tensor that is missing, unexpected or of another shape or
        format; the model is then unchanged.
        """
        shard, row = self._locate_weights(step)
        state = self.manifest.state
        advice = "build the model with the run's own configuration (run.config)"
        if "imported" in self.provenance:
            advice = "give the model of these checkpoints, or import them again with it (import_checkpoints(model=...))"
        fit = Fit.of(model, state, f"{self.path}: step {step}", whose="the run", advice=advice)
        fit.load(state.tensors(shard.read_state(row)))

    def metrics(self, name: str) -> NDArray[np.float64]:
        """float64 [C]; NaN at checkpoints that were recorded without this metric."""
        tables = [(len(shard), shard.metrics()) for shard in self._whole().shards]
        if not any(name in table for _, table in tables):
            raise TrajectoryError(f"{self.path}: no metric '{name}'; {self._known(name, self.metric_names, 'metrics')}")
        return np.concatenate([table.get(name, np.full(count, np.nan)) for count, table in tables])

    def outputs(self, steps: Iterable[int] | None = None) -> LazyRows:
        """float32 [C, ...], the function vectors of all checkpoints or of those at `steps`, read when indexed."""
        return self._rows("outputs", "outputs", steps)

    def function_rows(self) -> dict[str, LazyRows]:
        """ "outputs" and "samples/<link>", as far as the run has them, read when indexed."""
        return {link: self._rows(link, link, None) for link in sorted(self._whole().extra_shapes())}

    def samples(self, name: str) -> NDArray[np.float32]:
        """float32 [C, S], a metric's value for each of S evaluation sequences, the same ones at every checkpoint."""
        return np.asarray(self.sample_rows(name))

    def sample_rows(self, name: str) -> LazyRows:
        """The same as `samples`, read when indexed."""
        return self._rows(f"samples/{to_link(name, 'sample')}", f"samples of '{name}'", None)

    def arrays(self, name: str) -> dict[str, NDArray]:
        """The set `name` of fixed arrays that were stored when the run began, for example the evaluation batches."""
        if name not in self.manifest.arrays:
            raise TrajectoryError(f"{self.path}: no arrays '{name}'; {self._known(name, self.array_names, 'arrays')}")
        with same_run(self.path, self.manifest.run_id):
            return array_sets.read_arrays(self.path, name, self.manifest.run_id, self.manifest.arrays[name])

    def resume_state(self) -> dict[str, Any] | None:
        """What was last given to `TrajectoryWriter.seal(state)`, tensors on the CPU; None if nothing was.

        Raises `CorruptRunError` if it is damaged, or if rows that were sealed before it are missing.
        """
        with same_run(self.path, self.manifest.run_id):
            found = read_resume(self.path, self.manifest.run_id)
        if found is None:
            return None
        state, rows = found
        self.refresh()
        if rows > self._whole().num_rows:
            raise CorruptRunError(
                f"{self.path / RESUME}: it continues after {rows} checkpoints, but only {self._shards.num_rows} are "
                f"there; shards are missing. Restore them from a copy, or remove {RESUME} to compute again from the "
                "start"
            )
        return state

    def verify(self, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """Read and check everything in the folder; problems are listed in the report, not raised.

        `progress(done, total)` is called after every shard.
        """
        from llc_dynamics.trajectory.verify import verify_run

        return verify_run(self.path, progress)

    def _whole(self) -> ShardList:
        if not self._skip_damaged:
            self._shards.require_whole()
        return self._shards

    def _rows(self, link: str, what: str, steps: Iterable[int] | None) -> LazyRows:
        shards = self._whole()
        shapes = shards.extra_shapes()
        if link not in shapes:
            names = self.sample_names if link.startswith("samples/") else ["steps", "state_dict", "metrics"]
            raise TrajectoryError(f"{self.path}: no {what} were recorded; the run has: {', '.join(names) or 'none'}")
        if steps is None:
            rows = np.arange(shards.num_rows)
        else:
            rows = np.array([self._row(step) for step in steps], np.int64)
        return LazyRows(shards, link, shapes[link], rows)

    def _row(self, step: int) -> int:
        self._locate(step)
        return int(np.searchsorted(self._shards.steps, step))

    def _locate(self, step: int) -> tuple[Shard, int]:
        step = plain_number(step)
        if isinstance(step, bool) or not isinstance(step, int):
            raise DataError(f"step {step!r}: expected a whole number of optimiser updates")
        found = self._shards.locate(step)
        if found is not None:
            return found
        steps = self._shards.steps
        if not self._skip_damaged and self._shards.damage:
            raise StepNotStoredError(
                f"{self.path}: step {step} is in none of the sound shards; damaged: {self._shards.damage[0]}"
            )
        if len(steps) == 0:
            raise StepNotStoredError(f"{self.path}: step {step} is not stored; no checkpoint has been sealed yet")
        below, above = steps[steps < step], steps[steps > step]
        near = [*map(int, below[-1:]), *map(int, above[:1])]
        raise StepNotStoredError(
            f"{self.path}: step {step} is not stored; the nearest stored: {' and '.join(map(str, near))} "
            f"(of {len(steps)}, from {steps[0]} to {steps[-1]})"
        )

    def _entry(self, name: str) -> StateEntry:
        entries = {entry.name: entry for entry in self.manifest.state.entries}
        if name not in entries:
            raise TrajectoryError(
                f"{self.path}: no tensor '{name}'; {self._known(str(name), list(entries), 'tensors')}"
            )
        return entries[name]

    def _locate_weights(self, step: int) -> tuple[Shard, int]:
        shard, row = self._locate(step)
        if shard.state_index(row) is not None:
            return shard, row
        steps = self._shards.state_steps
        near = [*map(int, steps[steps < step][-1:]), *map(int, steps[steps > step][:1])]
        raise StepNotStoredError(
            f"{self.path}: step {step} was recorded without weights (its metrics and outputs are there); the nearest "
            f"steps with weights: {' and '.join(map(str, near)) or 'none so far'} (run.weight_steps lists all "
            f"{len(steps)})"
        )

    @staticmethod
    def _known(name: str, known: list[str], what: str) -> str:
        return nearest(name, known) if known else f"the run has no {what}"
