"""The settings of an estimate: one frozen object, checked once, the same for every point of a curve."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from llc_dynamics.errors import ConfigError
from llc_dynamics.sampling.batches import Batches
from llc_dynamics.sampling.kernel import Kernel
from llc_dynamics.sampling.sgld import SGLD
from llc_dynamics.settings import nearest, to_mapping

_LEAST = {"num_chains": 1, "num_draws": 4, "num_burnin": 0, "steps_per_draw": 1}


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

    def __post_init__(self) -> None:
        if self.sampler is None:
            object.__setattr__(self, "sampler", SGLD())
        if not (hasattr(self.sampler, "update") and hasattr(self.sampler, "localization")):
            raise ConfigError(f"sampler must be a kernel such as SGLD(step_size=1e-4), got {self.sampler!r}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ConfigError(f"seed must be a whole number, got {self.seed!r}")

    @classmethod
    def of(cls, **settings: Any) -> EstimateSettings:
        """As the constructor, but an unknown setting is a `ConfigError` that names the nearest known one."""
        known = [each.name for each in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise ConfigError(f"{name}: unknown setting of an LLC estimate; {nearest(name, known)}")
        return cls(**settings)

    def nbeta(self, num_samples: int) -> float:
        """The inverse temperature: the sampler's own, or n / log n."""
        return num_samples / math.log(num_samples) if self.sampler.nbeta is None else float(self.sampler.nbeta)

    def resolved(self, batches: Batches) -> dict[str, Any]:
        """JSON types, with what was left open (batch size, n) as it was used."""
        return {
            "sampler": {"kernel": type(self.sampler).__name__, **to_mapping(self.sampler)},
            "num_chains": self.num_chains,
            "num_draws": self.num_draws,
            "num_burnin": self.num_burnin,
            "batch_size": batches.batch_size,
            "num_samples": batches.num_samples,
            "seed": self.seed,
            "steps_per_draw": self.steps_per_draw,
        }
