"""Optimisers by name, and their state as plain tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from llc_dynamics.errors import ConfigError
from llc_dynamics.settings import nearest
from llc_dynamics.systems.system import System
from llc_dynamics.training.config import TrainingConfig
from llc_dynamics.training.muon import Muon


def build_optimizers(model: nn.Module, system: System, settings: TrainingConfig) -> list[torch.optim.Optimizer]:
    """The optimisers that update `model` together; each group keeps its peak rate under "peak".

    "adam": Adam on everything. "muon": Muon on the matrices that the system names, Adam on the rest.

    Raises `ConfigError` for a system that names no matrices, or parameters that the model does not have.
    """
    beta1, beta2 = settings.betas
    matrices: list[dict[str, Any]] = []
    if settings.optimizer == "muon":
        parameters = dict(model.named_parameters())
        for name, blocks in system.muon_parameters(model):
            if name not in parameters:
                raise ConfigError(f"muon_parameters: the model has no '{name}'; {nearest(name, parameters)}")
            matrices.append({"params": [parameters[name]], "blocks": blocks})
    taken = {id(group["params"][0]) for group in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    found: list[torch.optim.Optimizer] = []
    if others:
        found.append(torch.optim.Adam(others, settings.learning_rate, (beta1, beta2), fused=True))
    if matrices:
        found.append(Muon(matrices, settings.muon_learning_rate, settings.muon_momentum))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return found


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What the optimiser has gathered, by parameter number, as tensors and numbers."""
    return {str(index): dict(values) for index, values in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The inverse of `optimizer_state`."""
    whole = optimizer.state_dict()
    whole["state"] = {int(index): values for index, values in state.items()}
    optimizer.load_state_dict(whole)
