"""Weights at fewer steps than metrics and function vectors."""

import dataclasses

import h5py
import numpy as np
import pytest
import torch
from problems import squared_outputs, tiny_in_context
from trajectory_runs import ARRAYS, CONFIG, Tied, new_model, row_of, train_step

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, ManifestMismatchError, StepNotStoredError
from llc_dynamics.llc.problem import require_steps
from llc_dynamics.seeding import torch_generator
from llc_dynamics.settings import from_mapping, to_mapping
from llc_dynamics.training import CheckpointConfig, RunConfig, TrainingConfig, WeightSchedule
from llc_dynamics.training import train as train_in_context
from llc_dynamics.trajectory.sealed import row_checksum


def record(path, num_steps, every, expected=None, **options):
    """Rows at every step, weights at every `every`-th."""
    model, generator = new_model(), torch_generator(3, "train")
    with ld.TrajectoryWriter(path, model, CONFIG, arrays=ARRAYS, **options) as writer:
        for step in range(num_steps + 1):
            if step:
                train_step(model, generator)
            metrics, outputs, samples = row_of(model, step)
            writer.record(step, metrics, outputs, samples, weights=step % every == 0)
            if expected is not None:
                expected[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}, outputs
        writer.finish()
    return ld.Trajectory(path)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    expected = {}
    run = record(tmp_path_factory.mktemp("runs") / "run", 20, 5, expected, rows_per_shard=3)
    return run, expected


def test_all_rows_have_metrics_and_some_have_weights(sparse):
    run, expected = sparse
    assert run.steps.tolist() == list(range(21))
    assert run.weight_steps.tolist() == [0, 5, 10, 15, 20]
    assert len(run.metrics("loss")) == len(run.outputs()) == 21
    np.testing.assert_array_equal(run.outputs()[:], np.stack([outputs for _, outputs in expected.values()]))
    for step in run.weight_steps:
        found = run.state_dict(int(step))
        assert all(torch.equal(found[name], tensor) for name, tensor in expected[int(step)][0].items())
    assert run.complete
    report = run.verify()
    assert report.ok, report
    assert report.rows == 21


def test_a_step_without_weights_names_the_nearest_that_have_some(sparse):
    run, _ = sparse
    for read in (run.state_dict, lambda step: run.load_into(Tied(), step)):
        with pytest.raises(StepNotStoredError, match=r"step 7 .*without weights.*nearest steps with weights: 5 and 10"):
            read(7)
    with pytest.raises(StepNotStoredError, match=r"step 21 is not stored; the nearest stored: 20"):
        run.state_dict(21)
    run.outputs([7])
    with pytest.raises(StepNotStoredError, match="no weights are stored at step 7; the nearest checkpoint is at 5"):
        require_steps(run, [5, 7])


def test_the_layout_of_a_sparse_shard_in_plain_h5py(sparse):
    run, expected = sparse
    with h5py.File(run.path / "shards" / "shard-000001.h5") as file:
        assert file["step"][:].tolist() == [3, 4, 5]
        assert file["state_step"][:].tolist() == [5]
        row = file["state/float32"][0]
        assert int(file["checksum/state/float32"][0]) == row_checksum(5, "state/float32", row)
        entry = next(item for item in run.manifest.to_json()["state"] if item["name"] == "unembed.bias")
        np.testing.assert_array_equal(row[entry["offset"] :][:5], expected[5][0]["unembed.bias"].numpy())
    with h5py.File(run.path / "shards" / "shard-000002.h5") as file:
        assert file["state/float32"].shape[0] == 0


def test_a_run_without_any_weights(tmp_path):
    run = record(tmp_path / "run", 4, 100)
    assert run.weight_steps.tolist() == [0]
    model = torch.nn.Linear(2, 1)
    with ld.TrajectoryWriter(tmp_path / "none", model) as writer:
        writer.record(3, {"loss": 1.0}, weights=False)
    none = ld.Trajectory(tmp_path / "none")
    assert none.verify().ok
    assert len(none.weight_steps) == 0
    with pytest.raises(StepNotStoredError, match="none so far"):
        none.state_dict(3)
    with pytest.raises(ConfigError, match="no checkpoints"):
        ld.llc_curve(none, model, squared_outputs, (torch.ones(4, 2),))


def test_shards_are_filled_by_weights_or_by_rows(tmp_path):
    model = torch.nn.Linear(3_000_000, 1, bias=False)
    with ld.TrajectoryWriter(tmp_path / "run", model) as writer:
        assert writer.rows_per_shard == 5
        full = []
        for step in range(33):
            writer.record(step, weights=False)
            full.append(writer.full)
    assert full == [False] * 31 + [True, False]


def test_a_rerun_with_other_weight_steps_is_told(tmp_path):
    record(tmp_path / "run", 6, 2)
    model, generator = new_model(), torch_generator(3, "train")
    with ld.TrajectoryWriter(tmp_path / "run", model, CONFIG, arrays=ARRAYS, resume=True) as writer:
        writer.record(0, *row_of(model, 0))
        train_step(model, generator)
        with pytest.raises(ManifestMismatchError, match=r"step 1 .*weights \(recorded now, not stored\)"):
            writer.record(1, *row_of(model, 1))
        with pytest.raises(ManifestMismatchError, match=r"step 2 .*weights \(stored, not recorded now\)"):
            writer.record(2, *row_of(model, 2), weights=False)


SMALL = RunConfig(
    tiny_in_context(2, context_length=3, noise_variance=0.1, num_sequences=8, num_root_sequences=4),
    training=TrainingConfig(num_steps=30, batch_size=4, warmup_steps=2),
    checkpoints=CheckpointConfig(linear_interval=5, num_log=4, weights=WeightSchedule(linear_interval=12)),
)


def test_training_with_a_second_schedule_stops_and_goes_on(tmp_path):
    steps, kept = SMALL.checkpoint_steps(), SMALL.weight_steps()
    assert kept.tolist() == [0, 12, 24, 30]
    assert set(kept) <= set(steps)
    assert {5, 10, 15, 20, 25} <= set(steps)
    whole = train_in_context(SMALL, tmp_path / "whole")
    np.testing.assert_array_equal(whole.steps, steps)
    np.testing.assert_array_equal(whole.weight_steps, kept)
    dense = train_in_context(
        dataclasses.replace(SMALL, checkpoints=dataclasses.replace(SMALL.checkpoints, weights=None)),
        tmp_path / "dense",
    )
    assert set(dense.steps) <= set(whole.steps)
    for step in (0, 30):
        first, second = whole.state_dict(step), dense.state_dict(step)
        assert all(torch.equal(first[name], second[name]) for name in first)

    class StopError(Exception):
        pass

    def stop(step, _):
        if step >= 15:
            raise StopError

    with pytest.raises(StopError):
        train_in_context(SMALL, tmp_path / "broken", progress=stop)
    broken = train_in_context(SMALL, tmp_path / "broken")
    assert broken.verify().ok
    np.testing.assert_array_equal(broken.weight_steps, kept)
    np.testing.assert_array_equal(broken.metrics("loss/ood"), whole.metrics("loss/ood"))
    first, second = whole.state_dict(24), broken.state_dict(24)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_llc_curve_and_pca_of_a_sparse_run(tmp_path):
    model = torch.nn.Linear(2, 1)
    with ld.TrajectoryWriter(tmp_path / "run", model) as writer:
        for step in range(9):
            with torch.no_grad():
                model.weight.fill_(step / 8)
            writer.record(step, {"loss": 0.0}, model.weight.detach().expand(3, 2) * step, weights=step % 4 == 0)
    options = {"num_chains": 2, "num_draws": 4, "num_burnin": 1, "batch_size": 4, "progress": False}
    curve = ld.llc_curve(
        tmp_path / "run",
        model,
        lambda m, batch: (m(batch[0]) - 1).square().sum(1),
        (torch.ones(8, 2),),
        sampler=ld.SGLD(step_size=1e-4, localization=10.0),
        **options,
    )
    assert curve.steps.tolist() == [0, 4, 8]
    pca = ld.JointTrajectoryPCA(1).fit(ld.Trajectory(tmp_path / "run"))
    assert pca.n_samples_ == 9


def test_the_setting_in_a_file():
    given = {"linear_interval": 10, "num_log": 0, "weights": {"linear_interval": 100}, "storage": {"dtype": "bfloat16"}}
    config = from_mapping(CheckpointConfig, given)
    assert config.weights == WeightSchedule(100, 0)
    assert config.storage.dtype == "bfloat16"
    assert from_mapping(CheckpointConfig, to_mapping(config)) == config
    assert from_mapping(CheckpointConfig, to_mapping(CheckpointConfig())) == CheckpointConfig()
    with pytest.raises(ConfigError, match=r"weights: linear_intervl: unknown setting; did you mean"):
        from_mapping(CheckpointConfig, {"weights": {"linear_intervl": 3}})
    with pytest.raises(ConfigError, match=r"checkpoints\.weights: num_log"):
        dataclasses.replace(SMALL, checkpoints=CheckpointConfig(weights=WeightSchedule(num_log=1)))
    every = dataclasses.replace(SMALL, checkpoints=CheckpointConfig(5, 0, WeightSchedule()))
    assert every.weight_steps().tolist() == [30]
