"""What chains leave behind, and how a draw is written down."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llc_dynamics.finding import FailedChain, Finding
from llc_dynamics.sampling.flat_model import SMALL, FlatModel
from llc_dynamics.sampling.kernel import Target, wide_dtype, widened

# In equilibrium nbeta (L(w) - L(w*)) averages at most d/2; a chain this far above d has left for good.
EXPLOSION = 1e5


@dataclass(frozen=True)
class ChainTraces:
    """What the chains recorded, at w before the update of the step; NaN from the draw at which a chain died.

    w is independent of the batch of its draw, which the update that follows is the first to use.

    Attributes
    ----------
    loss_difference : float64 [chain, draw], L_B(w) - L_B(w*) on the batch of the draw: for kernels that hold their
        batch the one they moved on (in-sample), for others the one of the coming update, of which w is independent.
    fresh_difference : float64 [chain, draw], the same on another batch, which the chain has not moved on
        (out-of-sample); NaN where that was not looked at. The population's value lies between the two.
    loss_at_origin : float64 [chain, draw], L_B(w*).
    distance : float64 [chain, draw], |w - w*|^2.
    virial : float64 [chain, draw], (w - w*) . grad U(w) / d with U = nbeta L_B + gamma/2 |w - w*|^2.
    virial_by_block : float32 [chain, draw, block], the same for each parameter tensor, divided by its size.
    half_difference : float64 [chain, draw], half of (the mean of loss_difference over the first half of the batch minus
        that over the second): its mean square is the variance that the batch adds to a draw. Zero where the draw is of
        the very loss that is sampled: in-sample, and where the batch is all the data.
    kinetic : float64 [chain, draw], |p|^2 / d; NaN for kernels without momentum.
    gradient_kinetic : float64 [chain, draw], (p . g)^2 / |g|^2 with g the gradient of the loss: the kinetic temperature
        in the stiff directions, in which the gradient lies; 1 in equilibrium, above 1 where gradient noise heats.
    gradient_square : float64 [chain, draw], |g|^2 of that gradient (without nbeta).
    acceptance : float64 [chain, draw], probability with which the proposal before the draw was accepted; NaN without
        a test.
    step_size : float64 [chain], as each chain ended up with; NaN for kernels whose step is only in the settings.
    observed : {name: float64 [chain, draw]}, other losses on the batch of the draw, minus the same at w*.
    failed : the chains that died.
    """

    loss_difference: NDArray[np.float64]
    loss_at_origin: NDArray[np.float64]
    distance: NDArray[np.float64]
    virial: NDArray[np.float64]
    virial_by_block: NDArray[np.float32]
    fresh_difference: NDArray[np.float64]
    half_difference: NDArray[np.float64]
    kinetic: NDArray[np.float64]
    gradient_kinetic: NDArray[np.float64]
    gradient_square: NDArray[np.float64]
    acceptance: NDArray[np.float64]
    step_size: NDArray[np.float64]
    observed: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    failed: tuple[FailedChain, ...] = ()

    @classmethod
    def empty(cls, num_chains: int, num_draws: int, num_blocks: int, observed: tuple[str, ...] = ()) -> ChainTraces:
        """Traces full of NaN."""
        by_draw: dict[str, Any] = {name: np.full((num_chains, num_draws), np.nan) for name in _BY_DRAW}
        losses = {name: np.full((num_chains, num_draws), np.nan) for name in observed}
        by_draw["virial_by_block"] = np.full((num_chains, num_draws, num_blocks), np.nan, dtype=np.float32)
        by_chain: dict[str, Any] = {"step_size": np.full(num_chains, np.nan)}
        return cls(**by_draw, **by_chain, observed=losses)

    def extended(self, num_draws: int) -> ChainTraces:
        """The same with room for so many more draws."""
        longer: dict[str, Any] = {name: _longer(getattr(self, name), num_draws) for name in _BY_DRAW}
        observed = {name: _longer(values, num_draws) for name, values in self.observed.items()}
        return replace(self, **longer, observed=observed)


# float64 or float32 [chain, draw, ...]
_BY_DRAW = tuple(each.name for each in fields(ChainTraces) if each.name not in ("step_size", "observed", "failed"))


def _longer(values: np.ndarray, num_draws: int) -> np.ndarray:
    try:
        room = np.full((values.shape[0], num_draws, *values.shape[2:]), np.nan, dtype=values.dtype)
    except (ValueError, OverflowError):  # numpy's words for more than any machine can address
        raise MemoryError(f"{num_draws} draws cannot be held") from None
    return np.concatenate([values, room], axis=1)


def data_not_finite(at_origin: torch.Tensor) -> Finding | None:
    """What is wrong with a batch on which the losses at w* [B] are not finite; None if they are."""
    bad = int((~at_origin.isfinite()).sum())
    if not bad:
        return None
    return Finding(
        "data_not_finite",
        f"the loss at w* is NaN or infinite for {bad} of {len(at_origin)} samples of a batch: look for NaN in the "
        "data, and for samples of which nothing counts (a mean over no label)",
    )


class Recorder:
    """Writes the draws of chains into traces, unless something is wrong with them."""

    def __init__(self, model: FlatModel, target: Target) -> None:
        self._model = model
        self._target = target
        self._sizes = np.asarray(model.sizes, dtype=np.float64).clip(min=1)
        self._limit = EXPLOSION * model.dimension / target.nbeta

    def record(
        self,
        traces: ChainTraces,
        chain: int,
        draw: int,
        position: torch.Tensor,
        losses: torch.Tensor,
        at_origin: torch.Tensor,
        gradient: torch.Tensor,
        momentum: torch.Tensor | None,
    ) -> Finding | None:
        """Record a draw of one chain (vectors [d], losses [B]), or say why the chain has died."""
        # the difference sample by sample in float64: the two losses share most of their digits
        paired = widened(losses) - at_origin
        difference = float(paired.mean())
        baseline = float(at_origin.mean())
        distance, by_block = self._distance_and_virial(position, gradient)
        virial = float(by_block.sum()) / self._model.dimension
        if not math.isfinite(baseline):
            return data_not_finite(at_origin)
        if not (math.isfinite(distance) and math.isfinite(virial)):
            return Finding(
                "weights_not_finite", "the weights or the gradient are no longer finite: try a smaller step_size"
            )
        problem = self.problem(difference)
        if problem is not None:
            return problem
        traces.loss_difference[chain, draw] = difference
        traces.loss_at_origin[chain, draw] = baseline
        traces.distance[chain, draw] = distance
        traces.virial[chain, draw] = virial
        traces.virial_by_block[chain, draw] = by_block / self._sizes
        half = len(paired) // 2
        if half:
            traces.half_difference[chain, draw] = float(paired[:half].mean() - paired[half : 2 * half].mean()) / 2
        size = float(torch.dot(gradient, gradient))
        traces.gradient_square[chain, draw] = size
        if momentum is not None:
            traces.kinetic[chain, draw] = float(torch.dot(momentum, momentum)) / self._model.dimension
            if size > 0:
                traces.gradient_kinetic[chain, draw] = float(torch.dot(momentum, gradient)) ** 2 / size
        return None

    def _distance_and_virial(self, position: torch.Tensor, gradient: torch.Tensor) -> tuple[float, NDArray[np.float64]]:
        """|w - w*|^2, and (w - w*).grad U of each block."""
        target = self._target

        def terms(place: torch.Tensor, origin: torch.Tensor, slope: torch.Tensor) -> tuple[float, torch.Tensor]:
            displacement = place - origin
            force = (slope * target.nbeta).add_(displacement, alpha=target.localization)
            return float(torch.dot(displacement, displacement)), force.mul_(displacement)

        if self._model.dimension <= SMALL:
            distance, products = terms(position, target.origin, gradient)
            return distance, self._model.sum_by_block(products)
        # block by block: each vector of working memory is as much as the gradient of the model
        parts = [each.split(self._model.sizes) for each in (position, target.origin, gradient)]
        distance, sums = 0.0, []
        for block in zip(*parts, strict=True):
            own, products = terms(*block)
            distance += own
            sums.append(float(products.sum(dtype=wide_dtype(products.device))))
        return distance, np.array(sums)

    def problem(self, excess: float) -> Finding | None:
        """Why a chain whose loss is this far above that of w* has died; None if it has not."""
        if not math.isfinite(excess):
            return Finding("loss_not_finite", "the loss is no longer finite: try a smaller step_size")
        if excess > self._limit:
            return Finding(
                "loss_exploded",
                f"the loss exploded to {excess:.3g} above that of w*, beyond {EXPLOSION:.0e} d / nbeta: try a smaller "
                "step_size",
            )
        return None
