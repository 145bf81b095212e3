"""One estimate: from a model, a loss and data to an `LLCResult`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from llc_dynamics.llc.bias import half_the_step, with_biases
from llc_dynamics.llc.calibration import Calibration
from llc_dynamics.llc.problem import Problem
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings, Everyday
from llc_dynamics.llc.stopping import run_until_done
from llc_dynamics.llc.thresholds import Thresholds
from llc_dynamics.llc.verdict import judged
from llc_dynamics.sampling import Chains, Kernel
from llc_dynamics.sampling.batches import Batches, Data
from llc_dynamics.sampling.engine import Progress
from llc_dynamics.sampling.flat_model import LossFunction
from llc_dynamics.sampling.metric import units_of
from llc_dynamics.sampling.selection import Selection


def estimate_llc(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Data,
    *,
    sampler: Kernel | None = None,
    num_chains: int = EstimateSettings.num_chains,
    num_draws: int = EstimateSettings.num_draws,
    num_burnin: int = EstimateSettings.num_burnin,
    batch_size: int | None = None,
    num_samples: int | None = None,
    target_error: float | None = None,
    seed: int = 0,
    settings: EstimateSettings | Calibration | None = None,
    parameters: Selection | None = None,
    device: str | torch.device | None = None,
    observe: Mapping[str, LossFunction] | None = None,
    thresholds: Thresholds | None = None,
    progress: Progress | None = None,
    **others: Any,
) -> LLCResult:
    """Estimate the local learning coefficient of `model` at its present weights w*.

        lambda_hat = nbeta E[L_B(w) - L_B(w*)],    w ~ exp(-nbeta L(w) - gamma/2 |w - w*|^2)

    (Lau et al. 2023, arXiv 2308.12108), **paired**: both losses are taken on the same batch, so that the noise they
    share cancels. w is the position before the update that its batch drives, and thus independent of the batch.

    Parameters
    ----------
    model : comes back untouched: weights, buffers, mode, gradients. Sampled in evaluation mode (dropout off), over the
        parameters that require a gradient.
    loss_fn : `loss_fn(model, batch)` returns one loss per sample, [B]; or `ld.behavioural(output_fn)`, which measures
        the model against its own outputs at w*. The result says which of the two was estimated.
    data : tensors or NumPy arrays with samples along dimension 0, in a tuple, a dict or another mapping, or a dataclass
        (`batch` is then one, too); a `torch.utils.data.Dataset`, or what else has `len(data)` and `data[i]`; or a
        function `(generator, batch_size) -> batch` that draws fresh samples, with `num_samples`. Never written to.
    sampler : kernel with its step, nbeta and gamma (`localization`); None stands for `SGLD()`.
    num_chains, num_draws, num_burnin : chains start at draws of w* + N(0, 1/gamma), nearer where the loss is too high
        there; `num_burnin` updates are made before the first draw. For `MALT` and `HMC` an update is a trajectory.
    batch_size : B; None stands for 256, or for all the data if there is less.
    num_samples : n of nbeta = n / log n; None stands for the length of the data.
    target_error : go on until the standard error is below this share of the estimate, doubling the draws.
    seed : batches and noise of chain c depend on `(seed, c)` alone.
    settings : what `ld.calibrate` returns, or `ld.EstimateSettings(...)`, which holds all of these and more (step by
        step draws, metrics, bias checks, limits of time and memory, ...). Then none of the above may be given but
        `seed`.
    parameters : sample these only, all others held at w* (weight-restricted LLC): a name, a pattern such as
        "blocks.0.*", several of them, or {name: boolean mask}.
    device : None stands for where the model is.
    observe : {name: loss_fn}, other losses to be averaged over the same chains, in `result.observed`: the given loss
        beside the behavioural one, for example.
    thresholds : limits of the checks behind `converged`.
    progress : called now and then with (steps done, steps in all).

    Returns
    -------
    LLCResult

    Raises
    ------
    ConfigError : a setting out of its range, nothing to sample, or a kernel that does not go with the loss.
    DataError : data, or a loss, of the wrong shape; a loss at w* that is not finite.
    MissingPackageError : the engine of devinterp was chosen, and it is not installed.
    """
    everyday: Everyday = {
        "sampler": sampler,
        "num_chains": num_chains,
        "num_draws": num_draws,
        "num_burnin": num_burnin,
        "batch_size": batch_size,
        "num_samples": num_samples,
        "target_error": target_error,
        "seed": seed,
    }
    chosen = EstimateSettings.of(settings, {**everyday, **others})
    return estimate(Problem(model, loss_fn, data, parameters, device), chosen, thresholds, progress, observe)


def estimate(
    problem: Problem,
    settings: EstimateSettings,
    thresholds: Thresholds | None = None,
    progress: Progress | None = None,
    observe: Mapping[str, LossFunction] | None = None,
) -> LLCResult:
    """`estimate_llc` of a problem."""
    if settings.bias_checks:
        half_the_step(settings)  # a kernel that cannot be halved is refused before anything is computed
    with problem.opened(settings) as (flat, batches):
        flat.measure_in(units_of(settings.metric, flat, batches))
        chains = Chains(flat, batches, settings, observe)
        found = run_until_done(chains, settings, progress)
        downhill = tuple(chains.downhill().tolist())
        found = dataclasses.replace(found, downhill=downhill, num_gradients=chains.num_gradients)
        if settings.bias_checks:

            def run(other: EstimateSettings, on: Batches) -> LLCResult:
                return run_until_done(Chains(flat, on, other), other)

            found = with_biases(found, settings, batches, run)
    return judged(found, thresholds)
