"""The published setting, 200,000 steps: all noise settings and seeds of one depth in one program, for a GPU.

    python experiments/linear_transformers/together.py --out RUNS/paper --algorithm full --layers 4 --device cuda

Settings are those of paper.toml. One draw of contexts serves all models, gradients are clipped model by model, and
Adam acts on every number by itself: each model moves as it would alone. Rows and weights are stored as table.py stores
its own, which then writes the table: `table.py --out RUNS/paper --layers`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from cells import NOISES, Cell, adjusted, contexts, load, oracle_loss, save
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from llc_dynamics.rows import append_row, stored_rows
from llc_dynamics.seeding import torch_generator
from llc_dynamics.sweeps import load_sweep
from llc_dynamics.systems.linear_transformer.system import MixedNoiseRegression
from llc_dynamics.systems.linear_transformer.task import draw
from llc_dynamics.training import TrainingConfig, rate_factor

_CHOICE = 20_000


class Together:
    """Models of one class and depth as one: `parameters` are [model, ...], the models of a noise setting adjacent."""

    def __init__(self, systems: list[MixedNoiseRegression], seeds: int, settings: TrainingConfig, device: str) -> None:
        self.systems, self.seeds, self.settings = systems, seeds, settings
        self.models = [system.build(seed).to(device) for system in systems for seed in range(seeds)]
        self.parameters, buffers = stack_module_state(self.models)
        like = self.models[0]

        def loss(parameters: dict[str, Tensor], moments: Tensor, w: Tensor) -> Tensor:
            def model(given: Tensor) -> Tensor:
                return functional_call(like, (parameters, {name: each[0] for name, each in buffers.items()}), (given,))

            return systems[0].loss(model, (moments, w)).mean()  # type: ignore[arg-type]

        both = vmap(vmap(loss, in_dims=(0, None, None)), in_dims=(0, 0, None))
        self.losses = torch.compile(both, dynamic=False) if settings.compile else both
        self.optimizer = torch.optim.Adam(self.parameters.values(), settings.learning_rate, tuple(settings.betas))  # type: ignore[arg-type]
        self.step = 0

    def update(self, moments: Tensor, w: Tensor) -> Tensor:
        """One step of all models; their losses [noise, seed]. moments [noise, B, d+1, d+1], w [B, d]."""
        settings = self.settings
        shape = (len(self.systems), self.seeds)
        self.optimizer.zero_grad()
        losses = self.losses({name: each.unflatten(0, shape) for name, each in self.parameters.items()}, moments, w)
        losses.sum().backward()
        if settings.max_gradient_norm is not None:
            gradients = [each.grad for each in self.parameters.values() if each.grad is not None]
            norm = sum(each.flatten(1).square().sum(1) for each in gradients).sqrt()  # type: ignore[union-attr]
            scale = (settings.max_gradient_norm / (norm + 1e-6)).clamp(max=1)
            for each in gradients:
                each.mul_(scale.reshape(-1, *[1] * (each.ndim - 1)))
        factor = rate_factor(
            self.step,
            schedule=settings.schedule,
            num_steps=settings.num_steps,
            warmup_steps=settings.warmup_steps,
            final_fraction=settings.final_fraction,
        )
        self.optimizer.param_groups[0]["lr"] = factor * settings.learning_rate
        self.optimizer.step()
        self.step += 1
        return losses.detach()

    def unstacked(self) -> list[torch.nn.Module]:
        """The models, with their present weights."""
        with torch.no_grad():
            for place, model in enumerate(self.models):
                for name, parameter in model.named_parameters():
                    parameter.copy_(self.parameters[name][place])
        return [model.cpu() for model in self.models]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the models")
    parser.add_argument("--algorithm", default="full", choices=["full", "diag", "gdpp"])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="by default those of paper.toml")
    parser.add_argument("--device", default="cuda")
    chosen = parser.parse_args()
    settings = load_sweep(Path(__file__).with_name("paper.toml")).training
    if chosen.steps is not None:
        settings = replace(settings, num_steps=chosen.steps, warmup_steps=min(settings.warmup_steps, chosen.steps))
    chosen.out.mkdir(parents=True, exist_ok=True)
    rows = chosen.out / "models.jsonl"
    if any((row["algorithm"], row["layers"]) == (chosen.algorithm, chosen.layers) for row in stored_rows(rows)):
        print(f"{rows} has these models already")
        return
    all_cells = [Cell(chosen.algorithm, chosen.layers, noise) for noise in NOISES]
    systems = [cell.system() for cell in all_cells]
    together = Together(systems, chosen.seeds, settings, chosen.device)
    generator = torch_generator(0, "together", device=chosen.device)
    start = time.perf_counter()
    for step in range(settings.num_steps):
        drawn = draw(generator, settings.batch_size, systems[0].dimension, systems[0].num_examples)
        of_noises = [drawn.contexts(system.noise) for system in systems]
        losses = together.update(torch.stack([each.moments for each in of_noises]), of_noises[0].w)
        if (step + 1) % 1000 == 0:
            print(f"{step + 1}: {losses.amin(1).tolist()}, {time.perf_counter() - start:.0f} s", flush=True)
    seconds = (time.perf_counter() - start) / len(together.models)
    for place, model in enumerate(together.unstacked()):
        cell, seed = all_cells[place // chosen.seeds], place % chosen.seeds
        save(model, cell.path(chosen.out, seed))
        on = contexts("choice", _CHOICE, NOISES[cell.noise])
        loss = adjusted(load(cell, chosen.out, seed), on, oracle_loss(on)).mean().item()
        found = {"algorithm": cell.algorithm, "layers": cell.layers, "noise": cell.noise, "seed": seed}
        append_row(rows, found | {"diverged": not loss < float("inf"), "choice": loss, "seconds": seconds})


if __name__ == "__main__":
    main()
