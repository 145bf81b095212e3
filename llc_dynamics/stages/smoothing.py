"""Local linear regression in log training time, and the jitter that is left around it.

A checkpoint's value is  value_c = trend(log(t_c + 1)) + jitter_c + sampling error.  The jitter is the stochastic
gradient's noise in the weights: it is common to all evaluation sequences, so that no number of sequences averages it
away, and it is correlated between checkpoints that are close in steps. The trend is what remains at a stated
resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.seeding import numpy_generator

_NUM_PATHS = 200
_MIN_NEIGHBOURS = 6
# Correlation times that are tried, in units of the median spacing of the later half of the checkpoints.
_CORRELATION_TIMES = (0.0, 0.4, 0.7, 1.0, 1.5, 2.2, 3.2, 4.5, 6.5, 10.0)


def smoother_matrix(steps: NDArray[np.int64], resolution: float) -> NDArray[np.float64]:
    """Linear smoother H [C, C]: trend = H values.

    Local linear regression (Cleveland 1979) with tricube weights in x = log(t + 1), of half width `resolution`, or
    wider where fewer than 6 neighbours lie within it. It reproduces straight lines exactly, at the ends too.
    """
    x = np.log1p(steps.astype(np.float64))
    distance = np.abs(x[:, None] - x[None, :])
    neighbours = min(_MIN_NEIGHBOURS, len(x) - 1)
    # The farthest of the neighbours must keep some weight, hence the factor.
    width = np.maximum(resolution, 1.05 * np.sort(distance, axis=1)[:, neighbours])
    weight = np.clip(1 - (distance / width[:, None]) ** 3, 0, None) ** 3
    offset = x[None, :] - x[:, None]
    s0 = weight.sum(axis=1, keepdims=True)
    s1 = (weight * offset).sum(axis=1, keepdims=True)
    s2 = (weight * offset**2).sum(axis=1, keepdims=True)
    return weight * (s2 - s1 * offset) / (s0 * s2 - s1**2)


class UnitJitter:
    """Unit-variance Ornstein-Uhlenbeck paths at the checkpoints, for a grid of correlation times, with residuals.

    The correlation between checkpoints is exp(-|t_c - t_d| / tau), with time in steps. The paths serve to match
    moments: what a smoother leaves of noise of known correlation, at these very checkpoints.
    """

    def __init__(self, steps: NDArray[np.int64], smoother: NDArray[np.float64], seed: int) -> None:
        self.steps = steps
        self.gaps = np.diff(steps).astype(np.float64)
        late_gap = float(np.median(self.gaps[len(self.gaps) // 2 :]))
        self.times = np.array(_CORRELATION_TIMES) * late_gap
        noise = numpy_generator(seed, "jitter calibration").standard_normal((len(steps), _NUM_PATHS))
        self.residuals = np.stack([(p := self._colour(noise, tau)) - smoother @ p for tau in self.times])

    def _colour(self, noise: NDArray[np.float64], tau: float) -> NDArray[np.float64]:
        if tau == 0:
            return noise
        path = np.empty_like(noise)
        path[0] = noise[0]
        correlation = np.exp(-self.gaps / tau)
        for c, rho in enumerate(correlation, start=1):
            path[c] = rho * path[c - 1] + np.sqrt(1 - rho**2) * noise[c]
        return path

    def draw(self, tau: float, num_draws: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Paths [C, draw] of unit variance and correlation time `tau` in steps."""
        return self._colour(generator.standard_normal((len(self.steps), num_draws)), tau)


@dataclass(frozen=True)
class Jitter:
    """Jitter of one curve: standard deviation `scale` [C], correlation time in steps, degrees of freedom."""

    scale: NDArray[np.float64]
    correlation_time: float
    degrees_of_freedom: float


def estimate_jitter(
    values: NDArray[np.float64],
    trend: NDArray[np.float64],
    unit: UnitJitter,
    late: slice,
) -> Jitter:
    """Moment estimate of the jitter from the residuals around the trend.

    The lag-one correlation and the variance of the residuals over the checkpoints `late` are matched to those that the
    same smoother leaves of Ornstein-Uhlenbeck noise. The scale is local: a moving mean over about a third of `late`.
    """
    residual = values - trend
    window = np.arange(len(values))[late]
    target = float(_lag_one(_standardise(residual, window))[0])
    candidates = np.array([np.mean(_lag_one(paths[window])) for paths in unit.residuals])
    # Smoothing makes the map flat for long correlation times: take the shortest that explains the residuals.
    candidates = np.maximum.accumulate(candidates)
    tau = float(np.interp(target, candidates, unit.times))
    nearest = int(np.argmin(np.abs(unit.times - tau)))
    expected = (unit.residuals[nearest] ** 2).mean(axis=1)
    ratio = residual**2 / expected
    scale = np.sqrt(_moving_mean(ratio, max(15, len(window) // 3)))
    # Each draw's mean square in the window is one estimate of the variance; its spread gives the degrees of freedom.
    spread = (unit.residuals[nearest][window] ** 2 / expected[window, None]).mean(axis=0)
    freedom = max(2.0 / float(spread.var()), 1.0)
    return Jitter(scale, tau, freedom)


def _standardise(residual: NDArray[np.float64], window: NDArray[np.intp]) -> NDArray[np.float64]:
    local = np.sqrt(_moving_mean(residual**2, max(15, len(window) // 3)))
    return (residual / np.where(local > 0, local, 1.0))[window, None]


def _lag_one(paths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lag-one correlation of each column, about zero."""
    power = (paths**2).sum(axis=0)
    return (paths[1:] * paths[:-1]).sum(axis=0) / np.where(power > 0, power, 1.0)


def _moving_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean over `width` neighbouring checkpoints, always of the full width: shifted inwards at the ends."""
    width = min(width, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    start = np.clip(np.arange(len(values)) - width // 2, 0, len(values) - width)
    return (sums[start + width] - sums[start]) / width
