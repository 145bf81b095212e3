"""Runs of every kind and kills at every step, for the tests of what moves and keeps runs."""

import os
import shutil

import numpy as np
import torch
from problems import squared_error
from trajectory_runs import CONFIG, new_model, row_of, train, train_step

import llc_dynamics as ld
from llc_dynamics.llc.storage import point_file
from llc_dynamics.seeding import torch_generator


def record_sparse(path, num_steps, storage=None, weights_every=3, finish=True):
    """A run that stores functions at every step and weights at every third."""
    model, generator = new_model(), torch_generator(3, "train")
    with ld.TrajectoryWriter(path, model, CONFIG, rows_per_shard=2, storage=storage) as writer:
        for step in range(num_steps + 1):
            if step:
                train_step(model, generator)
            writer.record(step, *row_of(model, step), weights=step % weights_every == 0)
        if finish:
            writer.finish()
    return path


def train_with_curve(path, num_steps=10, steps=(0, 4, 8), **given):
    """A run of the trajectory tests and a curve beside it, whose points are made up but real files."""
    train(path, num_steps, **given)
    add_curve(path, steps)
    return path


def add_curve(path, steps, name="llc", num_draws=8):
    """Estimate the LLC of a tiny model and store it as the points of `steps`."""
    x = torch.linspace(-1, 1, 20).reshape(-1, 1)
    model = torch.nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1.0), model.bias.fill_(0.0)
    store = path.parent / f".{path.name}.curve"
    with ld.TrajectoryWriter(store, model) as writer:
        for step in steps:
            writer.record(step)

    sampler = ld.SGLD(step_size=1e-3, localization=10.0)
    ld.llc_curve(store, model, squared_error, (x, x), sampler=sampler, num_chains=2, num_draws=num_draws, num_burnin=2)
    folder = path / "llc" / name
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        content = point_file(store / "llc" / "llc", step).read_bytes()
        point_file(folder, step).write_bytes(content)
    shutil.rmtree(store)


def read_sparse(run):
    """Everything that a run with weights at some steps holds, as bytes."""
    found = {"steps": run.steps.tolist(), "weights": run.weight_steps.tolist(), "storage": run.manifest.storage}
    for step in run.weight_steps.tolist():
        found[step] = {name: bits(tensor) for name, tensor in run.state_dict(step).items()}
    found["metrics"] = {name: run.metrics(name).tobytes() for name in run.metric_names}
    found["outputs"] = np.asarray(run.outputs()).tobytes()
    found["samples"] = {name: run.samples(name).tobytes() for name in run.sample_names}
    return found


def bits(tensor):
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def kill_at_each_change(work, check, first=1, every=1, most=400):
    """Fork `work`, killed at the n-th change that it makes in a file system, n = first, first + every, ...; check.

    Changes are opening for writing, renaming, removing, making a folder and exchanging: between two of them nothing
    that another process can see happens but writing into a file that has its temporary name.
    """
    for number in range(first, most, every):
        child = os.fork()
        if child == 0:
            try:
                _die_at(number)
                work()
                os._exit(0)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert status == 0 or os.WIFSIGNALED(status), f"it failed by itself at change {number}"
        check(number)
        if status == 0:
            return number
    raise AssertionError("never came to its end")


def _die_at(number):
    """Kill this process at its n-th change of the file system."""
    import signal
    import sys

    seen = 0

    def count(event, arguments):
        nonlocal seen
        changing = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.symlink") or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if changing or event == "ctypes.dlsym":
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
