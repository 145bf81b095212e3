"""Memory of an estimate beside that of a training step, in copies of the parameters.

    python experiments/benchmarks/memory.py

Each row is a process of its own: the largest resident size (`ru_maxrss`) less that before the first step, with model
and data in memory. The models are large enough (8 and 3 million parameters) that single tensors come from the system
and go back to it. Bars: one chain at most 1.5 times the training step; each further chain at most 6 copies.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys

import torch
from common import command_line, markdown_head
from torch import nn

import llc_dynamics as ld
from llc_dynamics.systems.in_context_regression.transformer import PRESETS, InContextTransformer

KERNELS = {
    "SGLD": lambda: ld.SGLD(1e-7, nbeta=100.0, localization=100.0),
    "RMSpropSGLD": lambda: ld.RMSpropSGLD(1e-7, nbeta=100.0, localization=100.0),
    "Underdamped": lambda: ld.Underdamped(1e-4, nbeta=100.0, localization=100.0),
    "MALT": lambda: ld.MALT(1e-4, nbeta=100.0, localization=100.0, num_steps=4),
}
CHAINS = (1, 2, 4)


def problem(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...], int]:
    """Model, data, batch size."""
    torch.manual_seed(0)
    if name == "mlp":
        layers = [nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 2048)]
        return nn.Sequential(*layers), (torch.randn(128, 2048), torch.randn(128, 2048)), 64
    config = PRESETS["paper"]
    task = ld.InContextRegression(num_tasks=8, dimension=config.dimension, context_length=config.context_length)
    return InContextTransformer(config, seed=0), task.sample(torch.Generator().manual_seed(0), 128), 64


def loss_fn(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return (outputs(model, batch) - batch[1]).square().mean(1)


def outputs(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return model(batch[0]) if isinstance(model, nn.Sequential) else model(*batch)


def measure(name: str, what: str, chains: int) -> dict[str, float]:
    """Megabytes, and copies of the parameters."""
    torch.set_num_threads(1)
    model, data, size = problem(name)
    batch = tuple(part[:size] for part in data)
    # what is imported with the first estimate, on either side
    tiny = nn.Sequential(nn.Linear(2, 2))
    ld.estimate_llc(tiny, loss_fn, (torch.randn(16, 2), torch.randn(16, 2)), num_draws=4, num_burnin=1)
    torch.optim.Adam(tiny.parameters())
    if what == "training":
        optimiser = torch.optim.Adam(model.parameters())
    before = _resident()
    if what == "training":
        for _ in range(3):
            optimiser.zero_grad()
            loss_fn(model, batch).mean().backward()
            optimiser.step()
    elif what == "gradient":
        for _ in range(3):
            torch.autograd.grad(loss_fn(model, batch).mean(), list(model.parameters()))
    else:
        kernel = KERNELS[what]()
        loss = ld.behavioural(outputs) if kernel.holds_batch else loss_fn
        ld.estimate_llc(
            model, loss, data, sampler=kernel, num_chains=chains, num_draws=4, num_burnin=2, batch_size=size,
            num_samples=1000,
        )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    copy = sum(p.numel() for p in model.parameters()) * 4 / 2**20
    # the model's own parameters are one copy on either side, and were there before
    return {"MB": peak - before + copy, "copies": (peak - before) / copy + 1}


def _resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def child(name: str, what: str, chains: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", name, what, str(chains)]
    # the allocator gives large pieces back to the system at once, on either side: what is measured is what is in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, what, chains = arguments.child
        print(json.dumps(measure(name, what, int(chains))))
        return
    beside = ("beside a training step", "a further chain, copies")
    print(markdown_head(["model", "what", "chains", "MB", "copies of the parameters", *beside]))
    for name in ("mlp", "transformer"):
        step = child(name, "training", 1)
        rows = [("training step (Adam)", 1, step), ("forward and backward", 1, child(name, "gradient", 1))]
        for what in KERNELS:
            rows += [(what, chains, child(name, what, chains)) for chains in CHAINS]
        first: dict[str, float] = {}
        for what, chains, found in rows:
            first.setdefault(what, found["copies"])
            slope = "" if chains == 1 else f"{(found['copies'] - first[what]) / (chains - 1):.1f}"
            print(
                f"| {name} | {what} | {chains} | {found['MB']:.0f} | {found['copies']:.1f} | "
                f"{found['MB'] / step['MB']:.2f} | {slope} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
