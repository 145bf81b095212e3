"""What each way of keeping weights costs and saves, on the checkpoints of a real run.

    python experiments/benchmarks/storage.py RUN [--folder DIR] [--rounds N]

The weights of RUN are recorded again with every `WeightStorage`, several times, and read back in order and in a random
one. Printed are bytes a checkpoint, how many times smaller than raw that is, milliseconds a checkpoint for writing
(with fsync) and reading, and the largest error of a weight relative to the largest weight of its tensor.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import command_line

import llc_dynamics as ld
from llc_dynamics.trajectory import WeightStorage

WAYS = [WeightStorage(), WeightStorage("float16"), WeightStorage("bfloat16")]


def measure(states: list[dict[str, torch.Tensor]], way: WeightStorage, folder: Path, rounds: int) -> dict[str, float]:
    model = dict(states[0])
    found: dict[str, list[float]] = {"write": [], "read": [], "random": []}
    order = np.random.default_rng(0).permutation(len(states))
    for _ in range(rounds):
        path = folder / "run"
        start = time.perf_counter()
        with ld.TrajectoryWriter(path, model, storage=way) as writer:
            for step, state in enumerate(states):
                model.update(state)
                writer.record(step)
        found["write"].append(time.perf_counter() - start)
        for name, steps in (("read", range(len(states))), ("random", order)):
            run = ld.Trajectory(path)
            start = time.perf_counter()
            for step in steps:
                run.state_dict(int(step))
            found[name].append(time.perf_counter() - start)
        size = sum(shard.stat().st_size for shard in (path / "shards").glob("*.h5"))
        stored = run.state_dict(len(states) - 1)
        shutil.rmtree(path)
    errors = [
        float((stored[name] - tensor).abs().max() / tensor.abs().max())
        for name, tensor in states[-1].items()
        if tensor.is_floating_point() and tensor.abs().max() > 0
    ]
    times = {name: float(np.median(values)) / len(states) * 1e3 for name, values in found.items()}
    return {"bytes": size / len(states), "error": max(errors), **times}


def main() -> None:
    parser = command_line(__doc__, folder=True, rounds=3)
    parser.add_argument("run", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = ld.Trajectory(arguments.run)
    states = [run.state_dict(int(step)) for step in run.weight_steps]
    numbers = sum(tensor.numel() for tensor in states[0].values())
    print(f"{len(states)} checkpoints of {numbers:,} numbers; milliseconds a checkpoint")
    raw = None
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for way in WAYS:
            found = measure(states, way, Path(folder), arguments.rounds)
            raw = found["bytes"] if raw is None else raw
            print(
                f"{way.dtype:10} {found['bytes']:>12,.0f} bytes, {raw / found['bytes']:5.2f} times smaller; "
                f"write {found['write']:.2f}, read {found['read']:.2f}, in random order {found['random']:.2f}; "
                f"error {found['error']:.1e}"
            )


if __name__ == "__main__":
    main()
