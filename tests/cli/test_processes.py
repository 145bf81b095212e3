"""Signals to a command with workers: all of them end, one line is said, nothing stored is lost, and it goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from presets import PRESET

import llc_dynamics as ld
from llc_dynamics.cli import main
from llc_dynamics.trajectory.files import is_locked

STOPPED = "llc-dynamics: stopped; the same command goes on from here\n"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def members(group: int) -> set[int]:
    """The living processes of a process group."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, pgrp = (process / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state not in "ZX":
                found.add(int(process.name))
    return found


def until(condition, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(met)


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, as a shell starts it; nothing of it is left after the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llc_dynamics.cli", *arguments],
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def said(process: subprocess.Popen[str]) -> str:
    """All it printed, without the lines of progress that a slow machine gets."""
    lines = process.communicate(timeout=20)[0].splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("after "))


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """Two trainings of several minutes."""
    path = tmp_path / "long.toml"
    path.write_text(PRESET.replace("num_steps = 60", "num_steps = 100_000").replace("num_steps = 40\n", ""))
    return path


def sealed(folder: Path) -> list[Path]:
    return list(folder.glob("*/shards/*.h5"))


@pytest.mark.parametrize(
    ("number", "whole_group", "status"),
    [
        (signal.SIGTERM, False, 143),
        (signal.SIGINT, False, 130),
        (signal.SIGKILL, False, -9),
        (signal.SIGINT, True, 130),
    ],
)
def test_workers_end_with_their_parent(
    number: signal.Signals, whole_group: bool, status: int, preset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with command("train", str(preset), "--out", str(out), "--workers", "2") as process:
        assert until(lambda: len({path.parent for path in sealed(out)}) == 2)
        assert len(members(process.pid)) >= 3  # or there would be nothing to see
        began = time.monotonic()
        (os.killpg if whole_group else os.kill)(process.pid, number)
        assert process.wait(20) == status
        assert until(lambda: not members(process.pid), 10)
        assert time.monotonic() - began < 10
        assert said(process) == ("" if status < 0 else STOPPED)
    for run in (out / "M-2", out / "M-inf"):
        assert not is_locked(run / "run.lock")
        stored = ld.Trajectory(run)
        assert len(stored) > 0
        assert not stored.complete
        assert stored.state_dict(int(stored.steps[-1]))


def test_a_stopped_training_goes_on(tmp_path: Path) -> None:
    """The same numbers as without the stop, by the command that was stopped."""
    path = tmp_path / "short.toml"
    path.write_text(PRESET.replace("num_steps = 60", "num_steps = 400").replace("num_steps = 40\n", ""))
    arguments = ["train", str(path), "--out", str(tmp_path / "out"), "--workers", "2"]
    with command(*arguments) as process:
        assert until(lambda: sealed(tmp_path / "out"))
        process.terminate()
        assert process.wait(20) == 143
    assert main(arguments) == 0
    assert main([*arguments[:2], "--out", str(tmp_path / "other"), "--workers", "2"]) == 0
    for label in ("M-2", "M-inf"):
        stopped, straight = (ld.Trajectory(tmp_path / each / label) for each in ("out", "other"))
        assert stopped.complete
        np.testing.assert_array_equal(stopped.metrics("train_loss"), straight.metrics("train_loss"))


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.7])
def test_ctrl_c_while_workers_start_is_one_line(moment: float, preset: Path, tmp_path: Path) -> None:
    with command("train", str(preset), "--out", str(tmp_path / "out"), "--workers", "4") as process:
        assert until(lambda: len(members(process.pid)) >= 3)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGINT)
        assert said(process) == STOPPED
        assert process.returncode == 130
        assert until(lambda: not members(process.pid), 10)


def test_two_ctrl_c_do_not_print_a_traceback(preset: Path, tmp_path: Path) -> None:
    with command("train", str(preset), "--out", str(tmp_path / "out"), "--workers", "2") as process:
        assert until(lambda: sealed(tmp_path / "out"))
        for _ in range(3):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.05)
        assert said(process) in ("", STOPPED)
        assert until(lambda: not members(process.pid), 10)


def test_a_long_temporary_folder(tmp_path: Path) -> None:
    """Sockets have paths of a hundred characters at most; there are none."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    path = tmp_path / "short.toml"
    path.write_text(PRESET)
    arguments = [sys.executable, "-m", "llc_dynamics.cli", "train", str(path), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        arguments, env={**ENVIRONMENT, "TMPDIR": str(folder)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
