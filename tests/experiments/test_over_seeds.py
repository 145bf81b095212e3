"""How a system develops over seeds: nearest references and onsets."""

import numpy as np
import pytest
from scripts import load_together

(over_seeds,) = load_together(".", "over_seeds")


def test_the_nearest_reference_is_timed_with_an_interval() -> None:
    """From `near` to `far` on a line: the mean passes the middle at step 50, in a share of the contexts later."""
    steps, rng = np.arange(101), np.random.default_rng(0)
    way = np.clip(steps / 100 + 0.1 * rng.standard_normal(400)[:, None], 0, 1).T  # [C, B]
    found = over_seeds.nearest({"far": (1 - way) ** 2, "near": way**2, "never": np.full(way.shape, 9.0)}, steps)
    assert list(found) == ["near", "far"]
    step, low, high = found["far"]
    assert low <= step <= high
    assert (step, low, high) == pytest.approx((50, 49, 51), abs=2)
    assert found["near"][0] == 0


def test_a_reference_that_is_the_nearest_for_too_short_is_not_named() -> None:
    steps = np.arange(10)
    first = np.ones((10, 50))
    second = np.full((10, 50), 2.0)
    second[4:6] = 0.0
    assert list(over_seeds.nearest({"first": first, "second": second}, steps)) == ["first"]


def test_an_onset_is_where_a_value_stays_above_half_of_its_final_one() -> None:
    steps = np.arange(0, 100, 10)
    final = [-1.0] * over_seeds._FINAL
    assert over_seeds.onset(steps, np.array([1.0, -0.8, -0.4, -0.6, -0.9, *final])) == 30
    assert over_seeds.onset(steps, np.array([-1.0, -0.8, -0.9, -0.6, -0.9, *final])) == 0
    assert over_seeds.onset(steps, np.array([-1.0, -0.8, -0.9, -0.6, 0.9, *final])) == 50
