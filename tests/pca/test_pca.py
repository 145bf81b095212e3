"""Joint trajectory PCA against scikit-learn's PCA of the stacked matrix, and its conventions and errors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError


class LazyRows:
    """What `Trajectory.outputs()` returns: a shape and slices, and a record of how much was read at a time."""

    def __init__(self, array):
        self.array, self.shape, self.largest_read = array, array.shape, 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        block = self.array[rows]
        self.largest_read = max(self.largest_read, len(block))
        return block


def stored_run(array, path="runs/some"):
    lazy = LazyRows(array)
    return SimpleNamespace(path=path, steps=10 * np.arange(len(array)), outputs=lambda: lazy, lazy=lazy)


def smooth_runs(rng, lengths=(40, 25, 60), shape=(12, 5), scale=1.0):
    walks = [rng.standard_normal((n, *shape)).cumsum(axis=0) + 3.0 for n in lengths]
    return [(scale * walk).astype(np.float32) for walk in walks]


def sklearn_twin(runs, n_components):
    stacked = np.concatenate([run.reshape(len(run), -1) for run in runs]).astype(np.float64)
    return PCA(n_components, svd_solver="full").fit(stacked), stacked


@pytest.mark.parametrize("solver", ["auto", "gram", "covariance", "randomized"])
@pytest.mark.parametrize("shape", [(12, 5), (300,), (3,)])
@pytest.mark.parametrize("block_megabytes", [128.0, 0.004])
def test_equals_sklearn_on_the_stacked_matrix(solver, shape, block_megabytes):
    runs = smooth_runs(np.random.default_rng(0), shape=shape)
    n = min(4, int(np.prod(shape)))
    twin, stacked = sklearn_twin(runs, n)
    pca = ld.JointTrajectoryPCA(n, solver=solver, block_megabytes=block_megabytes).fit(runs)
    np.testing.assert_allclose(pca.singular_values_, twin.singular_values_, rtol=1e-7)
    np.testing.assert_allclose(pca.explained_variance_, twin.explained_variance_, rtol=1e-7)
    np.testing.assert_allclose(pca.explained_variance_ratio_, twin.explained_variance_ratio_, rtol=1e-7)
    np.testing.assert_allclose(pca.mean_, twin.mean_, rtol=1e-10)
    np.testing.assert_allclose(pca.components_, twin.components_, atol=1e-5)
    scores = np.concatenate(pca.transform(runs))
    np.testing.assert_allclose(scores, twin.transform(stacked), atol=1e-4 * pca.singular_values_[0])


@pytest.mark.parametrize("solver", ["gram", "covariance", "randomized"])
def test_noise_with_a_flat_spectrum_is_still_exact(solver):
    rng = np.random.default_rng(1)
    runs = [rng.standard_normal((150, 120)), rng.standard_normal((90, 120))]
    twin, _ = sklearn_twin(runs, 3)
    pca = ld.JointTrajectoryPCA(3, solver=solver).fit(runs)
    np.testing.assert_allclose(pca.singular_values_, twin.singular_values_, rtol=1e-5)
    np.testing.assert_allclose(pca.components_ @ pca.components_.T, np.eye(3), atol=1e-10)


def test_small_movement_on_a_large_mean_keeps_its_precision():
    rng = np.random.default_rng(2)
    runs = [1e4 + rng.standard_normal((30, 4)) @ rng.standard_normal((4, 200)) for _ in range(2)]
    twin, _ = sklearn_twin(runs, 4)
    for solver in ("gram", "covariance", "randomized"):
        pca = ld.JointTrajectoryPCA(4, solver=solver).fit(runs)
        np.testing.assert_allclose(pca.singular_values_, twin.singular_values_, rtol=1e-8)


def test_more_components_than_rank_stay_orthonormal_and_finite():
    rng = np.random.default_rng(3)
    run = rng.standard_normal((20, 2)) @ rng.standard_normal((2, 50))
    for solver in ("gram", "covariance", "randomized"):
        pca = ld.JointTrajectoryPCA(5, solver=solver).fit(run)
        np.testing.assert_allclose(pca.components_ @ pca.components_.T, np.eye(5), atol=1e-8)
        assert pca.singular_values_[2] < 1e-5 * pca.singular_values_[0]
        assert pca.explained_variance_ratio_[:2].sum() == pytest.approx(1.0)


def test_trajectories_are_read_in_slices_and_equal_their_arrays():
    arrays = smooth_runs(np.random.default_rng(4))
    runs = [stored_run(array) for array in arrays]
    pca = ld.JointTrajectoryPCA(3, block_megabytes=8 * 60 * 7 / 2**20).fit(runs)
    reference = ld.JointTrajectoryPCA(3).fit(arrays)
    np.testing.assert_allclose(pca.components_, reference.components_, atol=1e-9)
    np.testing.assert_allclose(pca.transform(runs[1]), reference.transform(arrays[1]), atol=1e-9)
    assert max(run.lazy.largest_read for run in runs) == 7
    assert pca.n_samples_ == 125
    assert pca.feature_shape_ == (12, 5)


def test_reference_vectors_use_the_joint_mean_and_are_not_fitted():
    runs = smooth_runs(np.random.default_rng(5))
    pca = ld.JointTrajectoryPCA(3).fit(runs)
    before = pca.components_.copy()
    ridge = np.full((12, 5), 100.0)
    scores = pca.transform({"ridge": ridge, "flat": ridge.ravel(), "path": np.stack([ridge, 2 * ridge])})
    expected = (ridge.ravel() - pca.mean_) @ pca.components_.T
    np.testing.assert_allclose(scores["ridge"], expected)
    np.testing.assert_allclose(scores["flat"], expected)
    assert scores["path"].shape == (2, 3)
    np.testing.assert_array_equal(pca.components_, before)
    np.testing.assert_allclose(pca.transform(ridge), expected)


def test_inverse_transform_restores_vectors_in_the_span():
    rng = np.random.default_rng(6)
    run = rng.standard_normal((30, 3)) @ rng.standard_normal((3, 40))
    pca = ld.JointTrajectoryPCA(3).fit([run])
    np.testing.assert_allclose(pca.inverse_transform(pca.transform(run)), run, atol=1e-8)


def test_scikit_learn_conventions():
    pca = ld.JointTrajectoryPCA(n_components=2, solver="gram", seed=3)
    twin = clone(pca)
    assert twin.get_params() == {"n_components": 2, "solver": "gram", "block_megabytes": 128.0, "seed": 3}
    assert twin.set_params(n_components=3).n_components == 3
    with pytest.raises(NotFittedError):
        pca.transform(np.zeros((3, 3)))
    with pytest.raises(NotFittedError):
        pca.inverse_transform(np.zeros((3, 2)))
    runs = smooth_runs(np.random.default_rng(7))
    assert pca.fit(runs) is pca
    scores = pca.fit_transform(runs)
    assert [len(s) for s in scores] == [40, 25, 60]
    np.testing.assert_array_equal(clone(pca).fit(runs).components_, pca.components_)
    assert ld.JointTrajectoryPCA(2).fit(runs[0]).n_runs_ == 1


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "no runs"),
        ("runs/a", "list of trajectories"),
        (["runs/a"], r"ld\.Trajectory\('runs/a'\)"),
        ([np.ones((5, 4)), np.ones((5, 3))], "same fixed batch"),
        ([np.ones(5)], "one function vector per checkpoint"),
        ([np.ones((0, 4))], "holds no function vectors"),
        ([np.ones((3, 4))], "no variance"),
        ([np.random.default_rng(0).standard_normal((2, 3))], "ask for fewer"),
        ([np.array([["a", "b"], ["c", "d"]] * 3)], "real numbers"),
        ([SimpleNamespace(path="runs/x", steps=[0], outputs=lambda: None)], "runs/x.*stores no function vectors"),
    ],
)
def test_bad_input_is_a_clear_error(runs, message):
    with pytest.raises(DataError, match=message):
        ld.JointTrajectoryPCA(n_components=3 if message != "real numbers" else 2).fit(runs)


def test_nan_outputs_name_the_run_and_the_step():
    array = np.random.default_rng(8).standard_normal((20, 6))
    array[13, 2] = np.nan
    with pytest.raises(DataError, match=r"runs/bad.*step 130"):
        ld.JointTrajectoryPCA(2).fit([array[:10], stored_run(array, "runs/bad")])


def test_bad_settings_and_wrong_width():
    run = np.random.default_rng(9).standard_normal((20, 6))
    with pytest.raises(ConfigError, match="solver"):
        ld.JointTrajectoryPCA(2, solver="magic").fit(run)
    with pytest.raises(ConfigError, match="n_components"):
        ld.JointTrajectoryPCA(0).fit(run)
    pca = ld.JointTrajectoryPCA(2).fit(run)
    with pytest.raises(DataError, match=r"'ridge'.*fitted on"):
        pca.transform({"ridge": np.ones(5)})
    with pytest.raises(DataError, match="components"):
        pca.inverse_transform(np.ones((3, 3)))


def test_tensors_of_any_kind_are_arrays():
    runs = smooth_runs(np.random.default_rng(0), shape=(6,))
    runs = [torch.tensor(run).bfloat16() for run in runs]
    plain = [run.float().numpy() for run in runs]
    wanted = ld.JointTrajectoryPCA(np.int64(2)).fit(plain)
    scores = wanted.transform(plain)
    for kind in (
        lambda run: run,
        lambda run: run.double().requires_grad_(),
        lambda run: run.float().half().float(),
        lambda run: torch.nn.Parameter(run),
        lambda run: list(run.float().requires_grad_()),  # one vector at a time
        lambda run: [list(row) for row in run.requires_grad_()],
    ):
        given = [kind(run) for run in runs]
        pca = ld.JointTrajectoryPCA(torch.tensor(2), block_megabytes=np.float32(128)).fit(given)
        np.testing.assert_allclose(pca.components_, wanted.components_, atol=1e-6)
        for found, expected in zip(pca.transform(given), scores, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(pca.transform(given[0][3]), scores[0][3], atol=1e-5)
        np.testing.assert_allclose(pca.transform({"a": given[1]})["a"], scores[1], atol=1e-5)
    back = wanted.inverse_transform(torch.tensor(scores[0], requires_grad=True))
    np.testing.assert_array_equal(back, wanted.inverse_transform(scores[0]))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (torch.zeros(5, 3, dtype=torch.complex64), "run 0 holds complex64 values"),
        ([[1.0, 2.0], [3.0]], "run 0 .list. is no array of numbers"),
        ([torch.zeros(2), torch.zeros(3)], "run 0 .list. is no array of numbers"),
    ],
)
def test_what_is_no_function_vector(run, message):
    with pytest.raises(DataError, match=message):
        ld.JointTrajectoryPCA(1).fit([run])
