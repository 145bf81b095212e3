"""Power curves: what is drawn is the shares of the rows and their exact binomial intervals."""

import numpy as np
import pytest
from scipy.stats import beta
from scripts import load_script

from llc_dynamics.errors import ConfigError, DataError

plot_power = load_script("benchmarks/power_figure.py").plot_power
ROWS = [
    {"strength": strength, "noise": noise, "found": found, "repetitions": 200, "points": 24}
    for noise, counts in ((2.0, (0, 40, 110)), (1.0, (8, 90, 200)))
    for strength, found in zip((0.0, 4.0, 8.0), counts, strict=True)
]


def drawn(ax):
    """{label: (shares, low, high)} of every line."""
    lines = {}
    for container in ax.containers:
        line, _, (bars,) = container
        ends = np.array([segment[:, 1] for segment in bars.get_segments()], dtype=np.float64)
        lines[container.get_label()] = (np.asarray(line.get_ydata(), dtype=np.float64), ends[:, 0], ends[:, 1])
    return lines


def test_shares_and_exact_intervals_by_noise():
    ax = plot_power(reversed(ROWS), noise_name="jitter", strength_label="Fall", title="24 points")
    lines = drawn(ax)
    assert list(lines) == ["jitter 1", "jitter 2"]
    np.testing.assert_allclose(lines["jitter 1"][0], [0.04, 0.45, 1.0])
    np.testing.assert_allclose(lines["jitter 2"][0], [0.0, 0.2, 0.55])
    # Clopper and Pearson by quantiles of the beta distribution; 1 - .975^(1/200) below a share of 1, and so on.
    _, low, high = lines["jitter 1"]
    assert low[1] == pytest.approx(beta.ppf(0.025, 90, 111))
    assert high[1] == pytest.approx(beta.ppf(0.975, 91, 110))
    assert (low[2], high[2]) == pytest.approx((0.025 ** (1 / 200), 1.0))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["jitter 1", "jitter 2"]
    assert ax.get_xlabel() == "Fall"


def test_lines_stand_beside_one_another_and_the_alarm_rate_is_marked():
    ax = plot_power(ROWS)
    first, second = (np.asarray(container[0].get_xdata(), dtype=np.float64) for container in ax.containers)
    np.testing.assert_allclose(second - first, 0.008 * 8)
    np.testing.assert_allclose((first + second) / 2, [0, 4, 8])
    (line,) = (line for line in ax.lines if line.get_gid() == "alarm rate")
    assert list(line.get_ydata()) == [0.05, 0.05]
    assert not [line for line in plot_power(ROWS, alarm_rate=None).lines if line.get_gid() == "alarm rate"]


def test_one_strength_is_drawn():
    assert len(plot_power(ROWS[:1]).containers) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        (None, "rows is a NoneType"),
        ([1], "row 0 is a int"),
        ([{**ROWS[0], "found": float("nan")}], "row 0 has found=nan"),
        ([{**ROWS[0], "strength": "a"}], "strength='a'"),
        ([{"strength": 1, "noise": 1, "found": 3}], "row 0 lacks repetitions"),
        ([{**ROWS[0], "found": 201}], "from 0 to the second"),
        ([{**ROWS[0], "found": 0.5}], "whole numbers"),
        ([{**ROWS[0], "found": 0, "repetitions": 0}], "row 0 has found=0 of repetitions=0"),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(DataError, match=message):
        plot_power(rows)


def test_bad_level():
    with pytest.raises(ConfigError, match="level must be between 0 and 1"):
        plot_power(ROWS, level=2)
