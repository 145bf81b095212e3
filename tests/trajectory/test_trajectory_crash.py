"""A writer that is killed: at most the unsealed rows are lost, and the resumed run ends as the unbroken one."""

import errno
import os
import random
import resource
import signal
import time

import pytest
import torch
from trajectory_runs import new_model, read_all, train

import llc_dynamics as ld
from llc_dynamics.errors import RunLockedError, TrajectoryError
from llc_dynamics.trajectory import sealing

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked writers")


def in_child(work):
    """Run `work` in a forked process; returns its id. (A fresh interpreter would take seconds to import torch.)"""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def test_killed_at_random_moments_the_run_ends_as_the_unbroken_one(tmp_path):
    num_steps = 120
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(whole, num_steps)
    expected = read_all(ld.Trajectory(whole))
    draw, kills, status = random.Random(0), 0, -1
    while kills < 20 and status != 0:
        child = in_child(lambda: train(broken, num_steps))
        time.sleep(draw.uniform(0.002, 0.08))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert status == 0 or os.WIFSIGNALED(status), "the writer failed by itself"
        kills += status != 0
        if not (broken / "manifest.json").exists():
            continue
        run = ld.Trajectory(broken)
        report = run.verify()
        assert all("left by a writer that died" in problem.text for problem in report.problems), report
        assert report.rows == len(run.steps)
        assert run.steps.tolist() == expected["steps"][: len(run.steps)]
        if len(run.steps):
            last = int(run.steps[-1])
            got = {
                name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
                for name, tensor in run.state_dict(last).items()
            }
            assert got == {name: stored[2] for name, stored in expected["state", last].items()}
    assert kills >= 5
    train(broken, num_steps)
    final = ld.Trajectory(broken)
    assert final.verify().ok
    found = read_all(final)
    if found["resume"]["step"] == 116:  # killed between the last full shard and the state that belongs to it
        del found["resume"], expected["resume"]
    assert found == expected


def test_a_second_writer_is_told_who_holds_the_run_and_readers_are_not_hindered(tmp_path):
    path, (ready, tell), (wait, release) = tmp_path / "run", os.pipe(), os.pipe()

    def hold():
        with ld.TrajectoryWriter(path, new_model(), rows_per_shard=1) as writer:
            writer.record(0)
            writer.seal()
            os.write(tell, b"x")
            os.close(release)
            os.read(wait, 1)

    child = in_child(hold)
    os.read(ready, 1)
    with pytest.raises(RunLockedError, match=f"process {child} on .*Wait for it"):
        ld.TrajectoryWriter(path, new_model(), resume=True)
    assert ld.Trajectory(path).steps.tolist() == [0]
    assert ld.Trajectory(path).verify().being_written
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    writer = ld.TrajectoryWriter(path, new_model(), resume=True)
    with pytest.raises(RunLockedError, match=f"process {os.getpid()}"):
        ld.TrajectoryWriter(path, new_model(), resume=True)
    writer.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_full_or_read_only_disk_loses_nothing(tmp_path, monkeypatch, code):
    train(tmp_path / "whole", 8)
    path, model = tmp_path / "run", new_model()
    writer = ld.TrajectoryWriter(path, model, rows_per_shard=2)
    writer.record(0)
    writer.record(1, {"loss": 1.0})
    writer.seal()
    sealed_bytes = (path / "shards" / "shard-000000.h5").read_bytes()
    writer.record(2, {"loss": 2.0})

    def fail(stream, _, content):
        stream.write(content[: len(content) // 2])
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(sealing, "write_at", fail)
        with pytest.raises(TrajectoryError, match=r"shard-000001.*(space|read-only|disk)"):
            writer.seal({"step": 2})
    assert sorted(entry.name for entry in (path / "shards").iterdir()) == ["shard-000000.h5"]
    assert (path / "shards" / "shard-000000.h5").read_bytes() == sealed_bytes
    assert writer.pending == 1
    writer.close()
    assert ld.Trajectory(path).metrics("loss").tolist()[1:] == [1.0, 2.0]
    assert ld.Trajectory(path).verify().ok


def test_a_real_write_error_in_the_middle_of_a_shard(tmp_path):
    """A file size limit of the operating system cuts the shard short, as a full disk does."""
    path = tmp_path / "run"

    def overflow():
        model = torch.nn.Linear(1000, 10)
        writer = ld.TrajectoryWriter(path, model, rows_per_shard=8)
        for step in range(8):
            writer.record(step)
        writer.seal()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        for step in range(8, 16):
            writer.record(step)
        with pytest.raises(TrajectoryError, match="file size limit"):
            writer.seal()
        with pytest.raises(TrajectoryError):
            writer.close()

    _, status = os.waitpid(in_child(overflow), 0)
    assert status == 0
    assert len(ld.Trajectory(path).steps) == 8
    assert ld.Trajectory(path).verify().ok
