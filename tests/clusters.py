"""Dask clusters of plain processes on this machine, which tests may kill."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path


class Cluster(ExitStack):
    """A scheduler and workers of one thread each on loopback; all end with the block."""

    def __init__(self, folder: Path, workers: int) -> None:
        super().__init__()
        self._file, self._folder = folder / "scheduler.json", folder
        self._file.unlink(missing_ok=True)
        self.scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.workers = [
            self._start("dask_worker", "--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
            for _ in range(workers)
        ]
        while not self._file.exists() or not self._file.read_text():
            time.sleep(0.05)
        self.address = json.loads(self._file.read_text())["address"]

    def _start(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{program}", "--scheduler-file", str(self._file), *options],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.callback(process.wait)
        self.callback(process.kill)
        return process
