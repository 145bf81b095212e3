"""Write the metrics of all runs of a sweep as one CSV, for `data/`.

python experiments/transient_ridge/export_curves.py runs/small data/transient_ridge/small_seed0.csv
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from llc_dynamics.sweeps import find_runs
from llc_dynamics.systems.description import description_of
from llc_dynamics.trajectory import Trajectory

METRICS = [
    *(f"distance/{probe}/{reference}" for probe in ("id", "ood") for reference in ("dmmse", "ridge")),
    *("loss/id", "loss/ood", "train_loss"),
]
SAMPLED = "loss/ood"


def metric(run: Trajectory, name: str) -> np.ndarray:
    """The metric at every stored step, NaN where the run has none."""
    return run.metrics(name) if name in run.metric_names else np.full(len(run.steps), np.nan)


def standard_error(run: Trajectory, name: str) -> np.ndarray:
    """Of the metric over its sequences, at every stored step."""
    samples = run.samples(name)
    return samples.std(axis=1, ddof=1, dtype=np.float64) / np.sqrt(samples.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    runs = find_runs(arguments.folder)
    with arguments.out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["num_tasks", "step", *METRICS, f"standard_error/{SAMPLED}"])
        for run in runs:
            columns = [*(metric(run, name) for name in METRICS), standard_error(run, SAMPLED)]
            axis = description_of(run).axis
            assert axis is not None
            for row, step in enumerate(run.steps):
                values = (column[row] for column in columns)
                writer.writerow([axis.value, int(step), *(f"{value:.6g}" for value in values)])


if __name__ == "__main__":
    main()
