"""One writer at a time: a lock of the operating system on `run.lock`, gone with the process that held it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

from llc_dynamics.errors import RunLockedError, TrajectoryError
from llc_dynamics.trajectory.files import is_temporary, storage_errors

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


class RunLock:
    """Holds `path` locked until `release`; the holder's process number and host are written into the file.

    Raises `RunLockedError`, naming the holder, if it is locked already (by this process, too). The file stays when the
    lock goes: removing it would let two writers lock two files of the same name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path, "open the lock"):
            # Not through a link: what it leads to would be overwritten.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o644)
        try:
            if not _try_lock_patiently(descriptor):
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() if os.name != "nt" else ""
                raise RunLockedError(
                    f"{path.parent}: {holder or 'another process'} is writing to this run. Wait for it to end, "
                    "stop it, or record into another folder. (Reading needs no lock.)"
                )
            with storage_errors(path, "write the lock"):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            # Closing drops the lock.
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock now; false if there is no lock file."""
    try:
        descriptor = os.open(path, os.O_RDWR | _NO_LINK)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned(path: Path) -> None:
    """Remove the temporary files that writers of `path` left when they were killed."""
    for entry in path.parent.iterdir():
        if is_temporary(entry.name) and entry.name.startswith(f".{path.name}.") and not is_locked(entry):
            with contextlib.suppress(FileNotFoundError):
                entry.unlink()


def _try_lock_patiently(descriptor: int) -> bool:
    """Try for a tenth of a second, because `is_locked` takes the lock for a moment."""
    for _ in range(5):
        if _try_lock(descriptor):
            return True
        time.sleep(0.02)
    return False


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:
        return _try_lock_windows(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise TrajectoryError(
            f"this file system does not support locks ({error.strerror}); record on a local disk and copy the run "
            "afterwards"
        ) from error
    return True


def _try_lock_windows(descriptor: int) -> bool:
    import msvcrt

    try:
        # A byte far behind the text, so that others can still read who holds it.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        return False
    return True
