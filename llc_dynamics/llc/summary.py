"""From the traces of the chains to an `LLCResult`: averages and errors over those that survived."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.llc.diagnostics import effective_sample_size, monte_carlo_error, r_hat
from llc_dynamics.llc.resolution import batch_gap, share_of_slope, slope_gamma, slope_nbeta
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.llc.sgld_step import without_step
from llc_dynamics.provenance import provenance
from llc_dynamics.sampling import SGLD, Behavioural, Chains, ChainTraces


def summarise(chains: Chains, settings: EstimateSettings) -> LLCResult:
    """The result of the chains so far: averages and errors over those that survived. It is not judged yet."""
    traces, model, batches = chains.traces, chains.model, chains.batches
    nbeta, localization = chains.target.nbeta, chains.target.localization
    blocks = model.names
    alive = np.setdiff1d(np.arange(len(traces.distance)), [failed.chain for failed in traces.failed])
    trace = nbeta * traces.loss_difference
    kept, at_origin, by_block = trace[alive], traces.loss_at_origin[alive], traces.virial_by_block[alive]
    halves = nbeta * traces.half_difference[alive]
    slope, slope_error = slope_nbeta(kept, halves)
    slope_of_gamma, slope_of_gamma_error = slope_gamma(kept, localization * traces.distance[alive])
    share = share_of_slope(kept, halves)
    gap = batch_gap(kept, nbeta * traces.fresh_difference[alive], share)
    influence, systematic_error, heat = gap.influence, gap.systematic_error, np.zeros_like(kept)
    if isinstance(settings.sampler, SGLD):
        step = settings.sampler.step_size
        found = without_step(
            kept, traces.distance[alive], traces.virial[alive], traces.gradient_square[alive], step, localization,
            nbeta, model.dimension,
        )  # fmt: skip
        influence, systematic_error, heat = found.trace, found.systematic_error, found.virial_heat
    corrected, virials = np.full_like(trace, np.nan), traces.virial.copy()
    corrected[alive] = influence
    virials[alive] -= heat
    value = _mean(influence)
    sampling_error, ess_mean = monte_carlo_error(influence)
    error = math.hypot(sampling_error, systematic_error)
    return LLCResult(
        llc=value,
        standard_error=error,
        systematic_error=systematic_error,
        batch_gap=gap.gap,
        batch_gap_error=gap.gap_error,
        batch_correction=gap.correction,
        exponent=share.value,
        exponent_error=share.error,
        extrapolated=value,
        extrapolated_error=error,
        r_hat=r_hat(kept),
        r_hat_distance=r_hat(traces.distance[alive]),
        ess=effective_sample_size(kept),
        ess_mean=ess_mean,
        **_averaged("virial", virials[alive]),
        virial_heat=_mean(heat),
        virial_by_block={name: _mean(by_block[..., place]) for place, name in enumerate(blocks)},
        virial_by_block_error={name: monte_carlo_error(by_block[..., place])[0] for place, name in enumerate(blocks)},
        failed_chains=traces.failed,
        trace=trace,
        corrected_trace=corrected,
        distance_trace=traces.distance,
        virial_trace=virials,
        num_samples=batches.num_samples,
        nbeta=nbeta,
        dimension=model.dimension,
        initial_loss=_mean(at_origin),
        initial_loss_error=_initial_loss_error(at_origin),
        localization=localization,
        loss="behavioural" if isinstance(model.loss_fn, Behavioural) else "given",
        **_averaged("kinetic", traces.kinetic[alive]),
        **_averaged("gradient_kinetic", traces.gradient_kinetic[alive]),
        acceptance=_mean(traces.acceptance[alive]),
        step_size=_mean(traces.step_size[alive]),
        slope_nbeta=slope,
        slope_nbeta_error=slope_error,
        slope_gamma=slope_of_gamma,
        slope_gamma_error=slope_of_gamma_error,
        num_gradients=chains.num_gradients,
        **_averaged(
            "sgld_bias", kept - influence if isinstance(settings.sampler, SGLD) else np.full_like(kept, np.nan)
        ),
        without_gradient=chains.blocks_without_gradient,
        share_below=_share_below(traces, alive),
        observed={
            name: (_mean(nbeta * values[alive]), nbeta * monte_carlo_error(values[alive])[0])
            for name, values in traces.observed.items()
        },
        settings=settings.resolved(batches),
        provenance=provenance(str(model.device))
        | {"chain_method": chains.chain_method, **chains.kernel.made_by}
        | ({} if chains.vmap_problem is None else {"vmap_problem": chains.vmap_problem}),
    )


def _mean(values: NDArray[np.floating]) -> float:
    return float(values.mean(dtype=np.float64)) if values.size else math.nan


def _averaged(name: str, values: NDArray[np.float64]) -> dict[str, Any]:
    """Mean of a trace and its error; NaN where a kernel does not have it."""
    return {name: _mean(values), f"{name}_error": monte_carlo_error(values)[0]}


def _initial_loss_error(at_origin: NDArray[np.float64]) -> float:
    """Standard error of the mean loss at w*; draws share their batch where a kernel holds it over several of them."""
    error = monte_carlo_error(at_origin)[0]
    return error if math.isfinite(error) or not at_origin.size else float(at_origin.std()) / math.sqrt(at_origin.size)


def _share_below(traces: ChainTraces, alive: NDArray[np.intp]) -> float:
    """Share of draws that are lower than w* by more than noise: that of the batch, and of the losses' rounding."""
    halves = traces.half_difference[alive]
    if not halves.size or not np.isfinite(halves).all():
        return math.nan
    rounding = float(np.finfo(np.float32).eps) * float(np.abs(traces.loss_at_origin[alive]).mean())
    noise = math.hypot(math.sqrt(float((halves**2).mean())), rounding)
    return float((traces.loss_difference[alive] < -3 * noise).mean())
