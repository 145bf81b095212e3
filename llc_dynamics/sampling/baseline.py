"""The loss at w* on the batch of a draw: the other half of the paired estimate."""

from __future__ import annotations

import torch

from llc_dynamics.errors import DataError
from llc_dynamics.sampling.batches import Batch, Batches, FixedBatches
from llc_dynamics.sampling.behavioural import Behavioural
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.sampling.kernel import wide_dtype, widened

# A looked-up loss must agree with a computed one to this share of the losses' size (float32 sums in another order).
_AGREEMENT = 1e-4


class PairedBaseline:
    """Per-sample losses at w*, computed for each batch or, for fixed data, once for all and looked up.

    A `Behavioural` loss is zero there.

    Looking up is chosen when the data holds no more samples than one chain's draws would ask for, and only if a
    sample's loss does not depend on which other samples share its batch (checked on one batch). The choice does not
    depend on the number of chains, so that a chain's trace does not either.

    Raises `DataError` if the loss at w* is not finite.
    """

    def __init__(self, model: FlatModel, batches: Batches, num_draws: int, seed: int) -> None:
        self._model = model
        self._batch_size = batches.batch_size
        self._table: torch.Tensor | None = None
        if isinstance(model.loss_fn, Behavioural):
            self._table = torch.zeros(batches.batch_size, dtype=wide_dtype(model.device), device=model.device)
            return
        probe = next(batches.stream(seed, "probe"))
        direct = self._direct(probe)
        self._require_finite(direct)
        if isinstance(batches, FixedBatches) and batches.length <= num_draws * batches.batch_size:
            table = self._all_losses(batches)
            self._require_finite(table)
            scale = direct.abs().mean() + table.std(correction=0)
            if bool(((table[probe.indices] - direct).abs() <= _AGREEMENT * scale).all()):
                self._table = table

    @property
    def looked_up(self) -> bool:
        """Whether the losses at w* come from a table."""
        return self._table is not None

    def losses(self, batch: Batch) -> torch.Tensor:
        """Losses at w* of the samples in `batch`, wide [B]."""
        if self._table is None:
            return self._direct(batch)
        return self._table if len(self._table) == self._batch_size else self._table[batch.indices]

    def _direct(self, batch: Batch) -> torch.Tensor:
        return widened(self._model.losses(self._model.origin, batch.content, self._batch_size))

    def _all_losses(self, batches: FixedBatches) -> torch.Tensor:
        parts = []
        for part in torch.arange(batches.length, device=batches.device).split(self._batch_size):
            content = batches.take(part).content
            parts.append(widened(self._model.losses(self._model.origin, content, len(part))))
        return torch.cat(parts)

    @staticmethod
    def _require_finite(losses: torch.Tensor) -> None:
        bad = int((~losses.isfinite()).sum())
        if bad:
            raise DataError(
                f"the loss at w* (the model as given) is NaN or infinite for {bad} of {len(losses)} samples; check the "
                "weights, the loss function and the data, and leave out samples of which nothing counts (a mean over "
                "no label)"
            )
