"""A checkpoint schedule around `TrajectoryWriter`, for training loops that are written by hand."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from llc_dynamics.adapters.probes import ModelFunction, loop_probes
from llc_dynamics.adapters.processes import require_whole, writes_here
from llc_dynamics.adapters.trackers import Tracker, Trackers
from llc_dynamics.errors import ConfigError, DataError, TrajectoryError
from llc_dynamics.ranges import finite_number
from llc_dynamics.runs import rewind_run
from llc_dynamics.settings import plain_number
from llc_dynamics.systems.description import Description
from llc_dynamics.systems.measure import PROBES, Observer
from llc_dynamics.systems.registry import calling
from llc_dynamics.systems.system import System
from llc_dynamics.trajectory import Trajectory, TrajectoryWriter, WeightStorage
from llc_dynamics.trajectory.pending import metric_values, step_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llc_dynamics.trajectory.extras import ArraySet

Metrics = Mapping[str, Any]
#: From a model to its function vector, of the same shape at every step.
OutputFunction = Callable[[nn.Module], Any]
_SEAL_SECONDS = 30.0


class Recorder:
    """Records a model at the steps of a schedule: call it after every optimiser update, it knows when to act.

    ::

        with Recorder("runs/mine", model, checkpoint_schedule(10_000)) as recorder:
            recorder(0)
            for step in range(1, 10_001):
                ...                                    # forward, backward, optimizer.step()
                recorder(step, {"loss": loss})

    Between the steps of the schedule a call costs less than a microsecond. In a training on several processes only the
    one of rank 0 writes; on the others every call does nothing. The names of the weights are those of the bare module,
    without the prefixes of `torch.compile` and data parallelism.

    A run that is in the folder already is continued. Steps that it holds already are compared with the training's
    weights, buffers and function vectors, bit for bit, and otherwise left as they are (their metrics are not compared:
    a mean over the steps since the last report may begin elsewhere after a restart). A training that cannot repeat
    itself bit for bit needs `rerun="replace"`.

    Parameters
    ----------
    path : run folder.
    model : the module to record; wrapped or not.
    steps : the schedule, as `checkpoint_schedule` gives it: optimiser updates at which to record, 0 the initialisation.
    config : settings that made the run, of JSON types.
    weight_steps : a sparser schedule for the weights; rows at other steps hold metrics, samples and function vectors
        alone. None stores weights in every row.
    outputs : a function from the model to its function vector on inputs that stay the same, for example
        `lambda model: model(x)`. Called at recorded steps, in evaluation mode, without gradients unless it needs them.
        Give the inputs as `arrays`, so that the run says what the vectors were taken on; `probes` are stored anyway.
    probes : evaluation sets by name, each an `ld.Probe` or a batch. At recorded steps `loss/<probe>` and
        `distance/<probe>/<reference>` are measured, as for a system, and the function vector on the probe that the
        description names (by default the first; with `outputs` none). The probes are stored with the run.
    references : ideal predictors by name, functions from a batch to outputs [S, ...], computed once on every probe.
    loss_fn : `loss_fn(model, batch)`, one loss a sample [B]; needed for `probes`.
    output_fn : `output_fn(model, batch)`, outputs [B, ...]; None for `model(batch[0])`.
    description : names and words for whoever shows the run, an `ld.Description` or a mapping; by default the names.
    system : a system that gives all six of these.
    state : a function without arguments that gives what the loop needs to go on: nested mappings and lists of tensors
        and plain values, `{"model": model.state_dict(), "optimizer": optimizer.state_dict(), ...}`. Stored whenever
        rows are sealed; `restored` gives the latest one back.
    arrays : fixed arrays that belong to the run, such as the inputs of `outputs`: {set: {name: array}}.
    rows_per_shard, storage, provenance : as in `TrajectoryWriter`.
    rerun : what to do with stored rows behind the step from which the training goes on: "compare" them with what comes
        out this time, or "replace" them (they are dropped when the recorder is made).
    start : the step from which the training goes on; None for the one of `restored`. With "replace", the weights stored
        at a `start` that was given must be those that the model has now.
    trackers : objects with `log(step, values)`, see `adapters.trackers`. They are given the metrics of every row that
        is recorded, those of the probes too. Where one raises, a warning says so once, and the recording goes on.
    seal_seconds : rows wait at most this long (and until the next recorded step) before they are sealed on the disk.

    Raises
    ------
    ConfigError, DataError, TrajectoryError, RunLockedError, ManifestMismatchError, CorruptRunError
        As `TrajectoryWriter`; `DataError` too for a model whose weights are spread over processes (FSDP, DTensor), and
        `TrajectoryError` for a training that begins anew with "replace" on a run that holds rows.
    """

    def __init__(
        self,
        path: str | Path,
        model: nn.Module,
        steps: Iterable[int] | NDArray[np.int64],
        *,
        config: Mapping[str, Any] | None = None,
        weight_steps: Iterable[int] | NDArray[np.int64] | None = None,
        outputs: OutputFunction | None = None,
        probes: Mapping[str, Any] | None = None,
        references: Mapping[str, Callable[[Any], torch.Tensor]] | None = None,
        loss_fn: ModelFunction | None = None,
        output_fn: ModelFunction | None = None,
        description: Description | Mapping[str, Any] | None = None,
        system: System | None = None,
        state: Callable[[], Mapping[str, Any]] | None = None,
        arrays: Mapping[str, ArraySet] | None = None,
        rows_per_shard: int | None = None,
        storage: WeightStorage | Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        seal_seconds: float = _SEAL_SECONDS,
        rerun: Literal["compare", "replace"] = "compare",
        start: int | None = None,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self.path = Path(path)
        self._model = model
        self._outputs = outputs
        self._observe = Observer()
        self._state = state
        self._trackers = Trackers(trackers)
        self._seal_seconds = finite_number("seal_seconds", seal_seconds, zero=True)
        if not isinstance(steps, Iterable):
            raise ConfigError(f"steps: give the steps to record, such as ld.checkpoint_schedule(1000); got {steps!r}")
        self._schedule = sorted({step_number(step) for step in steps})
        if not self._schedule:
            raise ConfigError("steps: the schedule is empty; give the steps to record, see checkpoint_schedule")
        self._scheduled = frozenset(self._schedule)
        self._with_weights = None if weight_steps is None else {step_number(step) for step in weight_steps}
        if rerun not in ("compare", "replace"):
            raise ConfigError(f"rerun: {rerun!r} is unknown; known: compare, replace")
        #: Steps that an earlier part of the run holds, with the metrics stored there.
        self._held: dict[int, dict[str, float]] = {}
        self._held_weights: frozenset[int] = frozenset()
        self._last_held = -1
        self._restored: dict[str, Any] | None = None
        self._recorded = self._seen = -1
        self._writer: TrajectoryWriter | None = None
        if not writes_here():
            return
        require_whole(model)

        self._probes, described = loop_probes(
            model,
            system=system,
            probes=probes,
            references=references,
            loss_fn=loss_fn,
            output_fn=output_fn,
            description=description,
            own_outputs=outputs is not None,
        )
        if self._probes is not None:
            if PROBES in (arrays or {}):
                raise ConfigError(f"arrays: the set '{PROBES}' holds the probes; give yours another name")
            arrays = {**(arrays or {}), PROBES: self._probes.arrays()}

        def open_writer() -> TrajectoryWriter:
            return TrajectoryWriter(
                self.path,
                model,
                config,
                rows_per_shard=rows_per_shard,
                arrays=arrays,
                storage=storage,
                resume=True,
                provenance=provenance,
                description=None if described is None else described.to_dict(),
            )

        self._writer = open_writer()
        self._sealed_at = time.monotonic()
        try:
            self._look_back()
            if rerun == "replace" and self._last_held > (self.start if start is None else start):
                self._require_continued(start)
                self._writer.close()
                rewind_run(self.path, self.start if start is None else start)
                self._writer = open_writer()
                self._look_back()
        except BaseException:
            self._writer.close()
            raise
        self._recorded = self._seen = -1

    @property
    def restored(self) -> dict[str, Any] | None:
        """What `state()` gave when rows were last sealed, in the run as it was found; None if there is nothing."""
        return None if self._restored is None else self._restored["state"]

    @property
    def start(self) -> int:
        """The step to which `restored` belongs, 0 if there is nothing to restore."""
        return 0 if self._restored is None else int(self._restored["step"])

    @property
    def last_held(self) -> int:
        """The last step that the run held when it was opened, -1 if there was none."""
        return self._last_held

    def due(self, step: int) -> bool:
        """Whether a call at `step` would record or compare something."""
        if self._writer is None or step <= self._recorded:
            return False
        # An earlier part of the run may have followed another schedule; what it passed over cannot be filled in.
        return step in self._held if step <= self._last_held else step in self._scheduled

    def scheduled_between(self, before: int, step: int) -> int:
        """How many steps of the schedule lie after `before` and not after `step`."""
        return bisect_right(self._schedule, step) - bisect_right(self._schedule, before)

    def __call__(
        self,
        step: int,
        metrics: Metrics | Callable[[], Metrics] | None = None,
        samples: Mapping[str, Any] | None = None,
    ) -> bool:
        """Record the model as it is after `step` optimiser updates, if the schedule holds that step.

        Parameters
        ----------
        step : optimiser updates so far.
        metrics : numbers by name (Python, NumPy or torch, on any device), or a function that gives them and is called
            only when they are recorded.
        samples : values of a metric for each evaluation sequence, [S] by the metric's name.

        Returns
        -------
        Whether the step was recorded, or compared with what the run holds.

        Raises
        ------
        ManifestMismatchError
            The run holds this step already and the model is another one than then.
        DataError
            A step 0 that was scheduled and is missing; a value of another shape or type than it should have.
        """
        self._seen = step = plain_number(step)
        if not self.due(step):
            return False
        if self._recorded < 0 and self._last_held < 0 and self._schedule[:2] == [0, step]:
            raise DataError(
                "step 0, the initialisation, is in the schedule and was not recorded; call the recorder with 0 before "
                "the first update, or leave 0 out of the schedule"
            )
        self.record(step, metrics() if callable(metrics) else metrics, samples)
        return True

    def record(self, step: int, metrics: Metrics | None = None, samples: Mapping[str, Any] | None = None) -> None:
        """Record the model as it is, whatever the schedule says."""
        step = plain_number(step)
        writer = self._writer
        if writer is None:
            return
        values: dict[str, Any] | None = self._held.get(step)
        if values is None:
            values = dict(metrics or {})
        outputs = None
        if self._probes is not None:
            measured = self._probes.measure(self._model)
            values = {**measured.metrics, **values} if step not in self._held else values
            samples = {**measured.samples, **(samples or {})}
            outputs = measured.outputs
        if self._outputs is not None:
            outputs = self._observe(self._model, partial(calling, "outputs(model)", self._outputs))
        late = time.monotonic() - self._sealed_at > self._seal_seconds
        if self._state is None and late:
            # Before the new row: a trainer's metrics for a row may come after it, and its own checkpoint with them.
            self.seal()
        if step in self._held:
            weights = step in self._held_weights
        else:
            weights = self._with_weights is None or step in self._with_weights
        if self._trackers:
            values = metric_values(values)  # now, so that they come from a device once
        writer.record(step, values, outputs, samples, weights=weights)
        self._recorded = self._seen = step
        if self._state is not None and (late or writer.full or step == self._schedule[-1]):
            self.seal()
        if step not in self._held:
            self._trackers.log(step, values)

    def seal(self) -> None:
        """Write what is recorded to the disk now, and `state()` with it."""
        if self._writer is None:
            return
        given = None if self._state is None else {"step": max(self._seen, 0), "state": self._state()}
        self._writer.seal(given)
        self._sealed_at = time.monotonic()

    def finish(self) -> None:
        """Seal what is recorded and mark the run as complete."""
        if self._writer is not None:
            if self._state is not None and self._writer.pending:
                self.seal()
            self._writer.finish()

    def close(self) -> None:
        """Seal what is recorded and let other writers in."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """At the end of the block the run is complete if the last step of the schedule was recorded."""
        if self._writer is None:
            return
        if error is None and max(self._recorded, self._last_held) >= self._schedule[-1]:
            self.finish()
        self._writer.__exit__(kind, error, traceback)

    def _require_continued(self, start: int | None) -> None:
        """Before rows are dropped: is this training the one that the run recorded up to `start`?"""
        if not (self.start if start is None else start):
            raise TrajectoryError(
                f"{self.path}: the training begins anew, and the run holds rows up to step {self._last_held}, which "
                "rerun='replace' would all drop; go on from a checkpoint of that training, remove the folder, or "
                "record into another one"
            )
        if start in self._held and start in self._held_weights:
            self.record(start)

    def _look_back(self) -> None:
        """Read what an earlier part of the run left."""
        run = Trajectory(self.path)
        steps = run.steps
        if not len(steps):
            return
        self._last_held = int(steps[-1])
        self._held_weights = frozenset(run.weight_steps.tolist())
        tables = {name: run.metrics(name) for name in run.metric_names}
        self._held = {
            int(step): {name: float(table[row]) for name, table in tables.items()} for row, step in enumerate(steps)
        }
        restored = run.resume_state()
        if restored is None or self._state is None:
            return
        if not isinstance(restored.get("step"), int) or not isinstance(restored.get("state"), Mapping):
            raise TrajectoryError(
                f"{self.path}: its resume state is not one of a Recorder; go on with the loop that recorded the run, "
                "or record into another folder"
            )
        self._restored = restored
