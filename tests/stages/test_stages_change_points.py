"""Change points of joint signals, and what two methods or several seeds have in common."""

import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.stages import (
    Boundary,
    agreement,
    change_points,
    detect_stages,
    detect_transience,
    seed_agreement,
    transience_agreement,
)
from llc_dynamics.stages.change_points import SCALE, _InCells, _pelt, _residuals

STEPS = np.unique(np.geomspace(1, 100_000, 70).astype(int))


def kinked(seed, kinks=(300, 8000), noise=0.2, scale=1.0, steps=STEPS, errors=True):
    """Straight lines in log time that turn at each of the kinks."""
    x = np.log1p(steps)
    knots = np.log1p([steps[0], *kinks, steps[-1]])
    slopes = np.resize([1.0, -1.0], len(knots) - 1)
    heights = np.concatenate([[0.0], np.cumsum(slopes * np.diff(knots))])
    values = np.interp(x, knots, heights) + noise * np.random.default_rng(seed).standard_normal(len(x))
    return ld.Curve(steps, scale * values, np.full(len(x), scale * noise) if errors else None, f"curve {seed}")


def near(found, wanted):
    return abs(math.log10(found + 1) - math.log10(wanted + 1)) < 0.1


@pytest.mark.parametrize("errors", [True, False])
def test_known_kinks_are_found(errors):
    for seed in range(5):
        found = change_points({"LLC": kinked(seed, errors=errors)})
        assert len(found.steps) == 2
        assert near(found.steps[0], 300)
        assert near(found.steps[1], 8000)


def test_a_level_that_all_points_share_hides_no_kink():
    for seed in range(3):
        plain = kinked(seed)
        shared = ld.Curve(STEPS, plain.values, name="LLC", covariance=np.diag(plain.standard_errors**2) + 100.0)
        alone = ld.Curve(STEPS, plain.values, np.sqrt(plain.standard_errors**2 + 100.0))
        assert change_points({"LLC": shared}).steps == pytest.approx(change_points({"LLC": plain}).steps)
        assert not change_points({"LLC": alone}).steps


def test_many_points_in_a_cell_are_averaged_with_their_covariance():
    """Errors that the points of a cell share do not fall with their number."""
    curve, shared = kinked(0), np.kron(np.eye(len(STEPS) // 6), np.ones((6, 6)))
    half = curve.at(slice(0, len(shared)))
    noise = [
        change_points({"LLC": ld.Curve(half.steps, half.values, covariance=0.04 * each)}, num_cells=10).noise["LLC"]
        for each in (shared, np.eye(len(shared)))
    ]
    assert noise[0] > 1.5 * noise[1]


def test_curves_of_other_units_and_steps_speak_together():
    """Kinks in different curves are all found, whatever the units and wherever each was measured."""
    other = np.unique(np.geomspace(1, 100_000, 40).astype(int))
    curves = {
        "LLC": kinked(0, (300,), scale=1e4),
        "PC1": kinked(1, (8000,), scale=1e-4, steps=other, errors=False),
    }
    found = change_points(curves)
    assert len(found.steps) == 2
    assert near(found.steps[0], 300)
    assert near(found.steps[1], 8000)
    assert found.penalty == pytest.approx(SCALE * 5 * math.log(found.cells))
    assert found.noise["LLC"] == pytest.approx(2000, rel=0.3)
    json.dumps(found.to_dict(), allow_nan=False)


def test_linear_schedules_leave_no_change_in_their_gaps():
    steps = np.arange(0, 8000, 100)
    found = change_points({"LLC": kinked(3, (2000,), noise=0.05, steps=steps)})
    assert all(step > 150 for step in found.steps)
    assert any(near(step, 2000) for step in found.steps)


@pytest.mark.slow
def test_nothing_is_found_in_lines_with_noise():
    """At most 5 of 100 straight lines are cut, joint ones and such without errors among them."""
    cut = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        steps = STEPS[::2]
        x = np.log1p(steps)
        curves = {}
        for k in range(1 + (seed % 8 == 0)):
            noise = rng.standard_normal(len(x))
            errors = np.ones(len(x)) if k == 0 and seed % 4 < 2 else None
            curves[str(k)] = ld.Curve(steps, rng.normal() * x + noise, errors)
        cut += bool(change_points(curves).steps)
    assert cut <= 5


def test_costs_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    precision = rng.uniform(0.5, 2, 12)
    precision[4] = 0
    cells = _InCells(np.sort(rng.uniform(0, 9, 12)), 1e3 + rng.standard_normal(12), precision)
    table = _residuals(cells, np.arange(12))
    for start, stop in itertools.combinations(range(13), 2):
        rows = [k for k in range(start, stop) if precision[k] > 0]
        wanted = 0.0
        if len(rows) > 2:
            root = np.sqrt(precision[rows])
            design = np.stack([root, root * cells.x[rows]], 1)
            line, *_ = np.linalg.lstsq(design, root * cells.values[rows], rcond=None)
            wanted = float(((root * cells.values[rows] - design @ line) ** 2).sum())
        assert table[start, stop] == pytest.approx(wanted, abs=1e-7)


def test_the_search_finds_the_best_of_all_cuts():
    """Against every way to cut 14 cells into pieces of three or more."""
    x = np.arange(14.0)
    for seed in range(10):
        y = 2 * np.abs(x - 6) + np.random.default_rng(seed).standard_normal(14)
        table = _residuals(_InCells(x, y, np.ones(14)), np.arange(14))
        ways = [cuts for count in range(4) for cuts in itertools.combinations(range(3, 12), count)]
        ways = [w for w in ways if all(b - a >= 3 for a, b in itertools.pairwise([0, *w, 14]))]

        def cost(way, table=table):
            return sum(table[a, b] for a, b in itertools.pairwise([0, *way, 14])) + 7.0 * len(way)

        assert cost(_pelt(table, 7.0)) == pytest.approx(min(map(cost, ways)))


def test_bad_input():
    curve = kinked(0)
    with pytest.raises(DataError, match="by name"):
        change_points({})
    with pytest.raises(DataError, match="by name"):
        change_points(curve)
    with pytest.raises(DataError, match="at least 8"):
        change_points({"LLC": ld.Curve([0, 1, 2], [1, 2, 3])})
    with pytest.raises(DataError, match="list"):
        change_points({"LLC": [1, 2, 3]})
    for settings in ({"scale": 0.0}, {"least_noise": -1.0}, {"num_cells": 3}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            change_points({"LLC": curve}, **settings)


def test_a_constant_has_no_changes():
    assert change_points({"LLC": ld.Curve(STEPS, np.ones(len(STEPS)), np.ones(len(STEPS)))}).steps == ()


def test_ruptures_is_imported_when_it_is_used():
    program = "import sys, llc_dynamics.stages\nassert 'ruptures' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_both_methods_agree_on_kinks():
    curve = kinked(0)
    report = detect_stages(curve)
    found = change_points({"LLC": curve})
    both = agreement(report, found)
    assert [near(each.step, wanted) for each, wanted in zip(both.agreed, (300, 8000), strict=True)] == [True, True]
    assert all(each.distance <= both.within and near(each.change, each.step) for each in both.agreed)
    assert both.alone == ()
    assert both.expected < 0.3
    assert "both find 2 of 2" in str(both)
    json.dumps(both.to_dict(), allow_nan=False)


def test_a_change_stands_for_one_boundary_and_far_ones_do_not_agree():
    report = detect_stages(kinked(0))
    steps = (290.0, 310.0, 20_000.0)
    report = replace(report, boundaries=tuple(Boundary(s, (s, s), 0.95, "turn", True) for s in steps))
    found = replace(change_points({"LLC": kinked(0)}), steps=(305.0, 12_000.0))
    both = agreement(report, found)
    assert [each.agreed for each in both.boundaries] == [False, True, False]
    assert both.alone == (12_000.0,)
    assert both.boundaries[2].change == 12_000.0
    assert both.boundaries[2].distance == pytest.approx(math.log10(20_001 / 12_001))
    assert len(agreement(report, found, within=0.3).agreed) == 2
    nothing = agreement(report, replace(found, steps=()))
    assert nothing.agreed == ()
    assert nothing.to_dict()["boundaries"][0]["distance"] is None
    with pytest.raises(ConfigError, match="within"):
        agreement(report, found, within=0)


def test_seeds_agree_on_what_recurs():
    report = detect_stages(kinked(0))

    def with_boundaries(*steps):
        return replace(
            report,
            boundaries=(
                *(Boundary(s, (s, s), 0.95, "turn", True) for s in steps),
                Boundary(50.0, (50.0, 50.0), 0.2, "turn", False),
            ),
        )

    found = seed_agreement({1: with_boundaries(299, 8000), 2: with_boundaries(330, 7000), 3: with_boundaries(310, 340)})
    counts = {tuple(sorted(each.found_in)): each for each in found.recurring}
    first = counts[("1", "2", "3")]
    assert sorted(first.steps) in ([299, 310, 330], [299, 310, 340])
    assert first.spread == pytest.approx(np.std(np.log10(np.array(first.steps) + 1), ddof=1))
    assert first.step == pytest.approx(np.exp(np.mean(np.log1p(first.steps))) - 1)
    late = counts[("1", "2")]
    assert sorted(late.steps) == [7000, 8000]
    assert [len(each) for each in found.recurring] == [3, 1, 2]
    assert math.isnan(found.recurring[1].spread)
    assert "in 3 of 3 seeds" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)
    # each is near to the middle one, the outer ones are not near to each other
    (chain,) = seed_agreement([with_boundaries(step) for step in (300, 365, 440)]).recurring
    assert len(chain) == 3


def test_real_seeds_agree():
    found = seed_agreement([detect_stages(kinked(seed)) for seed in range(4)])
    assert [len(each) for each in found.recurring] == [4, 4]
    assert near(found.recurring[0].step, 300)
    assert found.recurring[0].kind == "turn"


def test_seeds_agree_on_t_crit():
    def verdict(seed, turn):
        x = np.log1p(STEPS)
        rng = np.random.default_rng(seed)
        shape = np.abs(x - np.log1p(turn)) if turn else x[-1] - x
        samples = (1 + 0.3 * shape)[:, None] + 0.01 * rng.standard_normal((len(x), 64))
        loss = ld.Curve(STEPS, samples.mean(1), name="ood_loss", samples=samples)
        distance = ld.Curve(STEPS, 0.1 + shape, name="distance")
        return detect_transience(general=distance, specialised=None, ood_loss=loss, seed=seed)

    verdicts = {0: verdict(0, 1000), 1: verdict(1, 1050), 2: verdict(2, None)}
    assert [v.transient for v in verdicts.values()] == [True, True, False]
    found = transience_agreement(verdicts)
    (only,) = found.recurring
    assert only.found_in == ("0", "1")
    assert only.kind == "t_crit"
    assert near(only.step, 1025)


def test_bad_seeds():
    report = detect_stages(kinked(0))
    with pytest.raises(DataError, match="two or more"):
        seed_agreement([report])
    with pytest.raises(DataError, match="seed 1 is a str"):
        seed_agreement([report, "no"])
    with pytest.raises(DataError, match="detect_transience"):
        transience_agreement([report, report])
    with pytest.raises(ConfigError, match="within"):
        seed_agreement([report, report], within=-1)
