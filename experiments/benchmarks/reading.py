"""Reading checkpoints one after the other: `Trajectory` beside a plain numpy read of the same bytes.

    python experiments/benchmarks/reading.py [--folder DIR] [--rounds N]

For rows of 100,000 and of 3,000,000 float32 weights, and of function vectors of 8,192 numbers, a run of several shards
is written, and next to it files of the same sizes. Both are read in turn: with the files in the system's cache, and
after it was asked to forget them. Ours checks every row against its checksum. `state_dict` gives tensors by name,
`load_into` puts them into a model, `outputs` gives the array. The plain side reads a file the size of a shard with
`numpy.fromfile`. Printed are megabytes a second, median over the rounds, by the wall clock and by processor time, which
a busy machine stretches less, and the ratio.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import command_line, timed
from writing import Weights

import llc_dynamics as ld


def forget(folder: Path) -> None:
    """Ask the system to drop the files of a folder from its cache; they have been fsynced."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(
    what: str,
    folder: Path,
    num_bytes: int,
    ours: dict[str, Callable[[], object]],
    plain: Callable[[], object],
    rounds: int,
) -> None:
    for cold in (False, True):
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ("plain", *ours)}
        for _ in range(rounds):
            for name, work in {"plain": plain, **ours}.items():
                if cold:
                    forget(folder)
                times[name].append(timed(work))
        where = "from disk " if cold else "from cache"
        for clock, seconds in enumerate(("wall clock", "processor ")):
            speeds = {n: num_bytes / float(np.median([t[clock] for t in found])) / 1e6 for n, found in times.items()}
            parts = [f"{name} {speeds[name]:,.0f} MB/s ({speeds[name] / speeds['plain']:.0%})" for name in ours]
            print(f"{what}, {where}, {seconds}: plain {speeds['plain']:,.0f} MB/s; {', '.join(parts)}")


def read_files(paths: list[Path]) -> None:
    for path in paths:
        np.fromfile(path, np.uint8)


def weights(folder: Path, num_parameters: int, num_rows: int, rounds: int) -> None:
    model = Weights(num_parameters)
    with ld.TrajectoryWriter(folder / "run", model) as writer:
        rows = writer.rows_per_shard
        for step in range(num_rows):
            writer.record(step)
    paths = copies(folder, sorted((folder / "run" / "shards").glob("*.h5")))
    run = ld.Trajectory(folder / "run")

    def state_dicts() -> None:
        for step in run.weight_steps:
            run.state_dict(int(step))

    def loads() -> None:
        for step in run.weight_steps:
            run.load_into(model, int(step))

    what = f"{num_parameters:,} weights a row, {rows} rows a shard"
    ours = {"state_dict": state_dicts, "load_into": loads}
    compare(what, folder, num_rows * num_parameters * 4, ours, lambda: read_files(paths), rounds)


def vectors(folder: Path, num_rows: int, rounds: int) -> None:
    generator = np.random.default_rng(0)
    with ld.TrajectoryWriter(folder / "run", torch.nn.Linear(1, 1)) as writer:
        for step in range(num_rows):
            writer.record(step, outputs=generator.standard_normal(8192, dtype=np.float32), weights=False)
    paths = copies(folder, sorted((folder / "run" / "shards").glob("*.h5")))
    run = ld.Trajectory(folder / "run")

    def blocks() -> None:
        outputs = run.outputs()
        for start in range(0, len(outputs), 128):
            outputs[start : start + 128]

    compare(
        "8,192 outputs a row, 32 rows a shard",
        folder,
        num_rows * 8192 * 4,
        {"outputs": blocks},
        lambda: read_files(paths),
        rounds,
    )


def copies(folder: Path, shards: list[Path]) -> list[Path]:
    """Files of the sizes of the shards, for the plain side, so that neither side warms the other's."""
    (folder / "plain").mkdir()
    made = []
    for shard in shards:
        path = folder / "plain" / shard.name
        path.write_bytes(shard.read_bytes())
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        made.append(path)
    return made


def main() -> None:
    parser = command_line(__doc__, folder=True, rounds=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for num_parameters, num_rows in ((100_000, 320), (3_000_000, 20)):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            weights(Path(folder), num_parameters, num_rows, arguments.rounds)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        vectors(Path(folder), 2203, arguments.rounds)


if __name__ == "__main__":
    main()
