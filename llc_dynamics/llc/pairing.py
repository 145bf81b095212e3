"""How the errors of estimates with the same noise move together.

Two estimates with the same seed have the same batches, noise and starts, so that their draws come in pairs. Each draw
has an influence on its estimate: what it contributes to `corrected_trace`, less the mean, over the number of draws.
Products of two points' influences, summed over windows of successive draws, are Bartlett's estimate of a long-run
covariance (Newey & West 1987, doi 10.2307/1913610). It is positive semidefinite for any number of points, being a
matrix times its own transpose. Its correlations are used, with the standard errors that the results state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.llc.diagnostics import monte_carlo_error
from llc_dynamics.llc.result import LLCResult

# Draws in a window, as a share of those of the shortest chain.
_WINDOW = 0.25


def paired_covariance(results: Sequence[LLCResult]) -> NDArray[np.float64] | None:
    """Covariance [C, C] of the errors; None where no two results have the same seed, so that all are independent.

    The diagonal holds the squared standard errors. Draws that only one of two points has, and chains that died at one,
    pair with nothing. What is systematic in an error (`systematic_error`) has the same sign at all points that are
    paired: it is of the same correction.
    """
    seeds = np.array([result.settings.get("seed", f"none {place}") for place, result in enumerate(results)], object)
    paired = seeds[:, None] == seeds[None]
    if paired.sum() == len(results):
        return None
    sums = _window_sums(results)
    # to a size of 1, which cancels below: the file of another may hold draws whose squares are no numbers
    sums /= np.abs(sums).max(1, keepdims=True, initial=np.finfo(float).tiny)
    products = sums @ sums.T
    errors = np.array([result.standard_error for result in results])
    systematic = np.minimum([result.systematic_error for result in results], errors)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt((errors**2 - systematic**2) / np.diag(products))
    scale = np.where(np.diag(products) > 0, scale, 0.0)
    covariance = np.where(paired, scale[:, None] * products * scale + systematic[:, None] * systematic, 0.0)
    np.fill_diagonal(covariance, errors**2)
    unknown = ~np.isfinite(errors)
    covariance[unknown] = covariance[:, unknown] = math.nan
    return covariance


def paired_error(first: LLCResult, second: LLCResult) -> tuple[float, float] | None:
    """Standard error of the difference, and the effective sample size behind it, from the differences of the draws.

    None where the draws are not pairs: another seed, other chains, or more draws.
    """
    seeds = [result.settings.get("seed") for result in (first, second)]
    one, other = first.corrected_trace, second.corrected_trace
    if seeds[0] is None or seeds[0] != seeds[1] or one.shape != other.shape or first.alive != second.alive:
        return None
    error, ess = monte_carlo_error((other - one)[first.alive])
    return math.hypot(error, second.systematic_error - first.systematic_error), ess


def _window_sums(results: Sequence[LLCResult]) -> NDArray[np.float64]:
    """Sums [point, chain x window] of the influences over all windows of some successive draws."""
    traces = [result.corrected_trace for result in results]
    chains, draws = np.max([trace.shape for trace in traces], axis=0)
    width = max(1, round(_WINDOW * min(trace.shape[1] for trace in traces)))
    influence = np.zeros((len(results), chains, draws + 2 * width - 1))
    for place, (result, trace) in enumerate(zip(results, traces, strict=True)):
        kept = trace[result.alive]
        if kept.size and np.isfinite(kept).all():
            influence[place, result.alive, width : width + kept.shape[1]] = (kept - kept.mean()) / kept.size
    summed = influence.cumsum(-1)
    return (summed[..., width:] - summed[..., :-width]).reshape(len(results), -1)
