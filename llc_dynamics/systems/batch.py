"""Batches of any nesting: tuples, lists and dicts of tensors with the samples first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from llc_dynamics.errors import DataError


def leaves(batch: Any) -> list[Tensor]:
    """The tensors of a batch, in order."""
    return [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The batch with `change` applied to each of its tensors."""
    return pytree.tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, batch)


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
