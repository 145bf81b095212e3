"""One estimate: from a model, a loss and data to an `LLCResult`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from llc_dynamics.llc.result import LLCResult, summarise
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.llc.thresholds import Thresholds
from llc_dynamics.provenance import provenance
from llc_dynamics.sampling.batches import Batches, Data, make_batches
from llc_dynamics.sampling.engine import run_chains
from llc_dynamics.sampling.flat_model import FlatModel, LossFunction
from llc_dynamics.sampling.kernel import Kernel
from llc_dynamics.sampling.sgld import SGLD


def estimate_llc(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Data,
    *,
    sampler: Kernel | None = None,
    num_chains: int = 4,
    num_draws: int = 500,
    num_burnin: int = 200,
    batch_size: int | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    steps_per_draw: int = 1,
    thresholds: Thresholds | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LLCResult:
    """Estimate the local learning coefficient of `model` at its present weights w*.

        lambda_hat = nbeta E[L_B(w) - L_B(w*)],    w ~ exp(-nbeta L(w) - gamma/2 |w - w*|^2)

    (Lau et al. 2023, arXiv 2308.12108), **paired**: both losses are taken on the same batch, so that the noise they
    share cancels. w is the position before the update that its batch drives, and thus independent of the batch.

    Parameters
    ----------
    model : comes back untouched: weights, buffers, mode, gradients. Sampled in evaluation mode (dropout off), over the
        parameters that require a gradient.
    loss_fn : `loss_fn(model, batch)` returns one loss per sample, [B].
    data : tuple of tensors with samples along dimension 0 (`batch` is then a tuple), or a function
        `(generator, batch_size) -> batch` that draws fresh samples, with `num_samples`.
    sampler : kernel with eps, nbeta and gamma (`localization`); None stands for `SGLD()`.
    num_chains, num_draws, num_burnin : all chains start at w*; `num_burnin` updates are made before the first draw.
    batch_size : B; None stands for 256, or for all the data if there is less.
    num_samples : n of nbeta = n / log n; None stands for the length of the tensors.
    seed : batches and noise of chain c depend on `(seed, c)` alone.
    device : None stands for where the model is.
    steps_per_draw : updates per draw; the loss at w* is needed once a draw.
    thresholds : limits of the checks behind `converged`.
    progress : called now and then with (steps done, steps in all).

    Returns
    -------
    LLCResult

    Raises
    ------
    ConfigError : a setting out of its range, or nothing to sample.
    DataError : data, or a loss, of the wrong shape; a loss at w* that is not finite.
    """
    settings = EstimateSettings(
        sampler=SGLD() if sampler is None else sampler,
        num_chains=num_chains,
        num_draws=num_draws,
        num_burnin=num_burnin,
        batch_size=batch_size,
        num_samples=num_samples,
        seed=seed,
        steps_per_draw=steps_per_draw,
    )
    flat = FlatModel(model, loss_fn, device)
    batches = make_batches(data, batch_size, num_samples, flat.device)
    with flat:
        return estimate_inside(flat, batches, settings, thresholds, progress)


def estimate_inside(
    flat: FlatModel,
    batches: Batches,
    settings: EstimateSettings,
    thresholds: Thresholds | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LLCResult:
    """`estimate_llc` inside an entered `FlatModel`."""
    nbeta = settings.nbeta(batches.num_samples)
    traces = run_chains(
        flat,
        batches,
        settings.sampler,
        nbeta=nbeta,
        num_chains=settings.num_chains,
        num_draws=settings.num_draws,
        num_burnin=settings.num_burnin,
        steps_per_draw=settings.steps_per_draw,
        seed=settings.seed,
        progress=progress,
    )
    return summarise(
        traces,
        nbeta=nbeta,
        num_samples=batches.num_samples,
        dimension=flat.dimension,
        blocks=flat.names,
        settings=settings.resolved(batches),
        provenance=provenance(str(flat.device)),
        thresholds=Thresholds() if thresholds is None else thresholds,
    )
