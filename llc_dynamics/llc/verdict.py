"""What speaks against an estimate, and what is worth knowing of it: findings with a code and a sentence.

Codes of reasons, which make a result unconverged:

| code | what is wrong |
|---|---|
| `chains_failed` | chains stopped and were left out |
| `all_chains_failed` | no chain is left, so there is no estimate |
| `never_moved` | chains stayed at w* throughout |
| `no_effect` | the loss never changed |
| `chains_disagree` | R-hat of the loss |
| `too_few_draws` | too small an effective sample size |
| `imprecise` | an error that is large against the estimate; it may be zero |
| `drifting` | the two halves of the draws differ |
| `slow_distance` | the same of the distance, where one of these or the virial ratio fails, too; otherwise a note |
| `not_explored`, `heated`, `exploration_unknown` | the virial ratio is low, high, or too noisy to say |
| `block_not_explored`, `block_heated` | the virial ratio of a parameter tensor |
| `hot_momentum` | the kinetic temperature |
| `left_well` | downhill the chains come to rest above w*: in another well |
| `few_accepted` | the acceptance of a Metropolis test |
| `biased`, `bias_unknown` | the step or the batch shifts the estimate, or that could not be measured |
| `not_a_minimum` | a negative estimate, or many draws below w* |

Codes of notes, which do not, are in `notes`, but for `slow_distance`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import some_of
from llc_dynamics.finding import Finding
from llc_dynamics.llc.diagnostics import change_between_halves, r_hat_by_chance, spread_of_pieces
from llc_dynamics.llc.notes import notes_of
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.thresholds import Thresholds

# Names in a note; the rest are counted.
_MOST_NAMES = 4

# What speaks against chains being in equilibrium as far as the estimate can see.
_UNSETTLED = {
    "chains_failed", "never_moved", "chains_disagree", "drifting", "not_explored", "heated", "block_not_explored",
    "block_heated", "hot_momentum",
}  # fmt: skip

# Standard errors from 1 within which a virial ratio is that of equilibrium: that of few flat directions is noisy.
_IN_EQUILIBRIUM = 2.0
# Standard errors from which an excess of the virial ratio that is small, but not against the loss's share, counts: many
# directions that are nearly flat move slowly together, and their error is the one most easily underestimated.
_SURE = 5.0
# The error of a virial ratio from the least number of effective draws, in so many directions, is by chance sqrt(2 / (d
# ess)); up to this many times that is allowed.
_BY_CHANCE = 1.5


def judge(result: LLCResult, limits: Thresholds) -> tuple[Finding, ...]:
    """Why `result` should not be believed; empty if nothing speaks against it."""
    if not math.isfinite(result.llc):
        return (*_failed(result), _no_chain_left(result))
    never_moved = tuple(_never_moved(result))
    if len(chains_at_rest(result)) == len(result.alive):
        return (*_failed(result), *never_moved)
    checks = (
        _chains_disagree,
        _too_few,
        _drifting,
        _virial,
        _virial_of_blocks,
        _kinetic,
        _acceptance,
        _left_well,
        _biases,
        _not_a_minimum,
        _imprecise,
    )
    found = [*_failed(result), *never_moved, *_without_effect(result)]
    found += [reason for check in checks for reason in check(result, limits)]
    if _UNSETTLED & {reason.code for reason in found}:
        found += _unsettled_distance(result, limits)
    return tuple(found)


def judged(result: LLCResult, limits: Thresholds | None = None) -> LLCResult:
    """The same estimate with its verdict under these limits (None: the usual ones)."""
    limits = Thresholds() if limits is None else limits
    # nothing is worth knowing of a result without an estimate
    notes = [*notes_of(result)] if math.isfinite(result.llc) else []
    reasons = judge(result, limits)
    if math.isfinite(result.llc) and not _UNSETTLED & {reason.code for reason in reasons}:
        notes += _unsettled_distance(result, limits)
    return replace(result, thresholds=limits, reasons=reasons, notes=tuple(notes))


def chains_at_rest(result: LLCResult) -> list[int]:
    """The chains alive that stayed where they were through all of the draws (two at least)."""
    if result.distance_trace.shape[1] < 2:
        return []
    return [chain for chain in result.alive if np.ptp(result.distance_trace[chain]) == 0]


def _failed(result: LLCResult) -> Iterator[Finding]:
    if result.failed_chains:
        yield Finding("chains_failed", f"stopped and left out: {'; '.join(map(str, result.failed_chains))}")


def _no_chain_left(result: LLCResult) -> Finding:
    # a chain that failed on its data would fail at any step
    from_data = any(failed.reason.code == "data_not_finite" for failed in result.failed_chains)
    advice = "look at the data" if from_data else "try a smaller step_size"
    return Finding("all_chains_failed", f"all chains failed, so there is no estimate: {advice}")


def _never_moved(result: LLCResult) -> Iterator[Finding]:
    at_rest = chains_at_rest(result)
    if at_rest:
        which = "no chain" if len(at_rest) == len(result.alive) else f"chain {', '.join(map(str, at_rest))} never"
        yield Finding(
            "never_moved",
            f"{which} moved: {'every proposal was refused; ' if math.isfinite(result.acceptance) else ''}"
            "the step is too large, or the chains are stuck; a smaller step_size or a longer burn-in",
        )


def _without_effect(result: LLCResult) -> Iterator[Finding]:
    if np.ptp(result.trace[result.alive]) == 0:
        yield Finding("no_effect", "the loss never changed: the sampled parameters have no effect on it")


def _unsettled_distance(result: LLCResult, limits: Thresholds) -> Iterator[Finding]:
    """What R-hat and the halves say of |w - w*|^2: reasons where another check fails, a note where none does."""
    draws, share = result.distance_trace[result.alive], limits.distance_change
    found = [*_disagreement("|w - w*|^2", result.r_hat_distance, draws, share, limits)]
    # chains that still move away from w* have not been everywhere
    found += _drift("|w - w*|^2", draws, share, limits, ", not explored yet")
    yield from (Finding("slow_distance", each.text) for each in found)


def _chains_disagree(result: LLCResult, limits: Thresholds) -> Iterator[Finding]:
    yield from _disagreement("the loss", result.r_hat, result.trace[result.alive], limits.loss_change, limits)


def _disagreement(
    what: str, value: float, draws: NDArray[np.float64], unimportant: float, limits: Thresholds
) -> Iterator[Finding]:
    if not value > limits.r_hat:
        return
    chance = r_hat_by_chance(draws)
    if value > chance and spread_of_pieces(draws) > unimportant * abs(float(draws.mean())):
        yield Finding(
            "chains_disagree",
            f"chains disagree: R-hat of {what} is {value:.3f} (limit {limits.r_hat}, noise explains {chance:.3f}); "
            "more burn-in or more draws",
        )


def _too_few(result: LLCResult, limits: Thresholds) -> Iterator[Finding]:
    if not result.ess >= limits.min_ess:
        yield Finding(
            "too_few_draws",
            f"too few effective draws: {result.ess:.0f} (limit {limits.min_ess:.0f}); more draws or more chains",
        )


def _imprecise(result: LLCResult, limits: Thresholds) -> Iterator[Finding]:
    share = result.total_error / abs(result.llc) if result.llc else math.inf
    if not share > limits.precision or (
        result.llc < 0 and result.llc < -limits.negative_errors * result.standard_error
    ):
        return
    drawn = math.sqrt(max(result.standard_error**2 - result.systematic_error**2, 0.0))
    parts = {
        "the draws": (drawn, "more draws or chains"),
        "the correction for the batch": (result.systematic_error, "a larger batch_size; more draws will not help"),
        "the bias of the step": (math.hypot(_zero(result.step_bias), _zero(result.step_bias_error)), "a smaller step"),
        "the bias of the batch": (
            math.hypot(_zero(result.batch_bias), _zero(result.batch_bias_error)),
            "a larger batch_size",
        ),
    }
    cause = max(parts, key=lambda part: parts[part][0])
    negative = "negative estimate, zero within its error" if result.llc < 0 else "imprecise"
    yield Finding(
        "imprecise",
        f"{negative}: the error is {share:.0%} of the estimate (limit {limits.precision:.0%}), most of it from "
        f"{cause}; {parts[cause][1]}",
    )


def _zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _drifting(result: LLCResult, limits: Thresholds) -> Iterator[Finding]:
    yield from _drift("the loss difference", result.trace[result.alive], limits.loss_change, limits, "")


def _drift(
    what: str, draws: NDArray[np.float64], unimportant: float, limits: Thresholds, growing: str
) -> Iterator[Finding]:
    change, error = change_between_halves(draws)
    middle = float(draws.mean())
    if abs(change) > limits.errors * error and abs(change) > unimportant * abs(middle):
        farther = growing if change > 0 else ""
        yield Finding(
            "drifting",
            f"still drifting: {what} averages {middle - change / 2:.4g} in the first half of the draws and "
            f"{middle + change / 2:.4g} in the second (error of the change {error:.2g}){farther}; more burn-in",
        )


def loss_share(result: LLCResult) -> float:
    """What the loss contributes to the virial ratio, nbeta E[(w - w*).grad L] / d; all of it without localisation."""
    pull = result.localization * float(result.distance_trace[result.alive].mean()) / result.dimension
    whole = result.virial + result.virial_heat
    return whole - pull if math.isfinite(pull) else whole


def _virial(result: LLCResult, limits: Thresholds) -> Iterator[Finding]:
    value, error = result.virial, result.virial_error
    allowance = limits.virial_errors * error
    shown = f"virial ratio {value:.3f} ± {error:.3f}, 1 in equilibrium"
    share = loss_share(result)
    # SGLD's own heat is taken off already, from the ratio and from the estimate
    hot = not _is_sgld(result) and 0 < limits.heating * share < value - 1 - max(limits.virial_errors, _SURE) * error
    if value + allowance < limits.virial_low:
        yield Finding("not_explored", f"not explored: {shown}; more steps, a larger step_size or a larger localization")
    elif value - allowance > limits.virial_high or hot:
        of_loss = f", of which the loss contributes {share:.2g}" if share < 0.9 * value else ""
        yield Finding("heated", f"heated: {shown}{of_loss}; a smaller step_size or a larger batch_size")
    elif not (
        error <= _largest_virial_error(result, limits)
        and (limits.virial_low <= value <= limits.virial_high or abs(value - 1) <= _IN_EQUILIBRIUM * error)
    ):
        # also where only noise may have taken the ratio out of its range: it is no sign of equilibrium either
        yield Finding(
            "exploration_unknown",
            f"cannot tell whether the chains explored: {shown}; more draws or a larger batch_size",
        )


def _largest_virial_error(result: LLCResult, limits: Thresholds) -> float:
    """With which the virial ratio says something: more in few directions, if the distance is settled."""
    by_chance = math.sqrt(2 / (result.dimension * limits.min_ess)) if limits.min_ess else 0.0
    allowed = max(limits.max_virial_error, _BY_CHANCE * by_chance)
    if allowed > limits.max_virial_error and any(_unsettled_distance(result, limits)):
        return limits.max_virial_error
    return allowed


def _is_sgld(result: LLCResult) -> bool:
    return math.isfinite(result.sgld_bias)


def _virial_of_blocks(result: LLCResult, limits: Thresholds) -> Iterator[Finding]:
    low, high = [], []
    for name, value in result.virial_by_block.items():
        allowance = limits.block_errors * result.virial_by_block_error[name]
        if value + allowance < limits.block_virial_low:
            low.append((value, name))
        elif value - allowance > limits.block_virial_high and not _is_sgld(result):  # whose heat is known and taken off
            high.append((-value, name))
    for rows, code, what in ((low, "block_not_explored", "not explored"), (high, "block_heated", "heated")):
        if rows:
            value, name = min(rows)
            others = f" and in {len(rows) - 1} more of {len(result.virial_by_block)} tensors" if len(rows) > 1 else ""
            yield Finding(code, f"{what} in {name}: virial ratio {abs(value):.3f}{others}")


def _kinetic(result: LLCResult, limits: Thresholds) -> Iterator[Finding]:
    for where, value, error in (
        ("", result.kinetic, result.kinetic_error),
        (" along the gradient of the loss", result.gradient_kinetic, result.gradient_kinetic_error),
    ):
        if value - limits.errors * error > limits.kinetic_high:
            yield Finding(
                "hot_momentum",
                f"heated: kinetic temperature{where} {value:.3f} ± {error:.3f}, 1 in equilibrium; a smaller step_size "
                "or a larger batch_size",
            )


def _left_well(result: LLCResult, limits: Thresholds) -> Iterator[Finding]:
    above = np.nan_to_num([result.downhill[chain] for chain in result.alive if chain < len(result.downhill)])
    if above.size and float(above.mean()) > limits.left_well * abs(result.llc):
        where = some_of([f"chain {chain}" for chain in np.array(result.alive)[above > above.mean() / 2]], _MOST_NAMES)
        yield Finding(
            "left_well",
            f"left the well of w*: downhill, without localization, {where} came to rest at a loss of "
            f"{above.max() / result.nbeta:.3g} above that of w*, {above.mean() / abs(result.llc):.0%} of the estimate "
            "on average; a larger localization",
        )


def _acceptance(result: LLCResult, limits: Thresholds) -> Iterator[Finding]:
    if result.acceptance < limits.min_acceptance:
        yield Finding(
            "few_accepted",
            f"step too large: {result.acceptance:.0%} of the proposals were accepted (limit "
            f"{limits.min_acceptance:.0%}); a smaller step_size, or a longer burn-in to adapt it in",
        )


def _biases(result: LLCResult, limits: Thresholds) -> Iterator[Finding]:
    step, batch = "a smaller step_size", "a larger batch_size"
    for what, value, error, remedy in (
        ("the step", result.step_bias, result.step_bias_error, step),
        ("the batch", result.batch_bias, result.batch_bias_error, batch),
    ):
        if abs(value) > limits.errors * error and abs(value) > limits.bias * abs(result.llc):
            yield Finding(
                "biased",
                f"biased by {what}: {value:+.3g} ± {error:.2g} (limit {limits.bias:.0%} of the estimate); {remedy}",
            )
    if result.sgld_bias > limits.correction * abs(result.llc):
        share = result.sgld_bias / abs(result.llc)
        yield Finding(
            "biased",
            f"biased by the step: it added {result.sgld_bias:.3g}, taken off, but {share:.0%} of the estimate (limit "
            f"{limits.correction:.0%}); {step}, or {batch}",
        )
    if result.settings.get("bias_checks") and math.isnan(result.step_bias + result.batch_bias):
        yield Finding(
            "bias_unknown", "the bias of the step or the batch could not be measured: the chains of that run failed"
        )


def _not_a_minimum(result: LLCResult, limits: Thresholds) -> Iterator[Finding]:
    advice = "train further, raise localization, or use ld.behavioural(...), whose minimum is at w*"
    if result.llc < 0 and result.llc < -limits.negative_errors * result.standard_error:
        yield Finding(
            "not_a_minimum",
            f"negative estimate {result.llc:.4g}: w* is not a minimum of the loss at this resolution, so the chains "
            f"found lower loss nearby; {advice}",
        )
    elif result.share_below > limits.share_below:
        yield Finding(
            "not_a_minimum",
            f"w* is not a minimum of the loss at this resolution: {result.share_below:.0%} of the draws have a lower "
            f"loss than w*, by more than noise; {advice}",
        )
