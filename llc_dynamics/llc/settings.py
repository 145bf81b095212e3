"""The settings of an estimate: one frozen object, checked once, handed on whole; and as a TOML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import tomli_w

from llc_dynamics.errors import ConfigError
from llc_dynamics.ranges import finite_number, numbers_of, whole_number
from llc_dynamics.sampling import ChainSettings, Kernel
from llc_dynamics.sampling.batches import Batches
from llc_dynamics.sampling.metric import Metric
from llc_dynamics.settings import errors_in, from_mapping, load_toml, nearest, to_mapping, without_none
from llc_dynamics.trajectory.files import storage_errors, write_whole

#: Which loss an estimate is of: the one that was given, or the outputs against those at w* (`ld.behavioural`).
Loss = Literal["given", "behavioural"]

# A run to a wanted error that has not got there ends at so many times num_draws.
_MOST_DRAWS = 16
_COUNTS = {"batch_size": 1, "num_samples": 3, "max_draws": 1, "microbatch_size": 1}
# Optional features, which an estimate that does without them need not mention.
_OPTIONAL = (
    "target_error", "max_draws", "max_seconds", "bias_checks", "chain_method", "engine", "metric",
    "lambda_above",
)  # fmt: skip


class Everyday(TypedDict, total=False):
    """The settings that `estimate_llc`, `llc_curve` and `llc_spectrum` also take by themselves."""

    sampler: Kernel | None
    num_chains: int
    num_draws: int
    num_burnin: int
    batch_size: int | None
    num_samples: int | None
    target_error: float | None
    seed: int


@dataclass(frozen=True)
class EstimateSettings(ChainSettings):
    """How an estimate is made: how its chains are run (see `ChainSettings`), and these.

    Parameters
    ----------
    batch_size, num_samples : as in `estimate_llc`.
    target_error : go on until the standard error is below this share of the estimate, doubling the draws from
        `num_draws` up to `max_draws` (16 times as many, if None). `result.stopped` says where it ended.
    max_seconds : end with the draw at which sampling has taken so long, with as many draws as there are then (4 at
        least), burn-in included. The result then depends on the machine's speed; its error does not suffer.
    bias_checks : run again with half the step, and with twice the batch, each with half the draws: about three times
        the work in all. The result's `total_error` then holds the biases, and its verdict judges them; see `llc.bias`.
    microbatch_size : samples that pass through the model at once; for batches that do not fit into memory.
    lambda_above : by what share of the estimate lambda itself is above it at this gamma, and the error of that share;
        what a calibration extrapolates from several gamma. It moves no estimate, only `LLCResult.lambda_interval`.
    common_noise : all points of a curve have the same seed, and with it the same batches, noise and starts: their
        errors move together, and the change from one to another is far more exact than either (`curve.difference`).
        False: a seed for each point, derived from `seed` and its step. It is nothing to a single estimate.
    metric : "euclidean"; "curvature": each weight in units of 1 / sqrt(its curvature at w*), for a behavioural loss;
        gamma is then compared with nbeta itself (a tenth of it is mild). "relative": each weight in units of the root
        mean square of its tensor at w*. `llc_dynamics.sampling.metric` says what that is good for.

    Raises `ConfigError` for a setting out of its range.
    """

    batch_size: int | None = None
    num_samples: int | None = None
    target_error: float | None = None
    max_draws: int | None = None
    max_seconds: float | None = None
    bias_checks: bool = False
    microbatch_size: int | None = None
    metric: Metric = "euclidean"
    lambda_above: tuple[float, float] | None = None
    common_noise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in _COUNTS.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        if self.metric not in get_args(Metric):
            raise ConfigError(f"metric must be one of {', '.join(get_args(Metric))}, got {self.metric!r}")
        if self.engine != "llc_dynamics" and self.metric != "euclidean":
            raise ConfigError(f'engine="{self.engine}" moves the weights themselves; leave metric out')
        if self.target_error is not None:
            finite_number("target_error (a share of the estimate, such as .05)", self.target_error, zero=False)
        if self.max_draws is not None and (self.target_error is None or self.max_draws < self.num_draws):
            raise ConfigError(
                f"max_draws ({self.max_draws}) is where a run to target_error ends: give target_error, and at least "
                f"num_draws ({self.num_draws}) draws"
            )
        if self.lambda_above is not None:
            pair = numbers_of("lambda_above (a share of the estimate, and its error)", self.lambda_above)
            if pair.shape != (2,) or not np.isfinite(pair).all() or pair[1] < 0:
                raise ConfigError(
                    f"lambda_above must be two numbers, a share of the estimate and its error, got {self.lambda_above}"
                )
            object.__setattr__(self, "lambda_above", (float(pair[0]), float(pair[1])))
        if self.max_seconds is not None:
            finite_number("max_seconds", self.max_seconds, zero=False)

    @classmethod
    def of(cls, settings: object, given: Mapping[str, Any]) -> EstimateSettings:
        """Those of `settings`, or of a calibration, with a `seed` if one is given; without them what is given.

        `given` are `Everyday` settings. Raises `ConfigError` for another one (saying where it belongs, or naming the
        nearest), and for one that is given beside `settings`.
        """
        fields = [each.name for each in dataclasses.fields(cls)]
        for name in given:
            if name in fields and name not in Everyday.__annotations__:
                raise ConfigError(
                    f"{name} is not an argument of its own: give settings=ld.EstimateSettings({name}=..., ...), with "
                    "all other settings in it"
                )
            if name not in fields:
                raise ConfigError(f"{name}: unknown setting of an LLC estimate; {nearest(name, [*fields, 'settings'])}")
        own = cls(**{name: value for name, value in given.items() if not (name == "sampler" and value is None)})
        if settings is None:
            return own
        chosen = getattr(settings, "settings", settings)
        if not isinstance(chosen, cls):
            raise ConfigError(f"settings must be what ld.calibrate returns, or EstimateSettings; got {settings!r}")
        plain = cls()
        both = [
            name
            for name in given
            if name != "seed" and getattr(own, name) not in (getattr(plain, name), getattr(chosen, name))
        ]
        if both:
            raise ConfigError(
                f"{', '.join(both)} given beside settings=, which holds others; use dataclasses.replace(settings, ...)"
            )
        return chosen if own.seed == plain.seed else dataclasses.replace(chosen, seed=own.seed)

    def resolved(self, batches: Batches) -> dict[str, Any]:
        """JSON types, with what was left open (batch size, n) as it was used.

        What is off, or only a matter of memory and speed, is left out.
        """
        resolved = to_mapping(self) | {"batch_size": batches.batch_size, "num_samples": batches.num_samples}
        if self.target_error is not None:
            resolved["max_draws"] = self.last_draw
        plain = {each.name: each.default for each in dataclasses.fields(self) if each.name in _OPTIONAL}
        off = [name for name, default in plain.items() if resolved[name] == default]
        if self.chain_method == "loop":  # what "auto" is on a CPU; "vmap" sums in another order
            off.append("chain_method")
        return {name: value for name, value in resolved.items() if name not in (*off, "microbatch_size")}

    @property
    def last_draw(self) -> int:
        """Draws at which a run ends at the latest."""
        if self.target_error is None:
            return self.num_draws
        return _MOST_DRAWS * self.num_draws if self.max_draws is None else self.max_draws


def settings_from_mapping(mapping: Mapping[str, Any], where: str) -> EstimateSettings:
    """Settings from a table by the names of `EstimateSettings`; what is left out has its default.

    Raises `ConfigError`, beginning with `where`, for an unknown setting (naming the nearest), one of another type or
    out of its range.
    """
    sampler = mapping.get("sampler", {})
    if not isinstance(sampler, Mapping):
        raise ConfigError(f'{where}: sampler must be a table such as {{ kernel = "MALT" }}, got {sampler!r}')
    with errors_in(where):
        return from_mapping(EstimateSettings, mapping, where)


def write_settings(
    path: str | Path, settings: EstimateSettings, loss: str, calibration: Mapping[str, Any] | None = None
) -> Path:
    """Write the settings as the table [llc] of a TOML file; what is not set is left out.

    calibration : what is to be said about how they were found; a table of its own, for readers.
    """
    path = Path(path)
    content: dict[str, Any] = {"llc": {"loss": loss, **without_none(to_mapping(settings))}}
    if calibration is not None:
        content["calibration"] = dict(calibration)
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, tomli_w.dumps(content).encode())
    return path


def read_settings(path: str | Path) -> tuple[EstimateSettings, Loss]:
    """The settings, and the loss ("given" or "behavioural") they were chosen for.

    Raises `ConfigError` for a missing file, bad TOML, or an unknown or mistyped setting.
    """
    table = load_toml(path).get("llc")
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: no [llc] table; `llc-dynamics calibrate` writes such a file")
    values = dict(table)
    loss = values.pop("loss", "given")
    if loss not in ("given", "behavioural"):
        raise ConfigError(f"{path}: loss must be 'given' or 'behavioural', got {loss!r}")
    if not isinstance(values.get("sampler"), dict):
        raise ConfigError(f"{path}: no [llc.sampler] table that says which kernel to use")
    return settings_from_mapping(values, f"{path}: llc"), loss
