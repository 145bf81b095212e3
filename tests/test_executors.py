"""Units of work away from this process: lost workers, a lost scheduler, shards, jobs; always the same numbers."""

import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import submitit
import torch
from clusters import Cluster
from presets import PRESET
from problems import regression, squared_error
from torch import nn

import llc_dynamics as ld
from llc_dynamics import workers
from llc_dynamics.cli import main
from llc_dynamics.errors import ConfigError, LLCDynamicsError, MissingPackageError
from llc_dynamics.executors import SubmititExecutor, opened
from llc_dynamics.local_processes import LocalProcesses
from llc_dynamics.sweeps import estimate_curves, find_runs, load_sweep, run_sweep
from llc_dynamics.workers import Shard, executor_of, mapped

SETTINGS = {"sampler": ld.SGLD(1e-4, localization=100.0), "num_draws": 12, "num_burnin": 3, "batch_size": 16}
STEPS = list(range(8))
DATA = regression()


class Loss:
    """Slow, and says in a folder which processes are at work."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, model, batch):
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.005)
        return squared_error(model, batch)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    torch.manual_seed(0)
    model, folder = nn.Linear(3, 1), tmp_path_factory.mktemp("runs") / "run"
    with ld.TrajectoryWriter(folder, model, config={}) as writer:
        for step in STEPS:
            writer.record(step, metrics={"loss": 0.0})
            with torch.no_grad():
                model.weight += 0.1
    return folder


@pytest.fixture
def run(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "run")


def curve(run, **others):
    return ld.llc_curve(run, nn.Linear(3, 1), others.pop("loss_fn", squared_error), DATA, **SETTINGS, **others)


def same(one, other):
    return np.array_equal(one.steps, other.steps) and all(
        np.array_equal(a.trace, b.trace) for a, b in zip(one.results, other.results, strict=True)
    )


def points(run, name):
    return {path.name: path.stat().st_mtime_ns for path in (run / "llc" / name).glob("*.h5")}


def test_a_cluster_loses_workers_and_then_its_scheduler(run, tmp_path, capsys):
    at_work = tmp_path / "at work"
    at_work.mkdir()
    straight = curve(run, name="straight")
    with Cluster(tmp_path, workers=4) as cluster:

        def kill_workers(_step, done, _total):
            if done == 1:
                busy = [each for each in cluster.workers if (at_work / str(each.pid)).exists()]
                lost.extend(busy[:2])
                for each in lost:
                    each.kill()

        def kill_scheduler(_step, done, _total):
            if done == 1:
                cluster.scheduler.kill()

        lost = []
        with opened(cluster.address) as executor:
            found = curve(run, name="workers", executor=executor, loss_fn=Loss(at_work), progress=kill_workers)
            assert len(lost) == 2
            assert same(found, straight)
            other = calibrated(run, executor=executor)
            with pytest.raises(LLCDynamicsError, match="scheduler"):
                curve(run, name="scheduler", executor=executor, loss_fn=Loss(at_work), progress=kill_scheduler)
    assert other == calibrated(run)
    before = points(run, "scheduler")
    assert 1 <= len(before) < len(STEPS)
    with Cluster(tmp_path, workers=1) as cluster, opened(cluster.address) as executor:
        assert same(curve(run, name="scheduler", executor=executor, loss_fn=Loss(at_work)), straight)
        assert before.items() <= points(run, "scheduler").items()
        # and the command line
        preset = tmp_path / "tiny.toml"
        preset.write_text(PRESET)
        assert main(["train", str(preset), "--out", str(tmp_path / "dask"), "--executor", cluster.address]) == 0
        assert main(["llc", str(tmp_path / "dask"), "--executor", cluster.address]) == 0
    capsys.readouterr()
    sweep = load_sweep(preset)
    with ThreadPoolExecutor(1) as here:
        run_sweep(sweep, tmp_path / "here", executor=here, estimate=True)
    for one, two in zip(find_runs(tmp_path / "dask"), find_runs(tmp_path / "here"), strict=True):
        assert same(ld.LLCCurve.load(one), ld.LLCCurve.load(two))


def test_shards_and_merge(tmp_path):
    """Two machines with a disk each train a run each; then each estimates half of the points of both."""
    preset, folders = tmp_path / "tiny.toml", [tmp_path / "first", tmp_path / "second"]
    preset.write_text(PRESET)
    sweep = load_sweep(preset)
    assert main(["train", str(preset), "--out", str(folders[0]), "--shard", "1/2", "--workers", "1"]) == 0
    with ThreadPoolExecutor(1) as here:
        run_sweep(sweep, folders[1], executor=here, shard=Shard(2, 2))
        assert [len(find_runs(folder)) for folder in folders] == [1, 1]
        ld.merge_runs(folders, tmp_path / "merged")
        copies = [shutil.copytree(tmp_path / "merged", tmp_path / name) for name in ("third", "fourth")]
        for place, folder in enumerate(copies, 1):
            estimate_curves(find_runs(folder), sweep.llc, executor=here, shard=Shard(place, 2))
            assert sum(len(points(each.path, "llc")) for each in find_runs(folder)) == 2
        ld.merge_runs(copies, tmp_path / "merged")
        run_sweep(sweep, tmp_path / "straight", executor=here, estimate=True)
    for one, two in zip(find_runs(tmp_path / "straight"), find_runs(tmp_path / "merged"), strict=True):
        assert same(ld.LLCCurve.load(one), ld.LLCCurve.load(two))


def calibrated(run, **others):
    found = ld.calibrate(
        nn.Linear(3, 1), squared_error, DATA, run=run, steps=[3, 7], gradients=95, target_error=9.0, **others
    )
    return repr([[trial.llc for trial in found.trials], found.settings])


def test_a_scheduler_that_does_not_answer(tmp_path, capsys):
    assert main(["train", "small", "--out", str(tmp_path / "out"), "--executor", "tcp://127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["daks", "tcp://", "tcp:/here", "submitit:no_such_parameter=3", "tcp://nowhere:x"])
def test_names_of_executors(name):
    with pytest.raises(ConfigError, match=name.partition(":")[0]), opened(name):
        pass


@pytest.mark.parametrize("package", ["distributed", "submitit"])
def test_missing_packages(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    extra = {"distributed": "dask", "submitit": "slurm"}[package]
    with (
        pytest.raises(MissingPackageError, match=rf"llc-dynamics\[{extra}\]"),
        opened({"dask": "dask"}.get(extra, package)),
    ):
        pass


def test_a_worker_with_another_version_is_refused(monkeypatch):
    here = workers.software()
    monkeypatch.setattr(workers, "software", lambda: here.replace("llc-dynamics ", "llc-dynamics 9."))
    with LocalProcesses(1) as pool, pytest.raises(ConfigError) as caught:
        mapped(abs, [1], pool)
    assert here in str(caught.value)
    assert workers.software() in str(caught.value)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", ""])
def test_shards_that_are_none(text):
    with pytest.raises(ConfigError, match="2/3 for the second"):
        Shard.parse(text)


def test_shards_are_all_units_once():
    shards = [Shard.parse(f"{place}/3").of(range(8)) for place in (1, 2, 3)]
    assert sorted(each for shard in shards for each in shard) == list(range(8))


def test_threads_take_turns(run):
    """In one process there is one set of generators, so an executor of threads gives the same numbers, too."""
    with ThreadPoolExecutor(3) as pool:
        assert same(curve(run, name="threads", executor=pool), curve(run))
        wanted = nn.Linear(3, 1), squared_error, DATA, [50.0, 100.0]
        found = [
            ld.llc_spectrum(*wanted, run=run, steps=[2, 5], executor=executor, name=name, **SETTINGS)
            for executor, name in ((pool, "there"), (None, "here"))
        ]
    for there, here in zip(*(np.ravel(np.array(each.results, dtype=object)) for each in found), strict=True):
        assert np.array_equal(there.trace, here.trace)
    assert not [each for each in threading.enumerate() if each.name.startswith("ThreadPool")]


def test_each_process_has_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def visible(_):
        time.sleep(0.5)  # so that both have work
        return os.environ["CUDA_VISIBLE_DEVICES"]

    with executor_of(None, None, "cuda") as pool:
        assert set(mapped(visible, range(4), pool)) == {"0", "1"}


def test_a_lost_process_is_replaced(tmp_path):
    def once(path):
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return path.name

    with LocalProcesses(2) as pool:
        assert mapped(once, [tmp_path / "a", tmp_path / "b"], pool) == ["a", "b"]


def lost_once(path: Path) -> str:
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def refused(_: int) -> None:
    raise ConfigError("of a unit")


def test_submitit(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 1)  # how long a lost job's answer is waited for
    engine = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="local")
    with SubmititExecutor(engine, every=0.1) as pool:
        assert same(curve(run, name="jobs", executor=pool, steps=[2, 5]), curve(run, steps=[2, 5]))
        assert mapped(lost_once, [tmp_path / "a"], pool) == ["a"]
        with pytest.raises(ConfigError, match="of a unit"):
            mapped(refused, [1], pool)
