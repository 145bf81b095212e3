"""Speed of training: the recorder's overhead, our step against the plain PyTorch loop, and what compiling gives.

    python experiments/benchmarks/training.py [--rounds 5]

Every ratio is taken within one process and one run, the sides in turn, so that a noisy machine hurts both alike; the
figure is the ratio of the smallest times. Prints a table.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import command_line, timed

from llc_dynamics.seeding import torch_generator
from llc_dynamics.sweeps import load_preset
from llc_dynamics.systems.in_context_regression.transformer import InContextTransformer
from llc_dynamics.systems.measure import ProbeSet
from llc_dynamics.training import RunConfig
from llc_dynamics.training.averaging import WeightAverage
from llc_dynamics.training.muon import Muon
from llc_dynamics.training.optimizers import build_optimizers
from llc_dynamics.trajectory import TrajectoryWriter


class PlainTransformer(torch.nn.Module):
    """The same network as one writes it first: torch's encoder layers' order, all tokens through all layers."""

    def __init__(self, model: InContextTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        model = self.model
        batch, length, dimension = x.shape
        tokens = torch.zeros(batch, 2 * length, dimension + 1)
        tokens[:, 0::2, 1:] = x
        tokens[:, 1::2, 0] = y
        hidden = model.embed(tokens) + model.positions
        for block in model.blocks:
            query, key, value = (
                part.view(batch, 2 * length, block.num_heads, -1).transpose(1, 2)
                for part in block.query_key_value(block.attention_norm(hidden)).chunk(3, -1)
            )
            mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            hidden = hidden + block.attention_output(mixed.transpose(1, 2).reshape(batch, 2 * length, -1))
            hidden = hidden + block.mlp_down(torch.relu(block.mlp_up(block.mlp_norm(hidden))))
        return model.unembed(model.norm(hidden))[:, 0::2, 0]


def smallest(functions: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Smallest seconds of each function over `rounds`, taken in turn."""
    times = {name: float("inf") for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name] = min(times[name], timed(function)[0])
    return times


def step_speed(config: RunConfig, rounds: int) -> None:
    """One update: plain loop, ours, ours compiled."""
    system, size = config.system, config.training.batch_size
    functions = {}

    def updates(loss: Callable, optimizers: list[torch.optim.Optimizer], module: torch.nn.Module) -> Callable[[], None]:
        generator = torch_generator(0, "benchmark")

        def run() -> None:
            for _ in range(50):
                value = loss(module, system.sample(generator, size)).mean()
                module.zero_grad()
                value.backward()
                for optimizer in optimizers:
                    optimizer.step()

        return run

    def plain_loss(module: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return (module(*batch) - batch[1]).square().mean(1)

    plain = PlainTransformer(system.build(0))
    adam = torch.optim.Adam(plain.parameters(), 1e-3)
    functions["plain loop, Adam"] = updates(plain_loss, [adam], plain)
    for name, optimizer in (("ours, Adam", "adam"), ("ours, Muon", "muon")):
        model = system.build(0)
        settings = type(config.training)(optimizer=optimizer)
        functions[name] = updates(system.loss, build_optimizers(model, system, settings), model)
    model = system.build(0)
    compiled = torch.compile(system.loss)
    adam = build_optimizers(model, system, type(config.training)())
    functions["ours, Adam, compiled"] = updates(compiled, adam, model)
    start = time.perf_counter()
    functions["ours, Adam, compiled"]()
    first = time.perf_counter() - start
    times = smallest(functions, rounds)
    base = times["plain loop, Adam"]
    print(f"\nTraining step, batch {size} (50 steps a round, {rounds} rounds)")
    for name, seconds in times.items():
        print(f"  {name:24s} {1e3 * seconds / 50:7.2f} ms   plain / this = {base / seconds:.2f}")
    print(f"  compiling takes {first:.0f} s before the first step")


def muon_speed(config: RunConfig, rounds: int) -> None:
    """One Muon update of the matrices inside the blocks: torch's and ours."""
    model = config.system.build(0)
    parameters, taken = dict(model.named_parameters()), config.system.muon_parameters(model)
    groups = [{"params": [parameters[name]], "blocks": blocks} for name, blocks in taken]
    for name, _ in taken:
        parameters[name].grad = torch.randn_like(parameters[name])
    times = smallest(
        {
            "torch.optim.Muon": torch.optim.Muon([parameters[name] for name, _ in taken], weight_decay=0.0).step,
            "ours, batched float32": Muon(groups).step,
        },
        5 * rounds,
    )
    print("\nMuon update of all block matrices")
    for name, seconds in times.items():
        print(f"  {name:24s} {1e3 * seconds:7.2f} ms")


def recorder_overhead(config: RunConfig, rounds: int) -> None:
    """The loop of the demo at the demo's checkpoint density: without recording, with measuring, with recording."""
    interval = config.training.num_steps / len(config.checkpoint_steps())
    steps = max(10, round(interval))
    system, size = config.system, config.training.batch_size
    model = system.build(0)
    optimizers = build_optimizers(model, system, config.training)
    average = WeightAverage(model, config.training.averaging or 0.5)
    generator = torch_generator(0, "benchmark")
    probes = ProbeSet(system, system.probes(config.seed), system.describe())
    measured = probes.measure(model)
    with tempfile.TemporaryDirectory() as folder, TrajectoryWriter(Path(folder) / "run", model) as writer:
        written = iter(range(10**9))

        def train() -> None:
            for _ in range(steps):
                loss = system.loss(model, system.sample(generator, size)).mean()
                model.zero_grad()
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
                average.update()

        def measure() -> None:
            average.materialise()
            probes.measure(average.model)

        def record() -> None:
            # A whole shard, so that sealing (fsync and rename) is in.
            for _ in range(writer.rows_per_shard):
                writer.record(
                    next(written), metrics=measured.metrics, outputs=measured.outputs, samples=measured.samples
                )
            writer.seal()

        times = smallest({"train": train, "measure": measure, "record": record}, rounds)
        times["record"] /= writer.rows_per_shard
    print(f"\nRecorder at the demo's schedule: a checkpoint every {steps} steps on average")
    print(f"  training between two checkpoints {1e3 * times['train']:8.1f} ms")
    for name, label in (("record", "recording one checkpoint"), ("measure", "measuring it (losses, distances)")):
        share = 100 * times[name] / times["train"]
        print(f"  {label:32s} {1e3 * times[name]:8.1f} ms = {share:.1f}% of training")


def main() -> None:
    rounds = command_line(__doc__, rounds=5).parse_args().rounds
    torch.set_num_threads(1)
    config = load_preset("transient_ridge/demo").run_configs()["M-12"]
    step_speed(config, rounds)
    muon_speed(config, rounds)
    recorder_overhead(config, rounds)


if __name__ == "__main__":
    main()
