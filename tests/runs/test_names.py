"""Metrics with slashes in their names go through every verb; names that a terminal would obey reach none raw."""

import json
import shutil
import sys

import h5py
import numpy as np
import pytest
from interchange_runs import train_with_curve
from trajectory_runs import new_model, read_all, train

import llc_dynamics as ld
from llc_dynamics.cli import main
from llc_dynamics.trajectory.manifest import read_signed, write_signed

NAMES = ("loss", "loss/ood", "loss/id", "distance/ood/ridge", "distance/ood/dmmse", "/", "a//b", "loss%2Food")


def record(path, num_steps=6):
    with ld.TrajectoryWriter(path, new_model(), rows_per_shard=2) as writer:
        for step in range(num_steps + 1):
            metrics = {name: step + number / 100 for number, name in enumerate(NAMES)}
            samples = {name: np.arange(3.0) + step for name in NAMES if step % 2}
            writer.record(step, metrics, np.ones(2) * step, samples)
        writer.finish()
    return path


def test_slashes_go_through_every_verb(tmp_path, capsys):
    run = record(tmp_path / "runs" / "run")
    origin = ld.Trajectory(run)
    assert origin.metric_names == origin.sample_names == sorted(NAMES)
    whole = read_all(origin)
    for arguments in (
        ["export", str(run), "--out", str(tmp_path / "run.h5")],
        ["verify", str(tmp_path / "run.h5")],
        ["import", str(tmp_path / "run.h5"), "--out", str(tmp_path / "back" / "run")],
        ["view", str(run)],
        ["thin", str(run), "--every", "2", "--out", str(tmp_path / "thin" / "run")],
        ["merge", str(tmp_path / "runs"), str(tmp_path / "back"), "--out", str(tmp_path / "all")],
        ["verify", str(tmp_path / "all")],
        ["info", str(run)],
        ["watch", str(run), "--once"],
    ):
        assert main(arguments) == 0, arguments
    shown = capsys.readouterr().out
    assert f"metrics      {', '.join(sorted(NAMES))}" in shown
    assert "samples of distance/ood/ridge: float32 [3] a checkpoint" in shown
    assert shown.count("distance/ood/ridge") >= 3
    for name in ("back", "all"):
        assert read_all(ld.Trajectory(tmp_path / name / "run")) == whole
    thinned = ld.Trajectory(tmp_path / "thin" / "run")
    for number, name in enumerate(NAMES):
        assert thinned.metrics(name).tolist() == [step + number / 100 for step in (0, 2, 4, 6)]
    with h5py.File(run / "view.h5") as view, h5py.File(tmp_path / "run.h5") as file:
        for seen in (view, file):
            np.testing.assert_array_equal(seen["metrics/distance%2Food%2Fridge"], origin.metrics("distance/ood/ridge"))
            np.testing.assert_array_equal(seen["samples/loss%2Food"], origin.samples("loss/ood"))
            assert len(seen["metrics"]) == len(NAMES)


def test_nothing_in_a_folder_makes_a_terminal_obey(tmp_path, capsys):
    """The lock, the manifest, names of curves and of stray files: whoever makes a folder chooses them."""
    evil = "\x1b[2J\x9b31m\x07"
    run = train_with_curve(tmp_path / "run")
    manifest = read_signed(run / "manifest.json", "llc_dynamics trajectory")
    write_signed(run / "manifest.json", manifest | {"created": evil, "config": {evil: evil}})
    shutil.copytree(run / "llc" / "llc", run / "llc" / f"curve{evil}")
    (run / f"stray{evil}").write_text("x")
    (run / "shards" / f"stray{evil}").write_text("x")
    train(tmp_path / "other" / "run", 2)
    (tmp_path / "other" / f"stray{evil}").write_text("x")
    for arguments, words in (
        (["info", str(run)], "curve\\x1b[2J"),
        (["verify", str(run)], "stray\\x1b[2J"),
        (["watch", str(run), "--once"], "run: complete"),
        (["merge", str(tmp_path / "other"), "--out", str(tmp_path / "all")], "stray\\x1b[2J"),
        (["info", str(tmp_path / f"none{evil}")], "none\\x1b[2J"),
    ):
        if arguments[0] == "verify":
            shutil.rmtree(run / "llc" / f"curve{evil}")  # a name that it refuses
        main(arguments)
        captured = capsys.readouterr()
        shown = captured.out + captured.err
        assert words in shown
        assert all(line.isprintable() for line in shown.splitlines()), shown
    assert main(["info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["config"] == {evil: evil}


@pytest.mark.skipif(sys.platform == "win32", reason="makes links")
def test_a_merge_writes_no_points_through_a_link(tmp_path):
    train_with_curve(tmp_path / "a" / "run", 6, steps=(0, 3))
    ld.merge_runs([tmp_path / "a"], tmp_path / "all")
    shutil.rmtree(tmp_path / "all" / "run" / "llc")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "all" / "run" / "llc").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ld.LLCDynamicsError, match="llc: a link"):
        ld.merge_runs([tmp_path / "a"], tmp_path / "all")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_info_and_verify_need_no_torch(tmp_path):
    import subprocess

    run = train_with_curve(tmp_path / "run")
    program = f"""
import sys
sys.modules["torch"] = None
from llc_dynamics.runs import export_run, import_run, write_view
from llc_dynamics.trajectory import verify_run
from llc_dynamics.runs.info import run_info
assert "h5py" not in sys.modules
assert run_info({str(run)!r}).metrics == ["loss", "nothing", "odd/only"]
assert verify_run({str(run)!r}).ok
write_view({str(run)!r})
export_run({str(run)!r}, {str(tmp_path / "x.h5")!r})
assert import_run({str(tmp_path / "x.h5")!r}, {str(tmp_path / "back")!r}).verify().ok
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_all(ld.Trajectory(tmp_path / "back")) == read_all(ld.Trajectory(run))
