"""The training loop: a system in, a trajectory out."""

from llc_dynamics.training.config import CheckpointConfig, RunConfig, TrainingConfig, WeightSchedule
from llc_dynamics.training.loop import load_config, train
from llc_dynamics.training.schedules import rate_factor

__all__ = [
    "CheckpointConfig",
    "RunConfig",
    "TrainingConfig",
    "WeightSchedule",
    "load_config",
    "rate_factor",
    "train",
]
