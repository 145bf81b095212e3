"""When a run ends: after the draws that were asked for, at a wanted error, or when its time is up.

Stopping at the first moment at which an error *looks* small favours moments at which it is underestimated, and with
them wrong intervals. Two things keep that harmless (the tests measure it): few looks (the draws are doubled from one to
the next), and none counts before so many effective draws that the error itself is known to some 7%. Stopping by the
clock does not look at the draws at all, and changes nothing.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.llc.summary import summarise
from llc_dynamics.sampling import Chains
from llc_dynamics.sampling.engine import Progress

# Effective draws (of the mean) from which a standard error is believed when it decides to stop.
_LEAST_EFFECTIVE_DRAWS = 100.0
# With fewer draws there is no standard error.
_LEAST_DRAWS = 4


def run_until_done(chains: Chains, settings: EstimateSettings, progress: Progress | None = None) -> LLCResult:
    """Advance the chains as the settings say; the result, which says where it stopped, is to be judged."""
    start = time.monotonic()
    goal = settings.num_draws
    while True:
        in_time = _advance(chains, goal, settings, start, progress)
        found = summarise(chains, settings)
        stopped = _stopped(found, settings, chains.num_draws, in_time)
        if stopped is not None:
            return replace(found, stopped=stopped)
        goal = min(2 * chains.num_draws, settings.last_draw)


def _stopped(found: LLCResult, settings: EstimateSettings, num_draws: int, in_time: bool) -> str | None:
    """Why to stop here (see `LLCResult.stopped`); None to go on."""
    if not in_time:
        return "max_seconds"
    if settings.target_error is None or not math.isfinite(found.llc):
        return "num_draws"
    if good_enough(found, settings.target_error):
        return "target_error"
    return "max_draws" if num_draws >= settings.last_draw else None


def good_enough(result: LLCResult, target: float) -> bool:
    """Whether the standard error is below `target` times the estimate, and itself known well enough to say so."""
    return result.ess_mean >= _LEAST_EFFECTIVE_DRAWS and result.standard_error <= target * abs(result.llc)


def _advance(chains: Chains, goal: int, settings: EstimateSettings, start: float, progress: Progress | None) -> bool:
    """Draws up to `goal`; false if time, which runs since `start`, ended them before.

    Chains may run one after the other, so time is watched between pieces that all chains complete; each piece is to
    take half of the time that is left, as the last one suggests.
    """
    if settings.max_seconds is None:
        chains.advance(goal - chains.num_draws, progress)
        return True
    piece, now = _LEAST_DRAWS, time.monotonic()
    while chains.num_draws < goal:
        if chains.num_draws >= _LEAST_DRAWS and now >= start + settings.max_seconds:
            return False
        piece = min(piece, goal - chains.num_draws)
        before = now
        chains.advance(piece)
        now = time.monotonic()
        left = start + settings.max_seconds - now
        # never more than four times the last piece: the first one holds the burn-in, and says little
        piece = max(1, min(4 * piece, int(piece * left / 2 / max(now - before, 1e-9))))
        if progress is not None:
            progress(chains.num_draws, settings.last_draw)
    return True
