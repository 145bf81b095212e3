"""In-context linear regression with nested task sets (Raventos et al. 2023; Carroll et al. 2025, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from llc_dynamics.errors import ConfigError
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.systems.in_context_regression import predictors


@dataclass(frozen=True)
class InContextRegression:
    """Sequences x_k ~ N(0, I_D), y_k ~ N(t . x_k, noise_variance), k = 1..K, with one task vector t per sequence.

    t is uniform on T_M = {t_1, ..., t_M}, the first M of one fixed infinite sequence t_1, t_2, ... ~ N(0, I_D) that
    `seed` determines. Task sets are therefore nested: the root task t_1 is in all of them. With M = infinity every
    sequence has a fresh t ~ N(0, I_D).

    Parameters
    ----------
    num_tasks : M, a whole number of 1 or more, or `math.inf`.
    dimension : D.
    context_length : K, 2 or more.
    noise_variance : variance of y given t and x; positive.
    seed : chooses the sequence of tasks.

    Raises `ConfigError` for values outside these ranges.
    """

    num_tasks: float = math.inf
    dimension: int = 4
    context_length: int = 8
    noise_variance: float = 0.125
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.num_tasks == math.inf or (self.num_tasks >= 1 and self.num_tasks == int(self.num_tasks))):
            raise ConfigError(f"num_tasks: M must be a whole number of 1 or more, or inf; got {self.num_tasks}")
        if self.dimension < 1:
            raise ConfigError(f"dimension: D must be 1 or more; got {self.dimension}")
        if self.context_length < 2:
            raise ConfigError(
                f"context_length: K must be 2 or more (at k=1 there is nothing in context); got {self.context_length}"
            )
        if not (0 < self.noise_variance < math.inf):
            raise ConfigError(
                f"noise_variance must be positive and finite; got {self.noise_variance} "
                "(for nearly noise-free labels take a small value such as 1e-6)"
            )

    @property
    def finite(self) -> bool:
        """Whether M is finite."""
        return self.num_tasks != math.inf

    def with_tasks(self, num_tasks: float) -> InContextRegression:
        """The same world with another M: `with_tasks(math.inf)` is q_inf, `with_tasks(1)` the root task alone."""
        return replace(self, num_tasks=num_tasks)

    def task_vectors(self) -> Tensor:
        """T_M as float64 [M, D]. Raises `ConfigError` for M = infinity."""
        if not self.finite:
            raise ConfigError("task_vectors: there is no finite task set at M = infinity")
        return _task_sequence(self.seed, self.dimension, int(self.num_tasks))

    def sample(
        self, generator: torch.Generator, batch_size: int, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Draw sequences: x [B, K, D] and y [B, K], on the generator's device."""
        device = generator.device
        if self.finite:
            tasks = _task_sequence_on(self.seed, self.dimension, int(self.num_tasks), device, dtype)
            t = tasks[torch.randint(len(tasks), (batch_size,), generator=generator, device=device)]
        else:
            t = torch.randn(batch_size, self.dimension, generator=generator, device=device, dtype=dtype)
        shape = (batch_size, self.context_length)
        x = torch.randn(*shape, self.dimension, generator=generator, device=device, dtype=dtype)
        noise = torch.randn(shape, generator=generator, device=device, dtype=dtype)
        y = (x @ t[:, :, None])[..., 0] + math.sqrt(self.noise_variance) * noise
        return x, y

    def ridge(self, x: Tensor, y: Tensor) -> Tensor:
        """Predictions [B, K] of the ridge predictor, the Bayes optimum of q_inf."""
        return predictors.ridge(x, y, self.noise_variance)

    def dmmse(self, x: Tensor, y: Tensor) -> Tensor:
        """Predictions [B, K] of dMMSE_M, the Bayes optimum of q_M (at M = infinity this is ridge)."""
        if not self.finite:
            return self.ridge(x, y)
        return predictors.dmmse(x, y, self.task_vectors(), self.noise_variance)


@lru_cache(maxsize=16)
def _task_sequence(seed: int, dimension: int, count: int) -> Tensor:
    # NumPy fills an array number by number, so a longer draw begins with the shorter one: that makes T_M nested.
    return torch.from_numpy(numpy_generator(seed, "tasks").standard_normal((count, dimension)))


@lru_cache(maxsize=16)
def _task_sequence_on(seed: int, dimension: int, count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Where and in which format batches are drawn: converted once, not for every batch."""
    return _task_sequence(seed, dimension, count).to(device=device, dtype=dtype)
