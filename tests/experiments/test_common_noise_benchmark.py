"""The benchmark of common noise: what anchors can gain at most."""

import numpy as np
import pytest
from scripts import load_script

import llc_dynamics as ld


@pytest.fixture(scope="module")
def common_noise():
    return load_script("benchmarks/common_noise.py")


def test_the_best_that_anchors_can_do(common_noise):
    """Errors that are all the same: every value gets that of the long run. Independent ones: only the anchor's own."""
    same = ld.Curve(range(20), np.zeros(20), covariance=np.ones((20, 20)))
    assert common_noise.best_gain(same, 1, 10) == pytest.approx(1 / np.sqrt(1.45 * 0.1))
    apart = ld.Curve(range(20), np.zeros(20), covariance=np.eye(20))
    assert common_noise.best_gain(apart, 1, 10) == pytest.approx(1 / np.sqrt(1.45 * (1 - 0.9 / 20)))
