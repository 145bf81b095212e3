"""Cost of one checkpoint: `TrajectoryWriter` beside a plain numpy write of the same bytes, both with fsync.

    python experiments/benchmarks/writing.py [--folder DIR] [--shards N]

For models of 100,000 and 3,000,000 float32 parameters, N shards of the default size are written in turn with N plain
files of the same bytes, in the same folder. Printed are milliseconds per checkpoint (median over the shards, and the
worst), what of it was spent in `record` (copy) and in `seal` (checksums, write, fsync), and the reading speed. DIR must
lie on the disk that is to be measured; a memory file system makes fsync free.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import llc_dynamics as ld

BARS = {100_000: 10.0, 3_000_000: 30.0}


class Weights(torch.nn.Module):
    """As many parameters as wanted, in tensors of a transformer's usual sizes."""

    def __init__(self, num_parameters: int) -> None:
        super().__init__()
        sizes = [num_parameters // 30] * 29
        sizes.append(num_parameters - sum(sizes))
        self.parts = torch.nn.ParameterList([torch.randn(size) for size in sizes])


def plain_write(path: Path, rows: list[np.ndarray]) -> float:
    start = time.perf_counter()
    with path.open("wb", buffering=0) as stream:
        for row in rows:
            stream.write(row.data)
        os.fsync(stream.fileno())
    return time.perf_counter() - start


def touch_memory(path: Path, num_bytes: int) -> None:
    """Write and remove a scratch file, so that neither side pays for memory that the machine has yet to hand out."""
    block = np.ones(4 << 20, np.uint8)
    with path.open("wb", buffering=0) as stream:
        for _ in range(num_bytes // block.nbytes + 1):
            stream.write(block.data)
    path.unlink()


def measure(folder: Path, num_parameters: int, shards: int) -> None:
    model = Weights(num_parameters)
    flat = np.concatenate([part.detach().numpy() for part in model.parts])
    record, seal, plain = [], [], []
    path = folder / f"run-{num_parameters}"
    with ld.TrajectoryWriter(path, model, config={"num_parameters": num_parameters}) as writer:
        rows = writer.rows_per_shard
        step = 0
        touch_memory(folder / "scratch", 2 * (shards + 1) * rows * flat.nbytes)
        # The first shard warms up caches and memory.
        for shard in range(shards + 1):
            copies = [flat.copy() for _ in range(rows)]
            elapsed = plain_write(folder / f"plain-{num_parameters}-{shard}", copies)
            start = time.perf_counter()
            for _ in range(rows):
                writer.record(step, metrics={"train_loss": 1.0, "ood_loss": 2.0})
                step += 1
            recorded = time.perf_counter()
            writer.seal()
            sealed = time.perf_counter()
            if shard:
                record.append((recorded - start) / rows * 1e3)
                seal.append((sealed - recorded) / rows * 1e3)
                plain.append(elapsed / rows * 1e3)
    total = np.array(record) + np.array(seal)
    run = ld.Trajectory(path)
    start = time.perf_counter()
    for stored in run.steps:
        run.state_dict(int(stored))
    reading = (time.perf_counter() - start) / len(run) * 1e3
    start = time.perf_counter()
    for shard in range(shards + 1):
        np.fromfile(folder / f"plain-{num_parameters}-{shard}", np.float32)
    plain_reading = (time.perf_counter() - start) / len(run) * 1e3
    median, bar = float(np.median(total)), BARS[num_parameters]
    print(
        f"{num_parameters:>9,} parameters, {rows:>2} rows a shard: {median:6.2f} ms a checkpoint "
        f"(worst {total.max():.2f}; record {np.median(record):.2f} + seal {np.median(seal):.2f}); "
        f"bar {bar:g} ms: {'met' if median <= bar else 'MISSED'}"
    )
    print(
        f"{'':>10}plain numpy write + fsync: {np.median(plain):6.2f} ms; speed of it: {np.median(plain) / median:.0%}"
    )
    print(f"{'':>10}reading: state_dict {reading:.2f} ms, plain numpy read {plain_reading:.2f} ms (both from cache)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one in it is used and removed")
    parser.add_argument("--shards", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for num_parameters in BARS:
            measure(Path(folder), num_parameters, arguments.shards)


if __name__ == "__main__":
    main()
