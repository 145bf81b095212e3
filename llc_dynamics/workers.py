"""Independent units of work on any `concurrent.futures.Executor`; by default on processes of this machine."""

from __future__ import annotations

import functools
import hashlib
import importlib
import math
import os
import pickle
import re
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

import cloudpickle

from llc_dynamics.errors import ConfigError, LLCDynamicsError
from llc_dynamics.local_processes import LocalProcesses, tell
from llc_dynamics.progress import progress_bars
from llc_dynamics.settings import plain_number

Task = TypeVar("Task")
Result = TypeVar("Result")

#: In a process: units of work take turns. They use torch's generators and number of threads, of which there is one set.
_TURN = threading.Lock()
_IDLE_SECONDS = 5.0
_SMALL = 1 << 16  # bytes that are sent with each unit rather than once
_kept: tuple[str, Any] = ("", None)  # the function that was sent last, by digest


@dataclass(frozen=True)
class Job:
    """`function(*arguments)`, which is done again if its process is lost: what is finished, it must find and leave.

    bar, total : the progress bar of the job, which several jobs may share. The function moves it with `report`, or it
    advances by `advance` when the job ends; 0 stands for all that the jobs of the bar advance.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    bar: str
    total: int = 0
    advance: int = 0


@dataclass(frozen=True)
class Shard:
    """Every `number`th unit of work, from the `place`th (1, 2, ...) on."""

    place: int = 1
    number: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/3` is the second of three. Raises `ConfigError` for anything else than such a text."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        place, number = map(int, found.groups()) if found else (0, 0)
        if not 1 <= place <= number:
            raise ConfigError(f"--shard {text!r}: give i/N, such as 2/3 for the second of three machines")
        return cls(place, number)

    def of(self, units: Sequence[Task]) -> list[Task]:
        """Those of this shard, of units that are in the same order on all machines."""
        return list(units[self.place - 1 :: self.number])


ALL = Shard()


def report(bar: str, done: int) -> None:
    """Called by a job: its bar has come to `done`. Shown where the job runs in a process of this machine."""
    tell((bar, done))


def require_workers(workers: int | None) -> int:
    """The number of processes, None standing for one for every core that this process may use.

    Raises `ConfigError` unless it is a whole number of at least 1.
    """
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = plain_number(workers)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ConfigError(f"workers must be a whole number of 1 or more, got {workers!r}")
    return workers


@contextmanager
def executor_of(executor: Executor | None, workers: int | None, device: object = "cpu") -> Iterator[Executor]:
    """`executor`, which stays open; without one, `workers` processes of this machine that end with the block.

    They compute with one thread each, so that results do not depend on their number. For the device `cuda` each has
    one GPU to itself, and `workers=None` is one for every GPU.
    """
    if executor is not None:
        yield executor
        return
    gpus: list[str] = []
    if str(device) == "cuda":
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = [str(each) for each in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    number = len(gpus) if gpus and workers is None else require_workers(workers)
    with LocalProcesses(number, gpus) as own:
        yield own


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
    after: Callable[[Job, Any], Sequence[Job]] | None = None,
) -> None:
    """Run `jobs`, and the jobs that `after(job, result)` returns as each one ends; `executor`, `workers`, `device` as
    in `executor_of`.

    After the first error no job is begun; when the running ones have ended, it is raised. An interruption ends local
    processes at once, and so does the end of this process, however it comes; of another executor what waits is
    cancelled. A job whose process died is done again, here once; then it is an `LLCDynamicsError`.
    """
    with progress_bars() as bars, executor_of(executor, workers, device) as pool:
        tasks: dict[str, Any] = {}
        waiting: deque[tuple[Job, Callable[..., Any], tuple[Any, ...]]] = deque()

        def submit(new: Sequence[Job]) -> None:
            for job in new:
                if job.bar not in tasks:
                    total = job.total or sum(each.advance for each in new if each.bar == job.bar)
                    tasks[job.bar] = bars.add_task(job.bar, total=total)
                waiting.append((job, job.function, job.arguments))

        submit(jobs)
        if isinstance(pool, LocalProcesses):
            pool.on_report = lambda told: bars.update(tasks[told[0]], completed=told[1])
        with closing(_completed(pool, waiting, bars.refresh)) as completed:
            for job, result in completed:
                if job.advance:
                    bars.advance(tasks[job.bar], job.advance)
                elif pool is executor:  # which tells nothing in between
                    bars.update(tasks[job.bar], completed=job.total)
                if after is not None:
                    submit(after(job, result))


def mapped(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    executor: Executor | None,
    report: Callable[[int, Result], None] | None = None,
) -> list[Result]:
    """`[function(task) for task in tasks]`; `report(place, result)` as each one ends, in any order.

    The function, closures included, is sent once and used for all tasks of a process. Errors and interruptions are as
    in `run_jobs`. Without an executor it all happens in this process.
    """
    results: dict[int, Result] = {}
    waiting = deque((place, function, (task,)) for place, task in enumerate(tasks))
    here = ((place, call(*arguments)) for place, call, arguments in waiting)
    with closing(here if executor is None else _completed(executor, waiting)) as completed:
        for place, result in completed:
            results[place] = result
            if report is not None:
                report(place, result)
    return [results[place] for place in range(len(tasks))]


def _completed(
    executor: Executor,
    waiting: deque[tuple[Task, Callable[..., Any], tuple[Any, ...]]],
    idle: Callable[[], None] = lambda: None,
) -> Generator[tuple[Task, Any], None, None]:
    """Yield (key, `function(*arguments)`) for the (key, function, arguments) in `waiting`, which may grow meanwhile.

    `idle` is called every few seconds.
    """
    sent: dict[int, tuple[Callable[..., Any], str, Any]] = {}
    running: dict[Future[Any], Task] = {}
    failure: Exception | None = None
    # no more than can begin: after an error none is to
    most = executor.workers if isinstance(executor, LocalProcesses) else math.inf
    try:
        while waiting or running:
            while waiting and len(running) < most:
                key, function, arguments = waiting.popleft()
                if id(function) not in sent:
                    content = _pickled(function)
                    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
                    sent[id(function)] = function, digest, _shared(executor, content, digest)
                _, digest, shared = sent[id(function)]
                running[executor.submit(_call, software(), digest, shared, _pickled(arguments))] = key
            done = wait(running, timeout=_IDLE_SECONDS, return_when=FIRST_COMPLETED).done
            idle()
            for future in done:
                if future not in running:
                    continue
                key = running.pop(future)
                error = _error_of(future, key)
                if error is None and failure is None:
                    yield key, future.result()
                elif failure is None:
                    failure = error
                    waiting.clear()
                    running = {each: key for each, key in running.items() if not each.cancel()}
        if failure is not None:
            raise failure
    except BaseException:
        for future in running:
            future.cancel()
        if isinstance(executor, LocalProcesses):
            executor.kill()
        raise


def _pickled(what: Any) -> bytes:
    try:
        return cloudpickle.dumps(what)
    except LLCDynamicsError:
        raise
    except Exception as error:  # whatever a user's class raises
        raise ConfigError(
            f"model, loss function and data cannot be sent to another process: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}. Functions and classes of scripts and notebooks can; open files, "
            "generators, locks and parametrized modules cannot: make them inside the function, or do without workers "
            "and executor"
        ) from error


def _shared(executor: Executor, content: bytes, digest: str) -> Any:
    """`content` as it is sent with each of many units: itself, or where it is large, what stands for it there."""
    if len(content) < _SMALL:
        return content
    if hasattr(executor, "share"):
        return executor.share(content, digest)
    client = getattr(executor, "_client", None)  # of Dask: sent once, and again where the workers that had it are lost
    if client is None:
        return content
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sending large graph")
        return client.submit(bytes, content, key=f"llc-dynamics-{digest}")


def _call(sender: str, digest: str, function: Any, arguments: bytes) -> Any:
    """Wherever the executor has it done: one unit of work."""
    global _kept
    if sender != software():
        raise ConfigError(
            f"a worker has other software: {software()} there, and {sender} here; install the same versions in both, "
            "so that results are the same"
        )
    with _TURN:
        try:
            if _kept[0] != digest:
                _kept = ("", None)  # before the next is there: both may be large
                _kept = digest, pickle.loads(function() if callable(function) else function)
            what = pickle.loads(arguments)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"a worker cannot import '{error.name}', which the model, loss function or data need; install it there "
                "or put it on its PYTHONPATH"
            ) from None
        if "torch" in sys.modules:  # or nothing that was sent needs it
            sys.modules["torch"].set_num_threads(1)
        try:
            return _kept[1](*what)
        except Exception as error:
            raise _portable(error) from None


def _error_of(future: Future[Any], key: object) -> Exception | None:
    again = "what is finished is stored: start it again"
    try:
        error = future.exception()
    except CancelledError:
        return LLCDynamicsError(f"the executor dropped its work: was its scheduler stopped, or shut down? {again}")
    if isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker":  # the latter of Dask
        during = f" during '{key.bar}'" if isinstance(key, Job) else ""
        return LLCDynamicsError(
            f"a worker process died{during}, and another one, too, often for lack of memory "
            f"({' '.join(str(error).split())[:300]}); {again}, with fewer workers on a machine if memory was short"
        )
    if error is not None and not isinstance(error, Exception):
        return LLCDynamicsError(f"a worker was stopped ({error!r}); {again}")
    return error


def _portable(error: Exception) -> Exception:
    """`error` if it can be sent; where it is a fault of a program, with its traceback."""
    if isinstance(error, LLCDynamicsError):
        return error
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


@functools.cache
def software() -> str:
    """The versions that have to be the same for results to be so. Imports no torch."""
    own = importlib.import_module("llc_dynamics").__version__
    torch = metadata.version("torch").partition("+")[0]  # builds for other devices go together
    return f"llc-dynamics {own}, torch {torch}, Python {sys.version_info.major}.{sys.version_info.minor}"
