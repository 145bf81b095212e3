"""SLURM itself, of one node, from the system's packages (slurmctld, slurmd, slurm-client, munge)."""

import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from presets import PRESET

import llc_dynamics as ld
from llc_dynamics.cli import main
from llc_dynamics.executors import opened
from llc_dynamics.sweeps import find_runs, load_sweep, run_sweep
from llc_dynamics.workers import mapped

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={other_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=60 State=UP
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """A controller and a node; skipped, with the reason, where they are missing or do not start."""
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin")
    missing = [each for each in _PROGRAMS if shutil.which(each) is None]
    if missing or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip(f"needs root and the programs {', '.join(missing) or 'of SLURM'}")
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = _CONF.format(folder=folder, host=host, port=free_port(), other_port=free_port())
    (folder / "slurm.conf").write_text(conf)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    files = [f"--{name}={folder}/munge.{end}" for name, end in (("key-file", "key"), ("socket", "socket"))]
    files += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    with ExitStack() as stack:
        for command in (
            ["munged", "--force", "--foreground", *files],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", host],
        ):
            log = stack.enter_context((folder / f"{command[0]}.out").open("wb"))
            process = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            time.sleep(0.5)
        end = time.monotonic() + 30
        state = ""
        while state != "idle" and time.monotonic() < end:
            state = subprocess.run(
                ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False
            ).stdout.strip()
            time.sleep(0.2)
        if state != "idle":
            pytest.skip(f"SLURM does not start here: {(folder / 'slurmctld.out').read_text()[-300:]}")
        yield folder


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_sweep_and_its_curves_as_jobs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    preset = tmp_path / "tiny.toml"
    preset.write_text(PRESET)
    executor = ["--executor", f"submitit:folder={tmp_path}/jobs,timeout_min=10,cpus_per_task=1"]
    assert main(["train", str(preset), "--out", str(tmp_path / "jobs runs"), *executor]) == 0
    assert main(["llc", str(tmp_path / "jobs runs"), *executor]) == 0
    with ThreadPoolExecutor(1) as here:
        run_sweep(load_sweep(preset), tmp_path / "here", executor=here, estimate=True)
    for one, two in zip(find_runs(tmp_path / "jobs runs"), find_runs(tmp_path / "here"), strict=True):
        np.testing.assert_array_equal(ld.LLCCurve.load(one).values, ld.LLCCurve.load(two).values)
    with opened(executor[1]) as pool:
        where = set(mapped(lambda _: os.environ["SLURM_JOB_PARTITION"], range(2), pool))
    assert where == {"debug"}
    capsys.readouterr()
