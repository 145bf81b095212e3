"""A module's loss as a function of one flat vector of its sampled parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_map_only

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.sampling.behavioural import Behavioural
from llc_dynamics.sampling.selection import Selection, resolve_selection

LossFunction = Callable[[Any, Any], torch.Tensor]

#: Up to so many weights, memory is spent for speed: gradients stay until the next backward pass (see `_backward`).
SMALL = 1_000_000


class FlatModel:
    """Per-sample losses and the gradient of their mean, at any flat vector w [d].

    Used as a context manager. Inside, the parameters of the caller's module point to working memory of this object
    (`parameter.data`), its buffers are replaced by copies, and it is in evaluation mode (dropout off, BatchNorm with
    its running statistics). On leaving, also by an exception, the module is as it was: its own storage was never
    written to, and `.grad` and `requires_grad` were never touched. Parameters that share a tensor (tied weights) count
    once; parameters with `requires_grad=False` stay at their value and are not sampled.

    The vector is float32 (float64 if the module has a float64 parameter) whatever the module's precision: updates of
    bfloat16 weights by small steps would be rounded away.

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
    dimension : d, the number of sampled weights.
    chosen : int64 [d], the places of the sampled weights among all elements of the sampled tensors; None for all.

    Raises `ConfigError` if no parameter requires a gradient or is selected, `DataError` for a loss of the wrong shape.
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
        if not callable(loss_fn):
            raise DataError("loss_fn must be a function loss_fn(model, batch) that returns one loss per sample")
        sampled = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not sampled:
            raise ConfigError(
                "no parameter of the model requires a gradient, so there is nothing to sample; call "
                "requires_grad_(True) on the parameters that the LLC is about"
            )
        masks = resolve_selection(parameters, sampled)
        sampled = {name: sampled[name] for name in masks}
        complex_names = [name for name, p in sampled.items() if p.is_complex()]
        if complex_names:
            raise DataError(
                f"complex parameters cannot be sampled: {', '.join(complex_names)}; keep real and imaginary"
            )
        self.module = model
        self.loss_fn = loss_fn
        self._parameters = list(sampled.values())
        self.names = tuple(sampled)
        self.shapes = tuple(tuple(p.shape) for p in self._parameters)
        self._full_sizes = tuple(p.numel() for p in self._parameters)
        self.sizes = tuple(
            p.numel() if (mask := masks[name]) is None else int(mask.sum()) for name, p in sampled.items()
        )
        self.dimension = sum(self.sizes)
        self._starts = np.cumsum((0, *self.sizes[:-1]))
        self._filled = all(self.sizes)
        self.device = torch.device(device) if device is not None else self._parameters[0].device
        wide = any(p.dtype == torch.float64 for p in self._parameters)
        self.dtype = torch.float64 if wide else torch.float32
        self._full = torch.cat([p.detach().reshape(-1).to(self.device, self.dtype) for p in self._parameters])
        self.chosen = self._places_of(masks)
        self.measure_in(None)
        self.microbatch_size = microbatch_size
        self._same_dtype = all(p.dtype == self.dtype for p in self._parameters)
        self._restore: ExitStack | None = None
        self._last_gradients: Sequence[torch.Tensor] = ()

    def __enter__(self) -> FlatModel:
        with ExitStack() as stack:
            self._swap_parameters(stack)
            self._swap_buffers(stack)
            for module in self.module.modules():
                stack.callback(setattr, module, "training", module.training)
            self.module.eval()
            self._restore = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._restore is not None
        self._restore.close()
        self._restore = None
        self._last_gradients = ()

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
                scalar = scalar_of(self.loss_fn.outputs(self.module, part))
                gradients = torch.autograd.grad(scalar, self._parameters, allow_unused=True, materialize_grads=True)
            torch._foreach_add_(self._gradient_views, list(gradients))
        self._reset_buffers()
        return self.sampled_gradient(self._gradient)

    def prepare(self, content: Any, batch_size: int) -> Any:
        """What `losses` and `losses_and_gradient` take for a batch: itself, or with the outputs at w* beside it."""
        if not isinstance(self.loss_fn, Behavioural):
            return content
        self._place(self.origin)
        with torch.no_grad():
            parts = [self.loss_fn.outputs(self.module, part) for part, _ in self._pieces(content, batch_size)]
        self._reset_buffers()
        reference = torch.cat(parts).detach()
        if not bool(reference.isfinite().all()):
            raise DataError(
                "the outputs at w* (the model as given) are NaN or infinite; check the weights and the data"
            )
        return content, reference

    def losses(
        self, position: torch.Tensor, batch: Any, batch_size: int, loss_fn: LossFunction | None = None
    ) -> torch.Tensor:
        """One loss per sample [B] at `position` [d], without a gradient; of another `loss_fn` if one is given."""
        loss_fn = self.loss_fn if loss_fn is None else loss_fn
        self._place(position)
        with torch.no_grad():
            parts = [self._checked(loss_fn(self.module, part), size) for part, size in self._pieces(batch, batch_size)]
        self._reset_buffers()
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
        self._reset_buffers()
        return parts[0] if len(parts) == 1 else torch.cat(parts), self.sampled_gradient(self._gradient)

    def _backward(self, batch: Any, batch_size: int, weight: float) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """Losses of a microbatch, and the gradients of their sum times `weight`."""
        with torch.enable_grad():
            losses = self._checked(self.loss_fn(self.module, batch), batch_size)
            if not losses.requires_grad:
                raise DataError(
                    "loss_fn returned losses without a gradient: compute them from the model that is passed in, "
                    "without torch.no_grad() or .detach()"
                )
            # weights 1/B on the losses are the gradient of their mean, without two more nodes in the graph
            wide = losses.to(self.dtype)
            weights = torch.full_like(wide, weight)
            self._last_gradients = ()  # only now: freed before the forward pass, their memory made it some 3% slower
            self._last_gradients = torch.autograd.grad(
                wide, self._parameters, weights, allow_unused=True, materialize_grads=True
            )
        return losses, self._last_gradients

    def _pieces(self, batch: Any, batch_size: int) -> Iterator[tuple[Any, int]]:
        size = self.microbatch_size
        if size is None or size >= batch_size:
            yield batch, batch_size
            return
        for start in range(0, batch_size, size):
            stop = min(start + size, batch_size)
            yield take_slice(batch, start, stop, batch_size), stop - start

    def sum_by_block(self, values: torch.Tensor) -> NDArray[np.float64]:
        """Sums of `values` [d] over each parameter tensor, float64 [block]."""
        if self._filled and values.device.type == "cpu" and self.dimension <= SMALL:
            # several times quicker than a torch sum for each block, but it makes a float64 copy
            return np.add.reduceat(values.numpy(), self._starts, dtype=np.float64)
        return torch.stack([part.sum(dtype=torch.float64) for part in values.split(self.sizes)]).cpu().numpy()

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
            stack.callback(setattr, parameter, "data", parameter.data)
            parameter.data = view if self._same_dtype else view.to(parameter.dtype, copy=True)
        self._targets = None if self._same_dtype else [p.data for p in self._parameters]
        sampled = {id(p) for p in self._parameters}
        for parameter in self.module.parameters():
            if id(parameter) not in sampled and parameter.device != self.device:
                stack.callback(setattr, parameter, "data", parameter.data)
                parameter.data = parameter.data.to(self.device)

    def _swap_buffers(self, stack: ExitStack) -> None:
        copies: dict[int, torch.Tensor] = {}
        self._buffers: list[tuple[dict[str, torch.Tensor | None], str, torch.Tensor, torch.Tensor, int]] = []
        for module in self.module.modules():
            # the whole dictionary comes back, whatever a forward pass assigned to it
            stack.callback(module._buffers.update, dict(module._buffers))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    clean = buffer.to(self.device)
                    copy = copies.setdefault(id(buffer), clean.clone())
                    module._buffers[name] = copy
                    self._buffers.append((module._buffers, name, copy, clean, copy._version))

    def _reset_buffers(self) -> None:
        """Undo what a forward pass did to the buffers, so that no chain sees what another one left behind."""
        for row, (owner, name, copy, clean, version) in enumerate(self._buffers):
            if owner.get(name) is not copy:
                owner[name] = copy
            if copy._version != version:
                copy.copy_(clean)
                self._buffers[row] = (owner, name, copy, clean, copy._version)

    def _views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        return [part.view(shape) for part, shape in zip(flat.split(self._full_sizes), self.shapes, strict=True)]

    def _places_of(self, masks: dict[str, torch.Tensor | None]) -> torch.Tensor | None:
        """Places of the sampled weights in the vector of all elements of the sampled tensors; None for all."""
        if all(mask is None for mask in masks.values()):
            return None
        whole = [
            torch.ones(size, dtype=torch.bool) if mask is None else mask.reshape(-1).cpu()
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
        """`full` [..., elements] as the sampled tensors by name, each with the leading dimensions."""
        parts = full.split(self._full_sizes, dim=-1)
        return {
            name: part.reshape(*full.shape[:-1], *shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
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

    def _checked(self, losses: Any, batch_size: int) -> torch.Tensor:
        if not isinstance(losses, torch.Tensor) or losses.shape != (batch_size,):
            given = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
            hint = " (use reduction='none' and average over all but the first dimension)"
            raise DataError(
                f"loss_fn(model, batch) must return one loss per sample, a tensor of shape [{batch_size}]; "
                f"it returned {'shape ' if isinstance(given, tuple) else ''}{given}{hint}"
            )
        return losses


def take_slice(batch: Any, start: int, stop: int, batch_size: int) -> Any:
    """Samples `start` to `stop` of a batch: of every tensor in it whose first dimension is the batch's."""
    return tree_map_only(
        torch.Tensor, lambda part: part[start:stop] if part.ndim and len(part) == batch_size else part, batch
    )
