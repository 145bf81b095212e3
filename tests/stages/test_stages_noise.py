"""Smoother, shape fits and jitter estimate, each against a slow twin or known noise."""

import numpy as np
import pytest

import llc_dynamics as ld
from llc_dynamics.stages.evidence import Evidence, TimeGrid
from llc_dynamics.stages.jitter import JitterCalibration, estimate_jitter, jitter_paths
from llc_dynamics.stages.smoothing import smoother_matrix, unimodal_fit

STEPS = np.unique(np.concatenate([np.linspace(0, 6000, 61), 6000 ** np.linspace(0, 1, 30)]).astype(np.int64))


def test_smoother_matches_weighted_least_squares_and_keeps_lines():
    x = np.log1p(STEPS)
    smoother = smoother_matrix(STEPS, 0.5)
    np.testing.assert_allclose(smoother @ (2.0 - 3.0 * x), 2.0 - 3.0 * x, atol=1e-9)
    values = np.random.default_rng(0).standard_normal(len(x))
    for c in (0, 3, 40, len(x) - 1):
        width = max(0.5, 1.05 * np.sort(np.abs(x - x[c]))[4])
        weight = np.clip(1 - np.abs((x - x[c]) / width) ** 3, 0, None) ** 3
        root = np.sqrt(weight)
        design = np.stack([np.ones_like(x), x - x[c]], axis=1)
        fit = np.linalg.lstsq(root[:, None] * design, root * values, rcond=None)[0]
        assert (smoother @ values)[c] == pytest.approx(fit[0], abs=1e-9)


def test_shape_fits_are_the_least_squares_ones():
    sklearn = pytest.importorskip("sklearn.isotonic")
    values = np.random.default_rng(1).standard_normal(50)
    np.testing.assert_allclose(unimodal_fit(values, 49), sklearn.isotonic_regression(values, increasing=False))
    fit = unimodal_fit(values, 20)
    assert np.all(np.diff(fit[:21]) <= 1e-12)
    assert np.all(np.diff(fit[21:]) >= -1e-12)
    np.testing.assert_allclose(fit[21:], sklearn.isotonic_regression(values[21:]))


def test_jitter_paths_have_unit_variance_and_the_stated_correlation():
    steps = np.array([0, 100, 250, 700])
    paths = jitter_paths(steps, 200.0, 40_000, np.random.default_rng(2))
    expected = np.exp(-np.abs(steps[:, None] - steps[None, :]) / 200.0)
    # The largest standard error of an entry is sqrt(2 / 40,000) = 0.007.
    np.testing.assert_allclose(np.cov(paths), expected, atol=4 * 0.0071)


@pytest.mark.parametrize(("shape", "tau"), [("flat", 0.0), ("flat", 200.0), ("flat", 500.0), ("v", 0.0), ("v", 200.0)])
def test_jitter_of_known_size_is_recovered_without_shrinking(shape, tau):
    steps = np.arange(0, 6001, 50)
    x = np.log1p(steps)
    trend = np.zeros(len(x)) if shape == "flat" else 0.8 * np.abs(x - x[40])
    smoother, calibration = smoother_matrix(steps, 0.5), JitterCalibration(steps, 0.5, 0)
    generator = np.random.default_rng(3)
    scales, times = [], []
    for _ in range(40):
        values = trend + 0.1 * jitter_paths(steps, tau, 1, generator)[:, 0]
        jitter = estimate_jitter(values, smoother @ values, steps, 0, calibration)
        scales.append(np.sqrt(np.mean(jitter.scale**2)))
        times.append(jitter.correlation_time)
    # By design on the cautious side: too small a jitter would make wiggles look like trend.
    assert 0.085 < np.median(scales) < 0.18
    assert np.median(times) >= 0.6 * tau
    assert np.median(times) <= 50 + 4 * tau


def test_a_steep_fall_and_rise_between_sparse_checkpoints_is_not_jitter():
    steps = np.arange(0, 2401, 200)
    values = 2.0 + np.abs(steps - 800) / 800.0
    grid = TimeGrid(steps, 0.5, 100, 0)
    change = Evidence(ld.Curve(steps, values), grid).change(4, len(steps) - 1)
    assert change.value > 1.2
    assert change.z > 6


def test_paired_sampling_error_is_that_of_the_differences():
    generator = np.random.default_rng(4)
    difficulty = generator.gamma(2.0, 1.0, 400)
    samples = difficulty + 0.05 * generator.standard_normal((len(STEPS), 400))
    grid = TimeGrid(STEPS, 0.5, 400, 0)
    evidence = Evidence(ld.Curve(STEPS, samples.mean(axis=1), samples=samples), grid)
    smooth = smoother_matrix(STEPS, 0.5) @ samples
    paired = (smooth[-1] - smooth[30]).std() / np.sqrt(400)
    assert evidence.change(30, len(STEPS) - 1).sampling_error == pytest.approx(paired, rel=1e-3)
    # The bootstrap draws say the same, to the Monte Carlo error of 400 draws.
    draws = evidence.sampling_draws()
    assert (draws[-1] - draws[30]).std() == pytest.approx(paired, rel=4 / np.sqrt(800))
    assert paired < 0.1 * samples[-1].std() / np.sqrt(400)


def test_a_covariance_is_carried_through_the_smoother():
    generator = np.random.default_rng(5)
    x, values = np.log1p(STEPS), 2 + np.abs(np.log1p(STEPS) - 6)
    covariance = 0.04 * 0.8 ** np.abs(x[:, None] - x[None, :])
    for log in (False, True):
        scale = values if log else np.ones_like(values)
        grid = TimeGrid(STEPS, 0.5, 400, 0)
        evidence = Evidence(ld.Curve(STEPS, values, covariance=covariance), grid, log)
        # first order in the errors, as the slow twin: curves with such noise, smoothed
        noise = np.linalg.cholesky(covariance) @ generator.standard_normal((len(STEPS), 4000))
        trends = smoother_matrix(STEPS, 0.5) @ (noise / scale[:, None])
        for start, end in ((20, 40), (30, len(STEPS) - 1)):
            known = (trends[end] - trends[start]).std()
            assert evidence.change(start, end).sampling_error == pytest.approx(known, rel=5 / np.sqrt(8000))
            draws = evidence.sampling_draws()
            assert (draws[end] - draws[start]).std() == pytest.approx(known, rel=5 / np.sqrt(800))
        assert evidence.level_error(30) >= trends[30].std() * (1 - 5 / np.sqrt(8000))
