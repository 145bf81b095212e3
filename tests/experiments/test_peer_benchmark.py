"""The peers' side of the benchmark: time to an accuracy, problems and settings as files, the environments' stamp."""

import importlib
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from scripts import EXPERIMENTS

BENCHMARKS = EXPERIMENTS / "benchmarks"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def part(name):
    return importlib.import_module(f"peers.{name}")


def repetitions(budget, seconds, estimates):
    return [(budget, seconds, estimate) for estimate in estimates]


def test_time_to_accuracy_takes_the_cheapest_rung_within_tolerance():
    accuracy = part("accuracy")
    given = [
        *repetitions(1000, 3.0, [10.3, 9.7, 10.4, 9.6]),
        *repetitions(100, 0.5, [12.0, 8.0, 11.0, 9.0]),
        *repetitions(3000, 9.0, [10.1, 9.9, 10.2, 9.8]),
    ]
    reached = accuracy.rms_error_to_time(given, reference=10.0)
    assert [rung.budget for rung in reached.rungs] == [100, 1000, 3000]
    assert (reached.seconds, reached.budget, reached.holds) == (3.0, 1000, True)
    rung = reached.rungs[1]
    assert rung.rms_error == pytest.approx(math.sqrt((0.09 + 0.09 + 0.16 + 0.16) / 4) / 10)
    assert rung.bias == pytest.approx(0.0, abs=1e-12)
    assert accuracy.rms_error_to_time(given, 10.0, tolerance=0.001).seconds == math.inf


def test_a_failed_repetition_makes_the_rung_infinite():
    accuracy = part("accuracy")
    for failed in (None, math.nan, math.inf):
        reached = accuracy.rms_error_to_time([(1, 1.0, 10.0), (1, 1.0, failed), (2, 2.0, 10.0)], 10.0)
        assert reached.rungs[0].failures == 1
        assert reached.rungs[0].rms_error == math.inf
        assert reached.budget == 2


def test_standard_error_of_the_rms_matches_simulation():
    accuracy = part("accuracy")
    generator = np.random.default_rng(0)
    rungs = [
        accuracy.rms_error_to_time([(1, 1.0, 10 + e) for e in generator.standard_normal(40)], 10.0).rungs[0]
        for _ in range(400)
    ]
    spread = np.std([rung.rms_error for rung in rungs])
    # The spread of 400 values is known to 1/sqrt(800), 3.5%; the delta method at 40 repetitions is a few percent low.
    assert np.mean([rung.rms_error_se for rung in rungs]) == pytest.approx(spread, rel=0.2)


def test_a_reference_of_zero_and_no_repetitions_are_errors():
    accuracy = part("accuracy")
    with pytest.raises(ValueError, match="not zero"):
        accuracy.rms_error_to_time([(1, 1.0, 1.0)], 0.0)
    with pytest.raises(ValueError, match="no repetitions"):
        accuracy.rms_error_to_time([], 1.0)


def test_deep_linear_problem_is_rank_minimal_and_survives_the_folder(tmp_path):
    problems, modules = part("problems"), part("modules")
    made = problems.deep_linear([6, 4, 5, 3], 2, 500, reference=1.0, noise_std=0.0)
    for matrix in made.weights.values():
        assert np.linalg.matrix_rank(matrix, tol=1e-4) == 2
    problems.write_problem(tmp_path / "p", made)
    read = problems.read_problem(tmp_path / "p")
    inputs, targets = modules.data_of(read)
    # Without noise the module at w* predicts the targets.
    assert torch.allclose(modules.build(read)(inputs), targets, atol=1e-5)
    assert modules.loss_of(read)(modules.build(read)(inputs), targets).shape == (500,)
    arrays = {"weights": {}, "inputs": None, "targets": None}
    assert replace(read, **arrays) == replace(made, **arrays)


def test_largest_curvature_against_the_dense_hessian():
    problems, modules = part("problems"), part("modules")
    made = problems.deep_linear([4, 3, 4], 2, 200, reference=None, noise_std=0.5)
    module, loss = modules.build(made), modules.loss_of(made)
    inputs, targets = modules.data_of(made)
    names = [name for name, _ in module.named_parameters()]
    flat = torch.cat([p.detach().flatten() for p in module.parameters()])

    def mean_loss(vector):
        parts = torch.split(vector, [made.weights[name].size for name in names])
        weights = {n: v.view(made.weights[n].shape) for n, v in zip(names, parts, strict=True)}
        return loss(torch.func.functional_call(module, weights, (inputs,)), targets).mean()

    exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(mean_loss, flat))[-1]
    assert modules.largest_curvature(made, iterations=200) == pytest.approx(float(exact), rel=1e-3)


def test_mlp_has_4996_parameters_and_labels_from_its_own_softmax():
    problems, modules = part("problems"), part("modules")
    made = problems.mlp()
    assert made.num_parameters == 4996
    inputs, targets = modules.data_of(made)
    with torch.no_grad():
        probabilities = torch.softmax(modules.build(made)(inputs), dim=1)
    counts = torch.bincount(targets, minlength=4)
    error = (probabilities * (1 - probabilities)).sum(0).sqrt()
    assert ((counts - probabilities.sum(0)).abs() < 4.5 * error).all()


def test_packed_in_context_model_is_the_packages_own():
    problems, modules = part("problems"), part("modules")
    from llc_dynamics.systems.in_context_regression.transformer import InContextTransformer, TransformerConfig

    config = TransformerConfig(width=16, mlp_width=16)
    model = InContextTransformer(config, seed=1)
    x, y = torch.randn(3, 8, 4), torch.randn(3, 8)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    made = problems.in_context("p", asdict(config), weights, x.numpy(), y.numpy(), 10.0, {})
    with torch.no_grad():
        assert torch.equal(modules.build(made)(modules.data_of(made)[0]), model(x, y))


def test_settings_survive_their_file_and_the_ladder_scales_burnin(tmp_path):
    settings = part("settings")
    made = settings.Settings("ours", 1e-4, 10.0, 1.0, 8, 4, 100, 20, seeds=(3, 4), options={"compile": False})
    settings.write_settings(tmp_path / "s.json", [made])
    assert settings.read_settings(tmp_path / "s.json") == [made]
    assert [(each.num_draws, each.num_burnin) for each in settings.ladder(made, (300, 50))] == [(50, 10), (300, 60)]


def test_sliced_loader_gives_every_sample_once():
    problems, modules = part("problems"), part("modules")
    made = problems.deep_linear([3, 2, 3], 1, 60, reference=None)
    loader = modules.loader_of(made, 20, "sliced", generator=torch.Generator().manual_seed(0))
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    seen = torch.cat([inputs for inputs, _ in batches])
    assert torch.equal(seen.sort(dim=0).values, modules.data_of(made)[0].sort(dim=0).values)


def test_an_environment_that_cannot_be_made_says_why(tmp_path, monkeypatch):
    environments = part("environments")

    def run(command, **_):
        failed = "install" in command
        return subprocess.CompletedProcess(
            command, int(failed), "", "ERROR: no matching distribution" if failed else ""
        )

    monkeypatch.setattr(environments.subprocess, "run", run)
    with pytest.raises(environments.EnvironmentMakingError, match=r"(?s)installing torch==1 failed.*no matching dist"):
        environments.environment(environments.Peer("none", ("torch==1",), "pass", "peers.run_none"), tmp_path)
    assert not (tmp_path / "none" / "environment.json").exists()


def test_an_environment_is_made_once_and_again_when_it_is_unfinished(tmp_path, monkeypatch):
    environments = part("environments")
    commands = []

    def record(command, _task):
        commands.append(command)
        folder = tmp_path / "none"
        if command[1:3] == ["-m", "venv"]:
            (folder / "bin").mkdir(parents=True)
            (folder / "pyvenv.cfg").touch()
            (folder / "bin" / "python").touch()
        return "torch==1\n"

    monkeypatch.setattr(environments, "_run", record)
    peer = environments.Peer("none", ("torch==1",), "pass", "peers.run_none")
    python = environments.environment(peer, tmp_path)
    made = len(commands)
    assert environments.environment(peer, tmp_path) == python
    assert len(commands) == made
    (tmp_path / "none" / "environment.json").unlink()
    environments.environment(peer, tmp_path)
    assert len(commands) == 2 * made
    # A folder that is something else is left alone.
    (tmp_path / "other").mkdir()
    with pytest.raises(environments.EnvironmentMakingError, match="no virtual environment"):
        environments.environment(replace(peer, name="other"), tmp_path)


def test_driver_leaves_out_what_is_there_and_summarises(tmp_path):
    rows, settings, problems = part("rows"), part("settings"), part("problems")
    made = problems.deep_linear([3, 2, 3], 1, 60, reference=2.0)
    problems.write_problem(tmp_path / "problems" / made.name, made)
    wanted = settings.Settings("ours", 1e-4, 10.0, 1.0, 8, 4, 100, seeds=(0, 1))
    described = asdict(wanted)
    del described["seeds"]
    row = rows.Row(
        "devinterp1", "1.3.2", made.name, "ours", described, 0, 2.02, None, None, 1.5, 1.4, 0.01, 400, 4, 100.0, 90.0
    )
    (tmp_path / "rows").mkdir()
    rows.append_row(tmp_path / "rows" / "a.jsonl", row)
    assert rows.read_rows(tmp_path / "rows" / "a.jsonl") == [row]
    assert part("compare").missing([wanted], [row]) == [replace(wanted, seeds=(1,))]
    command = [sys.executable, str(BENCHMARKS / "peers"), "table", str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "5% in: 1.4 s" in printed
    assert json.loads((tmp_path / "summary.json").read_text())["estimates"][0]["error_to_time"]["budget"] == 100
