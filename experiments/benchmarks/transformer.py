"""A trained in-context transformer: is the chain in equilibrium, and does the estimate stay where it is?

    llc-dynamics train transient_ridge/demo --out RUNS
    python experiments/benchmarks/transformer.py RUNS/M-12 --out RESULTS

At three checkpoints and localisations over three decades: the virial ratio overall and by block, the halves of the
chains, and the estimate again with chains four times as long, half the step and four times the batch; SGLD with the
same number of gradients on the given loss and on the behavioural one beside it. Rows go to RESULTS/transformer.jsonl as
they are made; a second call goes on.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from common import Row, command_line, fill

import llc_dynamics as ld
from llc_dynamics.llc import EstimateSettings, Problem
from llc_dynamics.llc.diagnostics import change_between_halves
from llc_dynamics.llc.estimate import estimate
from llc_dynamics.training import load_config

# Largest curvature of the behavioural loss over the checkpoints: what `ld.calibrate` finds, rounded up.
CURVATURE = 120.0
STEP = 0.35
NUM_SAMPLES = 1000


def settings_for(gamma: float, batch_size: int, length: float = 1.0, factor: float = 1.0) -> dict[str, Any]:
    """MALT as `calibrate` sets it up, with `length` times the draws and `factor` times the step."""
    nbeta = NUM_SAMPLES / math.log(NUM_SAMPLES)
    passage = max(math.sqrt(nbeta * CURVATURE / gamma + 1) / STEP / factor, 8.0)
    steps = int(min(max(passage / 4, 4), 16))
    sampler = ld.MALT(
        nbeta=nbeta, localization=gamma, num_steps=steps, updates_per_batch=math.ceil(6 * passage / steps)
    )
    return {
        "sampler": sampler if factor == 1 else sampler.with_step(factor),
        "num_chains": 2,
        "num_burnin": max(12, math.ceil(4 * passage / steps)),
        "num_draws": math.ceil(max(48, 14 * passage / steps) * length),
        "batch_size": batch_size,
        "num_samples": NUM_SAMPLES,
    }


def sgld_for(base: dict[str, Any], gamma: float, gradients: int) -> dict[str, Any]:
    """SGLD with the same gradients: a third of them burn-in, the step a fifth of the stability limit."""
    nbeta = base["sampler"].nbeta
    return base | {
        "sampler": ld.SGLD(0.8 / (nbeta * CURVATURE + gamma), nbeta, gamma),
        "num_burnin": gradients // 3,
        "num_draws": max(4, (gradients - gradients // 3) // 4),
        "steps_per_draw": 4,
    }


def trials(system: ld.System, gamma: float, size: int) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Loss and settings of every estimate that is made at a localisation, by name."""
    behavioural, base = ld.behavioural(system.outputs), settings_for(gamma, size)
    gradients = (base["num_burnin"] + base["num_draws"]) * base["sampler"].num_steps
    return {
        "base": (behavioural, base),
        "SGLD, behavioural": (behavioural, sgld_for(base, gamma, gradients)),
        "SGLD, given": (system.loss, sgld_for(base, gamma, gradients)),
        "half the step": (behavioural, settings_for(gamma, size, factor=0.5)),
        "4 times as long": (behavioural, settings_for(gamma, size, length=4.0)),
        "4 times the batch": (behavioural, settings_for(gamma, 4 * size)),
    }


def row_of(result: ld.LLCResult) -> Row:
    blocks = result.virial_by_block
    change, error = change_between_halves(result.trace)
    return {
        "llc": result.llc,
        "standard_error": result.standard_error,
        "inside": float(result.trace.mean()),
        "batch_gap": result.batch_gap,
        "virial": result.virial,
        "virial_error": result.virial_error,
        "lowest": min(blocks.values()),
        "lowest_error": result.virial_by_block_error[min(blocks, key=blocks.__getitem__)],
        "highest": max(blocks.values()),
        "highest_error": result.virial_by_block_error[max(blocks, key=blocks.__getitem__)],
        "halves": change / error if error else math.nan,
        "gradient_kinetic": result.gradient_kinetic,
        "acceptance": result.acceptance,
        "gradients": result.num_gradients,
        "converged": result.converged,
        "reasons": [reason.code for reason in result.reasons],
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 2500, 6000])
    parser.add_argument("--gammas", type=float, nargs="+", default=[300.0, 3000.0, 30000.0, 30.0])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "transformer.jsonl"
    run = ld.Trajectory(options.run)
    config = load_config(run)
    model = config.system.build(config.seed)

    def measure(cell: Row) -> Row:
        loss, settings = trials(config.system, cell["gamma"], options.batch_size)[cell["trial"]]
        start = time.perf_counter()
        problem = Problem(model, loss, config.system.sample).at(run, cell["step"])
        result = estimate(problem, EstimateSettings(seed=1, **settings))
        return {**row_of(result), "seconds": time.perf_counter() - start}

    rows = fill(
        [
            {"step": step, "gamma": gamma, "trial": trial}
            for gamma in options.gammas
            for step in options.steps
            for trial in trials(config.system, gamma, options.batch_size)
        ],
        path,
        measure,
    )
    show(rows)


def show(rows: list[Row]) -> None:
    head = ("step", "gamma", "trial", "LLC", "error", "change", "virial", "blocks", "halves")
    print("{:>6}{:>8}  {:<20}{:>8}{:>7}{:>8}{:>8}{:>12}{:>8}".format(*head))
    for row in sorted(rows, key=lambda row: (row["step"], row["gamma"])):
        base = next(r for r in rows if (r["step"], r["gamma"], r["trial"]) == (row["step"], row["gamma"], "base"))
        change = "" if row is base else f"{100 * (row['llc'] / base['llc'] - 1):+.1f}%"
        blocks = f"{row['lowest']:.2f}-{row['highest']:.2f}"
        print(
            f"{row['step']:>6}{row['gamma']:>8.0f}  {row['trial']:<20}{row['llc']:>8.2f}{row['standard_error']:>7.2f}"
            f"{change:>8}{row['virial']:>8.3f}{blocks:>12}{row['halves']:>8.1f}  {'; '.join(row['reasons'])[:60]}"
        )


if __name__ == "__main__":
    main()
