"""Opening files of a folder that somebody else may have made."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from llc_dynamics.errors import CorruptRunError


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading.

    `CorruptRunError` for anything else: a named pipe would block the reader for ever, a device may have no end. Raises
    OSError as `open` does.
    """
    # Without O_NONBLOCK opening a pipe waits for its writer; for a regular file it changes nothing.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CorruptRunError(f"{path}: not a regular file; refused, no run holds anything else")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_at_most(path: Path, largest: int) -> bytes | None:
    """All bytes of a regular file, None if they are more than `largest`; raises as `open_regular`."""
    with open_regular(path) as stream:
        content = stream.read(largest + 1)
    return content if len(content) <= largest else None
