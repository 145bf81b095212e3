"""Executors by name, as on the command line: this machine, a Dask cluster, or SLURM through submitit.

In Python any `concurrent.futures.Executor` goes: `distributed.Client(...).get_executor()`, or `SubmititExecutor`.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llc_dynamics.errors import ConfigError, MissingPackageError
from llc_dynamics.settings import nearest
from llc_dynamics.workers import require_workers

if TYPE_CHECKING:
    import submitit

_NAMES = ["local", "dask", "submitit", "tcp://HOST:PORT"]
_SECONDS_TO_CONNECT = 5
_TRIES, _MOST_IN_AN_ARRAY = 3, 1000  # SLURM's own limit is 1001 by default


@contextmanager
def opened(name: str, workers: int | None = None) -> Iterator[Executor | None]:
    """The executor of a name; it ends with the block, and a cluster that was joined goes on without it.

    Parameters
    ----------
    name : `local` (None: functions then start processes of this machine themselves); `dask`, a Dask cluster on this
        machine; an address such as `tcp://host:8786`, that of a Dask scheduler; `submitit`, jobs of SLURM, also with
        parameters of `submitit.AutoExecutor`: `submitit:slurm_partition=gpu,timeout_min=600,gpus_per_node=1`.
    workers : processes of a Dask cluster on this machine, each with one thread.

    Raises `ConfigError` for an unknown name, for parameters that submitit does not know, and where no scheduler
    answers; `MissingPackageError` without the extra `dask` or `slurm`.
    """
    kind, _, rest = name.partition(":")
    if name == "local":
        yield None
    elif kind == "submitit":
        with _submitit(rest) as executor:
            yield executor
    elif name == "dask" or rest.startswith("//"):
        with _dask(None if name == "dask" else name, workers) as executor:
            yield executor
    else:
        raise ConfigError(f"executor '{name}' is unknown; {nearest(name, _NAMES)}")


@contextmanager
def _dask(address: str | None, workers: int | None) -> Iterator[Executor]:
    try:
        import distributed
    except ImportError:
        raise MissingPackageError(
            "a Dask cluster needs the package distributed: pip install 'llc-dynamics[dask]'"
        ) from None
    # it prints a traceback where a scheduler goes away, which is said as an error
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    if address is None:
        with (
            distributed.LocalCluster(
                n_workers=require_workers(workers),
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client.get_executor()
        return
    try:
        client = distributed.Client(address, timeout=_SECONDS_TO_CONNECT)
    except (OSError, ValueError, TypeError) as error:  # a TimeoutError is an OSError
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"no Dask scheduler answers at {address} within {_SECONDS_TO_CONNECT} seconds ({reason}); start one with "
            "`dask scheduler`, and workers with `dask worker`, or check host, port and firewall"
        ) from None
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            print(f"{address}: the cluster has no workers yet; the work waits for them", file=sys.stderr)
        yield client.get_executor()


@contextmanager
def _submitit(text: str) -> Iterator[Executor]:
    try:
        import submitit
    except ImportError:
        raise MissingPackageError("SLURM needs the package submitit: pip install 'llc-dynamics[slurm]'") from None
    given = dict(part.partition("=")[::2] for part in text.split(",") if part)
    parameters: dict[str, Any] = {key: int(value) if value.isdecimal() else value for key, value in given.items()}
    try:
        folder, cluster = parameters.pop("folder", "submitit"), parameters.pop("cluster", None)
        engine = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
        engine.update_parameters(**parameters)
    except (RuntimeError, NameError, AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"executor 'submitit:{text}': {' '.join(str(error).split())[:300]}") from None
    with SubmititExecutor(engine) as executor:
        yield executor


class SubmititExecutor(Executor):
    """A submitit executor (`submitit.AutoExecutor`) as a `concurrent.futures.Executor`.

    What is submitted within half a second becomes one array job. A job that SLURM lost (a dead node, preemption, its
    time) is submitted again, twice; then its future has a `BrokenExecutor`. Its folder, which all nodes have to see,
    holds pickled calls and the logs of jobs.
    """

    def __init__(self, engine: submitit.Executor | submitit.AutoExecutor, every: float = 0.5) -> None:
        self._engine, self._every = engine, every
        self._waiting: list[tuple[Future[Any], _Unit, int]] = []
        self._jobs: dict[Future[Any], tuple[submitit.Job[Any], _Unit, int]] = {}
        self._lock, self._ended = threading.Lock(), False
        self._thread = threading.Thread(target=self._attend, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._ended:
            raise RuntimeError("cannot submit to an executor that was shut down")
        future: Future[Any] = Future()
        with self._lock:
            self._waiting.append((future, _Unit(partial(fn, *args, **kwargs)), _TRIES))
        return future

    def share(self, content: bytes, digest: str) -> Callable[[], bytes]:
        """What stands for `content` in many calls: a file in the folder, which is written once."""
        path = Path(self._engine.folder).absolute() / f"{digest}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path.read_bytes

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ended = True
        with self._lock:
            futures = [*(future for future, _, _ in self._waiting), *self._jobs]
        for future in futures if cancel_futures else ():
            future.cancel()
        if wait:
            self._thread.join()

    def _attend(self) -> None:
        """In a thread: submit what waits, and look for what has ended."""
        while not (self._ended and not self._waiting and not self._jobs):
            with self._lock:
                waiting, self._waiting = self._waiting[:_MOST_IN_AN_ARRAY], self._waiting[_MOST_IN_AN_ARRAY:]
            waiting = [each for each in waiting if not each[0].cancelled() or each[0].set_running_or_notify_cancel()]
            try:
                jobs = self._engine.submit_array([call for _, call, _ in waiting]) if waiting else []
            except Exception as error:  # of sbatch, whatever it says
                for future, _, _ in waiting:
                    future.set_exception(ConfigError(f"submitit cannot submit jobs: {error}"))
                jobs = []
            self._jobs.update(
                {future: (job, call, left) for job, (future, call, left) in zip(jobs, waiting, strict=False)}
            )
            for future in list(self._jobs):
                self._look(future)
            time.sleep(self._every)

    def _look(self, future: Future[Any]) -> None:
        job, call, left = self._jobs[future]
        if future.cancelled():
            del self._jobs[future]
            future.set_running_or_notify_cancel()
            with suppress(Exception):  # it may have ended
                job.cancel()
            return
        if not job.done():
            return
        del self._jobs[future]
        try:
            kind, found = job.result()
        except Exception as error:  # nothing came back: of whatever class, a call has it in its answer
            if left > 1:
                with self._lock:
                    self._waiting.append((future, call, left - 1))
            else:
                future.set_exception(BrokenExecutor(str(error)))
        else:
            (future.set_result if kind == "result" else future.set_exception)(found)


class _Unit:
    """A call as a job; where SLURM preempts it, or its time is over, submitit puts it into the queue again."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    def __call__(self) -> tuple[str, Any]:
        try:
            return "result", self._call()
        except Exception as error:
            return "error", error

    def checkpoint(self) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self)
