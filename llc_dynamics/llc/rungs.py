"""One rung of a calibration's ladder: estimates at one resolution, what they promise, and what several rungs say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llc_dynamics.finding import Finding
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings

# What is expected of an estimate must lie below the limit of its verdict by this factor.
_MARGIN = 1.2
# So far above its lower limit the virial ratio of short trials is clear of it.
_CLEAR = 0.03
# Of the largest estimate there can be, d/2: from there on no direction is hidden.
_ALL = 0.9
# A change below this share of the estimate, from one rung to the next, is a plateau. One rung is a factor 4 in gamma.
PLATEAU = 0.05
# One above this says that there is no plateau near.
_LARGE = 0.2
# By how much the next change is smaller than the last: a quarter where all curvatures are far above gamma / nbeta; if
# it is hardly smaller there is no end to it.
_FASTEST, _NO_END, _UNKNOWN = 0.25, 0.9, 0.5
# A continuation that says more than this, as a share of the estimate, says nothing.
_MOST_ABOVE = 0.5


@dataclass(frozen=True)
class Tuning:
    """What trials go by, until they show better.

    step : eps (nbeta h + gamma) of SGLD. fresh_batch, held_batch : samples of a batch that is one gradient's, and of
    one that is held.
    """

    step: float
    fresh_batch: int
    held_batch: int


@dataclass(frozen=True)
class Rung:
    """Estimates at one resolution, a row for each checkpoint that is tried.

    ratio : sqrt(nbeta h / gamma). settings : of the trials. rows : their results.
    """

    ratio: float
    tuning: Tuning
    settings: EstimateSettings
    rows: tuple[LLCResult, ...]

    def errors(self, settings: EstimateSettings) -> list[float]:
        """The standard error that `settings` would have at each checkpoint, as a share of the estimate."""
        return [math.hypot(drawn, row.systematic_error / _size(row)) for drawn, row in self._drawn(settings)]

    @property
    def complete(self) -> bool:
        """Whether all directions count already, so that a smaller gamma changes nothing."""
        return all(row.llc >= _ALL * row.dimension / 2 for row in self.rows)

    @property
    def settled(self) -> bool:
        """Whether the virial ratio is clear of its limit everywhere: estimates repeat what is low in the trials."""
        return all(row.virial >= row.thresholds.virial_low + _CLEAR for row in self.rows)

    def draws_for(self, target: float, settings: EstimateSettings, ess: float = 1.0) -> float:
        """The draws a chain with which the error of `settings` comes to `target` everywhere; inf if none do.

        And the effective draws to `ess` times their limit.
        """
        needed = 0.0
        for drawn, row in self._drawn(settings):
            effective = max(row.ess, 1.0) * self._more(row, settings)
            needed = max(needed, settings.num_draws * ess * row.thresholds.min_ess / effective)
            left = target**2 - (row.systematic_error / _size(row)) ** 2
            needed = max(needed, settings.num_draws * drawn**2 / left if left > 0 else math.inf)
        return needed

    def against(self, settings: EstimateSettings) -> list[tuple[int, Finding]]:
        """What speaks against estimates with `settings`, but for what their draws remove: (checkpoint, reason)."""
        found = []
        for place, (row, error) in enumerate(zip(self.rows, self.errors(settings), strict=True)):
            limits, more = row.thresholds, self._more(row, settings)
            # the halves and the chains of so few draws differ by chance
            enough = row.ess >= limits.min_ess
            kept = {
                "chains_disagree": enough,
                "drifting": enough,
                "imprecise": error * _MARGIN > limits.precision,
                "exploration_unknown": row.virial_error / math.sqrt(more) > limits.max_virial_error,
                "too_few_draws": not row.ess * more > _MARGIN * limits.min_ess,
                "slow_distance": False,
            }
            found += [(place, reason) for reason in row.reasons if kept.get(reason.code, True)]
        return found

    def _drawn(self, settings: EstimateSettings) -> list[tuple[float, LLCResult]]:
        """The part of the error that draws reduce, as a share of the estimate."""
        return [
            (
                math.sqrt(max(row.standard_error**2 - row.systematic_error**2, 0.0) / self._more(row, settings))
                / _size(row),
                row,
            )
            for row in self.rows
        ]

    def _more(self, row: LLCResult, settings: EstimateSettings) -> float:
        """How many times as many draws `settings` have."""
        return settings.num_chains * settings.num_draws / max(len(row.alive) * row.trace.shape[1], 1)


def _size(row: LLCResult) -> float:
    return max(abs(row.llc), 1e-300) if math.isfinite(row.llc) else math.nan


def steady(before: Rung, after: Rung) -> bool:
    """Whether the estimates of two rungs agree at every checkpoint, and are good enough for that to mean anything."""
    for one, other in zip(before.rows, after.rows, strict=True):
        error = math.hypot(one.standard_error, other.standard_error)
        size, change = abs(other.llc), abs(other.llc - one.llc)
        if not (error <= 1.5 * PLATEAU * size and change <= max(PLATEAU * size, min(2 * error, 2 * PLATEAU * size))):
            return False
    return True


def growing(before: Rung, after: Rung) -> bool:
    """Whether some estimate still grows by far more than a little, and than its error, from one rung to the next."""
    pairs = zip(before.rows, after.rows, strict=True)
    return any(b.llc - a.llc - math.hypot(a.standard_error, b.standard_error) > _LARGE * abs(b.llc) for a, b in pairs)


def above(rungs: Sequence[Rung], chosen: int) -> tuple[float, float] | None:
    """By what share of the estimate of rung `chosen` lambda is above it, and the error of that; see `lambda_above`.

    The last two changes, d2 and d1, continued as a geometric series: d1 rho / (1 - rho), rho = d1 / d2. As directions
    may come that no rung has shown, d1 is part of the error. None where the changes do not become smaller, or for fewer
    than three rungs.
    """
    if len(rungs) < 3:
        return None
    shares, variances = [], []
    for third, second, last, here in zip(*(rung.rows for rung in rungs[-3:]), rungs[chosen].rows, strict=True):
        newer, older = last.llc - second.llc, second.llc - third.llc
        error = math.hypot(last.standard_error, second.standard_error)
        older_error = math.hypot(second.standard_error, third.standard_error)
        rho, rho_error = _UNKNOWN, (_NO_END - _FASTEST) / 4
        if older > 2 * older_error:
            rho = newer / older
            if rho - math.hypot(error, rho * older_error) / older > _NO_END:
                return None
            rho_error = min(rho_error, math.hypot(error, rho * older_error) / older)
            rho = min(max(rho, _FASTEST), _NO_END)
        change = max(newer, 0.0)
        rest = change * rho / (1 - rho)
        variance = (error * rho / (1 - rho)) ** 2 + (max(change, error) * rho_error / (1 - rho) ** 2) ** 2 + change**2
        shares.append((last.llc + rest) / here.llc - 1)
        variances.append((variance + last.standard_error**2 * (chosen != len(rungs) - 1)) / here.llc**2)
    mean = sum(shares) / len(shares)
    spread = sum((share - mean) ** 2 for share in shares) / len(shares)
    found = mean, math.sqrt(sum(variances) / len(variances) + spread)
    return found if math.hypot(*found) < _MOST_ABOVE else None  # also where it is not finite
