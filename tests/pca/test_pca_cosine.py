"""Cosine content: exact on cosines, near one on random walks (Hess 2002), low on real structure."""

import numpy as np
import pytest

from llc_dynamics.errors import DataError
from llc_dynamics.pca import JointTrajectoryPCA, cosine_content, random_walk_cosine_content


def test_cosines_have_content_one_and_other_waves_none():
    time = (np.arange(200) + 0.5) / 200
    waves = np.stack([np.cos(np.pi * i * time) for i in (1, 2, 3)], axis=1)
    np.testing.assert_allclose(cosine_content(4.0 * waves + 7.0), 1.0, atol=1e-12)
    np.testing.assert_allclose(cosine_content(waves[:, [1, 0]]), 0.0, atol=1e-12)
    np.testing.assert_allclose(cosine_content(waves[:, [1, 0]], half_periods=[2, 1]), 1.0, atol=1e-12)


def test_matches_the_integral_of_the_definition():
    time = np.linspace(0, 1, 20001)
    curve = np.exp(-3 * time) * np.sin(5 * time)
    curve -= curve.mean()
    integral = 2 * np.trapezoid(np.cos(np.pi * time) * curve, time) ** 2 / np.trapezoid(curve**2, time)
    assert cosine_content(curve)[0] == pytest.approx(integral, rel=1e-3)


def test_random_walk_control_is_near_one_and_matches_the_joint_pca():
    contents = random_walk_cosine_content(150, 400, n_components=3, num_draws=8)
    # In many dimensions the leading components of a walk are cosines; the first to a few per cent.
    assert contents[:, 0].min() > 0.9
    assert contents.mean(axis=0).min() > 0.75
    walk = np.random.default_rng(0).standard_normal((150, 400)).cumsum(axis=0)
    assert cosine_content(JointTrajectoryPCA(3).fit(walk).transform(walk))[0] > 0.9


def test_independent_points_have_little_cosine_content():
    noise = np.random.default_rng(1).standard_normal((300, 3))
    # A white series puts 1/299 of its power in each cosine on average, exponentially distributed about it.
    assert cosine_content(noise).max() < 0.04


def test_a_still_component_has_no_content():
    assert np.isnan(cosine_content(np.ones(10))[0])


@pytest.mark.parametrize("scores", [np.ones(3), np.full(10, np.nan), np.ones((5, 6)), np.ones((2, 2, 2))])
def test_bad_scores(scores):
    with pytest.raises(DataError):
        cosine_content(scores)


def test_bad_control_and_half_periods():
    with pytest.raises(DataError, match="half_periods"):
        cosine_content(np.arange(10.0), half_periods=[0])
    with pytest.raises(DataError, match="components"):
        random_walk_cosine_content(5, 2, n_components=4)
