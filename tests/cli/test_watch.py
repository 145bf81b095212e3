"""Looking at a run while it is written."""

import threading
import time

import numpy as np
import pytest
import torch
from problems import squared_outputs
from sweep_runs import describe

import llc_dynamics as ld
from llc_dynamics.cli.main import main
from llc_dynamics.errors import CorruptRunError
from llc_dynamics.progress import duration
from llc_dynamics.report import live
from llc_dynamics.report.live import LiveRun, sparkline
from llc_dynamics.report.transitions import state_in_words
from llc_dynamics.stages import detect_transience
from llc_dynamics.trajectory.sealed import SealedFile

STEPS = np.arange(0, 400, 10)


def rows(transient):
    """Curves of a run that falls to the end, or turns from ridge to dMMSE half-way, on 30 sequences."""
    generator = np.random.default_rng(0)
    t = STEPS / STEPS[-1]
    general = np.exp(-6 * t) + (0.8 * np.clip(t - 0.5, 0, None) if transient else 0) + 0.02
    specialised = np.exp(-3 * t) * 2 + (0.05 if transient else 0.8)
    scatter = 1 + 0.02 * generator.standard_normal(30)
    return [
        {
            "loss/ood": (g + 0.1) * scatter,
            "distance/ood/ridge": g * scatter,
            "distance/ood/dmmse": s * scatter,
        }
        for g, s in zip(general, specialised, strict=True)
    ]


def record(path, transient=False, upto=40, rows_per_shard=4, writer=None, first=0, weights_every=1):
    model = torch.nn.Linear(2, 1)
    opened = writer or ld.TrajectoryWriter(
        path,
        model,
        {"training": {"num_steps": 390}},
        rows_per_shard=rows_per_shard,
        description=describe(5).to_dict(),
    )
    for number, samples in list(enumerate(rows(transient)))[first:upto]:
        metrics = {name: float(values.mean()) for name, values in samples.items()}
        opened.record(int(STEPS[number]), metrics, np.ones(3), samples, weights=number % weights_every == 0)
    return opened


def test_once_prints_what_the_run_holds(tmp_path, capsys):
    writer = record(tmp_path / "M-5", weights_every=2)
    writer.finish()
    writer.close()
    assert main(["watch", str(tmp_path / "M-5"), "--once"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    run = ld.Trajectory(tmp_path / "M-5")
    assert "M-5: complete" in text
    assert "step 390 of 390 (100%), 40 checkpoints, 20 with weights" in text
    for name in ("loss/ood", "distance/ood/ridge", "distance/ood/dmmse"):
        assert f"{name} {run.metrics(name)[-1]:.4g} {run.metrics(name).min():.4g} 390" in text
    assert "the loss on new tasks still falls; nearer to ridge" in text
    assert "than to dMMSE (" in text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "manifest.json|no such folder"),
        (lambda path: path.mkdir(), "empty"),
        (lambda path: path.write_text("x"), "a file"),
        (lambda path: (path.mkdir(), (path / "notes").write_text("x")), "not a run folder"),
    ],
)
def test_a_folder_that_is_no_run_is_one_line_and_status_1(tmp_path, capsys, make, words):
    import re

    make(tmp_path / "thing")
    assert main(["watch", str(tmp_path / "thing")]) == 1
    error = capsys.readouterr().err
    assert re.search(words, error)
    assert error.count("\n") == 1


def test_a_folder_of_runs_says_which_to_watch(tmp_path, capsys):
    for name in ("M-2", "M-inf"):
        record(tmp_path / name, upto=2).close()
    assert main(["watch", str(tmp_path), "--once"]) == 1
    assert "watch one of them: M-2, M-inf" in capsys.readouterr().err
    assert main(["watch", str(tmp_path / "M-2"), "--every", "0"]) == 1
    assert "--every" in capsys.readouterr().err


def test_each_look_reads_only_the_new_shards(tmp_path, monkeypatch):
    read, honest = [], SealedFile.tables
    monkeypatch.setattr(SealedFile, "tables", lambda file: (read.append(file.path.name), honest(file))[1])
    writer = record(tmp_path / "run", upto=8)
    writer.seal()
    read.clear()
    looking = LiveRun(tmp_path / "run")
    first = looking.look()
    assert (len(first.steps), first.state) == (8, "being written")
    assert read == ["shard-000000.h5", "shard-000001.h5"]
    assert looking.look().stage == first.stage
    assert len(read) == 2
    record(None, upto=12, first=8, writer=writer)
    writer.seal()
    # The writer reads none of them; whoever looks reads the one that is new.
    second = looking.look()
    assert read[2:] == ["shard-000002.h5"]
    assert len(second.steps) == 12
    record(None, first=12, writer=writer)
    writer.finish()
    assert looking.look().state == "complete"
    assert len(read) == 10
    writer.close()


def test_looks_along_the_way_end_where_a_single_look_does(tmp_path):
    writer = record(tmp_path / "run", upto=1, transient=True)
    looking = LiveRun(tmp_path / "run")
    assert looking.look().age is None
    for upto in range(2, len(STEPS) + 1):
        record(None, True, upto, first=upto - 1, writer=writer)
        looking.look()
    writer.finish()
    writer.close()
    last, fresh = looking.look(), LiveRun(tmp_path / "run").look()
    assert last.stage == fresh.stage
    assert last.stage.startswith("past the transient: Transient: the loss on new tasks is least at step")
    np.testing.assert_array_equal(last.metrics[0].values, fresh.metrics[0].values)
    # All rows count in what is said, and only some of the samples are kept.
    assert len(looking._rows) < len(STEPS)


def test_watch_follows_a_writer_and_ends_with_it(tmp_path, capsys):
    writer = record(tmp_path / "run", upto=4)
    writer.seal()

    def write():
        for upto in range(8, len(STEPS) + 1, 8):
            time.sleep(0.05)
            record(None, upto=upto, first=upto - 8 + 4 * (upto == 8), writer=writer)
        writer.finish()
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    status = main(["watch", str(tmp_path / "run"), "--every", "0.05"])
    thread.join()
    assert status == 0
    out = capsys.readouterr().out
    assert "4 checkpoints" in out.split("╰")[0]
    assert "run: complete" in out
    assert "40 checkpoints" in out.split("╭")[-1]


def test_on_a_terminal_the_frame_is_drawn_again_in_place(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    writer = record(tmp_path / "run", upto=4)
    writer.seal()
    timer = threading.Timer(0.3, lambda: (record(None, first=4, writer=writer), writer.finish()))
    timer.start()
    assert main(["watch", str(tmp_path / "run"), "--every", "0.05"]) == 0
    timer.join()
    writer.close()
    out = capsys.readouterr().out
    assert "\x1b[1A" in out
    assert "complete" in out.split("\x1b[1A")[-1]


def test_damage_is_named(tmp_path, capsys):
    record(tmp_path / "run").close()
    path = tmp_path / "run" / "shards" / "shard-000003.h5"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptRunError, match="shard-000003"):
        LiveRun(tmp_path / "run").look()
    assert main(["watch", str(tmp_path / "run"), "--once"]) == 1
    assert "shard-000003" in capsys.readouterr().err


def test_the_latest_point_of_each_llc_curve(tmp_path):
    record(tmp_path / "run").close()
    looking = LiveRun(tmp_path / "run")
    assert looking.look().llc == ()
    for step in (100, 390):
        curve = ld.llc_curve(
            tmp_path / "run",
            torch.nn.Linear(2, 1),
            squared_outputs,
            (torch.ones(8, 2),),
            steps=[step],
            sampler=ld.SGLD(step_size=1e-4, localization=10.0),
            num_chains=2,
            num_draws=8,
            num_burnin=2,
            batch_size=4,
            progress=False,
        )
        (point,) = looking.look().llc
        assert (point.curve, point.step, point.value) == ("llc", step, float(curve.values[-1]))
    assert point.points == 2


def test_rates_and_ages_from_the_dates_of_shards():
    steps = np.arange(0, 1200, 100)
    now = time.time()
    times = np.repeat(now - np.array([40.0, 30.0, 20.0, 10.0]), 3)
    age, rows_per_second, steps_per_second = live._rate(times, steps)
    assert age == pytest.approx(10, abs=2)
    # Nine rows and 900 steps in the 30 seconds after the first shard.
    assert (rows_per_second, steps_per_second) == (pytest.approx(9 / 30), pytest.approx(900 / 30))
    assert live._rate(times[:0], steps[:0]) == (None, None, None)
    assert live._rate(times[:3], steps[:3])[1:] == (None, None)
    # A clock that was set back tells no rate, and no negative age.
    assert live._rate(times[::-1], steps)[1:] == (None, None)
    assert live._rate(times + 1000, steps)[0] == 0


def test_stages_in_words():
    def told(transient, upto=40, tasks=5, specialised=True):
        table = rows(transient)[:upto]
        curves = {
            name: ld.Curve(STEPS[:upto], [row[name].mean() for row in table], samples=[row[name] for row in table])
            for name in table[0]
        }
        far = curves["distance/ood/dmmse"] if specialised else None
        verdict = detect_transience(
            general=curves["distance/ood/ridge"], specialised=far, ood_loss=curves["loss/ood"], num_bootstrap=50
        )
        if not specialised:
            del curves["distance/ood/dmmse"]
        description = describe(tasks)
        return state_in_words(description.transitions[0], description, verdict, curves)

    assert told(True).startswith("past the transient")
    assert told(True, upto=15).startswith("the loss on new tasks still falls; nearer to ridge (distance 0.")
    assert "than to dMMSE" in told(True, upto=15)
    assert told(False, tasks=float("inf"), specialised=False).endswith("from ridge")
    assert "least loss on new tasks so far at step" in told(True, upto=24)


def test_too_early_to_tell(tmp_path):
    writer = record(tmp_path / "run", upto=4)
    writer.close()
    assert LiveRun(tmp_path / "run").look().stage.startswith("too early to tell (")
    model = torch.nn.Linear(1, 1)
    with ld.TrajectoryWriter(tmp_path / "other", model) as other:
        other.record(0, {"loss": 1.0})
    seen = LiveRun(tmp_path / "other").look()
    assert (seen.stage, seen.last_step, seen.seconds_left) == (None, None, None)


def test_sparkline_and_durations():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1, np.nan, 3], 5) == "▁ █  "
    assert sparkline([2, 2], 2) == "▁▁"
    assert sparkline([np.nan], 3) == "   "
    assert len(sparkline(np.arange(1000.0), 24)) == 24
    assert [duration(x) for x in (0.2, 59, 61, 120, 3661, 90_000)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "2 min",
        "1 h 1 min",
        "1 d 1 h",
    ]
