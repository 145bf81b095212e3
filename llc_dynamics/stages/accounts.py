"""What else may explain the points of a curve: a constant, a random walk, a staircase.

Each account gives the log likelihood of points y [C], of mean 0 and variance 1, at its best numbers, less what these
cost by the Bayesian information criterion. The variance of a point is `known` [C], or the covariance [C, C] of all,
plus a fitted noise times its `share` [C].
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Added to the variance of every point, as a share of that of all.
JITTER = 1e-9
# The levels of a staircase hold so many points or more on average, and leave such a share of the variance at most.
_A_LEVEL, _SCATTER = 6, 0.02


def constant_evidence(y: Array, known: Array, share: Array) -> float:
    variances, axes = _principal(known)
    level = axes.T @ np.ones((len(y), 1))
    noises = np.geomspace(1e-6, 10, 60)
    return max(_level_likelihood(level, axes.T @ y, variances + noise * share) for noise in noises) - math.log(len(y))


def staircase_evidence(y: Array, known: Array, share: Array) -> float:
    """Flat between jumps. A jump costs 3/2 log n, for a level and its place (Zhang & Siegmund 2007).

    Which jumps there are is tried for every fitted noise, as if errors were independent. A random walk has many levels
    with much scatter about them: see `_A_LEVEL` and `_SCATTER`.
    """
    variances, axes = _principal(known)
    own, cost = np.diag(matrix_of(known)), math.log(len(y))
    found = []
    for noise in np.geomspace(1e-4, _SCATTER, 8):
        levels = _best_levels(y, 1 / (own + noise * share), 3 * cost)
        if len(y) < _A_LEVEL * levels.shape[1] or float(np.median(own + noise * share)) > _SCATTER:
            continue
        fitted = _level_likelihood(axes.T @ levels, axes.T @ y, variances + noise * share)
        found.append(fitted - (1.5 * levels.shape[1] - 0.5) * cost)
    return max(found, default=-math.inf)


def _level_likelihood(levels: Array, y: Array, variance: Array) -> float:
    """Log likelihood of y with the best level for every column of `levels` [C, K], and independent errors."""
    root = np.sqrt(variance)
    design, target = levels / root[:, None], y / root
    residual = target - design @ np.linalg.lstsq(design, target)[0]
    return float(-0.5 * (np.log(2 * math.pi * variance) + residual**2).sum())


def _best_levels(y: Array, precision: Array, penalty: float) -> Array:
    """Columns of 0 and 1 [C, K]: the levels with the least squared residuals plus `penalty` for each."""
    weight, first, second = (np.concatenate([[0.0], np.cumsum(precision * y**k)]) for k in (0, 1, 2))
    least, start = np.zeros(len(y) + 1), np.zeros(len(y) + 1, dtype=int)
    for stop in range(1, len(y) + 1):
        sums = (weight[stop] - weight[:stop], first[stop] - first[:stop], second[stop] - second[:stop])
        total = least[:stop] + penalty + sums[2] - sums[1] ** 2 / sums[0]
        start[stop] = total.argmin()
        least[stop] = total.min()
    columns, stop = [], len(y)
    while stop > 0:
        columns.append((np.arange(len(y)) >= start[stop]) & (np.arange(len(y)) < stop))
        stop = int(start[stop])
    return np.stack(columns, axis=1).astype(np.float64)


def walk_evidence(clock: Array, y: Array, known: Array, share: Array) -> float:
    """A random walk with Gaussian steps of variance q times the clock, seen with noise, over a grid of both."""
    steps = np.geomspace(1e-4, 1e2, 25)[:, None] / (clock[-1] - clock[0])
    noises = np.geomspace(1e-7, 1.0, 22)[None, :]
    total = (_filtered if known.ndim == 1 else _restricted)(clock, y, known, share, steps, noises)
    # the level is open, as if the first point were given; the other accounts have it to explain, at about the spread
    first = -0.5 * math.log(2 * math.pi) - 0.5 * y[0] ** 2
    return float(total.max()) + first - math.log(len(y))


def _filtered(clock: Array, y: Array, known: Array, share: Array, steps: Array, noises: Array) -> Array:
    """Log likelihood of the points after the first, given it, by a Kalman filter."""
    gaps = np.diff(clock)
    level = np.zeros(np.broadcast_shapes(steps.shape, noises.shape)) + y[0]
    variance = known[0] + noises * share[0] + JITTER + 0 * steps
    total = np.zeros_like(level)
    for k in range(1, len(y)):
        variance = variance + steps * gaps[k - 1]
        seen = variance + known[k] + noises * share[k] + JITTER
        error = y[k] - level
        total -= 0.5 * (np.log(2 * math.pi * seen) + error**2 / seen)
        gain = variance / seen
        level = level + gain * error
        variance = (1 - gain) * variance
    return total


def _restricted(clock: Array, y: Array, known: Array, share: Array, steps: Array, noises: Array) -> Array:
    """The same for noise of any covariance: the density of the differences of the points (restricted likelihood)."""
    walk = np.minimum(clock[:, None], clock[None, :]) - clock[0]
    found = []
    for step in steps[:, 0]:
        values, axes = _principal(known + step * walk)
        rotated, ones = axes.T @ y, axes.sum(axis=0)
        variance = values + noises.T * share + JITTER
        precision, total = (ones**2 / variance).sum(axis=1), (ones * rotated / variance).sum(axis=1)
        distance = (rotated**2 / variance).sum(axis=1) - total**2 / precision
        logs = (len(y) - 1) * math.log(2 * math.pi) + np.log(variance).sum(axis=1) + np.log(precision)
        found.append(-0.5 * (logs + distance))
    return np.stack(found)


def _principal(known: Array) -> tuple[Array, Array]:
    """Variances [C] along the axes [C, C] in which the noise is independent."""
    if known.ndim == 1:
        return known, np.eye(len(known))
    values, vectors = np.linalg.eigh(known)
    return np.clip(values, 0.0, None), vectors


def matrix_of(known: Array) -> Array:
    return np.diag(known) if known.ndim == 1 else known
