"""Coverage: how often the 95% interval of an estimate holds the value it is meant to hold.

    python experiments/benchmarks/coverage.py [--repetitions 200] [--only NAME] [--out coverage.json]

Each case is estimated so many times, each time with four chains of their own. The value to be held is the exact one;
for the network with minibatches that of a run of the same kernel with some hundred times the draws, whose error is
added to that of the interval. The last row stops by itself: at a standard error of 7% of the estimate, looked at after
50, 100, 200, ... draws.

Printed: the share of intervals that hold the value (bar: 90-98%), the mean and spread of the estimates, the mean
standard error (which should be the spread), the share of estimates that the verdict believes, and the draws.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from typing import Any

import numpy as np
import torch
from common import command_line, markdown_head, write_json

import llc_dynamics as ld
from llc_dynamics.llc import EstimateSettings, LLCResult, judged
from llc_dynamics.llc.stopping import good_enough
from llc_dynamics.llc.summary import summarise
from llc_dynamics.sampling import Chains, Kernel
from llc_dynamics.sampling.batches import make_batches
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.theory import (
    DeepLinearData,
    NormalCrossing,
    Quadratic,
    quadratic_llc,
    rank_minimal_network,
    squared_error,
)

CHAINS = 4
BAR = (0.90, 0.98)
CURVATURES = (1.0, 2.0, 5.0, 10.0)
TARGET, MOST_DRAWS = 0.07, 400


@dataclasses.dataclass(frozen=True)
class Case:
    """What is estimated, how, and the value that its intervals should hold (None: a long run tells).

    `num_draws` of each chain; with `stops`, the first look of a run that stops by itself.
    """

    name: str
    model: torch.nn.Module
    loss_fn: Any
    data: Any
    kernel: Kernel
    nbeta: float
    num_burnin: int
    num_draws: int
    exact: float | None = None
    batch_size: int | None = None
    num_samples: int | None = None
    stops: bool = False


def cases() -> list[Case]:
    """Three models, small enough for two hundred repetitions in a minute each."""
    quadratic = (Quadratic(CURVATURES), squared_error, (torch.zeros(3, 1), torch.zeros(3, len(CURVATURES))))
    quartic = (NormalCrossing([2]), squared_error, (torch.zeros(3, 1), torch.zeros(3, 1)))
    eps = 0.15
    sgld = ld.SGLD(eps, 1.0, 1.0)
    malt = ld.MALT(nbeta=1.0, localization=1.0, num_steps=4)
    value = quadratic_llc(CURVATURES, 1.0, 1.0)
    widths, rank, num_samples = (4, 3, 4), 1, 1000
    network = rank_minimal_network(widths, rank, seed=1)
    behavioural = ld.behavioural(lambda model, batch: model(batch[0]) * math.sqrt(widths[-1] / 2))
    return [
        Case("quadratic, SGLD", *quadratic, sgld, 1.0, 40, 150, value),
        Case("quadratic, MALT", *quadratic, malt, 1.0, 60, 60, value),
        Case("w^4, HMC", *quartic, ld.HMC(0.5, 1.0, 0.0, num_steps=4), 1.0, 30, 200, 0.25),
        Case(
            f"deep linear {widths}, rank {rank}, MALT",
            network,
            behavioural,
            DeepLinearData(network.product().detach()),
            ld.MALT(localization=10.0, num_steps=8),
            num_samples / math.log(num_samples),
            80,
            100,
            batch_size=64,
            num_samples=num_samples,
        ),
        Case(
            "quadratic, SGLD, stops",
            *quadratic,
            sgld,
            1.0,
            40,
            50,
            value,
            stops=True,
        ),
    ]


def sampled(case: Case, num_chains: int, num_draws: int, seed: int) -> Chains:
    """Chains of a case, all as one batch of work."""
    settings = EstimateSettings(
        sampler=dataclasses.replace(case.kernel, nbeta=case.nbeta),
        num_chains=num_chains,
        num_draws=num_draws,
        num_burnin=case.num_burnin,
        seed=seed,
        chain_method="vmap",
    )
    with FlatModel(case.model, case.loss_fn) as flat:
        batches = make_batches(case.data, case.batch_size, case.num_samples, torch.device("cpu"))
        chains = Chains(flat, batches, settings)
        chains.advance(num_draws)
    return chains


def part(chains: Chains, which: slice, num_draws: int) -> Chains:
    """The first draws of some chains (that all survived)."""
    traces = chains.traces
    if traces.failed:
        raise RuntimeError(f"chains died: {traces.failed}")
    taken: dict[str, Any] = {}
    for each in dataclasses.fields(traces):
        value = getattr(traces, each.name)
        if isinstance(value, np.ndarray):
            taken[each.name] = value[which] if value.ndim == 1 else value[which, :num_draws]
    some = copy.copy(chains)
    some.traces = dataclasses.replace(traces, **taken)
    return some


def result(chains: Chains) -> LLCResult:
    return judged(summarise(chains, chains.settings))


def estimated(case: Case, chains: Chains, which: slice) -> LLCResult:
    """The estimate of one repetition, stopped where a run to `TARGET` would have stopped."""
    draws = case.num_draws
    while True:
        found = result(part(chains, which, draws))
        if not case.stops or good_enough(found, TARGET) or draws >= MOST_DRAWS:
            return found
        draws = min(2 * draws, MOST_DRAWS)


def measure(case: Case, repetitions: int, seed: int = 0) -> dict[str, Any]:
    start = time.perf_counter()
    exact, exact_error = case.exact, 0.0
    if exact is None:
        long = result(sampled(case, 32 * CHAINS, 4 * case.num_draws, seed + 1))
        exact, exact_error = long.llc, long.standard_error
    chains = sampled(case, repetitions * CHAINS, MOST_DRAWS if case.stops else case.num_draws, seed)
    found = [estimated(case, chains, slice(at, at + CHAINS)) for at in range(0, repetitions * CHAINS, CHAINS)]
    held = 0
    for each in found:
        low, high = each.interval(0.95)
        # the uncertainty of a value that is itself estimated widens the interval it is compared with
        half = math.hypot((high - low) / 2, 1.96 * exact_error)
        held += abs(each.llc - exact) < half
    estimates = np.array([each.llc for each in found])
    return {
        "case": case.name,
        "value": exact,
        "value_error": exact_error,
        "coverage": held / repetitions,
        "mean": float(estimates.mean()),
        "spread": float(estimates.std(ddof=1)),
        "standard_error": float(np.mean([each.standard_error for each in found])),
        "converged": float(np.mean([each.converged for each in found])),
        "reasons": sorted({reason.code for each in found for reason in each.reasons}),
        "draws": float(np.mean([each.trace.shape[1] for each in found])),
        "repetitions": repetitions,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = command_line(__doc__, out="a JSON file for the rows")
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    names = ("case", "value", "coverage", "mean", "spread", "standard error", "converged", "draws", "s")
    print(markdown_head(names))
    for case in cases():
        if arguments.only not in case.name:
            continue
        row = measure(case, arguments.repetitions, arguments.seed)
        rows.append(row)
        met = "" if BAR[0] <= row["coverage"] <= BAR[1] else " MISSED"
        value = f"{row['value']:.4g}" + (f" ± {row['value_error']:.1g}" if row["value_error"] else "")
        print(
            f"| {row['case']} | {value} | {row['coverage']:.1%}{met} | {row['mean']:.4g} | {row['spread']:.2g} | "
            f"{row['standard_error']:.2g} | {row['converged']:.0%} | {row['draws']:.0f} | {row['seconds']:.0f} |",
            flush=True,
        )
    write_json(arguments.out, {"bar": BAR, "chains": CHAINS, "rows": rows})


if __name__ == "__main__":
    main()
