"""In-context linear regression with nested task sets (Raventos et al. 2023; Carroll et al. 2025, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from llc_dynamics.errors import ConfigError
from llc_dynamics.seeding import numpy_generator, torch_generator
from llc_dynamics.settings import with_plain_numbers
from llc_dynamics.systems.description import Axis, Description, Transition
from llc_dynamics.systems.in_context_regression import predictors
from llc_dynamics.systems.in_context_regression.transformer import InContextTransformer, TransformerConfig
from llc_dynamics.systems.system import Probe, System

_WORDS = (
    "M is the number of regression tasks that a model was trained on. Ridge is the ideal predictor for any task, dMMSE "
    "the one for the M training tasks. Transient ridge means that a model first comes near ridge and later leaves it "
    "for dMMSE: its loss on new tasks falls and then rises."
)


@dataclass(frozen=True)
class InContextRegression(System):
    """Sequences x_k ~ N(0, I_D), y_k ~ N(t . x_k, noise_variance), k = 1..K, with one task vector t per sequence.

    t is uniform on T_M = {t_1, ..., t_M}, the first M of one fixed infinite sequence t_1, t_2, ... ~ N(0, I_D) that
    `seed` determines. Task sets are therefore nested: the root task t_1 is in all of them. With M = infinity every
    sequence has a fresh t ~ N(0, I_D).

    Probes: `id`, sequences from q_M; `ood`, sequences from q_inf; `root`, sequences of the root task t_1, on which the
    function vector is taken (Carroll et al. 2025, section 4). References: ridge, and dMMSE_M where M is finite.

    Parameters
    ----------
    num_tasks : M, a whole number of 1 or more, or `math.inf`. dimension : D. context_length : K, 2 or more.
    noise_variance : variance of y given t and x; positive. seed : chooses the sequence of tasks.
    num_layers, num_heads, width, mlp_width, attention_output : of the transformer, see `TransformerConfig`.
    num_sequences : of the probes `id` and `ood`. num_root_sequences : of `root`.

    Raises `ConfigError` for values outside these ranges.
    """

    name: ClassVar[str] = "in_context_regression"

    num_tasks: float = math.inf
    dimension: int = 4
    context_length: int = 8
    noise_variance: float = 0.125
    seed: int = 0
    num_layers: int = 2
    num_heads: int = 4
    width: int = 64
    mlp_width: int = 64
    attention_output: bool = True
    num_sequences: int = 1024
    num_root_sequences: int = 256

    def __post_init__(self) -> None:
        with_plain_numbers(self)
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
        for name in ("num_sequences", "num_root_sequences"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name} must be 2 or more; got {getattr(self, name)}")
        self.transformer()  # its sizes are checked before anything is built

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

    def transformer(self) -> TransformerConfig:
        """The sizes of the model."""
        return TransformerConfig(
            self.dimension,
            self.context_length,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            width=self.width,
            mlp_width=self.mlp_width,
            attention_output=self.attention_output,
        )

    def build(self, seed: int) -> nn.Module:
        """The transformer at its initialisation."""
        return InContextTransformer(self.transformer(), seed=seed)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Squared error of each sequence [B], mean over the K positions."""
        x, y = batch
        return (model(x, y) - y).square().mean(1)

    def outputs(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Predictions [B, K]."""
        return model(*batch)

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Losses in float64 and predictions, from one forward pass."""
        found = model(*batch)
        return (found.double() - batch[1]).square().mean(1), found

    def ridge(self, x: Tensor, y: Tensor) -> Tensor:
        """Predictions [B, K] of the ridge predictor, the Bayes optimum of q_inf."""
        return predictors.ridge(x, y, self.noise_variance)

    def dmmse(self, x: Tensor, y: Tensor) -> Tensor:
        """Predictions [B, K] of dMMSE_M, the Bayes optimum of q_M (at M = infinity this is ridge)."""
        if not self.finite:
            return self.ridge(x, y)
        return predictors.dmmse(x, y, self.task_vectors(), self.noise_variance)

    def probes(self, seed: int) -> Mapping[str, Probe]:
        """`id`, `ood` and `root`; for one seed `ood` and `root` are the same for any M."""
        sources = {
            "id": (self, self.num_sequences),
            "ood": (self.with_tasks(math.inf), self.num_sequences),
            "root": (self.with_tasks(1), self.num_root_sequences),
        }
        found = {}
        for name, (source, count) in sources.items():
            x, y = source.sample(torch_generator(seed, "evaluation", name), count)
            references = {"ridge": self.ridge(x, y)} | ({"dmmse": self.dmmse(x, y)} if self.finite else {})
            found[name] = Probe((x, y), y, references)
        return found

    def describe(self) -> Description:
        """Runs differ in M; the transition is from ridge to dMMSE, seen on new tasks."""
        label = f"M = {self.num_tasks:,.0f}" if self.finite else "M = ∞"
        return Description(
            axis=Axis("M", self.num_tasks, label),
            probes={"id": "training tasks", "ood": "new tasks", "root": "root task"},
            function_vector="root",
            references={"ridge": "ridge"} | ({"dmmse": f"dMMSE, {label}"} if self.finite else {}),
            transitions=(Transition("ridge", "dmmse" if self.finite else None, "ood", "id"),),
            loss="mean squared error",
            words=_WORDS,
        )

    def muon_parameters(self, model: nn.Module) -> list[tuple[str, int]]:
        """The matrices inside the blocks; a fused query-key-value map counts as three."""
        return [
            (name, 3 if name.endswith("query_key_value.weight") else 1)
            for name, parameter in model.named_parameters()
            if name.startswith("blocks.") and parameter.ndim == 2
        ]


@lru_cache(maxsize=16)
def _task_sequence(seed: int, dimension: int, count: int) -> Tensor:
    # NumPy fills an array number by number, so a longer draw begins with the shorter one: that makes T_M nested.
    return torch.from_numpy(numpy_generator(seed, "tasks").standard_normal((count, dimension)))


@lru_cache(maxsize=16)
def _task_sequence_on(seed: int, dimension: int, count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Where and in which format batches are drawn: converted once, not for every batch."""
    return _task_sequence(seed, dimension, count).to(device=device, dtype=dtype)
