"""A curve over training as a Gaussian process in log time: trend, slope and joint samples of both, in closed form.

In x = log(t + 1) the curve is a constant plus a process with the Matern 5/2 kernel

    k(r) = s^2 (1 + a r + a^2 r^2 / 3) exp(-a r),   a = sqrt(5) / l,   r = |x - x'|

(Rasmussen & Williams 2006, 4.2), which has a slope that is itself continuous, and no more: a smoother kernel (Hoogland
et al. 2024 use the squared exponential) rings where a curve turns sharply. Noise is the measured standard error of each
point, or the covariance of the points' errors, plus one fitted for all points, without which errors that are too small
would be read as structure. Beside it stand other accounts of the same points (`accounts`), compared by the Bayesian
information criterion: a constant and random walks, which have no stages, and a staircase, which has. `weight` is what
the smooth process and the staircase have together: jumps are no stationary process, but its mean shows their places.

Points of common noise share an error of their level. It says nothing of the curve's shape, would favour accounts that
leave the level open, and is taken out of the covariance before they are compared (`without_level`).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular

from llc_dynamics.curve import Curve
from llc_dynamics.stages.accounts import JITTER, constant_evidence, matrix_of, staircase_evidence, walk_evidence

Array = NDArray[np.float64]

# More points than this are averaged within cells of log time before the fit, weighted by their precision.
MOST_CELLS = 160
# Where the slope and its samples are computed.
_GRID = 240
# Length scales, in units of the range of x.
_SHORTEST, _LONGEST = 0.03, 3.0
# A covariance comes from a few draws, fewer than there are points, and is too small in some directions: it is shrunk
# towards its diagonal (Ledoit & Wolf 2004). Of smooth rises at 24 points, with the covariance of 12 draws, 7 of 40 had
# a boundary without this, and none with it, nor with half of it.
_OWN = 0.1


@dataclass(frozen=True)
class SmoothFit:
    """A fitted process and what it says on a grid.

    Attributes
    ----------
    grid : x = log(t + 1), [G]. seen : x of the points, [C]. mean, slope : posterior means on the grid of the curve and
        of d curve / dx, [G].
    mean_error, slope_error : their posterior standard deviations, [G]. level_error : of the level that all points
        share, which is in `mean_error` and in no difference; 0 without a covariance.
    noise : standard deviation of the fitted noise that comes on top of the measured errors.
    length_scale : l, in units of x. weight : of a smooth curve or a staircase against a constant and random walks.
    log_evidence : by name of the account, the log marginal likelihood less k/2 log n for k fitted numbers.
    """

    grid: Array
    seen: Array
    mean: Array
    slope: Array
    mean_error: Array
    slope_error: Array
    level_error: float
    noise: float
    length_scale: float
    weight: float
    log_evidence: dict[str, float]
    _mean_root: Array
    _joint_root: Array

    def paths(self, count: int, generator: np.random.Generator) -> tuple[Array, Array]:
        """`count` samples of curve and slope from their joint posterior, [count, G] each."""
        joint = self._mean_root + generator.standard_normal((count, self._joint_root.shape[1])) @ self._joint_root.T
        return joint[:, : len(self.grid)], joint[:, len(self.grid) :]


def in_cells(x: Array, values: Array, variances: Array | None, most: int) -> tuple[Array, Array, Array | None]:
    """Averages within cells of equal width in x, if there are more points than `most`; else the points themselves.

    Points with a variance are weighted by its inverse; without, a cell of m points has weight m, which comes back as a
    variance of 1/m in units of the noise that is to be fitted. A covariance [C, C] comes back as that of the averages.
    """
    if len(x) <= most:
        return x, values, variances
    cell = np.minimum(((x - x[0]) / (x[-1] - x[0]) * most).astype(int), most - 1)
    if variances is not None and variances.ndim == 2:
        own = np.diag(variances)
        share = shares_of_cells(cell, 1 / np.maximum(own, 1e-12 * float(own.max())), most)
        share = share[share.any(axis=1)]
        return share @ x, share @ values, share @ variances @ share.T
    # in units of the largest, and within 12 orders of it: the sums below overflow where a variance is zero
    largest = 1.0 if variances is None else float(variances.max())
    weight = np.ones_like(x) if variances is None else largest / np.maximum(variances, 1e-12 * largest)
    total = np.bincount(cell, weight, most)
    used = total > 0
    middle = np.bincount(cell, weight * x, most)[used] / total[used]
    average = np.bincount(cell, weight * values, most)[used] / total[used]
    return middle, average, largest / total[used]


def shares_of_cells(cell: NDArray[np.intp], weight: Array, count: int) -> Array:
    """What each point [C], by its weight, has of the average of its cell, [count, C]; zeros where a cell is empty."""
    table = np.zeros((count, len(cell)))
    table[cell, np.arange(len(cell))] = weight
    return np.asarray(table / np.maximum(table.sum(axis=1, keepdims=True), 1e-300))


def fit_curve(curve: Curve) -> SmoothFit:
    """Fit the process to a curve without gaps, with the covariance of its errors, or else its standard errors."""
    x = np.log1p(curve.steps.astype(np.float64))
    return fit_smooth(x, curve.values, curve.standard_errors, curve.covariance)


def fit_smooth(x: Array, values: Array, errors: Array | None, covariance: Array | None = None) -> SmoothFit:
    """Fit the process to `values` [C] at x [C], with standard errors [C], or None (or zeros) to estimate them.

    covariance : of the errors, [C, C], in place of the standard errors, which then are the roots of its diagonal.
    """
    variances = None if errors is None or not np.square(errors).any() else np.square(errors)
    level = 0.0
    if variances is not None and covariance is not None:
        variances, level = without_level(covariance)
    many = len(x) > MOST_CELLS
    centres, averages, spread = in_cells(x, values, variances, MOST_CELLS)
    middle = float(averages.mean())
    scale = float(averages.std()) or 1.0
    y = (averages - middle) / scale
    # one fitted noise level for all points; a cell of m points has 1/m of its variance
    share = spread if many and variances is None else np.ones_like(y)
    known = np.zeros_like(y) if variances is None or spread is None else spread / scale**2
    assert share is not None
    amplitude, length, noise, evidence = _accounts(centres, y, known, share)
    highest = max(evidence.values())
    chance = {name: math.exp(value - highest) for name, value in evidence.items()}
    weight = (chance["smooth"] + chance["staircase"]) / sum(chance.values())

    grid = np.linspace(centres[0], centres[-1], _GRID)
    noise_of_y = matrix_of(known) + np.diag(noise * share) + JITTER * amplitude * np.eye(len(y))
    mean, posterior = _posterior(grid, centres, y, noise_of_y, amplitude, length)
    posterior[:_GRID, :_GRID] += level / scale**2
    variance = np.clip(np.diag(posterior), 0, None)
    size = np.concatenate([np.full(_GRID, middle), np.zeros(_GRID)])
    return SmoothFit(
        grid=grid,
        seen=x,
        mean=middle + scale * mean[:_GRID],
        slope=scale * mean[_GRID:],
        mean_error=scale * np.sqrt(variance[:_GRID]),
        slope_error=scale * np.sqrt(variance[_GRID:]),
        level_error=math.sqrt(level),
        noise=scale * math.sqrt(noise),
        length_scale=length,
        weight=weight,
        log_evidence=evidence,
        _mean_root=size + scale * mean,
        _joint_root=scale * root_of(posterior),
    )


def without_level(covariance: Array) -> tuple[Array, float]:
    """What is left of the covariance without the level that all points share, and the variance of that level.

    The best level, by generalised least squares, has variance 1 / (1' S^-1 1), and what is left of the errors is
    uncorrelated with it (Aitken 1936). What the level of as many independent points would have stays where it is. Of
    the rest a share of `_OWN` counts as the points' own.
    """
    count = len(covariance)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, max(1e-12 * values[-1], 1e-300))
    of_level = 1 / float((vectors.sum(axis=0) ** 2 / values).sum())
    of_differences = (float(np.trace(covariance)) - float(covariance.sum()) / count) / (count - 1)
    level = max(of_level - of_differences / count, 0.0)
    root = root_of((vectors * values) @ vectors.T - level)
    shape = root @ root.T
    return (1 - _OWN) * shape + _OWN * np.diag(np.diag(shape)), level


def _accounts(x: Array, y: Array, known: Array, share: Array) -> tuple[float, float, float, dict[str, float]]:
    """s^2, l and noise variance of the smooth process, and the log evidence of every account of the points."""
    amplitude, length, noise, log_likelihood = _fit_matern(x, y, known, share)
    evidence = {
        "constant": constant_evidence(y, known, share),
        "random walk in log time": walk_evidence(x, y, known, share),
        "random walk over checkpoints": walk_evidence(np.linspace(x[0], x[-1], len(x)), y, known, share),
        "staircase": staircase_evidence(y, known, share),
        "smooth": log_likelihood - 1.5 * math.log(len(y)),
    }
    return amplitude, length, noise, evidence


def _posterior(grid: Array, x: Array, y: Array, noise: Array, amplitude: float, length: float) -> tuple[Array, Array]:
    """Mean [2 G] and covariance [2 G, 2 G] of curve and slope on the grid, given y with this noise [C, C] at x."""
    covariance = amplitude * _matern(x[:, None] - x[None, :], length)[0] + noise
    root = cholesky(covariance, lower=True)
    weights = cho_solve((root, True), y)
    to_value, to_slope, _ = _matern(grid[:, None] - x[None, :], length)
    cross = amplitude * np.concatenate([to_value, to_slope])
    value, slope, curvature = _matern(grid[:, None] - grid[None, :], length)
    prior = amplitude * np.block([[value, -slope], [slope, curvature]])
    explained = solve_triangular(root, cross.T, lower=True)
    return cross @ weights, prior - explained.T @ explained


def _matern(r: Array, length: float) -> tuple[Array, Array, Array]:
    """k, d k / d r and -d^2 k / d r^2 of the kernel with s = 1 at signed distances r = x - x'.

    The second is the covariance of the slope at x with the value at x', the third that of the slopes at x and x'.
    """
    a = math.sqrt(5) / length
    scaled = a * np.abs(r)
    decay = np.exp(-scaled)
    return (
        (1 + scaled + scaled**2 / 3) * decay,
        -(a**2) / 3 * r * (1 + scaled) * decay,
        a**2 / 3 * (1 + scaled - scaled**2) * decay,
    )


def root_of(covariance: Array) -> Array:
    """R with R R' = covariance, by its eigenvalues: rounding leaves small negative ones."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    kept = values > 1e-10 * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])


def _fit_matern(x: Array, y: Array, known: Array, share: Array) -> tuple[float, float, float, float]:
    """s^2, l, noise variance and log marginal likelihood, by scikit-learn."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    width = float(x[-1] - x[0])
    own = known if known.ndim == 1 else np.diag(known)
    best: Any = None
    for start in (0.15, 0.6):
        kernel = ConstantKernel(1.0, (1e-4, 1e3)) * Matern(
            start * width, (_SHORTEST * width, _LONGEST * width), nu=2.5
        ) + _shared_noise(share, matrix_of(known) - np.diag(own))
        model = GaussianProcessRegressor(kernel, alpha=own + JITTER)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x[:, None], y)
        if best is None or model.log_marginal_likelihood_value_ > best.log_marginal_likelihood_value_:
            best = model
    amplitude, length, noise = np.exp(best.kernel_.theta)
    return float(amplitude), float(length), float(noise), float(best.log_marginal_likelihood_value_)


def _shared_noise(share: Array, correlated: Array) -> Any:
    """White noise of one fitted level, times each point's `share` of it, beside known noise `correlated` [C, C]."""
    from sklearn.gaussian_process.kernels import WhiteKernel

    class _SharedNoise(WhiteKernel):
        def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
            if Y is not None:
                return np.zeros((len(X), len(Y)))
            matrix = self.noise_level * np.diag(share)
            if not eval_gradient:
                return matrix + correlated
            return matrix + correlated, matrix[:, :, None]

        def diag(self, X: Any) -> Any:
            return self.noise_level * (share if len(X) == len(share) else np.ones(len(X)))

    return _SharedNoise(1e-2, (1e-8, 1e1))
