"""Optimisers by name, and their state as plain tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from llc_dynamics.training.config import TrainingConfig
from llc_dynamics.training.muon import Muon


def build_optimizers(model: nn.Module, settings: TrainingConfig) -> list[torch.optim.Optimizer]:
    """The optimisers that update `model` together; each group keeps its peak rate under "peak".

    "adam": Adam on everything. "muon": Muon on the matrices inside the blocks (a fused query-key-value map counts as
    three), Adam on embeddings, read-out, norms and biases.
    """
    beta1, beta2 = settings.betas
    matrices: list[dict[str, Any]] = []
    if settings.optimizer == "muon":
        for name, parameter in model.named_parameters():
            if name.startswith("blocks.") and parameter.ndim == 2:
                blocks = 3 if name.endswith("query_key_value.weight") else 1
                matrices.append({"params": [parameter], "blocks": blocks})
    taken = {id(group["params"][0]) for group in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    found: list[torch.optim.Optimizer] = [torch.optim.Adam(others, settings.learning_rate, (beta1, beta2), fused=True)]
    if matrices:
        found.append(Muon(matrices, settings.muon_learning_rate, settings.muon_momentum))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return found


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's rate to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak"]


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What the optimiser has gathered, by parameter number, as tensors and numbers."""
    return {str(index): dict(values) for index, values in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The inverse of `optimizer_state`."""
    whole = optimizer.state_dict()
    whole["state"] = {int(index): values for index, values in state.items()}
    optimizer.load_state_dict(whole)
