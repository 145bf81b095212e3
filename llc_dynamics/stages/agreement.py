"""What independent looks have in common: two methods on one run, or one method on runs of several seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llc_dynamics.errors import DataError
from llc_dynamics.ranges import finite_number
from llc_dynamics.stages.change_points import ChangePoints
from llc_dynamics.stages.developmental import StageReport
from llc_dynamics.stages.verdicts import TransienceVerdict, json_ready

# Seed, step, kind.
_Event = tuple[str, float, str]
#: Two times are the same within so many decades of t + 1.
WITHIN = 0.1
_TOLERANCE = "within (decades of t + 1)"


@dataclass(frozen=True)
class AgreedBoundary:
    """A resolved boundary and what a second method says of it.

    step, interval : of the boundary. change : the nearest change point, in steps, None if there is none. distance : to
    it, in decades of t + 1. agreed : whether that is within the tolerance.
    """

    step: float
    interval: tuple[float, float]
    change: float | None
    distance: float
    agreed: bool


@dataclass(frozen=True)
class Agreement:
    """Which resolved boundaries change points find, too.

    boundaries : all resolved ones, in order. alone : change points, in steps, that are near to no resolved boundary.
    within : the tolerance in decades. expected : how many of the boundaries would be near a change point by chance, if
    as many change points lay anywhere in log time.
    """

    name: str
    boundaries: tuple[AgreedBoundary, ...]
    alone: tuple[float, ...]
    within: float
    expected: float

    @property
    def agreed(self) -> tuple[AgreedBoundary, ...]:
        """The boundaries that both find."""
        return tuple(each for each in self.boundaries if each.agreed)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; the distance to no change point is None."""
        return dict(json_ready(asdict(self)))

    def __str__(self) -> str:
        if not self.boundaries:
            return f"{self.name}: no boundary is resolved; change points at {_steps(self.alone)}"
        both = _steps([each.step for each in self.agreed])
        single = _steps([each.step for each in self.boundaries if not each.agreed])
        return (
            f"{self.name}: within {self.within:g} decades both find {len(self.agreed)} of {len(self.boundaries)} "
            f"boundaries ({self.expected:.1f} by chance): {both}; not found again: {single}; "
            f"change points alone: {_steps(self.alone)}"
        )


def agreement(report: StageReport, found: ChangePoints, within: float = WITHIN) -> Agreement:
    """Which resolved boundaries of `detect_stages` `change_points` finds, too.

    Each change point stands for one boundary at most, the nearest pairs first. `within` is in decades of t + 1. Raises
    `ConfigError` if that is not above 0, `DataError` for anything but the results of these two.
    """
    finite_number(_TOLERANCE, within, zero=False)
    if not isinstance(report, StageReport) or not isinstance(found, ChangePoints):
        raise DataError(
            f"agreement of a {type(report).__name__} and a {type(found).__name__}; give what ld.detect_stages and "
            "change_points returned, in this order"
        )
    places = [_decades(each.step) for each in report.resolved]
    changes = [_decades(step) for step in found.steps]
    pairs = sorted((abs(a - b), i, j) for i, a in enumerate(places) for j, b in enumerate(changes))
    partner: dict[int, int] = {}
    for distance, i, j in pairs:
        if distance <= within and i not in partner and j not in partner.values():
            partner[i] = j
    rows = []
    for i, boundary in enumerate(report.resolved):
        nearest = partner.get(i)
        if nearest is None and changes:
            nearest = min(range(len(changes)), key=lambda j: abs(changes[j] - places[i]))
        distance = math.inf if nearest is None else abs(changes[nearest] - places[i])
        change = None if nearest is None else found.steps[nearest]
        rows.append(AgreedBoundary(boundary.step, boundary.interval, change, distance, i in partner))
    alone = tuple(step for j, step in enumerate(found.steps) if j not in partner.values())
    grid = report.fit.grid / math.log(10)
    covered = min(1.0, 2 * within / float(grid[-1] - grid[0]))
    expected = len(rows) * (1 - (1 - covered) ** len(changes))
    return Agreement(report.name, tuple(rows), alone, within, expected)


@dataclass(frozen=True)
class Recurrence:
    """A time that several seeds have in common.

    step : the geometric mean of t + 1 over the seeds, less 1. spread : standard deviation of log10(t + 1) over the
    seeds, NaN for one. found_in : the seeds; steps : theirs, in the same order. kind : "turn", "plateau" or "mixed" of
    boundaries; "t_crit".
    """

    step: float
    spread: float
    found_in: tuple[str, ...]
    steps: tuple[float, ...]
    kind: str

    def __len__(self) -> int:
        return len(self.found_in)


@dataclass(frozen=True)
class SeedAgreement:
    """What recurs over seeds. seeds : all that were compared. recurring : in order of time, those of one seed, too."""

    seeds: tuple[str, ...]
    recurring: tuple[Recurrence, ...]
    within: float

    def to_dict(self) -> dict[str, Any]:
        """JSON types; the spread over one seed is None."""
        return dict(json_ready(asdict(self)))

    def __str__(self) -> str:
        if not self.recurring:
            return f"nothing was resolved in any of {len(self.seeds)} seeds"
        lines = []
        for each in self.recurring:
            spread = "" if math.isnan(each.spread) else f", spread {each.spread:.3f} decades"
            lines.append(f"{each.kind} at {each.step:,.0f}: in {len(each)} of {len(self.seeds)} seeds{spread}")
        return "\n".join(lines)


def seed_agreement(reports: Mapping[Any, StageReport] | Sequence[StageReport], within: float = WITHIN) -> SeedAgreement:
    """Which resolved boundaries recur over seeds, in how many, and how far apart.

    A group holds one boundary of each seed at most, all within `within` decades of t + 1 of its middle one; the group
    of most seeds is taken first, of equal ones the tightest.

    Parameters
    ----------
    reports : `{seed: report}` or a list, of the same curve in runs that differ in their seeds alone.
    within : tolerance in decades.

    Raises `DataError` for fewer than two reports or anything else among them, `ConfigError` if `within` is not above 0.
    """
    named = _by_seed(reports, StageReport, "ld.detect_stages")
    events = [(seed, each.step, each.kind) for seed, report in named.items() for each in report.resolved]
    return SeedAgreement(tuple(named), _recurring(events, within), within)


def transience_agreement(
    verdicts: Mapping[Any, TransienceVerdict] | Sequence[TransienceVerdict], within: float = WITHIN
) -> SeedAgreement:
    """The same of t_crit: which seeds are transient, and at what times."""
    named = _by_seed(verdicts, TransienceVerdict, "ld.detect_transience")
    events = [(s, float(v.t_crit), "t_crit") for s, v in named.items() if v.transient and v.t_crit is not None]
    return SeedAgreement(tuple(named), _recurring(events, within), within)


def _by_seed(given: Any, wanted: type, source: str) -> dict[str, Any]:
    if not isinstance(given, Mapping | Sequence):
        raise DataError(f"agreement over seeds of a {type(given).__name__}; give a list, or {{seed: ...}}, of them")
    pairs = given.items() if isinstance(given, Mapping) else enumerate(given)
    named = {str(seed): each for seed, each in pairs}
    for seed, each in named.items():
        if not isinstance(each, wanted):
            raise DataError(f"seed {seed} is a {type(each).__name__}; give what {source} returned for each seed")
    if len(named) < 2:
        raise DataError(f"agreement over seeds needs two or more of them, got {len(named)}")
    return named


def _recurring(events: list[_Event], within: float) -> tuple[Recurrence, ...]:
    finite_number(_TOLERANCE, within, zero=False)
    left = sorted(events, key=lambda event: event[1])
    groups = []
    while left:
        best = max((_around(middle, left, within) for middle in left), key=lambda g: (len(g), -_spread(g)))
        left = [event for event in left if event not in best]
        groups.append(best)
    found = []
    for group in groups:
        kinds = {kind for *_, kind in group}
        mean = float(np.mean([_decades(step) for _, step, _ in group]))
        spread = float(np.std([_decades(step) for _, step, _ in group], ddof=1)) if len(group) > 1 else math.nan
        found.append(
            Recurrence(
                10**mean - 1,
                spread,
                tuple(seed for seed, *_ in group),
                tuple(step for _, step, _ in group),
                kinds.pop() if len(kinds) == 1 else "mixed",
            )
        )
    return tuple(sorted(found, key=lambda each: each.step))


def _around(middle: _Event, events: list[_Event], within: float) -> list[_Event]:
    """Of every seed the event nearest to `middle`, if it is near enough."""
    nearest: dict[str, _Event] = {middle[0]: middle}
    for event in sorted(events, key=lambda e: abs(_decades(e[1]) - _decades(middle[1]))):
        if abs(_decades(event[1]) - _decades(middle[1])) <= within:
            nearest.setdefault(event[0], event)
    return list(nearest.values())


def _spread(group: list[_Event]) -> float:
    return float(np.std([_decades(step) for _, step, _ in group]))


def _decades(step: float) -> float:
    return math.log10(step + 1)


def _steps(steps: Sequence[float]) -> str:
    return ", ".join(f"{step:,.0f}" for step in steps) or "none"
