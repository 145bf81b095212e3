"""What speaks against an estimate, in words: each check gives at most one sentence, with what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from llc_dynamics.llc.diagnostics import change_between_halves, r_hat_by_chance, spread_of_pieces
from llc_dynamics.llc.thresholds import Thresholds

if TYPE_CHECKING:
    from llc_dynamics.llc.result import LLCResult


def reasons_against(result: LLCResult, limits: Thresholds) -> tuple[str, ...]:
    """Why `result` should not be believed; empty if nothing speaks against it."""
    if not math.isfinite(result.llc):
        return (*_failed(result), "all chains failed, so there is no estimate: try a smaller step_size")
    checks = (_failed, _without_effect)
    judged = (_chains_disagree, _too_few, _drifting, _virial, _virial_of_blocks, _negative)
    found = [reason for check in checks for reason in check(result)]
    return (*found, *(reason for check in judged for reason in check(result, limits)))


def _failed(result: LLCResult) -> Iterator[str]:
    if result.failed_chains:
        yield f"stopped and left out: {'; '.join(map(str, result.failed_chains))}"


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
            yield (
                f"still drifting: {what} averages {middle - change / 2:.4g} in the first half of the draws and "
                f"{middle + change / 2:.4g} in the second (error of the change {error:.2g}); more burn-in"
            )


def _virial(result: LLCResult, limits: Thresholds) -> Iterator[str]:
    value, error = result.virial, result.virial_error
    shown = f"virial ratio {value:.3f} ± {error:.3f}, 1 in equilibrium"
    if value + limits.errors * error < limits.virial_low:
        yield f"not explored: {shown}; more steps, a larger step_size or a larger localization"
    elif value - limits.errors * error > limits.virial_high:
        yield f"heated: {shown}; a smaller step_size or a larger batch_size"
    elif not error <= limits.max_virial_error:
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


def _negative(result: LLCResult, limits: Thresholds) -> Iterator[str]:
    if result.llc < -limits.negative_errors * result.standard_error and result.llc < 0:
        yield (
            f"negative estimate {result.llc:.4g}: w* is not a minimum of the loss at this resolution, so the chains "
            "found lower loss nearby; train further, or raise localization"
        )


def _alive(result: LLCResult, trace: np.ndarray) -> np.ndarray:
    dead = {failed.chain for failed in result.failed_chains}
    return trace[[chain for chain in range(len(trace)) if chain not in dead]]
