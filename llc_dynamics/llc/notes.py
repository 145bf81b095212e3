"""What is worth knowing of an estimate and does not speak against it: findings with a code and a sentence.

Codes: `no_plateau`, `out_of_time`, `target_not_reached`, `observed_agrees`, `observed_differs`,
`no_gradient`, `chains_one_by_one`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from llc_dynamics.errors import some_of
from llc_dynamics.finding import Finding
from llc_dynamics.llc.result import LLCResult

# Two losses that differ by less than this share of the estimate agree for all purposes, however small the errors.
_SAME = 0.02
_ERRORS = 3.0
# Below this share of the estimate what localisation hides is no matter.
_PLATEAU = 0.05
# Names in a note; the rest are counted.
_MOST_NAMES = 4


def notes_of(result: LLCResult) -> Iterator[Finding]:
    """What is worth knowing of an estimate that there is."""
    for check in (_stopped, _no_plateau, _observed, _without_gradient, _one_by_one):
        yield from check(result)


def _stopped(result: LLCResult) -> Iterator[Finding]:
    share = result.standard_error / abs(result.llc) if result.llc else math.inf
    draws = result.trace.shape[1]
    if result.stopped == "max_seconds":
        yield Finding(
            "out_of_time", f"stopped by max_seconds after {draws} draws, with a standard error of {share:.1%}"
        )
    elif result.stopped == "max_draws":
        yield Finding(
            "target_not_reached",
            f"stopped at max_draws, {draws}: target_error was not reached, the standard error is {share:.1%}",
        )


def _no_plateau(result: LLCResult) -> Iterator[Finding]:
    above = result.settings.get("lambda_above")
    share, error = (result.exponent, result.exponent_error) if above is None else above
    if share - 2 * error > _PLATEAU:
        low, high = result.lambda_interval()
        yield Finding(
            "no_plateau",
            f"no plateau: this is the LLC at its resolution ({result.resolution}), and a smaller gamma gives a larger "
            f"one; for lambda itself the interval is {low:.3g} to {high:.3g}",
        )


def _observed(result: LLCResult) -> Iterator[Finding]:
    if result.loss != "behavioural":
        return
    for name, (value, error) in result.observed.items():
        # the same chains and batches: with errors added as if independent, agreement is not claimed too late
        difference, allowance = abs(value - result.llc), _ERRORS * math.hypot(error, result.standard_error)
        agree = difference <= max(allowance, _SAME * abs(result.llc))
        verdict = (
            "agrees with the behavioural estimate"
            if agree
            else "differs from the behavioural estimate: w* is not a minimum of that loss at this resolution, or its "
            "batches are too small"
        )
        code = "observed_agrees" if agree else "observed_differs"
        yield Finding(code, f"loss '{name}' over the same draws, {value:.4g} ± {error:.2g}, {verdict}")


def _without_gradient(result: LLCResult) -> Iterator[Finding]:
    names = result.without_gradient
    if names and np.ptp(result.distance_trace[result.alive]) > 0:
        yield Finding(
            "no_gradient",
            f"no gradient at all at the last draw in {some_of(names, _MOST_NAMES)}: the loss does not depend on them "
            "there (a dead branch, or unused weights), so they add nothing to the estimate",
        )


def _one_by_one(result: LLCResult) -> Iterator[Finding]:
    problem = result.provenance.get("vmap_problem")
    if problem is not None:
        yield Finding("chains_one_by_one", f"the chains ran one after the other, as torch.vmap cannot do it: {problem}")
