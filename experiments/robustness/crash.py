"""Kill training, LLC estimation and export at random moments, go on after each kill, and compare with unbroken runs.

    OMP_NUM_THREADS=1 python experiments/robustness/crash.py [--kills N] [--only training llc export] [--seed S]

Each job runs in a process group of its own and gets SIGKILL, its workers too, at a moment drawn uniformly from the
time that the unbroken job takes; then the same job is started again and goes on. When it comes to its end before its
kill, its result is compared with the unbroken one's and the next job begins from nothing, until N jobs of each kind
were killed. While a training writes, this process reads the run; after each kill it reads everything that is there:

- training: a tiny in-context transformer; rows and resume state are sealed at nearly every checkpoint, so that it
  writes most of the time. Read are manifest, all sealed rows with their checksums, resume state, verification. Every
  row must equal the unbroken run's, the steps must be the first ones of its steps, and no problem may be found but
  temporary files. At the end all rows, row checksums, fixed arrays, settings and the resume state are compared bit for
  bit.
- llc: `llc_curve` on two workers over eight checkpoints; all stored points must be the unbroken curve's, bit for bit.
- export: the run as one HDF5 file; the file must not be there, or be the unbroken one's contents, bit for bit.

Printed is, for each kind, what state the kills left behind and how many reads, rows and results were compared. Any
difference ends the program with status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

import llc_dynamics as ld
from llc_dynamics.errors import LLCDynamicsError
from llc_dynamics.llc.storage import curve_folder, read_point, stored_points
from llc_dynamics.training import (
    CheckpointConfig,
    RunConfig,
    TrainingConfig,
    load_config,
    loop,
    train,
)
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.files import is_temporary
from llc_dynamics.trajectory.names import is_run

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: workers of a killed process become children of this one


class BadReadError(Exception):
    """Something was read that is not what was written, or was refused although nothing but a kill happened."""


@dataclass
class Tally:
    """What the kills of one kind left, and what was compared."""

    kills: int = 0
    jobs: int = 0
    reads: int = 0
    rows: int = 0
    found: Counter[str] = field(default_factory=Counter)
    #: Moments of the kills as shares of the unbroken job's time.
    moments: list[float] = field(default_factory=list)


# --- killing ----------------------------------------------------------------------------------------------------------


def become_reaper() -> None:
    """Wait for the workers of killed processes, too: none of them may still write when the job goes on."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def start(job: Callable[[], None]) -> int:
    """Run `job` in a forked process that leads a process group of its own. (To import torch anew takes seconds.)"""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            job()
            status = 0
        except BaseException as error:
            print(f"the job failed by itself: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    return child


def wait_until(child: int, deadline: float, meanwhile: Callable[[], None] | None) -> int | None:
    """The exit status of `child` if it ends before `deadline`; `meanwhile` is called over and over until then."""
    while (left := deadline - time.monotonic()) > 0:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if meanwhile is not None and left > 0.05:
            meanwhile()
        time.sleep(min(0.002, max(0.0, deadline - time.monotonic())))
    return None


def kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-leader, 0)


def torment(
    kind: str,
    kills: int,
    draw: random.Random,
    folder: Path,
    job: Callable[[Path], None],
    inspect: Callable[[Path, Tally], None],
    compare: Callable[[Path, Tally], None],
    meanwhile: Callable[[Path, Tally], None] | None = None,
) -> Tally:
    """Kill `job(place)` at random moments and start it again, `kills` times or more.

    The job is first run unbroken, twice: in this process, so that its children need not import what it needs, and in a
    child, which gives the time and, in `folder / "timed"`, what the others must end with.
    """
    tally = Tally()
    job(folder / "warm")
    began = time.monotonic()
    child = start(lambda: job(folder / "timed"))
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise BadReadError(f"{kind}: the unbroken job failed")
    life = time.monotonic() - began
    while tally.kills < kills:
        place = folder / f"{kind}-{tally.jobs}"
        while True:
            moment = draw.random()
            child = start(lambda place=place: job(place))
            look = None if meanwhile is None else lambda place=place: meanwhile(place, tally)
            status = wait_until(child, time.monotonic() + moment * life, look)
            kill_group(child)
            if status is not None:
                if status != 0:
                    raise BadReadError(f"{kind}: the job failed by itself, going on from what {tally.kills} kills left")
                break
            tally.kills += 1
            tally.moments.append(moment)
            inspect(place, tally)
        compare(place, tally)
        tally.jobs += 1
    return tally


# --- training ---------------------------------------------------------------------------------------------------------


def tiny_config(num_steps: int = 60) -> RunConfig:
    return RunConfig(
        system=ld.InContextRegression(
            num_tasks=4,
            dimension=2,
            context_length=4,
            num_layers=1,
            num_heads=2,
            width=8,
            mlp_width=8,
            num_sequences=8,
            num_root_sequences=4,
        ),
        training=TrainingConfig(num_steps=num_steps, batch_size=8, warmup_steps=5, averaging=0.9),
        checkpoints=CheckpointConfig(linear_interval=3, num_log=20),
        seed=3,
    )


def train_tiny(place: Path, config: RunConfig) -> None:
    torch.set_num_threads(1)
    loop._SEAL_SECONDS = 0.005  # so that it writes most of the time
    train(config, place)


def row_digests(run: Trajectory) -> dict[int, str]:
    """SHA-256 of everything that was recorded at each step; reading compares the row checksums."""
    outputs = run.outputs() if len(run.steps) else None
    samples = {name: run.samples(name) for name in run.sample_names}
    metrics = {name: run.metrics(name) for name in run.metric_names}
    found = {}
    for row, step in enumerate(run.steps.tolist()):
        digest = hashlib.sha256()
        for name, tensor in run.state_dict(step).items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for table in (metrics, samples):
            for name in sorted(table):
                digest.update(name.encode() + table[name][row].tobytes())
        if outputs is not None:
            digest.update(outputs[row].tobytes())
        found[step] = digest.hexdigest()
    return found


def stored_checksums(run: Trajectory) -> dict[str, list[int]]:
    """All row checksums as they stand in the shards: {dataset: [C]}."""
    found: dict[str, list[int]] = {}
    for path in sorted((run.path / "shards").iterdir()):
        with h5py.File(path) as file:
            for name, dataset in sorted(_datasets(file["checksum"])):
                found.setdefault(name, []).extend(dataset[:].tolist())
    return found


def _datasets(group: h5py.Group, prefix: str = "") -> list[tuple[str, h5py.Dataset]]:
    found = []
    for name, item in group.items():
        found += _datasets(item, f"{prefix}{name}/") if isinstance(item, h5py.Group) else [(prefix + name, item)]
    return found


def whole_run(path: Path) -> dict[str, Any]:
    """All that a finished run holds, comparable with ==."""
    run = Trajectory(path)
    return {
        "complete": run.complete,
        "rows": row_digests(run),
        "checksums": stored_checksums(run),
        "config": run.config,
        "arrays": {
            name: {key: (value.dtype.str, value.shape, value.tobytes()) for key, value in run.arrays(name).items()}
            for name in run.array_names
        },
        "resume": _plain(run.resume_state()),
        "problems": run.verify().problems,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def kill_training(kills: int, draw: random.Random, folder: Path, num_steps: int = 60, watched: bool = True) -> Tally:
    config = tiny_config(num_steps)
    timed = folder / "timed"
    expected: dict[str, Any] = {}

    def inspect(place: Path, tally: Tally) -> None:
        if not expected:
            expected.update(whole_run(timed))
        if not is_run(place):
            tally.found["before the manifest"] += 1
            return
        try:
            run = Trajectory(place)
            report = run.verify()
            rows = row_digests(run)
            resume = run.resume_state()
            complete = run.complete
        except LLCDynamicsError as error:
            raise BadReadError(f"training, kill {tally.kills}: refused to read what a kill left: {error}") from error
        wanted = list(expected["rows"].items())[: len(rows)]
        if list(rows.items()) != wanted:
            raise BadReadError(f"training, kill {tally.kills}: rows other than those of the unbroken run")
        if any(problem.code != "left_over" for problem in report.problems) or report.rows != len(rows):
            raise BadReadError(f"training, kill {tally.kills}: {report}")
        tally.reads += 1
        tally.rows += len(rows)
        tally.found["in the middle of writing a file" if report.problems else "between two files"] += 1
        tally.found["resume state behind the rows"] += bool(resume and list(rows)[-1] > resume["step"])
        tally.found["finished"] += complete

    def compare(place: Path, tally: Tally) -> None:
        found = whole_run(place)
        for name, value in expected.items() or whole_run(timed).items():
            if found[name] != value:
                raise BadReadError(f"training: the run that was killed and the unbroken one differ in: {name}")
        tally.rows += len(found["rows"])

    def meanwhile(place: Path, tally: Tally) -> None:
        """A reader while it is written."""
        if not expected:
            expected.update(whole_run(timed))
        if not is_run(place):
            return
        try:
            rows = row_digests(Trajectory(place))
        except LLCDynamicsError as error:
            raise BadReadError(f"training, before kill {tally.kills + 1}: a reader was refused: {error}") from error
        if any(expected["rows"].get(step) != digest for step, digest in rows.items()):
            raise BadReadError(f"training, before kill {tally.kills + 1}: a reader saw other rows")
        tally.reads += 1
        tally.rows += len(rows)

    return torment(
        "training",
        kills,
        draw,
        folder,
        lambda place: train_tiny(place, config),
        inspect,
        compare,
        meanwhile if watched else None,
    )


# --- LLC --------------------------------------------------------------------------------------------------------------


def curve_of(run: Trajectory, workers: int, num_draws: int, points: int) -> None:
    """The curve over the first of `run`'s checkpoints."""
    torch.set_num_threads(1)
    config = load_config(run)
    ld.llc_curve(
        run,
        config.system.build(config.seed),
        config.system.loss,
        config.system.sample,
        steps=run.steps[:points],
        num_samples=1000,
        sampler=ld.SGLD(step_size=1e-4, localization=100.0),
        num_chains=2,
        num_draws=num_draws,
        num_burnin=5,
        batch_size=8,
        seed=5,
        workers=workers,
        progress=False,
    )


def point_bytes(path: Path) -> dict[str, Any]:
    result, identity = read_point(path)
    return {
        "numbers": (result.llc, result.standard_error, result.r_hat, result.ess, result.initial_loss),
        "traces": [np.ascontiguousarray(getattr(result, name)).tobytes() for name in ("trace", "distance_trace")],
        "verdict": (result.converged, result.reasons),
        "identity": (identity.curve, identity.weights, identity.probe.tobytes()),
    }


def kill_llc(
    kills: int, draw: random.Random, folder: Path, workers: int = 2, num_draws: int = 30, num_points: int = 8
) -> Tally:
    source, expected = folder / "source", {}
    train_tiny(source, tiny_config(24))
    # In this process, not in workers, so that no worker need import what it takes.
    curve_of(Trajectory(shutil.copytree(source, folder / "first")), 1, num_draws, 1)

    def job(place: Path) -> None:
        if not is_run(place):
            shutil.copytree(source, place.with_name(f"copy-{place.name}"), dirs_exist_ok=True)
            os.rename(place.with_name(f"copy-{place.name}"), place)
        curve_of(Trajectory(place), workers, num_draws, num_points)

    def points(place: Path) -> dict[int, dict[str, Any]]:
        return {step: point_bytes(path) for step, path in stored_points(curve_folder(place, "llc")).items()}

    def inspect(place: Path, tally: Tally) -> None:
        if not expected:
            expected.update(points(folder / "timed"))
        try:
            found = points(place)
        except LLCDynamicsError as error:
            raise BadReadError(f"llc, kill {tally.kills}: refused to read what a kill left: {error}") from error
        if any(expected[step] != point for step, point in found.items()):
            raise BadReadError(f"llc, kill {tally.kills}: a stored point is not the unbroken curve's")
        half = curve_folder(place, "llc")
        written = half.is_dir() and any(is_temporary(entry.name) for entry in half.iterdir())
        tally.found["in the middle of writing a point" if written else "between two points"] += 1
        tally.found[f"{len(found)} of {len(expected)} points"] += 1
        tally.reads += 1
        tally.rows += len(found)

    def compare(place: Path, tally: Tally) -> None:
        found = points(place)
        if found != (expected or points(folder / "timed")):
            raise BadReadError("llc: the curve that was killed and the unbroken one differ")
        tally.rows += len(found)

    return torment("llc", kills, draw, folder, job, inspect, compare)


# --- export -----------------------------------------------------------------------------------------------------------


def file_contents(path: Path) -> dict[str, Any]:
    """Every dataset and attribute of an exported run but the time of the export, comparable with ==."""
    from llc_dynamics.runs import verify_archive

    try:
        verify_archive(path)
    except LLCDynamicsError as error:
        raise BadReadError(f"export: refused to read what was written: {error}") from error
    found: dict[str, Any] = {}

    def take(name: str, item: h5py.Group | h5py.Dataset) -> None:
        attributes = {key: np.asarray(value).tobytes() for key, value in item.attrs.items()}
        content = item[()].tobytes() if isinstance(item, h5py.Dataset) else b""
        if name == "description":
            content = json.dumps(json.loads(content) | {"exported": None}).encode()
        shape = (item.dtype.str, item.shape) if isinstance(item, h5py.Dataset) else None
        found[name] = (shape, content, attributes)

    with h5py.File(path) as file:
        take("/", file)
        file.visititems(take)
    return found


def kill_export(kills: int, draw: random.Random, folder: Path, num_steps: int = 240) -> Tally:
    from llc_dynamics.runs import export_run

    source, expected = folder / "source", {}
    train_tiny(source, tiny_config(num_steps))

    def job(place: Path) -> None:
        target = place.with_suffix(".h5")
        if not target.exists():
            export_run(source, target)

    def inspect(place: Path, tally: Tally) -> None:
        if not expected:
            expected.update(file_contents(folder / "timed.h5"))
        target = place.with_suffix(".h5")
        left = [entry.name for entry in folder.iterdir() if target.name in entry.name and entry != target]
        tally.found["in the middle of writing" if left else "no file yet" if not target.exists() else "written"] += 1
        if target.exists():
            if file_contents(target) != expected:
                raise BadReadError(f"export, kill {tally.kills}: the file is not the unbroken one")
            tally.reads += 1
        if Trajectory(source).verify().problems:
            raise BadReadError(f"export, kill {tally.kills}: the run that was exported was changed")

    def compare(place: Path, tally: Tally) -> None:
        if file_contents(place.with_suffix(".h5")) != (expected or file_contents(folder / "timed.h5")):
            raise BadReadError("export: the file that was killed and the unbroken one differ")
        tally.rows += 1

    return torment("export", kills, draw, folder, job, inspect, compare)


# --- all --------------------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[int, random.Random, Path], Tally]] = {
    "training": kill_training,
    "llc": kill_llc,
    "export": kill_export,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each kind")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder in it is used and removed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    become_reaper()
    for kind in arguments.only:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            began = time.monotonic()
            try:
                tally = KINDS[kind](arguments.kills, random.Random(f"{arguments.seed} {kind}"), Path(folder))
            except BadReadError as error:
                print(f"FAILED: {error}", flush=True)
                return 1
        found = ", ".join(f"{name}: {count}" for name, count in sorted(tally.found.items()) if count)
        spread = np.histogram(tally.moments, bins=4, range=(0, 1))[0].tolist()
        print(
            f"{kind}: {tally.kills} kills over {tally.jobs} jobs in {time.monotonic() - began:.0f} s, no bad read; "
            f"{tally.reads} reads and {tally.rows} rows or results compared\n    left behind: {found}\n    kills by "
            f"quarter of the job: {spread}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
