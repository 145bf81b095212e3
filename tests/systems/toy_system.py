"""Systems of a user's own file: one with references and a transition, one that gives only what it must."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import llc_dynamics as ld


@dataclass(frozen=True)
class Toy(ld.System):
    """y = slope * sum of x: a model may halve every input (general) or know the slope (specialised)."""

    slope: float = 1.0
    noise: float = 0.1

    def build(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def sample(self, generator: torch.Generator, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(batch_size, 3, generator=generator, device=generator.device)
        noise = torch.randn(batch_size, 1, generator=generator, device=generator.device)
        return x, self.slope * x.sum(1, keepdim=True) + self.noise * noise

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return (model(batch[0]) - batch[1]).square().mean(1)

    def probes(self, seed: int) -> Mapping[str, ld.Probe]:
        found = {}
        for place, name in enumerate(("seen", "new")):
            x, y = self.sample(torch.Generator().manual_seed(2 * seed + place), 20)
            total = x.sum(1, keepdim=True)
            found[name] = ld.Probe((x, y), y, {"half": total / 2, "slope": self.slope * total})
        return found

    def describe(self) -> ld.Description:
        return ld.Description(
            axis=ld.Axis("slope", self.slope, f"slope {self.slope:g}"),
            probes={"seen": "seen inputs", "new": "new inputs"},
            function_vector="new",
            references={"half": "half the sum", "slope": "the true slope"},
            transitions=(ld.Transition("half", "slope", "new", "seen"),),
            loss="mean squared error",
            words="A toy.",
        )

    def metrics(self, model: nn.Module, probes: Mapping[str, ld.Probe]) -> Mapping[str, float]:
        return {"weight_norm": float(next(model.parameters()).norm()), "probes": float(len(probes))}


class Minimal:
    """A classifier with dropout on a fixed set; it inherits nothing and gives build, loss and data."""

    divergence = "kl"

    def build(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
        return x, x[:, :3].argmax(1)
