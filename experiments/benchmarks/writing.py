"""Cost of one checkpoint: `TrajectoryWriter` beside a plain numpy write of the same bytes, both with fsync.

    python experiments/benchmarks/writing.py [--folder DIR] [--shards N]

For models of 100,000 and 3,000,000 float32 parameters, N shards of the default size are written in turn with N plain
files of the same bytes, in the same folder. Printed are milliseconds per checkpoint (median over the shards, and the
worst), what of it was spent in `record` (copy) and in `seal` (checksums, write, fsync), and the reading speed. DIR must
lie on the disk that is to be measured; a memory file system makes fsync free. On a machine that is busy with other
things compare the processor times, which change less.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import command_line

import llc_dynamics as ld

BARS = {100_000: 10.0, 3_000_000: 30.0}


class Weights(torch.nn.Module):
    """As many parameters as wanted, in tensors of a transformer's usual sizes."""

    def __init__(self, num_parameters: int) -> None:
        super().__init__()
        sizes = [num_parameters // 30] * 29
        sizes.append(num_parameters - sum(sizes))
        self.parts = torch.nn.ParameterList([torch.randn(size) for size in sizes])


def plain_write(path: Path, rows: list[np.ndarray]) -> None:
    with path.open("wb", buffering=0) as stream:
        for row in rows:
            stream.write(row.data)
        os.fsync(stream.fileno())


def measure(folder: Path, num_parameters: int, shards: int) -> None:
    model = Weights(num_parameters)
    flat = np.concatenate([part.detach().numpy() for part in model.parts])
    names = ("record", "seal", "cpu", "plain", "plain_cpu", "read", "plain_read")
    times: dict[str, list[float]] = {name: [] for name in names}
    rows = 0
    for _ in range(shards):
        # Every round is a run of its own and removed again, so that both sides write to memory (page cache) that is in
        # use already; its first shard fills the writer's buffer for the same reason.
        path = folder / "run"
        with ld.TrajectoryWriter(path, model, config={"num_parameters": num_parameters}) as writer:
            rows = writer.rows_per_shard
            copies = [flat.copy() for _ in range(rows)]
            for first_step in (0, rows):
                plain = folder / f"plain-{first_step}"
                clock = [(time.perf_counter(), time.process_time())]
                plain_write(plain, copies)
                clock.append((time.perf_counter(), time.process_time()))
                for step in range(first_step, first_step + rows):
                    writer.record(step, metrics={"train_loss": 1.0, "ood_loss": 2.0})
                clock.append((time.perf_counter(), time.process_time()))
                writer.seal()
                clock.append((time.perf_counter(), time.process_time()))
        wall, busy = np.diff(np.array(clock), axis=0).T / rows * 1e3
        start = time.perf_counter()
        np.fromfile(plain, np.float32)
        plain_read = time.perf_counter() - start
        run = ld.Trajectory(path)
        start = time.perf_counter()
        for stored in run.steps:
            run.state_dict(int(stored))
        read = (time.perf_counter() - start) / 2
        for name, value in zip(
            times,
            (wall[1], wall[2], busy[1] + busy[2], wall[0], busy[0], read / rows * 1e3, plain_read / rows * 1e3),
            strict=True,
        ):
            times[name].append(float(value))
        shutil.rmtree(path)
        for written in folder.glob("plain-*"):
            written.unlink()
    middle = {name: float(np.median(values)) for name, values in times.items()}
    total = np.array(times["record"]) + np.array(times["seal"])
    median, bar = float(np.median(total)), BARS[num_parameters]
    verdict = "met" if median <= bar else "MISSED"
    parts = f"record {middle['record']:.2f} + seal {middle['seal']:.2f}; worst shard {total.max():.2f}"
    print(f"{num_parameters:>9,} parameters, {rows} rows a shard: {median:.2f} ms a checkpoint ({parts})")
    print(f"{'':>10}bar {bar:g} ms: {verdict}")
    share = middle["plain"] / median
    print(f"{'':>10}plain numpy write + fsync: {middle['plain']:.2f} ms, so {share:.0%} of its speed")
    print(f"{'':>10}on the processor: {middle['cpu']:.2f} ms, plain {middle['plain_cpu']:.2f} ms")
    print(f"{'':>10}reading from cache: state_dict {middle['read']:.2f} ms, plain numpy {middle['plain_read']:.2f} ms")


def main() -> None:
    parser = command_line(__doc__, folder=True)
    parser.add_argument("--shards", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for num_parameters in BARS:
            measure(Path(folder), num_parameters, arguments.shards)


if __name__ == "__main__":
    main()
