"""A preset: one system, the runs that are trained of it, and how their LLC curves are to be estimated. TOML."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.batch import num_samples
from llc_dynamics.errors import ConfigError
from llc_dynamics.llc.settings import EstimateSettings, Loss, settings_from_mapping
from llc_dynamics.sampling import behavioural
from llc_dynamics.sampling.flat_model import LossFunction
from llc_dynamics.seeding import derive_seed
from llc_dynamics.settings import converted, load_toml, nearest, to_mapping, with_plain_numbers
from llc_dynamics.systems.registry import calling, system_mapping, system_of
from llc_dynamics.systems.system import System
from llc_dynamics.training import CheckpointConfig, RunConfig, TrainingConfig

_FRESH_SAMPLES = 10_000
_SEED = "seed"
_ESTIMATE = EstimateSettings(batch_size=64)


@dataclass(frozen=True)
class LLCConfig:
    """How the LLC over a run is estimated: one setting for the whole curve.

    In a file all of it is one table, `[llc]`: the settings of `estimate_llc` by their names, and the five below. The
    sampler is a table, `sampler = { kernel = "MALT", localization = 100.0 }`; without `kernel` it is SGLD. The seed is
    the sweep's.

    loss : "given", the training loss, or "behavioural", the outputs against those at w*; see `ld.behavioural`.
    divergence : of the behavioural loss, "squared" or "kl"; None for the system's own.
    num_points : checkpoints on the curve, spaced evenly in log(step) from `first_step` to the last stored one.
    first_step : where the curve begins. Before the loss has fallen, w* is far from any minimum and estimates by the
        given loss are negative.
    fixed_samples : where batches are fresh samples, draw so many once and take batches from these; None: fresh ones.
        The loss is then one function, which is worth it where a few samples rule the mean.
    estimate : the settings of each point. `num_samples`, the n of nbeta = n / log n, is by default the size of the
        system's training set; where batches are fresh samples it is a choice, by default 10,000.
    """

    estimate: EstimateSettings = _ESTIMATE
    loss: Loss = "given"
    divergence: Literal["squared", "kl"] | None = None
    num_points: int = 12
    first_step: int = 0
    fixed_samples: int | None = None

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        if self.num_points < 1:
            raise ConfigError(f"llc.num_points must be 1 or more; got {self.num_points}")
        if self.fixed_samples is not None and self.fixed_samples < 3:
            raise ConfigError(f"llc.fixed_samples must be 3 or more; got {self.fixed_samples}")
        if self.estimate.batch_size is None:
            raise ConfigError("llc.batch_size must be 1 or more; got None")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> LLCConfig:
        """From the `[llc]` table of a file. Raises `ConfigError` for an unknown or mistyped setting."""
        hints = get_type_hints(cls)
        own = ("loss", "divergence", "num_points", "first_step", "fixed_samples")
        sampling = [each.name for each in fields(EstimateSettings) if each.name != "seed"]
        for name in mapping:
            if name not in (*own, *sampling):
                raise ConfigError(f"{where}: {name}: unknown setting; {nearest(str(name), (*own, *sampling))}")
        curve = {name: converted(hints[name], mapping[name], f"{where}: {name}") for name in own if name in mapping}
        given = {name: mapping[name] for name in sampling if name in mapping}
        defaults = {"batch_size": _ESTIMATE.batch_size}
        return cls(settings_from_mapping(defaults | given, where), **curve)

    def to_mapping(self) -> dict[str, Any]:
        """The inverse of `from_mapping`; what is not set is left out."""
        estimate = {name: value for name, value in to_mapping(self.estimate).items() if value is not None}
        del estimate["seed"]
        own = {"loss": self.loss, "num_points": self.num_points, "first_step": self.first_step}
        unset = {name: getattr(self, name) for name in ("divergence", "fixed_samples")}
        return own | {name: value for name, value in unset.items() if value is not None} | estimate

    def loss_of(self, system: System) -> LossFunction:
        """The loss of which the LLC of a system is estimated."""
        if self.loss == "behavioural":
            return behavioural(system.outputs, self.divergence or system.divergence, bound=system.bound)
        return system.loss

    def estimate_of(self, system: System) -> EstimateSettings:
        """The settings of each point, with n and a batch that the system's training set can give."""
        data, chosen = system.data(), self.estimate
        size = _FRESH_SAMPLES if data is None else num_samples(data)
        most = self.fixed_samples if data is None else size
        batch = chosen.batch_size if most is None else min(most, chosen.batch_size or most)
        return replace(chosen, num_samples=chosen.num_samples or size, batch_size=batch)

    def choose_steps(self, stored: NDArray[np.int64]) -> list[int]:
        """Stored steps nearest, in log(step + 1), to an even spacing; the last one alone if none is that late."""
        stored = stored[stored >= min(self.first_step, stored[-1])]
        logs = np.log1p(stored)
        wanted = np.linspace(logs[0], logs[-1], min(self.num_points, len(stored)))
        return sorted({int(stored[np.abs(logs - target).argmin()]) for target in wanted})


@dataclass(frozen=True)
class SweepConfig:
    """A preset file.

    system : with the settings that the runs have in common.
    runs : of each run what it overrides of the system's settings and of `training`; without, there is one run.
    seed : of everything: initial weights, batches, probes, and the system's field `seed` where it has one.

    Raises `ConfigError` for a key that neither or both of them have, for values that a run cannot have, and for two
    runs with the same settings.
    """

    name: str
    system: System
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    llc: LLCConfig = field(default_factory=LLCConfig)
    runs: tuple[Mapping[str, Any], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        derive_seed(self.seed)  # says what is wrong with it
        self.run_configs()  # every run's settings are checked before any run starts

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, Any], where: str, folder: Path | None = None, system: type[System] | None = None
    ) -> SweepConfig:
        """From the tables of a preset file, or of a stored sweep; messages begin with `where`.

        folder : of the preset that the user passed, to which its system's file is relative; None loads no file.
        system : the class, where the user named it besides.
        """
        try:
            if not isinstance(mapping, Mapping):
                raise ConfigError(f"expected a table of settings, got {ascii(mapping)[:80]}")
            hints = get_type_hints(cls)
            given = {key: value for key, value in mapping.items() if key not in ("system", "runs")}
            _require_known(mapping, where)
            values = {key: converted(hints[key], value, f"{where}: {key}") for key, value in given.items()}
            if "name" not in values:
                raise ConfigError("name: this setting is required and was not given")
            table = mapping.get("system", {})
            if isinstance(table, Mapping) and _SEED in table:
                raise ConfigError("system: seed: the seed stands once, at the top of the file, and is of everything")
            runs = mapping.get("runs", ())
            if not isinstance(runs, list | tuple) or not all(isinstance(run, Mapping) for run in runs):
                raise ConfigError(f"runs: expected tables [[runs]], got {ascii(runs)[:80]}")
            return cls(system=system_of(table, where, system, folder), runs=tuple(map(dict, runs)), **values)
        except ConfigError as error:
            raise ConfigError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None

    def to_mapping(self) -> dict[str, Any]:
        """The inverse of `from_mapping`, of JSON types."""
        system = system_mapping(self.system)
        system.pop(_SEED, None)
        rest = {key: to_mapping(getattr(self, key)) for key in ("training", "checkpoints", "llc")}
        runs = [to_mapping(run) for run in self.runs]
        return {"name": self.name, "system": system, **rest, "runs": runs, "seed": self.seed}

    def with_seed(self, seed: int) -> SweepConfig:
        """The same sweep from another seed."""
        return replace(self, seed=seed)

    def run_configs(self) -> dict[str, RunConfig]:
        """The settings of every run by its folder name: that of the axis, 'M-8', or 'run', numbered where they meet."""
        configs = [self._run_config(run, number) for number, run in enumerate(self.runs or ({},), start=1)]
        mappings = [config.to_mapping() for config in configs]
        for number, mapping in enumerate(mappings):
            if mapping in mappings[:number]:
                raise ConfigError(f"runs: runs {mappings.index(mapping) + 1} and {number + 1} have the same settings")
        axes = [calling(f"{type(self.system).__name__}: describe()", config.system.describe).axis for config in configs]
        names = ["run" if axis is None else axis.folder for axis in axes]
        total, seen = Counter(names), Counter[str]()
        found = {}
        for name, config in zip(names, configs, strict=True):
            seen[name] += 1
            width = len(str(total[name]))
            found[f"{name}-{seen[name]:0{width}}" if total[name] > 1 else name] = config
        return found

    def _run_config(self, run: Mapping[str, Any], number: int) -> RunConfig:
        where = f"runs, run {number}"
        tables = {"system": self.system, "training": self.training}
        hints = {
            table: {
                each.name: get_type_hints(type(settings))[each.name]
                for each in (fields(settings) if dataclasses.is_dataclass(settings) else ())
            }
            for table, settings in tables.items()
        }
        values: dict[str, dict[str, Any]] = {table: {} for table in tables}
        for key, value in run.items():
            holders = [table for table in tables if key in hints[table]]
            if key == _SEED:
                raise ConfigError(f"{where}: seed: the seed stands once, at the top of the file, and is of everything")
            if not holders:
                known = [name for table in tables for name in hints[table] if name != _SEED]
                raise ConfigError(f"{where}: {key}: neither [system] nor [training] has it; {nearest(str(key), known)}")
            if len(holders) > 1:
                raise ConfigError(f"{where}: {key}: both [system] and [training] have it; rename the system's field")
            values[holders[0]][key] = converted(hints[holders[0]][key], value, f"{where}: {key}")
        if _SEED in hints["system"]:
            values["system"][_SEED] = self.seed
        system = self.system
        if values["system"]:
            changed: Any = system
            system = calling(f"{where}: {type(system).__name__}", lambda: replace(changed, **values["system"]))
        training = replace(self.training, **values["training"])
        return RunConfig(system, training, self.checkpoints, self.seed)


def load_sweep(path: str | Path, system: type[System] | None = None) -> SweepConfig:
    """Read a preset file. Raises `ConfigError` for a missing file, bad TOML, or a bad, unknown or mistyped setting."""
    return SweepConfig.from_mapping(load_toml(path), str(path), Path(path).resolve().parent, system)


def load_llc(path: str | Path) -> LLCConfig:
    """The `[llc]` table of a preset file; its system is not needed for that, and may be missing."""
    mapping = load_toml(path)
    _require_known(mapping, str(path))
    return LLCConfig.from_mapping(mapping.get("llc", {}), f"{path}: llc")


def _require_known(mapping: Mapping[str, Any], where: str) -> None:
    known = [each.name for each in fields(SweepConfig)]
    for key in mapping:
        if key not in known:
            raise ConfigError(f"{where}: {key}: unknown setting; {nearest(str(key), known)}")
