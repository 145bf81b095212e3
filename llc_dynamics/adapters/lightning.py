"""Recording from PyTorch Lightning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from llc_dynamics.adapters.trainer import TrainerRecording
from llc_dynamics.errors import ConfigError, MissingPackageError
from llc_dynamics.optional import optional_import

_PURPOSE = "LightningCallback"


def _callback_classes() -> tuple[Any, ...]:
    """The `Callback` of the Lightning that is in use: it goes by two names that do not accept each other's objects."""
    names = ("lightning.pytorch", "pytorch_lightning")
    loaded = tuple(sys.modules[name].Callback for name in names if name in sys.modules)
    if loaded:
        return loaded
    try:
        return (optional_import(names[0], "lightning", _PURPOSE).Callback,)
    except MissingPackageError:
        return (optional_import(names[1], "lightning", _PURPOSE).Callback,)


class LightningCallback(TrainerRecording, *_callback_classes()):  # type: ignore[misc]
    """Records a training of a Lightning `Trainer` as a trajectory.

    ::

        Trainer(max_steps=10_000, callbacks=[LightningCallback("runs/mine", steps=checkpoint_schedule(10_000))])

    Step s holds the weights after s optimiser updates (`trainer.global_step`: batches of gradient accumulation do not
    count; with several optimisers each one's updates do). What the module logs at a recorded step, in training or in a
    validation after it, is stored as metrics of that step. `fit(..., ckpt_path=...)` goes on with the run in the
    folder. Works with `lightning` and with `pytorch_lightning`; where both are installed, import yours first.

    Parameters
    ----------
    path, **settings : as in `Recorder`, without `start` and `state`.
    steps : the schedule; None for `checkpoint_schedule` over all steps of the training.
    module : name of the submodule to record, "model" for `self.model`; None for the whole LightningModule. `outputs`
        is given the same module.

    Raises
    ------
    MissingPackageError
        Lightning is not installed.
    ConfigError
        No such submodule.
    DataError, TrajectoryError, RunLockedError, ManifestMismatchError, CorruptRunError
        As `Recorder`, when the training begins.
    """

    def __init__(self, path: str | Path, *, module: str | None = None, **settings: Any) -> None:
        super().__init__(path, **settings)
        self._module = module
        #: The trainer's metrics before the step that is recorded next; what is not in there is that step's own.
        self._before: dict[str, torch.Tensor] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        model = pl_module
        if self._module is not None:
            try:
                model = pl_module.get_submodule(self._module)
            except AttributeError as error:
                raise ConfigError(f"module='{self._module}': {error}") from None
        self._before = dict(trainer.callback_metrics)
        self.begin(model, trainer.global_step, trainer.estimated_stepping_batches)
        if self._waiting is None:
            self._before = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._collect(trainer)
        self.flush()
        if self._before is None and self.next_is_due():
            self._before = dict(trainer.callback_metrics)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.reach(trainer.global_step)
        self._collect(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._collect(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._collect(trainer)
        # At the end of an epoch other callbacks (weight averaging) may put other weights into the module.
        self.flush()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.before_checkpoint()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.close()

    def flush(self) -> None:
        if self._waiting is not None:
            super().flush()
            self._before = None

    def _collect(self, trainer: Any) -> None:
        """Take the metrics that were logged since `_before`: the trainer keeps showing the former value of others."""
        if self._waiting is None:
            return
        before = self._before or {}
        self.add(
            {
                name: value
                for name, value in trainer.callback_metrics.items()
                # A value that is logged anew is a new tensor; `before` keeps the former one's memory from being reused.
                if value.numel() == 1 and (name not in before or before[name].data_ptr() != value.data_ptr())
            }
        )
