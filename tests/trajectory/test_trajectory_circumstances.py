"""What happens around a run: other writers and readers, clocks that jump, folders that move, disks that refuse."""

import datetime
import errno
import os
import random
import shutil
import signal
import sys
import time

import pytest
import torch
from problems import squared_outputs, tiny_in_context
from trajectory_runs import new_model, read_all, train

import llc_dynamics as ld
from llc_dynamics.errors import CorruptRunError, LLCDynamicsError, RunLockedError, TrajectoryError
from llc_dynamics.trajectory import sealed, sealing
from llc_dynamics.trajectory.extras import read_resume, write_resume

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks writers")


def in_child(work):
    """Run `work` in a forked process; returns its id. The process ends with status 0 if nothing was raised."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return child


def status_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken run of 60 steps, and all that it holds."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    train(path, 60)
    return path, read_all(ld.Trajectory(path))


def rows_of(run):
    """What a run holds now, row by row, as far as it has come."""
    steps = run.steps.tolist()
    return steps, {
        step: {name: tensor.float().numpy().tobytes() for name, tensor in run.state_dict(step).items()}
        for step in steps
    }


# --- readers and writers ----------------------------------------------------------------------------------------------


@needs_fork
def test_readers_all_the_time_while_writers_are_killed(tmp_path, whole):
    """One reader keeps its run open and refreshes it, the other opens it anew; neither ever sees anything wrong."""
    _, expected = rows_of(ld.Trajectory(whole[0]))
    path, draw, opened, reads, kills = tmp_path / "run", random.Random(1), None, 0, 0
    while kills < 8:
        child = in_child(lambda: train(path, 60))
        until = time.monotonic() + draw.uniform(0.01, 0.15)
        while time.monotonic() < until:
            if not (path / "manifest.json").exists():
                continue
            steps, rows = rows_of(ld.Trajectory(path))
            assert steps == list(range(len(steps)))
            assert all(rows[step] == expected[step] for step in steps)
            opened = opened or ld.Trajectory(path)
            before = len(opened)
            assert opened.refresh() == len(opened) - before
            assert opened.steps.tolist() == list(range(len(opened)))
            if len(opened):
                opened.metrics("loss")
                opened.outputs()[-1:]
            opened.resume_state()
            reads += 1
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if opened is not None and opened.steps.tolist()[-1:] == [60]:
            shutil.rmtree(path)
            opened = None
    assert reads > 20
    train(path, 60)
    assert read_all(ld.Trajectory(path)) == whole[1]


@pytest.mark.parametrize("place", ["_read_header", "digest_outside_rows"])
def test_a_resume_state_that_is_replaced_while_it_is_read_is_read_whole(tmp_path, monkeypatch, place):
    """By another writer, between the header and the digest, or between the digest and the tables."""
    states = [{"a": [0, 1]}, {"a": list(range(1000)), "b": torch.ones(9)}]
    write_resume(tmp_path, "run", states[0], 0)
    original, calls = getattr(sealed, place), []

    def then_replaced(*given):
        found = original(*given)
        calls.append(place)
        if len(calls) == 1:
            write_resume(tmp_path, "run", states[1], 1)
        return found

    monkeypatch.setattr(sealed, place, then_replaced)
    state, rows = read_resume(tmp_path, "run")
    assert repr(state) == repr(states[rows])


@needs_fork
def test_of_writers_that_start_at_the_same_moment_one_wins(tmp_path):
    path, (wait, go) = tmp_path / "run", os.pipe()

    def write():
        os.close(go)
        os.read(wait, 1)
        try:
            with ld.TrajectoryWriter(path, new_model(), rows_per_shard=1) as writer:
                for step in range(5):
                    writer.record(step)
                time.sleep(0.3)
        except RunLockedError:
            os._exit(3)
        except TrajectoryError as error:
            os._exit(4 if "holds a run already" in str(error) else 1)

    children = [in_child(write) for _ in range(4)]
    os.close(go)
    os.close(wait)
    outcomes = sorted(status_of(child) for child in children)
    assert outcomes[0] == 0
    assert set(outcomes[1:]) <= {3, 4}
    run = ld.Trajectory(path)
    assert run.steps.tolist() == list(range(5))
    assert run.verify().ok


def test_a_file_system_without_locks_is_refused_with_a_message(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(TrajectoryError, match=r"does not support locks .*local disk"):
        ld.TrajectoryWriter(tmp_path / "run", new_model())


# --- clocks -----------------------------------------------------------------------------------------------------------


class JumpingClock:
    """Jumps by up to ten years at every look."""

    def __init__(self):
        self._draw, self._looks = random.Random(2), 0

    def __call__(self):
        self._looks += 1
        return 1.7e9 + (-1) ** self._looks * self._draw.uniform(1e8, 3e8)


def test_a_clock_that_jumps_changes_nothing(tmp_path, whole, monkeypatch):
    clock = JumpingClock()

    class Datetime(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(clock(), tz)

    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr("llc_dynamics.trajectory.manifest.datetime", Datetime)
    path, draw = tmp_path / "run", random.Random(3)
    for num_steps in (20, 41, 60):
        train(path, num_steps, finish=num_steps == 60)
        # File times of the future and of the past, as a clock that was wrong leaves them.
        for entry in path.rglob("*"):
            moment = 1.7e9 + draw.uniform(-3e8, 3e8)
            os.utime(entry, (moment, moment))
    found = read_all(ld.Trajectory(path))
    assert found == whole[1]
    assert ld.Trajectory(path).verify().ok


def test_a_clock_that_jumps_changes_no_row_of_the_training_loop(tmp_path, monkeypatch):
    """The loop seals after half a minute; a clock that jumps moves that, and which rows share a file, nothing else."""
    from llc_dynamics.training import CheckpointConfig, RunConfig, TrainingConfig
    from llc_dynamics.training import train as train_model

    config = RunConfig(
        tiny_in_context(4, num_sequences=8, num_root_sequences=4),
        training=TrainingConfig(num_steps=12, batch_size=4, warmup_steps=5),
        checkpoints=CheckpointConfig(linear_interval=1, num_log=0),
    )
    torch.set_num_threads(1)
    whole = train_model(config, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", JumpingClock())
        run = train_model(config, tmp_path / "run")
    assert rows_of(run) == rows_of(whole)
    assert len(list((run.path / "shards").iterdir())) > len(list((whole.path / "shards").iterdir()))


# --- folders that move ------------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("carry", [shutil.move, shutil.copytree], ids=["moved", "copied"])
def test_a_killed_run_goes_on_in_another_folder(tmp_path, whole, carry):
    path, draw = tmp_path / "0", random.Random(4)
    for number in range(1, 6):
        child = in_child(lambda path=path: train(path, 60))
        time.sleep(draw.uniform(0.02, 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if path.exists():
            path = carry(path, tmp_path / f"another place {number}" / "é")
    train(path, 60)
    assert read_all(ld.Trajectory(path)) == whole[1]
    assert ld.Trajectory(path).verify().ok


def test_an_open_reader_of_a_run_that_is_moved_says_so(tmp_path):
    train(tmp_path / "run", 8)
    run = ld.Trajectory(tmp_path / "run")
    os.rename(tmp_path / "run", tmp_path / "elsewhere")
    for read in (lambda: run.state_dict(3), lambda: run.metrics("loss"), lambda: run.outputs()[:]):
        with pytest.raises(TrajectoryError, match=r"shard-00000\d\.h5.*(missing|gone)"):
            read()
    assert ld.Trajectory(tmp_path / "elsewhere").verify().ok


def test_an_llc_curve_goes_on_in_a_copy(tmp_path):
    model, x = torch.nn.Linear(2, 1), torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    with ld.TrajectoryWriter(tmp_path / "run", model) as writer:
        for step in range(3):
            writer.record(step)
    settings = {"num_chains": 2, "num_draws": 8, "num_burnin": 2, "batch_size": 8, "progress": False}

    def curve(path, steps):
        return ld.llc_curve(
            path,
            model,
            squared_outputs,
            (x,),
            steps=steps,
            sampler=ld.SGLD(step_size=1e-3, localization=1.0),
            **settings,
        )

    curve(tmp_path / "run", [0, 1])
    copy = shutil.copytree(tmp_path / "run", tmp_path / "copy")
    stored = (copy / "llc" / "llc" / "step-1.h5").stat().st_mtime_ns
    continued = curve(copy, [0, 1, 2])
    assert (copy / "llc" / "llc" / "step-1.h5").stat().st_mtime_ns == stored
    assert continued.values.tolist() == curve(tmp_path / "run", [0, 1, 2]).values.tolist()


# --- shards that are gone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [["shard-000003.h5"], ["shard-000019.h5", "shard-000020.h5"], ["shard-000020.h5"]])
def test_a_run_without_its_middle_or_last_shards(tmp_path, whole, gone):
    path = shutil.copytree(whole[0], tmp_path / "run")
    for name in gone:
        (path / "shards" / name).unlink()
    with pytest.raises(CorruptRunError, match="missing"):
        _ = ld.Trajectory(path).complete
    assert not ld.Trajectory(path).verify().ok
    if gone == ["shard-000020.h5"]:
        # Its rows come after the resume state: a writer computes them again.
        train(path, 60)
    else:
        with pytest.raises(CorruptRunError, match="missing"):
            train(path, 60)
        for name in gone:
            shutil.copy(whole[0] / "shards" / name, path / "shards")
    assert read_all(ld.Trajectory(path)) == whole[1]
    assert ld.Trajectory(path).verify().ok


# --- disks that refuse ------------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs the permissions of Unix")
def test_a_read_only_folder(tmp_path, whole):
    """Reading works, writing says what to do; as another user where this one is root and may write everywhere."""
    path = shutil.copytree(whole[0], tmp_path / "run")
    shutil.rmtree(path / "arrays")  # as another user may see it, too
    shutil.copytree(whole[0] / "arrays", path / "arrays")
    for entry in [path, *path.rglob("*")]:
        os.chmod(entry, 0o555 if entry.is_dir() else 0o444)

    def use():
        if os.geteuid() == 0:
            for parent in tmp_path.parents:
                if parent != parent.parent and parent.stat().st_uid == 0 and "pytest" in str(parent):
                    os.chmod(parent, 0o755)
            os.chmod(tmp_path, 0o755)
            os.setuid(65534)
        found = read_all(ld.Trajectory(path))
        assert found == whole[1]
        assert ld.Trajectory(path).verify().ok
        for work in (
            lambda: ld.TrajectoryWriter(path, new_model(), resume=True),
            lambda: ld.TrajectoryWriter(path / "new", new_model()),
        ):
            with pytest.raises(TrajectoryError, match=r"cannot .*ermission denied.*writable"):
                work()

    try:
        assert status_of(in_child(use)) == 0
    finally:
        for entry in [path, *path.rglob("*")]:
            os.chmod(entry, 0o755)


def test_a_disk_that_fills_at_any_write_of_a_shard(tmp_path, monkeypatch):
    """Every write but the last ones of a shard fails once, and half of what was to be written is there."""
    wanted = tmp_path / "wanted"
    train(wanted, 8)
    expected = read_all(ld.Trajectory(wanted))
    honest, failures = sealing.write_at, 0
    for which in range(0, 200, 11):
        path, count = tmp_path / str(which), 0

        def write(stream, offset, content, which=which):
            nonlocal count
            count += 1
            if count == which + 1:
                stream.seek(offset)
                stream.write(content[: len(content) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return honest(stream, offset, content)

        with monkeypatch.context() as patched:
            patched.setattr(sealing, "write_at", write)
            if count_failure(path):
                failures += 1
        if count <= which:
            break
        if (path / "manifest.json").exists():
            assert all(problem.code == "left_over" for problem in ld.Trajectory(path).verify().problems)
        train(path, 8)
        # Which rows a shard holds, and so how far the last resume state reaches, depends on where it was stopped.
        assert {**read_all(ld.Trajectory(path)), "resume": None} == {**expected, "resume": None}
    assert failures > 3


def count_failure(path):
    """Whether a training failed, as it should, for lack of space."""
    try:
        train(path, 8)
    except TrajectoryError as error:
        return "free some space" in str(error) or pytest.fail(str(error))
    return False


def test_a_refusal_is_always_an_error_of_the_package(tmp_path, monkeypatch):
    """Whatever errno a disk comes up with."""
    path = tmp_path / "run"
    train(path, 3, finish=False)
    for code in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ENXIO):

        def fail(*_, code=code):
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", fail)
            with pytest.raises(LLCDynamicsError, match=r"cannot write.*unharmed"):
                train(path, 8)
    train(path, 8)
    assert ld.Trajectory(path).verify().ok
