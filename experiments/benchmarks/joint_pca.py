"""Joint PCA of many runs: time and peak memory, beside reading the function vectors once with numpy.

    python experiments/benchmarks/joint_pca.py [--runs 34] [--folder DIR] [--in-memory]

Runs of 2,203 checkpoints with function vectors of 8,192 float32 numbers are made (34 of them are 2.45 GB) and fitted
from disk. The memory is the peak of the resident set during the fit less what it was before. `--in-memory` also
decomposes the whole matrix in memory (float64: 4.9 GB for 34 runs) and prints the largest relative difference of a
singular value.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import command_line, timed
from scipy.linalg import eigh

import llc_dynamics as ld

CHECKPOINTS, FEATURES = 2203, 8192


def record(path: Path, number: int) -> None:
    """A run that moves smoothly through 40 directions, which all runs share, with noise in all the others."""
    directions = np.random.default_rng(0).standard_normal((40, FEATURES), dtype=np.float32)
    noise = np.random.default_rng(number + 1)
    waves = np.arange(1, 41)
    time_line = np.linspace(0, np.pi, CHECKPOINTS)[:, None] * waves + number
    along = (10 * np.cos(time_line) / waves).astype(np.float32)
    with ld.TrajectoryWriter(path, torch.nn.Linear(1, 1), rows_per_shard=128) as writer:
        for step in range(CHECKPOINTS):
            vector = along[step] @ directions + 0.05 * noise.standard_normal(FEATURES, dtype=np.float32)
            writer.record(step, outputs=vector, weights=False)
        writer.finish()


def resident(name: str) -> int:
    """Bytes of the resident set (VmRSS), or its peak since it was set back (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def read_files(paths: list[Path]) -> None:
    for path in paths:
        for shard in sorted((path / "shards").glob("*.h5")):
            np.fromfile(shard, np.uint8)


def read_outputs(runs: list[ld.Trajectory]) -> None:
    for run in runs:
        outputs = run.outputs()
        for first in range(0, len(outputs), 128):
            outputs[first : first + 128]


def main() -> None:
    parser = command_line(__doc__, folder=True)
    parser.add_argument("--runs", type=int, default=34)
    parser.add_argument("--in-memory", action="store_true", help="compare with the whole matrix in memory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        paths = [Path(folder) / f"run-{number:02}" for number in range(arguments.runs)]
        for number, path in enumerate(paths):
            record(path, number)
        total = arguments.runs * CHECKPOINTS * FEATURES * 4
        plain, _ = timed(lambda: read_files(paths))
        runs = [ld.Trajectory(path) for path in paths]
        ours, _ = timed(lambda: read_outputs(runs))
        print(
            f"{arguments.runs} runs, {total / 1e9:.2f} GB; read once: plain numpy {plain:.1f} s, checked {ours:.1f} s"
        )
        ld.JointTrajectoryPCA(2).fit([np.random.default_rng(0).standard_normal((30, 40))])
        Path("/proc/self/clear_refs").write_text("5")
        before, pca = resident("VmRSS"), ld.JointTrajectoryPCA(4)
        took, worked = timed(lambda: pca.fit(runs))
        peak = resident("VmHWM") - before
        print(f"fit ({pca.solver_}): {took:.1f} s ({worked:.1f} s on the processor), peak {peak / 1e6:.0f} MB")
        print(f"that is {took / plain:.1f} plain reads; singular values {np.round(pca.singular_values_, 1)}")
        if arguments.in_memory:
            whole = np.concatenate([np.asarray(run.outputs()) for run in runs]).astype(np.float64)
            whole -= whole.mean(axis=0)
            squares = eigh(whole.T @ whole, eigvals_only=True, subset_by_index=(FEATURES - 4, FEATURES - 1))[::-1]
            difference = np.abs(pca.singular_values_ / np.sqrt(squares) - 1).max()
            print(f"largest relative difference from the matrix in memory: {difference:.1e}")


if __name__ == "__main__":
    main()
