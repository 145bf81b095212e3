"""The sample size at which a simpler solution yields to a more accurate one, with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from llc_dynamics.ranges import between_0_and_1
from llc_dynamics.settings import to_mapping
from llc_dynamics.theory.free_energy import (
    Solution,
    check_solutions,
    errors_of_differences,
    order_difference,
    size_in_words,
)

# Crossovers are looked for in u = log n from 1, where log(n)/n has its maximum, to where n would overflow.
_LOG_SIZES = np.concatenate([np.linspace(1.0, 60.0, 6001), np.geomspace(60.0, 690.0, 2001)[1:]])


@dataclass(frozen=True)
class Crossover:
    """The sample size n* beyond which the more accurate of two solutions has the lower free energy.

    Attributes
    ----------
    kind : "crosses"; "never", if the accurate solution is preferred at no large n; "always", if at every n above e.
    n : n*, or None unless kind is "crosses".
    interval : at `level`, all n* above e that the errors allow, or None if they allow none. An upper end of infinity
        says that "never" cannot be excluded, a lower end of e that "always" cannot.
    small_n : the other root, below e, or None (also if the multiplicities differ). Below it the expansion prefers the
        accurate solution, too; that is an artefact of log n going to zero, not a prediction.
    level : probability of the interval.
    loss_difference, loss_difference_error : dl = loss(simple) - loss(accurate).
    llc_difference, llc_difference_error : dlambda = lambda(accurate) - lambda(simple).
    multiplicity_difference : m(accurate) - m(simple), or None where one is not known and the term is left out.
    reason : in words, why there is a crossover or none. simple, accurate : the names.
    """

    kind: Literal["crosses", "never", "always"]
    n: float | None
    interval: tuple[float, float] | None
    small_n: float | None
    level: float
    loss_difference: float
    loss_difference_error: float
    llc_difference: float
    llc_difference_error: float
    multiplicity_difference: int | None
    reason: str
    simple: str
    accurate: str

    @property
    def sentence(self) -> str:
        """n* with its interval, or why there is none."""
        span = ""
        if self.interval is not None:
            low, high = self.interval
            span = f" ({self.level:.0%} interval of n*: {size_in_words(low)} to {size_in_words(high)})"
        if self.n is not None:
            return f"{self.simple} yields to {self.accurate} at n* = {size_in_words(self.n)}{span}: {self.reason}"
        return f"{self.simple} {self.kind} yields to {self.accurate}{span}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types, infinity as "inf"."""
        return {**to_mapping(asdict(self)), "sentence": self.sentence}


def crossover(
    *, simple: Solution, accurate: Solution, loss_difference_error: float | None = None, level: float = 0.9
) -> Crossover:
    """n* at which the simpler solution (ridge) yields to the more accurate one (dMMSE_M).

    With dl = loss(simple) - loss(accurate) and dlambda = lambda(accurate) - lambda(simple), the accurate solution is
    preferred where D(n) = n dl - dlambda log n + dm log log n > 0 (dm the difference of the multiplicities, left out
    unless both are known). log(n)/n rises to 1/e at n = e and falls from there, so without dm there are two roots if
    0 < dl/dlambda < 1/e; n* is the larger, beyond which log(n)/n stays below dl/dlambda:

        n* = -W_{-1}(-dl/dlambda) dlambda/dl      (Lambert's W).

    - dl <= 0: "never". (For dl = 0 and dlambda < 0, where the accurate solution is as good and simpler: "always".)
    - dlambda <= 0, or dl/dlambda above 1/e: "always".

    The interval is that of Fieller (1954): all n above e at which D(n) is not told from zero by its own error, the band
    of `preference`. D(n*) is exactly normal around zero, so it holds n* with probability `level` exactly, however
    poorly dl and dlambda are known; it may then be unbounded. Where the set has gaps its hull is given.

    Parameters
    ----------
    loss_difference_error : standard error of dl where the losses are from the same samples, see `preference`.
    level : probability of the interval, between 0 and 1.

    Raises `ConfigError` for values outside these ranges.
    """
    check_solutions(simple=simple, accurate=accurate)
    level = between_0_and_1("level", level)
    order = order_difference(accurate, simple)
    gain, cost = simple.loss - accurate.loss, accurate.llc - simple.llc
    gain_error, cost_error = errors_of_differences(simple, accurate, loss_difference_error)

    def scaled(u: Any) -> Any:
        """D(n) / n at n = e^u, which does not overflow."""
        return gain - (cost * u - (order or 0) * np.log(u)) * np.exp(-u)

    def z_value(u: Any) -> Any:
        return scaled(u) / np.hypot(gain_error, cost_error * u * np.exp(-u))

    roots = _roots(scaled)
    kind: Literal["crosses", "never", "always"]
    beyond = gain > 0 and not roots and scaled(_LOG_SIZES[-1]) < 0
    if beyond:
        kind, reason = "never", f"the gain in loss, {gain:.3g} per sample, would pay off beyond n = 1e299 only"
    elif gain < 0 or (gain == 0 and (cost > 0 or (cost == 0 and (order or 0) <= 0))):
        kind, reason = "never", _why_never(simple, accurate, gain, cost)
    elif gain > 0 and roots:
        kind = "crosses"
        reason = f"the gain in loss is {gain:.3g} per sample, its price {cost:.3g} in the learning coefficient"
    else:
        kind, reason = "always", _why_always(accurate, gain, cost)
    n_star = math.exp(roots[-1]) if kind == "crosses" else None
    return Crossover(
        kind=kind,
        n=n_star,
        interval=_fieller(z_value, gain, gain_error, cost_error, n_star, level),
        small_n=None if n_star is None or order else _small_root(gain, cost),
        level=level,
        loss_difference=gain,
        loss_difference_error=gain_error,
        llc_difference=cost,
        llc_difference_error=cost_error,
        multiplicity_difference=order,
        reason=reason,
        simple=simple.name,
        accurate=accurate.name,
    )


def _fieller(
    z_value: Callable[[Any], Any],
    gain: float,
    gain_error: float,
    cost_error: float,
    n_star: float | None,
    level: float,
) -> tuple[float, float] | None:
    """The hull of {n >= e : |D(n)| <= z error(n)}."""
    if gain_error == 0 and cost_error == 0:
        return None if n_star is None else (n_star, n_star)
    z = float(ndtri(0.5 + level / 2))
    ends = sorted([*_roots(lambda u: z_value(u) - z), *_roots(lambda u: z_value(u) + z)])
    # log(n)/n vanishes as n grows, and D/error tends to dl/error(dl)
    unbounded = abs(gain) <= z * gain_error
    from_the_start = abs(float(z_value(_LOG_SIZES[0]))) <= z
    if not (ends or unbounded):
        return None
    low = math.e if from_the_start else math.exp(ends[0])
    return low, math.inf if unbounded else math.exp(ends[-1])


def _roots(function: Callable[[Any], Any]) -> list[float]:
    """Where `function` of u = log n changes sign from u = 1 on, in order."""
    with np.errstate(divide="ignore", invalid="ignore"):
        signs = np.sign(function(_LOG_SIZES))
    places = np.flatnonzero(signs[:-1] * signs[1:] < 0)
    found = [float(brentq(function, _LOG_SIZES[k], _LOG_SIZES[k + 1], xtol=1e-13)) for k in places]
    return sorted([*found, *_LOG_SIZES[signs == 0].tolist()])


def _small_root(gain: float, cost: float) -> float:
    """The root of u e^-u = dl/dlambda below u = 1, as n."""
    return math.exp(float(brentq(lambda u: gain - cost * u * math.exp(-u), 0.0, 1.0, xtol=1e-13)))


def _why_never(simple: Solution, accurate: Solution, gain: float, cost: float) -> str:
    if gain < 0 and cost < 0:
        return (
            f"{accurate.name} has the higher loss (by {-gain:.3g}) and the lower learning coefficient: the two have "
            f"changed roles; call crossover with simple={accurate.name} to get the n at which it yields"
        )
    more = f"by {-gain:.3g} more" if gain < 0 else "as much"
    return f"{accurate.name} loses {more} per sample than {simple.name} and is no simpler (by {cost:.3g})"


def _why_always(accurate: Solution, gain: float, cost: float) -> str:
    if cost <= 0:
        return f"{accurate.name} has the lower loss, or the same (by {gain:.3g}), and is no more complex ({cost:.3g})"
    return f"the gain in loss, {gain:.3g} per sample, is above log(n)/n times the price {cost:.3g} at every n above e"
