"""The checkpoint schedule against the paper's count and against exact integer roots."""

import numpy as np
import pytest

from llc_dynamics.errors import ConfigError
from llc_dynamics.trajectory import checkpoint_schedule


def exact_floor_power(base, numerator, denominator):
    """The largest k with k^denominator <= base^numerator, by bisection over whole numbers."""
    low, high = 1, base
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**denominator <= base**numerator else (low, middle - 1)
    return low


def test_papers_schedule_has_2203_checkpoints():
    steps = checkpoint_schedule(150_000)
    assert len(steps) == 2203
    assert steps.dtype == np.int64
    assert steps[0] == 0
    assert steps[-1] == 150_000
    assert np.all(np.diff(steps) > 0)


@pytest.mark.parametrize(
    ("last", "count"), [(1000, 4), (1024, 11), (10**6, 7), (150_000, 40), (59049, 11), (2, 5), (1, 3)]
)
def test_log_part_is_the_floor_of_the_exact_power(last, count):
    expected = {exact_floor_power(last, j, count - 1) for j in range(count)} | {last}
    assert checkpoint_schedule(last, None, count).tolist() == sorted(expected)


def test_parts_can_be_left_out_and_the_last_step_is_always_in():
    assert checkpoint_schedule(250, 100, 0).tolist() == [0, 100, 200, 250]
    assert checkpoint_schedule(7, None, 0).tolist() == [7]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0,), "num_steps"),
        ((10.0,), "num_steps"),
        ((True,), "num_steps"),
        ((10, 0), "linear_interval"),
        ((10, -5), "linear"),
        ((10, 1, 1), "num_log"),
        ((10, 1, -1), "num_log"),
        ((10, 1, 2.5), "num_log"),
    ],
)
def test_bad_settings_are_named(arguments, name):
    with pytest.raises(ConfigError, match=name):
        checkpoint_schedule(*arguments)


def test_a_count_of_checkpoints():
    for last, count in ((2000, 40), (150_000, 40), (39, 40), (40, 40), (41, 41), (1000, 2), (10, 5), (5, 100)):
        steps = checkpoint_schedule(last, count=count)
        assert len(steps) == min(count, last + 1)
        assert (steps[0], steps[-1]) == (0, last)
        assert np.all(np.diff(steps) > 0)
    steps = checkpoint_schedule(150_000, count=40)
    late = np.diff(np.log1p(steps[15:]))
    assert late.max() < 1.3 * late.min()
    for arguments, words in (
        ({"count": 1}, "count"),
        ({"count": 2.5}, "count"),
        ({"count": True}, "count"),
        ({"count": 5, "num_log": 3}, "count: chooses all steps"),
        ({"count": 5, "linear_interval": None}, "count: chooses all steps"),
    ):
        with pytest.raises(ConfigError, match=words):
            checkpoint_schedule(100, **arguments)
