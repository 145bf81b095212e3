"""What estimates are made from, as it is sent to other processes: without the weights that they load themselves."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import torch
from torch import nn

from llc_dynamics.llc.problem import Problem


class Sent:
    """`function`, called here as it is; pickled, without the tensors of models of `problems` that their runs store.

    Each problem with a checkpoint loads them before it is used. Where the function arrives it is called with the
    default dtype and the precision of matrix products that are set here.
    """

    def __init__(self, function: Callable[..., Any], problems: Sequence[Problem]) -> None:
        self._function, self._problems = function, list(problems)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        content = io.BytesIO()
        _Pickler(content, self._problems).dump(self._function)
        return _Arrived, (content.getvalue(), torch.get_default_dtype(), torch.get_float32_matmul_precision())


class _Arrived:
    def __init__(self, content: bytes, dtype: torch.dtype, precision: str) -> None:
        self._function = _Unpickler(io.BytesIO(content)).load()
        self._dtype, self._precision = dtype, precision

    def __call__(self, *arguments: Any) -> Any:
        dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
        torch.set_default_dtype(self._dtype)
        torch.set_float32_matmul_precision(self._precision)
        try:
            return self._function(*arguments)
        finally:
            torch.set_default_dtype(dtype)
            torch.set_float32_matmul_precision(precision)


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, problems: Sequence[Problem]) -> None:
        super().__init__(file)
        self._left_out: dict[int, tuple[Any, ...]] = {}
        for problem in problems:
            if problem.checkpoint is None:
                continue
            stored = {entry.name for entry in problem.checkpoint[0].manifest.state.entries}
            for name, tensor in (*problem.model.named_parameters(), *problem.model.named_buffers()):
                plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.is_contiguous()
                if name in stored and plain:
                    about = tuple(tensor.shape), tensor.dtype, tensor.device.type
                    is_parameter, trained = isinstance(tensor, nn.Parameter), tensor.requires_grad
                    self._left_out[id(tensor)] = id(tensor), is_parameter, trained, *about

    def persistent_id(self, obj: Any) -> Any:
        return self._left_out.get(id(obj)) if isinstance(obj, torch.Tensor) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._made: dict[int, torch.Tensor] = {}

    def persistent_load(self, pid: Any) -> torch.Tensor:
        number, is_parameter, trained, shape, dtype, device = pid
        if number not in self._made:
            empty = torch.zeros(shape, dtype=dtype, device=device)
            self._made[number] = nn.Parameter(empty, trained) if is_parameter else empty.requires_grad_(trained)
        return self._made[number]
