"""The protocol of a system: what is trained, and how it is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llc_dynamics.errors import ConfigError
from llc_dynamics.systems.description import Description


@dataclass(frozen=True, eq=False)
class Probe:
    """A fixed evaluation set.

    batch : what `loss` and `outputs` take, S samples. target : [S, ...] of the shape of the outputs, or None.
    references : {name: outputs [S, ...] of an ideal predictor on the batch}.
    """

    batch: Any
    target: Tensor | None = None
    references: Mapping[str, Tensor] = field(default_factory=dict)


class System:
    """What is trained and how it is looked at. A subclass is a frozen dataclass whose fields are its settings.

    `build`, `loss`, and `sample` or `data` have to be given; all else has a default.
    """

    name: ClassVar[str]

    def build(self, seed: int) -> nn.Module:
        """The model at its initialisation; the same for the same seed."""
        raise ConfigError(f"{type(self).__name__}: a system needs build(self, seed) -> nn.Module")

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The training loss of each sample, [B]."""
        raise ConfigError(f"{type(self).__name__}: a system needs loss(self, model, batch) -> Tensor [B]")

    def sample(self, generator: torch.Generator, batch_size: int) -> Any:
        """A batch from the training distribution, on the generator's device."""
        raise ConfigError(f"{type(self).__name__}: a system needs sample(self, generator, batch_size), or data(self)")

    def data(self) -> Any:
        """The training set, tensors with the samples first; None where `sample` draws fresh ones."""
        return None

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """Outputs [B, ...]: for the behavioural loss, function vectors and distances to references."""
        return model(batch[0] if isinstance(batch, tuple | list) else batch)

    def probes(self, seed: int) -> Mapping[str, Probe]:
        """Fixed evaluation sets by name; the same for the same seed."""
        return {}

    def describe(self) -> Description:
        """Names and words for whoever shows the runs."""
        return Description()
