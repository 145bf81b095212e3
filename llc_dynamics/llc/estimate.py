"""One estimate: from a model, a loss and data to an `LLCResult`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from llc_dynamics.llc.bias import require_checkable, with_biases
from llc_dynamics.llc.calibration import Calibration, chosen_settings
from llc_dynamics.llc.problem import Problem
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.llc.stopping import run_until_done
from llc_dynamics.llc.summary import summarise
from llc_dynamics.llc.thresholds import Thresholds
from llc_dynamics.provenance import provenance
from llc_dynamics.sampling import SGLD, Behavioural, Chains, Kernel
from llc_dynamics.sampling.batches import Batches, Data
from llc_dynamics.sampling.devinterp_engine import DevinterpKernel, Engine
from llc_dynamics.sampling.flat_model import FlatModel, LossFunction
from llc_dynamics.sampling.group_model import ChainMethod
from llc_dynamics.sampling.metric import Metric, units_of
from llc_dynamics.sampling.selection import Selection


def estimate_llc(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Data,
    *,
    settings: EstimateSettings | Calibration | None = None,
    sampler: Kernel | None = None,
    num_chains: int = 4,
    num_draws: int = 500,
    num_burnin: int = 200,
    batch_size: int | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    steps_per_draw: int = 1,
    parameters: Selection | None = None,
    observe: Mapping[str, LossFunction] | None = None,
    target_error: float | None = None,
    max_draws: int | None = None,
    max_seconds: float | None = None,
    bias_checks: bool = False,
    control_variate: bool = False,
    chain_method: ChainMethod = "auto",
    microbatch_size: int | None = None,
    engine: Engine = "llc_dynamics",
    metric: Metric = "euclidean",
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
    loss_fn : `loss_fn(model, batch)` returns one loss per sample, [B]; or `ld.behavioural(output_fn)`, which measures
        the model against its own outputs at w*. The result says which of the two was estimated.
    data : tuple of tensors with samples along dimension 0 (`batch` is then a tuple), or a function
        `(generator, batch_size) -> batch` that draws fresh samples, with `num_samples`.
    settings : what `ld.calibrate` returns; stands for `sampler`, the counts, `batch_size` and all else that says how to
        sample, which must then not be given (`seed` may be).
    sampler : kernel with its step, nbeta and gamma (`localization`); None stands for `SGLD()`.
    num_chains, num_draws, num_burnin : all chains start at w*; `num_burnin` updates are made before the first draw. For
        `MALT` and `HMC` an update is a trajectory.
    batch_size : B; None stands for 256, or for all the data if there is less.
    num_samples : n of nbeta = n / log n; None stands for the length of the tensors.
    seed : batches and noise of chain c depend on `(seed, c)` alone.
    device : None stands for where the model is.
    steps_per_draw : updates per draw; the loss at w* is needed once a draw.
    parameters : sample these only, all others held at w* (weight-restricted LLC): a name, a pattern such as
        "blocks.0.*", several of them, or {name: boolean mask}.
    observe : {name: loss_fn}, other losses to be averaged over the same chains, in `result.observed`: the given loss
        beside the behavioural one, for example.
    target_error : go on until the standard error is below this share of the estimate, doubling the draws from
        `num_draws` up to `max_draws` (16 times as many, if None). `result.stopped` says where it ended.
    max_seconds : end with the draw at which sampling has taken so long, with as many draws as there are then (4 at
        least), burn-in included. The result then depends on the machine's speed; its error does not suffer.
    bias_checks : run again with half the step, and with twice the batch, each with half the draws: about three times
        the work in all. The result's `total_error` then holds the biases, and its verdict judges them; see `llc.bias`.
    control_variate : take the noise of grad L_B(w*) out of the gradients; a second gradient per batch. The share that
    is
        taken out falls to zero by itself where it would hurt, and the verdict says so.
    chain_method : "loop", "vmap" (all chains as one batch of work), or "auto".
    microbatch_size : samples that pass through the model at once; for batches that do not fit into memory.
    engine : who makes the updates: "llc_dynamics", or "devinterp", which runs devinterp's optimiser for the same kernel
        (`SGLD`, `RMSpropSGLD`) in this estimator, for comparison; see `llc_dynamics.sampling.devinterp_engine`.
    metric : "euclidean"; "curvature": each weight in units of 1 / sqrt(its curvature at w*). gamma is then compared
        with nbeta itself (a tenth of nbeta is a mild localisation), and the estimate does not change when weights are
        rescaled without changing the function. Needs a behavioural loss. "relative": each weight in units of the root
        mean square of its tensor at w*, so that weights that only grow do not lower the estimate. See
        `llc_dynamics.sampling.metric`.
    thresholds : limits of the checks behind `converged`.
    progress : called now and then with (steps done, steps in all).

    Returns
    -------
    LLCResult

    Raises
    ------
    ConfigError : a setting out of its range, nothing to sample, or a kernel that does not go with the loss.
    DataError : data, or a loss, of the wrong shape; a loss at w* that is not finite.
    MissingPackageError : engine="devinterp" without devinterp.
    """
    own = EstimateSettings(
        sampler=SGLD() if sampler is None else sampler,
        num_chains=num_chains,
        num_draws=num_draws,
        num_burnin=num_burnin,
        batch_size=batch_size,
        num_samples=num_samples,
        seed=seed,
        steps_per_draw=steps_per_draw,
        control_variate=control_variate,
        target_error=target_error,
        max_draws=max_draws,
        max_seconds=max_seconds,
        bias_checks=bias_checks,
        chain_method=chain_method,
        microbatch_size=microbatch_size,
        engine=engine,
        metric=metric,
    )
    chosen = own if settings is None else chosen_settings(settings).in_place_of(own)
    return estimate(Problem(model, loss_fn, data, parameters, device), chosen, thresholds, progress, observe)


def estimate(
    problem: Problem,
    settings: EstimateSettings,
    thresholds: Thresholds | None = None,
    progress: Callable[[int, int], None] | None = None,
    observe: Mapping[str, LossFunction] | None = None,
) -> LLCResult:
    """`estimate_llc` of a problem."""
    limits = Thresholds() if thresholds is None else thresholds
    require_checkable(settings)
    with problem.opened(settings) as (flat, batches):
        flat.measure_in(units_of(settings.metric, flat, batches))
        found = _sampled(flat, batches, settings, limits, progress, observe)
        if not settings.bias_checks:
            return found

        def again(other: EstimateSettings, other_batches: Batches) -> LLCResult:
            return _sampled(flat, other_batches, other, limits)

        return with_biases(found, settings, batches, again)


def _sampled(
    flat: FlatModel,
    batches: Batches,
    settings: EstimateSettings,
    thresholds: Thresholds,
    progress: Callable[[int, int], None] | None = None,
    observe: Mapping[str, LossFunction] | None = None,
) -> LLCResult:
    """One run of the chains."""
    nbeta = settings.nbeta(batches.num_samples)
    kernel, made_by = settings.sampler, {}
    if settings.engine == "devinterp":
        kernel = DevinterpKernel(settings.sampler, flat)
        made_by = {"engine": f"devinterp {kernel.version}"}
    chains = Chains(
        flat,
        batches,
        kernel,
        nbeta=nbeta,
        num_chains=settings.num_chains,
        num_burnin=settings.num_burnin,
        steps_per_draw=settings.steps_per_draw,
        seed=settings.seed,
        chain_method=settings.chain_method,
        control_variate=settings.control_variate,
        observed=observe,
        expected_draws=settings.num_draws,
    )

    def result() -> LLCResult:
        return summarise(
            chains.traces,
            nbeta=nbeta,
            localization=settings.sampler.localization,
            num_samples=batches.num_samples,
            dimension=flat.dimension,
            blocks=flat.names,
            loss="behavioural" if isinstance(flat.loss_fn, Behavioural) else "given",
            num_gradients=chains.num_gradients,
            settings=settings.resolved(batches),
            provenance=provenance(str(flat.device)) | {"chain_method": chains.chain_method} | made_by,
            thresholds=thresholds,
            sgld_step=settings.sampler.step_size if isinstance(settings.sampler, SGLD) else math.nan,
            without_gradient=chains.blocks_without_gradient,
        )

    found, stopped = run_until_done(chains, settings, result, progress)
    return dataclasses.replace(found, stopped=stopped).judged(thresholds)
