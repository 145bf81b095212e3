"""Downhill from where a chain ended, without localisation and without noise: is it still in the well of w*?"""

from __future__ import annotations

import math
from typing import Any

import torch

from llc_dynamics.errors import DataError
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.sampling.kernel import widened

# A descent has come to rest if the later part of it takes off less than this share of what is left.
_AT_REST, _LATER_PART = 0.03, 0.6
# Of the rise at the start: the loss is back at that of w*.
_NOTHING = 1e-2
_HISTORY = 10


def rest_above(model: FlatModel, position: torch.Tensor, content: Any, batch_size: int, gradients: int) -> float:
    """How far above L_B(w*) the loss of a batch comes to rest, downhill from `position` [d] by L-BFGS.

    About zero, or below, in the well of w*. NaN where it has not come to rest after so many gradients, or failed.
    """
    losses: list[float] = []
    moving = position.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [moving], max_iter=gradients, max_eval=gradients, history_size=_HISTORY, line_search_fn="strong_wolfe"
    )

    def evaluate() -> torch.Tensor:
        found, gradient = model.losses_and_gradient(moving.detach(), content, batch_size)
        moving.grad = gradient.clone()
        loss = widened(found).mean()
        losses.append(float(loss))
        return loss

    at_origin = float(widened(model.losses(model.origin, content, batch_size)).mean())
    try:
        optimizer.step(evaluate)
    except (DataError, RuntimeError):  # out of the range of the weights
        return math.nan
    if not all(map(math.isfinite, losses)):
        return math.nan
    above = min(losses) - at_origin
    before = min(losses[: max(int(_LATER_PART * len(losses)), 1)]) - at_origin
    back = above < _NOTHING * (losses[0] - at_origin)
    at_rest = len(losses) < gradients or before - above < _AT_REST * above
    return above if back or at_rest else math.nan
