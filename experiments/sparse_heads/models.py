"""Trains the models of the experiment, and measures them: heads, noise levels, depths, seeds.

    python experiments/sparse_heads/models.py --out RUNS/heads [--heads 1 4 8] [--sigmas .5 1] [--layers 3]
        [--attention linear softmax] [--seeds 3 4 5] [--preset full] [--workers 2]

Settings are those of the preset, `full` by default; seeds 0 to 2 served to choose them. A folder for each attention,
depth, noise level and seed, with a run for each number of heads; a call that was stopped goes on. What is measured of a
run is a row of `heads.jsonl`, made once; tables.py makes the tables of it. Of several depths and noise levels those are
trained that have three layers or sigma = 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from measured import CONTEXTS, measure

import llc_dynamics as ld
from llc_dynamics.rows import append_row, stored_rows
from llc_dynamics.sweeps import SweepConfig, load_sweep, run_sweep
from llc_dynamics.workers import Job, run_jobs


def cells(
    preset: SweepConfig,
    heads: Sequence[int] | None,
    sigmas: Sequence[float],
    layers: Sequence[int],
    attentions: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, SweepConfig]:
    """{folder: sweep over the numbers of heads}."""
    runs = preset.runs if heads is None else tuple({"num_heads": count} for count in heads)
    found = {}
    for seed in seeds:
        for attention in attentions:
            for depth in layers:
                for sigma in sigmas:
                    if len(layers) > 1 and len(sigmas) > 1 and depth != 3 and sigma != 1:
                        continue
                    system = replace(preset.system, sigma=sigma, num_layers=depth, attention=attention)  # type: ignore[type-var]
                    name = f"{attention}-L{depth}-sigma{sigma:g}-seed{seed}"
                    found[name] = replace(preset, system=system, runs=runs, seed=seed)
    return found


def measure_run(path: str, out: str, name: str, count: int) -> None:
    """In a worker: one row, unless it is there."""
    rows = Path(out)
    if all(row["run"] != name for row in stored_rows(rows)):
        append_row(rows, {"run": name, **measure(ld.Trajectory(path), count)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--preset", default="full", help="full, gpu, or the path of a file")
    parser.add_argument("--heads", nargs="+", type=int, help="by default those of the preset")
    parser.add_argument("--sigmas", nargs="+", type=float, default=[0.1, 0.5, 1.0])
    parser.add_argument("--layers", nargs="+", type=int, default=[3, 2, 4])
    parser.add_argument("--attention", nargs="+", default=["linear"], choices=["linear", "softmax"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 4, 5])
    parser.add_argument("--workers", type=int, help="processes; by default one for every core")
    parser.add_argument("--contexts", type=int, default=CONTEXTS, help="on which each model is measured")
    chosen = parser.parse_args()
    path = Path(chosen.preset)
    preset = load_sweep(path if path.suffix else Path(__file__).with_name(f"{chosen.preset}.toml"))
    for folder, sweep in cells(
        preset, chosen.heads, chosen.sigmas, chosen.layers, chosen.attention, chosen.seeds
    ).items():
        runs = run_sweep(sweep, chosen.out / folder, workers=chosen.workers)
        rows = str(chosen.out / "heads.jsonl")
        jobs = [
            Job(measure_run, (str(run), rows, f"{folder}/{run.name}", chosen.contexts), bar="measure", total=len(runs))
            for run in runs
        ]
        run_jobs(jobs, workers=1)  # they write to one file


if __name__ == "__main__":
    main()
