"""The free energy of a solution, which of two solutions it prefers, and the sample size at which they change places.

Watanabe's expansion (2009, main formula II) of the free energy of a neighbourhood of a solution with loss l, learning
coefficient lambda and multiplicity m is

    F(n) = n l + lambda log n - (m - 1) log log n + O(1).

Carroll et al. (2025, arXiv 2501.17745) explain transient ridge by it: ridge is the simpler solution, dMMSE_M the more
accurate one, and which has the lower free energy depends on n. Three things to keep in mind: the loss is per sample and
must be the loss that the LLC was measured with (the scale of the loss changes n, not lambda); the O(1) term is unknown,
so a difference of a few nats decides nothing; n is a number of samples, and nothing says how it maps to training steps.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from llc_dynamics.errors import ConfigError
from llc_dynamics.finding import sentences
from llc_dynamics.ranges import finite_number, numbers_of, whole_number
from llc_dynamics.settings import to_mapping, with_plain_numbers

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Solution:
    """A solution as the free energy sees it.

    Attributes
    ----------
    loss : l, per sample. llc : lambda, zero or more.
    loss_error, llc_error : their standard errors; 0 where they are exact.
    multiplicity : m, where it is known (from theory; estimates do not give it).
    name : for sentences and figures.

    Raises `ConfigError` for values outside these ranges.
    """

    loss: float
    llc: float
    loss_error: float = 0.0
    llc_error: float = 0.0
    multiplicity: int | None = None
    name: str = "solution"

    @classmethod
    def measured(cls, loss: Any, llc: Any, *, multiplicity: int | None = None, name: str = "solution") -> Solution:
        """From what was measured: each of `loss` and `llc` a number, or (value, standard error).

        `llc` may be an `ld.LLCResult`, too: then its estimate counts with its `total_error`. `ld.theory.crossover` of
        two such solutions carries the errors to n*. Losses of both solutions on the same samples are not independent:
        pass the standard error of their paired difference as `loss_difference_error`.

        Raises `ConfigError` for a result that did not converge (to use it all the same, pass its llc and total_error),
        and for values outside the ranges of `Solution`.
        """
        if hasattr(llc, "total_error"):
            if not llc.converged:
                raise ConfigError(
                    f"{name}: the LLC estimate did not converge ({sentences(llc.reasons)}): estimate again with more "
                    "draws or calibrated settings, or pass llc=(result.llc, result.total_error) to use it all the same"
                )
            llc = llc.llc, llc.total_error
        (loss_value, loss_error), (llc_value, llc_error) = (
            _with_error(name, *each) for each in (("loss", loss), ("llc", llc))
        )
        return cls(loss_value, llc_value, loss_error, llc_error, multiplicity, name)

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        for label in ("loss", "llc", "loss_error", "llc_error"):
            if isinstance(getattr(self, label), bool) or not isinstance(getattr(self, label), numbers.Real):
                raise ConfigError(
                    f"{self.name}: {label} is a {type(getattr(self, label)).__name__}; give a number (for an "
                    "ld.LLCResult its llc and its total_error, or let Solution.measured take them)"
                )
        if not math.isfinite(self.loss):
            raise ConfigError(f"{self.name}: loss must be finite; got {self.loss}")
        if not (math.isfinite(self.llc) and self.llc >= 0):
            raise ConfigError(
                f"{self.name}: llc must be finite and zero or more; got {self.llc}. A negative estimate means that the "
                "weights were no minimum, or that the chains had not settled: estimate again, or with the behavioural "
                "loss"
            )
        for label in ("loss_error", "llc_error"):
            finite_number(f"{self.name}: {label}", getattr(self, label), zero=True)
        if self.multiplicity is not None:
            whole_number(f"{self.name}: multiplicity", self.multiplicity, 1)


@dataclass(frozen=True, eq=False)
class Preference:
    """Which of two solutions has the lower free energy, at each n.

    Attributes
    ----------
    n : sample sizes, [N].
    difference : F(first) - F(second) in nats, [N]; below zero where the first is preferred. standard_error : its, [N].
    probability : that the first has the lower free energy, [N]. first, second : the names.
    """

    n: Array
    difference: Array
    standard_error: Array
    probability: Array
    first: str
    second: str

    @property
    def sentence(self) -> str:
        """The verdict at the smallest and at the largest n."""
        ends = (0,) if len(self.n) == 1 else (0, -1)
        return "; ".join(self._at(place) for place in ends)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types."""
        arrays = {name: getattr(self, name).tolist() for name in ("n", "difference", "standard_error", "probability")}
        return {**to_mapping(arrays), "first": self.first, "second": self.second, "sentence": self.sentence}

    def _at(self, place: int) -> str:
        share = float(self.probability[place])
        name, chance = (self.first, share) if share >= 0.5 else (self.second, 1 - share)
        gap = abs(float(self.difference[place]))
        size = size_in_words(float(self.n[place]))
        return f"at n = {size} {name} is preferred by {gap:.3g} nats (probability {chance:.2f})"


def free_energy(loss: ArrayLike, llc: ArrayLike, n: ArrayLike, multiplicity: ArrayLike | None = None) -> Any:
    """F = n l + lambda log n - (m - 1) log log n, in nats, up to a term that stays bounded as n grows.

    Parameters
    ----------
    loss : l, per sample. llc : lambda.
    n : sample sizes above 1, and of e or more with a multiplicity (below, log log n is negative and means nothing).
    multiplicity : m, where it is known; without it the last term is left out.

    The arguments are numbers or arrays that broadcast; returns a float if all are numbers, else an array.

    Raises `ConfigError` for values that are not finite, n outside its range, a negative llc, or m below 1.

    Source: S. Watanabe, "Algebraic Geometry and Statistical Learning Theory" (2009), main formula II.
    """
    losses, llcs = numbers_of("loss", loss), numbers_of("llc", llc)
    if not (np.isfinite(losses).all() and np.isfinite(llcs).all()) or (llcs < 0).any():
        raise ConfigError(f"loss and llc must be finite and llc zero or more; got loss={loss!r}, llc={llc!r}")
    sizes = _sizes(n, with_multiplicity=multiplicity is not None)
    orders = np.asarray(1 if multiplicity is None else multiplicity)
    try:
        np.broadcast_shapes(losses.shape, llcs.shape, sizes.shape, orders.shape)
    except ValueError:
        raise ConfigError(
            f"loss, llc, n and multiplicity have shapes {losses.shape}, {llcs.shape}, {sizes.shape}, {orders.shape}, "
            "which do not go together; give numbers, or arrays of one shape"
        ) from None
    result = sizes * losses + llcs * np.log(sizes)
    if multiplicity is not None:
        if orders.dtype.kind not in "iuf" or (orders != np.floor(orders)).any() or (orders < 1).any():
            raise ConfigError(f"multiplicity must be a whole number of 1 or more; got {multiplicity!r}")
        result = result - (orders - 1) * np.log(np.log(sizes))
    return float(result) if np.ndim(result) == 0 else result


def preference(
    first: Solution, second: Solution, n: ArrayLike, *, loss_difference_error: float | None = None
) -> Preference:
    """Which of two solutions has the lower free energy at each n, with the errors of loss and LLC carried through.

    The difference D(n) = n (l1 - l2) + (lambda1 - lambda2) log n - (m1 - m2) log log n is linear in what was measured.
    With normal, independent errors it is therefore exactly normal, with

        variance(n) = n^2 (s_l1^2 + s_l2^2) + (log n)^2 (s_lambda1^2 + s_lambda2^2),

    and the first is preferred with probability Phi(-D / sqrt(variance)). The last term of D enters only where both
    multiplicities are known. The bounded term of the expansion is not in the probability.

    Parameters
    ----------
    n : sample sizes above 1 (e or more with multiplicities), a number or [N].
    loss_difference_error : standard error of l1 - l2 where both losses are from the same samples. It is then far
        smaller than from the two errors; by default the losses count as independent.

    Raises `ConfigError` for values outside these ranges.
    """
    check_solutions(first=first, second=second)
    order = order_difference(first, second)
    sizes = np.atleast_1d(_sizes(n, with_multiplicity=order is not None))
    if sizes.ndim != 1:
        raise ConfigError(f"n must be a number or a list of numbers; got shape {sizes.shape}")
    logs = np.log(sizes)
    difference = sizes * (first.loss - second.loss) + (first.llc - second.llc) * logs
    if order is not None:
        difference = difference - order * np.log(logs)
    loss_error, llc_error = errors_of_differences(first, second, loss_difference_error)
    error = np.hypot(sizes * loss_error, logs * llc_error)
    with np.errstate(divide="ignore", invalid="ignore"):
        probability = np.where(error > 0, ndtr(-difference / error), 0.5 - 0.5 * np.sign(difference))
    return Preference(sizes, difference, error, probability, first.name, second.name)


def errors_of_differences(one: Solution, other: Solution, loss_difference_error: float | None) -> tuple[float, float]:
    """Standard errors of the differences of loss and of LLC."""
    if loss_difference_error is None:
        loss_error = math.hypot(one.loss_error, other.loss_error)
    else:
        loss_error = finite_number("loss_difference_error", loss_difference_error, zero=True)
    return loss_error, math.hypot(one.llc_error, other.llc_error)


def size_in_words(n: float) -> str:
    """n to three digits: '7,090', '2.15e+09', 'infinity'."""
    if math.isinf(n):
        return "infinity"
    rounded = float(f"{n:.3g}")
    return f"{rounded:,.0f}" if 100 <= rounded < 1e7 else f"{n:.3g}"


def order_difference(one: Solution, other: Solution) -> int | None:
    """The difference of the multiplicities, or None unless both are known."""
    if one.multiplicity is None or other.multiplicity is None:
        return None
    return one.multiplicity - other.multiplicity


def _with_error(name: str, label: str, given: Any) -> tuple[Any, Any]:
    """(value, standard error), the error 0 where a number was given."""
    if not isinstance(given, tuple | list):
        return given, 0.0
    if len(given) != 2:
        raise ConfigError(f"{name}: {label} has {len(given)} entries; give a number or (value, standard error)")
    return given[0], given[1]


def _sizes(n: ArrayLike, *, with_multiplicity: bool) -> Array:
    sizes = numbers_of("n", n)
    if not sizes.size or not np.isfinite(sizes).all() or (sizes <= 1).any():
        raise ConfigError(f"n must be sample sizes above 1, finite; got {n!r}")
    if with_multiplicity and (sizes < math.e).any():
        raise ConfigError(
            f"n is {sizes.min():g}, but with multiplicities n must be e or more: below, log log n is negative and the "
            "expansion means nothing; take a larger n, or leave the multiplicities out"
        )
    return sizes


def check_solutions(**solutions: Any) -> None:
    """`ConfigError` for what is not a `Solution`."""
    for role, solution in solutions.items():
        if not isinstance(solution, Solution):
            raise ConfigError(
                f"{role} is a {type(solution).__name__}; give a theory.Solution(loss=..., llc=..., loss_error=..., "
                "llc_error=..., name=...)"
            )
