"""Multi-head attention on sparse regression as a system: task, models and references put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from llc_dynamics.errors import ConfigError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.settings import with_plain_numbers
from llc_dynamics.systems.description import Axis, Description
from llc_dynamics.systems.linear_transformer.model import Architecture, LinearTransformer, shrink
from llc_dynamics.systems.linear_transformer.task import Contexts, moments_of
from llc_dynamics.systems.sparse_heads import references
from llc_dynamics.systems.sparse_heads.model import SoftmaxTransformer
from llc_dynamics.systems.sparse_heads.task import Coefficients, SparseTask, answers, excess_risk
from llc_dynamics.systems.system import Probe, System

_WORDS = (
    "A transformer of {layers} layers with {heads} in each sees {n} noisy examples of a linear function of {d} inputs, "
    "{s} of which count, and answers a query. Gradient descent and ridge regression know nothing of the zeros. "
    "Preprocessed gradient descent first scales every input by its correlation with the label; the Lasso looks for the "
    "zeros. The risk has heavy tails: medians say more than means."
)
#: References on the probe: what is compared over training.
_COMPARED = ("zero", "flow", "preprocessed", "ridge", "ols", "lasso", "support")


@dataclass(frozen=True)
class SparseRegression(System):
    """Sparse regression in context, answered by multi-head attention; see `task.py` and `model.py`.

    The loss is the excess risk of each context, the squared error of its noise-free queries: |w^L - w|^2 for linear
    attention, whose outputs are w^L [B, d]; for softmax attention, which has no such weights, the mean over
    `num_queries` queries, and outputs are predictions [B, m].

    Probe: `id`, fixed contexts. References: see `references.LABELS`, with constants tuned for this task.

    Parameters
    ----------
    dimension, sparsity, num_examples, sigma, coefficients : of the task, see `SparseTask`.
    attention : "linear" or "softmax". num_layers, num_heads : of the model. num_queries : m, for softmax.
    num_contexts : of the probe.

    Raises `ConfigError` for values outside their ranges.
    """

    name: ClassVar[str] = "sparse_heads"
    #: Some layers are a polynomial of a high degree: without a bound chains run away.
    bound: ClassVar[float | None] = 1.0

    dimension: int = 16
    sparsity: int = 4
    num_examples: int = 40
    sigma: float = 1.0
    coefficients: Coefficients = "gaussian"
    attention: Literal["linear", "softmax"] = "linear"
    num_layers: int = 3
    num_heads: int = 8
    num_queries: int = 16
    num_contexts: int = 1024

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        if self.attention not in ("linear", "softmax"):
            raise ConfigError(f"attention: '{self.attention}' is unknown; known: linear, softmax")
        for name, least in (("num_queries", 1), ("num_contexts", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be {least} or more; got {getattr(self, name)}")
        _ = self.task, self.architecture  # their settings are checked before anything is built

    @property
    def task(self) -> SparseTask:
        """The distribution of contexts."""
        return SparseTask(self.dimension, self.sparsity, self.num_examples, self.sigma, self.coefficients)

    @property
    def architecture(self) -> Architecture:
        """The sizes of the model."""
        return Architecture(self.dimension, self.num_examples, "full", self.num_layers, self.num_heads)

    @property
    def linear(self) -> bool:
        """Whether attention is linear."""
        return self.attention == "linear"

    def heads(self) -> dict[tuple[int, int], dict[str, int]]:
        """{(layer, head): {parameter: index of the head's part}}, both from 1; see `llc_dynamics.heads`."""
        return {
            (layer + 1, head + 1): {f"p.{layer}": head, f"q.{layer}": head}
            for layer in range(self.num_layers)
            for head in range(self.num_heads)
        }

    def build(self, seed: int) -> nn.Module:
        """The model at its initialisation: random weights, shrunk until the mean loss is below 10."""
        kind = LinearTransformer if self.linear else SoftmaxTransformer
        model = kind(self.architecture, seed=seed)
        batch = self.sample(torch_generator(seed, "start"), 1024)
        shrink(model, lambda: self.loss(model, batch))
        return model

    def sample(self, generator: torch.Generator, batch_size: int) -> tuple[Tensor, ...]:
        """Fresh contexts: moments [B, d+1, d+1] and w [B, d], or for softmax tokens, queries [B, m, d] and w."""
        if self.linear:
            return self.task.contexts(generator, batch_size).batch
        return self.task.tokens(generator, batch_size, self.num_queries)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """The excess risk of each context [B]."""
        return self._risk(self.outputs(model, batch), batch)

    def outputs(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """w^L [B, d], or predictions [B, m]."""
        return model(*batch[:-1])

    def measure(self, model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Losses and outputs, from one forward pass."""
        found = self.outputs(model, batch)
        return self._risk(found.double(), tuple(each.double() for each in batch)), found

    def _risk(self, outputs: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
        if self.linear:
            return excess_risk(outputs, batch[-1])
        return (outputs - answers(batch[1], batch[-1])).square().mean(1)

    def metrics(self, model: nn.Module, probes: Mapping[str, Probe]) -> Mapping[str, float]:
        """The median excess risk after every layer, which heavy tails leave alone, read out as after the last one."""
        batch = probes["id"].batch
        if isinstance(model, LinearTransformer):
            by_layer = list(model.weights_by_layer(batch[0]))
        else:
            assert isinstance(model, SoftmaxTransformer)
            by_layer = model.predictions_by_layer(*batch[:-1])
        medians = [self._risk(found, batch).median().item() for found in by_layer]
        return {f"median/layer_{layer}": median for layer, median in enumerate(medians, start=1)}

    def probes(self, seed: int) -> Mapping[str, Probe]:
        """`id`."""
        generator, names = torch_generator(seed, "evaluation"), self._compared
        if self.linear:
            contexts = self.task.contexts(generator, self.num_contexts)
            return {"id": Probe(contexts.batch, contexts.w, references.estimates(contexts, self.task, names))}
        tokens, queries, w = self.task.tokens(generator, self.num_contexts, self.num_queries)
        contexts = self.contexts_of(tokens, w)
        found = references.estimates(contexts, self.task, names)
        by_reference = {name: answers(queries, estimate) for name, estimate in found.items()}
        return {"id": Probe((tokens, queries, w), answers(queries, w), by_reference)}

    def contexts_of(self, tokens: Tensor, w: Tensor) -> Contexts:
        """Contexts by their moments, as the references take them."""
        moments = moments_of(tokens[..., :-1], tokens[..., -1])
        return Contexts(moments, w, torch.full_like(w[:, 0], self.sigma), tokens.shape[1])

    @property
    def _compared(self) -> list[str]:
        return [name for name in references.names_for(self.task) if name in _COMPARED]

    def describe(self) -> Description:
        """Runs differ in their number of heads."""
        label = f"H = {self.num_heads}"
        if not self.linear:
            label += ", softmax"
        heads = "one head" if self.num_heads == 1 else f"{self.num_heads} heads"
        return Description(
            axis=Axis("H", self.num_heads, label),
            probes={"id": "training distribution"},
            function_vector="id",
            references={name: references.LABELS[name] for name in self._compared},
            loss="excess risk",
            words=_WORDS.format(
                layers=self.num_layers, heads=heads, n=self.num_examples, d=self.dimension, s=self.sparsity
            ),
        )
