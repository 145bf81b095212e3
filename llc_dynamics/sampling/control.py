"""Control variates for the gradient (Baker et al. 2019), with a coefficient that knows when they do not help.

    g = grad L_B(w) - alpha (grad L_B(w*) - grad L_n(w*))

The noise that grad L_B(w) shares with grad L_B(w*) cancels; alpha = 1 is the textbook form. Its best value is
Cov(grad L_B(w), grad L_B(w*)) / Var(grad L_B(w*)), near 1 close to w* and falling to 0 far away, where alpha = 1 would
add noise and then drive the chain off. Here alpha is that ratio, measured along the chain on batches *before* the
present one (so that the gradient stays unbiased) and kept within [0, 1].
"""

from __future__ import annotations

from itertools import islice

import torch

from llc_dynamics.sampling.batches import Batches, FixedBatches
from llc_dynamics.sampling.flat_model import FlatModel

# Batches that stand for the population when samples are fresh.
_POPULATION_BATCHES = 256
# Weight of a new step in the running averages.
_MEMORY = 0.05
# Steps after which the ratio is trusted.
_SETTLED = 10
# Below this the control variate has stopped to matter.
HELPS = 0.5


class ControlVariate:
    """The gradient of the mean loss at w*, and the coefficient of each chain."""

    def __init__(self, model: FlatModel, batches: Batches, seed: int) -> None:
        self._model = model
        self._size = batches.batch_size
        self._mean = torch.zeros_like(model.origin)
        if isinstance(batches, FixedBatches):
            whole = torch.arange(batches.length, device=model.device)
            contents = [(batches.take(part).content, len(part)) for part in whole.split(self._size)]
        else:
            contents = [
                (batch.content, self._size) for batch in islice(batches.stream(seed, "control"), _POPULATION_BATCHES)
            ]
        total = sum(size for _, size in contents)
        for content, size in contents:
            _, gradient = model.losses_and_gradient(model.origin, content, size)
            self._mean.add_(gradient, alpha=size / total)

    def difference(self, content: object) -> torch.Tensor:
        """grad L_B(w*) - grad L_n(w*) on a batch, [d]."""
        _, gradient = self._model.losses_and_gradient(self._model.origin, content, self._size)
        return gradient - self._mean


class Coefficient:
    """alpha of one chain."""

    def __init__(self) -> None:
        self._covariance = self._variance = 0.0
        self._seen = 0
        self.value = 1.0

    def correct(self, gradient: torch.Tensor, difference: torch.Tensor) -> None:
        """Take alpha times the difference off the gradient [d], in place; then learn from this batch for the next."""
        variance = float(torch.dot(difference, difference))
        covariance = float(torch.dot(gradient, difference))
        gradient.sub_(difference, alpha=self.value)
        if not (variance > 0 and abs(covariance) < float("inf")):
            return
        self._seen += 1
        self._covariance += _MEMORY * (covariance - self._covariance)
        self._variance += _MEMORY * (variance - self._variance)
        if self._seen >= _SETTLED:
            self.value = min(max(self._covariance / self._variance, 0.0), 1.0)
