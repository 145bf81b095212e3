"""What is measured at every checkpoint of an in-context run, on fixed sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llc_dynamics.seeding import torch_generator
from llc_dynamics.training.config import RunConfig

_BATCH = 512  # sequences a forward pass; a larger one leaves the cache of small machines

# Curves that are kept for every evaluation sequence, because detectors bootstrap over them.
SAMPLED = ("ood_loss", "ridge_distance_ood", "dmmse_distance_ood", "dmmse_distance_id")


@dataclass(frozen=True)
class Measurement:
    """Metrics by name, their values for every evaluation sequence [S], and the function vector [B, K]."""

    metrics: dict[str, float]
    samples: dict[str, NDArray[np.float32]]
    outputs: NDArray[np.float32]


class Evaluator:
    """Losses and distances to the ideal predictors on sequences that never change.

    Sequences in distribution come from q_M, those out of distribution from q_inf, and the function vector is taken on
    sequences of the root task t_1 (Carroll et al. 2025, section 4). Distances are mean squared differences of
    predictions over sequences and positions. At M = infinity there is no task set, and the distances to dMMSE_M are
    NaN.
    """

    def __init__(self, config: RunConfig, device: str | torch.device = "cpu") -> None:
        settings, task = config.evaluation, config.task
        self.has_dmmse = task.finite
        self._sets: dict[str, dict[str, Tensor]] = {}
        counts = {"id": settings.num_sequences, "ood": settings.num_sequences, "root": settings.num_root_sequences}
        sources = {"id": task, "ood": task.with_tasks(math.inf), "root": task.with_tasks(1)}
        for name, source in sources.items():
            generator = torch_generator(settings.seed, "evaluation", name)
            x, y = source.sample(generator, counts[name])
            tensors = {"x": x, "y": y, "ridge": task.ridge(x, y)}
            if self.has_dmmse:
                tensors["dmmse"] = task.dmmse(x, y)
            self._sets[name] = {key: value.to(device) for key, value in tensors.items()}

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Evaluation sequences and the ideal predictions on them, to store with the run: "id_x", "ood_ridge", ..."""
        return {
            f"{name}_{key}": value.cpu().numpy()
            for name, tensors in self._sets.items()
            for key, value in tensors.items()
        }

    @torch.no_grad()
    def measure(self, model: nn.Module) -> Measurement:
        """Evaluate `model`, a map of x [B, K, D] and y [B, K] to predictions [B, K]."""
        predictions = {name: self._predict(model, tensors) for name, tensors in self._sets.items()}
        values: dict[str, Tensor] = {}
        for name in ("id", "ood"):
            found, tensors = predictions[name].double(), self._sets[name]
            values[f"{name}_loss"] = (found - tensors["y"]).square().mean(1)
            values[f"ridge_distance_{name}"] = (found - tensors["ridge"]).square().mean(1)
            if self.has_dmmse:
                values[f"dmmse_distance_{name}"] = (found - tensors["dmmse"]).square().mean(1)
        metrics = {name: value.mean().item() for name, value in values.items()}
        for name in ("id", "ood"):
            metrics.setdefault(f"dmmse_distance_{name}", math.nan)
        metrics["ood_loss_se"] = values["ood_loss"].std().item() / math.sqrt(len(values["ood_loss"]))
        samples = {name: values[name].float().cpu().numpy() for name in SAMPLED if name in values}
        return Measurement(metrics, samples, predictions["root"].float().cpu().numpy())

    def _predict(self, model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
        pairs = zip(tensors["x"].split(_BATCH), tensors["y"].split(_BATCH), strict=True)
        return torch.cat([model(x, y) for x, y in pairs])


def sequence_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The training loss of each sequence [B]: squared error, mean over the K positions."""
    x, y = batch
    return (model(x, y) - y).square().mean(1)


def sequence_outputs(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Predictions [B, K], as `ld.behavioural` takes them; it then compares them as `sequence_loss` does."""
    x, y = batch
    return model(x, y)
