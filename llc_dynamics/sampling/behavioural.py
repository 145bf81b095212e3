"""The behavioural loss: how far the outputs at w are from the outputs at w* (Bushnaq et al. 2024, arXiv 2405.10927)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from llc_dynamics.errors import ConfigError, DataError

OutputFunction = Callable[[Any, Any], torch.Tensor]
_DIVERGENCES = ("squared", "kl")


@dataclass(frozen=True)
class Behavioural:
    """A loss made from a model's outputs; made by `behavioural`.

    On its own (called as a `loss_fn`) it needs the outputs at w*: the batch it is called with is a pair
    (batch, outputs at w*), which the engine makes.
    """

    output_fn: OutputFunction
    divergence: Literal["squared", "kl"] = "squared"
    bound: float | None = None

    def outputs(self, model: Any, batch: Any) -> torch.Tensor:
        """The outputs that are compared, [B, ...]; class logits along the last dimension for "kl"."""
        found = self.output_fn(model, batch)
        if not isinstance(found, torch.Tensor) or found.ndim == 0:
            kind = "a tensor without dimensions" if isinstance(found, torch.Tensor) else type(found).__name__
            raise DataError(f"output_fn(model, batch) must return a tensor of outputs [B, ...], got {kind}")
        return found

    def require_sound(self, reference: torch.Tensor) -> None:
        """Raise `DataError` for outputs at w* [B, ...] that nothing can be compared with.

        A class may be ruled out by a logit of minus infinity, as long as another one of its position is not.
        """
        sound = reference.isfinite()
        if self.divergence == "kl":
            sound = (sound | (reference == -torch.inf)) & sound.any(-1, keepdim=True)
        if not bool(sound.all()):
            bad = int((~sound).reshape(len(sound), -1).any(1).sum())
            raise DataError(
                f"the outputs at w* (the model as given) are NaN or infinite for {bad} of {len(sound)} samples; check "
                "the weights and the data"
            )

    def __call__(self, model: Any, batch: tuple[Any, torch.Tensor]) -> torch.Tensor:
        """One loss per sample [B]; outputs of less than float32 precision are compared in float32."""
        content, reference = batch
        found, before = self.outputs(model, content), reference
        if found.shape != before.shape:
            raise DataError(
                f"output_fn(model, batch) returned shape {tuple(found.shape)} at w, and {tuple(before.shape)} at w*; "
                "outputs must have the same shape whatever the weights are"
            )
        if found.dtype.itemsize < 4 or not (found.is_floating_point() or found.is_complex()):
            found, before = found.float(), before.float()
        if self.divergence == "kl":
            # KL(p* || p), summed over classes and averaged over all positions of a sample
            after, before = torch.log_softmax(found, -1), torch.log_softmax(before, -1)
            share = before.exp()
            # a class that is ruled out adds 0, not infinity minus infinity
            terms = torch.where(share > 0, share * (before - after), 0.0).sum(-1)
        else:
            difference = found - before
            terms = (torch.view_as_real(difference) if difference.is_complex() else difference).square()
            if found.is_complex():
                terms = terms.sum(-1)
        losses = terms if terms.ndim == 1 else terms.flatten(1).mean(1)
        return losses if self.bound is None else losses / (1 + losses / self.bound)


def behavioural(
    output_fn: OutputFunction, divergence: Literal["squared", "kl"] = "squared", *, bound: float | None = None
) -> Behavioural:
    """A loss that measures a model against itself at w*, to be given to `estimate_llc` as `loss_fn`.

        squared: mean over a sample's outputs of (f(x, w) - f(x, w*))^2
        kl: KL(p(. | x, w*) || p(. | x, w)) of the softmax of the outputs, a mean over a sample's positions

    It is never negative and zero at w*, whatever w* is: no estimate is negative because w* is no minimum, its gradient
    noise vanishes there, and it needs no labels. Where w* is a minimum of the given loss in function space, both have
    the same learning coefficient (for squared error without a factor 1/2; a factor only shifts the temperature).

    Parameters
    ----------
    output_fn : `output_fn(model, batch)` returns the model's outputs [B, ...] on a batch as `data` gives it.
    divergence : "squared", or "kl" for logits.
    bound : the loss l of a sample is taken as l / (1 + l / bound): never above `bound`, and the same near w*, so that
        the learning coefficient is the same. For outputs of heavy tails (polynomials of a high degree, quotients), of
        which a few samples rule the mean as soon as w leaves w*. The variance of the outputs is a good choice: a larger
        loss says no more than that the outputs are others. None: the loss as it is.

    Raises `ConfigError` for an unknown divergence or a bound that is not positive.
    """
    if divergence not in _DIVERGENCES:
        raise ConfigError(f"behavioural: divergence must be one of {', '.join(_DIVERGENCES)}, got {divergence!r}")
    if not callable(output_fn):
        raise ConfigError("behavioural: output_fn must be a function output_fn(model, batch) that returns the outputs")
    if bound is not None and not 0 < bound < math.inf:
        raise ConfigError(f"behavioural: bound must be positive and finite, or None; got {bound!r}")
    return Behavioural(output_fn, divergence, bound)
