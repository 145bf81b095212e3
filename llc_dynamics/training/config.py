"""Settings of one training run. Every field can stand in a TOML preset; an unknown key is an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import ConfigError
from llc_dynamics.settings import nearest
from llc_dynamics.systems.in_context_regression.task import InContextRegression
from llc_dynamics.systems.in_context_regression.transformer import TransformerConfig
from llc_dynamics.training.schedules import SCHEDULES
from llc_dynamics.trajectory import WeightStorage, checkpoint_schedule


@dataclass(frozen=True)
class WeightSchedule:
    """The steps at which weights are stored, by the same two settings; `linear_interval = None` leaves its part out."""

    linear_interval: int | None = None
    num_log: int = 0


@dataclass(frozen=True)
class CheckpointConfig:
    """Which steps are stored: every `linear_interval`-th, and `num_log` spaced evenly in the logarithm of the step.

    weights : a sparser schedule for the weights; metrics, samples and function vectors are stored at the steps of both.
        None stores weights at every step.
    storage : how weights are kept: rounded, as differences, compressed; see `WeightStorage`.
    """

    linear_interval: int = 100
    num_log: int = 1000
    weights: WeightSchedule | None = None
    storage: WeightStorage = field(default_factory=WeightStorage)


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation of one run, on the mean squared error over all K positions.

    optimizer : "adam", or "muon" (Muon on the matrices inside the blocks, Adam on the rest).
    learning_rate, betas : of Adam; muon_learning_rate, muon_momentum : of Muon.
    averaging : decay of an exponential moving average of the weights. If above 0 the *averaged* weights are what
        checkpoints hold and metrics measure (the optimiser goes on from its own); the average is corrected for its
        start.
    """

    num_steps: int = 10_000
    batch_size: int = 64
    optimizer: Literal["adam", "muon"] = "adam"
    learning_rate: float = 2e-3
    schedule: str = "constant"
    warmup_steps: int = 300
    final_fraction: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    muon_learning_rate: float = 0.01
    muon_momentum: float = 0.95
    averaging: float = 0.0
    compile: bool = False
    bfloat16: bool = False

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be 1 or more; got {getattr(self, name)}")
        for name in ("learning_rate", "muon_learning_rate"):
            if not (0 < getattr(self, name) < math.inf):
                raise ConfigError(f"training.{name} must be positive; got {getattr(self, name)}")
        if self.optimizer not in ("adam", "muon"):
            raise ConfigError(f"training.optimizer: '{self.optimizer}' is unknown; known: adam, muon")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"training.schedule: '{self.schedule}' is unknown; {nearest(self.schedule, SCHEDULES)}")
        if not 0 <= self.warmup_steps <= self.num_steps:
            raise ConfigError(f"training.warmup_steps must be between 0 and num_steps; got {self.warmup_steps}")
        if not 0 <= self.final_fraction <= 1:
            raise ConfigError(f"training.final_fraction must be between 0 and 1; got {self.final_fraction}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"training.betas must be two numbers in [0, 1); got {self.betas}")
        if not 0 <= self.averaging < 1:
            raise ConfigError(f"training.averaging must be in [0, 1); got {self.averaging}")


@dataclass(frozen=True)
class EvaluationConfig:
    """Fixed evaluation sets, the same at every checkpoint and, for one seed, the same in all runs of a sweep.

    num_sequences : sequences from q_M, and as many from q_inf; num_root_sequences : B, sequences of the root task t_1
    on which the function vector is recorded.
    """

    num_sequences: int = 1024
    num_root_sequences: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_sequences", "num_root_sequences"):
            if getattr(self, name) < 2:
                raise ConfigError(f"evaluation.{name} must be 2 or more; got {getattr(self, name)}")


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run. `seed` fixes the initial weights and the batches."""

    task: InContextRegression = field(default_factory=InContextRegression)
    model: TransformerConfig = field(default_factory=TransformerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model.dimension != self.task.dimension:
            raise ConfigError(
                f"model.dimension ({self.model.dimension}) must equal task.dimension ({self.task.dimension})"
            )
        if self.model.context_length < self.task.context_length:
            raise ConfigError(
                f"model.context_length ({self.model.context_length}) must be at least task.context_length "
                f"({self.task.context_length})"
            )
        self.checkpoint_steps()  # its settings are checked before anything is trained

    def checkpoint_steps(self) -> NDArray[np.int64]:
        """The steps to store."""
        last, settings = self.training.num_steps, self.checkpoints
        steps = checkpoint_schedule(last, linear_interval=settings.linear_interval, num_log=settings.num_log)
        return steps if settings.weights is None else np.union1d(steps, self.weight_steps())

    def weight_steps(self) -> NDArray[np.int64]:
        """Those of them at which weights are stored, the last one always."""
        settings = self.checkpoints.weights
        if settings is None:
            return self.checkpoint_steps()
        try:
            return checkpoint_schedule(
                self.training.num_steps, linear_interval=settings.linear_interval, num_log=settings.num_log
            )
        except ConfigError as error:
            raise ConfigError(f"checkpoints.weights: {error}") from None


def number_of_tasks(config: Mapping[str, Any]) -> float | None:
    """M of an in-context run (`math.inf` included); None for a run of anything else."""
    task = config.get("task")
    value = task.get("num_tasks") if isinstance(task, Mapping) else None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if number >= 1 else None
