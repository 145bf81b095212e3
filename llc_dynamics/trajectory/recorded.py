"""What a user hands to `TrajectoryWriter.record`, as the types that are stored."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import DataError
from llc_dynamics.trajectory.names import to_link


def step_number(step: Any) -> int:
    """A whole number of optimiser updates, 0 or more; `DataError` otherwise."""
    try:
        number = operator.index(step)
    except TypeError:
        raise DataError(f"step {step!r}: expected a whole number of optimiser updates") from None
    if isinstance(step, bool) or not 0 <= number < 1 << 62:
        raise DataError(f"step {step!r}: expected a whole number of optimiser updates, 0 or more")
    return number


def metric_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """One number for each name, from Python, NumPy or torch; `DataError` for anything else."""
    values = {}
    for name, value in metrics.items():
        to_link(name, "metric")
        try:
            values[name] = float(value)
        except (TypeError, ValueError, RuntimeError):
            shape = list(getattr(value, "shape", []))
            raise DataError(
                f"metric '{name}': expected one number, got "
                f"{type(value).__name__}{f' of shape {shape}' if shape else ''}"
            ) from None
    return values


def float32_array(name: str, values: Any) -> NDArray[np.float32]:
    """An array of real numbers, from NumPy or torch on any device; `DataError` for anything else."""
    import torch

    if isinstance(values, torch.Tensor):
        values = values.detach()
        if values.is_complex():
            raise DataError(f"{name}: complex values cannot be stored; give real and imaginary parts")
        values = values.to(device="cpu", dtype=torch.float32).numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "iufb":
        raise DataError(f"{name}: expected an array of real numbers, got {array.dtype}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)
