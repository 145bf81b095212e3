"""That a model, the data and the state of torch are, bit for bit, what they were."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

_KEPT_BY_TORCH = ("_parameters", "_buffers", "_modules")


@contextmanager
def untouched(*held: Any) -> Iterator[None]:
    """On leaving, also by an error, `held` (modules, tensors, containers) and torch are as they were."""
    before = [*map(_state_of, held), state_of_torch()]
    try:
        yield
    finally:
        after = [*map(_state_of, held), state_of_torch()]
        for old, new in zip(before, after, strict=True):
            _require_same(old, new, "")


def state_of_torch() -> dict[str, Any]:
    """Generators, modes and flags that belong to the whole process."""
    numpy = np.random.get_state()  # noqa: NPY002
    return {
        "torch generator": torch.get_rng_state(),
        "NumPy generator": (numpy[1].tobytes(), numpy[2:]),
        "Python generator": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype of autocast": torch.get_autocast_dtype("cpu"),
        "autocast's cache": torch.is_autocast_cache_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fills": torch.utils.deterministic.fill_uninitialized_memory,
        "anomalies": torch.is_anomaly_enabled(),
        "multithreading": torch.autograd.is_multithreading_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "cudnn": [
            getattr(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")
        ],
        "matmul": torch.get_float32_matmul_precision(),
        "sdpa": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
        ),
        "threads": torch.get_num_threads(),
        "print options": copy.copy(torch._tensor_str.PRINT_OPTS),
    }


def _state_of(held: Any) -> Any:
    if isinstance(held, nn.Module):
        by_name = {name: (_bits(each), each.data_ptr()) for name, each in held.state_dict().items() if _is_made(each)}
        return {"state_dict": by_name} | {
            name or "itself": _of_module(module) for name, module in held.named_modules(remove_duplicate=False)
        }
    return _kept(held)


def _of_module(module: nn.Module) -> dict[str, Any]:
    """Everything in its `__dict__` that can be compared, and its tensors with what they are to autograd."""
    plain = {} if isinstance(module, torch.jit.ScriptModule) else dict(vars(module))
    kept = {name: _kept(value) for name, value in plain.items() if name not in _KEPT_BY_TORCH}
    tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    return kept | {"training": module.training, "tensors": {name: _kept(tensor) for name, tensor in tensors.items()}}


def _kept(value: Any) -> Any:
    """A copy to compare with later: tensors with their object and memory; names of what cannot be copied."""
    if isinstance(value, torch.Tensor):
        if not _is_made(value):
            return type(value).__name__, id(value)
        grad = None if not value.is_leaf or value.grad is None else (id(value.grad), value.grad.detach().clone())
        kept = value.detach().clone() if value.device.type != "meta" else value.shape
        return kept, id(value), value.data_ptr(), value.requires_grad, value.is_leaf, value.is_inference(), grad
    if isinstance(value, Mapping):
        return {str(key): _kept(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_kept(each) for each in value]
    if isinstance(value, bool | int | float | str | None | np.generic | torch.dtype | torch.device):
        return value
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return type(value).__name__


def _require_same(old: Any, new: Any, where: str) -> None:
    if isinstance(old, torch.Tensor):
        same = old.dtype == new.dtype and old.shape == new.shape and torch.equal(_bits(old), _bits(new))
        assert same, f"{where}: {old} has become {new}"
    elif isinstance(old, dict):
        assert list(old) == list(new), f"{where}: {list(old)} have become {list(new)}"
        for key in old:
            _require_same(old[key], new[key], f"{where}/{key}")
    elif isinstance(old, list | tuple):
        assert len(old) == len(new), f"{where}: {len(old)} have become {len(new)}"
        for place, (a, b) in enumerate(zip(old, new, strict=True)):
            _require_same(a, b, f"{where}[{place}]")
    else:
        assert type(old) is type(new), f"{where}: {old!r} has become {new!r}"
        assert old == new or old != old, f"{where}: {old!r} has become {new!r}"


def _is_made(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, nn.parameter.UninitializedTensorMixin)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.detach().contiguous().reshape(-1).view(torch.uint8).clone()
