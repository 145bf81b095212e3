"""Rank agreement against scipy, against exact answers, and its false-alarm rates where there is no agreement."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats
from scripts import load_script

from llc_dynamics.errors import ConfigError, DataError

rank_agreement = load_script("transient_ridge/rank_agreement.py").rank_agreement

SEEDS = np.repeat([0, 1, 2], 6)
FAST = {"num_bootstrap": 400, "num_permutations": 400}


@pytest.mark.parametrize("ties", [False, True])
def test_as_scipy(ties) -> None:
    generator = np.random.default_rng(3)
    for _ in range(10):
        x, y = generator.normal(size=(2, 18))
        if ties:
            x, y = np.round(x), np.round(y)
            y[y == y.max()] = math.inf
        found = rank_agreement(x, y, SEEDS, **FAST)
        largest = np.where(np.isinf(y), 1e9, y)
        assert found.spearman == pytest.approx(stats.spearmanr(x, largest).statistic, abs=1e-12)
        assert found.kendall == pytest.approx(stats.kendalltau(x, largest).statistic, abs=1e-12)
        slow = [stats.spearmanr(x[s == SEEDS], largest[s == SEEDS]).statistic for s in range(3)]
        assert found.within_groups == pytest.approx(np.mean(slow), abs=1e-12)


def test_the_same_order_without_noise_is_one_for_sure() -> None:
    x = np.arange(18.0)
    found = rank_agreement(x, np.exp(x), SEEDS, **FAST)
    assert (found.spearman, found.kendall, found.within_groups) == pytest.approx((1, 1, 1))
    assert found.spearman_interval == pytest.approx((1, 1))
    assert found.kendall_interval == pytest.approx((1, 1))
    assert found.p_value == pytest.approx(1 / 401)
    against = rank_agreement(x, -x, SEEDS, **FAST)
    assert against.spearman == pytest.approx(-1)
    assert against.p_value > 0.99
    json.dumps(found.to_dict(), allow_nan=False)


def test_permutations_stay_within_groups() -> None:
    """Two groups of three in the right order: one of 36 orders is as good; 4 errors of 20,000 draws."""
    found = rank_agreement([1, 2, 3, 11, 12, 13], [1, 2, 3, 11, 12, 13], list("aaabbb"))
    error = math.sqrt(1 / 36 * 35 / 36 / 20_000)
    assert found.p_value == pytest.approx(1 / 36, abs=4 * error)
    assert found.p_value_within == pytest.approx(1 / 36, abs=4 * error)
    # groups that differ as a whole make a high rho and no evidence within them
    between = rank_agreement([1, 2, 3, 11, 12, 13], [3, 2, 1, 13, 12, 11], list("aaabbb"))
    assert between.spearman > 0.5
    assert between.p_value > 0.95


def test_nothing_is_found_in_permuted_values() -> None:
    """Measured 86% at nominal 90% (see the docstring), and 5% at p = .05; within 4 errors of 150 repetitions."""
    generator = np.random.default_rng(5)
    holds, alarms = [], []
    for repetition in range(150):
        x = np.tile(np.arange(6.0), 3) + 0.01 * generator.normal(size=18)
        y = np.concatenate([generator.permutation(6) for _ in range(3)]) + 0.01 * generator.normal(size=18)
        found = rank_agreement(x, y, SEEDS, seed=repetition, num_bootstrap=400, num_permutations=200)
        holds.append(found.spearman_interval[0] <= 0 <= found.spearman_interval[1])
        alarms.append(found.p_value <= 0.05)
    assert abs(np.mean(holds) - 0.86) < 4 * math.sqrt(0.86 * 0.14 / 150)
    assert np.mean(alarms) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 150)


def test_measurement_errors_are_in_the_interval() -> None:
    generator = np.random.default_rng(7)
    x = np.arange(18.0)
    exact = rank_agreement(x, x, SEEDS, **FAST)
    some = rank_agreement(x, x, SEEDS, predicted_draws=x + 4 * generator.normal(size=(1000, 18)), **FAST)
    both = rank_agreement(
        x,
        x,
        SEEDS,
        predicted_draws=x + 4 * generator.normal(size=(1000, 18)),
        observed_draws=x + 4 * generator.normal(size=(1000, 18)),
        **FAST,
    )
    hopeless = rank_agreement(x, x, SEEDS, predicted_draws=1e3 * generator.normal(size=(1000, 18)), **FAST)
    assert exact.spearman == some.spearman == hopeless.spearman == pytest.approx(1)
    assert exact.spearman_interval[0] > some.spearman_interval[0] > both.spearman_interval[0] > 0
    assert hopeless.spearman_interval[0] < 0 < hopeless.spearman_interval[1]
    # rows are joint: one error common to both leaves the order alone
    shared = 100 * generator.normal(size=(1000, 18))
    joint = rank_agreement(x, x, SEEDS, predicted_draws=x + shared, observed_draws=x + shared, **FAST)
    assert joint.spearman_interval == pytest.approx((1, 1))


def test_censored_members_are_last_or_left_out() -> None:
    x = np.arange(6.0)
    y = np.array([0, 1, 2, 3, math.inf, math.inf])
    found = rank_agreement(x, y, [0, 0, 0, 1, 1, 1], **FAST)
    assert (found.members, found.censored) == (6, 2)
    assert found.spearman == pytest.approx(stats.spearmanr(x, [0, 1, 2, 3, 9, 9]).statistic)
    dropped = rank_agreement(x, y, [0, 0, 0, 1, 1, 1], drop_censored=True, **FAST)
    assert (dropped.members, dropped.censored, dropped.groups_used) == (4, 0, 1)
    assert dropped.spearman == pytest.approx(1)


def test_one_tie_has_no_order() -> None:
    found = rank_agreement(np.zeros(6), np.arange(6.0), [0] * 6, **FAST)
    assert math.isnan(found.spearman)
    assert math.isnan(found.p_value)
    assert math.isnan(found.spearman_interval[0])


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "said"),
    [
        (([1, 2], [1, 2], [0, 0]), {}, DataError, "3 or more"),
        (([1, 2, 3], [1, 2], [0, 0, 0]), {}, DataError, "one each"),
        ((["a"] * 3, [1, 2, 3], [0] * 3), {}, ConfigError, "predicted must be"),
        (([1, 2, math.nan], [1, 2, 3], [0, 0, 0]), {}, DataError, "NaN"),
        (([1, 2, 3], [1, 2, 3], [0, 0, 0]), {"level": 90}, ConfigError, "0.9"),
        (([1, 2, 3], [1, 2, 3], [0, 0, 0]), {"num_bootstrap": 3}, ConfigError, "100 or more"),
        (([1, 2, 3], [1, 2, 3], [0, 0, 0]), {"predicted_draws": np.ones((5, 2))}, DataError, "3 members"),
        (([1, 2, 3], [1, 2, math.inf], [0, 0, 0]), {"drop_censored": True}, DataError, "not censored"),
        (
            ([1, 2, 3], [1, 2, 3], [0, 0, 0]),
            {"predicted_draws": np.ones((5, 3)), "observed_draws": np.ones((4, 3))},
            DataError,
            "joint",
        ),
    ],
)
def test_refuses(arguments, settings, error, said) -> None:
    with pytest.raises(error, match=said):
        rank_agreement(*arguments, **settings)
