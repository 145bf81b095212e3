"""Writing a file partly through HDF5 and partly past it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any


class ErrorKeepingFile:
    """Passes HDF5's writes on to `stream`; the first error is kept for `raise_error`, and HDF5 is told all is well.

    HDF5 cannot recover from a write that fails (disk full): closing the file fails as well, and the handle and its
    memory stay for good. So it never gets to see one.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._error: OSError | None = None

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def write(self, content: Any) -> int:
        view = memoryview(content)
        self._attempt(lambda: write_at(self._stream, self._stream.tell(), view), 0)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        """h5py takes an object for a file if it has this; HDF5 itself reads with `readinto`."""
        return bytes(self._stream.read(size))

    def readinto(self, place: Any) -> int:
        return self._attempt(lambda: int(self._stream.readinto(place)), 0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._attempt(lambda: int(self._stream.seek(offset, whence)), offset)

    def tell(self) -> int:
        return int(self._stream.tell())

    def truncate(self, size: int) -> int:
        return self._attempt(lambda: int(self._stream.truncate(size)), size)

    def flush(self) -> None:
        """Nothing is buffered."""

    def _attempt(self, action: Callable[[], int], otherwise: int) -> int:
        try:
            return action()
        except OSError as error:
            self._error = self._error or error
            return otherwise


def write_at(stream: Any, offset: int, content: memoryview) -> int:
    """Write all of `content` from `offset` on; returns where it ends."""
    stream.seek(offset)
    end = offset + len(content)
    while len(content):
        content = content[stream.write(content) :]
    return end


def start_writeback(stream: Any, start: int, end: int) -> None:
    """Ask the system to begin writing this range to the disk now, so that the fsync at the end finds less to do.

    The advice says that the range is not needed any more; what is still being written stays in memory all the same.
    """
    if end - start >= 1 << 20 and hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(stream.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)
