"""What the callbacks of the trainers share: rows that wait for the metrics that belong to them."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from llc_dynamics.adapters.recorder import Recorder
from llc_dynamics.errors import ConfigError
from llc_dynamics.settings import nearest
from llc_dynamics.trajectory import checkpoint_schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TrainerRecording:
    """A `Recorder` that is driven by a trainer's events.

    A trainer reports the metrics of step s after the update (its logs, then the evaluation at s), so a row is recorded
    only when the next update is about to begin: until then the weights are those of step s. When the trainer writes a
    checkpoint of its own at step s, the rows before s are sealed; row s is taken from the restored weights if the
    process dies before it was recorded. So a training that goes on from any of its checkpoints leaves no gap.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        steps: Iterable[int] | NDArray[np.int64] | None = None,
        weight_steps: Iterable[int] | NDArray[np.int64] | None = None,
        **settings: Any,
    ) -> None:
        known = sorted(set(inspect.signature(Recorder.__init__).parameters) - {"self", "model", "start", "state"})
        for name in settings:
            if name not in known:
                raise ConfigError(f"{name}: unknown setting of a recording; {nearest(name, known)}")
        self.path = Path(path)
        self._steps = None if steps is None else list(steps)
        self._settings = {"weight_steps": None if weight_steps is None else list(weight_steps), **settings}
        self._recorder: Recorder | None = None
        self._waiting: int | None = None
        self._metrics: dict[str, Any] = {}
        self._seen = -1

    def begin(self, model: nn.Module, step: int, total: float) -> None:
        """The training begins, or goes on, after `step` of `total` updates."""
        self.close()
        if self._steps is None and not (math.isfinite(total) and total >= 1):
            raise ConfigError(
                "the trainer does not know how many steps it will make, so there is no schedule to choose; give "
                "steps=, for example llc_dynamics.checkpoint_schedule(10_000)"
            )
        steps = checkpoint_schedule(int(total)) if self._steps is None else self._steps
        self._recorder = Recorder(self.path, model, steps, start=step, **self._settings)
        self._seen = -1
        if step > 0:
            _warn_of_gap(self._recorder, step)
            # The steps before were passed by an earlier process, or by nobody.
            self._seen = step - 1
        self.reach(step)

    def next_is_due(self) -> bool:
        """Whether the step after the current one may be recorded (its metrics are worth looking at)."""
        return self._recorder is not None and self._would_record(self._seen + 1)

    def reach(self, step: int) -> None:
        """`step` updates are made; a call with the same step again (gradient accumulation) does nothing."""
        if self._recorder is None or step <= self._seen:
            return
        if self._waiting is not None:
            self.flush()
        if self._would_record(step):
            self._waiting = step
        self._seen = step

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Metrics that belong to the step that was reached last."""
        if self._waiting is not None:
            self._metrics.update(metrics)

    def flush(self) -> None:
        """Record the row that waits: the next update begins, or the training ends."""
        if self._recorder is not None and self._waiting is not None:
            self._recorder.record(self._waiting, self._metrics)
        self._waiting, self._metrics = None, {}

    def before_checkpoint(self) -> None:
        """The trainer writes a checkpoint of its own: seal all rows but the one that waits."""
        if self._recorder is not None:
            self._recorder.seal()

    def end(self) -> None:
        """The training came to its end."""
        if self._recorder is not None:
            self.flush()
            self._recorder.finish()
        self.close()

    def close(self) -> None:
        """Seal what is recorded and let other writers in; also what to call after a training that was broken off."""
        recorder, self._recorder = self._recorder, None
        self._waiting, self._metrics = None, {}
        if recorder is not None:
            recorder.close()

    def _would_record(self, step: int) -> bool:
        assert self._recorder is not None
        if step <= self._recorder.last_held:
            return self._recorder.due(step)
        # With several optimisers a trainer may count two updates at once and jump over a step of the schedule.
        return self._recorder.scheduled_between(max(self._seen, self._recorder.last_held), step) > 0


def _warn_of_gap(recorder: Recorder, start: int) -> None:
    """Warn if a training goes on from `start`, beyond what the run holds: the steps between will be missing."""
    held = recorder.last_held
    missing = recorder.scheduled_between(held, start - 1) if held >= 0 else 0
    if missing:
        warnings.warn(
            f"{recorder.path}: the training goes on from step {start}, and the run ends at step {held}; {missing} "
            "checkpoints of its schedule are missing in between and stay so",
            stacklevel=3,
        )
