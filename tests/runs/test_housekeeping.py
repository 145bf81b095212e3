"""info, thin, merge and verify: what they say, what they refuse, and that nothing is lost when they are killed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from interchange_runs import (
    add_curve,
    kill_at_each_change,
    read_sparse,
    record_sparse,
    train_with_curve,
)
from trajectory_runs import contents, new_model, read_all, train

import llc_dynamics as ld
from llc_dynamics.cli import main
from llc_dynamics.errors import ConfigError, CorruptRunError, RunLockedError, TrajectoryError
from llc_dynamics.runs import staging, thin


def rows_of(run):
    """What each stored step holds, as bytes, by step."""
    samples = {name: run.samples(name) for name in run.sample_names}
    outputs, found = np.asarray(run.outputs()), {}
    for row, step in enumerate(run.steps.tolist()):
        found[step] = {
            "state": {name: tensor.float().numpy().tobytes() for name, tensor in run.state_dict(step).items()},
            "metrics": {name: run.metrics(name)[row].tobytes() for name in run.metric_names},
            "outputs": outputs[row].tobytes(),
            "samples": {name: values[row].tobytes() for name, values in samples.items()},
        }
    return found


def without_lock(folder):
    return {name: content for name, content in contents(folder).items() if not name.endswith("run.lock")}


# info


def test_info_says_what_is_in_a_run(tmp_path, capsys):
    run = train_with_curve(tmp_path / "run")
    (run / "report.html").write_text("report")
    before = contents(run)
    found = ld.run_info(run)
    assert contents(run) == before
    assert found.steps == list(range(11))
    assert (found.shards, found.complete, found.writer, found.problems) == (4, True, None, [])
    assert found.tensors["float32"] == {"tensors": 4, "elements": 46, "parameters": 46}
    assert found.tensors["bool"] == {"tensors": 1, "elements": 3, "parameters": 0}
    assert found.curves == {"llc": [0, 4, 8]}
    assert found.shapes == {"outputs": [4, 5], "ood_loss": [6]}
    assert found.row_bytes == {"weights": 46 * 4 + 8 + 3 + 12, "outputs": 80, "samples": 24}
    assert sum(found.disk_bytes.values()) == sum(len(content) for content in before.values())
    assert main(["info", str(run)]) == 0
    shown = capsys.readouterr().out
    for words in (
        "run: complete\n",
        "11 in 4 shards, steps 0 to 10, every 1",
        "float32      4 tensors, 46 numbers, 46 of them parameters",
        "metrics      loss, nothing, odd/only",
        "outputs: float32 [4, 5] a checkpoint",
        "arrays       evaluation",
        "LLC 'llc'    3 points, steps 0 to 8, every 4",
        '"seed": 3',
        '"torch"',
        "other 0.0 kB",
    ):
        assert words in shown, words
    assert main(["info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["curves"] == {"llc": [0, 4, 8]}


def test_info_of_runs_that_are_not_whole(tmp_path, capsys):
    with ld.TrajectoryWriter(tmp_path / "run", new_model(), rows_per_shard=1) as writer:
        assert "none sealed yet" in (main(["info", str(tmp_path / "run")]), capsys.readouterr().out)[1]
        for step in range(4):
            writer.record(step)
        found = ld.run_info(tmp_path / "run")
        assert found.steps == [0, 1, 2]
        assert f"process {os.getpid()} on " in found.writer
    (tmp_path / "run" / "shards" / "shard-000001.h5").unlink()
    found = ld.run_info(tmp_path / "run")
    assert found.writer is None
    assert found.steps == [0, 2, 3]
    assert "shard-000001.h5: the shard is missing" in found.problems[0].text
    record_sparse(tmp_path / "sparse", 7, {"dtype": "bfloat16"}, finish=False)
    assert main(["info", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "problem: " in shown
    assert "with weights 3 of them: 0 to 6, every 3" in shown
    assert '"dtype": "bfloat16"' in shown
    for name, words in (("missing", "no such folder"), ("run/shards", "neither a run nor a folder of runs")):
        assert main(["info", str(tmp_path / name)]) == 1
        assert words in capsys.readouterr().err


# thin


@pytest.mark.parametrize("in_place", [False, True])
def test_thinning_keeps_the_chosen_rows_bit_for_bit(tmp_path, capsys, in_place):
    run = train_with_curve(tmp_path / "run", 20, steps=(0, 3, 5))
    (run / "report.html").write_text("report")
    (run / "mine").mkdir()
    (run / "mine" / "notes.txt").write_text("notes")
    origin = ld.Trajectory(run)
    resume, before, rows = origin.resume_state(), contents(run), rows_of(origin)
    out = run if in_place else tmp_path / "thin"
    place = ["--in-place"] if in_place else ["--out", str(out)]
    assert main(["thin", str(run), "--every", "3", *place]) == 0
    shown = capsys.readouterr().out
    assert "8 of 21 checkpoints kept" in shown
    assert "LLC 'llc': 1 points belong to checkpoints that were left out; the points were kept" in shown
    if not in_place:
        assert contents(run) == before
    thinned = ld.Trajectory(out)
    assert thinned.steps.tolist() == [0, 3, 6, 9, 12, 15, 18, 20]
    assert rows_of(thinned) == {step: rows[step] for step in thinned.steps.tolist()}
    assert thinned.complete
    assert thinned.resume_state()["step"] == resume["step"]
    assert thinned.manifest.run_id != origin.manifest.run_id
    record = thinned.provenance["thinned"]
    assert (record["run_id"], record["every"], record["kept"], record["of"]) == (origin.manifest.run_id, 3, 8, 21)
    for step in (0, 3, 5):
        name = f"llc/llc/step-{step}.h5"
        assert (out / name).read_bytes() == before[name]
    assert (out / "report.html").exists() == in_place
    assert (out / "mine" / "notes.txt").exists() == in_place
    problems = thinned.verify().problems
    assert len(problems) == in_place, "only 'mine' is foreign"
    assert ld.LLCCurve.load(thinned).steps.tolist() == [0, 3, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"run", out.name})
    # A thinned training can go on.
    shutil.rmtree(out / "mine", ignore_errors=True)
    train(out, 25)
    train(tmp_path / "whole", 25)
    longer = rows_of(ld.Trajectory(tmp_path / "whole"))
    assert rows_of(ld.Trajectory(out)) == {step: longer[step] for step in [*record_steps(thinned), *range(21, 26)]}


def record_steps(run):
    return run.steps.tolist()


def test_rows_that_a_resumed_training_meets_again_are_kept(tmp_path):
    train(tmp_path / "run", 20, finish=False)
    (tmp_path / "run" / "resume.h5").unlink()
    whole = train_resume(tmp_path / "other", stop_state_at=11, steps=20)
    report = ld.thin_run(whole, tmp_path / "thin", every=5)
    assert report.kept.tolist() == [0, 5, 10, *range(12, 21)]
    thinned = ld.Trajectory(tmp_path / "thin")
    assert thinned.resume_state()["step"] == 11
    train(tmp_path / "thin", 22)
    assert ld.Trajectory(tmp_path / "thin").steps.tolist() == [0, 5, 10, *range(12, 23)]


def train_resume(path, stop_state_at, steps):
    """A run whose last resume state was stored some rows before its end, as a kill leaves it."""
    train(path, stop_state_at, finish=False)
    state = (path / "resume.h5").read_bytes()
    assert ld.Trajectory(path).resume_state()["step"] == stop_state_at
    train(path, steps, finish=False)
    (path / "resume.h5").write_bytes(state)
    return path


def test_rules(tmp_path):
    steps = np.array([0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000])
    choose = thin.thinned_steps
    assert choose(steps, 4, None).tolist() == [0, 10, 200, 1000]
    assert choose(steps, None, 4).tolist() == [0, 10, 100, 1000]
    assert choose(steps, 5, 2).tolist() == [0, 20, 1000]
    # A slow twin of the logarithmic rule.
    for count in range(2, 12):
        wanted = np.expm1(np.linspace(0, np.log1p(1000), count))
        nearest = {int(min(steps, key=lambda s, w=w: abs(np.log1p(s) - np.log1p(w)))) for w in wanted}
        assert choose(steps, None, count).tolist() == sorted(nearest)
    train(tmp_path / "run", 3)
    for settings, error, words in (
        ({"every": 1, "in_place": True}, ConfigError, "every: expected 2 or more"),
        ({"num_log": 1, "in_place": True}, ConfigError, "num_log: expected 2 or more"),
        ({"num_log": 10**30, "in_place": True}, ConfigError, "num_log: expected 1,000,000 at most"),
        ({"every": 2, "out": tmp_path / "run" / "x"}, TrajectoryError, "inside a run folder"),
        ({"in_place": True}, ConfigError, "say what to keep"),
        ({"every": 2}, ConfigError, "either another folder"),
        ({"every": 2, "in_place": True, "out": tmp_path / "x"}, ConfigError, "either another folder"),
        ({"num_log": 100, "out": tmp_path / "x"}, TrajectoryError, "all of its 4 checkpoints would be kept"),
    ):
        before = without_lock(tmp_path)
        with pytest.raises(error, match=words):
            ld.thin_run(tmp_path / "run", **settings)
        assert without_lock(tmp_path) == before


def test_thinning_weights_at_some_steps(tmp_path):
    run = record_sparse(tmp_path / "run", 20, {"dtype": "bfloat16"})
    whole = read_sparse(ld.Trajectory(run))
    ld.thin_run(run, tmp_path / "both", every=2)
    both = ld.Trajectory(tmp_path / "both")
    assert both.weight_steps.tolist() == [0, 6, 12, 18]
    assert both.steps.tolist() == [0, 1, 4, 6, 7, 10, 12, 13, 16, 18, 19, 20]
    ld.thin_run(run, tmp_path / "weights", every=3, weights_only=True)
    weights = ld.Trajectory(tmp_path / "weights")
    assert weights.steps.tolist() == list(range(21))
    assert weights.weight_steps.tolist() == [0, 9, 18]
    found = read_sparse(weights)
    assert found["storage"] == whole["storage"]
    for key in ("metrics", "outputs", "samples", 0, 9, 18):
        assert found[key] == whole[key]


def test_thinning_refuses(tmp_path, monkeypatch):
    run = train_with_curve(tmp_path / "run", 9)
    with ld.TrajectoryWriter(run, new_model(), resume=True):
        for settings in ({"in_place": True}, {"out": tmp_path / "x"}):
            with pytest.raises(RunLockedError, match="writing to this run"):
                ld.thin_run(run, every=2, **settings)
    for place in (run, tmp_path / "file"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(TrajectoryError, match="nothing in it was changed"):
            ld.thin_run(run, place, every=2)
    for name in ("missing", "file"):
        with pytest.raises(TrajectoryError):
            ld.thin_run(tmp_path / name, tmp_path / "x", every=2)
    before = without_lock(tmp_path)
    # A file system that cannot exchange folders.
    with monkeypatch.context() as patched:
        patched.setattr(staging.sys, "platform", "plan9")
        with pytest.raises(TrajectoryError, match=r"cannot be exchanged .*into another folder instead"):
            ld.thin_run(run, every=2, in_place=True)
    assert without_lock(tmp_path) == before
    damaged = run / "shards" / "shard-000001.h5"
    content = bytearray(damaged.read_bytes())
    content[-300] ^= 1
    damaged.write_bytes(content)
    before = without_lock(tmp_path)
    for settings in ({"in_place": True}, {"out": tmp_path / "x"}):
        with pytest.raises(CorruptRunError, match="shard-000001"):
            ld.thin_run(run, every=2, **settings)
    assert without_lock(tmp_path) == before


def test_a_link_is_not_exchanged_for_the_run(tmp_path):
    (tmp_path / "disk").mkdir()
    train(tmp_path / "disk" / "run", 9)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "run")
    ld.thin_run(tmp_path / "link", every=3, in_place=True)
    assert (tmp_path / "link").is_symlink()
    assert ld.Trajectory(tmp_path / "disk" / "run").steps.tolist() == [0, 3, 6, 9]
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["run"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_killed_at_any_change_thinning_in_place_loses_nothing(tmp_path):
    origin, run = tmp_path / "origin", tmp_path / "run"
    train(origin, 7)
    (origin / "llc" / "llc").mkdir(parents=True)
    (origin / "llc" / "llc" / "step-1.h5").write_bytes(b"a point")
    whole = rows_of(ld.Trajectory(origin))
    shutil.copytree(origin, run)
    seen = set()

    def check(_):
        found = ld.Trajectory(run)
        assert found.verify().ok
        assert found.complete
        steps = tuple(found.steps.tolist())
        assert steps in (tuple(range(8)), (0, 3, 6, 7))
        seen.add(steps)
        assert rows_of(found) == {step: whole[step] for step in steps}
        assert (run / "llc" / "llc" / "step-1.h5").read_bytes() == b"a point"
        if len(steps) == 4:
            # The same command again finds it done and sweeps up.
            assert "nothing was done" in str(ld.thin_run(run, every=3, in_place=True))
            assert ld.Trajectory(run).steps.tolist() == list(steps)
            assert sorted(path.name for path in tmp_path.iterdir()) == ["origin", "run"]
            shutil.rmtree(run)
            shutil.copytree(origin, run)

    kill_at_each_change(lambda: ld.thin_run(run, every=3, in_place=True), check, every=3)
    assert len(seen) == 2


# merge


def sweep_of(folder, runs, seed=0, settings=None):
    """A folder of runs with the file of a sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep = {"name": "tiny", "seed": seed, "runs": [{"num_tasks": n} for n in runs], **(settings or {})}
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return folder


@pytest.fixture
def machines(tmp_path):
    """Two machines: one run each of their own, one that both have and that b trained farther."""
    a, b = sweep_of(tmp_path / "a", [2, 8]), sweep_of(tmp_path / "b", [2, 16])
    train(a / "M-2", 6, finish=False)
    shutil.copytree(a / "M-2", b / "M-2")
    train(b / "M-2", 12)
    add_curve(a / "M-2", (0, 3))
    add_curve(b / "M-2", (3, 6))
    train(a / "M-8", 5)
    train(b / "M-16", 5)
    (b / "report.html").write_text("report")
    return a, b


def test_merging_machines(machines, tmp_path, capsys):
    a, b = machines
    before = contents(a), contents(b)
    out = tmp_path / "all"
    assert main(["merge", str(a), str(b), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "3 runs" in shown
    assert "added: M-16, M-2, M-8" in shown
    assert f"{b}: not merged, because they are no runs: report.html" in shown
    assert (contents(a), contents(b)) == before
    assert read_all(ld.Trajectory(out / "M-2")) == read_all(ld.Trajectory(b / "M-2"))
    assert read_all(ld.Trajectory(out / "M-8")) == read_all(ld.Trajectory(a / "M-8"))
    assert [ld.Trajectory(out / name).verify().problems for name in ("M-2", "M-8", "M-16")] == [[], [], []]
    assert ld.LLCCurve.load(ld.Trajectory(out / "M-2")).steps.tolist() == [0, 3, 6]
    merged = json.loads((out / "sweep.json").read_text())
    assert merged["runs"] == [{"num_tasks": 2}, {"num_tasks": 8}, {"num_tasks": 16}]
    # Again, in the other order, one at a time: the same.
    assert ld.merge_runs([b, a], out).unchanged == ["M-16", "M-2", "M-8"]
    other = tmp_path / "other"
    assert ld.merge_runs([a], other).added == ["M-2", "M-8"]
    report = ld.merge_runs([b], other)
    assert (report.added, report.continued, report.unchanged) == (["M-16"], ["M-2"], ["M-8"])
    assert {name: content for name, content in without_lock(other).items() if name != "sweep.json"} == {
        name: content for name, content in without_lock(out).items() if name != "sweep.json"
    }
    assert ld.merge_runs([a / "M-2"], other).unchanged == ["M-16", "M-2", "M-8"]
    assert not list(tmp_path.rglob(".*"))


def test_merging_refuses_what_contradicts_each_other(machines, tmp_path):
    a, b = machines
    out = tmp_path / "all"

    def refused(words, error=TrajectoryError, sources=(a, b)):
        before = without_lock(tmp_path)
        with pytest.raises(error, match=words):
            ld.merge_runs(sources, out)
        assert without_lock(tmp_path) == before

    other = sweep_of(tmp_path / "c", [8])
    train(other / "M-8", 5)
    refused("M-8 and .*M-8: different runs of one name", sources=(a, b, other))
    shutil.rmtree(other / "M-8")
    shutil.copytree(a / "M-8", other / "copy-of-M-8")
    refused("copy-of-M-8: the same run as .*M-8, under another name", sources=(a, other))
    shutil.rmtree(other / "copy-of-M-8")
    # The same run id, trained on differently from step 7 on.
    shutil.copytree(a / "M-2", other / "M-2")
    with ld.TrajectoryWriter(other / "M-2", new_model(), resume=True) as writer:
        for step in range(7, 10):
            writer.record(step, {"loss": 0.5})
    refused(r"M-2 and .*M-2: they contradict each other at step 7: 'scale'", sources=(b, other))
    shutil.rmtree(other / "M-2")
    shutil.copytree(b / "M-2", other / "M-2")
    shutil.rmtree(other / "M-2" / "llc")
    add_curve(other / "M-2", (6,), num_draws=9)
    refused("different results for one point", sources=(b, other))
    shutil.rmtree(other / "M-2" / "llc")
    add_curve(other / "M-2", (9,), num_draws=9)
    refused("one curve, made with other settings .num_draws", sources=(b, other))
    with ld.TrajectoryWriter(b / "M-16", new_model(), resume=True):
        refused("M-16: a process is writing", RunLockedError)
    content = bytearray((b / "M-16" / "shards" / "shard-000001.h5").read_bytes())
    content[-300] ^= 1
    (b / "M-16" / "shards" / "shard-000001.h5").write_bytes(content)
    with pytest.raises(CorruptRunError, match=r"b/M-16.*shard-000001"):
        ld.merge_runs([b], out)
    assert not (out / "M-16").exists()


def test_merging_bad_folders(machines, tmp_path):
    a, _ = machines
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    for sources, out, words in (
        ([tmp_path / "missing"], tmp_path / "all", "no such folder"),
        ([tmp_path / "foreign"], tmp_path / "all", "neither a run nor a folder of runs"),
        ([a], tmp_path / "foreign", "not empty and holds no run"),
        ([a], a / "M-2", "a run; give a folder that holds runs"),
        ([a], tmp_path / "foreign" / "thesis.tex", "a file"),
        ([], tmp_path / "all", "at least one"),
    ):
        with pytest.raises(TrajectoryError, match=words):
            ld.merge_runs(sources, out)
    assert not (tmp_path / "all").exists()


def test_sweeps_with_other_settings_leave_their_file_out(machines, tmp_path):
    a, b = machines
    sweep_of(b, [2, 16], seed=4)
    report = ld.merge_runs([a, b], tmp_path / "all")
    assert "sweep.json was left out" in report.notes[0].text
    assert "(seed)" in report.notes[0].text
    assert not (tmp_path / "all" / "sweep.json").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_killed_at_any_change_a_merge_is_completed(tmp_path):
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "all"
    train(a / "M-2", 3, finish=False)
    shutil.copytree(a / "M-2", b / "M-2")
    train(b / "M-2", 5)
    train(b / "M-8", 2)
    ld.merge_runs([a], out)
    shutil.copytree(out, tmp_path / "begun")
    sources = contents(a), contents(b)
    expected = {name: read_all(ld.Trajectory(b / name)) for name in ("M-2", "M-8")}
    short = read_all(ld.Trajectory(a / "M-2"))
    del short["complete"]
    kills = 0

    def check(_):
        nonlocal kills
        kills += 1
        found = ld.Trajectory(out / "M-2")
        assert found.verify().ok
        stored = read_all(found)
        assert stored == expected["M-2"] or len(stored["steps"]) == len(short["steps"])
        if kills % 3 == 0:
            # Begin again from where the first merge left it, on top of what the kill left.
            ld.merge_runs([a, b], out)
            assert {name: read_all(ld.Trajectory(out / name)) for name in expected} == expected
            assert not list(out.glob(".*"))
            shutil.rmtree(out)
            shutil.copytree(tmp_path / "begun", out)

    kill_at_each_change(lambda: ld.merge_runs([a, b], out), check, every=4)
    ld.merge_runs([a, b], out)
    assert {name: read_all(ld.Trajectory(out / name)) for name in expected} == expected
    assert (contents(a), contents(b)) == sources


# verify


def test_verify_lists_gaps_and_foreign_files_and_sets_the_exit_status(tmp_path, capsys):
    run = train_with_curve(tmp_path / "run", 9)
    file = ld.export_run(run, tmp_path / "run.h5")
    for place in (run, file):
        assert main(["verify", str(place)]) == 0
    assert "11 checkpoints" not in (shown := capsys.readouterr().out)
    assert "an exported run, 10 checkpoints are sound" in shown
    for name in ("shards/notes.txt", "shards/shard-1.h5", "arrays/other.h5", "thesis.tex", "llc/llc/step-x.h5"):
        (run / name).write_text("x")
    (run / "shards" / "shard-000001.h5").rename(tmp_path / "away.h5")
    assert main(["verify", str(run)]) == 1
    shown = capsys.readouterr().out
    for words in (
        "shards/notes.txt: not the name of a shard",
        "shards/shard-1.h5: not the name of a shard",
        "arrays/other.h5: the manifest lists no such arrays",
        "thesis.tex: does not belong to a run",
        "llc/llc/step-x.h5: not a point of an LLC curve",
        "shard-000001.h5: the shard is missing, later ones are there",
        "finished with 10 checkpoints, but 7 are there",
    ):
        assert words in shown, words
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)
    assert main(["verify", str(file)]) == 1
    assert "run.h5: " in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "missing")]) == 1
    assert main(["verify", str(Path(__file__))]) == 1
    assert "not a file that `llc-dynamics export` wrote" in capsys.readouterr().err
