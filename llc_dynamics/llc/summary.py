"""From the traces of the chains to an `LLCResult`: averages and errors over those that survived."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.llc.diagnostics import effective_sample_size, monte_carlo_error, r_hat
from llc_dynamics.llc.resolution import BatchGap, batch_gap, slope_gamma, slope_nbeta
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.provenance import provenance
from llc_dynamics.sampling import SGLD, Behavioural, Chains, ChainTraces, Kernel


def summarise(chains: Chains, settings: EstimateSettings) -> LLCResult:
    """The result of the chains so far: averages and errors over those that survived. It is not judged yet."""
    traces, model, batches = chains.traces, chains.model, chains.batches
    nbeta, localization = chains.target.nbeta, chains.target.localization
    blocks = model.names
    alive = np.setdiff1d(np.arange(len(traces.distance)), [failed.chain for failed in traces.failed])
    trace = nbeta * traces.loss_difference
    kept, at_origin = trace[alive], traces.loss_at_origin[alive]
    sampling_error, ess_mean = monte_carlo_error(kept)
    any_alive = alive.size > 0
    slopes = _slopes(traces, alive, nbeta, localization)
    gap = _gap(traces, alive, nbeta, slopes)
    value = float(kept.mean()) + gap.correction if any_alive else math.nan
    error = math.hypot(sampling_error, gap.correction_error)
    by_block = traces.virial_by_block[alive]
    return LLCResult(
        llc=value,
        standard_error=error,
        batch_gap=gap.gap,
        batch_gap_error=gap.gap_error,
        batch_correction=gap.correction,
        extrapolated=value,
        extrapolated_error=error,
        r_hat=r_hat(kept),
        r_hat_distance=r_hat(traces.distance[alive]),
        ess=effective_sample_size(kept),
        ess_mean=ess_mean,
        virial=float(traces.virial[alive].mean()) if any_alive else math.nan,
        virial_error=monte_carlo_error(traces.virial[alive])[0],
        virial_by_block={
            name: float(by_block[..., place].mean(dtype=np.float64)) if any_alive else math.nan
            for place, name in enumerate(blocks)
        },
        virial_by_block_error={name: monte_carlo_error(by_block[..., place])[0] for place, name in enumerate(blocks)},
        failed_chains=traces.failed,
        trace=trace,
        distance_trace=traces.distance,
        virial_trace=traces.virial,
        num_samples=batches.num_samples,
        nbeta=nbeta,
        dimension=model.dimension,
        initial_loss=float(at_origin.mean()) if any_alive else math.nan,
        initial_loss_error=_initial_loss_error(at_origin) if any_alive else math.nan,
        localization=localization,
        loss="behavioural" if isinstance(model.loss_fn, Behavioural) else "given",
        **_averages("kinetic", traces.kinetic, alive),
        **_averages("gradient_kinetic", traces.gradient_kinetic, alive),
        acceptance=_mean(traces.acceptance[alive]) if traces.acceptance.size else math.nan,
        step_size=_mean(traces.step_size[alive]) if traces.step_size.size else math.nan,
        **slopes,
        control=_mean(traces.control[alive]) if traces.control.size else math.nan,
        num_gradients=chains.num_gradients,
        **_sgld_bias(traces, alive, nbeta, settings.sampler),
        without_gradient=chains.blocks_without_gradient,
        share_below=_share_below(traces, alive),
        observed={
            name: (_mean(nbeta * values[alive]), nbeta * monte_carlo_error(values[alive])[0])
            for name, values in traces.observed.items()
        },
        settings=settings.resolved(batches),
        provenance=provenance(str(model.device)) | {"chain_method": chains.chain_method, **chains.kernel.made_by},
    )


def _initial_loss_error(at_origin: NDArray[np.float64]) -> float:
    """Standard error of the mean loss at w*; draws share their batch where a kernel holds it over several of them."""
    error = monte_carlo_error(at_origin)[0]
    return error if math.isfinite(error) else float(at_origin.std()) / math.sqrt(at_origin.size)


def _sgld_bias(traces: ChainTraces, alive: NDArray[np.intp], nbeta: float, sampler: Kernel) -> dict[str, Any]:
    """The bias of SGLD to first order, and its error; nothing for other kernels.

    With curvature h and a = nbeta h + gamma, exact gradients give the direction nbeta h / (2 a (1 - eps a / 4)), which
    is (eps/8) nbeta h / (1 - eps a / 4) more than at eps = 0; and (eps/8) nbeta^2 E[(dL/dw)^2] is that times
    nbeta h / a, so the same in every direction that is stiff against gamma. Gradient noise of variance c adds
    eps^2 nbeta^2 c / 4 to the variance eps of a step, hence (eps/8) nbeta^2 c to the estimate: also in E|grad L_B|^2.
    """
    squares = traces.gradient_square
    if not (squares.size and isinstance(sampler, SGLD) and alive.size):
        return {}
    terms = sampler.step_size / 8 * nbeta**2 * squares[alive]
    return {"sgld_bias": _mean(terms), "sgld_bias_error": monte_carlo_error(terms)[0]}


def _share_below(traces: ChainTraces, alive: NDArray[np.intp]) -> float:
    """Share of draws that are lower than w* by more than noise: that of the batch, and of the losses' rounding."""
    halves = traces.half_difference[alive] if traces.half_difference.size else np.empty(0)
    if not halves.size or not np.isfinite(halves).all():
        return math.nan
    rounding = float(np.finfo(np.float32).eps) * float(np.abs(traces.loss_at_origin[alive]).mean())
    noise = math.hypot(math.sqrt(float((halves**2).mean())), rounding)
    return float((traces.loss_difference[alive] < -3 * noise).mean())


def _gap(traces: ChainTraces, alive: NDArray[np.intp], nbeta: float, slopes: dict[str, Any]) -> BatchGap:
    if not (alive.size and traces.fresh_difference.size):
        return BatchGap()
    losses, fresh = nbeta * traces.loss_difference[alive], nbeta * traces.fresh_difference[alive]
    return batch_gap(losses, fresh, slopes.get("slope_nbeta", math.nan), slopes.get("slope_nbeta_error", math.nan))


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else math.nan


def _averages(name: str, values: NDArray[np.float64], alive: NDArray[np.intp]) -> dict[str, Any]:
    """Mean and error of a trace that a kernel may not have."""
    if not values.size or not np.isfinite(values[alive]).all():
        return {}
    return {name: _mean(values[alive]), f"{name}_error": monte_carlo_error(values[alive])[0]}


def _slopes(traces: ChainTraces, alive: NDArray[np.intp], nbeta: float, localization: float) -> dict[str, Any]:
    if not alive.size or not traces.half_difference.size:
        return {}
    losses = nbeta * traces.loss_difference[alive]
    first, first_error = slope_nbeta(losses, nbeta * traces.half_difference[alive])
    second, second_error = slope_gamma(losses, localization * traces.distance[alive])
    return {
        "slope_nbeta": first,
        "slope_nbeta_error": first_error,
        "slope_gamma": second,
        "slope_gamma_error": second_error,
    }
