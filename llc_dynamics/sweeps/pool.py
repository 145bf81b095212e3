"""Worker processes that report their progress: jobs in, results out, in any order."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llc_dynamics.errors import LLCDynamicsError
from llc_dynamics.progress import progress_bars

_queue: Any = None  # in a worker: where progress goes


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
    if _queue is not None:
        _queue.put((bar, done))


def default_workers() -> int:
    """One worker for every core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    jobs: list[Job],
    *,
    workers: int,
    after: Callable[[Job, Any], list[Job]] | None = None,
    show: bool | None = None,
) -> None:
    """Run `jobs`, and the jobs that `after(job, result)` returns as each one ends, on `workers` processes.

    Workers are spawned: a script that calls this needs `if __name__ == "__main__":`. Each computes with one thread, so
    that results do not depend on the number of workers and cores are not oversubscribed. The first error stops what has
    not begun and is raised here; a worker that dies is an `LLCDynamicsError`.
    """
    context = multiprocessing.get_context("spawn")
    with _single_threaded(), context.Manager() as manager, progress_bars(show) as bars:
        messages = manager.Queue()
        tasks: dict[str, Any] = {}

        def listen() -> None:
            while (message := messages.get()) is not None:
                bar, done = message
                bars.update(tasks[bar], completed=done)

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(messages,))
        try:
            pending: dict[Future[Any], Job] = {}

            def submit(new: list[Job]) -> None:
                for job in new:
                    if job.bar not in tasks:
                        tasks[job.bar] = bars.add_task(job.bar, total=job.total)
                    pending[pool.submit(job.function, *job.arguments)] = job

            submit(jobs)
            while pending:
                finished, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    job = pending.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        raise LLCDynamicsError(
                            f"a worker process died during '{job.bar}' (killed, or out of memory); what is finished is "
                            "stored: give the same command again, with fewer --workers if memory was short"
                        ) from None
                    bars.advance(tasks[job.bar], job.advance)
                    if after is not None:
                        submit(after(job, result))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            messages.put(None)
            listener.join(timeout=5)


def _start_worker(messages: queue.Queue[Any]) -> None:
    global _queue
    _queue = messages
    # Ctrl-C ends a worker at once, also between two jobs; what it had sealed stays, the rest is done again.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import torch

    torch.set_num_threads(1)


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
