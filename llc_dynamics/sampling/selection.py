"""Which weights are sampled: all of them, or a head, a layer, a matrix (the weight-restricted LLC).

The restricted coefficient (Wang et al. 2024, arXiv 2410.02984) is the estimate over the chosen weights with all others
held at w*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch

from llc_dynamics.batch import tensor_of
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.settings import nearest
from llc_dynamics.trajectory.loading import without_wrappers

#: A name, a pattern ("blocks.0.*"), several of them, or {name or pattern: boolean mask of the tensor's shape or None}.
#: What is the name of a parameter to the letter stands for that one, also with the characters of patterns in it.
Selection = str | Iterable[str] | Mapping[str, torch.Tensor | None]


def resolve_selection(
    selection: Selection | None, parameters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor | None]:
    """{name: mask, or None for the whole tensor} of the chosen ones among `parameters`, in their order.

    Raises `ConfigError` for a pattern that matches nothing (naming the nearest parameter) or an empty selection,
    `DataError` for a mask of the wrong shape or type.
    """
    if selection is None:
        return dict.fromkeys(parameters)
    if isinstance(selection, str):
        selection = [selection]
    if not isinstance(selection, Iterable):
        raise ConfigError(f"parameters: give names or patterns of parameters, got a {type(selection).__name__}")
    rows = selection.items() if isinstance(selection, Mapping) else ((pattern, None) for pattern in selection)
    plain = without_wrappers(parameters)  # names as a run stores them, of a compiled model, too
    chosen: dict[str, torch.Tensor | None] = {}
    for pattern, mask in rows:
        if not isinstance(pattern, str):
            raise ConfigError(f"parameters: give names or patterns of parameters, got a {type(pattern).__name__}")
        matches = [name for name in parameters if pattern in (name, plain[name])] or [
            name for name in parameters if fnmatchcase(name, pattern) or fnmatchcase(plain[name], pattern)
        ]
        if not matches:
            brackets = "[...] is a pattern for one character, and " if "[" in pattern else ""
            raise ConfigError(
                f"parameters: {brackets}'{pattern}' matches no parameter that requires a gradient; "
                f"{nearest(pattern, parameters)}"
            )
        mask = tensor_of(mask)
        for name in matches:
            if mask is not None:
                _require_mask(name, mask, parameters[name])
            earlier = chosen.get(name, False)
            # chosen twice: the union
            chosen[name] = mask if earlier is False else None if mask is None or earlier is None else earlier | mask
    empty = [name for name, mask in chosen.items() if mask is not None and not bool(mask.any())]
    chosen = {name: chosen[name] for name in parameters if name in chosen and name not in empty}
    if not chosen:
        raise ConfigError("parameters: the selection chooses no weight; leave it out to sample all")
    return {name: None if mask is None or bool(mask.all()) else mask for name, mask in chosen.items()}


def _require_mask(name: str, mask: torch.Tensor, parameter: torch.Tensor) -> None:
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.shape != parameter.shape:
        given = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise DataError(
            f"parameters: the mask of '{name}' must be a boolean tensor {tuple(parameter.shape)}, got {given}"
        )
