"""Linear transformers on mixed-noise regression as a system: task, model and references put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from llc_dynamics.errors import ConfigError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.settings import with_plain_numbers
from llc_dynamics.systems.description import Axis, Description
from llc_dynamics.systems.linear_transformer import references
from llc_dynamics.systems.linear_transformer.model import (
    Algorithm,
    Architecture,
    LinearTransformer,
    names_of_products,
    shrink,
)
from llc_dynamics.systems.linear_transformer.task import Contexts, Noise, draw, query_loss
from llc_dynamics.systems.linear_transformer.tuning import tuned
from llc_dynamics.systems.system import Probe, System

_WORDS = (
    "A linear transformer of {layers} layers sees {n} examples of a linear function of {d} inputs, with a noise of its "
    "own in every context ({noise}), and answers a query. What it has computed is one weight vector for each context. "
    "Ridge regression with the right noise is the best predictor; ConstRR takes one noise for all contexts, AdaRR and "
    "TunedRR estimate it."
)
_ALGORITHMS = {"full": "FULL", "diag": "DIAG", "gdpp": "GD++"}
_BEYOND = 1.5


@dataclass(frozen=True)
class MixedNoiseRegression(System):
    """Regression in context with w ~ N(0, I_d) and a noise level sigma of its own in every context; see `task.py`.

    The loss is half the squared error of the noise-free query in its mean over queries, 1/2 |w^L - w|^2. Outputs are
    w^L [B, d].

    Probes: `id`, contexts with the training noise, on which the function vector is taken; `beyond`, contexts with noise
    of 1.5 times the largest level of training. References: see `references.LABELS`, tuned for the training noise; those
    that estimate the noise need n > d and are left out otherwise.

    Parameters
    ----------
    sigma_max : sigma ~ U(0, sigma_max). sigmas : a set of levels with equal shares, in place of that.
    dimension, num_examples, algorithm, num_layers, num_heads, key_rank : of the model, see `Architecture`.
    num_contexts : of each probe.

    Raises `ConfigError` for values outside their ranges.
    """

    name: ClassVar[str] = "linear_transformer"
    #: The variance of w. Several layers are a polynomial of a high degree, of which a few contexts would rule the mean.
    bound: ClassVar[float | None] = 1.0

    sigma_max: float = 5.0
    sigmas: tuple[float, ...] | None = None
    dimension: int = 10
    num_examples: int = 20
    algorithm: Algorithm = "full"
    num_layers: int = 4
    num_heads: int = 1
    key_rank: int | None = None
    num_contexts: int = 1024

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        if self.num_contexts < 2:
            raise ConfigError(f"num_contexts must be 2 or more; got {self.num_contexts}")
        _ = self.noise, self.architecture  # their settings are checked before anything is built

    @property
    def noise(self) -> Noise:
        """Of the training contexts."""
        return Noise(self.sigma_max, self.sigmas)

    @property
    def architecture(self) -> Architecture:
        """The sizes of the model."""
        return Architecture(
            self.dimension, self.num_examples, self.algorithm, self.num_layers, self.num_heads, self.key_rank
        )

    def build(self, seed: int) -> nn.Module:
        """The model at its initialisation: random weights, shrunk until the mean loss is below 10."""
        model = LinearTransformer(self.architecture, seed=seed)
        batch = self.contexts(torch_generator(seed, "start"), 1024).batch
        shrink(model, lambda: self.loss(model, batch))
        return model

    def contexts(
        self,
        generator: torch.Generator,
        count: int,
        noise: Noise | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Contexts:
        """Draw contexts, with the training noise or another."""
        return draw(generator, count, self.dimension, self.num_examples, dtype).contexts(noise or self.noise)

    def sample(self, generator: torch.Generator, batch_size: int) -> tuple[Tensor, Tensor]:
        """Moments [B, d+1, d+1] and task vectors w [B, d] of fresh contexts."""
        return self.contexts(generator, batch_size).batch

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """1/2 |w^L - w|^2 of each context [B]."""
        return query_loss(model(batch[0]), batch[1])

    def outputs(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """w^L [B, d]."""
        return model(batch[0])

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Losses and weight vectors, from one forward pass."""
        found = model(batch[0])
        return query_loss(found.double(), batch[1].double()), found

    def metrics(self, model: nn.Module, probes: Mapping[str, Probe]) -> Mapping[str, float]:
        """The four products of every layer, and the root mean square of the momentum u^l after it."""
        assert isinstance(model, LinearTransformer)
        products = model.products().flatten().tolist()
        found = dict(zip(names_of_products(self.num_layers), products, strict=True))
        for layer, each in enumerate(model.maps(probes["id"].batch[0]), start=1):
            found[f"u/layer_{layer}"] = each[:, :-1, -1].square().mean().sqrt().item()
        return found

    def probes(self, seed: int) -> Mapping[str, Probe]:
        """`id` and `beyond`, of the same draw."""
        drawn = draw(torch_generator(seed, "evaluation"), self.num_contexts, self.dimension, self.num_examples)
        tuning = tuned(self.noise, self.dimension, self.num_examples)
        return {
            name: Probe(contexts.batch, contexts.w, references.estimates(contexts, tuning))
            for name, contexts in (("id", drawn.contexts(self.noise)), ("beyond", drawn.contexts(self._beyond)))
        }

    @property
    def _beyond(self) -> Noise:
        largest = max(self.noise.sigmas or (self.sigma_max,))
        return Noise(sigmas=(_BEYOND * largest or 1.0,))

    def describe(self) -> Description:
        """Runs differ in model and noise."""
        (beyond,) = self._beyond.sigmas or ()
        label = f"{_ALGORITHMS[self.algorithm]}, L = {self.num_layers}, {self.noise.label}"
        levels = "_".join(f"{level:g}" for level in self.noise.sigmas or (self.sigma_max,))
        short = f"{self.algorithm}-L{self.num_layers}-sigma{levels}"
        if self.num_heads > 1:
            label, short = f"{label}, {self.num_heads} heads", f"{short}-H{self.num_heads}"
        if self.key_rank is not None:
            label, short = f"{label}, keys of rank {self.key_rank}", f"{short}-R{self.key_rank}"
        return Description(
            axis=Axis("model", short, label),
            probes={"id": "training noise", "beyond": f"more noise, sigma = {beyond:g}"},
            function_vector="id",
            references={
                name: references.LABELS[name] for name in references.names_for(self.dimension, self.num_examples)
            },
            loss="half the squared error of the weights",
            words=_WORDS.format(layers=self.num_layers, n=self.num_examples, d=self.dimension, noise=self.noise.label),
        )
