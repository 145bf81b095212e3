"""Recording from the Hugging Face `Trainer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llc_dynamics.adapters.trainer import TrainerRecording
from llc_dynamics.optional import optional_import
from llc_dynamics.settings import plain_number

_transformers: Any = optional_import("transformers", "transformers", "HuggingFaceCallback")

# They measure the machine, not the network, and differ from one run to the next.
_TIMINGS = ("_runtime", "_per_second", "total_flos", "_mem_cpu", "_mem_gpu")


class HuggingFaceCallback(TrainerRecording, _transformers.TrainerCallback):
    """Records a training of `transformers.Trainer` (or a trainer derived from it) as a trajectory.

    ::

        Trainer(model, args, ..., callbacks=[HuggingFaceCallback("runs/mine", steps=checkpoint_schedule(10_000))])

    Step s holds the weights after s optimiser updates (`state.global_step`; micro-batches of gradient accumulation do
    not count). What the trainer logs and evaluates at a recorded step is stored as metrics of that step: `loss`,
    `grad_norm`, `learning_rate`, `eval_loss` and so on; timings are left out. `train(resume_from_checkpoint=...)` goes
    on with the run in the folder.

    Parameters
    ----------
    path, **settings : as in `Recorder`, without `start` and `state`.
    steps : the schedule; None for `checkpoint_schedule` over all steps of the training.

    Raises
    ------
    MissingPackageError
        transformers is not installed.
    ConfigError, DataError, TrajectoryError, RunLockedError, ManifestMismatchError, CorruptRunError
        As `Recorder`, when the training begins.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.is_world_process_zero:
            self.begin(model, state.global_step, state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.flush()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.reach(state.global_step)
        if control.should_save:
            self.before_checkpoint()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        if state.global_step == self._seen:
            self.add(_numbers(logs or {}))
        if logs is not None and "train_runtime" in logs:
            # The last report. After it `load_best_model_at_end` puts other weights into the model.
            self.flush()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        if state.global_step == self._seen:
            self.add(_numbers(metrics or {}))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_save:
            self.before_checkpoint()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.before_checkpoint()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.end()


def _numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in ((name, plain_number(value)) for name, value in logs.items())
        if isinstance(value, int | float) and not name.endswith(_TIMINGS)
    }
