"""What speaks against an estimate, in words: each check gives at most one sentence or two, with what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.llc.diagnostics import change_between_halves, r_hat_by_chance, spread_of_pieces
from llc_dynamics.llc.thresholds import Thresholds

if TYPE_CHECKING:
    from llc_dynamics.llc.result import LLCResult


# Standard errors from which an excess of the virial ratio that is small, but not against the loss's share, counts: many
# directions that are nearly flat move slowly together, and their error is the one most easily underestimated.
_SURE = 5.0


def reasons_against(result: LLCResult, limits: Thresholds) -> tuple[str, ...]:
    """Why `result` should not be believed; empty if nothing speaks against it."""
    if not math.isfinite(result.llc):
        return (*_failed(result), _no_chain_left(result))
    never_moved = tuple(_never_moved(result))
    if len(chains_at_rest(result)) == len(alive_chains(result)):
        return (*_failed(result), *never_moved)
    judged = (
        _chains_disagree,
        _too_few,
        _drifting,
        _virial,
        _virial_of_blocks,
        _kinetic,
        _acceptance,
        _biases,
        _not_a_minimum,
    )
    found = [*_failed(result), *never_moved, *_without_effect(result)]
    return (*found, *(reason for check in judged for reason in check(result, limits)))


def alive_chains(result: LLCResult) -> list[int]:
    """The chains that did not die."""
    dead = {failed.chain for failed in result.failed_chains}
    return [chain for chain in range(len(result.trace)) if chain not in dead]


def chains_at_rest(result: LLCResult) -> list[int]:
    """The chains alive that stayed where they were through all of the draws (two at least)."""
    if result.distance_trace.shape[1] < 2:
        return []
    return [chain for chain in alive_chains(result) if np.ptp(result.distance_trace[chain]) == 0]


def _failed(result: LLCResult) -> Iterator[str]:
    if result.failed_chains:
        yield f"stopped and left out: {'; '.join(map(str, result.failed_chains))}"


def _no_chain_left(result: LLCResult) -> str:
    # a chain that failed on its data would fail at any step
    from_data = any("NaN in the data" in failed.reason for failed in result.failed_chains)
    advice = "look at the data" if from_data else "try a smaller step_size"
    return f"all chains failed, so there is no estimate: {advice}"


def _never_moved(result: LLCResult) -> Iterator[str]:
    at_rest = chains_at_rest(result)
    if at_rest:
        which = (
            "no chain" if len(at_rest) == len(alive_chains(result)) else f"chain {', '.join(map(str, at_rest))} never"
        )
        yield (
            f"{which} moved: {'every proposal was refused; ' if math.isfinite(result.acceptance) else ''}"
            "the step is too large, or the chains are stuck; a smaller step_size or a longer burn-in"
        )


def _without_effect(result: LLCResult) -> Iterator[str]:
    if np.ptp(_alive(result, result.trace)) == 0:
        yield "the loss never changed: the sampled parameters have no effect on it"


def _chains_disagree(result: LLCResult, limits: Thresholds) -> Iterator[str]:
    for what, value, trace, unimportant in (
        ("the loss", result.r_hat, result.trace, 0.0),
        ("|w - w*|^2", result.r_hat_distance, result.distance_trace, limits.distance_change),
    ):
        if not value > limits.r_hat:
            continue
        draws = _alive(result, trace)
        chance = r_hat_by_chance(draws)
        if value > chance and spread_of_pieces(draws) > unimportant * abs(float(draws.mean())):
            yield (
                f"chains disagree: R-hat of {what} is {value:.3f} (limit {limits.r_hat}, noise explains {chance:.3f}); "
                "more burn-in or more draws"
            )


def _too_few(result: LLCResult, limits: Thresholds) -> Iterator[str]:
    if not result.ess >= limits.min_ess:
        yield f"too few effective draws: {result.ess:.0f} (limit {limits.min_ess:.0f}); more draws or more chains"


def _drifting(result: LLCResult, limits: Thresholds) -> Iterator[str]:
    for what, trace, unimportant in (
        ("the loss difference", result.trace, 0.0),
        ("|w - w*|^2", result.distance_trace, limits.distance_change),
    ):
        draws = _alive(result, trace)
        change, error = change_between_halves(draws)
        if abs(change) > limits.errors * error and abs(change) > unimportant * abs(float(draws.mean())):
            middle = float(draws.mean())
            # chains start at w*: where they still move away from it they have not been everywhere
            growing = ", not explored yet" if trace is result.distance_trace and change > 0 else ""
            yield (
                f"still drifting: {what} averages {middle - change / 2:.4g} in the first half of the draws and "
                f"{middle + change / 2:.4g} in the second (error of the change {error:.2g}){growing}; more burn-in"
            )


def loss_share(result: LLCResult) -> float:
    """What the loss contributes to the virial ratio, nbeta E[(w - w*).grad L] / d; all of it without localisation."""
    pull = result.localization * float(_alive(result, result.distance_trace).mean()) / result.dimension
    return result.virial - pull if math.isfinite(pull) else result.virial


def _virial(result: LLCResult, limits: Thresholds) -> Iterator[str]:
    value, error = result.virial, result.virial_error
    allowance = limits.virial_errors * error
    shown = f"virial ratio {value:.3f} ± {error:.3f}, 1 in equilibrium"
    share = loss_share(result)
    excess = value - allowance - 1
    # the heat of SGLD's step, twice its bias, would make up for directions that are not explored
    heat = 2 * result.sgld_bias / result.dimension if math.isfinite(result.sgld_bias) else 0.0
    if value - heat + allowance < limits.virial_low:
        of_heat = f", of which {heat:.2g} is heat" if heat > 0.01 else ""
        yield f"not explored: {shown}{of_heat}; more steps, a larger step_size or a larger localization"
    elif excess > limits.virial_high - 1 or 0 < limits.heating * share < min(excess, value - 1 - _SURE * error):
        of_loss = f", of which the loss contributes {share:.2g}" if share < 0.9 * value else ""
        yield f"heated: {shown}{of_loss}; a smaller step_size or a larger batch_size"
    elif not (error <= limits.max_virial_error and limits.virial_low <= value - heat <= limits.virial_high):
        # also where only noise may have taken the ratio out of its range: it is no sign of equilibrium either
        yield f"cannot tell whether the chains explored: {shown}; more draws or a larger batch_size"


def _virial_of_blocks(result: LLCResult, limits: Thresholds) -> Iterator[str]:
    low, high = [], []
    for name, value in result.virial_by_block.items():
        allowance = limits.block_errors * result.virial_by_block_error[name]
        if value + allowance < limits.block_virial_low:
            low.append((value, name))
        elif value - allowance > limits.block_virial_high:
            high.append((-value, name))
    for rows, what in ((low, "not explored"), (high, "heated")):
        if rows:
            value, name = min(rows)
            others = f" and in {len(rows) - 1} more of {len(result.virial_by_block)} tensors" if len(rows) > 1 else ""
            yield f"{what} in {name}: virial ratio {abs(value):.3f}{others}"


def _kinetic(result: LLCResult, limits: Thresholds) -> Iterator[str]:
    for where, value, error in (
        ("", result.kinetic, result.kinetic_error),
        (" along the gradient of the loss", result.gradient_kinetic, result.gradient_kinetic_error),
    ):
        if value - limits.errors * error > limits.kinetic_high:
            yield (
                f"heated: kinetic temperature{where} {value:.3f} ± {error:.3f}, 1 in equilibrium; a smaller step_size "
                "or a larger batch_size"
            )


def _acceptance(result: LLCResult, limits: Thresholds) -> Iterator[str]:
    if result.acceptance < limits.min_acceptance:
        yield (
            f"step too large: {result.acceptance:.0%} of the proposals were accepted (limit "
            f"{limits.min_acceptance:.0%}); a smaller step_size, or a longer burn-in to adapt it in"
        )


def _biases(result: LLCResult, limits: Thresholds) -> Iterator[str]:
    step, batch = "a smaller step_size", "a larger batch_size"
    for what, value, error, remedy in (
        ("the step", result.step_bias, result.step_bias_error, step),
        ("the batch", result.batch_bias, result.batch_bias_error, batch),
        ("the step and the batch, to first order", result.sgld_bias, result.sgld_bias_error, f"{step}, or {batch}"),
    ):
        if abs(value) > limits.errors * error and abs(value) > limits.bias * abs(result.llc):
            yield f"biased by {what}: {value:+.3g} ± {error:.2g} (limit {limits.bias:.0%} of the estimate); {remedy}"
    if result.settings.get("bias_checks") and math.isnan(result.step_bias + result.batch_bias):
        yield "the bias of the step or the batch could not be measured: the chains of that run failed"


def _not_a_minimum(result: LLCResult, limits: Thresholds) -> Iterator[str]:
    advice = "train further, raise localization, or use ld.behavioural(...), whose minimum is at w*"
    if result.llc < 0 and result.llc < -limits.negative_errors * result.standard_error:
        yield (
            f"negative estimate {result.llc:.4g}: w* is not a minimum of the loss at this resolution, so the chains "
            f"found lower loss nearby; {advice}"
        )
    elif result.share_below > limits.share_below:
        yield (
            f"w* is not a minimum of the loss at this resolution: {result.share_below:.0%} of the draws have a lower "
            f"loss than w*, by more than noise; {advice}"
        )
    elif result.llc < 0:
        yield "negative estimate, zero within its error: more draws or a larger batch_size"


def _alive(result: LLCResult, trace: NDArray[np.float64]) -> NDArray[np.float64]:
    return trace[alive_chains(result)]
