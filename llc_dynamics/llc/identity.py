"""What a stored estimate was computed from, so that it is taken only where it is the one that is asked for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llc_dynamics.batch import leaves
from llc_dynamics.llc.problem import Problem
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.llc.storage import Identity
from llc_dynamics.sampling.batches import Batches, Data
from llc_dynamics.sampling.data import Samples, opened
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.seeding import isolated_generators, torch_generator

_PROBE_SAMPLES = 64
# Losses at the probe positions agree to this share of their size on any machine and number of threads.
_PROBE_TOLERANCE = 1e-3


def identity_of(problem: Problem, settings: EstimateSettings) -> Identity:
    """The identity of an estimate that is still to be made."""
    with problem.weights():
        # extra states of modules may be anything, and no checkpoint has them
        state = problem.model.state_dict().items()
        weights = digest_tensors({name: value for name, value in state if isinstance(value, torch.Tensor)})
    with problem.opened(settings) as (flat, batches):
        return Identity(
            _curve_identity(problem, settings, flat, batches), weights, _probe_losses(flat, batches, settings.seed)
        )


def curve_identity(problem: Problem, settings: EstimateSettings) -> dict[str, Any]:
    """What all points of a curve have in common, as JSON types."""
    with problem.opened(settings) as (flat, batches):
        return _curve_identity(problem, settings, flat, batches)


def tensor_data_id(data: Data) -> str | None:
    """A digest of the tensors; None for a function, and for a data set whose samples are made one by one."""
    content = opened(data)
    if isinstance(content, Samples) or callable(content):
        return None
    tensors = leaves(content)
    keys = content if isinstance(content, Mapping) and len(content) == len(tensors) else range(len(tensors))
    return digest_tensors({str(key): tensor for key, tensor in zip(keys, tensors, strict=True)})


def digest_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """BLAKE2b of names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        # numpy knows no bfloat16, so the bytes are taken as such
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def differences(stored: Identity, wanted: Identity) -> list[str]:
    """What differs between two identities, as 'num_draws is 500 there and 300 here'."""
    found = curve_differences(stored.curve, wanted.curve)
    if stored.weights != wanted.weights:
        found.append("the weights of the checkpoint are other ones")
    same_shape = stored.probe.shape == wanted.probe.shape
    size = np.nanmean(np.abs(wanted.probe), axis=1, keepdims=True) if wanted.probe.size else wanted.probe
    if not same_shape or not np.all(
        np.isclose(stored.probe, wanted.probe, rtol=_PROBE_TOLERANCE, atol=_PROBE_TOLERANCE * size, equal_nan=True)
    ):
        found.append("the loss function, the data or the model gives other losses on a fixed probe")
    return found


def curve_differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The settings that differ, in words."""
    here, there = dict(_flatten(wanted)), dict(_flatten(stored))
    missing = "not set"
    return [
        f"{key} is {there.get(key, missing)} there and {here.get(key, missing)} here"
        for key in sorted(here.keys() | there.keys())
        if here.get(key, missing) != there.get(key, missing)
    ]


def _curve_identity(problem: Problem, settings: EstimateSettings, flat: FlatModel, batches: Batches) -> dict[str, Any]:
    sampled = repr(list(zip(flat.names, flat.shapes, flat.sizes, strict=True)))
    if flat.chosen is not None:
        sampled += digest_tensors({"chosen": flat.chosen})
    return {
        **settings.resolved(batches),
        "loss": problem.loss,
        "data": tensor_data_id(problem.data) if problem.data_id is None else problem.data_id,
        "sampled_parameters": hashlib.blake2b(sampled.encode(), digest_size=16).hexdigest(),
    }


def _probe_losses(flat: FlatModel, batches: Batches, seed: int) -> NDArray[np.float64]:
    """Losses [position, sample] of a few samples at w* and at a fixed perturbation of w*.

    The second position tells apart losses that agree at w*, such as one that is measured against the outputs there.
    """
    noise = torch_generator(seed, "identity", device=flat.device)
    step = torch.randn(flat.dimension, generator=noise, device=flat.device, dtype=flat.dtype)
    scale = 0.1 * math.sqrt(float(flat.origin.square().mean())) + 1e-3
    with isolated_generators(seed):
        content = flat.prepare(next(batches.stream(seed, "identity")).content, batches.batch_size)
        rows = [
            flat.losses(position, content, batches.batch_size)[:_PROBE_SAMPLES].cpu().double().numpy()
            for position in (flat.origin, flat.origin + scale * step)
        ]
    return np.stack(rows)


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
