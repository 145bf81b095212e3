"""Settings of one training run, of any system."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import ConfigError
from llc_dynamics.settings import converted, nearest, to_mapping, with_plain_numbers
from llc_dynamics.systems.registry import system_mapping, system_of
from llc_dynamics.systems.system import System
from llc_dynamics.training.schedules import SCHEDULES
from llc_dynamics.trajectory import WeightStorage, checkpoint_schedule

_MOST_CHECKPOINTS = 10_000_000


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
    storage : how weights are kept: every bit or rounded; see `WeightStorage`.
    """

    linear_interval: int = 100
    num_log: int = 1000
    weights: WeightSchedule | None = None
    storage: WeightStorage = field(default_factory=WeightStorage)


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation of one run, on the mean over the batch of the system's loss.

    optimizer : "adam", or "muon" (Muon on the matrices that the system names, Adam on the rest).
    learning_rate, betas : of Adam; muon_learning_rate, muon_momentum : of Muon.
    final_batch_size, final_batch_share : the last share of the steps has batches of another size; None leaves it out.
    part_size : the gradient of a batch is summed over parts of at most this many samples: less memory, and small models
        stay in the cache; None: the whole batch at once.
    max_gradient_norm : gradients are scaled down to this norm over all parameters where theirs is larger; None: never.
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
    final_batch_size: int | None = None
    final_batch_share: float = 0.4
    part_size: int | None = None
    max_gradient_norm: float | None = None
    betas: tuple[float, ...] = (0.9, 0.999)
    muon_learning_rate: float = 0.01
    muon_momentum: float = 0.95
    averaging: float = 0.0
    compile: bool = False
    bfloat16: bool = False

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        for name in ("num_steps", "batch_size", "final_batch_size", "part_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"training.{name} must be 1 or more; got {value}")
        for name in ("learning_rate", "muon_learning_rate", "max_gradient_norm"):
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf):
                raise ConfigError(f"training.{name} must be positive; got {value}")
        if self.optimizer not in ("adam", "muon"):
            raise ConfigError(f"training.optimizer: '{self.optimizer}' is unknown; known: adam, muon")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"training.schedule: '{self.schedule}' is unknown; {nearest(self.schedule, SCHEDULES)}")
        if not 0 <= self.warmup_steps <= self.num_steps:
            raise ConfigError(f"training.warmup_steps must be between 0 and num_steps; got {self.warmup_steps}")
        for name in ("final_fraction", "final_batch_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"training.{name} must be between 0 and 1; got {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"training.betas must be two numbers in [0, 1); got {self.betas}")
        if not 0 <= self.averaging < 1:
            raise ConfigError(f"training.averaging must be in [0, 1); got {self.averaging}")

    def batch_size_at(self, step: int) -> int:
        """Samples of the update that leads from step `step` to `step + 1`."""
        if self.final_batch_size is None or step < round((1 - self.final_batch_share) * self.num_steps):
            return self.batch_size
        return self.final_batch_size


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run. `seed` fixes the initial weights, the batches and the probes."""

    system: System
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        self.checkpoint_steps()  # its settings are checked before anything is trained

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str, system: type[System] | None = None) -> RunConfig:
        """From JSON types. `system` : the class, which has to be given for one that is not part of this package.

        Raises `ConfigError` for a bad, unknown or missing setting, `TrajectoryError` for a system that is not given.
        """
        if not isinstance(mapping, Mapping) or "system" not in mapping:
            raise ConfigError(
                f"{where}: expected the settings of a run with a table 'system', got {ascii(mapping)[:80]}"
            )
        known = {"training": TrainingConfig, "checkpoints": CheckpointConfig, "seed": int}
        for key in mapping:
            if key not in known and key != "system":
                raise ConfigError(f"{where}: {key}: unknown setting; {nearest(str(key), [*known, 'system'])}")
        rest = {key: converted(hint, mapping[key], f"{where}: {key}") for key, hint in known.items() if key in mapping}
        return cls(system_of(mapping["system"], where, system), **rest)

    def to_mapping(self) -> dict[str, Any]:
        """The inverse of `from_mapping`."""
        return {
            "system": system_mapping(self.system),
            "training": to_mapping(self.training),
            "checkpoints": to_mapping(self.checkpoints),
            "seed": self.seed,
        }

    def checkpoint_steps(self) -> NDArray[np.int64]:
        """The steps to store."""
        last, settings = self.training.num_steps, self.checkpoints
        steps = _schedule(last, settings)
        return steps if settings.weights is None else np.union1d(steps, self.weight_steps())

    def weight_steps(self) -> NDArray[np.int64]:
        """Those of them at which weights are stored, the last one always."""
        settings = self.checkpoints.weights
        if settings is None:
            return self.checkpoint_steps()
        try:
            return _schedule(self.training.num_steps, settings)
        except ConfigError as error:
            raise ConfigError(f"checkpoints.weights: {error}") from None


def _schedule(num_steps: int, settings: CheckpointConfig | WeightSchedule) -> NDArray[np.int64]:
    interval, num_log = settings.linear_interval, settings.num_log
    if num_log + (0 if interval is None else num_steps // max(interval, 1)) > _MOST_CHECKPOINTS:
        raise ConfigError(
            f"checkpoints: num_steps = {num_steps}, linear_interval = {interval}, num_log = {num_log} are more than "
            f"{_MOST_CHECKPOINTS:,} checkpoints; store fewer"
        )
    return checkpoint_schedule(num_steps, linear_interval=interval, num_log=num_log)
