"""Muon: momentum whose update is orthogonalised, for the hidden matrices of a network (Jordan et al. 2024).

    B <- mu B + G,    U = G + mu B,    W <- W - eta sqrt(max(1, rows / columns)) NS(U)

NS is five quintic Newton-Schulz iterations, which bring the singular values of U near 1. `torch.optim.Muon` visits
matrices one by one and iterates in bfloat16, which CPUs do slowly: some 47 ms an update for the 51,717-parameter
transformer, more than its forward and backward pass take. Here all matrices of one shape are one batched product in
float32: some 2 ms (`experiments/benchmarks/training.py` measures both). A test holds the two together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from llc_dynamics.errors import ConfigError

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon for 2-D parameters.

    Parameters
    ----------
    params : matrices, or groups of them. A group may say `blocks=b` where each of its matrices is b maps stacked by
        rows (a fused query-key-value map: 3); every one is orthogonalised by itself.
    lr : eta; momentum : mu.

    Raises `ConfigError` for parameters that are not matrices or do not divide into `blocks`.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float = 0.01, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "blocks": 1})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2 or parameter.shape[0] % group["blocks"]:
                    raise ConfigError(
                        f"Muon takes matrices whose rows divide into {group['blocks']} blocks; "
                        f"got shape {tuple(parameter.shape)}; give other parameters to Adam"
                    )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor, float]]] = defaultdict(list)
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            buffers = [self._momentum_buffer(parameter) for parameter in parameters]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, gradients)
            directions = torch._foreach_add(gradients, buffers, alpha=group["momentum"])
            for parameter, direction in zip(parameters, directions, strict=True):
                for weight, update in zip(
                    parameter.chunk(group["blocks"]), direction.chunk(group["blocks"]), strict=True
                ):
                    by_shape[weight.shape[0], weight.shape[1]].append((weight, update, group["lr"]))
        for (rows, columns), members in by_shape.items():
            orthogonal = _orthogonalise(torch.stack([update for _, update, _ in members]))
            scale = max(1.0, rows / columns) ** 0.5
            for (weight, _, rate), update in zip(members, orthogonal, strict=True):
                weight.add_(update, alpha=-rate * scale)

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def _orthogonalise(matrices: Tensor) -> Tensor:
    """Newton-Schulz on [batch, rows, columns]: U S V' -> about U V'."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x
