"""Where a fitted curve changes its development: turns, plateaus, onsets and ends, each with a probability.

The slope in x = log(t + 1) falls into phases, each with a peak of |slope|. Phases whose change is not resolved are
taken out, smallest first, and their neighbours meet. What lies between two phases that are left is a boundary:

- a *turn*, where they have opposite signs. It is where the curve has its extremum between the two peaks, and its
  probability that of both changes having their sign;
- a *plateau*, where they have the same sign. Its probability is that of the slope at its flattest place being below
  `PLATEAU_SHARE` of the smaller of the two peaks, and it lies anywhere where the slope is;
- an *end* and an *onset* in place of a plateau, where the curve comes to a flat stretch and leaves it (`hinges`).

Before the first phase there may be an onset, and after the last one an end.

Probabilities and places are shares and quantiles over joint samples of curve and slope, times the weight of a smooth
curve or a staircase against a constant and random walks.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.stages.gaussian_process import SmoothFit
from llc_dynamics.stages.hinges import onsets

Array = NDArray[np.float64]
Kind = Literal["turn", "plateau", "onset", "end"]

#: A plateau's slope is at most this share of the smaller of the two peaks beside it.
PLATEAU_SHARE = 0.5
# Where a sample's slope may be least: within this share of the way from the flattest place to the nearer peak.
_NEAR = 0.3
_TILT = 1.0
# A phase counts if its change is so many times its error, and such a share of the curve's range. With 2 errors instead
# of 2.5, one smooth rise in twenty had a stage too many after it: several places are looked at. Where a curve turns
# sharply the fit rings on both sides: a change that is small beside its neighbours' must exceed the more of its errors,
# 2.5 where it is a tenth of the smaller one.
_RESOLVED = 2.5
_LEAST_SHARE = 0.01
_RINGING = 0.1


@dataclass(frozen=True)
class Found:
    """One boundary on the grid of a fit: place and central interval in x, probability, and what it is."""

    x: float
    low: float
    high: float
    probability: float
    kind: Kind


@dataclass(frozen=True)
class _Phase:
    """Grid points [start, stop] between two places of least |slope|, the peak between them, the sign of the change."""

    start: int
    stop: int
    peak: int
    sign: int


def find_boundaries(fit: SmoothFit, level: float, paths: tuple[Array, Array], threshold: float) -> list[Found]:
    """All boundaries that the posterior mean suggests, with interval at `level` (.9 for 90%), in order of x.

    `paths` are samples of curve and slope [N, G] of `fit`. An end and an onset replace a plateau where both have the
    probability `threshold`.
    """
    values, slopes = paths
    phases = _resolved_phases(fit, values)
    if not phases:
        return []
    found = [_onset(fit, 0, phases[0], values, level)]
    for left, right in itertools.pairwise(phases):
        between = _between(fit, left, right, values, slopes, level)
        middle = int(np.abs(fit.grid - between.x).argmin())
        stretch = [_end(fit, left, middle, values, level), _onset(fit, middle, right, values, level)]
        split = between.kind == "plateau" and min(each.probability for each in stretch) >= threshold
        found += stretch if split else [between]
    return [*found, _end(fit, phases[-1], len(fit.grid) - 1, values, level)]


def change_between(values: Array, start: int, stop: int) -> tuple[float, float]:
    """Posterior mean and standard deviation of the change from grid point `start` to `stop`, from samples [N, G]."""
    change = values[:, stop] - values[:, start]
    return float(change.mean()), float(change.std())


def _resolved_phases(fit: SmoothFit, values: Array) -> list[_Phase]:
    """Phases whose change is resolved: the weakest goes, or two without a dip between them join, until all are."""
    phases = [_phase(fit, start, stop) for start, stop in itertools.pairwise(_flat_places(fit.slope))]
    least = _LEAST_SHARE * float(np.ptp(fit.mean))
    while len(phases) > 1:
        strengths = _strengths(values, phases, least)
        weakest = int(np.argmin(strengths))
        if strengths[weakest] < 1:
            _leave_out(phases, weakest)
        elif not _join_first_without_a_dip(fit, phases):
            break
    return phases if phases and _strengths(values, phases, least)[0] >= 1 else []


def _flat_places(slope: Array) -> list[int]:
    """Grid points where the slope changes its sign or its size is least, and both ends; no two neighbours."""
    size = np.abs(slope)
    crossings = np.flatnonzero(np.diff(np.sign(slope)) != 0)
    minima = np.flatnonzero((size[1:-1] < size[:-2]) & (size[1:-1] <= size[2:])) + 1
    cuts = sorted({0, len(size) - 1, *(int(c) for c in crossings), *(int(c) for c in minima)})
    return [cut for k, cut in enumerate(cuts) if k == 0 or cut - cuts[k - 1] > 1 or cut == len(size) - 1]


def _join_first_without_a_dip(fit: SmoothFit, phases: list[_Phase]) -> bool:
    """A plateau that is none: phases of the same sign without a dip between them are one. Whether there was one."""
    for k, (left, right) in enumerate(itertools.pairwise(phases)):
        if left.sign == right.sign and not _dips(fit, left, right):
            phases[k : k + 2] = [_phase(fit, left.start, right.stop)]
            return True
    return False


def _leave_out(phases: list[_Phase], weakest: int) -> None:
    """Take out a weak phase; its neighbours grow to its middle.

    Phases of one sign on both sides of a weak one in the other direction stay apart: a plateau lies between them.
    """
    gone = phases.pop(weakest)
    if 0 < weakest < len(phases):
        middle = (gone.start + gone.stop) // 2
        left, right = phases[weakest - 1], phases[weakest]
        phases[weakest - 1] = _Phase(left.start, middle, left.peak, left.sign)
        phases[weakest] = _Phase(middle, right.stop, right.peak, right.sign)


def _phase(fit: SmoothFit, start: int, stop: int) -> _Phase:
    peak = start + int(np.abs(fit.slope[start : stop + 1]).argmax())
    return _Phase(start, stop, peak, 1 if fit.mean[stop] >= fit.mean[start] else -1)


def _strengths(values: Array, phases: list[_Phase], least: float) -> list[float]:
    """Of each phase, 1 where its change is just resolved and just large enough."""
    changes = [change_between(values, phase.start, phase.stop) for phase in phases]
    sizes = [abs(change) for change, _ in changes]
    strengths = []
    for k, (size, (_, error)) in enumerate(zip(sizes, changes, strict=True)):
        beside = min([*sizes[max(k - 1, 0) : k], *sizes[k + 1 : k + 2]], default=0.0)
        needed = max(_RESOLVED * error, math.sqrt(_RESOLVED * error * _RINGING * beside), least)
        strengths.append(size / (needed + 1e-300))
    return strengths


def _dips(fit: SmoothFit, left: _Phase, right: _Phase) -> bool:
    """Whether the mean slope between two peaks falls to a share of them at which a plateau is worth a probability."""
    between = np.abs(fit.slope[left.peak : right.peak + 1])
    return bool(between.min() < 0.9 * min(between[0], between[-1]))


def _onset(fit: SmoothFit, start: int, phase: _Phase, values: Array, level: float) -> Found:
    """Of the phase, after a flat stretch that begins at grid point `start`."""
    window = slice(start, phase.peak + 1)
    there, places = onsets(fit.grid[window], phase.sign * values[:, window], fit.seen)
    return _found(fit, there, start + places, start + places, "onset", level)


def _end(fit: SmoothFit, phase: _Phase, stop: int, values: Array, level: float) -> Found:
    """The same in a mirror."""
    backwards = slice(stop, phase.peak - 1 if phase.peak else None, -1)
    there, places = onsets(-fit.grid[backwards], -phase.sign * values[:, backwards], -fit.seen[::-1])
    return _found(fit, there, stop - places, stop - places, "end", level)


def _between(fit: SmoothFit, left: _Phase, right: _Phase, values: Array, slopes: Array, level: float) -> Found:
    """The boundary between two phases, from the samples that have one: `places` is where, `extent` what it covers."""
    if left.sign != right.sign:
        kind: Kind = "turn"
        there, places = _turns(left, right, values)
        extent = places
    else:
        kind = "plateau"
        there, places, extent = _plateaus(fit, left, right, slopes)
    return _found(fit, there, places, extent, kind, level)


def _found(
    fit: SmoothFit,
    there: NDArray[np.bool_],
    places: NDArray[np.intp],
    extent: NDArray[np.intp],
    kind: Kind,
    level: float,
) -> Found:
    """From which samples have the boundary, its grid point, and one that it covers, [N] each."""
    share = float(there.mean())
    if not there.any():
        there = np.ones_like(there)
    middle = float(np.median(fit.grid[places[there]]))
    low, high = np.quantile(fit.grid[extent[there]], [(1 - level) / 2, (1 + level) / 2])
    half_cell = (fit.grid[1] - fit.grid[0]) / 2
    return Found(middle, float(low) - half_cell, float(high) + half_cell, fit.weight * share, kind)


def _turns(left: _Phase, right: _Phase, values: Array) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Which samples [N, G] have an extremum between the peaks, above both outer ends, and its grid point, [N] each."""
    signed = left.sign * values
    places = left.peak + signed[:, left.peak : right.peak + 1].argmax(1)
    extremum = np.take_along_axis(signed, places[:, None], 1)[:, 0]
    there = (places > left.peak) & (places < right.peak)
    there &= extremum > signed[:, left.start]
    there &= extremum > signed[:, right.stop]
    return there, places


def _plateaus(
    fit: SmoothFit, left: _Phase, right: _Phase, slopes: Array
) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp]]:
    """Which samples [N, G] of the slope have a plateau, its flattest grid point, and one on its stretch, [N] each."""
    window = slice(left.peak, right.peak + 1)
    # a fit smears the steeper phase over the plateau and moves its flattest place towards the other one; in units
    # of what lies between the two peaks it stays
    peaks = np.abs(fit.slope[[left.peak, right.peak]])
    scale = peaks[0] * (peaks[1] / peaks[0]) ** (_TILT * np.linspace(0, 1, right.peak - left.peak + 1))
    slope = left.sign * slopes[:, window]
    along = slope / scale
    lowest = int((np.abs(fit.slope[window]) / scale).argmin())
    smaller_peak = np.minimum(along[:, 0], along[:, -1])
    # near a fixed place: the least of a wiggling path over all of the window is small whatever the curve does
    reach = round(_NEAR * min(lowest, along.shape[1] - 1 - lowest))
    there = along[:, lowest - reach : lowest + reach + 1].min(1) < PLATEAU_SHARE * smaller_peak
    there &= smaller_peak > 0
    flattest = along.argmin(1)
    extent = _within_plateaus(slope, flattest, PLATEAU_SHARE * slope[:, [0, -1]])
    return there, left.peak + flattest, left.peak + extent


def _within_plateaus(along: Array, least: NDArray[np.intp], limits: Array) -> NDArray[np.intp]:
    """For each sample [N, W] a place in the stretch around `least` [N] where its slope is below its limits [N, 2].

    The limits are those to the left and to the right. Places are spread evenly over the stretches.
    """
    columns = np.arange(along.shape[1])
    before = np.where((along > limits[:, :1]) & (columns < least[:, None]), columns, -1).max(1) + 1
    after = np.where((along > limits[:, 1:]) & (columns > least[:, None]), columns, along.shape[1]).min(1) - 1
    share = (np.arange(len(along)) * 0.6180339887498949) % 1.0
    return (before + np.rint(share * (after - before))).astype(np.intp)
