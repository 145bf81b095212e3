"""PCA of the function vectors of several training runs at once, in the way of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.pca.decomposition import SOLVERS, choose_solver, decompose
from llc_dynamics.pca.rows import RunRows, StackedRows, gather_runs, is_trajectory, vectors_of
from llc_dynamics.ranges import finite_number, numbers_of, whole_number


class JointTrajectoryPCA(TransformerMixin, BaseEstimator):
    """Joint trajectory PCA (Carroll et al. 2025, arXiv 2501.17745): runs and checkpoints stacked, one mean, one basis.

    A checkpoint's function vector f holds the model's outputs on one fixed batch. With X the matrix of all function
    vectors of all runs [row, feature], m its column mean and X - m = U S V', the score of a vector on component i is
    (f - m) . V_i. Reference solutions are projected with the same m and V by `transform` and never
    take part in the fit.

    Every stored checkpoint is one row of equal weight. A run with more checkpoints, and the part of training where
    checkpoints lie densely, therefore pull the mean and the components towards themselves; to compare runs on equal
    terms give them the same checkpoint schedule, or fit on `run.outputs()[chosen]`.

    PCA of any smooth trajectory, of a random walk too, gives components that look like cosines: judge them with
    `cosine_content` and its random-walk control before reading meaning into a turn.

    Parameters
    ----------
    n_components : number of components to keep, at most min(rows, features).
    solver : "gram" (from the products of rows with rows), "covariance" (of features with features), "randomized" (block
        Krylov iteration, repeated passes until the values change by less than 1e-8), or "auto": by shape.
    block_megabytes : largest float64 block of rows held at a time. Function vectors are read and checked block by
        block, several times; besides the result the fit needs some four such blocks, and the smaller of the two product
        matrices twice (72 MB each at most with "auto"; randomized: a few dozen vectors per pass instead). With the
        default it stays below 1 GB whatever the number of runs.
    seed : seed of the randomized solver.

    Attributes
    ----------
    components_ : float64 [component, feature], orthonormal; signs make the entry of largest size positive.
    explained_variance_, explained_variance_ratio_, singular_values_ : float64 [component].
    mean_ : float64 [feature], the joint column mean.
    n_components_, n_features_in_, n_samples_ : int.
    feature_shape_ : the shape of one function vector as it was stored, for example (512, 16).
    n_runs_, solver_ : number of runs, and the solver that was used.
    """

    components_: NDArray[np.float64]
    explained_variance_: NDArray[np.float64]
    explained_variance_ratio_: NDArray[np.float64]
    singular_values_: NDArray[np.float64]
    mean_: NDArray[np.float64]
    n_components_: int
    n_features_in_: int
    n_samples_: int
    n_runs_: int
    feature_shape_: tuple[int, ...]
    solver_: str

    def __init__(
        self, n_components: int = 4, *, solver: str = "auto", block_megabytes: float = 128.0, seed: int = 0
    ) -> None:
        self.n_components = n_components
        self.solver = solver
        self.block_megabytes = block_megabytes
        self.seed = seed

    def fit(self, X: Any, y: None = None) -> JointTrajectoryPCA:  # noqa: ARG002
        """Fit on runs.

        Parameters
        ----------
        X : list of `Trajectory` or arrays [checkpoint, ...]; a single one counts as a list of one.
        y : ignored, by scikit-learn's convention.

        Raises
        ------
        DataError : no runs, no outputs stored, outputs of different size, NaN, no variance, or too many components.
        ConfigError : a setting of the estimator itself is wrong.
        """
        if self.solver not in SOLVERS:
            raise ConfigError(f"solver={self.solver!r} is unknown; choose one of {', '.join(SOLVERS)}")
        count = whole_number("n_components", self.n_components, 1)
        block_bytes = int(finite_number("block_megabytes", self.block_megabytes, zero=False) * 2**20)
        runs = gather_runs(X)
        num_rows, num_features = sum(run.num_rows for run in runs), runs[0].num_features
        if count > min(num_rows, num_features):
            raise DataError(
                f"n_components={count}, but {num_rows} checkpoints of {num_features} numbers have at most "
                f"{min(num_rows, num_features)}; ask for fewer, or store more checkpoints"
            )
        rows = StackedRows(runs, block_bytes)
        solver = choose_solver(num_rows, num_features, rows.block_rows) if self.solver == "auto" else self.solver
        found = decompose(rows, count, solver, self.seed)

        largest = np.abs(found.components).argmax(axis=1)
        signs = np.where(found.components[np.arange(len(largest)), largest] < 0, -1.0, 1.0)
        self.components_ = found.components * signs[:, None]
        self.singular_values_ = found.singular_values
        self.explained_variance_ = found.singular_values**2 / max(num_rows - 1, 1)
        self.explained_variance_ratio_ = found.singular_values**2 / found.total
        self.mean_ = rows.mean
        self.n_components_ = count
        self.n_features_in_ = num_features
        self.n_samples_ = num_rows
        self.n_runs_ = len(runs)
        self.feature_shape_ = runs[0].feature_shape
        self.solver_ = solver
        return self

    def transform(self, X: Any) -> Any:
        """Scores of runs or vectors: (f - mean_) . components_.

        Parameters
        ----------
        X : one of
            a `Trajectory` or an array [checkpoint, ...]: scores [checkpoint, component];
            a single function vector, of shape `feature_shape_` or flat: scores [component];
            a list of trajectories or arrays [checkpoint, ...]: a list of scores;
            a dict of any of these, such as `{"reference": ..., "run": ...}`: a dict of scores.

        Raises `DataError` if the vectors do not have the fitted size or are not finite, and scikit-learn's
        `NotFittedError` before `fit`.
        """
        check_is_fitted(self)
        if isinstance(X, dict):
            return {name: self._scores(item, f"'{name}'") for name, item in X.items()}
        if isinstance(X, (list, tuple)) and X and all(is_trajectory(run) or _axes(run) >= 2 for run in X):
            return [self._scores(item, f"item {number}") for number, item in enumerate(X)]
        return self._scores(X, "the input")

    def inverse_transform(self, X: Any) -> NDArray[np.float64]:
        """Function vectors [..., feature] (flat) from scores [..., component]: mean_ + scores . components_."""
        check_is_fitted(self)
        scores = numbers_of("scores", X)
        if scores.shape[-1:] != (self.n_components_,):
            raise DataError(f"scores have shape {scores.shape}; the last axis must be {self.n_components_} components")
        return scores @ self.components_ + self.mean_

    def _scores(self, item: Any, label: str) -> NDArray[np.float64]:
        single = False
        misfit = (
            f"this PCA was fitted on function vectors of shape {self.feature_shape_} ({self.n_features_in_} numbers), "
            "outputs on one fixed batch"
        )
        if not is_trajectory(item):
            if not hasattr(item, "shape"):
                item = vectors_of(item, label)
            shape = tuple(item.shape)
            single = shape in (self.feature_shape_, (self.n_features_in_,))
            # A stack [checkpoint, *feature_shape_] and a lone vector differ in their number of axes, except where a
            # flat vector was stored; then the shapes above decide.
            item = vectors_of(item, label)[None] if single else item
            if len(item.shape) < 2:
                raise DataError(f"{label} has shape {shape}; {misfit}")
        run = RunRows(item, label)
        if run.num_features != self.n_features_in_:
            raise DataError(
                f"{run.label} has function vectors of shape {run.feature_shape} ({run.num_features} numbers); {misfit}"
            )
        block_rows = max(1, int(self.block_megabytes * 2**20) // (8 * self.n_features_in_))
        scores = np.empty((run.num_rows, self.n_components_))
        for start in range(0, run.num_rows, block_rows):
            stop = min(start + block_rows, run.num_rows)
            scores[start:stop] = (run.read(start, stop) - self.mean_) @ self.components_.T
        return scores[0] if single else scores


def _axes(item: Any) -> int:
    return item.ndim if hasattr(item, "ndim") else vectors_of(item, "an item").ndim
