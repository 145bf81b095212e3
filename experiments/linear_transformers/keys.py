"""Merged against separate keys and queries: one abrupt drop of the loss, or from saddle to saddle?

    python experiments/linear_transformers/keys.py --out RUNS/keys [--seeds 5]

Zhang et al. (2025, arXiv 2501.16265) predict for one layer of linear attention, small initial weights and gradient
flow: with a merged key-query matrix the loss has one plateau and drops once; with separate keys and queries of rank one
a head, it goes from saddle to saddle, and learns one principal direction of the inputs after the other.

One layer of FULL, d = 4 inputs with variances 4, 2, 1, 1/2 (in place of 1, so that the directions can be told apart),
n = 31 examples without noise, w ~ N(0, I); weights start a fiftieth of their usual size; gradient descent on 512
fresh contexts a step. Merged: one head. Separate: d heads, keys and queries of rank one. For every run: the step at
which half of each direction's error is gone, and where the log loss changes by `change_points` and by `detect_stages`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import llc_dynamics as ld
from llc_dynamics.seeding import torch_generator
from llc_dynamics.stages import change_points, null_rates, seed_agreement
from llc_dynamics.systems.linear_transformer.model import Architecture, LinearTransformer
from llc_dynamics.systems.linear_transformer.task import Noise, draw
from llc_dynamics.trajectory import checkpoint_schedule

VARIANCES, EXAMPLES = (4.0, 2.0, 1.0, 0.5), 31
#: Sizes, learning rate (the merged form diverges at the other's), and steps.
KINDS: dict[str, tuple[dict[str, int], float, int]] = {
    "merged": ({}, 0.002, 10_000),
    "separate": ({"num_heads": len(VARIANCES), "key_rank": 1}, 0.02, 20_000),
}
_START, _BATCH, _EVALUATION = 0.02, 512, 8192


def contexts(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Moments and w' = A w of inputs x' = A x, A^2 = diag(VARIANCES); the loss over queries is 1/2 |A (w^L - w)|^2."""
    scales = torch.tensor(VARIANCES).sqrt()
    drawn = draw(generator, count, len(VARIANCES), EXAMPLES)
    w = drawn.w.T.clone()
    drawn.w.mul_(scales[:, None])  # y = w . x' = (A w) . x
    moments = drawn.contexts(Noise(0.0)).moments
    sizes = torch.cat((scales, torch.ones(1)))
    return moments * sizes[:, None] * sizes, w


def errors(model: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Squared error of every principal direction, [B, d]: half their sum is the loss."""
    return (model(batch[0]) - batch[1]).square() * torch.tensor(VARIANCES)


def train(kind: str, seed: int, steps: int | None = None) -> Iterator[tuple[int, list[float]]]:
    """(step, mean squared errors of the directions) at the checkpoints."""
    sizes, rate, usual = KINDS[kind]
    steps = usual if steps is None else steps
    model = LinearTransformer(Architecture(len(VARIANCES), EXAMPLES, "full", 1, **sizes), seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(_START)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    generator, fixed = torch_generator(seed, "batches"), contexts(torch_generator(0, "evaluation"), _EVALUATION)
    wanted = set(checkpoint_schedule(steps, linear_interval=max(1, steps // 100), num_log=100).tolist())
    for step in range(steps + 1):
        if step in wanted:
            with torch.no_grad():
                yield step, errors(model, fixed).mean(0).tolist()
        optimizer.zero_grad()
        (0.5 * errors(model, contexts(generator, _BATCH)).sum(-1).mean()).backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the curves and the figure")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="by default those of the kind")
    parser.add_argument("--null", type=int, default=100, help="curves without stages of every kind; 0: none")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    figure, panels = plt.subplots(1, len(KINDS), figsize=(11, 4), sharey=True, layout="constrained")
    for panel, kind in zip(panels, KINDS, strict=True):
        reports, last = [], None
        for seed in range(chosen.seeds):
            rows = list(train(kind, seed, chosen.steps))
            steps, parts = np.array([step for step, _ in rows]), np.array([each for _, each in rows])
            np.savez(chosen.out / f"{kind}-{seed}.npz", steps=steps, errors=parts)
            loss = 0.5 * parts.sum(-1)
            last = ld.Curve(steps, np.log(loss), name=f"log loss, {kind}")
            reports.append(ld.detect_stages(last))
            halves = [int(steps[np.argmax(each < 0.5 * each[0])]) for each in parts.T]
            print(f"{kind}, seed {seed}: loss {loss[0]:.3f} to {loss[-1]:.4f}; half of each direction at {halves}; "
                  f"{change_points({'log loss': last})}", flush=True)  # fmt: skip
            panel.plot(steps, loss, lw=1)
        panel.set(xscale="symlog", xlabel="step", title=f"{kind} keys and queries")
        print(f"{kind}, detect_stages: {seed_agreement(reports)}")
        if chosen.null and last is not None:
            for rate in null_rates(last, chosen.null, kinds=("constant", "monotone", "random_walk")):
                print(f"{kind}: {rate}")
    panels[0].set(ylabel="loss")
    figure.savefig(chosen.out / "keys.png", dpi=150)


if __name__ == "__main__":
    main()
