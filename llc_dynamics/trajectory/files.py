"""Files that appear whole or not at all, files that somebody else may have made, and the lock of a run's one writer."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llc_dynamics.errors import CorruptRunError, RunLockedError, TrajectoryError, os_error_text

_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def is_temporary(name: str) -> bool:
    """Whether `name` is a name that `replacing` gives to unfinished files."""
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def storage_errors(path: Path, action: str = "write") -> Iterator[None]:
    """Turn `OSError` into a `TrajectoryError` that says which file, why, and what to do."""
    try:
        yield
    except OSError as error:
        raise TrajectoryError(
            f"{path}: cannot {action}: {os_error_text(error)} and try again. Everything sealed before is unharmed."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """A new unbuffered file beside `path`, flushed to the disk and renamed to `path` at the end of the block.

    If the block fails it is removed. A process that dies in the block leaves a file for which `is_temporary` is true,
    and `path` as it was. The file is locked while it is written, by which `remove_abandoned` knows it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with storage_errors(path):
        if path.exists() and not path.is_file():
            raise TrajectoryError(f"{path}: a device or a folder, which a file does not replace; choose another name")
        try:
            with temporary.open("x+b", buffering=0) as stream:
                with contextlib.suppress(TrajectoryError):  # where files cannot be locked, nobody can ask either
                    _try_lock(stream.fileno())
                yield stream
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            fsync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a restart after a crash, sees all of it or the former file."""
    with replacing(path) as stream:
        write_at(stream, 0, memoryview(content))


def write_at(stream: Any, offset: int, content: memoryview) -> int:
    """Write all of `content` from `offset` on; returns where it ends."""
    stream.seek(offset)
    end = offset + len(content)
    while len(content):
        content = content[stream.write(content) :]
    return end


def require_absent(path: Path) -> None:
    """Raise `TrajectoryError` if there is anything at `path`."""
    if path.exists() or path.is_symlink():
        raise TrajectoryError(f"{path}: exists already and is not overwritten; give a new name, or remove it first")


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable; Windows does so by itself and cannot open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> Any:
    """Open a regular file, or a link to one, for unbuffered reading.

    `CorruptRunError` for anything else: a named pipe would block the reader for ever, a device may have no end. Raises
    OSError as `open` does.
    """
    # Without O_NONBLOCK opening a pipe waits for its writer; for a regular file it changes nothing.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CorruptRunError(f"{path}: not a regular file; refused, no run holds anything else")
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def read_at_most(path: Path, largest: int) -> bytes | None:
    """All bytes of a regular file, None if they are more than `largest`; raises as `open_regular`."""
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size > largest:
            return None
        pieces = []
        while largest >= 0 and (piece := stream.read(largest + 1)):
            pieces.append(piece)
            largest -= len(piece)
    return b"".join(pieces) if largest >= 0 else None


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
