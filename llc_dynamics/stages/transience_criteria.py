"""The criteria of transience: what was measured, against the thresholds, as findings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llc_dynamics.errors import ConfigError
from llc_dynamics.finding import Finding
from llc_dynamics.ranges import finite_number
from llc_dynamics.settings import with_plain_numbers
from llc_dynamics.stages.evidence import Change

# Movements after the minimum count from so many of their errors on.
_MOVED = 2.0


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of `detect_transience`; `ConfigError` for one out of its range."""

    min_relative_rebound: float
    min_z: float
    max_false_alarm: float
    min_nearness: float
    min_nearness_beyond_line: float

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        finite_number("min_z", self.min_z, zero=True)
        finite_number("min_relative_rebound", self.min_relative_rebound, zero=True)
        if finite_number("max_false_alarm", self.max_false_alarm, zero=False) > 1:
            raise ConfigError(f"max_false_alarm must be a probability, 1 at most; got {self.max_false_alarm!r}")
        if any(math.isnan(least) for least in (self.min_nearness, self.min_nearness_beyond_line)):
            raise ConfigError("min_nearness and min_nearness_beyond_line must be numbers; got NaN")


@dataclass(frozen=True)
class Measured:
    """What the criteria are asked of.

    best, last : indices of the checkpoint of least loss and of the last one; step : of the first of these.
    minimum, rebound, false_alarm : of the loss, as in `TransienceVerdict`.
    general, general_error, specialised : distances at the minimum; reference : between the two predictors.
    nearness, beyond_line : as in `TransienceVerdict`.
    away, towards, along : changes after the minimum of the distance to the general predictor, of that to the
        specialised one, and of the first minus the second.
    """

    step: int
    best: int
    last: int
    minimum: float
    rebound: Change
    false_alarm: float
    general: float
    general_error: float
    specialised: float | None
    reference: float | None
    nearness: float
    beyond_line: float | None
    away: Change
    towards: Change | None
    along: Change | None

    @property
    def at_best(self) -> str:
        return f"at its best (step {self.step:,}) its distance to the general predictor was {self.general:.3g}"

    @property
    def percent(self) -> str:
        """The rebound and its error relative to the minimum, or as they are where that is not positive."""
        if self.minimum <= 0:
            return _signed(self.rebound)
        return f"{self.rebound.value / self.minimum:.1%} +- {self.rebound.error / self.minimum:.1%}"


def reasons_against(found: Measured, thresholds: Thresholds) -> tuple[Finding, ...]:
    """What speaks against transience; empty if nothing does."""
    asked = (
        _minimum_at_an_end(found),
        _never_near(found, thresholds),
        _no_rebound(found, thresholds),
        _no_move_away(found),
        _no_move_along(found),
    )
    return tuple(finding for finding in asked if finding is not None)


def reasons_for(found: Measured) -> tuple[Finding, ...]:
    """What a transient run did, in order of time."""
    other = "" if found.specialised is None else f"; to the specialised one {found.specialised:.3g}"
    moved = "" if found.towards is None else f" and to the specialised one by {_signed(found.towards)}"
    return (
        Finding(
            "rebound",
            f"the out-of-distribution loss rose by {found.percent} after step {found.step:,} "
            f"({found.rebound.z:.1f} errors)",
        ),
        Finding("was_near", f"{found.at_best}, {found.nearness:.0%} less than at the start{other}"),
        Finding(
            "moved_away",
            f"from there to the end the distance to the general predictor changed by {_signed(found.away)}{moved}",
        ),
    )


def _minimum_at_an_end(found: Measured) -> Finding | None:
    if found.best == found.last:
        return Finding("minimum_at_the_end", "the out-of-distribution loss falls to the end: no rebound")
    if found.best == 0:
        return Finding(
            "minimum_at_the_start", "the out-of-distribution loss is least at the first checkpoint: it never fell"
        )
    return None


def _never_near(found: Measured, thresholds: Thresholds) -> Finding | None:
    """Nearer to the specialised predictor, or not near enough to the general one."""
    if found.specialised is not None and found.general >= found.specialised:
        distant = f"to the specialised one {found.specialised:.3g}"
    elif found.beyond_line is None:
        if found.nearness >= thresholds.min_nearness:
            return None
        asked = thresholds.min_nearness
        distant = f"{max(found.nearness, 0.0):.0%} less than at the start, and {asked:.0%} is asked for"
    elif found.reference is not None and found.general >= found.reference:
        distant = f"no less than the {found.reference:.3g} of the specialised one"
    elif found.beyond_line < thresholds.min_nearness_beyond_line:
        nearest = found.general / (1 - found.beyond_line)
        distant = f"and a model that goes straight to the specialised one comes as near as {nearest:.3g}"
    else:
        return None
    return Finding("never_near", f"the model was never near the general predictor: {found.at_best}, {distant}")


def _no_rebound(found: Measured, thresholds: Thresholds) -> Finding | None:
    """Within its errors, as large by chance, or too small."""
    if not 0 < found.best < found.last:
        return None
    rebound, rose = found.rebound, f"the out-of-distribution loss rose by {found.percent}"
    if rebound.value <= 0:
        return Finding("no_rebound", "the out-of-distribution loss stays at its minimum to the end: no rebound")
    if rebound.z < thresholds.min_z:
        return Finding("rebound_within_errors", f"{rose} at the end: within {thresholds.min_z:g} of its errors")
    if found.false_alarm > thresholds.max_false_alarm:
        share = f"in {found.false_alarm:.0%} of cases"
        return Finding("rebound_by_chance", f"{rose}, but a falling curve with this noise does so {share}")
    if rebound.value < thresholds.min_relative_rebound * found.minimum:
        asked = f"{thresholds.min_relative_rebound:.0%}"
        return Finding("rebound_too_small", f"{rose}: real, but less than the {asked} asked for")
    return None


def _no_move_away(found: Measured) -> Finding | None:
    if found.best == found.last or found.away.z >= _MOVED:
        return None
    return Finding(
        "not_away_from_general",
        f"after the minimum the distance to the general predictor does not grow ({_signed(found.away)})",
    )


def _no_move_along(found: Measured) -> Finding | None:
    if found.best == found.last or found.along is None or found.along.z >= _MOVED:
        return None
    return Finding(
        "not_towards_specialised",
        "after the minimum the model does not move from the general towards the specialised predictor "
        f"(distance to the one minus distance to the other changes by {_signed(found.along)})",
    )


def _signed(change: Change) -> str:
    return f"{change.value:+.3g} +- {change.error:.2g}"
