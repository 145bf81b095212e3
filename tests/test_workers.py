"""Worker processes: order, errors, deaths, and an end together with the process that started them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llc_dynamics import progress, workers
from llc_dynamics.errors import ConfigError, LLCDynamicsError, TrajectoryError
from llc_dynamics.local_processes import LocalProcesses
from llc_dynamics.workers import Job, mapped, require_workers, run_jobs

_METHODS = ["jobs", "mapped"]


class OddError(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def work(kind: str, path: str = "") -> object:
    if kind == "advice":
        raise TrajectoryError(f"cannot write {path}")
    if kind == "fault":
        raise ZeroDivisionError("a fault of the program")
    if kind == "odd":
        raise OddError(1, 2)
    if kind == "unpicklable":
        return threading.Lock()
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        sys.exit(3)
    if kind == "slow":
        time.sleep(1)
    if path:
        Path(path).write_text(os.environ["OMP_NUM_THREADS"])
    return kind


def run(method: str, *tasks: tuple[str, ...], workers: int = 1) -> None:
    """`work(*task)` for each task."""
    if method == "mapped":
        with LocalProcesses(workers) as pool:
            mapped(lambda task: work(*task), tasks, pool)
    else:
        run_jobs([Job(work, task, "work", len(tasks), advance=1) for task in tasks], workers=workers)


def test_progress_while_nothing_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(workers, "_IDLE_SECONDS", 0.1)
    monkeypatch.setattr(progress, "_FIRST", 0.0)
    run("jobs", ("slow",))
    assert capsys.readouterr().err.endswith(": work 0 of 1\n")


def test_results_are_in_order() -> None:
    reported = {}
    offset = 10  # closures are sent
    with LocalProcesses(3) as pool:
        results = mapped(lambda task: task + offset, range(7), pool, reported.__setitem__)
    assert results == list(range(10, 17)) == [reported[place] for place in range(7)]


@pytest.mark.parametrize("method", _METHODS)
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("advice", TrajectoryError, "cannot write"),
        ("fault", ZeroDivisionError, "a fault of the program"),
        ("odd", RuntimeError, "OddError: 1 and 2"),
        ("unpicklable", RuntimeError, r"cannot be sent back.*lock"),
        ("die", LLCDynamicsError, r"a worker process died.*often for lack of memory \(signal SIGKILL\).*fewer"),
        ("exit", LLCDynamicsError, r"a worker process died.*\(exit status 3\)"),
    ],
)
def test_errors(method: str, kind: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        run(method, (kind,))
    if kind == "fault":
        assert "in work" in "".join(caught.value.__notes__)  # where it happened, in the worker


def test_a_death_names_its_job() -> None:
    with pytest.raises(LLCDynamicsError, match="died during 'work'"):
        run("jobs", ("die",))


@pytest.mark.parametrize("method", _METHODS)
def test_after_an_error_running_jobs_end_and_none_begins(method: str, tmp_path: Path) -> None:
    slow, later = tmp_path / "slow", tmp_path / "later"
    tasks = [("slow", str(slow)), ("advice", ""), ("result", str(later))]
    with pytest.raises(TrajectoryError, match="cannot write"):
        run(method, *tasks, workers=2)
    assert slow.exists()
    assert not later.exists()


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_number_of_workers(workers: object) -> None:
    with pytest.raises(ConfigError, match="workers must be a whole number of 1 or more"):
        require_workers(workers)
    assert require_workers(None) >= 1


_SCRIPT = """
import os, sys, time
from llc_dynamics.local_processes import LocalProcesses
from llc_dynamics.workers import mapped
def compute(task):
    os.write(2, b"at work\\n")
    time.sleep(60)
with LocalProcesses(3) as pool:
    mapped(compute, range(3), pool)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with parent:
        for _ in range(3):
            parent.stderr.readline()  # all of them are at work
        parent.send_signal(number)
        began = time.monotonic()
        rest, errors = parent.communicate(timeout=20)  # ends when the last one that can write has ended
        assert time.monotonic() - began < 10
    assert rest == ""
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)
