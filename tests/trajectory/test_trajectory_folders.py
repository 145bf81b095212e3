"""Folders and calls that are not what the writer or reader needs: one clear message, nothing changed."""

import errno
import os
import shutil

import numpy as np
import pytest
import torch
from trajectory_runs import ARRAYS, CONFIG, Tied, contents, new_model, train

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError, ManifestMismatchError, TrajectoryError


@pytest.fixture
def run(tmp_path):
    train(tmp_path / "run", 5)
    return tmp_path / "run"


def test_reading_what_is_no_run(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, words in (
        ("missing", "no such folder"),
        ("empty", "is empty"),
        ("foreign", "not a run folder"),
        ("file", "a file"),
    ):
        with pytest.raises(TrajectoryError, match=f"{name}: .*{words}.*give the folder"):
            ld.Trajectory(tmp_path / name)
    (tmp_path / "foreign" / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(TrajectoryError, match="not written by llc-dynamics"):
        ld.Trajectory(tmp_path / "foreign")


@pytest.mark.usefixtures("run")
def test_writing_into_what_is_not_ours_changes_nothing(tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    before = contents(tmp_path)
    for name, words, resume in (
        ("foreign", "not empty and holds no run", False),
        ("foreign", "not empty and holds no run", True),
        ("file", "this is a file", True),
        ("run", "continue it with resume=True, or give another", False),
    ):
        with pytest.raises(TrajectoryError, match=words):
            ld.TrajectoryWriter(tmp_path / name, new_model(), CONFIG, resume=resume)
    assert contents(tmp_path) == before


def test_a_writer_that_died_before_the_manifest_leaves_a_folder_that_can_be_used(tmp_path, run):
    half = shutil.copytree(run, tmp_path / "half")
    for name in ("manifest.json", "complete.json", "resume.h5"):
        (half / name).unlink()
    shutil.rmtree(half / "shards")
    (half / ".manifest.json.77-0123abcd.tmp").write_text("{")
    with pytest.raises(TrajectoryError, match="died before"):
        ld.Trajectory(half)
    train(half, 5)
    assert ld.Trajectory(half).verify().ok


def test_resume_continues_and_skips_what_is_stored(run):
    model = new_model()
    stored = ld.Trajectory(run)
    with ld.TrajectoryWriter(run, model, CONFIG, resume=True, rows_per_shard=2) as writer:
        for step in (1, 4):
            stored.load_into(model, step)
            metrics = {"loss": stored.metrics("loss")[step], "nothing": float("nan")}
            if step % 2:
                metrics["odd/only"] = step / 3
            writer.record(step, metrics, stored.outputs()[step], {"ood_loss": stored.samples("ood_loss")[step]})
            assert writer.pending == 0
        assert stored.complete
        writer.record(9, {"loss": 1.0})
    stored.refresh()
    assert stored.steps.tolist() == [0, 1, 2, 3, 4, 5, 9]
    assert not ld.Trajectory(run).complete
    assert ld.Trajectory(run).verify().ok


def test_a_rerun_that_differs_is_refused_at_the_first_difference(run):
    model, stored = new_model(), ld.Trajectory(run)
    stored.load_into(model, 2)
    good = {
        "metrics": {"loss": stored.metrics("loss")[2]},
        "outputs": stored.outputs()[2],
        "samples": {"ood_loss": stored.samples("ood_loss")[2]},
    }
    for change, words in (
        ({}, None),
        ({"metrics": {"loss": 0.5}}, "metric 'loss'"),
        ({"metrics": {}}, "metric 'loss'"),
        ({"outputs": good["outputs"] + 1}, "outputs"),
        ({"samples": None}, "samples/ood_loss"),
    ):
        with ld.TrajectoryWriter(run, model, CONFIG, resume=True) as writer:
            if words is None:
                writer.record(2, **good)
                continue
            with pytest.raises(ManifestMismatchError, match=f"step 2 .*{words}"):
                writer.record(2, **{**good, **change})
    with torch.no_grad():
        model.unembed.bias[3].view(torch.int32).bitwise_xor_(1)
    writer = ld.TrajectoryWriter(run, model, CONFIG, resume=True)
    with pytest.raises(ManifestMismatchError, match=r"parameter 'unembed\.bias'"):
        writer.record(2, **good)
    writer.close()


def test_a_rerun_with_another_schedule_is_refused(tmp_path):
    train(tmp_path / "run", 30, every=10)
    writer = ld.TrajectoryWriter(tmp_path / "run", new_model(), CONFIG, resume=True)
    with pytest.raises(ManifestMismatchError, match=r"step 5 .*same checkpoint schedule"):
        writer.record(5)
    writer.close()


def test_resuming_with_another_model_config_or_arrays_names_the_first_difference(run):
    wider = Tied()
    wider.unembed = torch.nn.Linear(4, 6)
    before = contents(run)
    for arguments, words in (
        ((wider, CONFIG), r"'unembed.weight' has shape \[5, 4\] in the run, but \[6, 4\]"),
        ((Tied().double(), CONFIG), "'scale' is float32 in the run, but float64"),
        ((Tied(), {**CONFIG, "rate": 0.2}), r"config\.rate is 0.1 in the stored run and 0.2 now"),
        ((Tied(), {**CONFIG, "model": {"width": 4}}), "config.model.name is 'tiny' .* not given now"),
        ((Tied(), {**CONFIG, "more": None}), "config.more is None now and not in the stored run"),
        ((Tied(), {**CONFIG, "seed": True}), "config.seed"),
    ):
        with pytest.raises(ManifestMismatchError, match=words):
            ld.TrajectoryWriter(run, *arguments, resume=True)
    for arrays in ({}, {"evaluation": {"x": ARRAYS["evaluation"]["x"] + 1}}, {**ARRAYS, "new": {}}):
        with pytest.raises(ManifestMismatchError, match=r"arrays '(evaluation|new)'"):
            ld.TrajectoryWriter(run, Tied(), CONFIG, arrays=arrays, resume=True)
    after = contents(run)
    assert {**after, "run.lock": b""} == {**before, "run.lock": b""}
    ld.TrajectoryWriter(run, Tied(), resume=True).close()


def test_bad_rows_are_refused_before_anything_is_kept(tmp_path):
    model = new_model()
    with ld.TrajectoryWriter(tmp_path / "run", model) as writer:
        writer.record(10, {"loss": 1}, np.zeros(3), {"ood": np.zeros(4)})
        for arguments, words in (
            ((10,), "must increase, and 10"),
            ((3,), "must increase"),
            ((-1,), "0 or more"),
            ((1.5,), "whole number"),
            ((True,), "whole number"),
            ((11, {"loss": torch.ones(2)}), r"metric 'loss': .* shape \[2\]"),
            ((11, {"loss": "low"}), "metric 'loss'"),
            ((11, {"": 1.0}), "metric name"),
            ((11, None, np.zeros(4)), r"outputs has shape \[4\], but \[3\]"),
            ((11, None, np.zeros(3, complex)), "real numbers"),
            ((11, None, None, {"ood": np.zeros(5)}), r"samples/ood has shape \[5\]"),
            ((11, None, None, {"other": np.zeros((2, 2))}), "one value per evaluation sequence"),
        ):
            with pytest.raises(DataError, match=words):
                writer.record(*arguments)
            assert writer.pending == 1
        model.unembed = torch.nn.Linear(4, 9)
        with pytest.raises(ManifestMismatchError, match=r"the model changed.*'unembed\.weight'"):
            writer.record(11)
    assert ld.Trajectory(tmp_path / "run").steps.tolist() == [10]


def test_bad_settings_and_models(tmp_path):
    path = tmp_path / "run"
    sparse = torch.nn.Module()
    sparse.register_buffer("s", torch.ones(2).to_sparse())
    lazy = torch.nn.LazyLinear(3)

    class Extra(torch.nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    for model, arguments, error, words in (
        (Tied(), {"rows_per_shard": 0}, ConfigError, "rows_per_shard"),
        (Tied(), {"rows_per_shard": 2.0}, ConfigError, "rows_per_shard"),
        (Tied(), {"rows_per_shard": 1 << 20}, ConfigError, "rows_per_shard: expected a whole number from 1 to 65,536"),
        ({"w": [1.0]}, {}, DataError, "state 'w' is a list, not a tensor"),
        ({3: torch.ones(1)}, {}, DataError, "state '3'"),
        (Tied(), {"config": {"a": {"b": object()}}}, ConfigError, r"config\.a\.b: a object"),
        (Tied(), {"config": {1: 2}}, ConfigError, "key 1"),
        (Tied(), {"arrays": {"../up": {"x": np.ones(1)}}}, DataError, "'../up'"),
        (Tied(), {"arrays": {"a": {"x": np.array(["t"])}}}, DataError, "'x' holds"),
        (Tied(), {"arrays": {"a": {"x": [[1], [2, 3]]}}}, DataError, "'x' is no array of numbers, but list"),
        (sparse, {}, DataError, "state 's'"),
        (lazy, {}, DataError, "no values yet"),
        (Extra(1, 1), {}, DataError, "state '_extra_state' is a dict"),
        (lambda x: x, {}, DataError, "torch.nn.Module"),
    ):
        with pytest.raises(error, match=words):
            ld.TrajectoryWriter(path, model, **arguments)
    assert not path.exists()


def test_config_keeps_its_values(tmp_path):
    config = {
        "inf": float("inf"),
        "np": np.float32(0.5),
        "int": np.int64(3),
        "path": tmp_path.relative_to("/"),
        "t": (1, [2.5, None]),
    }
    with ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(1, 1), config, provenance={"who": "me"}):
        pass
    run = ld.Trajectory(tmp_path / "run")
    assert run.config == {**config, "inf": "inf", "path": str(config["path"]), "t": [1, [2.5, None]]}
    assert run.provenance == {"who": "me"}
    with ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(1, 1), config, resume=True):
        pass


def test_a_run_without_a_sealed_shard_is_readable(tmp_path):
    writer = ld.TrajectoryWriter(tmp_path / "run", new_model())
    writer.record(0, {"loss": 1.0})
    run = ld.Trajectory(tmp_path / "run")
    assert run.steps.tolist() == []
    assert run.metric_names == []
    assert run.resume_state() is None
    assert not run.complete
    for read in (lambda: run.state_dict(0), lambda: run.metrics("loss"), lambda: run.outputs()):
        with pytest.raises(TrajectoryError):
            read()
    writer.close()


def test_a_copied_run_is_the_same_run(tmp_path, run):
    copy = shutil.copytree(run, tmp_path / "elsewhere" / "copy")
    assert ld.Trajectory(copy).verify().ok
    train(copy, 8)
    assert ld.Trajectory(copy).steps.tolist() == list(range(9))
    assert ld.Trajectory(run).steps.tolist() == list(range(6))


def test_a_folder_that_cannot_be_made_says_why(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(TrajectoryError, match="read-only; choose another folder"):
        ld.TrajectoryWriter(tmp_path / "run", new_model())


def test_an_error_in_the_loop_keeps_the_recorded_rows(tmp_path):
    def loop():
        with ld.TrajectoryWriter(tmp_path / "run", new_model()) as writer:
            writer.record(0)
            writer.record(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert ld.Trajectory(tmp_path / "run").steps.tolist() == [0, 1]
