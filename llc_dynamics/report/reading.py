"""What a stored run says, as curves and levels; what it lacks is None, what is damaged raises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.trajectory import Trajectory


@dataclass(frozen=True)
class Level:
    """A mean over evaluation sequences and its standard error."""

    value: float
    standard_error: float


def read_curve(run: Trajectory, name: str) -> Curve | None:
    """The metric `name` as a curve, with per-sequence samples where they are stored; None if never measured."""
    if name not in run.metric_names:
        return None
    values = run.metrics(name)
    if not np.isfinite(values).any():
        return None
    errors = run.metrics(f"{name}_se") if f"{name}_se" in run.metric_names else None
    samples = run.samples(name) if name in run.sample_names else None
    return Curve(run.steps, values, errors, name=name, samples=samples)


def without_samples(curve: Curve) -> Curve:
    """The same curve with the samples condensed to standard errors."""
    errors = curve.standard_errors
    if errors is None and curve.samples is not None and curve.samples.shape[1] > 1:
        errors = curve.samples.std(axis=1, ddof=1, dtype=np.float64) / math.sqrt(curve.samples.shape[1])
    return Curve(curve.steps, curve.values, errors, curve.name, curve.converged)


def ideal_levels(arrays: Mapping[str, NDArray]) -> dict[str, Level]:
    """Losses of the ideal predictors on the stored evaluation sequences, and the distances between them.

    From arrays `ood_y`, `ood_ridge`, `ood_dmmse` and the same with `id_` (each [sequence, position]): 'ridge_ood',
    'dmmse_ood', 'ridge_id', 'dmmse_id' are mean squared errors, 'gap_ood' and 'gap_id' the mean squared difference
    between ridge and dMMSE_M. What is not stored is left out.
    """
    levels = {}
    for where in ("ood", "id"):
        pairs = {
            f"ridge_{where}": (f"{where}_ridge", f"{where}_y"),
            f"dmmse_{where}": (f"{where}_dmmse", f"{where}_y"),
            f"gap_{where}": (f"{where}_ridge", f"{where}_dmmse"),
        }
        for name, (first, second) in pairs.items():
            if first in arrays and second in arrays and arrays[first].shape == arrays[second].shape:
                difference = np.asarray(arrays[first], np.float64) - arrays[second]
                per_sequence = (difference**2).reshape(len(difference), -1).mean(axis=1)
                spread = float(per_sequence.std(ddof=1)) if len(per_sequence) > 1 else math.nan
                levels[name] = Level(float(per_sequence.mean()), spread / math.sqrt(len(per_sequence)))
    return levels
