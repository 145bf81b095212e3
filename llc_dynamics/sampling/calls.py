"""Calls of the functions that a user gives: on what batch, in which pieces, and what is said when they fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from llc_dynamics.batch import leaves, mapped, shapes_of
from llc_dynamics.errors import DataError, LLCDynamicsError, printable
from llc_dynamics.sampling.behavioural import Behavioural

LossFunction = Callable[[Any, Any], torch.Tensor]


class Calls:
    """`loss_fn(module, batch)`, as often as it takes, each time on a batch in fresh containers.

    The tensors in them are aliases: `requires_grad_()` on one of them does no harm, writing into one is found out.

    Parameters
    ----------
    module, loss_fn, microbatch_size : as of `FlatModel`.

    Attributes
    ----------
    hands_out_copies : whether the tensors are copies instead. written : whether the last of these were written to.
    uncut : which tensors of a batch, by their place among its leaves, a microbatch keeps whole.
    """

    def __init__(self, module: nn.Module, loss_fn: LossFunction, microbatch_size: int | None) -> None:
        if isinstance(loss_fn, nn.modules.loss._Loss):
            name = type(loss_fn).__name__
            raise DataError(
                f"loss_fn is called as loss_fn(model, batch), and nn.{name} takes outputs and targets; write "
                f"lambda model, batch: nn.{name}(reduction='none')(model(batch[0]), batch[1])"
            )
        if not callable(loss_fn):
            raise DataError("loss_fn must be a function loss_fn(model, batch) that returns one loss per sample")
        self._module = module
        self._loss_fn = loss_fn
        self._size = microbatch_size
        self._cut = ""
        self.hands_out_copies = self.written = False
        self.uncut: frozenset[int] = frozenset()

    def losses(self, batch: Any, batch_size: int, loss_fn: LossFunction | None = None) -> torch.Tensor:
        """[B]; of another `loss_fn` if one is given. Raises `DataError` if it fails or gives anything else."""
        chosen = self._loss_fn if loss_fn is None else loss_fn
        found = self._called(chosen, batch, _name(chosen))
        if isinstance(found, torch.Tensor) and found.shape == (batch_size,) and found.is_floating_point():
            return found
        given = type(found).__name__
        hint = "use reduction='none' and average over all but the first dimension"
        if isinstance(found, torch.Tensor):
            given = f"{str(found.dtype).removeprefix('torch.')} of shape {tuple(found.shape)}"
            rows = {len(leaf) for leaf in leaves(batch) if leaf.ndim}
            if found.shape == (batch_size,):
                hint = "losses are floating-point numbers"
            elif found.ndim == 1 and rows == {len(found)}:
                hint = (
                    f"the batch holds {len(found)} samples, and {batch_size} were asked for: the last batch of a "
                    "DataLoader is shorter. Give its dataset as data, or drop_last=True"
                )
        raise DataError(
            f"loss_fn(model, batch) must return one loss per sample, a tensor of shape [{batch_size}]; "
            f"it returned {given} ({hint}){self._cut}"
        )

    def outputs(self, batch: Any) -> torch.Tensor:
        """The outputs of a behavioural loss, [B, ...]."""
        assert isinstance(self._loss_fn, Behavioural)
        return self._called(self._loss_fn.outputs, batch, _name(self._loss_fn))

    def pieces(self, batch: Any, batch_size: int) -> Iterator[tuple[Any, int]]:
        """The microbatches of a batch and their sizes."""
        if self._size is None or self._size >= batch_size:
            self._cut = ""
            yield batch, batch_size
            return
        self._cut = (
            f". This was a part of a batch: leave microbatch_size={self._size} out if the loss mixes samples, or if "
            "the batch holds anything that is not one row a sample"
        )
        for start in range(0, batch_size, self._size):
            stop = min(start + self._size, batch_size)
            yield take_slice(batch, start, stop, batch_size, self.uncut), stop - start

    @contextmanager
    def in_one_piece(self) -> Iterator[None]:
        """Inside, batches are not cut."""
        size, self._size = self._size, None
        try:
            yield
        finally:
            self._size = size

    def _called(self, function: Callable[[Any, Any], torch.Tensor], batch: Any, name: str) -> torch.Tensor:
        handed: list[tuple[torch.Tensor, torch.Tensor, int]] = []

        def hand_out(leaf: torch.Tensor) -> torch.Tensor:
            own = leaf.detach()
            if self.hands_out_copies or leaf.is_inference():
                own = own.clone()
            if leaf.requires_grad:
                own.requires_grad_()
            handed.append((leaf, own, own._version))
            return own

        given = mapped(batch, hand_out)
        try:
            found = function(self._module, given)
        except LLCDynamicsError:
            raise
        except Exception as error:
            advice = (
                advice_on_memory(error) or f"it was called with the model and a batch, {shapes_of(batch)}{self._cut}"
            )
            raise DataError(f"{name} failed with {one_line(error)}; {advice}") from error
        changed = any(own._version != version for _, own, version in handed)
        if self.hands_out_copies:  # NumPy writes past the counter of versions
            self.written = changed or not all(_equal(leaf, own) for leaf, own, _ in handed)
        elif changed:
            raise DataError(f"{name} writes to its batch in place, but not always; let it work on a copy of the batch")
        return found


def take_slice(batch: Any, start: int, stop: int, batch_size: int, uncut: frozenset[int] = frozenset()) -> Any:
    """Samples `start` to `stop` of a batch: of every tensor in it whose first dimension is the batch's.

    `uncut` are the places, among all tensors, of those whose first dimension only happens to be that long.
    """
    place = itertools.count()

    def cut(part: torch.Tensor) -> torch.Tensor:
        whole = next(place) in uncut or not part.ndim or len(part) != batch_size
        return part if whole else part[start:stop]

    try:
        return mapped(batch, cut)
    except RuntimeError as error:  # of sparse and nested tensors
        raise DataError(
            f"the batch ({shapes_of(batch)}) cannot be cut ({one_line(error)}); leave microbatch_size out"
        ) from error


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Also of NaN; sparse and nested tensors are told by the counter of versions alone."""
    return one.layout is not torch.strided or one.is_nested or torch.equal(one, other) or bool(one.isnan().any())


def one_line(error: BaseException) -> str:
    """An error of someone else's code in one line."""
    return printable(f"{type(error).__name__}: {error}".split("\n")[0], 300)


def advice_on_memory(error: BaseException) -> str:
    """What to do if it is memory that is lacking; nothing else."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        return "let fewer samples pass at once: settings=ld.EstimateSettings(microbatch_size=...)"
    return ""


def _name(loss_fn: LossFunction) -> str:
    return "output_fn(model, batch)" if isinstance(loss_fn, Behavioural) else "loss_fn(model, batch)"
