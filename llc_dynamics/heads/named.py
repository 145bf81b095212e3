"""Which weights belong to which head."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llc_dynamics.errors import ConfigError
from llc_dynamics.settings import nearest
from llc_dynamics.trajectory.state import bare

#: (layer, head), both counted from 1.
Head = tuple[int, int]


class Heads:
    """The heads of an attention model by the weights that are theirs alone.

    parts : {(layer, head): {parameter: index}}, with what indexes the head's part of the parameter: `k` for
        `parameter[k]`, `numpy.s_[:, 16:32]` for columns of an output projection, `...` for all of it. A head is masked
        by setting its part to zero, so that what it adds to the residual stream has to vanish with it: name its value
        or output weights, and its keys and queries where its LLC is wanted, too.
    model : has the parameters, and is not changed.

    Raises `ConfigError` for a parameter that is not there (naming the nearest), an index that does not fit, an empty
    part, or heads that are not numbered 1, 2, ... in layers 1, 2, ...
    """

    def __init__(self, parts: Mapping[Head, Mapping[str, Any]], model: nn.Module) -> None:
        parameters = dict(bare(model).named_parameters())
        self.masks = {head: _masks(head, part, parameters) for head, part in sorted(parts.items())}
        numbers: dict[int, list[int]] = {}
        for layer, head in self.masks:
            numbers.setdefault(layer, []).append(head)
        if not numbers or list(numbers) != [*range(1, len(numbers) + 1)]:
            raise ConfigError(f"heads: give (layer, head) with layers 1, 2, ...; got layers {list(numbers)}")
        for layer, found in numbers.items():
            if found != [*range(1, len(found) + 1)]:
                raise ConfigError(f"heads: the heads of layer {layer} must be numbered 1, 2, ...; got {found}")
        #: {layer: its heads}.
        self.layers: dict[int, list[Head]] = {layer: [(layer, k) for k in found] for layer, found in numbers.items()}

    def __len__(self) -> int:
        return len(self.masks)

    def without(self, model: nn.Module, masked: Collection[Head]) -> nn.Module:
        """A copy of the model, in evaluation mode, in which the heads `masked` add nothing; the model stays as it is.

        Raises `ConfigError` for a head that is not there, and for masking every head.
        """
        for head in masked:
            self.require(head)
        if len({*masked}) == len(self):
            raise ConfigError(f"masking all {len(self)} heads leaves no attention in the model; keep at least one")
        found = copy.deepcopy(bare(model)).eval()
        parameters = dict(found.named_parameters())
        with torch.no_grad():
            for head in masked:
                for name, mask in self.masks[head].items():
                    parameters[name].masked_fill_(mask.to(parameters[name].device), 0)
        return found

    def all_but(self, kept: Collection[Head], layer: int | None = None) -> list[Head]:
        """The heads of a layer, or of all layers, without those that are `kept`."""
        for head in kept:
            self.require(head)
        return [head for head in (self.masks if layer is None else self.layers[layer]) if head not in kept]

    def selection(self, chosen: Head | int) -> dict[str, Tensor]:
        """The weights of a head, or of all heads of a layer, as `estimate_llc(..., parameters=)` takes them."""
        if isinstance(chosen, tuple):
            self.require(chosen)
            return dict(self.masks[chosen])
        if chosen not in self.layers:
            raise ConfigError(f"there is no layer {chosen}; the model has layers 1 to {len(self.layers)}")
        found: dict[str, Tensor] = {}
        for head in self.layers[chosen]:
            for name, mask in self.masks[head].items():
                found[name] = found[name] | mask if name in found else mask
        return found

    def require(self, head: Head) -> None:
        """Raise `ConfigError` unless the head is there."""
        if head not in self.masks:
            layer = head[0] if isinstance(head, tuple) and len(head) == 2 else None
            there = (
                f"layer {layer} has heads 1 to {len(self.layers[layer])}"
                if layer in self.layers
                else f"the model has layers 1 to {len(self.layers)}"
            )
            raise ConfigError(f"there is no head {head}; {there}, and a head is (layer, head)")


def _masks(head: Head, part: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, index in part.items():
        if name not in parameters:
            raise ConfigError(f"head {head}: the model has no parameter '{name}'; {nearest(name, parameters)}")
        mask = torch.zeros(parameters[name].shape, dtype=torch.bool)
        try:
            mask[index] = True
        except (IndexError, TypeError, ValueError) as error:
            shape = list(mask.shape)
            raise ConfigError(f"head {head}: {index!r} does not index '{name}', which is {shape}: {error}") from error
        found[name] = mask
    if not any(bool(mask.any()) for mask in found.values()):
        raise ConfigError(f"head {head}: no weight is named; give {{parameter: index}}")
    return found
