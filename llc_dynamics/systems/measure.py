"""What is measured of a model at every checkpoint, by one rule for all systems: losses and distances on probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llc_dynamics.batch import leaves, mapped, parts
from llc_dynamics.seeding import isolated_generators
from llc_dynamics.settings import plain_number
from llc_dynamics.systems.description import Description, distance_metric, loss_metric
from llc_dynamics.systems.system import Probe, System
from llc_dynamics.trajectory.state import bare

T = TypeVar("T")
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
        self._observe = Observer()
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
        return self._observe(model, self._measured)

    def _measured(self, model: nn.Module) -> Measurement:
        values: dict[str, Tensor] = {}
        vector = None
        for name, probe in self._probes.items():
            wanted = bool(probe.references) or name == self._function_vector
            losses, outputs = self._evaluate(model, probe, wanted)
            values[loss_metric(name)] = losses.double()
            for reference, target in probe.references.items():
                difference = (outputs.double() - target).square()
                values[distance_metric(name, reference)] = difference.reshape(len(difference), -1).mean(1)
            if name == self._function_vector:
                vector = outputs.float().cpu().numpy()
        metrics = {name: value.mean().item() for name, value in values.items()}
        metrics |= {
            name: float(plain_number(value)) for name, value in self._system.metrics(model, self._probes).items()
        }
        samples = {name: values[name].float().cpu().numpy() for name in values if name in self._sampled}
        return Measurement(metrics, samples, vector)

    def _evaluate(self, model: nn.Module, probe: Probe, with_outputs: bool) -> tuple[Tensor, Tensor]:
        pieces = list(parts(probe.batch, _SAMPLES))
        if not with_outputs:
            return torch.cat([self._system.loss(model, piece).detach() for piece in pieces]), torch.empty(0)
        found = [[each.detach() for each in self._system.measure(model, piece)] for piece in pieces]
        return torch.cat([losses for losses, _ in found]), torch.cat([outputs for _, outputs in found])


class Observer:
    """Looks at a model without disturbing its training: without gradients, unless what is looked at needs them.

    Forces, losses of differential equations and gradient penalties take `torch.autograd.grad` of their own. What has
    failed without gradients and not with them is looked at with them from then on, always from the start.
    """

    def __init__(self) -> None:
        self._gradients = False

    def __call__(self, model: nn.Module, look: Callable[[nn.Module], T]) -> T:
        """`look(model)` of the bare module; what it returns may still be part of a graph."""
        if not self._gradients:
            try:
                with _undisturbed(model) as own, torch.no_grad():
                    return look(own)
            except Exception:
                pass  # looked at again, outside of this block: the error that counts is that of the second time
        with _undisturbed(model) as own, torch.inference_mode(False), torch.enable_grad():
            found = look(own)
        self._gradients = True
        return found


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """The bare module in evaluation mode; afterwards the training goes on as if nothing was.

    Every module gets back the mode (training or evaluation) it had, and the global random generators their state. A
    forward pass through a data-parallel wrapper on one process would wait for the others for ever, hence the bare one.
    Fused attention for inference is off: at padded positions it gives other values than the layers that are trained.
    """
    own = bare(model)
    modes = [(module, module.training) for module in own.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    own.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with isolated_generators(0):
            yield own
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
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
