"""A quantity over training: what stage detection reads and what plots show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llc_dynamics.errors import DataError
from llc_dynamics.optional import optional_import
from llc_dynamics.ranges import array_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


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

    Raises `DataError` for repeated or decreasing steps, what is no number, shapes that do not fit, or negative standard
    errors.
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
        step_array = _array(name, "steps", steps, None)
        if step_array.ndim != 1 or step_array.size == 0:
            raise DataError(f"curve '{name}': steps must be a non-empty list, got shape {step_array.shape}")
        # above 2^53 a float no longer holds every step, and above 2^63 no integer does
        if step_array.dtype.kind not in "iuf" or not (np.abs(step_array) < 2.0**53).all():
            raise DataError(f"curve '{name}': steps must be whole numbers of optimiser updates, got {_some(steps)}")
        if np.any(step_array != step_array.astype(np.int64)):
            raise DataError(f"curve '{name}': steps must be whole numbers of optimiser updates, got {_some(steps)}")
        step_array = step_array.astype(np.int64)
        if step_array[0] < 0 or np.any(np.diff(step_array) <= 0):
            raise DataError(
                f"curve '{name}': steps must be non-negative and strictly increasing; sort and drop repeats"
            )
        if values is None:
            raise DataError(f"curve '{name}': values are missing; give one for each step, NaN where nothing is known")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "steps", step_array)
        for label, given, dtype in (
            ("values", values, np.float64),
            ("standard_errors", standard_errors, np.float64),
            ("converged", converged, np.bool_),
            ("samples", samples, None),
        ):
            array = None if given is None else _array(name, label, given, dtype)
            if label == "samples" and array is not None and array.dtype.kind not in "iuf":
                raise DataError(f"curve '{name}': samples must be numbers, got {_some(given)}")
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

    def to_pandas(self) -> pd.DataFrame:
        """Columns value, and where they are known standard_error and converged; one row per step.

        Raises `MissingPackageError` without pandas.
        """
        pandas = optional_import("pandas", "frames", "to_pandas")
        return pandas.DataFrame(self._columns(), index=pandas.Index(self.steps, name="step"))

    def to_xarray(self) -> xr.Dataset:
        """The same [step], and samples [step, sample] if there are any. Raises `MissingPackageError` without xarray."""
        xarray = optional_import("xarray", "frames", "to_xarray")
        found: dict[str, tuple[tuple[str, ...], NDArray]] = {
            name: (("step",), values) for name, values in self._columns().items()
        }
        if self.samples is not None:
            found["samples"] = (("step", "sample"), self.samples)
        return xarray.Dataset(found, coords={"step": self.steps}, attrs={"name": self.name})

    def _columns(self) -> dict[str, NDArray]:
        columns = {"value": self.values, "standard_error": self.standard_errors, "converged": self.converged}
        return {name: values for name, values in columns.items() if values is not None}


def _array(name: str, label: str, given: Any, dtype: type | None) -> NDArray:
    try:
        return array_of(given, dtype)
    except (TypeError, ValueError):
        wanted = "true or false" if dtype is np.bool_ else "numbers"
        raise DataError(
            f"curve '{name}': {label} must be {wanted}, one{' row' if label == 'samples' else ''} for each step, got "
            f"{_some(given)}"
        ) from None


def _some(given: Any) -> str:
    """What was given, cut short."""
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:77]}..."
