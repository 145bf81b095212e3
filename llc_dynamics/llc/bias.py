"""The bias of a finite step and of finite batches, by running again with half the one and twice the other.

Every kernel at a finite step or on minibatches has a stationary law of its own, whose lambda_hat differs from that of
exp(-nbeta L - gamma/2 |w - w*|^2) by a bias. If that is c x to first order in x (the step, or the variance of a batch's
gradient noise, 1/B for fresh samples), two runs at x and x' tell it:

    bias at x = (lambda_hat(x) - lambda_hat(x')) / (1 - x'/x)

First order is what SGLD has in eps, underdamped Langevin with minibatches in h (its own error without noise is of
second order), and all kernels in 1/B. Where the true order is higher, this overstates the bias, which is the safe side;
and as smaller steps also heat less by gradient noise, the two biases overlap, and adding both is the safe side again.

Kernels with a Metropolis test have no bias of the step on a batch that is all the data; it is then zero, and not
measured.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.sampling.batches import Batches, FixedBatches
from llc_dynamics.seeding import derive_seed

Run = Callable[[EstimateSettings, Batches], LLCResult]
# Draws of a run that checks, as a share of those of the estimate; with half the step, or twice the batch, it costs as
# much as the estimate itself.
_SHARE_OF_DRAWS = 0.5
_LEAST_DRAWS = 20


def with_biases(found: LLCResult, settings: EstimateSettings, batches: Batches, run: Run) -> LLCResult:
    """The result with the biases of its step and batch, from two more runs; to be judged.

    Parameters
    ----------
    found : the estimate with `settings` on `batches`.
    run : makes an estimate with other settings on other batches.
    """
    if not math.isfinite(found.llc):
        return found
    draws = max(int(_SHARE_OF_DRAWS * found.trace.shape[1]), _LEAST_DRAWS)
    plain = dataclasses.replace(
        settings, num_draws=draws, target_error=None, max_draws=None, max_seconds=None, bias_checks=False
    )
    measured: dict[str, Any] = {}
    value, error_of_this = found.llc, 1.0  # the extrapolation's weight of lambda_hat itself
    others = 0.0
    larger = larger_batches(batches)
    for name in ("step", "batch"):
        own = dataclasses.replace(plain, seed=derive_seed(settings.seed, f"{name} bias"))
        if name == "step" and not (settings.sampler.exact and batches.whole):
            again = run(half_the_step(own), batches)
            share = _share_of_step(found, again)
        elif name == "batch" and larger is not None:
            again = run(own, larger)
            share = _noise(larger) / _noise(batches)
        else:
            measured |= {f"{name}_bias": 0.0, f"{name}_bias_error": 0.0}
            continue
        factor = 1 / (1 - share)
        bias = factor * (found.llc - again.llc)
        error = factor * math.hypot(found.standard_error, again.standard_error)
        measured |= {f"{name}_bias": bias, f"{name}_bias_error": error}
        value, error_of_this = value - bias, error_of_this - factor
        others += (factor * again.standard_error) ** 2
    extrapolated_error = math.sqrt((error_of_this * found.standard_error) ** 2 + others)
    return dataclasses.replace(found, **measured, extrapolated=value, extrapolated_error=extrapolated_error)


def half_the_step(settings: EstimateSettings) -> EstimateSettings:
    """The same run with half the step and as much time between draws and in the burn-in.

    Raises `ConfigError` for a kernel that cannot say what half its step is.
    """
    halved, updates = settings.sampler.halved()
    return dataclasses.replace(
        settings,
        sampler=halved,
        num_burnin=updates * settings.num_burnin,
        steps_per_draw=updates * settings.steps_per_draw,
    )


def larger_batches(batches: Batches) -> Batches | None:
    """The same data in batches twice as large, or as large as the data; None if they are all of it already."""
    if batches.whole:
        return None
    size = 2 * batches.batch_size
    if isinstance(batches, FixedBatches):
        size = min(size, batches.length)
    larger = copy.copy(batches)
    larger.batch_size = size
    return larger


def _noise(batches: Batches) -> float:
    """Variance of a batch's mean in units of that of one sample; without repetition inside the batch for tensors."""
    whole = 1 / batches.length if isinstance(batches, FixedBatches) else 0.0
    return 1 / batches.batch_size - whole


def _share_of_step(found: LLCResult, again: LLCResult) -> float:
    """The step of the second run over that of the first: one half, or what adapting chains ended up with."""
    share = again.step_size / found.step_size
    return min(share, 0.9) if math.isfinite(share) and share > 0 else 0.5
