"""A quantity over training: what stage detection reads and what plots show."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from llc_dynamics.errors import DataError
from llc_dynamics.optional import optional_import
from llc_dynamics.ranges import array_of, between_0_and_1

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

# Eigenvalues of a covariance that are negative by less than this share of its trace are rounding (float32 included).
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Change:
    """The value at one step minus that at another, with the error of this difference.

    Attributes
    ----------
    value, standard_error : in the units of the curve; the error is NaN where none is known.
    degrees_of_freedom : of Student's t; infinite where the error itself is taken as known.
    """

    value: float
    standard_error: float
    degrees_of_freedom: float = math.inf

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval (low, high). Raises `ConfigError` unless 0 < level < 1."""
        level = between_0_and_1("level", level)
        width = self.standard_error * float(stats.t.ppf((1 + level) / 2, self.degrees_of_freedom))
        return self.value - width, self.value + width


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
    covariance : float64 [C, C] of the errors of the values, in place of `standard_errors`, which then are the roots of
        its diagonal; the row and column of a point whose error is unknown are NaN. Errors that all points share make a
        difference exact and the level not.

    Raises `DataError` for repeated or decreasing steps, what is no number, shapes that do not fit, negative standard
    errors, or a covariance that is none.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64] | None = None
    name: str = "value"
    converged: NDArray[np.bool_] | None = None
    samples: NDArray[np.floating] | None = field(default=None, repr=False)
    covariance: NDArray[np.float64] | None = field(default=None, repr=False)

    def __init__(
        self,
        steps: ArrayLike,
        values: ArrayLike,
        standard_errors: ArrayLike | None = None,
        name: str = "value",
        converged: ArrayLike | None = None,
        samples: ArrayLike | None = None,
        covariance: ArrayLike | None = None,
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
        errors_of = None if covariance is None else self._covariance(covariance)
        object.__setattr__(self, "covariance", errors_of)
        if errors_of is not None:
            if standard_errors is not None:
                raise DataError(f"curve '{name}': give standard_errors or a covariance, whose diagonal holds them")
            standard_errors = np.sqrt(np.diag(errors_of))
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

    def at(self, chosen: ArrayLike | slice) -> Curve:
        """The same curve at some of its points: a mask [C], places in increasing order, or a slice."""
        kept = np.arange(len(self))[chosen if isinstance(chosen, slice) else np.asarray(chosen)]
        errors, converged, samples = (
            None if each is None else each[kept] for each in (self.standard_errors, self.converged, self.samples)
        )
        covariance = None if self.covariance is None else self.covariance[np.ix_(kept, kept)]
        return Curve(
            self.steps[kept], self.values[kept], errors if covariance is None else None, self.name, converged, samples,
            covariance,
        )  # fmt: skip

    def difference(self, a: int, b: int) -> Change:
        """The value at step `b` minus that at step `a`, with its error.

        It takes the covariance, or else pairs the samples, or else takes the two standard errors as independent.
        Raises `DataError` for a step that is not on the curve.
        """
        first, second = self.place_of(a), self.place_of(b)
        change = float(self.values[second] - self.values[first])
        if first == second:
            return Change(change, 0.0)
        if self.covariance is not None:
            own, other = self.covariance[first, first], self.covariance[second, second]
            return Change(change, math.sqrt(max(own + other - 2 * self.covariance[first, second], 0.0)))
        if self.samples is not None and self.samples.shape[1] > 1:
            paired = self.samples[second].astype(np.float64) - self.samples[first]
            return Change(change, float(paired.std(ddof=1)) / math.sqrt(paired.size), paired.size - 1)
        if self.standard_errors is not None:
            return Change(change, math.hypot(self.standard_errors[first], self.standard_errors[second]))
        return Change(change, math.nan)

    def place_of(self, step: int) -> int:
        """Where on the curve `step` is, counted from 0. Raises `DataError` for a step that is not on it."""
        found = np.flatnonzero(self.steps == step)
        if found.size != 1:
            raise DataError(
                f"curve '{self.name}' has no point at step {step!r}; it has {len(self)} from {self.steps[0]} to "
                f"{self.steps[-1]}, and curve.steps lists them"
            )
        return int(found[0])

    def to_pandas(self) -> pd.DataFrame:
        """Columns value, and where they are known standard_error and converged; one row per step.

        Raises `MissingPackageError` without pandas.
        """
        pandas = optional_import("pandas", "frames", "to_pandas")
        return pandas.DataFrame(self._columns(), index=pandas.Index(self.steps, name="step"))

    def to_xarray(self) -> xr.Dataset:
        """The same [step], and where there are any samples [step, sample] and covariance [step, other_step].

        Raises `MissingPackageError` without xarray.
        """
        xarray = optional_import("xarray", "frames", "to_xarray")
        found: dict[str, tuple[tuple[str, ...], NDArray]] = {
            name: (("step",), values) for name, values in self._columns().items()
        }
        if self.samples is not None:
            found["samples"] = (("step", "sample"), self.samples)
        if self.covariance is not None:
            found["covariance"] = (("step", "other_step"), self.covariance)
        return xarray.Dataset(found, coords={"step": self.steps}, attrs={"name": self.name})

    def _covariance(self, given: ArrayLike) -> NDArray[np.float64]:
        """The matrix, checked and made exactly symmetric."""
        matrix = _array(self.name, "covariance", given, np.float64)
        wanted = (len(self.steps), len(self.steps))
        if matrix.shape != wanted:
            raise DataError(f"curve '{self.name}': covariance has shape {matrix.shape}; there are {wanted[0]} steps")
        known = ~np.isnan(np.diag(matrix))
        inner = matrix[np.ix_(known, known)]
        size = _ROUNDING * float(np.trace(inner)) if inner.size else 0.0
        if not np.isfinite(inner).all() or not np.isnan(matrix[~known]).all() or not np.isnan(matrix[:, ~known]).all():
            raise DataError(
                f"curve '{self.name}': covariance must be finite, or NaN in the whole row and column of a point"
            )
        if np.abs(inner - inner.T).max(initial=0.0) > abs(size):
            raise DataError(f"curve '{self.name}': covariance is not symmetric")
        least = float(np.linalg.eigvalsh(inner)[0]) if inner.size else 0.0
        if np.diag(inner).min(initial=0.0) < 0 or least < -size:
            raise DataError(
                f"curve '{self.name}': covariance is not positive semidefinite (least eigenvalue {least:.3g}): no "
                "errors have it"
            )
        return (matrix + matrix.T) / 2

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
