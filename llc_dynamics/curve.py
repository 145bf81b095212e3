"""A quantity over training: what stage detection reads and what plots show."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llc_dynamics.errors import DataError


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve over training steps.

    Parameters
    ----------
    steps : int64 [C], optimiser updates, strictly increasing.
    values : float64 [C]; NaN where nothing could be measured.
    standard_errors : float64 [C] or None if unknown.
    name : what the curve shows, for labels.
    converged : bool [C] or None; False marks points whose estimate is not to be trusted.
    samples : float64 [C, S] or None; the same S evaluation samples at every step, whose mean over S is `values`. They
        make the difference between two steps far more exact than either value, and let detectors bootstrap over them.

    Raises `DataError` for repeated or decreasing steps, shapes that do not fit, or negative standard errors.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64] | None = None
    name: str = "value"
    converged: NDArray[np.bool_] | None = None
    samples: NDArray[np.floating] | None = field(default=None, repr=False)

    def __init__(
        self,
        steps: ArrayLike,
        values: ArrayLike,
        standard_errors: ArrayLike | None = None,
        name: str = "value",
        converged: ArrayLike | None = None,
        samples: ArrayLike | None = None,
    ) -> None:
        step_array = np.asarray(steps)
        if step_array.ndim != 1 or step_array.size == 0:
            raise DataError(f"curve '{name}': steps must be a non-empty list, got shape {step_array.shape}")
        if not np.all(np.isfinite(step_array)) or np.any(step_array != step_array.astype(np.int64)):
            raise DataError(f"curve '{name}': steps must be whole numbers of optimiser updates")
        step_array = step_array.astype(np.int64)
        if step_array[0] < 0 or np.any(np.diff(step_array) <= 0):
            raise DataError(
                f"curve '{name}': steps must be non-negative and strictly increasing; sort and drop repeats"
            )
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "steps", step_array)
        for label, given, dtype in (
            ("values", values, np.float64),
            ("standard_errors", standard_errors, np.float64),
            ("converged", converged, np.bool_),
            ("samples", samples, None),
        ):
            array = None if given is None else np.asarray(given, dtype=dtype)
            if array is not None and (
                array.shape[:1] != step_array.shape or array.ndim != (2 if label == "samples" else 1)
            ):
                raise DataError(
                    f"curve '{name}': {label} has shape {array.shape}, but there are {step_array.size} steps"
                )
            object.__setattr__(self, label, array)
        if self.standard_errors is not None and np.any(self.standard_errors < 0):
            raise DataError(f"curve '{name}': standard errors must not be negative")

    def __len__(self) -> int:
        return len(self.steps)
