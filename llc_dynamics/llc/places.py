"""Where a calibration tries things out: models as they are, or at checkpoints of runs; and what is measured there."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llc_dynamics.errors import ConfigError
from llc_dynamics.llc.estimate import estimate_inside
from llc_dynamics.llc.point import at_checkpoint, curve_identity, probe_losses, require_steps
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.llc.storage import Identity, differences, digest_tensors, read_point, write_point
from llc_dynamics.llc.thresholds import Thresholds
from llc_dynamics.sampling.batches import Batches, Data, make_batches
from llc_dynamics.sampling.flat_model import FlatModel, LossFunction
from llc_dynamics.sampling.group_model import LoopModel
from llc_dynamics.sampling.harmonic import largest_curvature
from llc_dynamics.sampling.selection import Selection
from llc_dynamics.seeding import isolated_generators, torch_generator
from llc_dynamics.trajectory import Trajectory

_CONTROL_DRAWS = 16
_SHARES_OF_A_RUN = (1 / 3, 2 / 3, 1.0)
_SHARES_OF_EACH_RUN = (2 / 3, 1.0)


@dataclass(frozen=True, eq=False)
class Place:
    """A model with its loss and data, at a checkpoint or (None) as it is.

    name : in tables and figures: "model", a step, or run and step.
    data_id : a name for the data of stored estimates, worth giving for a function that draws samples.
    parameters, device : as in `estimate_llc`.
    """

    name: str
    model: nn.Module
    loss_fn: LossFunction
    data: Data
    checkpoint: tuple[Trajectory, int] | None = None
    data_id: str | None = None
    parameters: Selection | None = None
    device: str | torch.device | None = None

    @contextmanager
    def at(self, batch_size: int | None, num_samples: int | None) -> Iterator[tuple[FlatModel, Batches]]:
        """The model with the weights of this place, not yet entered, and its batches."""
        with nullcontext() if self.checkpoint is None else at_checkpoint(*self.checkpoint, self.model):
            flat = FlatModel(self.model, self.loss_fn, self.device, self.parameters)
            yield flat, make_batches(self.data, batch_size, num_samples, flat.device)

    def curvature(self, batch_size: int | None, num_samples: int | None, seed: int) -> float:
        """Largest curvature of the loss of one batch at w*."""
        with self.at(batch_size, num_samples) as (flat, batches), flat, isolated_generators(seed):
            content = flat.prepare(next(batches.stream(seed, "curvature")).content, batches.batch_size)
            directions = torch_generator(seed, "curvature direction")
            start = torch.randn((1, flat.dimension), generator=directions, dtype=flat.dtype).to(flat.device)
            loop = LoopModel(flat)
            found = largest_curvature(
                lambda positions: loop.evaluate(positions, [content], batches.batch_size), flat.origin[None], start
            )
        return float(found[0])

    def losses_around(
        self, gamma: float, batch_size: int | None, num_samples: int | None, seed: int
    ) -> NDArray[np.float64]:
        """L_B(w) - L_B(w*) at draws of w ~ N(w*, 1/gamma), [draw]."""
        found = []
        with self.at(batch_size, num_samples) as (flat, batches), flat, isolated_generators(seed):
            size = batches.batch_size
            generator = torch_generator(seed, "control", device=flat.device)
            for _, batch in zip(range(_CONTROL_DRAWS), batches.stream(seed, "control"), strict=False):
                content = flat.prepare(batch.content, size)
                noise = torch.randn(flat.dimension, generator=generator, dtype=flat.dtype, device=flat.device)
                there = flat.losses(flat.origin + noise / math.sqrt(gamma), content, size).double()
                found.append(float((there - flat.losses(flat.origin, content, size).double()).mean()))
        return np.array(found)

    def estimate(self, settings: EstimateSettings, store: Path | None = None) -> LLCResult:
        """The estimate with `settings`; with `store`, kept in that folder and read from there the next time."""
        with self.at(settings.batch_size, settings.num_samples) as (flat, batches):
            if store is None:
                with flat:
                    return estimate_inside(flat, batches, settings)
            weights = digest_tensors(self.model.state_dict())
            curve = curve_identity(flat, batches, self.data, self.data_id, settings)
            key = json.dumps([self.name, weights, curve], sort_keys=True, default=str)
            path = store / f"{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}.h5"
            with flat:
                identity = Identity(curve, weights, probe_losses(flat, batches, settings.seed))
                if path.exists():
                    result, stored = read_point(path)
                    if not differences(stored, identity):
                        return result.judged(Thresholds())
                result = estimate_inside(flat, batches, settings)
            write_point(path, 0 if self.checkpoint is None else self.checkpoint[1], result, identity)
            return result


def places_of(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Data,
    run: Trajectory | str | Path | Sequence[Trajectory | str | Path] | None,
    steps: Iterable[int] | None,
    parameters: Selection | None = None,
    device: str | torch.device | None = None,
) -> list[Place]:
    """The model as it is, or at `steps` of a run or of each of several; see `spread` for those that None stands for."""
    if run is None:
        if steps is not None:
            raise ConfigError("steps were given without the run that they are checkpoints of; give run=, too")
        return [Place("model", model, loss_fn, data, parameters=parameters, device=device)]
    given = [run] if isinstance(run, Trajectory | str | Path) else list(run)
    if not given:
        raise ConfigError("run is an empty list; give a run, several, or None for the model as it is")
    runs = [each if isinstance(each, Trajectory) else Trajectory(each) for each in given]
    wanted = None if steps is None else sorted({int(step) for step in steps})
    found = []
    for each in runs:
        if not len(each.weight_steps):
            raise ConfigError(f"{each.path}: the run holds no checkpoints with weights")
        chosen = spread([int(step) for step in each.weight_steps], len(runs)) if wanted is None else wanted
        require_steps(each, chosen)
        for step in chosen:
            found.append(
                Place(
                    place_name(each, step, len(runs)),
                    model,
                    loss_fn,
                    data,
                    (each, step),
                    parameters=parameters,
                    device=device,
                )
            )
    return found


def spread(steps: Sequence[int], num_runs: int) -> list[int]:
    """Of the checkpoints of one run those at a third, two thirds and the end; with several runs the last two of these.

    The first ones are far from any minimum, and say little about the rest.
    """
    shares = _SHARES_OF_A_RUN if num_runs == 1 else _SHARES_OF_EACH_RUN
    return sorted({steps[int(share * (len(steps) - 1))] for share in shares})


def place_name(run: Trajectory, step: int, num_runs: int) -> str:
    """'6000', or 'M-12 at 6000' where there are several runs."""
    return str(step) if num_runs == 1 else f"{run.path.name} at {step}"
