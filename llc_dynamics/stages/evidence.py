"""A curve's trend with both of its errors: over evaluation sequences, and over the jitter between checkpoints."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.ranges import between_0_and_1, finite_number, whole_number
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.stages.gaussian_process import root_of
from llc_dynamics.stages.jitter import Jitter, calibrated, estimate_jitter, jitter_paths, late_window
from llc_dynamics.stages.smoothing import smoother_matrix


@dataclass(frozen=True)
class Change:
    """A difference of the trend between two checkpoints, and its two standard errors."""

    value: float
    sampling_error: float
    jitter_error: float

    @property
    def error(self) -> float:
        """Both errors together."""
        return float(np.hypot(self.sampling_error, self.jitter_error))

    @property
    def z(self) -> float:
        """The change over its error; infinite with its sign where the error is zero."""
        if self.error > 0:
            return self.value / self.error
        return float(np.sign(self.value) * np.inf) if self.value else 0.0


def check_bootstrap(level: float, resolution: float, num_bootstrap: int) -> None:
    """`ConfigError` for settings out of their range."""
    between_0_and_1("level", level)
    finite_number("resolution (a width in log(t + 1), such as 0.5)", resolution, zero=False)
    whole_number("num_bootstrap", num_bootstrap, 50)


class TimeGrid:
    """What curves over the same steps share: the smoother and the bootstrap weights."""

    def __init__(self, steps: NDArray[np.int64], resolution: float, num_bootstrap: int, seed: int) -> None:
        self.steps = steps
        self.smoother = smoother_matrix(steps, resolution)
        self.resolution = resolution
        self.num_bootstrap = num_bootstrap
        self.seed = seed
        self._weights: dict[int, NDArray[np.float32]] = {}

    def bootstrap_weights(self, num_samples: int) -> NDArray[np.float32]:
        """Multinomial weights [sample, draw], each column of mean one over samples; the same for every curve."""
        if num_samples not in self._weights:
            generator = numpy_generator(self.seed, "bootstrap over sequences", num_samples)
            counts = generator.multinomial(num_samples, np.full(num_samples, 1 / num_samples), size=self.num_bootstrap)
            self._weights[num_samples] = (counts.T / num_samples).astype(np.float32)
        return self._weights[num_samples]


class Evidence:
    """One curve's trend [C], with draws of its errors.

    Parameters
    ----------
    curve : finite values on the grid's steps; `samples` [C, S] give the error over evaluation sequences, or else the
        covariance of the errors does.
    window : index of the first checkpoint that the jitter is estimated from; by default after the first large fall.
    log : work on log(values); samples then enter by the delta method, sample / mean.
    exact_first : leave the first checkpoint as it is, value and errors: it is the model as it was made, and the
        smoother would mix it with what came after.
    """

    def __init__(
        self, curve: Curve, grid: TimeGrid, log: bool = False, window: int | None = None, exact_first: bool = False
    ) -> None:
        self.name = curve.name
        self.grid = grid
        self.steps = grid.steps
        values = curve.values.astype(np.float64)
        self.raw = np.log(values) if log else values
        smoother = grid.smoother
        if exact_first:
            smoother = smoother.copy()
            smoother[0] = np.eye(1, len(smoother))
        self.trend = smoother @ self.raw
        self.standard_errors = None
        if curve.standard_errors is not None:
            self.standard_errors = curve.standard_errors / values if log else curve.standard_errors
        self.covariance: NDArray[np.float64] | None = None
        if curve.covariance is not None:
            scale = values if log else np.ones_like(values)
            self.covariance = smoother @ (curve.covariance / np.outer(scale, scale)) @ smoother.T
        self.deviations: NDArray[np.float32] | None = None
        if curve.samples is not None and curve.samples.shape[1] > 1:
            deviations = curve.samples - curve.samples.mean(axis=1, keepdims=True, dtype=np.float64)
            if log:
                deviations = deviations / values[:, None]
            self.deviations = smoother.astype(np.float32) @ deviations.astype(np.float32)
        start = late_window(self.trend) if window is None else window
        self.window = start
        calibration = calibrated(tuple(self.steps[start:].tolist()), grid.resolution, grid.seed)
        self.jitter: Jitter = estimate_jitter(self.raw, self.trend, self.steps, start, calibration)
        generator = numpy_generator(grid.seed, "jitter of", curve.name, int(log))
        paths = jitter_paths(self.steps, self.jitter.correlation_time, grid.num_bootstrap, generator)
        self._jitter_draws = smoother @ (self.jitter.scale[:, None] * paths)
        # Few degrees of freedom make the scale itself uncertain: Student's t in place of the normal distribution.
        freedom = self.jitter.degrees_of_freedom
        self._inflation = float(np.sqrt(freedom / (freedom - 2))) if freedom > 3 else float(np.sqrt(3.0))
        self._scale_draws = np.sqrt(freedom / generator.chisquare(freedom, grid.num_bootstrap))

    def jitter_draws(self) -> NDArray[np.float64]:
        """Deviations of the trend from jitter of the estimated size and correlation [C, draw], scale uncertain too."""
        return self._jitter_draws * self._scale_draws

    def sampling_draws(self) -> NDArray[np.float64]:
        """Bootstrap deviations of the trend over evaluation sequences, or draws from its covariance, [C, draw].

        Zero without either.
        """
        if self.deviations is None:
            if self.covariance is None:
                return np.zeros((len(self.steps), self.grid.num_bootstrap))
            root = root_of(self.covariance)
            generator = numpy_generator(self.grid.seed, "errors of", self.name)
            return np.asarray(root @ generator.standard_normal((root.shape[1], self.grid.num_bootstrap)))
        return np.asarray(self.deviations @ self.grid.bootstrap_weights(self.deviations.shape[1]), dtype=np.float64)

    @functools.cached_property
    def draws(self) -> NDArray[np.float64]:
        """Deviations of the trend from both, [C, draw]."""
        return self.sampling_draws() + self.jitter_draws()

    def change(self, start: int, end: int) -> Change:
        """Trend at checkpoint `end` minus at `start`, paired over the sequences."""
        if start == end:
            return Change(0.0, 0.0, 0.0)
        return Change(
            float(self.trend[end] - self.trend[start]),
            float(self.sampling_errors(end)[start]),
            float(self.jitter_errors(end)[start]),
        )

    def level_error(self, index: int) -> float:
        """Standard error of the trend at one checkpoint, over sequences and jitter."""
        if self.deviations is not None:
            sampling = float(self.deviations[index].std() / np.sqrt(self.deviations.shape[1]))
        elif self.covariance is not None:
            sampling = float(np.sqrt(self.covariance[index, index]))
        else:
            sampling = 0.0 if self.standard_errors is None else float(self.standard_errors[index])
        return float(np.hypot(sampling, self._inflation * self._jitter_draws[index].std()))

    def sampling_errors(self, end: int) -> NDArray[np.float64]:
        """Standard error of (trend at `end` - trend at c) over sequences, for every c [C].

        Paired with samples or a covariance. With standard errors alone the two ends are taken as independent, which is
        too wide where the sequences were the same; with neither it is zero, and only the jitter counts.
        """
        if self.deviations is not None:
            count = self.deviations.shape[1]
            return np.asarray((self.deviations[end] - self.deviations).std(axis=1) / np.sqrt(count), dtype=np.float64)
        if self.covariance is not None:
            own = np.diag(self.covariance)
            return np.sqrt(np.clip(own[end] + own - 2 * self.covariance[end], 0.0, None))
        if self.standard_errors is not None:
            return np.where(
                np.arange(len(self.steps)) == end, 0.0, np.hypot(self.standard_errors[end], self.standard_errors)
            )
        return np.zeros(len(self.steps))

    def jitter_errors(self, end: int) -> NDArray[np.float64]:
        """Standard error of (trend at `end` - trend at c) from the jitter, for every c [C]."""
        return self._inflation * (self._jitter_draws[end] - self._jitter_draws).std(axis=1)

    def cross_fitted_rebound(self, num_splits: int = 16) -> float | None:
        """End minus minimum with the minimum chosen on one half of the sequences and measured on the other.

        Mean over random halvings, both ways round: free of the bias that choosing the minimum on the same sequences
        gives. None without samples.
        """
        if self.deviations is None or self.deviations.shape[1] < 4:
            return None
        count = self.deviations.shape[1]
        generator = numpy_generator(self.grid.seed, "halves of the sequences", count)
        half = np.argsort(generator.random((count, num_splits)), axis=0) < count // 2
        first = self.trend[:, None] + self.deviations @ (half / half.sum(axis=0)).astype(np.float32)
        second = self.trend[:, None] + self.deviations @ (~half / (~half).sum(axis=0)).astype(np.float32)
        splits = np.arange(num_splits)
        rebounds = [
            measured[-1] - measured[np.argmin(chosen, axis=0), splits]
            for chosen, measured in ((first, second), (second, first))
        ]
        return float(np.mean(rebounds))
