"""The sections of the stage benchmark that are made in rounds: all cells, their sums, and the figure."""

import pytest
from scripts import load_script


@pytest.fixture(scope="module")
def bench():
    return load_script("benchmarks/stages.py")


def test_rounds_add_up_and_are_made_once(bench, tmp_path, monkeypatch):
    made = []

    def power_round(cell):
        made.append((cell["first"], cell["repetitions"]))
        return {"found": cell["repetitions"] - 3, "a turn anywhere": cell["repetitions"]}

    monkeypatch.setattr(bench, "power_round", power_round)
    cells = len(bench.POWER_POINTS) * len(bench.NOISES) * len(bench.STRENGTHS)
    bench.power(20, tmp_path / "rows.jsonl")
    rows = bench.power(50, tmp_path / "rows.jsonl")
    assert made == [(0, 20)] * cells + [(20, 20)] * cells + [(40, 10)] * cells
    assert len(rows) == cells
    for row in rows:
        assert (row["repetitions"], row["found"], row["a turn anywhere"]) == (50, 41, 50)
    bench.draw_power(rows, tmp_path / "power.png")
    assert (tmp_path / "power.png").stat().st_size > 5000


def test_a_strong_turn_is_found_and_none_is_not(bench):
    cell = {"points": 24, "noise": 1.0, "first": 0, "repetitions": 6}
    strong = bench.power_round({**cell, "strength": 16.0})
    assert strong["found"] >= 5
    assert strong["a turn anywhere"] >= strong["found"]
    # A false alarm in 5% of curves: two or more of six come up in 3% of cases.
    assert bench.power_round({**cell, "strength": 0.0})["found"] <= 1


def test_a_turn_is_found_in_common_noise_that_hides_it_where_it_is_independent(bench):
    cell = {"points": 8, "noise": 0.1, "fall": 4.0, "first": 0, "repetitions": 6}
    assert bench.common_round({**cell, "errors": "common"})["found"] >= 5
    assert bench.common_round({**cell, "errors": "estimated"})["found"] >= 4
    assert bench.common_round({**cell, "errors": "independent"})["found"] <= 1
    for null in ("constant", "rise", "random walk"):
        assert bench.common_round({**cell, "errors": "common", "fall": null})["a turn anywhere"] <= 1
