"""What a point of a curve costs beside its gradients when it is a unit of work, by the size of the model.

    OMP_NUM_THREADS=1 python experiments/benchmarks/scaling.py

Sent: megabytes of a unit as another process gets it, with the model's weights and without those that the run stores.
Calls: of the loss, on one batch each, for a chain of no draws and for each draw of SGLD; and how often the weights of
the checkpoint are read. Then what an executor takes for a unit that does nothing.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import cloudpickle
import torch
from torch import nn

import llc_dynamics as ld
from llc_dynamics.executors import opened
from llc_dynamics.llc import EstimateSettings, Problem, llc_point
from llc_dynamics.llc.sending import Sent
from llc_dynamics.workers import executor_of, mapped

_WIDTH, _DRAWS, _UNITS = 1024, 10, 300


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        self.calls += 1
        return (model(batch[0]) - batch[1]).square().mean(1)


def measure(layers: int, behavioural: bool, folder: Path) -> str:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(layers)))
    with ld.TrajectoryWriter(folder, model, config={}) as writer:
        writer.record(0, metrics={"loss": 0.0})
    run, loss, reads = ld.Trajectory(folder), Counted(), []
    load, run.load_into = run.load_into, lambda *given: reads.append(given) or load(*given)  # type: ignore[method-assign]

    def outputs(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        loss.calls += 1
        return model(batch[0])

    data = (torch.randn(256, _WIDTH), torch.randn(256, _WIDTH))
    problem = Problem(model, ld.behavioural(outputs) if behavioural else loss, data)
    settings = EstimateSettings(
        sampler=ld.SGLD(1e-7, nbeta=100.0, localization=100.0), num_chains=1, num_burnin=0, batch_size=64
    )
    calls = []
    for draws in (_DRAWS, 3 * _DRAWS):
        loss.calls = 0
        llc_point(run, 0, problem, replace(settings, num_draws=draws), name=f"n{draws}")
        calls.append(loss.calls)
    a_draw = (calls[1] - calls[0]) / (2 * _DRAWS)
    number_of_reads = len(reads) // 2
    del run.load_into
    unit = partial(llc_point, run, problem=problem, settings=settings)
    whole, sent = (
        len(each) / 1e6 for each in (cloudpickle.dumps(unit), pickle.dumps(Sent(unit, [problem.at(run, 0)])))
    )
    return (
        f"| {layers * _WIDTH**2 / 1e6:.0f} million, {'behavioural' if behavioural else 'given'} loss | {whole:.1f} "
        f"| {sent:.2f} | {calls[0] - _DRAWS * a_draw:.0f} | {a_draw:.2f} | {number_of_reads} |"
    )


def main() -> None:
    print(
        "| model | sent whole, MB | sent, MB | calls without draws | calls a draw | reads |\n|---|---|---|---|---|---|"
    )
    for layers, behavioural in ((1, False), (1, True), (20, False)):
        with tempfile.TemporaryDirectory() as folder:
            print(measure(layers, behavioural, Path(folder) / "run"), flush=True)
    print("\n| executor | first answer, s | a unit, ms |\n|---|---|---|")
    for name in ("local", "dask"):
        start = time.perf_counter()
        with opened(name, 2) as given, executor_of(given, 2) as pool:
            mapped(abs, range(2), pool)
            first, start = time.perf_counter() - start, time.perf_counter()
            mapped(abs, range(_UNITS), pool)
            each = (time.perf_counter() - start) / _UNITS
        print(f"| {name}, 2 processes | {first:.1f} | {1000 * each:.1f} |", flush=True)


if __name__ == "__main__":
    main()
