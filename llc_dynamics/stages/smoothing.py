"""Local linear regression in log training time: the trend of a curve at a stated resolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

_MIN_NEIGHBOURS = 4


def smoother_matrix(steps: NDArray[np.int64], resolution: float) -> NDArray[np.float64]:
    """Linear smoother H [C, C]: trend = H values.

    Local linear regression (Cleveland 1979) with tricube weights in x = log(t + 1), of half width `resolution`, or
    wider where fewer than 4 neighbours lie within it. It reproduces straight lines exactly, at the ends too.
    """
    x = np.log1p(steps.astype(np.float64))
    distance = np.abs(x[:, None] - x[None, :])
    neighbours = min(_MIN_NEIGHBOURS, len(x) - 1)
    # The farthest of the neighbours must keep some weight, hence the factor.
    width = np.maximum(resolution, 1.05 * np.partition(distance, neighbours, axis=1)[:, neighbours])
    weight = np.clip(1 - (distance / width[:, None]) ** 3, 0, None) ** 3
    offset = x[None, :] - x[:, None]
    s0 = weight.sum(axis=1, keepdims=True)
    s1 = (weight * offset).sum(axis=1, keepdims=True)
    s2 = (weight * offset**2).sum(axis=1, keepdims=True)
    return weight * (s2 - s1 * offset) / (s0 * s2 - s1**2)


def unimodal_fit(values: NDArray[np.float64], turn: int) -> NDArray[np.float64]:
    """Least-squares fit that falls up to index `turn` and rises after it (two isotonic regressions).

    With the last index as the turn it never rises.
    """
    fitted = np.empty_like(values)
    fitted[: turn + 1] = isotonic_regression(values[: turn + 1], increasing=False).x
    if turn + 1 < len(values):
        fitted[turn + 1 :] = isotonic_regression(values[turn + 1 :]).x
    return fitted
