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
# Checkpoints within the resolution on either side from which on the residuals of the smoother count as jitter.
_DENSE = 16
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


class _Response:
    """What one way of taking residuals leaves of unit jitter, for a grid of correlation times."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.lags: list[float] = []
        self.powers: list[float] = []
        self.freedoms: list[float] = []

    def add(self, tau: float, residuals: NDArray[np.float64]) -> None:
        power = (residuals**2).mean(axis=0)
        self.times.append(tau)
        # The map from time to correlation is monotone up to Monte Carlo error; where it is flat the shorter is taken.
        self.lags.append(max([float(np.quantile(_lag_one(residuals), _CAUTION)), *self.lags[-1:]]))
        self.powers.append(float(power.mean()))
        self.freedoms.append(2 * float(power.mean()) ** 2 / float(power.var()))

    def match(self, residual: NDArray[np.float64]) -> tuple[float, float, float]:
        """Correlation time in steps, share of the power that is left, and degrees of freedom."""
        tau = float(np.interp(_lag_one(residual[:, None])[0], self.lags, self.times))
        return tau, float(np.interp(tau, self.times, self.powers)), float(np.interp(tau, self.times, self.freedoms))


class JitterCalibration:
    """What is left of unit jitter at given checkpoints by a fall-and-rise fit (`shape`) and by a smoother (`smooth`).

    steps : the checkpoints that the jitter is judged on [C]. resolution : half width of the smoother, which also places
    the turn of the fit.
    """

    def __init__(self, steps: NDArray[np.int64], resolution: float, seed: int) -> None:
        self.smoother = smoother_matrix(steps, resolution)
        self.spacing = float(np.median(np.diff(steps)))
        x = np.log1p(steps.astype(np.float64))
        self.dense = bool(np.median((np.abs(x[:, None] - x) < resolution).sum(axis=1)) >= _DENSE)
        self.shape, self.smooth = _Response(), _Response()
        for number, time in enumerate(_CORRELATION_TIMES):
            if time > max(len(steps) / 3, 1.0):
                break
            tau = time * self.spacing
            paths = jitter_paths(steps, tau, _NUM_PATHS, numpy_generator(seed, "jitter calibration", number))
            trends = self.smoother @ paths
            turns = np.argmin(trends, axis=0)
            fits = [unimodal_fit(path, int(turn)) for path, turn in zip(paths.T, turns, strict=True)]
            self.shape.add(tau, paths - np.stack(fits, axis=1))
            # What moves as slowly as the smoother cannot be told from the trend; the fit of the shape must see it.
            if np.mean((paths - trends) ** 2) >= 0.5 or number == 0:
                self.smooth.add(tau, paths - trends)


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
    Ornstein-Uhlenbeck paths at the same checkpoints (`calibration`). On a slope such a fit hides jitter: uncorrelated
    jitter shows in the deviations from the line through both neighbours, correlated jitter, where checkpoints are dense
    enough for the trend to be straight between them, in the residuals of the smoother. The largest of the estimates is
    taken. The scale is local: a moving mean over half of the checkpoints used.

    With sparse checkpoints, correlated jitter on a slope that outruns it is underestimated.
    """
    late = values[start:]
    residual = (values - unimodal_fit(values, int(np.argmin(trend))))[start:]
    tau, left, freedom = calibration.shape.match(residual)
    power = residual**2 / left
    if calibration.dense:
        around = late - calibration.smoother @ late
        other_tau, other_left, other_freedom = calibration.smooth.match(around)
        # The variance of a local mean grows with the correlation time as well: that is what the two are compared by.
        lengths = 1 + 2 * np.array([tau, other_tau]) / calibration.spacing
        if np.mean(around**2) / other_left * lengths[1] > np.mean(power) * lengths[0]:
            tau, freedom, power = other_tau, other_freedom, around**2 / other_left
    width = min(len(residual), max(10, len(residual) // 2))
    slope_power = _moving_mean(_interpolation_errors(late, steps[start:]) ** 2, width)
    scale = np.sqrt(np.maximum(_moving_mean(power, width), slope_power))
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
