"""A preset: one system, several values of M, and how their LLC curves are to be estimated. Written as TOML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import ConfigError
from llc_dynamics.llc.settings import EstimateSettings, Loss, settings_from_mapping, settings_to_mapping
from llc_dynamics.sampling import behavioural
from llc_dynamics.sampling.flat_model import LossFunction
from llc_dynamics.settings import converted, from_mapping, load_toml, nearest
from llc_dynamics.systems.in_context_regression.task import InContextRegression
from llc_dynamics.systems.in_context_regression.transformer import PRESETS, TransformerConfig
from llc_dynamics.training import (
    CheckpointConfig,
    EvaluationConfig,
    RunConfig,
    TrainingConfig,
    sequence_loss,
    sequence_outputs,
)


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: its M, and its number of steps where that differs from the sweep's."""

    num_tasks: float
    num_steps: int | None = None

    @property
    def label(self) -> str:
        """Folder name of the run: 'M-8', 'M-inf'."""
        return "M-inf" if math.isinf(self.num_tasks) else f"M-{int(self.num_tasks)}"


_ESTIMATE = EstimateSettings(batch_size=64, num_samples=10_000)


@dataclass(frozen=True)
class LLCConfig:
    """How the LLC over a run is estimated: one setting for the whole curve.

    In a file all of it is one table, `[llc]`: the settings of `estimate_llc` by their names, and the three below. The
    sampler is a table, `sampler = { kernel = "MALT", localization = 100.0 }`; without `kernel` it is SGLD. The seed is
    the sweep's.

    loss : "given", the training loss, or "behavioural", the predictions against those at w*; see `ld.behavioural`.
    num_points : checkpoints on the curve, spaced evenly in log(step) from `first_step` to the last stored one.
    first_step : where the curve begins. Before the loss has fallen, w* is far from any minimum and estimates by the
        given loss are negative.
    estimate : the settings of each point. Batches are fresh sequences from q_M, so `num_samples`, the n of
        nbeta = n / log n, is a choice, not a count; it has to be given.
    """

    estimate: EstimateSettings = _ESTIMATE
    loss: Loss = "given"
    num_points: int = 12
    first_step: int = 0

    def __post_init__(self) -> None:
        if self.num_points < 1:
            raise ConfigError(f"llc.num_points must be 1 or more; got {self.num_points}")
        n, batch_size = self.estimate.num_samples, self.estimate.batch_size
        if n is None or n < 3:
            raise ConfigError(f"llc.num_samples must be 3 or more (nbeta is n / log n); got {n}")
        if batch_size is None or batch_size < 1:
            raise ConfigError(f"llc.batch_size must be 1 or more; got {batch_size}")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> LLCConfig:
        """From the `[llc]` table of a file. Raises `ConfigError` for an unknown or mistyped setting."""
        hints = get_type_hints(cls)
        own = ("loss", "num_points", "first_step")
        sampling = [each.name for each in fields(EstimateSettings) if each.name != "seed"]
        for name in mapping:
            if name not in (*own, *sampling):
                raise ConfigError(f"{where}: {name}: unknown setting; {nearest(str(name), (*own, *sampling))}")
        curve = {name: converted(hints[name], mapping[name], f"{where}: {name}") for name in own if name in mapping}
        given = {name: mapping[name] for name in sampling if name in mapping}
        defaults = {"batch_size": _ESTIMATE.batch_size, "num_samples": _ESTIMATE.num_samples}
        return cls(settings_from_mapping(defaults | given, where), **curve)

    def to_mapping(self) -> dict[str, Any]:
        """The inverse of `from_mapping`; what is not set is left out."""
        estimate = {name: value for name, value in settings_to_mapping(self.estimate).items() if value is not None}
        del estimate["seed"]
        return {"loss": self.loss, "num_points": self.num_points, "first_step": self.first_step, **estimate}

    @property
    def loss_fn(self) -> LossFunction:
        """The loss of an in-context run."""
        return behavioural(sequence_outputs) if self.loss == "behavioural" else sequence_loss

    def choose_steps(self, stored: NDArray[np.int64]) -> list[int]:
        """Stored steps nearest, in log(step + 1), to an even spacing; the last one alone if none is that late."""
        stored = stored[stored >= min(self.first_step, stored[-1])]
        logs = np.log1p(stored)
        wanted = np.linspace(logs[0], logs[-1], min(self.num_points, len(stored)))
        return sorted({int(stored[np.abs(logs - target).argmin()]) for target in wanted})


@dataclass(frozen=True)
class SweepConfig:
    """A preset file. Without `runs` it describes the single run with `task.num_tasks`.

    model : sizes of the transformer, or the name of a preset of the transformer.
    seed : of everything: task sequence, initial weights, batches, evaluation sequences.
    """

    name: str
    task: InContextRegression = field(default_factory=InContextRegression)
    model: TransformerConfig | str = "small"
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    llc: LLCConfig = field(default_factory=LLCConfig)
    runs: tuple[SweepRun, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.model, str) and self.model not in PRESETS:
            raise ConfigError(f"model: preset '{self.model}' is unknown; {nearest(self.model, PRESETS)}")
        labels = [run.label for run in self.runs]
        if len(set(labels)) < len(labels):
            raise ConfigError(f"runs: each M may stand once; got {', '.join(labels)}")
        self.run_configs()  # every run's settings are checked before any run starts

    def with_seed(self, seed: int) -> SweepConfig:
        """The same sweep from another seed."""
        return replace(self, seed=seed)

    def run_configs(self) -> dict[str, RunConfig]:
        """The settings of every run by its folder name."""
        runs = self.runs or (SweepRun(self.task.num_tasks),)
        return {run.label: self._run_config(run) for run in runs}

    def _run_config(self, run: SweepRun) -> RunConfig:
        steps = self.training.num_steps if run.num_steps is None else run.num_steps
        return RunConfig(
            task=replace(self.task, num_tasks=run.num_tasks, seed=self.seed),
            model=PRESETS[self.model] if isinstance(self.model, str) else self.model,
            training=replace(self.training, num_steps=steps),
            checkpoints=self.checkpoints,
            evaluation=replace(self.evaluation, seed=self.seed),
            seed=self.seed,
        )


def load_sweep(path: str | Path) -> SweepConfig:
    """Read a preset file. Raises `ConfigError` for a missing file, bad TOML, or a bad, unknown or mistyped setting."""
    return sweep_from_mapping(load_toml(path), where=str(path))


def sweep_from_mapping(mapping: dict[str, Any], where: str) -> SweepConfig:
    """A `SweepConfig` from plain values; messages begin with `where`."""
    try:
        return from_mapping(SweepConfig, mapping, where=where)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(where) else f"{where}: {text}") from None
