"""What the free energy predicts for each run, how lambda_hat changed, and whether the orders agree: plain records in.

The order does not depend on the unit of n: ridge gives way where log(n)/n falls below dl/dlambda, so the crossover is
an increasing function of r = dlambda/dl alone. r is what is ranked; n itself is predicted in training sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from crossover_llc import DRAWS, SmoothLLC
from crossover_runs import RunRecord
from numpy.typing import ArrayLike, NDArray
from rank_agreement import RankAgreement, rank_agreement
from scipy import stats

from llc_dynamics.errors import DataError
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.theory import Crossover, Solution, crossover

Array = NDArray[np.float64]

DEFINITIONS = {
    "ideal": "dl between the ideal predictors on q_M; dlambda = lambda at the end of the run at M less at M = infinity",
    "within run": "dl = fall of the loss on q_M from t_crit to the end; dlambda = lambda(end) - lambda(t_crit)",
    "loss only": "dl between the ideal predictors; dlambda the same at every M: what the LLC has to beat",
}
SELECTIONS: dict[str, Callable[[RunRecord], bool]] = {
    "all, censored later than the rest": lambda _: True,
    "without censored": lambda record: math.isfinite(record.observed),
    "with a verdict only": lambda record: record.status == "transient",
}
# The interval of r is that of n*, found where n* is above e in every case: in millionths of a training sequence.
_FINE = 1e-6


@dataclass(frozen=True, eq=False)
class Prediction:
    """The predicted crossover of one run by one definition; nats per training sequence.

    Attributes
    ----------
    gain, gain_error : dl. price, price_error : dlambda.
    ratio : r = dlambda/dl; 0 where dlambda <= 0 (dMMSE preferred from the beginning), infinite where dl <= 0 (never).
    ratio_interval : Fieller's, 90%, from `theory.crossover`; None where no r is allowed by the errors.
    ratio_draws : [draw], from the errors of both.
    crossing : in training sequences; None for "loss only", which has no scale.
    """

    record: RunRecord
    definition: str
    gain: float
    gain_error: float
    price: float
    price_error: float
    ratio: float
    ratio_interval: tuple[float, float] | None
    ratio_draws: Array
    crossing: Crossover | None

    @property
    def decades_late(self) -> float:
        """log10 of the observed t_crit in training sequences over n*; a lower bound where there is no n* above e."""
        observed = self.record.t_crit * self.record.batch_size
        if self.crossing is None or self.crossing.kind == "never" or self.record.status == "censored":
            return math.nan
        return math.log10(observed / (math.e if self.crossing.n is None else self.crossing.n))


def crossover_ratio(gain: ArrayLike, price: ArrayLike) -> Array:
    """r = dlambda/dl, which orders crossovers: 0 where dlambda <= 0, infinite where dl <= 0.

    Where dl is exactly zero the simpler solution wins, as in `theory.crossover`: 0 for dlambda < 0, else infinite.
    """
    dl, dlambda = np.broadcast_arrays(np.asarray(gain, np.float64), np.asarray(price, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(dlambda > 0, dlambda / dl, 0.0)
    return np.where((dl < 0) | ((dl == 0) & (dlambda >= 0)), math.inf, ratio)


def as_solutions(
    gain: float, price: float, price_error: float, names: tuple[str, str], *, per: float = 1.0
) -> tuple[Solution, Solution]:
    """A (simple, accurate) pair with these differences; `crossover` and `preference` read nothing else.

    Given as differences, because the errors of the two LLCs may be correlated. per : size of the unit of n.
    """
    simple = Solution(max(gain, 0.0) * per, max(-price, 0.0), name=names[0])
    accurate = Solution(max(-gain, 0.0) * per, max(price, 0.0), llc_error=price_error, name=names[1])
    return simple, accurate


def predict(records: Sequence[RunRecord], definition: str) -> list[Prediction]:
    """Predictions for the runs of finite M that have what the definition needs, in the order given.

    "ideal" needs an LLC at the end of the run and of the run at M = infinity with the same seed; "within run" an inner
    minimum of the out-of-distribution loss and an LLC there and at the end.
    """
    controls = {record.seed: record for record in records if not record.finite}
    found = []
    for record in records:
        if record.finite and (one := _predict(record, controls[record.seed], definition)) is not None:
            found.append(one)
    return found


def _predict(record: RunRecord, control: RunRecord, definition: str) -> Prediction | None:
    assert record.gap is not None
    generator = numpy_generator(record.seed, "crossover: ideal losses", int(record.num_tasks))
    gain, gain_error = record.gap.value * record.nats, record.gap.standard_error * record.nats
    gain_draws = gain + gain_error * generator.standard_normal(DRAWS)
    if definition == "ideal":
        (last, last_error), (ridge, ridge_error) = _end(record), _end(control)
        price, price_error = last - ridge, math.hypot(last_error, ridge_error)
        price_draws = _end_draws(record) - _end_draws(control)
    elif definition == "within run":
        if record.t_crit == record.last_step:
            return None
        gain, gain_error, gain_draws = (
            record.nats * each for each in (record.fall, record.fall_error, record.fall_draws)
        )
        price, price_error = record.llc.change(record.t_crit, record.last_step)
        starts = np.where(np.isfinite(record.t_draws), record.t_draws, record.t_crit)
        price_draws = _end_draws(record) - _along(record.llc, starts)
    elif definition == "loss only":
        price, price_error, price_draws = 1.0, 0.0, np.ones(DRAWS)
    else:
        raise DataError(f"definition {definition!r}; known: {', '.join(DEFINITIONS)}")
    if not (math.isfinite(price) and math.isfinite(gain)):
        return None
    names = ("ridge", f"dMMSE_{record.num_tasks:.0f}")
    fine = _crossing(gain, gain_error, price, price_error, names, _FINE)
    return Prediction(
        record=record,
        definition=definition,
        gain=gain,
        gain_error=gain_error,
        price=price,
        price_error=price_error,
        ratio=float(crossover_ratio(gain, price)),
        ratio_interval=None if fine.interval is None else (_ratio_at(fine.interval[0]), _ratio_at(fine.interval[1])),
        ratio_draws=crossover_ratio(gain_draws, price_draws),
        crossing=None if definition == "loss only" else _crossing(gain, gain_error, price, price_error, names, 1.0),
    )


def _crossing(
    gain: float, gain_error: float, price: float, price_error: float, names: tuple[str, str], per: float
) -> Crossover:
    simple, accurate = as_solutions(gain, price, price_error, names, per=per)
    return crossover(simple=simple, accurate=accurate, loss_difference_error=gain_error * per)


def _ratio_at(n: float) -> float:
    """r of a crossover at n fine units: r = n / log n, and none at the lower end n = e of what `crossover` looks at."""
    if math.isinf(n):
        return math.inf
    return 0.0 if n <= math.e * (1 + 1e-9) else n / math.log(n) * _FINE


def _end(record: RunRecord) -> tuple[float, float]:
    return record.llc.at(record.last_step)


def _end_draws(record: RunRecord) -> Array:
    return record.llc.draws_at([record.last_step])[:, 0]


def _along(llc: SmoothLLC, steps: Array) -> Array:
    """Each draw's path at that draw's own step, [draw]."""
    unique, places = np.unique(steps, return_inverse=True)
    return llc.draws_at(unique)[np.arange(DRAWS), places]


def order_agreement(
    predictions: Sequence[Prediction], selection: str, *, by_tasks: bool = False, num_bootstrap: int = 4000
) -> RankAgreement | None:
    """Rank agreement of predicted with observed crossovers, seeds as groups; None with fewer than 3 runs.

    selection : a key of `SELECTIONS`. by_tasks : rank the runs by M itself instead, without any theory.
    """
    kept = [one for one in predictions if SELECTIONS[selection](one.record)]
    if len(kept) < 3:
        return None
    return rank_agreement(
        [one.record.num_tasks if by_tasks else one.ratio for one in kept],
        [one.record.observed for one in kept],
        [one.record.seed for one in kept],
        predicted_draws=None if by_tasks else np.stack([one.ratio_draws for one in kept], axis=1),
        observed_draws=np.stack([one.record.t_draws for one in kept], axis=1),
        num_bootstrap=num_bootstrap,
    )


def fitted_scale(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """One factor c for all runs in t_crit = c r: geometric mean, residual scatter, and that of no prediction at all.

    Runs whose t_crit is censored or whose r is 0 or infinite have no place on the logarithmic scale and are counted.
    scatter_dex and scatter_of_t_crit_dex are standard deviations of log10; without the first below the second, one
    and the same t_crit for all runs would do as well. sequences_per_ratio : c times the batch size.
    """
    kept = [one for one in predictions if math.isfinite(one.record.observed) and 0 < one.ratio < math.inf]
    found: dict[str, Any] = {"runs": len(kept), "left_out": len(predictions) - len(kept)}
    if len(kept) < 2:
        return {
            **found,
            "factor": None,
            "scatter_dex": None,
            "scatter_of_t_crit_dex": None,
            "sequences_per_ratio": None,
        }
    times = np.log10([max(one.record.t_crit, 1) for one in kept])
    residual = times - np.log10([one.ratio for one in kept])
    factor = float(10 ** residual.mean())
    return {
        **found,
        "factor": factor,
        "scatter_dex": float(residual.std(ddof=1)),
        "scatter_of_t_crit_dex": float(times.std(ddof=1)),
        "sequences_per_ratio": factor * kept[0].record.batch_size,
    }


def llc_changes(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """How lambda_hat changes across the crossover of every run with an inner minimum, and in the control meanwhile.

    Windows: "to the end", from t_crit to the last step; "one octave", from t_crit to 2 t_crit. The control is the run
    at M = infinity with the same seed over the same steps; where it is shorter, run and control are both taken to its
    end, and `stop` says so. `log_ratio` compares shares instead of differences: the log of the factor by which
    lambda_hat changes, less that of the control.
    """
    controls = {record.seed: record for record in records if not record.finite}
    rows = []
    for record in records:
        if not record.finite or record.t_crit == record.last_step:
            continue
        control = controls[record.seed]
        for window, planned in (("to the end", record.last_step), ("one octave", 2 * record.t_crit)):
            stop = min(planned, record.last_step)
            shared = min(stop, control.last_step)
            change, error = record.llc.change(record.t_crit, stop)
            row: dict[str, Any] = {
                "seed": record.seed,
                "M": record.num_tasks,
                "status": record.status,
                "window": window,
                "start": record.t_crit,
                "stop": stop,
                "change": change,
                "error": error,
                "z": _z(change, error),
                "sign": None if math.isnan(change) else int(np.sign(change)),
                "cut_short": stop < planned,
                "shared_stop": shared,
            }
            here, here_error = record.llc.change(record.t_crit, shared) if shared > record.t_crit else (math.nan,) * 2
            there, there_error = (
                control.llc.change(record.t_crit, shared) if shared > record.t_crit else (math.nan,) * 2
            )
            difference, both = here - there, math.hypot(here_error, there_error)
            growth = [_log_growth(each, record.t_crit, shared) for each in (record, control)]
            rows.append(
                row
                | {"shared_change": here, "shared_error": here_error, "control": there, "control_error": there_error}
                | {"difference": difference, "difference_error": both, "difference_z": _z(difference, both)}
                | {"log_ratio": growth[0] - growth[1]}
            )
    return rows


def _log_growth(record: RunRecord, start: int, stop: int) -> float:
    """log of lambda_hat at `stop` over that at `start`; NaN where one is missing or not positive."""
    first, last = record.llc.at(start)[0], record.llc.at(stop)[0]
    return math.log(last / first) if first > 0 and last > 0 else math.nan


def pooled_changes(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over the runs of each seed, then mean and standard error over seeds, for each window and quantity.

    interval : 90%, Student's t with (seeds - 1) degrees of freedom: with three seeds 2.9 standard errors either way.
    """
    found = []
    for window in ("to the end", "one octave"):
        for runs in ("all with an inner minimum", "transient"):
            chosen = [row for row in rows if row["window"] == window and (runs != "transient" or row["status"] == runs)]
            for quantity in ("change", "shared_change", "control", "difference", "log_ratio"):
                by_seed: dict[int, list[float]] = {}
                for row in chosen:
                    if math.isfinite(row[quantity]):
                        by_seed.setdefault(row["seed"], []).append(row[quantity])
                means = np.array([np.mean(values) for values in by_seed.values()])
                entry: dict[str, Any] = {"window": window, "runs_of": runs, "quantity": quantity, "seeds": len(means)}
                entry |= {"runs": sum(map(len, by_seed.values())), "mean": float(means.mean()) if len(means) else None}
                entry |= {"rising": sum(value > 0 for values in by_seed.values() for value in values)}
                error = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else None
                reach = None if error is None else error * float(stats.t.ppf(0.95, len(means) - 1))
                interval = None if reach is None else [entry["mean"] - reach, entry["mean"] + reach]
                found.append(entry | {"standard_error": error, "interval": interval, "by_seed": means.tolist()})
    return found


def _z(value: float, error: float) -> float:
    return value / error if error > 0 else math.nan
