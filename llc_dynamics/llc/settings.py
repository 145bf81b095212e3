"""The settings of an estimate: one frozen object, checked once, the same for every point of a curve."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from llc_dynamics.errors import ConfigError
from llc_dynamics.sampling import KERNELS, SGLD, Kernel
from llc_dynamics.sampling.batches import Batches
from llc_dynamics.sampling.devinterp_engine import Engine, require_engine
from llc_dynamics.sampling.group_model import ChainMethod
from llc_dynamics.sampling.metric import Metric, require_metric
from llc_dynamics.settings import converted, from_mapping, nearest, to_mapping

#: Which loss an estimate is of: the one that was given, or the outputs against those at w* (`ld.behavioural`).
Loss = Literal["given", "behavioural"]

_LEAST = {"num_chains": 1, "num_draws": 4, "num_burnin": 0, "steps_per_draw": 1}
# A run to a wanted error that has not got there ends at so many times num_draws.
_MOST_DRAWS = 16


@dataclass(frozen=True)
class EstimateSettings:
    """How to sample: see `estimate_llc` for what each setting means.

    Raises `ConfigError` for a count out of its range.
    """

    sampler: Kernel = field(default_factory=SGLD)
    num_chains: int = 4
    num_draws: int = 500
    num_burnin: int = 200
    batch_size: int | None = None
    num_samples: int | None = None
    seed: int = 0
    steps_per_draw: int = 1
    control_variate: bool = False
    target_error: float | None = None
    max_draws: int | None = None
    max_seconds: float | None = None
    bias_checks: bool = False
    chain_method: ChainMethod = "auto"
    microbatch_size: int | None = None
    engine: Engine = "llc_dynamics"
    metric: Metric = "euclidean"

    def __post_init__(self) -> None:
        if self.sampler is None:
            object.__setattr__(self, "sampler", SGLD())
        if not all(hasattr(self.sampler, name) for name in ("init", "arrive", "update", "localization")):
            raise ConfigError(f"sampler must be a kernel such as SGLD(step_size=1e-4), got {self.sampler!r}")
        require_engine(self.engine, self.sampler)
        require_metric(self.metric)
        if self.engine != "llc_dynamics" and self.metric != "euclidean":
            raise ConfigError(f'engine="{self.engine}" moves the weights themselves; leave metric out')
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ConfigError(f"seed must be a whole number, got {self.seed!r}")
        if self.target_error is not None and not (0 < self.target_error < math.inf):
            raise ConfigError(
                f"target_error must be a positive share of the estimate, such as .05; got {self.target_error!r}"
            )
        if self.max_draws is not None and (self.target_error is None or self.max_draws < self.num_draws):
            raise ConfigError(
                f"max_draws ({self.max_draws}) is where a run to target_error ends: give target_error, and at least "
                f"num_draws ({self.num_draws}) draws"
            )
        if self.max_seconds is not None and not (0 < self.max_seconds < math.inf):
            raise ConfigError(f"max_seconds must be a positive number of seconds, got {self.max_seconds!r}")
        if self.microbatch_size is not None and self.microbatch_size < 1:
            raise ConfigError(f"microbatch_size must be 1 or more, got {self.microbatch_size}")

    @classmethod
    def of(cls, **settings: Any) -> EstimateSettings:
        """As the constructor; or those of `settings=`, settings or a calibration, with a `seed` if one is given.

        Raises `ConfigError` for an unknown setting, naming the nearest, and for one that is given beside `settings=`.
        """
        chosen = settings.pop("settings", None)
        known = [each.name for each in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise ConfigError(f"{name}: unknown setting of an LLC estimate; {nearest(name, [*known, 'settings'])}")
        own = cls(**settings)
        if chosen is None:
            return own
        of_calibration = getattr(chosen, "settings", chosen)
        if not isinstance(of_calibration, cls):
            raise ConfigError(f"settings must be what ld.calibrate returns, or EstimateSettings; got {chosen!r}")
        return of_calibration.in_place_of(own)

    def in_place_of(self, given: EstimateSettings) -> EstimateSettings:
        """These settings with the seed of `given`, in which nothing else may have been set.

        Raises `ConfigError` that names what was given beside settings.
        """
        plain = EstimateSettings()
        names = [each.name for each in dataclasses.fields(self) if each.name != "seed"]
        both = [name for name in names if getattr(given, name) != getattr(plain, name)]
        if both:
            raise ConfigError(
                f"{', '.join(both)} given beside settings=, which holds them; use dataclasses.replace(settings, ...)"
            )
        return self if given.seed == plain.seed else dataclasses.replace(self, seed=given.seed)

    def nbeta(self, num_samples: int) -> float:
        """The inverse temperature: the sampler's own, or n / log n."""
        return num_samples / math.log(num_samples) if self.sampler.nbeta is None else float(self.sampler.nbeta)

    def resolved(self, batches: Batches) -> dict[str, Any]:
        """JSON types, with what was left open (batch size, n) as it was used; what is off or only a matter of memory
        and speed is left out."""
        resolved: dict[str, Any] = {
            "sampler": sampler_to_mapping(self.sampler),
            "num_chains": self.num_chains,
            "num_draws": self.num_draws,
            "num_burnin": self.num_burnin,
            "batch_size": batches.batch_size,
            "num_samples": batches.num_samples,
            "seed": self.seed,
            "steps_per_draw": self.steps_per_draw,
        }
        if self.control_variate:
            resolved["control_variate"] = True
        if self.target_error is not None:
            resolved |= {"target_error": self.target_error, "max_draws": self.last_draw}
        if self.max_seconds is not None:
            resolved["max_seconds"] = self.max_seconds
        if self.bias_checks:
            resolved["bias_checks"] = True
        if self.chain_method == "vmap":
            resolved["chain_method"] = "vmap"
        if self.engine != "llc_dynamics":
            resolved["engine"] = self.engine
        if self.metric != "euclidean":
            resolved["metric"] = self.metric
        return resolved

    @property
    def last_draw(self) -> int:
        """Draws at which a run ends at the latest."""
        if self.target_error is None:
            return self.num_draws
        return _MOST_DRAWS * self.num_draws if self.max_draws is None else self.max_draws


def settings_to_mapping(settings: EstimateSettings) -> dict[str, Any]:
    """Settings as they stand in a file, by the names of `EstimateSettings`; what is not set is None."""
    values = {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)}
    return {**values, "sampler": sampler_to_mapping(settings.sampler)}


def settings_from_mapping(mapping: Mapping[str, Any], where: str) -> EstimateSettings:
    """The inverse of `settings_to_mapping`; what is left out has its default, a sampler without `kernel` is SGLD.

    Raises `ConfigError`, beginning with `where`, for an unknown setting (naming the nearest), one of another type or
    out of its range.
    """
    values = dict(mapping)
    sampler = values.pop("sampler", {})
    if not isinstance(sampler, Mapping):
        raise ConfigError(f'{where}: sampler must be a table such as {{ kernel = "MALT" }}, got {sampler!r}')
    kernel = sampler_from_mapping(dict(sampler), f"{where}: sampler")
    hints = get_type_hints(EstimateSettings)
    known = [each.name for each in dataclasses.fields(EstimateSettings)]
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where}: {name}: unknown setting; {nearest(name, known)}")
        values[name] = converted(hints[name], value, f"{where}: {name}")
    try:
        return EstimateSettings(sampler=kernel, **values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def sampler_to_mapping(sampler: Kernel) -> dict[str, Any]:
    """A kernel as it stands in a settings file: its name under `kernel`, and its settings.

    A None that is not the default is the text "none", because None itself stands for what is not set.
    """
    defaults = {each.name: each.default for each in dataclasses.fields(sampler) if each.init}  # type: ignore[arg-type]
    values = {name: value for name, value in to_mapping(sampler).items() if name in defaults}
    values |= {name: "none" for name, value in values.items() if value is None and defaults[name] is not None}
    return {"kernel": type(sampler).__name__, **values}


def sampler_from_mapping(mapping: dict[str, Any], where: str) -> Kernel:
    """The kernel that a settings file describes; without `kernel` it is SGLD.

    Raises `ConfigError` for an unknown kernel or setting, naming the nearest.
    """
    values = dict(mapping)
    name = values.pop("kernel", "SGLD")
    if name not in KERNELS:
        raise ConfigError(f"{where}: kernel '{name}' is unknown; {nearest(str(name), KERNELS)}")
    try:
        kernel: Kernel = from_mapping(KERNELS[name], values, where=where)
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    return kernel
