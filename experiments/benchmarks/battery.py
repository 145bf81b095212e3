"""Known answers: are estimates right, and do those that are right call themselves converged, and no others?

    python experiments/benchmarks/battery.py [--only TEXT] [--ways WAY ...] [--seeds SEED ...] [--out rows.jsonl]

Each problem of `battery_problems` is estimated in several ways: two that someone might choose by hand (`malt`, `sgld`),
four bad ones (a step ten times too large, too few draws, gamma too small to explore, batches of 4), and at the defaults
of `ld.calibrate`. The value is the exact one at the resolution of the estimate. Right: within 2 total errors of it.
Wrong: off by more than 3, or by more than 20%. Bars: 90% of the right ones are converged; 95% of those off by more
than 3 errors are not; none is off by more than 20% and converged.

An estimate whose own error is above 20% is not believed on purpose, however close it comes by luck: the table has the
share of all right ones, and of those that are precise as well. Seeds 0 to 2 were used to set the limits of the verdict;
report others.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import integrals
import numpy as np
import torch
from battery_problems import problems
from common import Row, command_line, fill, markdown_head, markdown_row
from known_answers import Known

import llc_dynamics as ld
from llc_dynamics.llc import Calibration, EstimateSettings

RIGHT, WRONG, FAR, IMPRECISE = 2.0, 3.0, 0.2, 0.2


def by_hand(problem: Known, **others: Any) -> EstimateSettings:
    """What all ways by hand share: eight chains as one batch of work, the default nbeta."""
    common: dict[str, Any] = {"num_chains": 8, "chain_method": "vmap", "batch_size": problem.batch_size}
    return EstimateSettings(**{**common, "num_samples": problem.num_samples, **others})


def malt(problem: Known, **others: Any) -> EstimateSettings:
    """Its step finds itself. A given loss needs all the data."""
    if problem.loss == "given":
        others.setdefault("batch_size", len(problem.data[0]))
    kernel = ld.MALT(localization=problem.gamma, num_steps=4)
    return by_hand(problem, sampler=kernel, num_burnin=60, num_draws=200, **others)


def sgld(problem: Known, step: float = 1.0, gamma: float = 1.0, **others: Any) -> EstimateSettings:
    """A thirteenth of the stability limit in the stiffest direction, and these multiples of that step and of gamma."""
    eps = 0.3 * step / (problem.nbeta * problem.stiff + problem.gamma)
    counts = {"num_burnin": 300, "num_draws": 300, "steps_per_draw": 3}
    return by_hand(problem, sampler=ld.SGLD(eps, localization=gamma * problem.gamma), **{**counts, **others})


@functools.cache
def calibrated(problem: Known) -> Calibration:
    return ld.calibrate(
        problem.model(), problem.loss_fn, problem.data, num_samples=problem.num_samples, batch_size=problem.batch_size
    )


WAYS: dict[str, Callable[[Known], EstimateSettings | Calibration]] = {
    "malt": malt,
    "sgld": sgld,
    "step x 10": functools.partial(sgld, step=10.0),
    "few draws": functools.partial(sgld, num_burnin=50, num_draws=60, steps_per_draw=1),
    "gamma / 30": functools.partial(sgld, gamma=1 / 30),
    "batches of 4": functools.partial(sgld, batch_size=4),
    "calibrated": calibrated,
}
BAD = ("step x 10", "few draws", "gamma / 30", "batches of 4")


def measure(cell: Row) -> Row:
    problem = next(each for each in problems() if each.name == cell["problem"])
    return estimated(problem, cell["way"], cell["seed"])


def estimated(problem: Known, way: str, seed: int) -> Row:
    """One estimate beside the value at its resolution."""
    start = time.process_time()
    try:
        settings = WAYS[way](problem)
        found = ld.estimate_llc(problem.model(), problem.loss_fn, problem.data, settings=settings, seed=seed)
    except ld.LLCDynamicsError as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    seconds = time.process_time() - start
    try:
        exact = problem.value(found.nbeta, found.localization)
    except integrals.NotSettledError:
        exact = math.nan
    return {
        "class": problem.kind,
        "llc": found.llc,
        "standard_error": found.standard_error,
        "total_error": found.total_error,
        "exact": exact,
        "z": (found.llc - exact) / found.total_error if found.total_error else math.inf,
        "off": found.llc / exact - 1,
        "converged": found.converged,
        "reasons": [f"{reason.code}: {reason.text}" for reason in found.reasons],
        "notes": [note.code for note in found.notes],
        "gamma": found.localization,
        "kernel": type(getattr(settings, "settings", settings).sampler).__name__,
        "ess": found.ess,
        "r_hat": found.r_hat,
        "virial": found.virial,
        "virial_error": found.virial_error,
        "slope_gamma": [found.slope_gamma, found.slope_gamma_error],
        "seconds": seconds,
    }


def right(row: Row) -> bool:
    return abs(row["z"]) <= RIGHT


def precise(row: Row) -> bool:
    return row["total_error"] <= IMPRECISE * abs(row["llc"])


def wrong(row: Row) -> bool:
    return not abs(row["z"]) <= WRONG


def far(row: Row) -> bool:
    return not abs(row["off"]) <= FAR


def summary(rows: Iterable[Row]) -> Row:
    """Shares, as "share of how many". Left out: estimates that were refused, and those of which no chain survived."""
    known = [row for row in rows if not math.isnan(row.get("z", math.nan))]
    believed = [row for row in known if row["converged"]]

    def share(some: list[Row], converged: bool) -> str:
        count = sum(row["converged"] == converged for row in some)
        return f"{count / len(some):.0%} of {len(some)}" if some else "-"

    return {
        "estimates": len(known),
        "median |off|": float(np.median([abs(row["off"]) for row in known])) if known else math.nan,
        "right: converged": share([row for row in known if right(row)], True),
        "right, precise: converged": share([row for row in known if right(row) and precise(row)], True),
        "off by > 3 errors: not": share([row for row in known if wrong(row)], False),
        "off by > 20%, converged": sum(map(far, believed)),
    }


def show(rows: list[Row]) -> None:
    """Tables by way and by class, and what the verdict got wrong."""
    ways = [name for name in WAYS if any(row["way"] == name for row in rows)]
    kinds = list(dict.fromkeys(row.get("class", "?") for row in rows))
    groups = [("all", rows)]
    groups += [(name, [row for row in rows if row["way"] == name]) for name in ways]
    groups += [(kind, [row for row in rows if row.get("class") == kind]) for kind in kinds]
    print("\n" + markdown_head(["estimates by", *summary([])]))
    for name, some in groups:
        print(markdown_row([name, *summary(some).values()]))
    for row in rows:
        if "refused" in row:
            print(f"refused: {row['problem']}, {row['way']}: {row['refused'][:200]}")
        elif row["converged"] and (wrong(row) or far(row)):
            print(f"WRONG, CONVERGED: {described(row)}")
        elif right(row) and not row["converged"] and row["way"] not in BAD:
            print(f"right, not converged: {described(row)}\n    {'; '.join(row['reasons'])}")


def described(row: Row) -> str:
    return (
        f"{row['problem']} ({row['way']}, {row['kernel']}, seed {row['seed']}): {row['llc']:.4g} ± "
        f"{row['total_error']:.2g} for {row['exact']:.4g} (z {row['z']:+.1f}, {row['off']:+.0%}), "
        f"ESS {row['ess']:.0f}, virial {row['virial']:.3f} ± {row['virial_error']:.3f}"
    )


def main() -> None:
    parser = command_line(__doc__, out="a file for the rows, one JSON object a line; a second call goes on with it")
    parser.add_argument("--only", default="", help="problems whose class or name contains this")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 4, 5])
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [each for each in problems() if options.only in f"{each.kind}: {each.name}"]
    cells = [
        {"problem": each.name, "way": way, "seed": seed}
        for each in chosen
        for way in options.ways
        for seed in options.seeds
    ]
    path: Path | None = options.out
    show(fill(cells, path, measure))


if __name__ == "__main__":
    main()
