"""One point of a curve: the estimate at one checkpoint of a run, computed once and stored beside the run."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llc_dynamics.errors import ConfigError, StepNotStoredError
from llc_dynamics.llc.estimate import estimate_inside
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.llc.storage import (
    Identity,
    curve_differences,
    curve_folder,
    differences,
    digest_tensors,
    point_file,
    read_point,
    stored_points,
    write_point,
)
from llc_dynamics.llc.thresholds import Thresholds
from llc_dynamics.sampling import Behavioural
from llc_dynamics.sampling.batches import Batches, Data, make_batches
from llc_dynamics.sampling.flat_model import FlatModel, LossFunction
from llc_dynamics.seeding import derive_seed, isolated_generators, torch_generator
from llc_dynamics.trajectory import Trajectory

_PROBE_SAMPLES = 64


def llc_point(
    run: Trajectory | str | Path,
    step: int,
    model: nn.Module,
    loss_fn: LossFunction,
    data: Data,
    *,
    name: str = "llc",
    data_id: str | None = None,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    threads: int | None = 1,
    thresholds: Thresholds | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> LLCResult:
    """The estimate at one checkpoint, taken from `<run>/llc/<name>/step-<step>.h5` or computed and stored there.

    For process pools over (run, step) pairs: points are independent, each file appears whole, and the result does not
    depend on which process computes it. The seed of a point is derived from (`seed`, `step`).

    A stored point is taken only if it is the same computation: settings, seed, sampled parameters, weights of the
    checkpoint, data (by the bytes of its tensors, or `data_id`), and the losses of a few samples at w* and near it,
    which tell another loss function or another distribution. Thresholds are no part of it: a stored point is judged
    anew under those that are given.

    Parameters
    ----------
    run, step : a run, or its folder, and one of its checkpoints.
    model : comes back with the weights it had.
    loss_fn, data, device, thresholds, progress : as in `estimate_llc`.
    name : of the curve that the point belongs to. All its points have the same settings.
    data_id : a name for the data; worth giving for a function that draws samples.
    overwrite : compute the point again if the stored one is another computation, instead of raising.
    threads : torch threads while it runs, so that the result is the same in any process; None leaves them alone.
    **settings : `settings`, what `ld.calibrate` returns; or `sampler`, `num_chains`, `num_draws`, `num_burnin`,
        `batch_size`, `num_samples`, `seed`, `steps_per_draw`, as in `estimate_llc`.

    Raises
    ------
    ConfigError : a setting is unknown or out of its range, or the curve `name` holds points with other settings; the
        message says which.
    DataError : as in `estimate_llc`.
    StepNotStoredError : the run has no such checkpoint.
    CorruptRunError : the stored point is damaged.
    """
    run = run if isinstance(run, Trajectory) else Trajectory(run)
    require_steps(run, [step])
    wanted_settings = EstimateSettings.of(**settings)
    folder = curve_folder(Path(run.path), name)
    path = point_file(folder, step)
    with torch_threads(threads), at_checkpoint(run, step, model):
        flat = FlatModel(model, loss_fn, device)
        batches = make_batches(data, wanted_settings.batch_size, wanted_settings.num_samples, flat.device)
        curve = curve_identity(flat, batches, data, data_id, wanted_settings)
        if not overwrite:
            require_same_curve(folder, name, curve, first=path)
        with flat:
            probe = probe_losses(flat, batches, wanted_settings.seed)
            identity = Identity(curve, digest_tensors(run.state_dict(step)), probe)
            if path.exists():
                stored, stored_identity = read_point(path)
                found = differences(stored_identity, identity)
                if not found:
                    return stored.judged(Thresholds() if thresholds is None else thresholds)
                if not overwrite:
                    raise ConfigError(_refusal(name, path, found))
            point_seed = derive_seed(wanted_settings.seed, "llc", int(step))
            own = dataclasses.replace(wanted_settings, seed=point_seed)
            result = estimate_inside(flat, batches, own, thresholds, progress)
    write_point(path, int(step), result, identity)
    return result


def require_steps(run: Trajectory, steps: Iterable[int]) -> None:
    """Raise `StepNotStoredError` for a step without a checkpoint, or without its weights, naming the nearest one."""
    stored = np.asarray(run.weight_steps)
    for step in steps:
        if step not in stored:
            near = f"; the nearest checkpoint is at {stored[np.abs(stored - step).argmin()]}" if stored.size else ""
            what = "no weights are stored" if step in np.asarray(run.steps) else "no checkpoint"
            raise StepNotStoredError(f"{run.path}: {what} at step {step}{near}")


def curve_identity(
    flat: FlatModel, batches: Batches, data: Data, data_id: str | None, settings: EstimateSettings
) -> dict[str, Any]:
    """What all points of a curve have in common, as JSON types."""
    sampled = repr(list(zip(flat.names, flat.shapes, flat.sizes, strict=True)))
    return {
        **settings.resolved(batches),
        "loss": "behavioural" if isinstance(flat.loss_fn, Behavioural) else "given",
        "data": tensor_data_id(data) if data_id is None else data_id,
        "sampled_parameters": hashlib.blake2b(sampled.encode(), digest_size=16).hexdigest(),
    }


def tensor_data_id(data: Data) -> str | None:
    """A digest of the tensors; None for a function."""
    if not isinstance(data, tuple | list):
        return None
    return digest_tensors({str(place): tensor for place, tensor in enumerate(data)})


def require_same_curve(folder: Path, name: str, curve: dict[str, Any], first: Path | None = None) -> None:
    """Raise `ConfigError` if a point that is stored under `name` (`first`, or any) has other settings."""
    points = list(stored_points(folder).values())
    chosen = first if first in points else next(iter(points), None)
    if chosen is not None:
        found = curve_differences(read_point(chosen)[1].curve, curve)
        if found:
            raise ConfigError(_refusal(name, chosen, found))


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Sums are taken in another order with other numbers of threads; fix it, and put it back."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def at_checkpoint(run: Trajectory, step: int, model: nn.Module) -> Iterator[None]:
    """The model with the weights and buffers of a checkpoint; afterwards with its own again."""
    tensors = [*model.parameters(), *model.buffers()]
    own = [tensor.detach().clone() for tensor in tensors]
    try:
        run.load_into(model, int(step))
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, own, strict=True):
                tensor.copy_(value)


def probe_losses(flat: FlatModel, batches: Batches, seed: int) -> NDArray[np.float64]:
    """Losses [position, sample] of a few samples at w* and at a fixed perturbation of w*.

    The second position tells apart losses that agree at w*, such as one that is measured against the outputs there.
    """
    noise = torch_generator(seed, "identity", device=flat.device)
    step = torch.randn(flat.dimension, generator=noise, device=flat.device, dtype=flat.dtype)
    scale = 0.1 * math.sqrt(float(flat.origin.square().mean())) + 1e-3
    with isolated_generators(seed):
        content = flat.prepare(next(batches.stream(seed, "identity")).content, batches.batch_size)
        rows = [
            flat.losses(position, content, batches.batch_size)[:_PROBE_SAMPLES].double().cpu().numpy()
            for position in (flat.origin, flat.origin + scale * step)
        ]
    return np.stack(rows)


def _refusal(name: str, path: Path, found: list[str]) -> str:
    return (
        f"the stored curve '{name}' is another computation ({path.name}: {'; '.join(found)}); choose another name=, "
        "or overwrite=True to replace it"
    )
