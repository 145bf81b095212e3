"""Write the metrics of all runs of a sweep as one CSV, for `data/`.

python experiments/transient_ridge/export_curves.py runs/small data/transient_ridge/small_seed0.csv
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from llc_dynamics.sweeps import find_runs
from llc_dynamics.trajectory import Trajectory


def metric(run: Trajectory, name: str) -> np.ndarray:
    """The metric at every stored step, NaN where the run has none."""
    return run.metrics(name) if name in run.metric_names else np.full(len(run.steps), np.nan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    runs = find_runs(arguments.folder)
    names = sorted({name for run in runs for name in run.metric_names})
    with arguments.out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["num_tasks", "step", *names])
        for run in runs:
            columns = [metric(run, name) for name in names]
            for row, step in enumerate(run.steps):
                values = (column[row] for column in columns)
                writer.writerow([run.config["task"]["num_tasks"], int(step), *(f"{value:.6g}" for value in values)])


if __name__ == "__main__":
    main()
