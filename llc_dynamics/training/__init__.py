"""The training loop: task and model in, trajectory out."""

from llc_dynamics.systems.in_context_regression.evaluation import Evaluator, sequence_loss, sequence_outputs
from llc_dynamics.training.config import (
    CheckpointConfig,
    EvaluationConfig,
    RunConfig,
    TrainingConfig,
    WeightSchedule,
    number_of_tasks,
)
from llc_dynamics.training.loop import load_config, train
from llc_dynamics.training.schedules import rate_factor

__all__ = [
    "CheckpointConfig",
    "EvaluationConfig",
    "Evaluator",
    "RunConfig",
    "TrainingConfig",
    "WeightSchedule",
    "load_config",
    "number_of_tasks",
    "rate_factor",
    "sequence_loss",
    "sequence_outputs",
    "train",
]
