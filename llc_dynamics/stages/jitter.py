"""The jitter of a curve between checkpoints, as an Ornstein-Uhlenbeck process around a fall and a rise.

A checkpoint's value is  value_c = trend_c + jitter_c + sampling error.  The jitter is the stochastic gradient's noise
in the weights: it is common to all evaluation sequences, so that no number of sequences averages it away, and
checkpoints that are close in steps share it (the more so if the weights were averaged). Its size and its correlation
time are estimated from what a *shape* leaves unexplained, not a smoothness: the best curve that falls and then rises.
A trend that is steep between sparse checkpoints is then not taken for noise, nor a wiggle on a plateau for trend.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.seeding import numpy_generator
from llc_dynamics.stages.smoothing import smoother_matrix, unimodal_fit

_NUM_PATHS = 60
# The correlation time is taken at which residuals as correlated as those seen are only this common: the upper end of
# the times that explain them, because too short a time makes wiggles look like trend.
_CAUTION = 0.25
# Correlation times that are tried, in units of the median spacing of the checkpoints.
_CORRELATION_TIMES = (0.0, 0.5, 1.0, 1.7, 3.0, 5.0, 9.0, 16.0, 30.0, 60.0, 120.0)


@dataclass(frozen=True)
class Jitter:
    """Standard deviation `scale` [C], correlation time in steps, and the degrees of freedom that the scale rests on."""

    scale: NDArray[np.float64]
    correlation_time: float
    degrees_of_freedom: float


def jitter_paths(
    steps: NDArray[np.int64], correlation_time: float, num_paths: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Stationary Ornstein-Uhlenbeck paths of unit variance [C, path], correlation exp(-|t_c - t_d| / tau) in steps."""
    path = generator.standard_normal((len(steps), num_paths))
    if correlation_time > 0:
        for c, rho in enumerate(np.exp(-np.diff(steps) / correlation_time), start=1):
            path[c] = rho * path[c - 1] + np.sqrt(1 - rho**2) * path[c]
    return path


class JitterCalibration:
    """What a fall-and-rise fit leaves of unit jitter at given checkpoints, for a grid of correlation times.

    Parameters
    ----------
    steps : the checkpoints that the jitter is judged on [C].
    resolution : half width of the smoother that places the turn of the fit.
    seed : seed of the paths.
    """

    def __init__(self, steps: NDArray[np.int64], resolution: float, seed: int) -> None:
        smoother = smoother_matrix(steps, resolution)
        spacing = float(np.median(np.diff(steps)))
        times = [tau * spacing for tau in _CORRELATION_TIMES if tau <= max(len(steps) / 3, 1.0)]
        lags, powers, freedoms = [], [], []
        for number, tau in enumerate(times):
            paths = jitter_paths(steps, tau, _NUM_PATHS, numpy_generator(seed, "jitter calibration", number))
            turns = np.argmin(smoother @ paths, axis=0)
            left = np.stack([p - unimodal_fit(p, int(turn)) for p, turn in zip(paths.T, turns, strict=True)], axis=1)
            power = (left**2).mean(axis=0)
            lags.append(float(np.quantile(_lag_one(left), _CAUTION)))
            powers.append(float(power.mean()))
            freedoms.append(2 * float(power.mean()) ** 2 / float(power.var()))
        self.times = np.array(times)
        # The map is monotone up to Monte Carlo error; where it is flat the shorter time is taken.
        self.lags = np.maximum.accumulate(lags)
        self.powers = np.array(powers)
        self.freedoms = np.array(freedoms)

    def match(self, lag: float) -> tuple[float, float, float]:
        """For a lag-one correlation of residuals: correlation time in steps, power left of 1, degrees of freedom."""
        tau = float(np.interp(lag, self.lags, self.times))
        return tau, float(np.interp(tau, self.times, self.powers)), float(np.interp(tau, self.times, self.freedoms))


@functools.lru_cache(maxsize=64)
def calibrated(steps: tuple[int, ...], resolution: float, seed: int) -> JitterCalibration:
    """The calibration for these checkpoints, remembered: controls ask for the same one hundreds of times."""
    return JitterCalibration(np.array(steps, dtype=np.int64), resolution, seed)


def late_window(trend: NDArray[np.float64]) -> int:
    """Index from where four fifths of the fall to the minimum are done; it leaves at least 10 checkpoints, or half."""
    turn = int(np.argmin(trend))
    level = trend[turn] + 0.2 * (trend[0] - trend[turn])
    start = int(np.flatnonzero(trend <= level)[0])
    return max(0, min(start, len(trend) - max(10, len(trend) // 2)))


def estimate_jitter(
    values: NDArray[np.float64],
    trend: NDArray[np.float64],
    steps: NDArray[np.int64],
    start: int,
    calibration: JitterCalibration,
) -> Jitter:
    """Moment estimate of the jitter of one curve, from the checkpoints `start` and later.

    Residuals of the fall-and-rise fit that turns at the trend's minimum: their lag-one correlation gives the
    correlation time and their mean square the variance, both by comparison with what such a fit leaves of
    Ornstein-Uhlenbeck paths at the same checkpoints (`calibration`). The fit can hide uncorrelated jitter on a slope;
    the deviations from the line through both neighbours cannot, and the larger of the two estimates is taken. The scale
    is local: a moving mean over half of the checkpoints used.

    Correlated jitter on a slope that outruns it within its correlation time is underestimated, by two or three times at
    worst; the slope is then many times the jitter.
    """
    residual = (values - unimodal_fit(values, int(np.argmin(trend))))[start:]
    tau, left, freedom = calibration.match(float(_lag_one(residual[:, None])[0]))
    width = min(len(residual), max(10, len(residual) // 2))
    shape_power = _moving_mean(residual**2 / left, width)
    slope_power = _moving_mean(_interpolation_errors(values[start:], steps[start:]) ** 2, width)
    scale = np.sqrt(np.maximum(shape_power, slope_power))
    # Before the window the slope is steep and the jitter cannot be seen; it decides nothing there.
    return Jitter(np.concatenate([np.full(start, scale[0]), scale]), tau, freedom)


def _interpolation_errors(values: NDArray[np.float64], steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Value minus the line through its neighbours in log time, scaled to the variance of one value; ends repeated."""
    x = np.log1p(steps.astype(np.float64))
    share = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    errors = values[1:-1] - (1 - share) * values[:-2] - share * values[2:]
    errors /= np.sqrt(1 + share**2 + (1 - share) ** 2)
    return np.concatenate([errors[:1], errors, errors[-1:]])


def _lag_one(paths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lag-one correlation of each column, about zero."""
    power = (paths**2).sum(axis=0)
    return (paths[1:] * paths[:-1]).sum(axis=0) / np.where(power > 0, power, 1.0)


def _moving_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean over `width` neighbours, always of the full width: shifted inwards at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    start = np.clip(np.arange(len(values)) - width // 2, 0, len(values) - width)
    return np.maximum(sums[start + width] - sums[start], 0.0) / width
