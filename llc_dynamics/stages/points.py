"""Curves of one run brought onto common, usable checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.finding import Finding, sentences
from llc_dynamics.ranges import finite_number

MIN_POINTS = 8
# Samples whose mean is further from the value, as a share of its size and their spread, are not those of the value.
_OTHER_MEAN = 0.01


@dataclass(frozen=True)
class Points:
    """`curves` by role, all on the same finite, converged `steps` [C]; `notes` say what was left out."""

    steps: NDArray[np.int64]
    curves: dict[str, Curve]
    notes: tuple[Finding, ...]


def common_points(curves: Mapping[str, Curve | None], min_points: int = MIN_POINTS) -> Points:
    """Drop the checkpoints at which any of the curves is NaN, infinite, or marked as not converged.

    A role that may be missing is left out by the caller, or None beside another one.

    Raises `DataError` if something is not a `Curve`, the steps differ, samples are of other sequences than those of the
    other curves or than their own values, or fewer than `min_points` checkpoints are left.
    """
    given = {role: curve for role, curve in curves.items() if curve is not None}
    for role, curve in given.items() or curves.items():
        if not isinstance(curve, Curve):
            raise DataError(f"{role} is a {type(curve).__name__}; give an ld.Curve(steps, values, samples=...)")
    first_role, first = next(iter(given.items()))
    for role, curve in given.items():
        if not np.array_equal(curve.steps, first.steps):
            raise DataError(
                f"{role} has {len(curve)} steps from {curve.steps[0]} to {curve.steps[-1]}, but {first_role} has "
                f"{len(first)} from {first.steps[0]} to {first.steps[-1]}; all curves must come from the same "
                "checkpoints of one run"
            )
    _check_samples(given)
    usable = np.ones(len(first), dtype=bool)
    notes = []
    for role, curve in given.items():
        finite = np.isfinite(curve.values)
        if curve.samples is not None:
            finite &= np.isfinite(curve.samples).all(axis=1)
        if curve.standard_errors is not None:
            finite &= np.isfinite(curve.standard_errors)
        if not finite.any():
            raise DataError(f"{role} ('{curve.name}') is NaN or infinite at every step; nothing can be detected in it")
        if not finite.all():
            count = f"{role}: {int((~finite).sum())} of {len(curve)} points"
            notes.append(Finding("not_finite", f"{count} are NaN or infinite and were dropped"))
        usable &= finite
        if curve.converged is not None and not curve.converged.all():
            count = f"{role}: {int((~curve.converged).sum())} of {len(curve)} points"
            notes.append(Finding("not_converged", f"{count} are unconverged and dropped"))
            usable &= curve.converged
    if usable.sum() < min_points:
        raise DataError(
            f"{int(usable.sum())} usable points of {len(first)} given; a verdict needs at least {min_points}: "
            "evaluate more checkpoints" + (f" ({sentences(notes)})" if notes else "")
        )
    kept = {role: curve.at(usable) for role, curve in given.items()}
    return Points(first.steps[usable], kept, tuple(notes))


def checked_reference(distance: float | None) -> float | None:
    """The distance between the two predictors; `DataError` if it is given and is no positive number."""
    if distance is None:
        return None
    try:
        return finite_number("reference_distance", distance, zero=False)
    except ConfigError:
        raise DataError(f"reference_distance={distance!r}; give the positive distance between the predictors") from None


def _check_samples(given: Mapping[str, Curve]) -> None:
    """`DataError` where samples cannot be of the same sequences, or are not of their own curve."""
    sampled = {role: curve for role, curve in given.items() if curve.samples is not None and curve.samples.shape[1] > 1}
    counts = {role: curve.samples.shape[1] for role, curve in sampled.items() if curve.samples is not None}
    if len(set(counts.values())) > 1:
        raise DataError(
            f"samples of {' and '.join(f'{count} sequences ({role})' for role, count in counts.items())}: all curves "
            "must come from the same evaluation sequences of one run; leave the samples out of those that do not"
        )
    for role, curve in sampled.items():
        samples = np.asarray(curve.samples, dtype=np.float64)
        known = np.isfinite(samples).all(axis=1) & np.isfinite(curve.values)
        mean, spread = samples[known].mean(axis=1), samples[known].std(axis=1)
        values = curve.values[known]
        wrong = np.abs(values - mean) > _OTHER_MEAN * (np.abs(values) + spread)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise DataError(
                f"{role}: the samples at step {curve.steps[known][at]} have mean {mean[at]:.4g}, but the value there "
                f"is {values[at]:.4g}: they belong to another curve or run; give values = samples.mean(axis=1)"
            )
