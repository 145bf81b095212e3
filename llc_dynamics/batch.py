"""Batches of any nesting: tensors, the samples first, in the containers that people use for them.

Tuples, lists, dicts, named tuples and whatever else is registered with `torch.utils._pytree`; mappings of other kinds
(`UserDict`, the `BatchEncoding` of Hugging Face, subclasses of dict), dataclasses, and objects that hold tensors in
attributes. What is in none of them is left as it is.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from llc_dynamics.errors import DataError, some_of


def leaves(batch: Any) -> list[Tensor]:
    """The tensors of a batch, in order."""
    found: list[Tensor] = []

    def note(leaf: Tensor) -> Tensor:
        found.append(leaf)
        return leaf

    mapped(batch, note)
    return found


def mapped(batch: Any, change: Callable[[Tensor], Tensor], others: Callable[[Any], Any] | None = None) -> Any:
    """The batch with `change` applied to each of its tensors, and `others` to what is neither tensor nor container.

    All containers are new ones of the same kind, so that whoever gets them may take keys out or put others in.
    """
    if type(batch) in (tuple, list) and all(isinstance(leaf, Tensor) for leaf in batch):
        return type(batch)([change(leaf) for leaf in batch])  # the usual batch: ten times quicker than by pytree

    def of_leaf(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return change(leaf)
        if isinstance(leaf, Mapping):
            items = {key: mapped(value, change, others) for key, value in leaf.items()}
            return _mapping_like(leaf, items)
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            fresh = copy.copy(leaf)
            for each in dataclasses.fields(leaf):
                if hasattr(leaf, each.name):  # past __init__, __post_init__ and frozen fields
                    object.__setattr__(fresh, each.name, mapped(getattr(leaf, each.name), change, others))
            return fresh
        if _holds_tensors(leaf):
            fresh = copy.copy(leaf)
            vars(fresh).update({name: mapped(value, change, others) for name, value in vars(leaf).items()})
            return fresh
        return leaf if others is None else others(leaf)

    return pytree.tree_map(of_leaf, batch)


def others(batch: Any) -> list[Any]:
    """What is neither tensor nor container in a batch, in order."""
    found: list[Any] = []
    mapped(batch, lambda leaf: leaf, found.append)
    return found


def with_tensors(batch: Any) -> Any:
    """The batch with tensors in place of arrays."""
    return mapped(batch, lambda leaf: leaf, tensor_of)


def tensor_of(leaf: Any) -> Any:
    """A tensor of an array, which shares its memory where it can; anything else as it is."""
    if isinstance(leaf, torch.Tensor) or not hasattr(leaf, "__array__"):
        return leaf
    array = np.asarray(leaf)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an array that is read-only: it is not written to
            return torch.from_numpy(np.asarray(array, array.dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise DataError(
            f"an array of {array.dtype} {list(array.shape)}; give numbers, such as array.astype('float32')"
        ) from None


def rebuilt(batch: Any, tensors: Iterator[Tensor]) -> Any:
    """The batch with other tensors in the places of its own, in the order of `leaves`."""
    return mapped(batch, lambda _: next(tensors))


def num_samples(batch: Any, what: str = "a batch") -> int:
    """S of a batch. Raises `DataError` for one without tensors, or whose tensors disagree."""
    found = leaves(batch)
    lengths = [len(leaf) if leaf.ndim else None for leaf in found]
    if not found or None in lengths or len(set(lengths)) > 1:
        shapes = ", ".join(str(list(leaf.shape)) for leaf in found) or f"no tensors in a {type(batch).__name__}"
        raise DataError(f"{what}: expected tensors with the same number of samples along dimension 0; got {shapes}")
    return len(found[0])


def first_samples(batch: Any, count: int) -> Any:
    """The first `count` samples of a batch."""
    return mapped(batch, lambda leaf: leaf[:count])


def parts(batch: Any, size: int) -> Iterator[Any]:
    """The batch in parts of at most `size` samples."""
    for start in range(0, num_samples(batch), size):
        yield mapped(batch, lambda leaf, start=start: leaf[start : start + size])  # type: ignore[misc]


def shapes_of(batch: Any) -> str:
    """The tensors of a batch in words: 'tuple of float32 [64, 5], int64 [64]', or 'dict of x float32 [64, 5]'."""
    parts = list(batch.items()) if isinstance(batch, Mapping) else [("", each) for each in leaves(batch)]
    listed = [
        f"{key} {str(leaf.dtype).removeprefix('torch.')} {list(leaf.shape)}".strip()
        for key, part in parts
        for leaf in leaves(part)
    ]
    shown = some_of(listed, 6)
    return shown if isinstance(batch, Tensor) else f"{type(batch).__name__} of {shown or 'no tensors'}"


def _holds_tensors(leaf: Any) -> bool:
    """Whether it is an object with tensors in its attributes; a model or a function is not meant."""
    if callable(leaf) or not hasattr(leaf, "__dict__"):
        return False
    return any(isinstance(value, Tensor) for value in pytree.tree_leaves(list(vars(leaf).values())))


def _mapping_like(mapping: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """A mapping of the same kind with these items; a dict where there is no way to make one."""
    try:
        fresh: Any = copy.copy(mapping)
        for key, value in items.items():
            fresh[key] = value
    except TypeError:
        return items
    return items if fresh is mapping else fresh
