"""A module's loss as a function of one flat vector of its sampled parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.sampling.behavioural import Behavioural
from llc_dynamics.sampling.borrowed import BorrowedModule, require_usable, usable_device
from llc_dynamics.sampling.calls import Calls, LossFunction, advice_on_memory, one_line
from llc_dynamics.sampling.kernel import wide_dtype
from llc_dynamics.sampling.selection import Selection, resolve_selection

#: Up to so many weights, memory is spent for speed: gradients stay until the next backward pass (see `_backward`).
SMALL = 1_000_000


class FlatModel:
    """Per-sample losses and the gradient of their mean, at any flat vector w [d].

    Used as a context manager. Inside, the parameters of the caller's module point to working memory of this object
    (`parameter.data`), its buffers are replaced by copies, and it is in evaluation mode (dropout off, BatchNorm with
    its running statistics). On leaving, also by an exception, the module is as it was: its own storage was never
    written to, and `.grad` and `requires_grad` were never touched. Parameters that share a tensor (tied weights) count
    once; parameters with `requires_grad=False` stay at their value and are not sampled. A complex parameter is sampled
    in its real and imaginary parts.

    The vector is float32 (float64 if the module has a parameter of that precision) whatever the module's precision:
    updates of bfloat16 weights by small steps would be rounded away.

    `examine` (see `llc_dynamics.sampling.examination`) looks once how the loss function behaves and sets `with_graph`
    and what `calls` does accordingly; without it they are as for a loss that does nothing unusual.

    Parameters
    ----------
    model : any module, or several as one `nn.ModuleList`.
    loss_fn : `loss_fn(model, batch)` returns one loss per sample, [B]; or a `Behavioural` loss.
    device : where to compute; None stands for the device of the model's first sampled parameter.
    parameters : which parameters, or elements of them, are sampled (see `selection`); None stands for all.
    microbatch_size : samples that pass through the model at once; gradients of a batch are accumulated over them.

    Attributes
    ----------
    module : the caller's; inside, at the position that was evaluated last.
    loss_fn : evaluated as `loss_fn(module, content)`, on contents that `prepare` has made.
    origin : w*, [d], in units of `measure_in`. dtype, device : of all vectors.
    names, sizes : of the sampled parameter tensors (the blocks of the virial ratio) and of what is sampled of each.
    complex_names : of those that are sampled in two parts. dimension : d, the number of sampled weights.
    chosen : int64 [d], the places of the sampled weights among all elements of the sampled tensors; None for all.
    with_graph : evaluate losses with gradients switched on even where none is asked for: the loss takes some itself,
        or has another value without.
    looked_at : the distance from w* at which that was seen, as a share of the weights' size.
    calls : of the loss function, see `Calls`.

    Raises `ConfigError` if no parameter requires a gradient or is selected, `DataError` for a loss of the wrong shape,
    or one that fails.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        device: str | torch.device | None = None,
        parameters: Selection | None = None,
        microbatch_size: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise DataError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        require_usable(model)
        sampled = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not sampled:
            raise ConfigError(
                "no parameter of the model requires a gradient, so there is nothing to sample; call "
                "requires_grad_(True) on the parameters that the LLC is about"
            )
        masks = resolve_selection(parameters, sampled)
        sampled = {name: sampled[name] for name in masks}
        self.module = model
        self.loss_fn = loss_fn
        self._parameters = list(sampled.values())
        self.names = tuple(sampled)
        self.shapes = tuple(tuple(p.shape) for p in self._parameters)
        self.complex_names = tuple(name for name, p in sampled.items() if p.is_complex())
        self._parts = tuple((*p.shape, 2) if p.is_complex() else tuple(p.shape) for p in self._parameters)
        self._full_sizes = tuple(math.prod(shape) for shape in self._parts)
        masks = {name: _real_mask(mask, p) for (name, mask), p in zip(masks.items(), self._parameters, strict=True)}
        self.sizes = tuple(
            size if mask is None else int(mask.sum())
            for size, mask in zip(self._full_sizes, masks.values(), strict=True)
        )
        self.dimension = sum(self.sizes)
        self._starts = np.cumsum((0, *self.sizes[:-1]))
        self._filled = all(self.sizes)
        self.device = usable_device(device) if device is not None else self._parameters[0].device
        wide = any(p.dtype in (torch.float64, torch.complex128) for p in self._parameters)
        self.dtype = torch.float64 if wide else torch.float32
        if wide and wide_dtype(self.device) != torch.float64:
            raise DataError(f"the model has float64 parameters, which {self.device} does not know; call model.float()")
        self._full = torch.cat(
            [real_parts(p.detach()).reshape(-1).to(self.device, self.dtype) for p in self._parameters]
        )
        self.chosen = self._places_of(masks)
        self.measure_in(None)
        self.microbatch_size = microbatch_size
        self.calls = Calls(model, loss_fn, microbatch_size)
        self.with_graph, self.looked_at = False, 0.0
        self._same_dtype = all(p.dtype == self.dtype for p in self._parameters)
        self._restore: ExitStack | None = None
        self._last_gradients: Sequence[torch.Tensor] = ()

    def __enter__(self) -> FlatModel:
        with ExitStack() as stack:
            self._swap_parameters(stack)
            self._borrowed = stack.enter_context(BorrowedModule(self.module, self.device))
            self._restore = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._restore is not None
        self._restore.close()
        self._restore = None
        self._last_gradients = ()

    def reset(self) -> None:
        """Undo what the last evaluation, or a failed one, left behind in buffers and plain attributes of the module."""
        self._borrowed.reset()

    def at_origin(self) -> None:
        """Put the module at w* and in its own state, for whoever else calls it."""
        self._place(self.origin)
        self.reset()

    def measure_in(self, units: torch.Tensor | None) -> None:
        """From here on positions are w_i / units_i [d], and gradients by these; None for the weights themselves."""
        plain = self._full if self.chosen is None else self._full[self.chosen]
        self._units = units
        self.origin = plain if units is None else plain / units

    def output_gradient(
        self, content: Any, scalar_of: Callable[[torch.Tensor], torch.Tensor], batch_size: int
    ) -> torch.Tensor:
        """Gradient [d] at w*, of the sum over microbatches of a scalar made of a behavioural loss's outputs."""
        assert isinstance(self.loss_fn, Behavioural)
        self._place(self.origin)
        self._gradient.zero_()
        for part, _ in self._pieces(content, batch_size):
            with torch.enable_grad():
                gradients = self._gradients(scalar_of(self.calls.outputs(part)))
            torch._foreach_add_(self._gradient_views, list(gradients))
        return self.sampled_gradient(self._gradient)

    def prepare(self, content: Any, batch_size: int) -> Any:
        """What `losses` and `losses_and_gradient` take for a batch: itself, or with the outputs at w* beside it."""
        if not isinstance(self.loss_fn, Behavioural):
            return content
        self._place(self.origin)
        with torch.set_grad_enabled(self.with_graph):
            parts = [self.calls.outputs(part).detach() for part, _ in self._pieces(content, batch_size)]
        reference = torch.cat(parts)
        self.loss_fn.require_sound(reference)
        return content, reference

    def losses(
        self, position: torch.Tensor, batch: Any, batch_size: int, loss_fn: LossFunction | None = None
    ) -> torch.Tensor:
        """One loss per sample [B] at `position` [d], without a gradient; of another `loss_fn` if one is given."""
        self._place(position)
        # another loss was not examined
        with torch.set_grad_enabled(self.with_graph or loss_fn is not None):
            parts = [self.calls.losses(part, size, loss_fn).detach() for part, size in self._pieces(batch, batch_size)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def losses_and_gradient(
        self, position: torch.Tensor, batch: Any, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One loss per sample [B], and the gradient [d] of their mean; the gradient's memory is used again."""
        self._place(position)
        parts: list[torch.Tensor] = []
        for part, size in self._pieces(batch, batch_size):
            losses, gradients = self._backward(part, size, 1 / batch_size)
            if parts:
                torch._foreach_add_(self._gradient_views, list(gradients))
            else:
                torch._foreach_copy_(self._gradient_views, list(gradients))
            parts.append(losses.detach())
        if self.dimension > SMALL:
            self._last_gradients = ()
        return parts[0] if len(parts) == 1 else torch.cat(parts), self.sampled_gradient(self._gradient)

    def gradients_by_block(self, position: torch.Tensor, batch: Any, batch_size: int) -> dict[str, torch.Tensor | None]:
        """Gradients of the losses of the first microbatch; None where autograd finds no path from them."""
        self._place(position)
        part, size = next(self._pieces(batch, batch_size))
        with torch.enable_grad():
            losses = self.calls.losses(part, size)
            found = self._autograd(losses.sum(), None, False) if losses.requires_grad else [None] * len(self.names)
        return dict(zip(self.names, found, strict=True))

    def _pieces(self, batch: Any, batch_size: int) -> Iterator[tuple[Any, int]]:
        for piece in self.calls.pieces(batch, batch_size):
            self.reset()
            yield piece

    def _backward(self, batch: Any, batch_size: int, weight: float) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """Losses of a microbatch, and the gradients of their sum times `weight`."""
        with torch.enable_grad():
            losses = self.calls.losses(batch, batch_size)
            # weights 1/B on the losses are the gradient of their mean, without two more nodes in the graph
            wide = losses.to(self.dtype)
            weights = torch.full_like(wide, weight)
            self._last_gradients = ()  # only now: freed before the forward pass, their memory made it some 3% slower
            self._last_gradients = self._gradients(wide, weights)
        return losses, self._last_gradients

    def _gradients(self, outputs: torch.Tensor, weights: torch.Tensor | None = None) -> Sequence[torch.Tensor]:
        """By all elements of the sampled tensors: dense, and the two parts of complex ones."""
        if not outputs.requires_grad:
            raise DataError(
                "the losses have no gradient: compute them from the model that is passed in, without torch.no_grad(), "
                ".detach() or .item(), and not inside torch.utils.checkpoint with use_reentrant=True"
            )
        found = self._autograd(outputs, weights, True)
        return found if self._same_dtype else [real_parts(gradient) for gradient in found]

    def _autograd(self, outputs: torch.Tensor, weights: torch.Tensor | None, materialize: bool) -> Sequence[Any]:
        try:
            found = torch.autograd.grad(
                outputs, self._parameters, weights, allow_unused=True, materialize_grads=materialize
            )
        except Exception as error:
            advice = advice_on_memory(error) or "check operations that work in place, and your own autograd functions"
            if "use_reentrant" in str(error):
                advice = "call torch.utils.checkpoint.checkpoint with use_reentrant=False"
            raise DataError(f"the gradient of the loss cannot be taken ({one_line(error)}); {advice}") from error
        return [each.to_dense() if each is not None and each.is_sparse else each for each in found]

    def sum_by_block(self, values: torch.Tensor) -> NDArray[np.float64]:
        """Sums of `values` [d] over each parameter tensor, float64 [block]."""
        if self._filled and values.device.type == "cpu" and self.dimension <= SMALL:
            # several times quicker than a torch sum for each block, but it makes a float64 copy
            return np.add.reduceat(values.numpy(), self._starts, dtype=np.float64)
        return torch.stack([part.sum(dtype=wide_dtype(part.device)) for part in values.split(self.sizes)]).cpu().numpy()

    def largest_by_block(self, values: torch.Tensor) -> NDArray[np.float64]:
        """Largest absolute value in each parameter tensor of `values` [d], float64 [block]; 0 for an empty one."""
        parts = values.split(self.sizes)
        return np.array([float(torch.linalg.vector_norm(p, torch.inf)) if p.numel() else 0.0 for p in parts])

    def _swap_parameters(self, stack: ExitStack) -> None:
        self._gradient = torch.zeros_like(self._full)
        self._gradient_views = self._views(self._gradient)
        self._work = self._full.clone()
        views = self._views(self._work)
        for parameter, view in zip(self._parameters, views, strict=True):
            # also if a loss function takes its own gradients by backward()
            stack.callback(setattr, parameter, "grad", parameter.grad)
            stack.callback(parameter.requires_grad_)
            stack.callback(setattr, parameter, "data", parameter.data)
            parameter.grad = None
            if not self._same_dtype:
                view = (torch.view_as_complex(view.clone()) if parameter.is_complex() else view).to(
                    parameter.dtype, copy=True
                )
            parameter.data = view
        self._targets = None if self._same_dtype else [real_parts(p.data) for p in self._parameters]
        sampled = {id(p) for p in self._parameters}
        for parameter in self.module.parameters():
            if id(parameter) not in sampled and parameter.device != self.device:
                stack.callback(setattr, parameter, "data", parameter.data)
                parameter.data = parameter.data.to(self.device)

    def _views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        return [part.view(shape) for part, shape in zip(flat.split(self._full_sizes), self._parts, strict=True)]

    def _places_of(self, masks: dict[str, torch.Tensor | None]) -> torch.Tensor | None:
        """Places of the sampled weights in the vector of all elements of the sampled tensors; None for all."""
        if all(mask is None for mask in masks.values()):
            return None
        whole = [
            torch.ones(size, dtype=torch.bool, device="cpu") if mask is None else mask.reshape(-1).cpu()
            for mask, size in zip(masks.values(), self._full_sizes, strict=True)
        ]
        return torch.cat(whole).nonzero()[:, 0].to(self.device)

    def full_vectors(self, positions: torch.Tensor) -> torch.Tensor:
        """All elements of the sampled tensors [..., elements] for `positions` [..., d] of those that are sampled."""
        if self._units is not None:
            positions = positions * self._units
        if self.chosen is None:
            return positions
        full = self._full.expand(*positions.shape[:-1], -1).clone()
        full[..., self.chosen] = positions
        return full

    def named_views(self, full: torch.Tensor) -> dict[str, torch.Tensor]:
        """`full` [..., elements] as the sampled tensors by name, each with the leading dimensions.

        Of a complex tensor both parts, along one more dimension.
        """
        parts = full.split(self._full_sizes, dim=-1)
        return {
            name: part.reshape(*full.shape[:-1], *shape)
            for name, part, shape in zip(self.names, parts, self._parts, strict=True)
        }

    def sampled_gradient(self, full: torch.Tensor) -> torch.Tensor:
        """The gradient by positions [..., d], from that by all elements of the sampled tensors [..., elements]."""
        part = full if self.chosen is None else full[..., self.chosen]
        return part if self._units is None else part * self._units

    def _place(self, position: torch.Tensor) -> None:
        if self._units is not None:
            position = position * self._units
        if self.chosen is None:
            if self._targets is None:
                self._work.copy_(position)
                return
            full = position
        else:
            full = self._work.index_copy_(0, self.chosen, position)
        if self._targets is not None:
            torch._foreach_copy_(self._targets, self._views(full))


def real_parts(tensor: torch.Tensor) -> torch.Tensor:
    """Real and imaginary part along one more dimension, or the tensor itself."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _real_mask(mask: torch.Tensor | None, parameter: torch.Tensor) -> torch.Tensor | None:
    return mask[..., None].expand(*mask.shape, 2) if mask is not None and parameter.is_complex() else mask
