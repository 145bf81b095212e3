"""Probes in a loop of one's own: the same metrics, arrays and description as a system's run has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llc_dynamics.errors import ConfigError
from llc_dynamics.systems.checks import check_probe
from llc_dynamics.systems.description import Description
from llc_dynamics.systems.measure import Observer, ProbeSet, described
from llc_dynamics.systems.system import Probe, System

#: From a model and a batch to one loss a sample [B], or to outputs [B, ...].
ModelFunction = Callable[[nn.Module, Any], torch.Tensor]


@dataclass(frozen=True)
class _Loop(System):
    """What a loop of one's own measures with."""

    loss_fn: ModelFunction
    output_fn: ModelFunction | None

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return self.loss_fn(model, batch)

    def outputs(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return super().outputs(model, batch) if self.output_fn is None else self.output_fn(model, batch)


def loop_probes(
    model: nn.Module,
    *,
    system: System | None,
    probes: Mapping[str, Any] | None,
    references: Mapping[str, Callable[[Any], torch.Tensor]] | None,
    loss_fn: ModelFunction | None,
    output_fn: ModelFunction | None,
    description: Description | Mapping[str, Any] | None,
    own_outputs: bool,
) -> tuple[ProbeSet | None, Description | None]:
    """The probes of a `Recorder` and the description of its run, both None where nothing was given.

    own_outputs : whether the loop has a function vector of its own. Others : as in `Recorder`.
    """
    told = Description.from_dict(description) if isinstance(description, Mapping) else description
    if system is None and probes is None:
        if references or loss_fn or output_fn:
            raise ConfigError("references=, loss_fn= and output_fn= are for probes=, which were not given")
        return None, told
    if system is not None:
        if probes or references or loss_fn or output_fn:
            raise ConfigError("system= has probes, references, loss and outputs; leave out probes=, loss_fn= and so on")
        measured, found = system, dict(system.probes(0))
        told = system.describe() if told is None else told
    else:
        if loss_fn is None:
            raise ConfigError("probes= needs loss_fn=, a function (model, batch) -> one loss a sample [B]")
        measured, found = _Loop(loss_fn, output_fn), {}
        for name, given in (probes or {}).items():
            probe = given if isinstance(given, Probe) else Probe(given)
            computed = {reference: predict(probe.batch) for reference, predict in (references or {}).items()}
            found[name] = Probe(probe.batch, probe.target, {**probe.references, **computed})
        if told is None:
            told = Description(
                probes={name: name for name in found}, function_vector=None if own_outputs else next(iter(found), None)
            )
    complete = described(told, found)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def check(own: nn.Module) -> None:
        for name, probe in found.items():
            check_probe(own, measured, f"probe '{name}'", probe, name == complete.function_vector, device)

    Observer()(model, check)
    return ProbeSet(measured, found, complete, device), complete
