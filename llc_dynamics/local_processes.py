"""Processes of this machine as an executor: one thread each, one a GPU, and none outlives who waits for it.

A pool of the standard library or of loky has no progress within a call, gives all processes the same environment and
so the same GPU, does not say which call a death ended, and leaves locks in the system when it is killed. A process
here is a plain subprocess with two pipes: it needs no `if __name__ == "__main__":` in the script.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from typing import Any

import cloudpickle

_TRIES = 2
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_BEGIN = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from llc_dynamics import local_processes; local_processes.serve()"
)
_answer: Callable[[tuple[str, Any]], None] | None = None  # in a process: to who waits for it


def tell(told: Any) -> None:
    """Called within a call: `on_report(told)` where it is waited for. Nothing happens in other processes."""
    if _answer is not None:
        _answer(("report", told))


class LocalProcesses(Executor):
    """At most `workers` processes, each started when there is work for it.

    A call whose process dies is made again in a new one, once; then its future has a `BrokenExecutor`.

    Parameters
    ----------
    workers : number of processes.
    gpus : values of CUDA_VISIBLE_DEVICES, which the processes take in turn; none leaves it alone.

    Attributes
    ----------
    on_report : called, in a thread, with what calls `tell`.
    """

    def __init__(self, workers: int, gpus: Sequence[str] = ()) -> None:
        self.on_report: Callable[[Any], Any] = id
        self.workers, self._gpus = workers, list(gpus)
        self._calls: queue.SimpleQueue[tuple[Future[Any], bytes] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._ended = self._killed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._ended:
            raise RuntimeError("cannot submit to an executor that was shut down")
        future: Future[Any] = Future()
        self._calls.put((future, cloudpickle.dumps((fn, args, kwargs))))
        if len(self._threads) < self.workers:
            thread = threading.Thread(target=self._attend, args=(len(self._threads),), daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ended = True
        if cancel_futures:
            self._cancel_waiting()
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def kill(self) -> None:
        """End all processes now, whatever they do."""
        with self._lock:
            self._killed = True
            for process in self._processes:
                process.kill()
        self.shutdown(cancel_futures=True)

    def _cancel_waiting(self) -> None:
        with suppress(queue.Empty):
            while True:
                if (item := self._calls.get_nowait()) is not None and item[0].cancel():
                    item[0].set_running_or_notify_cancel()

    def _attend(self, place: int) -> None:
        """In a thread: one process, and its calls one after the other."""
        if hasattr(signal, "pthread_sigmask"):
            # The process inherits it, and so prints no traceback if Ctrl-C comes while it starts.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        process = None
        while (item := self._calls.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            for left in reversed(range(_TRIES)):
                process = process or self._start(place)
                if process is None:
                    future.set_exception(BrokenExecutor("it was shut down"))
                    break
                try:
                    self._answered(process, call, future)
                    break
                except (OSError, EOFError, pickle.UnpicklingError):
                    how = self._end(process)
                    process = None
                    if not left or self._killed:
                        future.set_exception(BrokenExecutor(how))
                        break
        if process is not None:
            self._end(process)

    def _answered(self, process: subprocess.Popen[bytes], call: bytes, future: Future[Any]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump(call, process.stdin)
        process.stdin.flush()
        while True:
            answer = pickle.load(process.stdout)
            try:
                kind, content = pickle.loads(answer)
            except Exception as error:  # of a class that is not known here
                kind, content = "error", error
            if kind == "report":
                self.on_report(content)
                continue
            if kind == "error":
                future.set_exception(content)
            else:
                future.set_result(content)
            return

    def _start(self, place: int) -> subprocess.Popen[bytes] | None:
        environment = {**os.environ, **_THREADS}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        with self._lock:
            if self._killed:
                return None
            process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            self._processes.add(process)
        with suppress(OSError):  # of a dead one; the first call says so
            pickle.dump(sys.path, process.stdin)  # type: ignore[arg-type]
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> str:
        """How it ended."""
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        code = process.wait()
        with self._lock:
            self._processes.discard(process)
        return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def serve() -> None:
    """In a process: make calls that come on standard input, and end where it ends, also in the middle of one."""
    global _answer
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what users' functions print goes to standard error
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who waits decides
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        with suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                waiting.put(pickle.load(calls))
        os._exit(0)

    def answer(content: tuple[str, Any]) -> None:
        pickle.dump(cloudpickle.dumps(content), answers)
        answers.flush()

    _answer = answer
    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            function, arguments, keywords = pickle.loads(waiting.get())
            found = "result", function(*arguments, **keywords)
        except Exception as error:
            found = "error", error
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 1)
        sys.stdout.flush()
        try:
            answer(found)
        except BrokenPipeError:
            os._exit(0)
        except Exception as error:  # it cannot be sent
            answer(("error", RuntimeError(f"what a call gave cannot be sent back: {error}")))
