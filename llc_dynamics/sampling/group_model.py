"""Losses and gradients of a group of chains at once: one after the other, or as one batch of work with `torch.vmap`.

On a CPU the gradient costs what its arithmetic costs, and a plain loop is quickest unless the model is so small that
most of the time goes into calling operators; on a GPU small models are bound by launches, and one batch of work for all
chains wins (docs/sampling.md has the figures behind the rule of `choose_chain_method`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call

from llc_dynamics.batch import leaves, others, rebuilt
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.sampling.calls import one_line
from llc_dynamics.sampling.examination import agree, near, rounding_of
from llc_dynamics.sampling.flat_model import FlatModel, real_parts
from llc_dynamics.sampling.kernel import Evaluation
from llc_dynamics.seeding import isolated_generators

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
    """All chains as one batch of work. The memory is that of the plain loop times the number of chains.

    Where that cannot be done (batches of unequal shape, say) the chains are evaluated one after the other, or, if
    `required`, `ConfigError` says why.
    """

    def __init__(self, model: FlatModel, required: bool = False) -> None:
        self._model = model
        self._required = required
        self._loop = LoopModel(model)
        self._call = _LossModule(model)
        self._template: Any = None
        buffers = {f"model.{name}": buffer for name, buffer in model.module.named_buffers()}

        def total(parameters: dict[str, torch.Tensor], parts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            # copies made in here, so that a forward pass may write to its buffers, and nobody sees it
            own = {name: buffer.clone() for name, buffer in buffers.items()}
            content = rebuilt(self._template, iter(parts))
            losses = functional_call(self._call, (parameters, own), (content,), tie_weights=True)
            return losses.mean(), losses

        self._gradient = torch.func.vmap(torch.func.grad(total, has_aux=True), randomness="different")

    def evaluate(self, positions: torch.Tensor, contents: Sequence[Any], batch_size: int) -> Evaluation:
        """At `positions` [g, d]."""
        try:
            return self.together(positions, contents, batch_size)
        except Exception as error:
            if self._required:
                raise _cannot(one_line(error)) from error
            return self._loop.evaluate(positions, contents, batch_size)

    def together(self, positions: torch.Tensor, contents: Sequence[Any], batch_size: int) -> Evaluation:
        """The same without a way out."""
        self._template = contents[0]
        views = self._model.named_views(self._model.full_vectors(positions))
        parameters = {f"model.{name}": view for name, view in views.items()}
        for name in self._model.complex_names:
            parameters[f"model.{name}"] = torch.view_as_complex(parameters[f"model.{name}"].contiguous().clone())
        self._model.reset()
        with torch.no_grad():  # weights that are not sampled require gradients of their own
            gradients, losses = self._gradient(parameters, _stacked(contents))
        if losses.shape != (len(positions), batch_size):
            raise DataError(f"loss_fn must return one loss per sample, shape [{batch_size}]")
        full = torch.cat([real_parts(gradients[f"model.{name}"]).reshape(len(losses), -1) for name in views], dim=1)
        return Evaluation(losses.detach(), self._model.sampled_gradient(full))


def vmap_problem(model: FlatModel, contents: Sequence[Any], batch_size: int, seed: int) -> str | None:
    """Why `torch.vmap` does not give what one chain after the other gives near w*; None if it does."""
    positions = near(model, seed).repeat(len(contents), 1)

    def found(group: LoopModel | VmapModel, numbers: int) -> Evaluation:
        with isolated_generators(numbers):
            evaluate = group.together if isinstance(group, VmapModel) else group.evaluate
            result = evaluate(positions, contents, batch_size)
            return Evaluation(result.losses, result.gradient.clone())

    alone, again = found(LoopModel(model), seed), found(LoopModel(model), seed + 1)
    try:
        together = found(VmapModel(model), seed)
    except Exception as error:
        return one_line(error)
    rounding = rounding_of(model)
    if not _same(alone, again, rounding):  # a loss that draws random numbers draws others in one batch of work
        return None
    return (
        None if _same(alone, together, rounding) else "its losses or gradients are others than those of single chains"
    )


class _LossModule(nn.Module):
    """The loss as a module, so that `functional_call` can put other parameters into the model."""

    def __init__(self, model: FlatModel) -> None:
        super().__init__()
        self.model = model.module
        self._loss_fn = model.loss_fn

    def forward(self, content: Any) -> torch.Tensor:
        return self._loss_fn(self.model, content)


def choose_chain_method(
    method: ChainMethod, model: FlatModel, num_chains: int, problem: Callable[[], str | None]
) -> tuple[Literal["loop", "vmap"], str | None]:
    """What "auto" stands for: `vmap` on a GPU with several chains, if it has no `problem`, else the loop; and that.

    A rule and not a race, so that the same call gives the same numbers every time. Raises `ConfigError` for another
    word, or for `vmap` of a model that is not float32 (float64) throughout or is to be run in microbatches, or if there
    is a problem.
    """
    if method not in ("auto", "loop", "vmap"):
        raise ConfigError(f"chain_method must be 'auto', 'loop' or 'vmap', got {method!r}")
    able = model.microbatch_size is None and all(p.dtype.to_real() == model.dtype for p in model.module.parameters())
    if method == "vmap" and not able:
        raise ConfigError(
            "chain_method='vmap' needs a model in float32 (or float64) throughout and no microbatch_size; use 'loop'"
        )
    if method == "loop" or not able or (method == "auto" and (num_chains < 2 or not _launches_cost(model.device))):
        return "loop", None
    found = problem()
    if found is not None and method == "vmap":
        raise _cannot(found)
    return ("vmap" if found is None else "loop"), found


def _launches_cost(device: torch.device) -> bool:
    return device.type == "cuda"


def _cannot(reason: str) -> ConfigError:
    return ConfigError(f"chain_method='vmap' does not work with this model, loss or data ({reason}); use 'loop'")


def _stacked(contents: Sequence[Any]) -> list[torch.Tensor]:
    """The tensors of all chains' batches, each with a leading dimension; what is no tensor must be the same in all."""
    parts = [leaves(content) for content in contents]
    if len({tuple(part.shape for part in own) for own in parts}) > 1:
        raise DataError("the batches of the chains have different shapes")
    if any(others(content) != others(contents[0]) for content in contents[1:]):
        raise DataError("the batches of the chains differ in what is no tensor")
    return [torch.stack(column) for column in zip(*parts, strict=True)]


def _same(one: Evaluation, other: Evaluation, rounding: float) -> bool:
    """Whether two evaluations agree but for rounding."""
    return agree(one.losses, other.losses, rounding=rounding) and agree(one.gradient, other.gradient)
