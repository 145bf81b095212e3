"""How chains are run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from llc_dynamics.errors import ConfigError
from llc_dynamics.sampling.devinterp_engine import DevinterpKernel, Engine, require_engine
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.sampling.group_model import ChainMethod
from llc_dynamics.sampling.kernel import Kernel
from llc_dynamics.sampling.sgld import SGLD
from llc_dynamics.settings import with_plain_numbers

_LEAST = {"num_chains": 1, "num_draws": 4, "num_burnin": 0, "steps_per_draw": 1}


@dataclass(frozen=True)
class ChainSettings:
    """What `Chains` is told; `llc.EstimateSettings` adds how an estimate is made of them.

    Parameters
    ----------
    sampler, num_chains, num_draws, num_burnin, seed : as in `estimate_llc`.
    steps_per_draw : updates per draw; the loss at w* is needed once a draw.
    chain_method : "loop", "vmap" (all chains as one batch of work), or "auto".
    engine : who makes the updates: "llc_dynamics", or "devinterp", which runs devinterp's optimiser for the same kernel
        (`SGLD`, `RMSpropSGLD`) in this estimator, for comparison; see `llc_dynamics.sampling.devinterp_engine`.

    Raises `ConfigError` for a setting out of its range.
    """

    sampler: Kernel = field(default_factory=SGLD)
    num_chains: int = 4
    num_draws: int = 500
    num_burnin: int = 200
    steps_per_draw: int = 1
    seed: int = 0
    chain_method: ChainMethod = "auto"
    engine: Engine = "llc_dynamics"

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        if not isinstance(self.sampler, Kernel):
            raise ConfigError(f"sampler must be a kernel such as SGLD(step_size=1e-4), got {self.sampler!r}")
        require_engine(self.engine, self.sampler)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
        for each in fields(self):
            if isinstance(each.default, bool) and not isinstance(getattr(self, each.name), bool):
                raise ConfigError(f"{each.name} must be True or False, got {getattr(self, each.name)!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ConfigError(f"seed must be a whole number, got {self.seed!r}")

    def nbeta(self, num_samples: int) -> float:
        """The inverse temperature: the sampler's own, or n / log n."""
        return num_samples / math.log(num_samples) if self.sampler.nbeta is None else float(self.sampler.nbeta)

    def kernel_for(self, model: FlatModel) -> Kernel:
        """What moves the chains of an entered `FlatModel`."""
        return self.sampler if self.engine == "llc_dynamics" else DevinterpKernel(self.sampler, model)
