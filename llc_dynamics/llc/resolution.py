"""How lambda_hat depends on its resolution (nbeta, gamma) and on its batches, read off the chains of one estimate.

With E the mean over w ~ exp(-nbeta L - gamma/2 |w - w*|^2) and lambda_hat = nbeta E[L - L(w*)],

    d lambda_hat / d log nbeta = lambda_hat - nbeta^2 Var(L)
    d lambda_hat / d log gamma = -(gamma/2) nbeta Cov(L, |w - w*|^2)

(differentiate under the integral). On a plateau both vanish: nbeta (L - L(w*)) then has the law of a Gamma variable of
shape lambda, whose variance is its mean. L is the loss that is sampled, so the variance that a draw's batch adds is
taken off, as measured by the two halves of each batch.

A chain that moves on one batch for long samples exp(-nbeta L_B - gamma/2 |w - w*|^2) with the loss of its own batch B,
a random perturbation of the population's. Averaged in-sample, over the batch it moved on, the loss comes out too low;
out-of-sample, over a fresh batch at the same position, too high. Let s_i = nbeta h_i / (nbeta h_i + gamma) be the share
of the loss in the force along a direction of curvature h_i. To second order in the
perturbation, for a quadratic loss whose gradient noise has the Hessian's own shape,

    population - in-sample : out-of-sample - in-sample  =  sum s_i (1 - s_i) : sum s_i,

and with lambda_hat = 1/2 sum s_i and nbeta^2 Var(L) = 1/2 sum s_i^2 the right side is

    theta = 1 - nbeta^2 Var(L) / lambda_hat = (d lambda_hat / d log nbeta) / lambda_hat.

So on a plateau (theta = 0) the in-sample value is right as it is, and where lambda_hat goes like a power of nbeta,
theta is that power. The corrected estimate is in-sample + theta (out-of-sample - in-sample).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.llc.diagnostics import monte_carlo_error

Trace = NDArray[np.float64]

# Before anything is measured: theta is somewhere between 0 and 1.
_PRIOR_MEAN = 0.5
_PRIOR_SD = 0.3
_LEAST_LOOKS = 2


def slope_nbeta(losses: Trace, half_differences: Trace) -> tuple[float, float]:
    """d lambda_hat / d log nbeta and its standard error.

    Parameters
    ----------
    losses : nbeta (L_B(w) - L_B(w*)), [chain, draw].
    half_differences : half the difference of the same over the first and second half of the batch, [chain, draw]; zeros
        for exact losses, NaN for batches of one sample, whose noise cannot be told from the spread: then NaN comes
        back.
    """
    terms = _slope_terms(losses, half_differences)
    return (math.nan, math.nan) if terms is None else (float(terms.mean()), monte_carlo_error(terms)[0])


def _slope_terms(losses: Trace, half_differences: Trace) -> Trace | None:
    """Terms with the mean lambda_hat - nbeta^2 Var(L), so that the error is that of a mean; None if unknown."""
    if not losses.size or losses.shape[1] < 4 or not np.isfinite(half_differences).all():
        return None
    terms: Trace = losses - (losses - losses.mean()) ** 2 + half_differences**2
    return terms


def slope_gamma(losses: Trace, distances: Trace) -> tuple[float, float]:
    """d lambda_hat / d log gamma and its standard error.

    Parameters
    ----------
    losses : nbeta (L_B(w) - L_B(w*)), [chain, draw].
    distances : gamma |w - w*|^2, [chain, draw].
    """
    if not losses.size or losses.shape[1] < 4:
        return math.nan, math.nan
    terms = -(losses - losses.mean()) * (distances - distances.mean()) / 2
    return float(terms.mean()), monte_carlo_error(terms)[0]


@dataclass(frozen=True)
class BatchGap:
    """Out-of-sample minus in-sample, and what follows for the estimate.

    gap, gap_error : nbeta times the mean difference of the two.
    correction : theta * gap, to be added to the in-sample value.
    influence : what each draw contributes to the corrected estimate, [chain, draw]: their mean is in-sample +
        correction. The errors of the losses, of the gap and of theta, which are not independent, are all in their
        spread.
    systematic_error : that of theta as far as it is assumed rather than measured, and the order that was left out,
        taken as half the square of the larger part of the gap over the estimate.
    """

    influence: Trace

    gap: float = math.nan
    gap_error: float = math.nan
    correction: float = 0.0
    systematic_error: float = 0.0


def batch_gap(losses: Trace, fresh: Trace, share: Share) -> BatchGap:
    """From in-sample and out-of-sample losses (times nbeta, [chain, draw], NaN where there was no look out of sample).

    `share` is theta (`share_of_slope`). Without a look out of sample nothing is known and nothing is corrected.
    """
    looked = np.isfinite(fresh)
    if looked.sum() < _LEAST_LOOKS:
        return BatchGap(losses)
    inside = float(losses.mean())
    differences = fresh - losses
    gap = float(differences[looked].mean())
    gap_error = _error(differences, looked)
    # a draw without a look stands for the mean, one with a look for those around it
    around = np.where(looked, (differences - gap) * (looked.size / looked.sum()), 0.0)
    influence = losses + share.value * (gap + around) + gap * share.influence
    correction = share.value * gap
    middle = max(abs(inside + correction), 1e-300)
    left_out = (max(share.value, 1 - share.value) * gap) ** 2 / (2 * middle)
    return BatchGap(influence, gap, gap_error, correction, math.hypot(share.assumed_error * gap, left_out))


@dataclass(frozen=True)
class Share:
    """theta: what was measured, together with what is known before.

    value : within 0 and 1. error : of it, in all. influence : of each draw on it, with mean zero. assumed_error : the
    part of the error that is of what is known before.
    """

    value: float
    error: float
    influence: Trace
    assumed_error: float


def share_of_slope(losses: Trace, half_differences: Trace) -> Share:
    """theta = (d lambda_hat / d log nbeta) / lambda_hat, from `losses` and `half_differences` as of `slope_nbeta`."""
    slopes = _slope_terms(losses, half_differences)
    inside = float(losses.mean()) if losses.size else math.nan
    unknown = Share(_PRIOR_MEAN, _PRIOR_SD, np.zeros_like(losses), _PRIOR_SD)
    if slopes is None or not inside > 0:
        return unknown
    measured = float(slopes.mean()) / inside
    influence = (slopes - slopes.mean() - measured * (losses - inside)) / inside
    spread = monte_carlo_error(influence)[0]
    if not math.isfinite(spread):
        return unknown
    weight = _PRIOR_SD**2 / (_PRIOR_SD**2 + spread**2)
    mixed = weight * measured + (1 - weight) * _PRIOR_MEAN
    value = min(max(mixed, 0.0), 1.0)
    moving = weight if value == mixed else 0.0  # at an end of its range theta does not follow the draws
    error = math.sqrt(weight) * spread
    return Share(value, error, moving * influence, math.sqrt(max(error**2 - (moving * spread) ** 2, 0.0)))


def _error(differences: NDArray[np.float64], looked: NDArray[np.bool_]) -> float:
    """Standard error of the mean over looks, of which each has a batch of its own."""
    rows = [row[there] for row, there in zip(differences, looked, strict=True) if there.any()]
    flat = np.concatenate(rows)
    simple = float(flat.std(ddof=1)) / math.sqrt(len(flat))
    number = min(len(row) for row in rows)
    if number < 8:
        return simple
    return max(simple, monte_carlo_error(np.stack([row[:number] for row in rows]))[0])
