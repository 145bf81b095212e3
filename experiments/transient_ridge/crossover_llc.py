"""lambda_hat at any step of a run, with draws from its errors: a Gaussian process through the stored points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.finding import Finding
from llc_dynamics.llc import LLCCurve
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.stages.gaussian_process import SmoothFit, fit_curve

Array = NDArray[np.float64]

DRAWS = 2000
_LEAST_POINTS = 4
# From a fit that ends this far in log10 of the step before a step nothing is read.
_REACH = 0.1


@dataclass(frozen=True, eq=False)
class SmoothLLC:
    """lambda_hat over a run: the stored points, and a Gaussian process in log(t + 1) through the converged ones.

    `fit` is None where fewer than 4 points can be used; everything that is read is then NaN. paths : [draw, grid], from
    the posterior of the process, or with the errors of a straight line where these are larger (see `_line_draws`).
    """

    curve: Curve
    reasons: tuple[tuple[Finding, ...], ...]
    fit: SmoothFit | None
    paths: Array

    def at(self, step: float) -> tuple[float, float]:
        """lambda_hat and its standard error at `step`; NaN farther than 0.1 dex beyond the points."""
        found = self.draws_at(np.array([step]))[:, 0] if self._reaches(step) else np.array([math.nan])
        if self.fit is None or np.isnan(found).any():
            return math.nan, math.nan
        return float(np.interp(math.log1p(step), self.fit.grid, self.fit.mean)), float(found.std())

    def change(self, start: float, stop: float) -> tuple[float, float]:
        """lambda_hat at `stop` minus at `start`, with its error: joint, so that what both share cancels."""
        if not (self._reaches(start) and self._reaches(stop)):
            return math.nan, math.nan
        ends = self.draws_at(np.array([start, stop]))
        return self.at(stop)[0] - self.at(start)[0], float((ends[:, 1] - ends[:, 0]).std())

    def draws_at(self, steps: ArrayLike) -> Array:
        """Draws of lambda_hat at `steps` [S], [draw, S]; each draw is one path over the whole run."""
        if self.fit is None:
            return np.full((DRAWS, np.size(steps)), math.nan)
        places = np.interp(np.log1p(np.asarray(steps, dtype=np.float64)), self.fit.grid, np.arange(len(self.fit.grid)))
        left = np.minimum(places.astype(int), len(self.fit.grid) - 2)
        share = places - left
        return (1 - share) * self.paths[:, left] + share * self.paths[:, left + 1]

    def nearest(self, step: float) -> dict[str, Any]:
        """The stored point that is nearest to `step` in log time, converged or not."""
        place = int(np.abs(np.log1p(self.curve.steps) - math.log1p(step)).argmin())
        assert self.curve.standard_errors is not None
        assert self.curve.converged is not None
        return {
            "step": int(self.curve.steps[place]),
            "value": float(self.curve.values[place]),
            "standard_error": float(self.curve.standard_errors[place]),
            "converged": bool(self.curve.converged[place]),
            "reasons": [reason.text for reason in self.reasons[place]],
        }

    def _reaches(self, step: float) -> bool:
        if self.fit is None:
            return False
        low, high = self.fit.grid[0], self.fit.grid[-1]
        reach = _REACH * math.log(10)
        return bool(low - reach <= math.log1p(step) <= high + reach)


def smooth_llc(curve: LLCCurve, unconverged: bool = False, seed: int = 0) -> SmoothLLC:
    """The process through the usable points of a stored curve; errors are `total_error`, with the biases measured.

    Points of common noise keep their correlations.
    """
    errors = np.array([result.total_error for result in curve.results])
    points = Curve(curve.steps, curve.values, np.where(errors >= 0, errors, math.nan), curve.name, curve.converged)
    if curve.covariance is not None:
        grown = errors / np.sqrt(np.diag(curve.covariance))
        full = curve.covariance * np.outer(grown, grown)
        points = Curve(curve.steps, curve.values, name=curve.name, converged=curve.converged, covariance=full)
    usable = np.isfinite(points.values) & np.isfinite(errors)
    if not unconverged:
        assert curve.converged is not None
        usable &= curve.converged
    if usable.sum() < _LEAST_POINTS:
        return SmoothLLC(points, curve.reasons, None, np.empty((0, 0)))
    used = points.at(usable)
    fit = fit_curve(used)
    generator = numpy_generator(seed, "crossover: LLC paths", *map(int, curve.steps))
    paths, _ = fit.paths(DRAWS, generator)
    line = _line_draws(used, fit, generator)
    if line.var() > (paths - fit.mean).var():
        paths = fit.mean + line
    return SmoothLLC(points, curve.reasons, fit, paths)


def _line_draws(curve: Curve, fit: SmoothFit, generator: np.random.Generator) -> Array:
    """Errors of a straight line in log time through the points, by generalised least squares, on the grid, [draw, G].

    Through points without structure the process is a constant that is taken for known, and its errors vanish: those of
    the line, which a curve cannot be known better than, stand in for them.
    """
    assert curve.standard_errors is not None
    noise = np.diag(curve.standard_errors**2) if curve.covariance is None else curve.covariance
    noise = noise + max(fit.noise, 1e-12) ** 2 * np.eye(len(curve))
    middle = float(fit.grid.mean())
    design = np.stack([np.ones(len(curve)), np.log1p(curve.steps.astype(np.float64)) - middle], axis=1)
    coefficients = np.linalg.inv(design.T @ np.linalg.solve(noise, design))
    drawn = generator.multivariate_normal(np.zeros(2), coefficients, DRAWS)
    return np.asarray(drawn[:, :1] + drawn[:, 1:] * (fit.grid - middle))
