import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import tiny_in_context

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError, ManifestMismatchError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.description import description_of
from llc_dynamics.systems.registry import system_mapping
from llc_dynamics.training import CheckpointConfig, RunConfig, TrainingConfig, load_config, rate_factor, train
from llc_dynamics.training.averaging import WeightAverage
from llc_dynamics.training.loop import TrainingState
from llc_dynamics.training.muon import Muon

torch.set_num_threads(1)


def tiny(num_tasks: float = 3, **training: object) -> RunConfig:
    settings = {"num_steps": 60, "batch_size": 8, "warmup_steps": 5, **training}
    return RunConfig(
        tiny_in_context(num_tasks),
        training=TrainingConfig(**settings),  # type: ignore[arg-type]
        checkpoints=CheckpointConfig(linear_interval=10, num_log=4),
        seed=1,
    )


def contents(run: ld.Trajectory) -> dict[str, np.ndarray]:
    """Everything that a run stores, for bit-for-bit comparison."""
    found = {"steps": run.steps, "outputs": np.asarray(run.outputs())}
    for name in run.metric_names:
        found[name] = run.metrics(name)
    for name in ("loss/ood", "distance/ood/ridge"):
        found[f"samples/{name}"] = run.samples(name)
    for step in run.steps:
        for name, tensor in run.state_dict(int(step)).items():
            found[f"{step}/{name}"] = tensor.numpy()
    return found


def assert_same(first: ld.Trajectory, second: ld.Trajectory) -> None:
    one, two = contents(first), contents(second)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_stores_what_was_measured(tmp_path: Path) -> None:
    config = tiny()
    run = train(config, tmp_path / "run")
    assert run.complete
    assert run.steps.tolist() == config.checkpoint_steps().tolist()
    assert load_config(run) == config
    assert set(run.metric_names) == {
        *("train_loss", "loss/id", "loss/ood", "loss/root"),
        *(f"distance/{probe}/{reference}" for probe in ("id", "ood", "root") for reference in ("ridge", "dmmse")),
    }
    assert set(run.sample_names) == {
        *("loss/id", "loss/ood", "loss/root", "distance/ood/ridge", "distance/ood/dmmse", "distance/id/dmmse")
    }
    assert description_of(run) == config.system.describe()
    assert math.isnan(run.metrics("train_loss")[0])
    assert np.isfinite(run.metrics("train_loss")[1:]).all()

    # A stored checkpoint, loaded into a fresh model and measured the plain way, gives the stored numbers.
    step = int(run.steps[-1])
    model = config.system.build(seed=99)
    run.load_into(model, step)
    arrays = {name: torch.from_numpy(array) for name, array in run.arrays("probes").items()}
    with torch.no_grad():
        out = model(arrays["ood/batch/0"], arrays["ood/batch/1"])
        root = model(arrays["root/batch/0"], arrays["root/batch/1"])
    squares = (out - arrays["ood/target"]).square().mean(1).double()
    assert run.metrics("loss/ood")[-1] == pytest.approx(squares.mean().item(), rel=1e-5)
    assert run.metrics("distance/ood/dmmse")[-1] == pytest.approx(
        (out - arrays["ood/reference/dmmse"]).square().mean().item(), rel=1e-5
    )
    np.testing.assert_allclose(run.samples("loss/ood")[-1], squares.numpy(), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(run.outputs()[-1]), root.numpy(), rtol=1e-5, atol=1e-6)
    # The root batch is the root task's alone, the same for any M; q_inf's sequences are the same for any M, too.
    others = tiny(math.inf).system.probes(config.seed)
    for probe, name in (("root", "batch/0"), ("root", "batch/1"), ("ood", "batch/1")):
        np.testing.assert_array_equal(others[probe].batch[int(name[-1])], arrays[f"{probe}/{name}"].numpy())


def test_learns_a_single_task(tmp_path: Path) -> None:
    """With M = 1 the model comes near dMMSE_1 in distribution, whose loss is the noise variance."""
    run = train(tiny(1, num_steps=400, batch_size=32, learning_rate=1e-2), tmp_path / "run")
    distance = run.metrics("distance/id/dmmse")
    assert distance[-1] < 0.2 * distance[0]
    assert run.metrics("train_loss")[-1] < 0.5 * run.metrics("train_loss")[1]


def test_infinity_has_no_dmmse(tmp_path: Path) -> None:
    run = train(tiny(math.inf), tmp_path / "run")
    assert not [name for name in run.metric_names if "dmmse" in name]
    assert np.isfinite(run.metrics("distance/ood/ridge")).all()


def test_recording_starts_from_the_initialisation(tmp_path: Path) -> None:
    config = tiny()
    run = train(config, tmp_path / "run")
    model = config.system.build(config.seed)
    for name, tensor in run.state_dict(0).items():
        assert torch.equal(tensor, model.state_dict()[name])


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_stopped_run_ends_as_the_unbroken_one(tmp_path: Path, optimizer: str, averaging: float) -> None:
    """Interrupted twice at a checkpoint, once with a sealed shard behind it and once with none."""
    config = tiny(optimizer=optimizer, averaging=averaging, schedule="cosine")
    unbroken = train(config, tmp_path / "unbroken")

    for stop_at in (0, 30):

        def interrupt(step: int, _: float, stop_at: int = stop_at) -> None:
            if step >= stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "stopped", progress=interrupt)
    assert not ld.Trajectory(tmp_path / "stopped").complete
    assert_same(train(config, tmp_path / "stopped"), unbroken)


def test_killed_run_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    """SIGKILL at arbitrary moments, a resume after each."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_training as t; "
        "from llc_dynamics.training import loop; loop._SEAL_SECONDS = 0.05; "
        "t.train(t.tiny(num_steps=500), sys.argv[2])"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    started = 0
    for delay in (0.0, 0.4, 0.9):
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and not (tmp_path / "killed" / "manifest.json").exists():
            time.sleep(0.01)
        time.sleep(delay)
        if process.poll() is None:
            started += 1
            process.send_signal(signal.SIGKILL)
        process.wait()
    assert started >= 1
    finished = train(tiny(num_steps=500), tmp_path / "killed")
    assert_same(finished, train(tiny(num_steps=500), tmp_path / "unbroken"))
    assert finished.verify().ok


def test_finished_run_is_left_alone(tmp_path: Path) -> None:
    first = train(tiny(), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert_same(train(tiny(), tmp_path / "run"), first)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run")
    before = contents(run)
    with pytest.raises(ManifestMismatchError, match="num_tasks"):
        train(tiny(4), tmp_path / "run")
    after = contents(ld.Trajectory(tmp_path / "run"))
    assert all(np.array_equal(before[name], after[name], equal_nan=True) for name in before)


def test_diverged_training_says_so_and_keeps_what_was(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"training\.learning_rate \(1e\+30\)"):
        train(tiny(learning_rate=1e30, warmup_steps=0), tmp_path / "run")
    assert ld.Trajectory(tmp_path / "run").steps[0] == 0


def test_rate_schedules() -> None:
    def rates(schedule: str, **settings: float) -> list[float]:
        return [rate_factor(step, schedule=schedule, num_steps=100, **settings) for step in range(100)]  # type: ignore[arg-type]

    assert rates("constant", warmup_steps=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert set(rates("constant")) == {1.0}
    torch.testing.assert_close(rates("linear", final_fraction=0.1)[50], 0.55)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=0.2)
    for mine in rates("cosine", final_fraction=0.2):
        assert mine == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        rate_factor(0, schedule="cosin", num_steps=10)


def test_muon_against_torch() -> None:
    """torch.optim.Muon iterates in bfloat16, so the two agree to its precision, over several steps and shapes."""
    shapes = [(8, 8), (16, 8), (8, 16), (8, 8)]
    generator = torch_generator(0, "muon")
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    mine = [torch.nn.Parameter(weight.clone()) for weight in start]
    theirs = [torch.nn.Parameter(weight.clone()) for weight in start]
    optimizers = [Muon(mine, lr=0.1, momentum=0.9), torch.optim.Muon(theirs, lr=0.1, momentum=0.9, weight_decay=0.0)]
    for _ in range(3):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes]
        for parameters, optimizer in zip((mine, theirs), optimizers, strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    for one, two, origin in zip(mine, theirs, start, strict=True):
        moved = (two - origin).norm()
        assert (one - two).norm() < 0.03 * moved


def test_muon_blocks_are_separate_matrices() -> None:
    generator = torch_generator(0, "blocks")
    fused, gradient = torch.randn(24, 8, generator=generator), torch.randn(24, 8, generator=generator)
    whole = torch.nn.Parameter(fused.clone())
    parts = [torch.nn.Parameter(part.clone()) for part in fused.chunk(3)]
    whole.grad = gradient.clone()
    for part, piece in zip(parts, gradient.chunk(3), strict=True):
        part.grad = piece.clone()
    Muon([{"params": [whole], "blocks": 3}]).step()
    Muon(parts).step()
    torch.testing.assert_close(whole, torch.cat(list(parts)))
    with pytest.raises(ConfigError, match="divide into 5 blocks"):
        Muon([{"params": [whole], "blocks": 5}])
    with pytest.raises(ConfigError, match=r"got shape \(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


def test_weight_average_is_the_weighted_mean() -> None:
    model = torch.nn.Linear(2, 1)
    average = WeightAverage(model, 0.8)
    seen = [model.weight.detach().clone()]
    for index in range(5):
        with torch.no_grad():
            model.weight.add_(index + 1.0)
        average.update()
        seen.append(model.weight.detach().clone())
    weights = [0.8 ** (len(seen) - 1 - index) for index in range(len(seen))]
    expected = sum(weight * value for weight, value in zip(weights, seen, strict=True)) / sum(weights)
    average.materialise()
    torch.testing.assert_close(average.model.weight, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"num_steps": 0}}, "num_steps must be 1 or more; got 0"),
        ({"training": {"learning_rate": -1.0}}, "learning_rate must be positive"),
        ({"training": {"schedule": "linaer"}}, "did you mean 'linear'"),
        ({"training": {"optimizer": "sgd"}}, "optimizer"),
        ({"training": {"warmup_steps": 10**6}}, "warmup_steps must be between"),
        ({"training": {"final_batch_size": 0}}, "final_batch_size must be 1 or more; got 0"),
        ({"training": {"part_size": 0}}, "part_size must be 1 or more; got 0"),
        ({"training": {"final_batch_share": 1.5}}, "final_batch_share must be between 0 and 1"),
        ({"training": {"max_gradient_norm": 0}}, "max_gradient_norm must be positive; got 0"),
        ({"training": {"averaging": 1.0}}, r"averaging must be in \[0, 1\)"),
        ({"training": {"betas": [0.9]}}, "betas must be two numbers"),
        ({"system": {"name": "in_context_regression", "width": 6}}, r"width \(6\) must be a multiple of"),
        ({"system": {"name": "in_context_regression", "num_sequences": 1}}, "num_sequences must be 2 or more"),
        ({"system": "in_context_regresion"}, "did you mean 'in_context_regression'"),
        ({"system": {"width": 8}}, "give its name"),
        ({"system": 3}, "expected a table"),
        ({"trianing": {}}, "did you mean 'training'"),
    ],
)
def test_bad_settings(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_mapping({"system": "in_context_regression", **changes}, "here")


def test_settings_round_trip() -> None:
    config = tiny(math.inf)
    assert RunConfig.from_mapping(json.loads(json.dumps(config.to_mapping())), "here") == config
    assert config.to_mapping()["system"] == system_mapping(config.system)
    assert set(config.to_mapping()) == {"system", "training", "checkpoints", "seed"}


def test_the_last_share_of_the_steps_has_batches_of_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    config = tiny(final_batch_size=12, final_batch_share=0.25)
    sample = type(config.system).sample
    monkeypatch.setattr(
        type(config.system), "sample", lambda self, generator, size: sizes.append(size) or sample(self, generator, size)
    )
    TrainingState(config, "cpu").advance(60)
    assert sizes == 45 * [8] + 15 * [12]


def test_a_gradient_is_that_of_the_whole_batch_whatever_its_parts() -> None:
    after = {}
    for part_size in (None, 3, 100):
        state = TrainingState(tiny(part_size=part_size), "cpu")
        mean = state.advance(3)
        after[part_size] = torch.nn.utils.parameters_to_vector(state.model.parameters()).detach(), mean
    torch.testing.assert_close(after[3][0], after[None][0], rtol=1e-4, atol=1e-5)
    assert after[3][1] == pytest.approx(after[None][1], rel=1e-5)
    assert torch.equal(after[100][0], after[None][0])


def test_gradients_are_scaled_down_to_a_norm() -> None:
    """With plain steps of rate 1 an update is the gradient itself."""
    moved = {}
    for norm in (None, 0.01, 1e6):
        state = TrainingState(tiny(max_gradient_norm=norm), "cpu")
        state.optimizers = [torch.optim.SGD(state.model.parameters(), 1.0)]
        state.optimizers[0].param_groups[0]["peak"] = 5.0  # the first step of a warm-up over five
        before = torch.nn.utils.parameters_to_vector(state.model.parameters()).detach().clone()
        state.advance(1)
        moved[norm] = torch.nn.utils.parameters_to_vector(state.model.parameters()).detach() - before
    assert moved[None].norm() > 0.1
    assert moved[0.01].norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(moved[0.01] / 0.01, moved[None] / moved[None].norm(), rtol=1e-3, atol=1e-5)
    assert torch.equal(moved[1e6], moved[None])


def test_a_loss_that_float64_holds_and_float32_does_not_is_no_divergence() -> None:
    config = tiny()
    state = TrainingState(config, "cpu")
    state.loss = lambda model, batch: config.system.loss(model, batch).double() + 1e60
    assert state.advance(3) == pytest.approx(1e60)
