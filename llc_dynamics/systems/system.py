"""The protocol of a system: what is trained, and how it is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from llc_dynamics.batch import first_samples, with_tensors
from llc_dynamics.errors import ConfigError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.description import Description

_PROBE_SAMPLES = 256


@dataclass(frozen=True, eq=False)
class Probe:
    """A fixed evaluation set.

    batch : what `loss` and `outputs` take, S samples. target : [S, ...] of the shape of the outputs, or None.
    references : {name: outputs [S, ...] of an ideal predictor on the batch}. Arrays of NumPy become tensors.
    """

    batch: Any
    target: Tensor | None = None
    references: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, with_tensors(getattr(self, each.name)))


class System:
    """What is trained and how it is looked at. A subclass is a frozen dataclass whose fields are its settings.

    `build`, `loss`, and `sample` or `data` have to be given; all else has a default. A class with these methods that
    does not inherit from this one is taken, too. A field `seed` is set to the seed of the run.
    """

    name: ClassVar[str]
    #: How the behavioural loss compares outputs: "squared", or "kl" where they are logits.
    divergence: ClassVar[Literal["squared", "kl"]] = "squared"
    #: Where the behavioural loss of a sample saturates, see `ld.behavioural`; None: nowhere.
    bound: ClassVar[float | None] = None

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
        """The training set, a tuple or dict of tensors with the samples first; None where `sample` draws fresh ones."""
        return None

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """Outputs [B, ...]: for the behavioural loss, function vectors and distances to references."""
        return model(batch[0] if isinstance(batch, tuple | list) else batch)

    def measure(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """`loss` and `outputs` on a part of a probe; worth giving where one forward pass yields both."""
        return self.loss(model, batch), self.outputs(model, batch)

    def metrics(self, model: nn.Module, probes: Mapping[str, Probe]) -> Mapping[str, float]:
        """What is measured at every checkpoint besides losses and distances on the probes."""
        return {}

    def probes(self, seed: int) -> Mapping[str, Probe]:
        """Fixed evaluation sets by name, the same for the same seed; by default one, of training samples."""
        data = self.data()
        if data is None:
            return {"train": Probe(self.sample(torch_generator(seed, "probe"), _PROBE_SAMPLES))}
        return {"train": Probe(first_samples(data, _PROBE_SAMPLES))}

    def describe(self) -> Description:
        """Names and words for whoever shows the runs; by default the names of the probes and their references."""
        probes = self.probes(0)
        return Description(
            probes={name: name for name in probes},
            function_vector=next(iter(probes), None),
            references={name: name for probe in probes.values() for name in probe.references},
        )

    def muon_parameters(self, model: nn.Module) -> list[tuple[str, int]]:
        """The matrices that the Muon optimiser takes: (parameter name, maps that are stacked in it by rows)."""
        raise ConfigError(
            f'training.optimizer = "muon": {type(self).__name__} does not say which matrices Muon takes; choose '
            '"adam", or give it muon_parameters(self, model) -> [(parameter name, number of maps stacked by rows)]'
        )
