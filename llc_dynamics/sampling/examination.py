"""One look, before chains start, at how a loss function behaves on a batch: what an estimate takes for granted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llc_dynamics.batch import leaves
from llc_dynamics.errors import DataError, some_of
from llc_dynamics.sampling.batches import Batches
from llc_dynamics.sampling.behavioural import Behavioural
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.sampling.kernel import widened
from llc_dynamics.seeding import isolated_generators, torch_generator

# Distances from w* at which is looked, as shares of the weights' size: the first at which the loss can be evaluated. A
# behavioural loss has no gradient at w* itself, and close to it its values are rounding errors.
_DISTANCES = (0.1, 0.01, 0.001, 0.0)
# Two ways to the same losses may differ by this share of their size, and more where numbers have 8 or 11 bits.
_AGREEMENT, _LOW_PRECISION = 0.01, 0.2
# With and without gradients the operations are the same, unless something is not.
_SAME = 1e-5
# A derivative and a difference agree to this share: the loss bends little on so short a way, but has corners.
_DERIVATIVE, _SHORT = 0.1, 0.1
_PLACES = 3
# Size of the logarithms of probabilities whose differences make a divergence.
_OF_LOGARITHMS = 10.0


def examine(model: FlatModel, batches: Batches, seed: int) -> None:
    """Look at the loss near w*, inside an entered `FlatModel`, and set `with_graph` and `calls` accordingly.

    - A loss that writes to its batch gets copies.
    - A loss that fails without gradients, or has another value without them, is evaluated with them everywhere: L(w)
      and L(w*) are then computed in the same way.
    - A tensor that the loss depends on although autograd finds no gradient for it is an error: the chains would take
      the gradient for zero. So is a gradient that is there, and is not that of the loss.
    - Where microbatches are asked for, tensors of a batch that are not one row a sample stay whole, and the slices must
      have the losses of the whole.

    Raises `DataError` for the last two, and for a loss function that fails.
    """
    look = _Look(model, batches, seed)
    cut = model.microbatch_size is not None and model.microbatch_size < batches.batch_size
    if cut:
        look.at_rows()
    look.at_writing()
    look.at_gradients()
    look.at_missing_gradients()
    look.at_derivatives()
    if cut:
        look.at_slices()


class _Look:
    """The batch that is looked at, and losses near w* on it, each time from the same random numbers."""

    def __init__(self, model: FlatModel, batches: Batches, seed: int) -> None:
        self._model, self._batches, self._seed = model, batches, seed
        self._size = batches.batch_size
        # two microbatches, or a little more where that is the whole batch
        few = 2 * (model.microbatch_size or 1)
        self._few = min(few + (few == self._size), self._size) if batches.fixed else few + (few == self._size)
        self._smaller: Any = None
        with isolated_generators(seed):
            self._content = next(batches.stream(seed, "examination")).content
        self._near = model.origin
        self._prepared: Any = None

    def at_writing(self) -> None:
        """The first look, with copies and with gradients: no loss function fails for lack of either.

        Outputs at w* are from here, so that those at w without gradients show a difference.
        """
        model, calls = self._model, self._model.calls
        model.with_graph = calls.hands_out_copies = True
        with isolated_generators(self._seed):
            self._prepared = model.prepare(self._content, self._size)
        for distance in _DISTANCES:
            model.looked_at = distance
            self._near = near(model, self._seed)
            try:
                if bool(self._losses(self._near).isfinite().all()):
                    break
            except DataError:  # weights may have bounds; what fails at w* itself is an error
                if distance == 0:
                    raise
        calls.hands_out_copies = calls.written

    def at_gradients(self) -> None:
        model = self._model
        with_graph = self._losses(self._near)
        try:
            model.with_graph = False
            model.with_graph = not agree(self._losses(self._near), with_graph, _SAME)
        except DataError:  # with gradients it does not fail
            model.with_graph = True

    def at_missing_gradients(self) -> None:
        model = self._model
        with isolated_generators(self._seed):
            found = model.gradients_by_block(self._near, self._prepared, self._size)
        wrong = [name for name, each in found.items() if each is not None and not bool(each.isfinite().all())]
        if wrong and bool(self._losses(self._near).isfinite().all()):
            raise DataError(
                f"the loss near w* is finite, but its gradient is NaN or infinite for {some_of(wrong, 3)}: look for a "
                "square root, a norm or a logarithm at zero, also inside of torch.where, where it is 0 times infinity"
            )
        missing = {name for name, each in found.items() if each is None}
        if not missing:
            return
        of_missing = torch.cat(
            [
                torch.full((size,), float(name in missing), device=model.device, dtype=model.dtype)
                for name, size in zip(model.names, model.sizes, strict=True)
            ]
        )
        if len(missing) == len(found):
            raise DataError(
                "the losses have no gradient by any of the sampled parameters: compute them from the model that is "
                "passed in, without torch.no_grad(), .detach(), .item() or NumPy, and not inside "
                "torch.utils.checkpoint with use_reentrant=True"
            )
        looked_at = slice(model.microbatch_size)
        here, again = self._losses(self._near)[looked_at], self._losses(self._near)[looked_at]
        there = self._losses(self._near + (near(model, self._seed + 1) - model.origin) * of_missing)[looked_at]
        if torch.equal(here, again) and not torch.equal(here, there):
            raise DataError(
                f"the loss depends on {some_of(sorted(missing), 3)}, but autograd finds no gradient for it: look for "
                "torch.utils.checkpoint with use_reentrant=True (give use_reentrant=False), .detach(), .data, .item(), "
                "NumPy or torch.no_grad() inside the model, or leave it out with parameters="
            )

    def at_derivatives(self) -> None:
        """How the loss changes along two directions, and what its gradient says of that.

        An error where both differ at each of three places: a corner of the loss, which may lie between the ends of one
        way, does not lie on the others. Numbers of few bits have no differences.
        """
        if self._tolerance() == _LOW_PRECISION:
            return
        for place in range(_PLACES):
            try:
                changes = self._changes(near(self._model, self._seed + 10 * place), self._seed + 10 * place)
            except DataError:  # weights may have bounds
                return
            if changes is None:
                return
        assert changes is not None
        (found, other), (said, instead) = changes
        raise DataError(
            f"along two directions the loss changes by {found:.3g} and {other:.3g}, and by the gradient that "
            f"autograd finds it should be {said:.3g} and {instead:.3g}: a part of it is missing or another. "
            "Look for a part of the model that is detached or computed under torch.no_grad(), "
            "torch.utils.checkpoint with use_reentrant=True (give use_reentrant=False), hooks that change "
            "gradients (hold weights by parameters=), and autograd functions whose backward is not the derivative "
            "of their forward"
        )

    def _changes(self, place: torch.Tensor, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Derivatives by differences and by the gradient, if they differ; None also where differences say nothing.

        Those of losses that have steps, or draw random numbers of their own, are others a second time or over half the
        way, or nothing at all.
        """
        model = self._model
        with isolated_generators(self._seed):
            gradient = model.losses_and_gradient(place, self._prepared, self._size)[1].clone()
        ways = [near(model, seed + number) - model.origin for number in (2, 3)]

        def mean_at(position: torch.Tensor) -> float:
            return float(widened(self._losses(position)).mean())

        def differences(share: float) -> NDArray[np.float64]:
            ends = [(mean_at(place + share * way), mean_at(place - share * way)) for way in ways]
            return np.array([(there - back) / (2 * share) for there, back in ends])

        said, found = np.array([float((gradient * way).sum()) for way in ways]), differences(_SHORT)
        off = np.abs(found - said).max()
        if not (off > _DERIVATIVE * np.abs(found).max() and found.all()):
            return None
        same = all(np.abs(found - differences(share)).max() < _DERIVATIVE * off for share in (_SHORT, _SHORT / 2))
        return (found, said) if same else None

    def at_rows(self) -> None:
        """Tensors whose length is that of the batch at one size only are not one row a sample."""
        with isolated_generators(self._seed):
            self._smaller = self._batches.sized(self._few, self._seed, "examination")
        pairs = [[len(leaf) if leaf.ndim else None for leaf in leaves(each)] for each in (self._content, self._smaller)]
        if self._batches.fixed or len(pairs[0]) != len(pairs[1]):
            return
        if self._few not in pairs[1]:  # it gives as many samples as it likes
            self._few = self._size
        rows = (self._size, self._few)
        self._model.calls.uncut = frozenset(
            place for place, pair in enumerate(zip(*pairs, strict=True)) if pair != rows
        )

    def at_slices(self) -> None:
        """Some samples in slices and together; never as many as a batch that does not fit into memory."""
        model, few = self._model, self._few

        def losses() -> torch.Tensor:
            with isolated_generators(self._seed):
                return model.losses(self._near, model.prepare(self._smaller, few), few)

        sliced = losses()
        with model.calls.in_one_piece():
            whole = losses()
        if not agree(sliced, whole, self._tolerance(), rounding_of(model)):
            raise DataError(
                f"microbatch_size: {few} samples have other losses in slices of {model.microbatch_size} than together "
                f"(they differ by up to {float((sliced - whole).abs().max()):.3g}). A loss that mixes samples, or a "
                "batch with something that is not one row a sample, cannot be cut: leave microbatch_size out, or give "
                "the samples as a tuple or dict of tensors"
            )

    def _tolerance(self) -> float:
        numbers = [*self._model.module.parameters(), *leaves(self._prepared)]
        low = any(each.is_floating_point() and each.dtype.itemsize < 4 for each in numbers)
        return _LOW_PRECISION if low else _AGREEMENT

    def _losses(self, position: torch.Tensor) -> torch.Tensor:
        with isolated_generators(self._seed):
            return self._model.losses(position, self._prepared, self._size)


def near(model: FlatModel, seed: int) -> torch.Tensor:
    """w* and noise of `looked_at` times the root mean square of each tensor, [d]; a little for a tensor of zeros."""
    generator = torch_generator(seed, "near", device=model.device)
    noise = torch.randn(model.dimension, generator=generator, device=model.device, dtype=model.dtype)
    parts = model.origin.split(list(model.sizes))
    scales = [float(part.square().mean().sqrt()) if part.numel() else 0.0 for part in parts]
    usual = max(scales) or 1.0
    scale = torch.cat([torch.full_like(part, own or 0.1 * usual) for part, own in zip(parts, scales, strict=True)])
    return model.origin + model.looked_at * scale * noise


def agree(one: torch.Tensor, other: torch.Tensor, tolerance: float = _AGREEMENT, rounding: float = 0.0) -> bool:
    """Whether two ways gave the same numbers; what is not finite is judged where the estimate begins."""
    if not bool(one.isfinite().all() & other.isfinite().all()):
        return True
    largest = tolerance * (other.abs().mean() + other.std(correction=0)) + rounding
    return bool((one - other).abs().max() <= largest)


def rounding_of(model: FlatModel) -> float:
    """Of single losses, where it is known: a divergence is a small difference of logarithms."""
    loss = model.loss_fn
    divergence = isinstance(loss, Behavioural) and loss.divergence == "kl"
    return _OF_LOGARITHMS * torch.finfo(model.dtype).eps if divergence else 0.0
