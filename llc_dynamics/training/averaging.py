"""Exponential moving average of weights, corrected for its start (as Adam corrects its moments)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """average_s = sum_{i<=s} decay^(s-i) w_i / sum_{i<=s} decay^(s-i), over the weights after updates 0..s.

    `model` is a copy of the module that holds the average after `materialise()`. Buffers are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._source = model
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.weight = 1.0
        self._sums: list[Tensor] = [parameter.detach().clone() for parameter in model.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's weights after one more optimiser update."""
        torch._foreach_mul_(self._sums, self.decay)
        torch._foreach_add_(self._sums, [parameter.detach() for parameter in self._source.parameters()])
        self.weight = self.weight * self.decay + 1.0

    @torch.no_grad()
    def materialise(self) -> None:
        """Write the average into `self.model`."""
        for parameter, total in zip(self.model.parameters(), self._sums, strict=True):
            torch.div(total, self.weight, out=parameter.data)
        for own, other in zip(self.model.buffers(), self._source.buffers(), strict=True):
            own.copy_(other)

    def state(self) -> dict[str, Any]:
        return {"weight": self.weight, "sums": {str(i): total for i, total in enumerate(self._sums)}}

    def load_state(self, state: dict[str, Any]) -> None:
        self.weight = float(state["weight"])
        self._sums = [state["sums"][str(i)].clone() for i in range(len(self._sums))]
