"""What an estimate is made for: a model at its weights w*, a loss and data. Made once and handed on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llc_dynamics.errors import ConfigError, StepNotStoredError
from llc_dynamics.llc.settings import EstimateSettings, Loss
from llc_dynamics.ranges import whole_numbers
from llc_dynamics.sampling import Behavioural
from llc_dynamics.sampling.batches import Batches, Data, SampledBatches, make_batches
from llc_dynamics.sampling.borrowed import new_tensors_on, plain_torch, usable_device
from llc_dynamics.sampling.examination import examine
from llc_dynamics.sampling.flat_model import FlatModel, LossFunction
from llc_dynamics.sampling.kernel import widened
from llc_dynamics.sampling.selection import Selection
from llc_dynamics.seeding import isolated_generators, torch_generator
from llc_dynamics.trajectory import Trajectory

_DRAWS_AROUND = 16


@dataclass(frozen=True, eq=False)
class Problem:
    """A model with its loss and data, as it is or at a checkpoint of a run.

    Parameters
    ----------
    model, loss_fn, data, parameters, device : as in `estimate_llc`.
    data_id : a name for the data of stored estimates; None stands for the bytes of the tensors. Worth giving for a
        function that draws samples.
    checkpoint : (run, step), whose weights and buffers are w*; None for the model as it is.
    name : in tables and figures: "model", a step, or run and step.
    """

    model: nn.Module
    loss_fn: LossFunction
    data: Data
    parameters: Selection | None = None
    device: str | torch.device | None = None
    data_id: str | None = None
    checkpoint: tuple[Trajectory, int] | None = None
    name: str = "model"

    def __post_init__(self) -> None:
        # a problem is opened more than once, and an iterator can be read only once
        if isinstance(self.parameters, Iterable) and not isinstance(self.parameters, str | Mapping):
            object.__setattr__(self, "parameters", tuple(self.parameters))

    @property
    def loss(self) -> Loss:
        """Which loss an estimate is of."""
        return "behavioural" if isinstance(self.loss_fn, Behavioural) else "given"

    @property
    def computed_on(self) -> torch.device:
        """The device that the estimates are computed on."""
        if self.device is not None:
            return usable_device(self.device)
        return next((p.device for p in self.model.parameters() if p.requires_grad), torch.device("cpu"))

    def at(self, run: Trajectory, step: int, several_runs: bool = False) -> Problem:
        """The same at a checkpoint of a run; with `several_runs` its name says which.

        Raises `StepNotStoredError` for a step without weights.
        """
        require_steps(run, [step])
        name = f"{run.path.name} at {step}" if several_runs else str(step)
        return replace(self, checkpoint=(run, int(step)), name=name)

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Inside, the model has the weights and buffers of the checkpoint; afterwards its own again."""
        if self.checkpoint is None:
            yield
            return
        run, step = self.checkpoint
        tensors = [*self.model.parameters(), *self.model.buffers()]
        own = [tensor.detach().clone() for tensor in tensors]
        try:
            run.load_into(self.model, step)
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, own, strict=True):
                    tensor.copy_(value)

    @contextmanager
    def opened(self, settings: EstimateSettings) -> Iterator[tuple[FlatModel, Batches]]:
        """The model at w* as a function of one flat vector, entered and examined, and its batches."""
        with plain_torch(), self.weights():
            flat = FlatModel(self.model, self.loss_fn, self.device, self.parameters, settings.microbatch_size)
            batches = make_batches(self.data, settings.batch_size, settings.num_samples, flat.device)
            with flat, new_tensors_on(flat.device):
                if isinstance(batches, SampledBatches):
                    batches.before = flat.at_origin
                examine(flat, batches, settings.seed)
                yield flat, batches


def require_steps(run: Trajectory, steps: Iterable[int]) -> None:
    """Raise `StepNotStoredError` for a step without a checkpoint, or without its weights, naming the nearest one."""
    stored = np.asarray(run.weight_steps)
    for step in steps:
        if step not in stored:
            near = f"; the nearest checkpoint is at {stored[np.abs(stored - step).argmin()]}" if stored.size else ""
            what = "no weights are stored" if step in np.asarray(run.steps) else "no checkpoint"
            raise StepNotStoredError(f"{run.path}: {what} at step {step}{near}")


def checkpoints_of(run: Trajectory | str | Path, steps: Iterable[int] | None) -> tuple[Trajectory, list[int]]:
    """The run, opened, and the steps in order (None: all that have weights).

    Raises `ConfigError` if there are none, `StepNotStoredError` for one without weights.
    """
    run = run if isinstance(run, Trajectory) else Trajectory(run)
    wanted = sorted(set(whole_numbers("steps", run.weight_steps if steps is None else steps, 0)))
    if not wanted:
        raise ConfigError(f"{run.path}: no steps were asked for, or the run holds no checkpoints with weights")
    require_steps(run, wanted)
    return run, wanted


def losses_around(problem: Problem, gamma: float, settings: EstimateSettings) -> NDArray[np.float64]:
    """L_B(w) - L_B(w*) at draws of w ~ N(w*, 1/gamma), [draw]."""
    seed, found = settings.seed, []
    with problem.opened(settings) as (flat, batches), isolated_generators(seed):
        size = batches.batch_size
        generator = torch_generator(seed, "control", device=flat.device)
        for _, batch in zip(range(_DRAWS_AROUND), batches.stream(seed, "control"), strict=False):
            content = flat.prepare(batch.content, size)
            noise = torch.randn(flat.dimension, generator=generator, dtype=flat.dtype, device=flat.device)
            there = widened(flat.losses(flat.origin + noise / math.sqrt(gamma), content, size))
            found.append(float((there - flat.losses(flat.origin, content, size)).mean()))
    return np.array(found)
