"""Losses and gradients of a group of chains at once: one after the other, or as one batch of work with `torch.vmap`.

On a CPU the gradient costs what its arithmetic costs, and a plain loop is quickest unless the model is so small that
most of the time goes into calling operators; on a GPU small models are bound by launches, and one batch of work for all
chains wins (docs/sampling.md has the figures behind the rule of `choose_chain_method`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from llc_dynamics.errors import ConfigError
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.sampling.kernel import Evaluation

ChainMethod = Literal["auto", "loop", "vmap"]


class LoopModel:
    """Evaluates g chains, each on its own prepared batch, one after the other."""

    def __init__(self, model: FlatModel) -> None:
        self._model = model

    def evaluate(self, positions: torch.Tensor, contents: Sequence[Any], batch_size: int) -> Evaluation:
        """At `positions` [g, d]."""
        if len(positions) == 1:
            losses, gradient = self._model.losses_and_gradient(positions[0], contents[0], batch_size)
            return Evaluation(losses[None], gradient[None])
        gradients, rows = torch.empty_like(positions), []
        for position, content, out in zip(positions, contents, gradients, strict=True):
            losses, gradient = self._model.losses_and_gradient(position, content, batch_size)
            out.copy_(gradient)
            rows.append(losses)
        return Evaluation(torch.stack(rows), gradients)


class VmapModel:
    """All chains as one batch of work. The memory is that of the plain loop times the number of chains."""

    def __init__(self, model: FlatModel) -> None:
        self._model = model
        self._call = _LossModule(model)
        buffers = {f"model.{name}": buffer for name, buffer in model.module.named_buffers()}

        def total(parameters: dict[str, torch.Tensor], content: Any) -> tuple[torch.Tensor, torch.Tensor]:
            # copies made in here, so that a forward pass may write to its buffers, and nobody sees it
            own = {name: buffer.clone() for name, buffer in buffers.items()}
            losses = functional_call(self._call, (parameters, own), (content,), tie_weights=True)
            return losses.mean(), losses

        self._gradient = torch.func.vmap(torch.func.grad(total, has_aux=True), randomness="different")

    def evaluate(self, positions: torch.Tensor, contents: Sequence[Any], batch_size: int) -> Evaluation:
        """At `positions` [g, d]."""
        stacked = tree_map(_stack, contents[0], *contents[1:])
        views = self._model.named_views(self._model.full_vectors(positions))
        gradients, losses = self._gradient({f"model.{name}": view for name, view in views.items()}, stacked)
        if losses.shape != (len(positions), batch_size):
            raise ConfigError(f"loss_fn must return one loss per sample, shape [{batch_size}]")
        full = torch.cat([gradients[f"model.{name}"].flatten(1) for name in views], dim=1)
        return Evaluation(losses.detach(), self._model.sampled_gradient(full))


class _LossModule(nn.Module):
    """The loss as a module, so that `functional_call` can put other parameters into the model."""

    def __init__(self, model: FlatModel) -> None:
        super().__init__()
        self.model = model.module
        self._loss_fn = model.loss_fn

    def forward(self, content: Any) -> torch.Tensor:
        return self._loss_fn(self.model, content)


def choose_chain_method(method: ChainMethod, model: FlatModel, num_chains: int) -> Literal["loop", "vmap"]:
    """What "auto" stands for: `vmap` on a GPU with several chains, else the loop.

    A rule and not a race, so that the same call gives the same numbers every time. Raises `ConfigError` for another
    word, or for `vmap` of a model that is not float32 (float64) throughout or is to be run in microbatches.
    """
    if method not in ("auto", "loop", "vmap"):
        raise ConfigError(f"chain_method must be 'auto', 'loop' or 'vmap', got {method!r}")
    able = model.microbatch_size is None and all(p.dtype == model.dtype for p in model.module.parameters())
    if method == "vmap" and not able:
        raise ConfigError(
            "chain_method='vmap' needs a model in float32 (or float64) throughout and no microbatch_size; use 'loop'"
        )
    if method == "auto":
        return "vmap" if able and num_chains > 1 and model.device.type == "cuda" else "loop"
    return method


def _stack(*parts: Any) -> Any:
    return torch.stack(parts) if isinstance(parts[0], torch.Tensor) else parts[0]
