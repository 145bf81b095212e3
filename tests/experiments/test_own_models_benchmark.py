"""The models of someone who has no idea: each trains, is recorded, and has the losses that the benchmark says."""

import pytest
import torch
from scripts import load_together

import llc_dynamics as ld

problems, bench = load_together("benchmarks", "own_problems", "own_models")


@pytest.mark.parametrize("name", list(problems.MODELS))
def test_a_model_learns_its_data_and_gives_one_loss_a_sample(name: str) -> None:
    own = problems.MODELS[name]
    seen, unseen = own.data()
    known, new = ({tuple(row) for row in data[0].flatten(1).tolist()} for data in (seen, unseen))
    assert len(known & new) < 0.1 * len(new)  # a text repeats itself
    model, batch = own.model(), tuple(each[:64] for each in seen)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(15):
        found = problems.loss(model, batch)
        assert found.shape == (64,)
        losses.append(float(found.detach().mean()))
        optimizer.zero_grad()
        found.mean().backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_a_run_is_recorded_and_found(tmp_path, capsys) -> None:
    bench.main(["train", str(tmp_path), "--models", "digits-mlp", "--steps", "4"])
    assert "digits-mlp: 5 checkpoints" in capsys.readouterr().out
    (run,) = bench.runs_of(tmp_path)
    assert ld.Trajectory(run).metrics("loss/train")[0] == pytest.approx(2.3, abs=0.2)
    with pytest.raises(SystemExit):
        bench.main(["curve", str(tmp_path), "--models", "grokking"])


def test_a_curve_is_calibrated_and_measured(tmp_path) -> None:
    problems.MODELS["digits-mlp"].train(tmp_path / "digits-mlp", 4)
    row = bench.measure(tmp_path / "digits-mlp", "behavioural", 1, 1, 2, gradients=300, max_seconds=2)
    assert [step for step, *_ in row["curve"]] == [0, 4]
    assert row["parameters"] == 2410
    assert row["gradients"] > 0
    assert 0 <= row["good"] <= row["converged"] <= 1
    assert not list(tmp_path.glob("*/llc"))  # the run is as it was
    assert bench.table([{"model": "digits-mlp", "loss": "behavioural", **row}]).count("\n") == 2


def test_the_table_says_which_curves_are_good() -> None:
    row = {
        "model": "m", "loss": "given", "calibrate_s": 12.3, "calibrate_busy_s": 9.0, "curve_busy_s": 4.0,
        "kernel": "SGLD", "gamma": 10.0, "batch": 32,
        "gradients": 99, "curve_s": 5.0, "points": 32, "good": 0.9, "median_error": 0.03, "largest_error": 0.2,
        "reasons": {"heated": 3},
    }  # fmt: skip
    lines = bench.table([row, row | {"good": 0.8}]).splitlines()
    assert "| **90%** | 3.0% | 20.0% | heated 3 |" in lines[2]
    assert "| 80% |" in lines[3]
