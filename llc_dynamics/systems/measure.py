"""What is measured of a model at every checkpoint, by one rule for all systems: losses and distances on probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llc_dynamics.batch import leaves, mapped, parts
from llc_dynamics.seeding import isolated_generators
from llc_dynamics.systems.description import Description, distance_metric, loss_metric
from llc_dynamics.systems.system import Probe, System
from llc_dynamics.trajectory.state import bare

#: The set of fixed arrays that holds the probes of a run.
PROBES = "probes"
_SAMPLES = 512  # a forward pass; more of them leave the cache of small machines


@dataclass(frozen=True)
class Measurement:
    """Metrics by name, their values for every sample [S], and the function vector [S, ...] or None."""

    metrics: dict[str, float]
    samples: dict[str, NDArray[np.float32]]
    outputs: NDArray[np.float32] | None


class ProbeSet:
    """Probes on a device, and what is measured on them.

    `loss/<probe>` is the mean loss over the samples of a probe, `distance/<probe>/<reference>` the mean squared
    difference of the outputs from a reference's over samples and positions. Detectors bootstrap over samples, so the
    values for each sample are kept of every loss, and of the distances that a transition names.
    """

    def __init__(
        self, system: System, probes: Mapping[str, Probe], description: Description, device: str | torch.device = "cpu"
    ) -> None:
        self._system = system
        self._function_vector = description.function_vector
        self._probes = {name: _moved(probe, device) for name, probe in probes.items()}
        self._sampled = {loss_metric(name) for name in probes}
        for transition in description.transitions:
            self._sampled |= {distance_metric(*pair) for pair in transition.distances()}

    def arrays(self) -> dict[str, Tensor]:
        """To store with the run: `<probe>/batch/<i>`, `<probe>/target`, `<probe>/reference/<reference>`."""
        found: dict[str, Tensor] = {}
        for name, probe in self._probes.items():
            found |= {f"{name}/batch/{place}": leaf for place, leaf in enumerate(leaves(probe.batch))}
            found |= {} if probe.target is None else {f"{name}/target": probe.target}
            found |= {f"{name}/reference/{reference}": value for reference, value in probe.references.items()}
        return {name: value.detach().cpu() for name, value in found.items()}

    def measure(self, model: nn.Module) -> Measurement:
        """Evaluate a model; its modes and the global random generators stay as they are."""
        values: dict[str, Tensor] = {}
        vector = None
        with undisturbed(model) as own:
            for name, probe in self._probes.items():
                wanted = bool(probe.references) or name == self._function_vector
                losses, outputs = self._evaluate(own, probe, wanted)
                values[loss_metric(name)] = losses.double()
                for reference, target in probe.references.items():
                    difference = (outputs.double() - target).square()
                    values[distance_metric(name, reference)] = difference.reshape(len(difference), -1).mean(1)
                if name == self._function_vector:
                    vector = outputs.float().cpu().numpy()
            metrics = {name: value.mean().item() for name, value in values.items()}
            metrics |= {name: float(value) for name, value in self._system.metrics(own, self._probes).items()}
        samples = {name: values[name].float().cpu().numpy() for name in values if name in self._sampled}
        return Measurement(metrics, samples, vector)

    def _evaluate(self, model: nn.Module, probe: Probe, with_outputs: bool) -> tuple[Tensor, Tensor]:
        pieces = list(parts(probe.batch, _SAMPLES))
        if not with_outputs:
            return torch.cat([self._system.loss(model, piece) for piece in pieces]), torch.empty(0)
        found = [self._system.measure(model, piece) for piece in pieces]
        return torch.cat([losses for losses, _ in found]), torch.cat([outputs for _, outputs in found])


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """The bare module in evaluation mode and without gradients; afterwards the training goes on as if nothing was.

    Every module gets back the mode (training or evaluation) it had, and the global random generators their state. A
    forward pass through a data-parallel wrapper on one process would wait for the others for ever, hence the bare one.
    """
    own = bare(model)
    modes = [(module, module.training) for module in own.modules()]
    own.eval()
    try:
        with torch.no_grad(), isolated_generators(0):
            yield own
    finally:
        for module, mode in modes:
            module.training = mode


def described(description: Description, probes: Mapping[str, Probe]) -> Description:
    """The description with a label for every probe and reference: its name, where the description has none."""
    references = {name: name for probe in probes.values() for name in probe.references}
    return replace(
        description,
        probes={name: name for name in probes} | dict(description.probes),
        references=references | dict(description.references),
    )


def _moved(probe: Probe, device: str | torch.device) -> Probe:
    return Probe(
        mapped(probe.batch, lambda leaf: leaf.to(device)),
        None if probe.target is None else probe.target.to(device),
        {name: value.to(device) for name, value in probe.references.items()},
    )
