"""Tensors by name in the place of a model, for writing runs whose model is not at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch


class StateHolder(torch.nn.Module):
    """A module whose state dict is whatever was put into `tensors`; it computes nothing.

    Parameters
    ----------
    tensors : the state, in the order in which it is to be stored.
    parameters : the names that count as parameters; all others are buffers.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], parameters: Iterable[str]) -> None:
        super().__init__()
        self.tensors: dict[str, torch.Tensor] = dict(tensors)
        self._names = frozenset(parameters)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return dict(self.tensors)

    def named_parameters(  # type: ignore[override]
        self, *_: Any, **__: Any
    ) -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, tensor) for name, tensor in self.tensors.items() if name in self._names)
