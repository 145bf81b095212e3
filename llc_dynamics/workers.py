"""Jobs on worker processes: results as they come, progress between them, and no worker outlives the one that waits."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from llc_dynamics.errors import ConfigError, LLCDynamicsError
from llc_dynamics.progress import progress_bars
from llc_dynamics.settings import plain_number

if TYPE_CHECKING:
    import torch

Task = TypeVar("Task")
Result = TypeVar("Result")

_STOPS = (signal.SIGINT, signal.SIGTERM)
_parent: Connection | None = None  # in a worker: where results and progress go


@dataclass(frozen=True)
class Job:
    """`function(*arguments)` in a worker.

    bar, total : the progress bar of the job, which several jobs may share. The function moves it with `report`, or it
    advances by `advance` when the job ends.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    bar: str
    total: int
    advance: int = 0


def report(bar: str, done: int) -> None:
    """Called in a worker: the bar of the job in hand has come to `done`."""
    if _parent is not None:
        _parent.send(("progress", (bar, done)))


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


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    after: Callable[[Job, Any], Sequence[Job]] | None = None,
) -> None:
    """Run `jobs`, and the jobs that `after(job, result)` returns as each one ends, on spawned processes.

    A script that calls this needs `if __name__ == "__main__":`. Each worker computes with one thread, so that results
    do not depend on the number of workers. After the first error no job is begun; when the running ones have ended, it
    is raised. A worker that dies is an `LLCDynamicsError`. An interruption, also of this process alone, ends all
    workers at once, and so does the end of this process, however it comes.
    """
    with progress_bars() as bars, _single_threaded():
        tasks: dict[str, Any] = {}
        waiting: deque[Job] = deque()

        def submit(new: Sequence[Job]) -> None:
            for job in new:
                if job.bar not in tasks:
                    tasks[job.bar] = bars.add_task(job.bar, total=job.total)
                waiting.append(job)

        submit(jobs)

        def progressed(bar: str, done: int) -> None:
            bars.update(tasks[bar], completed=done)

        with closing(_completed(_run, waiting, workers, "spawn", progressed)) as completed:
            for job, result in completed:
                bars.advance(tasks[job.bar], job.advance)
                if after is not None:
                    submit(after(job, result))


def in_processes(
    compute: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    report: Callable[[int, Result], None] | None = None,
) -> list[Result]:
    """`[compute(task) for task in tasks]` on forked processes; `report(place, result)` as each one ends, in any order.

    Workers inherit `compute` and `tasks`, closures included. Errors and interruptions are as in `run_jobs`. 0
    workers stand for this process itself.
    """
    results: dict[int, Result] = {}
    if not workers:
        for place, task in enumerate(tasks):
            results[place] = compute(task)
            if report is not None:
                report(place, results[place])
        return list(results.values())
    places = deque(range(len(tasks)))
    with closing(_completed(lambda place: compute(tasks[place]), places, workers, "fork")) as completed:
        for place, result in completed:
            results[place] = result
            if report is not None:
                report(place, result)
    return [results[place] for place in range(len(tasks))]


def can_fork(device: torch.device, threads: int | None, caller: str) -> bool:
    """Whether this process may fork; if not, a warning in the name of `caller` says why it goes one by one."""
    import torch

    reason = None
    if sys.platform != "linux":
        reason = "forked processes are only safe on Linux"
    elif device.type != "cpu" or torch.cuda.is_initialized():
        reason = "this process uses a GPU, which forked processes cannot"
    elif threads != 1:
        reason = f"threads is {threads}, and a forked process cannot start threads after its parent has; use threads=1"
    elif multiprocessing.current_process().daemon:
        reason = "this process is itself a daemonic worker"
    if reason is not None:
        warnings.warn(f"{caller}: one point after the other, because {reason}", RuntimeWarning, stacklevel=3)
    return reason is None


def _completed(
    call: Callable[[Task], Any],
    waiting: deque[Task],
    most: int,
    method: Literal["spawn", "fork"],
    progressed: Callable[[str, int], None] | None = None,
) -> Generator[tuple[Task, Any], None, None]:
    """Yield (task, `call(task)`) as tasks end, on `most` processes; more may be added to `waiting` meanwhile."""
    context: Any = multiprocessing.get_context(method)
    crew: dict[Connection, multiprocessing.Process] = {}
    busy: dict[Connection, Task] = {}
    failure: Exception | None = None
    if method == "spawn" and os.name == "posix":
        # The first spawned process starts it, and that would let signals through again in `_undisturbed`.
        resource_tracker.ensure_running()
    try:
        while waiting or busy:
            while waiting and len(busy) < most:
                if len(busy) == len(crew):
                    with _undisturbed():
                        ours, theirs = context.Pipe()
                        process = context.Process(target=_serve, args=(call, theirs))
                        process.start()
                        crew[ours] = process
                        theirs.close()
                idle = next(each for each in crew if each not in busy)
                busy[idle] = waiting.popleft()
                with suppress(ConnectionError):  # of a dead worker; reading from it says so
                    idle.send_bytes(pickle.dumps(busy[idle]))
            ready = wait(busy)
            for worker in [each for each in busy if each in ready]:
                try:
                    kind, content = worker.recv()
                except (EOFError, OSError):
                    raise _death(crew[worker], busy[worker]) from None
                if kind == "progress":
                    if progressed is not None:
                        progressed(*content)
                    continue
                task = busy.pop(worker)
                if kind == "error":
                    failure = failure or content
                    waiting.clear()
                elif failure is None:
                    yield task, content
        if failure is not None:
            raise failure
    except BaseException:
        for process in crew.values():
            process.kill()
        raise
    finally:
        for worker, process in crew.items():
            with suppress(ConnectionError):
                worker.send(None)
            process.join()
            worker.close()


def _death(process: multiprocessing.Process, task: object) -> LLCDynamicsError:
    process.join()
    code = process.exitcode or 0
    how = f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}, often for lack of memory"
    during = f" during '{task.bar}'" if isinstance(task, Job) else ""
    return LLCDynamicsError(
        f"a worker process died{during} ({how}); what is finished is stored: start it again, with fewer workers if "
        "memory was short"
    )


def _serve(call: Callable[[Any], Any], connection: Connection) -> None:
    """In a worker: answer tasks until there are no more."""
    global _parent
    _parent = connection
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # One thread from the first moment: a forked process must not touch the thread pool of its parent.
    import torch

    torch.set_num_threads(1)
    with suppress(EOFError, ConnectionError):  # the parent is gone
        while (task := connection.recv()) is not None:
            try:
                answer = pickle.dumps(("result", call(task)))
            except Exception as error:
                answer = pickle.dumps(("error", _portable(error)))
            connection.send_bytes(answer)


def _end_with_parent() -> None:
    """Between two jobs and in the middle of one: what is sealed stays, the rest is done again."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _run(job: Job) -> Any:
    return job.function(*job.arguments)


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


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Ctrl-C and `kill` back until the end of the block, and from processes that start in it.

    No process is lost before it is known, and none prints a traceback while it imports.
    """
    kept: list[int] = []
    handlers: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # Python runs handlers there, whatever thread is hit
        for number in _STOPS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                handlers[number] = signal.signal(number, lambda number, _: kept.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if kept:
            signal.raise_signal(kept[0])


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Environment for the workers: one thread for every library that would start its own."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
