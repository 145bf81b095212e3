"""A small run of `experiments/benchmarks/coverage.py`: its 95% intervals hold what they should."""

import dataclasses

import pytest
from scripts import load_script


@pytest.fixture(scope="module")
def coverage():
    return load_script("benchmarks/coverage.py")


@pytest.mark.parametrize("name", ["quadratic, MALT", "w^4, HMC"])
def test_intervals_hold_the_value(coverage, name):
    """Of 40 intervals 33 or more (a coverage of 95% has fewer 1 in 3,000 times)."""
    (case,) = (case for case in coverage.cases() if case.name == name)
    row = coverage.measure(case, repetitions=40)
    assert row["coverage"] >= 33 / 40
    assert abs(row["mean"] - row["value"]) < 4 * row["spread"] / 40**0.5
    assert 0.7 < row["standard_error"] / row["spread"] < 1.5


def test_a_wrong_value_is_found_out(coverage):
    case = next(case for case in coverage.cases() if case.name == "quadratic, MALT")
    row = coverage.measure(dataclasses.replace(case, exact=1.25 * case.exact), repetitions=12)
    assert row["coverage"] < 0.5
