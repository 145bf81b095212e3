"""Mutate the files of small runs and read each mutant in full: refused by name or read exactly right, and nothing else.

    OMP_NUM_THREADS=1 python experiments/robustness/fuzz.py [--mutants N] [--seed S] [--keep DIR]

A mutant is a run of which one file was changed in one of the ways of `WAYS`:

- `bytes`: flips, overwritten, cut, inserted, doubled or moved pieces anywhere, as a disk or a network may leave them;
- `sealed`: the same, behind a valid seal: whoever makes a file can compute its checksums;
- `header`: values of the JSON in the header replaced, behind a valid seal;
- `index`: formats, shapes, places and sizes of datasets in it set to values that hurt, behind a valid seal;
- `manifest`: values of `manifest.json` or `complete.json` replaced, with a valid checksum.

Everything of the run is read: rows, metrics, samples, function vectors, arrays, resume state, LLC curve, and of one
mutant in four the verification. Reading happens in processes of its own, so that a crash of a library is seen and
counted. A mutant fails if the reader crashes, raises anything but an error of this package, takes longer than
`--patience` seconds or more than 256 MiB, or gives any value that was not stored at that place. (Behind a valid seal
metrics and the names of samples are what the file's author says, and an estimate may be any: such a mutant counts as
authored.)

Mutants are drawn from (seed, number), so `--only NUMBER` makes one again. Failures are kept in DIR.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import llc_dynamics as ld
from llc_dynamics.errors import LLCDynamicsError
from llc_dynamics.trajectory import Trajectory, TrajectoryWriter
from llc_dynamics.trajectory.manifest import _checksum as json_checksum
from llc_dynamics.trajectory.sealed import DTYPES, checked_index, digest_outside_rows, encode_header

MEMORY = 256 << 20
#: Room for the libraries themselves, beside what a mutant may take.
ADDRESS_SPACE = 3 << 30
BATCH = 250
#: The index twice: it is all that the reader goes by.
WAYS = ("bytes", "sealed", "index", "index", "header", "manifest")
GOOD = ("refused", "exact", "authored")
HURTFUL = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 20, 1 << 31, (1 << 31) - 1, (1 << 32) - 1)
HURTFUL_LONG = (1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 2)


# --- runs to be mutated -----------------------------------------------------------------------------------------------


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("narrow", torch.zeros(3, dtype=torch.bfloat16))


def make_run(path: Path, num_metrics: int = 2, **settings: Any) -> Path:
    """Five rows in two shards, with all that a run can hold."""
    torch.manual_seed(0)
    model = Tiny()
    arrays = {"evaluation": {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "mask": np.array([True, False])}}
    with TrajectoryWriter(
        path, model, {"seed": 1, "nested": {"a": [1, 2.5, None, "b"]}}, rows_per_shard=3, arrays=arrays, **settings
    ) as writer:
        for step in range(5):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn(parameter.shape), alpha=0.1)
                model.count += 1
            metrics = {f"distance/ood/{number}": float(step + number) for number in range(num_metrics)}
            samples = {"loss/ood": torch.arange(4.0) * step}
            writer.record(step, metrics, outputs=torch.randn(2, 3), samples=samples)
            if step == 2:
                writer.seal({"step": step, "model": dict(model.state_dict()), "list": [1, "a", None, 2.5]})
        writer.finish()
    ld.llc_curve(
        path,
        model,
        lambda model, batch: model.linear(batch[0]).square().mean(1),
        (torch.arange(24.0).reshape(8, 3),),
        steps=[0, 4],
        sampler=ld.SGLD(step_size=1e-4, localization=10.0),
        num_chains=2,
        num_draws=8,
        num_burnin=2,
        batch_size=4,
        progress=False,
    )
    return path


def make_runs(folder: Path) -> list[Path]:
    """Few metrics and many, and weights that are kept narrower."""
    return [
        make_run(folder / "few"),
        make_run(folder / "many", num_metrics=12),
        make_run(folder / "rounded", storage={"dtype": "bfloat16"}),
    ]


def contents(path: Path) -> dict[str, Any]:
    """Everything that the reader gives, comparable with ==."""
    run = Trajectory(path)
    found: dict[str, Any] = {"steps": run.steps.tolist(), "complete": run.complete, "config": run.config}
    for step in run.steps.tolist():
        found["state", step] = {
            name: (str(tensor.dtype), tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
            for name, tensor in run.state_dict(step).items()
        }
    found["metrics"] = {name: run.metrics(name).tobytes() for name in run.metric_names}
    found["samples"] = {name: run.samples(name).tobytes() for name in run.sample_names}
    found["outputs"] = np.asarray(run.outputs()).tobytes()
    found["arrays"] = {
        name: {key: (value.dtype.str, value.shape, value.tobytes()) for key, value in run.arrays(name).items()}
        for name in run.array_names
    }
    state = run.resume_state()
    found["resume"] = None if state is None else plain(state)
    for point in ld.LLCCurve.load(run).results:
        found["llc", point.llc] = point.trace.tobytes(), point.distance_trace.tobytes()
    return found


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


# --- seals ------------------------------------------------------------------------------------------------------------


def split_header(content: bytes) -> tuple[int, dict[str, Any]]:
    """The size of the user block, and what the header says."""
    head, _, rest = content.partition(b"\n")
    return int(head.split(b" ")[3]), json.loads(rest.partition(b"\n")[0])


def seal_again(content: bytes, described: dict[str, Any], user_block: int) -> bytes:
    """`content` with a header that says `described`, and a valid seal; the digest is that of `content`."""
    described = dict(described)
    with contextlib.suppress(Exception):
        datasets = checked_index(described["datasets"], user_block, described["size"])
        described["digest"] = digest_outside_rows(io.BytesIO(content), datasets, user_block, described["size"])
    room = max(user_block, len(json.dumps(described)) + 200)
    return encode_header(described, room)[:user_block] + content[user_block:]


# --- mutations --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One changed file of one run."""

    way: str
    run: int
    file: str
    content: bytes


def change_bytes(content: bytes, draw: random.Random, start: int = 0) -> bytes:
    """Damage one to four places from `start` on."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        place = draw.randrange(start, max(start + 1, len(changed)))
        size = min(draw.choice((1, 2, 4, 8, 16, 64, 512)), max(1, len(changed) - place))
        what = draw.randrange(7)
        if what == 0 and place < len(changed):
            changed[place] ^= 1 << draw.randrange(8)
        elif what == 1:
            changed[place : place + size] = draw.randbytes(size)
        elif what == 2:
            value = draw.choice(HURTFUL + HURTFUL_LONG) & ((1 << 8 * min(size, 8)) - 1)
            changed[place : place + min(size, 8)] = value.to_bytes(min(size, 8), draw.choice(("little", "big")))
        elif what == 3:
            changed[place : place + size] = bytes(size)
        elif what == 4:
            other = draw.randrange(start, max(start + 1, len(changed)))
            changed[place : place + size] = changed[other : other + size]
        elif what == 5 and draw.random() < 0.3:
            del changed[place : place + size]
        elif what == 6 and draw.random() < 0.3:
            changed[place:place] = draw.randbytes(size)
    return bytes(changed)


def change_index(described: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """One to three fields of the datasets in a header."""
    datasets = {name: list(entry) for name, entry in described["datasets"].items()}
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        name, place = draw.choice(sorted(datasets)), draw.randrange(6)
        entry = list(datasets[name])
        number = draw.choice((*HURTFUL, *HURTFUL_LONG, described["size"], -1, 8, 10**30))
        if place == 0:
            entry[0] = draw.choice((*sorted(DTYPES), ">f4", "|O", "|V8", "<c16", number))
        elif place == 1:
            shape = list(entry[1])
            what = draw.randrange(4)
            if what == 0 or not shape:
                shape.append(number)
            elif what == 1:
                shape[draw.randrange(len(shape))] = number
            elif what == 2:
                shape.pop(draw.randrange(len(shape)))
            else:
                draw.shuffle(shape)
            entry[1] = shape
            if draw.random() < 0.5:
                with contextlib.suppress(Exception):
                    entry[3] = int(np.prod(shape, dtype=object)) * np.dtype(entry[0]).itemsize
        elif place == 2:
            old = entry[2] or 0
            entry[2] = draw.choice(
                (number, old + 8, old - 8, old + 1, None, datasets[draw.choice(sorted(datasets))][2])
            )
        elif place == 3:
            entry[3] = draw.choice((number, entry[3] + 8, entry[3] - 8))
        elif place == 4:
            other = draw.choice(sorted(datasets))
            datasets[other], entry = entry, list(datasets[other])
        else:
            datasets.pop(name)
            name = draw.choice((name, hurtful_text(draw), f"checksum/{name}", f"metrics/{hurtful_text(draw)}"))
        datasets[name] = entry
    return described | {"datasets": datasets}


def change_json(value: Any, draw: random.Random, depth: int = 0) -> Any:
    """One value somewhere in a JSON tree replaced, removed or moved."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value))
        if draw.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if draw.random() < 0.05:
            return value | {hurtful_text(draw): value[key]}
        return value | {key: change_json(value[key], draw, depth + 1)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        what = draw.randrange(8)
        if what == 0:
            return value[:place] + value[place + 1 :]
        if what == 1:
            return [*value, value[place]]
        if what == 2:
            return value[::-1]
        return [*value[:place], change_json(value[place], draw, depth + 1), *value[place + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and draw.random() < 0.6:
        return draw.choice((value + 1, value - 1, -value, *HURTFUL, *HURTFUL_LONG, 10**30, -1, (value % 1024) / 2))
    deep: Any = 0
    for _ in range(draw.choice((2, 50, 900))):
        deep = [deep]
    texts = (hurtful_text(draw), str(value), value[:-1] if isinstance(value, str) else "x")
    return draw.choice((*texts, None, True, [], {}, [value], {"a": value}, 1e308, -0.5, deep, 10**400))


def hurtful_text(draw: random.Random) -> str:
    return draw.choice(
        (
            "",
            "../../outside",
            "/etc/passwd",
            "a/b",
            "\0",
            "\ud800",
            "nan",
            "é" * 300,
            "x" * 5000,
            "%2e%2e%2f",
            "float32",
        )
    )


def mutant(number: int, seed: int, runs: list[Path]) -> Mutant:
    """Mutant `number` of `seed`."""
    return draw_mutant(random.Random(f"{seed} {number}"), runs)


def draw_mutant(draw: random.Random, runs: list[Path], ways: tuple[str, ...] = WAYS) -> Mutant:
    """A mutant; `draw` is anything with the methods of `random.Random`."""
    which = draw.randrange(len(runs))
    way = draw.choice(ways)
    if way == "manifest":
        file = draw.choice(("manifest.json", "manifest.json", "complete.json"))
        content = json.loads(runs[which].joinpath(file).read_text())
        content.pop("checksum")
        for _ in range(draw.choice((1, 1, 2))):
            content = change_json(content, draw)
        if isinstance(content, dict):
            with contextlib.suppress(ValueError, RecursionError):
                content["checksum"] = json_checksum(content)
        with contextlib.suppress(ValueError, RecursionError):
            return Mutant(way, which, file, json.dumps(content).encode())
        return Mutant(way, which, file, b"[" * draw.choice((10, 10**5)))
    files = ["shards/shard-000000.h5", "shards/shard-000001.h5", "resume.h5", "arrays/evaluation.h5"]
    file = draw.choice([files[0], *files, "llc/llc/step-4.h5"])
    content = original(runs[which] / file)
    if way == "bytes":
        return Mutant(way, which, file, change_bytes(content, draw))
    user_block, described = split_header(content)
    if way == "header":
        for _ in range(draw.choice((1, 1, 2))):
            changed = change_json(described, draw)
            described = changed if isinstance(changed, dict) else described
    elif way == "index":
        described = change_index(described, draw)
    else:
        content = change_bytes(content, draw, user_block)
        described["size"] = len(content)
    try:
        return Mutant(way, which, file, seal_again(content, described, user_block))
    except (ValueError, RecursionError, TypeError):
        return Mutant(way, which, file, change_bytes(content, draw))


@functools.cache
def original(path: Path) -> bytes:
    return path.read_bytes()


# --- reading ----------------------------------------------------------------------------------------------------------


def judge(path: Path, mutant: Mutant, expected: dict[str, Any]) -> str:
    """Give "refused" or "exact" or "authored"; anything else is a failure, in words."""
    target = path / mutant.file
    before = original(target)
    target.write_bytes(mutant.content)
    try:
        # Verification reads all once more; one mutant in four is enough for it.
        checked = zlib.crc32(mutant.content) % 4 == 0
        try:
            report = Trajectory(path).verify() if checked else None
        except LLCDynamicsError:
            report = None
        try:
            found = contents(path)
        except LLCDynamicsError as error:
            named = str(path) in str(error) or "curve 'llc'" in str(error)
            return "refused" if named else f"refused without naming a file: {error}"
        if checked and report is None:
            return "verify refuses what the reader reads"
        if found == expected:
            return "exact"
        if mutant.way != "bytes" and authored(found, expected, mutant):
            return "authored"
        return f"wrong data: {[key for key in expected if found.get(key) != expected[key]]}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
    finally:
        target.write_bytes(before)


def authored(found: dict[str, Any], expected: dict[str, Any], mutant: Mutant) -> bool:
    """Whether all that differs is what only its author can say: metrics, names, and what the manifest itself holds."""
    free = {"metrics", "samples", "arrays", "resume"}
    if mutant.file.startswith("llc/"):
        free |= {key for key in expected if isinstance(key, tuple) and key[0] == "llc"}
    if mutant.file == "manifest.json":
        # Names of tensors, their kinds, shapes of the same size: there is nothing else that could say them.
        free |= {"config", *(key for key in expected if isinstance(key, tuple))}
    if any(found.get(key) != value for key, value in expected.items() if key not in free):
        return False
    rows = len(expected["steps"])
    return by_step(found["samples"], rows) == by_step(expected["samples"], rows) and all(
        key in free or found[key] == value or mutant.file == "manifest.json" for key, value in expected.items()
    )


def by_step(values: dict[str, bytes], rows: int) -> list[list[bytes]]:
    """What each step has under any name. A name that one shard alone has is NaN at the other shards' steps."""
    columns = [np.frombuffer(each, np.uint8).reshape(rows, -1) for each in values.values()]
    there = [~np.isnan(column.view(np.float32)).all(1) for column in columns]
    return [
        sorted(c[row].tobytes() for c, known in zip(columns, there, strict=True) if known[row]) for row in range(rows)
    ]


def read_batch(
    runs: list[Path], numbers: list[int], seed: int, progress: mmap.mmap, report: Callable[..., None]
) -> None:
    """In a child: judge mutants one after the other; the number of the one in hand stands in `progress`."""
    expected = [contents(run) for run in runs]
    for run in runs:
        for file in run.rglob("*"):
            if file.is_file():
                original(file)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + ADDRESS_SPACE, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        struct.pack_into("<q", progress, 0, number)
        case = mutant(number, seed, runs)
        high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        verdict = judge(runs[case.run], case, expected[case.run])
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - high) << 10
        if grown > MEMORY and verdict in GOOD:
            verdict = f"took {grown >> 20} MiB"
        report(number, case.way, verdict)


def address_space() -> int:
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return 4 << 30


def run_batch(runs: list[Path], numbers: list[int], seed: int, patience: float) -> list[tuple[int, str, str]]:
    """Verdicts on the mutants, in as many processes as it takes: each crash or hang ends one."""
    verdicts: list[tuple[int, str, str]] = []
    progress = mmap.mmap(-1, 8)
    while numbers:
        struct.pack_into("<q", progress, 0, -1)
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as results:
            copies = [Path(shutil.copytree(run, Path(folder) / run.name)) for run in runs]
            child = os.fork()
            if child == 0:
                # The complaints of a library that aborts.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

                def report(*entry: Any, results: Any = results) -> None:
                    results.write(json.dumps(entry) + "\n")
                    results.flush()

                try:
                    read_batch(copies, numbers, seed, progress, report)
                    os._exit(0)
                except BaseException:
                    results.write(json.dumps([-1, "", traceback.format_exc()]) + "\n")
                    results.flush()
                    os._exit(1)
            ended = wait_or_kill(child, progress, patience)
            results.seek(0)
            done = [tuple(json.loads(line)) for line in results.read().splitlines()]
        broken = [verdict for number, _, verdict in done if number == -1]
        if broken:
            raise RuntimeError(f"the fuzzer itself failed: {broken[0]}")
        verdicts += done
        numbers = numbers[len(done) :]
        if ended is not None and numbers:
            (number,) = struct.unpack_from("<q", progress, 0)
            assert number == numbers[0], (number, numbers[0])
            verdicts.append((number, mutant(number, seed, runs).way, ended))
            numbers = numbers[1:]
    return verdicts


def wait_or_kill(child: int, progress: mmap.mmap, patience: float) -> str | None:
    """How the child ended if not by itself, in words."""
    at, since = -2, time.monotonic()
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return None if code >= 0 else f"crash: {signal.Signals(-code).name}"
        (number,) = struct.unpack_from("<q", progress, 0)
        if number != at:
            at, since = number, time.monotonic()
        elif time.monotonic() - since > patience * (10 if number < 0 else 1):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"hang: more than {patience:g} s"
        time.sleep(0.01)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds for one mutant")
    parser.add_argument("--keep", type=Path, help="where to put the files of mutants that failed")
    parser.add_argument("--only", type=int, nargs="+", help="these mutants alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    numbers = arguments.only or list(range(arguments.first, arguments.first + arguments.mutants))
    tally: Counter[tuple[str, str]] = Counter()
    failures = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        runs = make_runs(Path(folder))
        for run in runs:
            contents(run)
        for start in range(0, len(numbers), BATCH):
            for number, way, verdict in run_batch(
                runs, numbers[start : start + BATCH], arguments.seed, arguments.patience
            ):
                good = verdict in GOOD
                tally[way, verdict if good else "FAILED"] += 1
                if not good:
                    failures.append(number)
                    print(f"mutant {number} ({way}): {verdict}", flush=True)
                    if arguments.keep is not None:
                        case = mutant(number, arguments.seed, runs)
                        place = arguments.keep / f"{number}-{runs[case.run].name}-{Path(case.file).name}"
                        place.parent.mkdir(parents=True, exist_ok=True)
                        place.write_bytes(case.content)
            done = start + BATCH
            if done % (BATCH * 20) == 0 or done >= len(numbers):
                counts = ", ".join(f"{way} {verdict} {count}" for (way, verdict), count in sorted(tally.items()))
                print(f"{min(done, len(numbers))} mutants, {time.monotonic() - began:.0f} s: {counts}", flush=True)
    print(f"{len(numbers)} mutants, {len(failures)} failures")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
