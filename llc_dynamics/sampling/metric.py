"""In which units weights are sampled: as they are, or each in units of its own curvature.

Localised by gamma/2 |w - w*|^2, an estimate depends on how a network is written down: hidden units of a ReLU network
times c, their outgoing weights over c, are the same function, and another estimate. With `metric="curvature"` the
chains move z_i = sqrt(h_i) (w_i - w*_i), h_i the i-th diagonal element of the Gauss-Newton matrix of the behavioural
loss at w*, and are localised by gamma/2 |z|^2. That follows every rescaling of single weights exactly, and takes the
spread of the diagonal out of what limits the step: a preconditioner that is fixed before the first update, so that the
law is right.

    h_i = (1/n) sum_j sum_k d2L_j/df_k^2 (df_jk / dw_i)^2

is estimated from gradients of sum_jk sqrt(d2L_j/df_k^2) s_jk f_jk with random signs s, the expectation of whose squares
it is (Hutchinson's estimator in the form of Bekas, Kokiopoulou & Saad 2007 for a diagonal).

`metric="relative"` is simpler: z = (w - w*) / s, s the root mean square at w* of the tensor that a weight is in. It
asks what a *relative* change of the weights does, and follows every rescaling of whole tensors. Where weights grow
during training, as they do without weight decay, the same gamma on the weights as they are is an ever finer resolution
relative to them, and lambda_hat falls for that alone; a curve with this metric keeps the relative resolution fixed.
"""

from __future__ import annotations

from typing import Literal

import torch

from llc_dynamics.errors import ConfigError
from llc_dynamics.sampling.batches import Batches
from llc_dynamics.sampling.behavioural import Behavioural
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.sampling.kernel import wide_dtype, widened
from llc_dynamics.seeding import torch_generator

Metric = Literal["euclidean", "curvature", "relative"]

# Gradients with random signs; h_i then has a relative error of sqrt(2/64), and a unit of half of that.
_PROBES = 64
_SEED = 0


def units_of(metric: Metric, flat: FlatModel, batches: Batches) -> torch.Tensor | None:
    """What `FlatModel.measure_in` takes for this metric [d], inside an entered `FlatModel` in plain units."""
    if metric == "curvature":
        return curvature_units(flat, batches)
    return relative_units(flat) if metric == "relative" else None


def relative_units(flat: FlatModel) -> torch.Tensor:
    """Root mean square at w* of each weight's tensor [d], inside an entered `FlatModel` in plain units.

    A tensor that is zero at w* has no scale: its weights keep their own unit.
    """
    parts = torch.split(flat.origin, list(flat.sizes))
    scales = [float(part.square().mean().sqrt()) if part.numel() else 0.0 for part in parts]
    return torch.cat([torch.full_like(part, scale or 1.0) for part, scale in zip(parts, scales, strict=True)])


def curvature_units(flat: FlatModel, batches: Batches) -> torch.Tensor:
    """1 / sqrt(h_i) of every sampled weight [d], inside an entered `FlatModel` in plain units.

    Signs and batches are the same whatever the seed of an estimate: the units are part of what is estimated.

    A weight without any curvature keeps its own unit: what it does cannot be seen in the outputs near w*.

    Raises `ConfigError` unless the loss is behavioural: of a given loss, w* need not be a minimum.
    """
    loss = flat.loss_fn
    if not isinstance(loss, Behavioural):
        raise ConfigError(
            'metric="curvature" needs a loss made by ld.behavioural(...): its curvature at w* is never negative and '
            "known from first derivatives"
        )
    signs = torch_generator(_SEED, "metric signs", device=flat.device)
    total = torch.zeros_like(flat.origin, dtype=wide_dtype(flat.device))
    stream = batches.stream(_SEED, "metric")
    for _ in range(_PROBES):
        gradient = flat.output_gradient(
            next(stream).content, lambda outputs: _signed(outputs, loss.divergence, signs), batches.batch_size
        )
        total += widened(gradient).square()
    curvature = total / (_PROBES * batches.batch_size)
    return torch.where(curvature > 0, curvature, 1.0).rsqrt().to(flat.dtype)


def _signed(outputs: torch.Tensor, divergence: str, generator: torch.Generator) -> torch.Tensor:
    """A scalar whose derivative by the outputs [B, ...] is a random root of the loss's curvature in them.

    The second derivative of the mean over K outputs of (f - f*)^2 is 2/K; that of the divergence between softmaxes,
    averaged over P positions, (diag p - p p') / P, of which diag(sqrt p) (s - sqrt p (sqrt p . s)) is a root.
    """
    signs = torch.randint(0, 2, outputs.shape, generator=generator, device=outputs.device).to(outputs.dtype) * 2 - 1
    per_sample = max(outputs[0].numel(), 1)
    if divergence == "squared":
        return (outputs * signs).sum() * (2 / per_sample) ** 0.5
    positions = per_sample // outputs.shape[-1]
    root = torch.softmax(outputs.detach(), -1).sqrt()
    direction = root * (signs - root * (root * signs).sum(-1, keepdim=True))
    return (outputs * direction).sum() / positions**0.5
