"""Linear probes: what a linear readout after a layer could predict."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llc_dynamics.errors import DataError
from llc_dynamics.heads.risk import Risk
from llc_dynamics.ranges import array_of

_TRIMMED, _ROUNDS = 0.05, 4


def probe_risk(features: ArrayLike, targets: ArrayLike) -> Risk:
    """The risk [S/2] of a linear probe on contexts that it was not fitted on.

    features : [S, Q, F], what a layer gives for Q queries of each context. targets : [S, Q]. The risk is the mean over
    the queries of each context in the second half. The probe minimises the mean squared error over the first half but
    for the 5% of contexts that it fits worst, which would rule it (least trimmed squares, from a start without the 5%
    with the largest features).

    Raises `DataError` for arrays that do not fit, what is not finite, or fewer samples than features.
    """
    x, y = (array_of(each, np.float64) for each in (features, targets))
    if x.ndim != 3 or y.shape != x.shape[:2]:
        raise DataError(f"features must be [S, Q, F] and targets [S, Q]; got {list(x.shape)} and {list(y.shape)}")
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise DataError("features or targets are not finite; has the model diverged?")
    half = len(x) // 2
    if half < 2 or half * x.shape[1] * (1 - _TRIMMED) < x.shape[2]:
        raise DataError(
            f"{half} contexts of {x.shape[1]} queries are too few to fit {x.shape[2]} features; "
            "give twice as many contexts or more"
        )
    typical = np.median(np.abs(x[:half]), axis=(0, 1))
    scaled = x[:half] / np.where(typical > 0, typical, 1)
    size: NDArray[Any] = np.einsum("sqf,sqf->s", scaled, scaled)
    for _ in range(_ROUNDS):
        fitted = np.argsort(size)[: max(int(half * (1 - _TRIMMED)), 1)]
        weights = _least_squares(x[fitted], y[fitted])
        size = _errors(x[:half], y[:half], weights)
    return Risk(_errors(x[half:], y[half:], weights))


def _least_squares(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.lstsq(x.reshape(-1, x.shape[-1]), y.ravel(), rcond=None)[0], dtype=np.float64)


def _errors(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.square(x @ weights - y).mean(1)
