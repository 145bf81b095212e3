"""How long a curve of 50 checkpoints takes, to a standard error of 5% each.

    llc-dynamics train transient_ridge/demo --out RUNS
    python experiments/benchmarks/curve.py RUNS/M-12 --workers 2

The behavioural loss at gamma = 1000, nbeta of n = 1000, batches of 32; SGLD, two chains of 264 updates. Prints the
time, the errors that were reached, of values and of changes between neighbours, and what speaks against points. The run
is left as it was.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import command_line

import llc_dynamics as ld
from llc_dynamics.finding import sentences
from llc_dynamics.training import load_config


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--localization", type=float, default=1000.0)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / options.run.name
        shutil.copytree(options.run, copy, ignore=shutil.ignore_patterns("llc"))
        run = ld.Trajectory(copy)
        config = load_config(run)
        stored = np.asarray(run.weight_steps)
        places = np.linspace(len(stored) * 0.2, len(stored) - 1, options.points).astype(int)
        start = time.perf_counter()
        curve = ld.llc_curve(
            run,
            config.system.build(config.seed),
            ld.behavioural(config.system.outputs),
            config.system.sample,
            steps=stored[places].tolist(),
            workers=options.workers,
            settings=ld.EstimateSettings(
                sampler=ld.SGLD(1e-4, localization=options.localization),
                num_chains=2,
                num_burnin=8,
                num_draws=64,
                steps_per_draw=4,
                batch_size=options.batch_size,
                num_samples=1000,
            ),
        )
        seconds = time.perf_counter() - start
    shares = curve.standard_errors / np.abs(curve.values)
    changes = [curve.difference(*pair).standard_error for pair in pairwise(curve.steps)]
    print(f"{len(curve.steps)} points in {seconds:.0f} s with {options.workers} workers")
    print(f"standard error / estimate: median {np.median(shares):.3f}, largest {shares.max():.3f}")
    print(f"error of a change to the next point / estimate: median {np.median(changes / np.abs(curve.values[1:])):.4f}")
    print(f"at or below 5%: {int((shares <= 0.05).sum())}; converged: {int(curve.converged.sum())}")
    for step, reasons in zip(curve.steps, curve.reasons, strict=True):
        if reasons:
            print(f"  step {step}: {sentences(reasons)[:140]}")


if __name__ == "__main__":
    main()
