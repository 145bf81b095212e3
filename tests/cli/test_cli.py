"""The command line, from a preset file to the report, and what it says to bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from presets import PRESET
from problems import squared_error

import llc_dynamics as ld
from llc_dynamics import progress
from llc_dynamics.cli import main, show
from llc_dynamics.cli.main import VERBS
from llc_dynamics.trajectory import TrajectoryWriter


def files(folder: Path) -> dict[str, bytes]:
    """Contents of a sweep, apart from what carries a time stamp or is random by design."""
    found = {}
    for path in sorted(folder.rglob("*.h5")):
        found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("preset") / "tiny.toml"
    path.write_text(PRESET)
    return path


@pytest.fixture(scope="module")
def sweep(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained sweep with LLC curves, made by the command line."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", str(preset), "--out", str(folder), "--workers", "2"]) == 0
    assert main(["llc", str(folder), "--workers", "2"]) == 0
    return folder


def test_train_and_llc_store_everything(sweep: Path) -> None:
    for label, last in (("M-2", 40), ("M-inf", 60)):
        run = ld.Trajectory(sweep / label)
        assert run.complete
        assert run.steps[-1] == last
        curve = ld.LLCCurve.load(run)
        assert curve.steps.tolist() == [0, last]
        assert np.isfinite(curve.values).all()
        # all points of all runs have the sweep's own seed: the same noise
        assert {result.settings["seed"] for result in curve.results} == {run.config["seed"]}


def test_number_of_workers_does_not_matter(sweep: Path, preset: Path, tmp_path: Path) -> None:
    """One worker, and the command stopped by a kill in between: the same numbers."""
    folder = tmp_path / "other"
    command = [sys.executable, "-m", "llc_dynamics.cli", "train", str(preset), "--out", str(folder), "--workers", "1"]
    process = subprocess.Popen(command, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None and not list(folder.glob("*/manifest.json")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert main(["train", str(folder), "--workers", "1"]) == 0
    assert main(["llc", str(folder), "--workers", "1"]) == 0
    for label in ("M-2", "M-inf"):
        one, two = ld.Trajectory(sweep / label), ld.Trajectory(folder / label)
        np.testing.assert_array_equal(one.steps, two.steps)
        np.testing.assert_array_equal(np.asarray(one.outputs()), np.asarray(two.outputs()))
        for name in one.metric_names:
            np.testing.assert_array_equal(one.metrics(name), two.metrics(name))
        np.testing.assert_array_equal(ld.LLCCurve.load(one).values, ld.LLCCurve.load(two).values)


def test_finished_work_is_not_repeated(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*") if path.is_file()}
    assert main(["train", str(sweep)]) == 0
    assert main(["train", str(sweep / "M-2")]) == 0
    assert main(["llc", str(sweep)]) == 0
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*") if path.is_file()} == before
    assert "converged" in capsys.readouterr().out


def test_reading_verbs(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("pca", "stages", "verify"):
        assert main([verb, str(sweep)]) == 0, verb
    out = capsys.readouterr().out
    assert "PC1" in out
    assert "M = 2" in out
    assert "LLC 'llc': 2 of 2 points in order" in out
    assert main(["report", str(sweep), "--out", str(tmp_path / "page.html"), "--figures", str(tmp_path / "png")]) == 0
    drawn = list((tmp_path / "png").iterdir())
    assert all(path.read_bytes().startswith({".png": b"\x89PNG", ".svg": b"<?xml"}[path.suffix]) for path in drawn)
    assert {path.suffix for path in drawn if "loss" in path.name} == {".png", ".svg"}
    assert "<html" in (tmp_path / "page.html").read_text()
    assert main(["report", str(sweep / "M-2"), "--out", str(tmp_path / "one.html")]) == 0


def test_no_bars_in_a_pipe(sweep: Path) -> None:
    """No control characters, and at most a line where the machine is so slow that it takes ten seconds."""
    command = [sys.executable, "-m", "llc_dynamics.cli", "train", str(sweep)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(line.startswith("after ") for line in done.stderr.splitlines())
    assert "\x1b" not in done.stdout + done.stderr


def test_progress_in_a_pipe_counts_what_is_to_be_done(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four points three are stored: they are checked, and say nothing about the time that the last one takes."""
    monkeypatch.setattr(progress, "_FIRST", 0.0)
    monkeypatch.setattr(progress, "_BETWEEN", 0.0)
    folder = tmp_path / "copy"
    shutil.copytree(sweep, folder)
    (folder / "M-inf" / "llc" / "llc" / "step-60.h5").unlink()
    capsys.readouterr()
    assert main(["llc", str(folder), "--workers", "1"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"after \d+ s: stored LLC [01] of 3(, about .* left)?; LLC M-inf 0 of 1", lines[0])
    assert all("LLC M-inf 0 of 1" in line for line in lines)


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom llc_dynamics.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'matplotlib', 'sklearn', 'h5py', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


def test_import_brings_in_nothing_heavy() -> None:
    program = (
        "import sys, llc_dynamics\n"
        "heavy = {'torch', 'matplotlib', 'sklearn', 'plotly', 'devinterp'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert all(getattr(llc_dynamics, name) is not None for name in llc_dynamics.__all__)\n"
        "assert not {'matplotlib', 'plotly', 'devinterp'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def refuses(capsys: pytest.CaptureFixture[str], arguments: list[str], *messages: str) -> None:
    """Exit status 1 and one line on standard error that holds every message."""
    capsys.readouterr()
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("llc-dynamics: ")
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    for message in messages:
        assert message in captured.err


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("num_steps = 60", "num_stepz = 60", ("training", "num_stepz", "did you mean 'num_steps'")),
        ("num_steps = 60", 'num_steps = "many"', ("num_steps", "expected int, got 'many'")),
        ("num_tasks = 2", "num_tasks = 0", ("M must be a whole number of 1 or more", "got 0")),
        ("num_tasks = 2", "num_tasks = 2.5", ("M must be a whole number",)),
        ("num_tasks = inf", "num_tasks = 2\nnum_steps = 40", ("runs 1 and 2 have the same settings",)),
        ("context_length = 4\n", "context_length = 1\n", ("K must be 2 or more", "got 1")),
        ("[training]", "noise_variance = -0.5\n[training]", ("noise_variance", "got -0.5")),
        ("[training]", 'schedule = "x"\n[training]', ("unknown setting", "schedule")),
        ("num_chains = 2", "num_chains = 0", ("num_chains", "got 0")),
        ("linear_interval = 5", "linear_interval = 0", ("linear_interval", "got 0")),
        ("warmup_steps = 5", 'learning_rate = "3e-3"', ("learning_rate", "expected a number")),
        ("num_tasks = inf", "num_tasks = -inf", ("M must be a whole number", "got -inf")),
        ("num_chains = 2", "num_chanis = 2", ("did you mean 'num_chains'",)),
        ("num_points = 2", "sampler = { step_siz = 1e-4 }", ("did you mean 'step_size'",)),
        ("num_points = 2", 'sampler = { kernel = "MALTA" }', ("llc: sampler: kernel 'MALTA'", "did you mean 'MALT'")),
        ("num_points = 2", 'sampler = { kernel = "MALT", step = 1.0 }', ("did you mean 'step_size'",)),
        ("num_points = 2", 'sampler = "MALT"', ("sampler must be a table",)),
        ("num_points = 2", 'loss = "behavioral"', ("llc: loss", "did you mean 'behavioural'")),
        ("num_points = 2", "seed = 3", ("llc: seed: unknown setting",)),
        ("num_samples = 100", "num_samples = 2", ("llc: num_samples must be a whole number of 3 or more", "got 2")),
        ("width = 8\nmlp", "width = 7\nmlp", ("width (7) must be a multiple of", "num_heads (2)")),
        ("[system]", "[system", ("not valid TOML",)),
        ("num_tasks = 2", "num_task = 2", ("run 1: num_task", "did you mean 'num_tasks'")),
        ("num_tasks = 2", "seed = 2", ("run 1: seed", "at the top")),
        ("num_heads = 2", "num_heads = 2\nseed = 2", ("system: seed", "at the top")),
        ("num_heads = 2", "num_hedas = 2", ("system: num_hedas", "did you mean 'num_heads'")),
        ("in_context_regression", "in_context_regresion", ("is unknown", "did you mean 'in_context_regression'")),
        ("in_context_regression", "nowhere.py:Mine", ("nowhere.py: no such file",)),
    ],
)
def test_bad_presets(
    old: str, new: str, messages: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in PRESET
    path = tmp_path / "bad.toml"
    path.write_text(PRESET.replace(old, new, 1))
    refuses(capsys, ["train", str(path), "--out", str(tmp_path / "out")], str(path), *messages)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["train", "calibrate", "llc", "pca", "stages", "report", "verify"])
def test_missing_and_foreign_folders(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuses(capsys, [verb, str(tmp_path / "nowhere")], "nowhere")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    refuses(capsys, [verb, str(foreign)], str(foreign))
    assert [path.name for path in foreign.iterdir()] == ["notes.txt"]


def test_bad_arguments_of_train(preset: Path, sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuses(capsys, ["train", str(preset)], "--out")
    refuses(capsys, ["train", str(preset), "--out", str(tmp_path / "x"), "--workers", "0"], "workers", "got 0")
    refuses(capsys, ["train", str(preset), "--out", str(tmp_path / "x"), "--device", "gpu"], "device 'gpu'")
    assert not (tmp_path / "x").exists()
    refuses(capsys, ["train", str(preset), "--out", str(tmp_path / "x"), "--device", "meta"], "device 'meta'")
    refuses(capsys, ["train", "smal", "--out", str(tmp_path / "x")], "did you mean 'small'")
    refuses(capsys, ["train", str(sweep), "--seed", "3"], "leave out --out and --seed")
    refuses(capsys, ["train", str(preset), "--out", str(sweep), "--seed", "9"], "other settings", "seed")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    refuses(capsys, ["train", str(preset), "--out", str(foreign)], "not empty and not a sweep")


def test_run_of_another_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that someone's own loop recorded: `llc` and `train` say why they cannot go on with it, `verify` can."""
    import torch

    model = torch.nn.Linear(2, 1)
    with TrajectoryWriter(tmp_path / "own", model) as writer:
        for step in range(10):
            writer.record(step, metrics={"loss": 1.0 / (1 + step)})
    assert main(["verify", str(tmp_path / "own")]) == 0
    refuses(capsys, ["llc", str(tmp_path / "own")], "ld.llc_curve")
    refuses(capsys, ["train", str(tmp_path / "own")], "sweep.json")
    data = torch.randn(32, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(32, 1)
    ld.llc_curve(
        tmp_path / "own",
        model,
        squared_error,
        data,
        steps=[9],
        num_draws=8,
        num_burnin=0,
    )
    preset = tmp_path / "preset.toml"
    preset.write_text(PRESET)
    before = files(tmp_path)
    refuses(capsys, ["llc", str(tmp_path / "own"), "--config", str(preset), "--overwrite"], "own", "ld.llc_curve")
    assert files(tmp_path) == before
    assert main(["report", str(tmp_path / "own")]) == 0


def test_damage_is_found_and_named(preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "damaged"
    assert main(["train", str(preset), "--out", str(folder), "--workers", "2"]) == 0
    assert main(["verify", str(folder)]) == 0
    shard = sorted((folder / "M-2" / "shards").iterdir())[-1]
    original = shard.read_bytes()
    content = bytearray(original)
    content[len(content) // 2] ^= 0x10
    shard.write_bytes(content)
    capsys.readouterr()
    assert main(["verify", str(folder)]) == 1
    assert shard.name in capsys.readouterr().out
    shard.write_bytes(content[: len(content) // 3])
    assert main(["verify", str(folder)]) == 1
    assert shard.name in capsys.readouterr().out
    refuses(capsys, ["llc", str(folder)], shard.name, "damaged")
    shard.write_bytes(original)
    assert main(["verify", str(folder)]) == 0
    (folder / "sweep.json").write_text("{")
    refuses(capsys, ["llc", str(folder)], "sweep.json", "cannot be read")


def test_run_that_is_being_written(preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "locked"
    assert main(["train", str(preset), "--out", str(folder), "--workers", "2"]) == 0
    (folder / "M-2" / "complete.json").unlink()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time\n"
            "stream = open(sys.argv[1], 'r+')\n"
            "fcntl.flock(stream, fcntl.LOCK_EX)\n"
            "print('locked', flush=True)\n"
            "time.sleep(600)",
            str(folder / "M-2" / "run.lock"),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        refuses(capsys, ["train", str(folder), "--workers", "1"], "M-2")
    finally:
        holder.kill()
        holder.wait()
    assert main(["train", str(folder), "--workers", "1"]) == 0


def test_one_damaged_run_does_not_hide_the_others(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(sweep, folder)
    (folder / "M-2" / "manifest.json").write_text("{")
    assert main(["verify", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "M-inf" in out
    assert "manifest.json" in out
    assert main(["stages", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "note: M-2 was left out" in out
    assert "M = ∞" in out
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    assert "M-2 was left out" in (tmp_path / "page.html").read_text()
    refuses(capsys, ["report", str(folder), "--out", str(tmp_path)], "is a folder")
    (folder / "M-inf" / "manifest.json").write_text("{")
    refuses(capsys, ["report", str(folder)], "manifest.json")


def test_sweep_file_of_an_earlier_version_goes_on(sweep: Path, tmp_path: Path) -> None:
    """Settings that the stored files do not hold have their defaults."""
    folder = tmp_path / "copy"
    shutil.copytree(sweep, folder)
    stored = json.loads((folder / "sweep.json").read_text())
    del stored["training"]["averaging"]
    (folder / "sweep.json").write_text(json.dumps(stored))
    assert main(["train", str(folder), "--workers", "1"]) == 0


def test_other_llc_settings_need_a_name_or_overwrite(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(PRESET.replace("num_draws = 20", "num_draws = 24"))
    before = files(sweep)
    refuses(capsys, ["llc", str(sweep), "--config", str(other), "--workers", "1"], "num_draws")
    assert files(sweep) == before
    assert main(["llc", str(sweep / "M-2"), "--config", str(other), "--name", "longer", "--workers", "1"]) == 0
    assert ld.LLCCurve.load(sweep / "M-2", "longer").results[0].trace.shape == (2, 24)
    assert main(["llc", str(sweep / "M-2"), "--name", "longer", "--overwrite", "--workers", "1"]) == 0
    assert ld.LLCCurve.load(sweep / "M-2", "longer").results[0].trace.shape == (2, 20)


def test_stored_settings_are_resolved(sweep: Path) -> None:
    stored = json.loads((sweep / "sweep.json").read_text())
    assert stored["runs"][1]["num_tasks"] == "inf"
    assert stored["training"]["optimizer"] == "adam"


CALIBRATE = ["--gradients", "95", "--target-error", "5", "--num-samples", "50", "--workers", "1"]


@pytest.fixture(scope="module")
def calibrated(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sweep with a calibration, made by the command line."""
    folder = tmp_path_factory.mktemp("calibrated") / "tiny"
    shutil.copytree(sweep, folder)
    assert main(["calibrate", str(folder), *CALIBRATE]) == 0
    return folder


def test_calibrate_writes_settings_and_evidence(calibrated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llc_dynamics.llc import Calibration

    folder = calibrated / "calibration"
    assert {path.name for path in folder.iterdir()} == {"settings.toml", "evidence.csv", "calibration.png", "trials"}
    found = Calibration.load(folder)
    assert found.loss == "behavioural"
    assert found.settings.num_samples == 50
    assert [trial.place for trial in found.trials[:4]] == ["M-2 at 0", "M-2 at 40", "M-inf at 0", "M-inf at 60"]
    before = {path: path.stat().st_mtime_ns for path in (folder / "trials").iterdir()}
    capsys.readouterr()
    assert main(["calibrate", str(calibrated), *CALIBRATE]) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "trials").iterdir()} == before
    assert Calibration.load(folder) == found or repr(Calibration.load(folder)) == repr(found)
    captured = capsys.readouterr()
    assert "explored" in captured.out
    assert found.findings[0].text in captured.out
    assert f"llc-dynamics llc {calibrated} --settings {folder / 'settings.toml'}" in captured.out
    assert captured.err.splitlines()[0] == "calibration: about 5 min at most (--max-seconds)"
    assert main(["calibrate", str(calibrated), *CALIBRATE, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["findings"] == [finding.to_dict() for finding in found.findings]
    assert printed["settings"]["sampler"]["kernel"] == "SGLD"
    assert [trial["place"] for trial in printed["trials"]] == [trial.place for trial in found.trials]


def test_llc_takes_the_settings_file(
    calibrated: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = str(calibrated / "calibration" / "settings.toml")
    refuses(capsys, ["llc", str(calibrated), "--settings", settings, "--workers", "1"], "another computation")
    monkeypatch.setattr(show, "_WORTH_SAYING", 0.0)
    capsys.readouterr()
    assert main(["llc", str(calibrated), "--settings", settings, "--name", "tuned", "--workers", "1"]) == 0
    captured = capsys.readouterr()
    assert "(behavioural loss, nbeta 12.78, gamma" in captured.out
    assert re.match(r"4 points, about .+ on 1 worker: .+ a point by the trials of the calibration\n", captured.err)
    again = ["llc", str(calibrated), "--settings", settings, "--name", "tuned", "--workers", "1", "--json"]
    assert main(again) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in printed] == ["M-2", "M-inf"]
    stored = ld.LLCCurve.load(calibrated / "M-2", "tuned")
    assert [point["llc"] for point in printed[0]["points"]] == stored.values.tolist()
    assert printed[0]["points"][1]["reasons"] == [reason.to_dict() for reason in stored.reasons[1]]
    for label, last in (("M-2", 40), ("M-inf", 60)):
        curve = ld.LLCCurve.load(calibrated / label, "tuned")
        assert curve.steps.tolist() == [0, last]
        assert {result.loss for result in curve.results} == {"behavioural"}
        assert curve.results[0].settings["sampler"]["kernel"] == "SGLD"
    page = calibrated / "page.html"
    assert main(["report", str(calibrated), "--name", "tuned", "--out", str(page)]) == 0
    text = page.read_text()
    assert 'id="figure-calibration"' in text
    assert "the behavioural loss at nbeta&nbsp;=&nbsp;12.8 and gamma&nbsp;=&nbsp;" in text
    # a damaged calibration is left out, with a note
    (calibrated / "calibration" / "evidence.csv").write_text("nothing")
    assert main(["report", str(calibrated), "--name", "tuned", "--out", str(page)]) == 0
    assert 'id="figure-calibration"' not in page.read_text()
    assert "the calibration was left out" in page.read_text()


def test_bad_arguments_of_calibrate_and_settings(
    sweep: Path, preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    refuses(capsys, ["calibrate", str(sweep), "--gradients", "20", "--workers", "1", *out], "too few", "90 or more")
    refuses(capsys, ["calibrate", str(sweep), "--target-error", "0", *out], "target_error")
    refuses(capsys, ["calibrate", str(sweep), "--batch-size", "0", *out], "batch_size", "got 0")
    refuses(capsys, ["calibrate", str(sweep), "--num-samples", "2", *out], "num_samples", "got 2")
    refuses(capsys, ["calibrate", str(sweep), "--device", "gpu", *out], "device 'gpu'")
    both = ["--config", str(preset), "--settings", str(preset)]
    refuses(capsys, ["llc", str(sweep), *both], "--config and --settings", "give one of them")
    refuses(capsys, ["llc", str(sweep), "--name", "../x", "--workers", "1"], "curve name '../x'")
    refuses(capsys, ["llc", str(sweep), "--settings", str(tmp_path / "none.toml")], "none.toml: no such config file")
    refuses(capsys, ["llc", str(sweep), "--settings", str(preset)], str(preset), "[llc.sampler]")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 2**64])
def test_all_verbs_refuse_a_seed_beyond_64_bits(
    seed: int, sweep: Path, preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    for verb in (["train", str(preset), *out], ["demo", *out], ["calibrate", str(sweep), *out], ["stages", str(sweep)]):
        refuses(capsys, [*verb, "--seed", str(seed)], "seed must be a whole number of at most 64 bits", str(seed))
    assert not (tmp_path / "out").exists()


def test_preset_chooses_kernel_and_loss(sweep: Path, tmp_path: Path) -> None:
    path = tmp_path / "malt.toml"
    kernel = 'sampler = { kernel = "MALT", localization = 30.0, num_steps = 2 }'
    path.write_text(PRESET.replace("num_points = 2", f'num_points = 1\nloss = "behavioural"\n{kernel}'))
    run = tmp_path / "M-2"
    shutil.copytree(sweep / "M-2", run)
    assert main(["llc", str(run), "--config", str(path), "--name", "malt", "--workers", "1"]) == 0
    (result,) = ld.LLCCurve.load(run, "malt").results
    assert (result.loss, result.localization) == ("behavioural", 30.0)
    assert result.settings["sampler"]["num_steps"] == 2
