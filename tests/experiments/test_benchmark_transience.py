"""The benchmark of the transience detector: its cells, its restarts, and what it does to stored runs."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scripts import load_script
from sweep_runs import describe

import llc_dynamics as ld

synthetic_run = load_script("benchmarks/synthetic_runs.py").synthetic_run


@pytest.fixture(scope="module")
def bench():
    return load_script("benchmarks/transience.py")


@pytest.fixture(scope="module")
def stored(tmp_path_factory, bench):
    """A stored run: `stored(scenario, tasks, strength)`, its curves those of a synthetic run."""

    def make(scenario, tasks, strength=0.5, steps=None):
        steps = bench.schedule(40) if steps is None else steps
        run = synthetic_run(scenario, steps, 128, 0.01, strength=strength, seed=2)
        path = tmp_path_factory.mktemp("runs") / scenario
        names = {"loss/ood": run.ood_loss, "distance/ood/ridge": run.general}
        if math.isfinite(tasks):
            names |= {"distance/ood/dmmse": run.specialised, "distance/id/dmmse": run.specialised}
        description = describe(tasks).to_dict()
        with ld.TrajectoryWriter(path, torch.nn.Linear(2, 1), description=description) as writer:
            for place, step in enumerate(steps):
                writer.record(
                    int(step),
                    metrics={name: float(curve.values[place]) for name, curve in names.items()},
                    samples={name: curve.samples[place] for name, curve in names.items()},
                )
        return ld.Trajectory(path)

    return make


@pytest.mark.parametrize("points", [24, 80])
def test_schedules_have_so_many_checkpoints_and_both_ends(bench, points):
    steps = bench.schedule(points)
    assert len(steps) == points
    assert (steps[0], steps[-1]) == (0, 6000)
    assert np.all(np.diff(steps) > 0)


def test_every_null_gets_its_repetitions_at_every_number_of_points(bench):
    cells = bench.null_cells(600)
    assert {cell["scenario"] for cell in cells} == {*bench.NULL_SCENARIOS, "infinity", "infinity, random walk"}
    for row in bench.pooled([{**cell, "found": 1, "rate": 0.01, "interval": [0, 1]} for cell in cells]):
        assert row["repetitions"] == 600


def test_a_second_call_goes_on_after_a_broken_line(bench, tmp_path):
    rows, made = tmp_path / "rows.jsonl", []

    def measured(cell):
        made.append(cell["strength"])
        return {"found": 3}

    cells = [{"section": "power", "strength": strength} for strength in (0.0, 0.2, 0.4)]
    bench.fill(cells[:2], rows, measured)
    rows.write_text(rows.read_text() + '{"section": "pow')
    assert bench.fill(cells, rows, measured) == [{**cell, "found": 3} for cell in cells]
    assert made == [0.0, 0.2, 0.4]
    assert [json.loads(line)["strength"] for line in rows.read_text().splitlines()] == made
    # Other settings are another cell.
    bench.fill([{**cells[0], "repetitions": 2}], rows, measured)
    assert len(made) == 4


def test_cells_count_verdicts(bench):
    weak, strong = (bench.power_cell(24, 0.01, strength, 8) for strength in (0.0, 0.6))
    assert weak["found"] == 0
    assert strong["found"] == 8
    assert strong["within .1 dex"] >= 6
    assert strong["true rebound"] > 0.2
    null = bench.null_cell("infinity", 24, 0.03, 300.0, 8)
    assert null["found"] <= 2
    assert null["interval"][0] <= null["rate"] <= null["interval"][1]


def test_random_halves_keep_both_ends_and_differ(bench):
    points = np.arange(3, 44)
    halves = [bench.random_half(points, draw) for draw in range(4)]
    for half in halves:
        assert len(half) == 21
        assert (half[0], half[-1]) == (3, 43)
        assert set(half) <= set(points)
        assert np.all(np.diff(half) > 0)
    assert len({tuple(half) for half in halves}) == 4
    np.testing.assert_array_equal(halves[1], bench.random_half(points, 1))


def test_agreement_counts_kinds_and_times_in_the_interval(bench):
    def verdict(kind, time=None, interval=None):
        return SimpleNamespace(kind=kind, t_crit=time, t_crit_interval=interval)

    full = verdict("transient", 500, (400, 600))
    halves = [verdict("transient", 400), verdict("transient", 700), verdict("none"), None]
    row = bench.agreement(full, halves)
    assert (row["agree"], row["in the full interval"], row["draws"]) == (2, 1, 4)
    assert row["kinds"] == {"transient": 2, "none": 1, "no verdict": 1}
    none = bench.agreement(verdict("none"), [verdict("none"), verdict("transient", 700)])
    assert none["agree"] == 1
    assert "in the full interval" not in none


def test_halves_of_a_stored_run(bench, stored):
    transience, specialisation = bench.drop_half(stored("transient", 8), 3)
    assert (transience["kind"], transience["agree"], transience["points"]) == ("transient", 3, 40)
    assert len(transience["times"]) == 3
    assert specialisation["verdict on"] == "specialisation"


def test_a_part_has_the_values_of_its_sequences(bench):
    curve = synthetic_run("general", bench.schedule(24), 16).ood_loss
    points, sequences = np.array([0, 5, 23]), np.array([1, 1, 7])
    some = bench.part(curve, points, sequences)
    np.testing.assert_allclose(some.values, curve.samples[points][:, sequences].mean(axis=1))
    np.testing.assert_array_equal(some.steps, curve.steps[points])
    np.testing.assert_array_equal(bench.part(curve, points).values, curve.values[points])


def test_a_resampled_run_at_infinity(bench, stored):
    row = bench.resampled(stored("general", math.inf), 5)
    assert (row["found"], row["kinds"]) == (0, {"none": 5})
    assert row["sequences"] == 128
    with pytest.raises(SystemExit, match="not a run at M = infinity"):
        bench.resampled(stored("transient", 8), 5)


def test_the_figure_is_drawn_from_rows(bench, tmp_path):
    rows = [{**cell, "found": 1} for cell in bench.power_cells(10)]
    bench.draw_power(rows, tmp_path / "power.png")
    assert (tmp_path / "power.png").stat().st_size > 5000
