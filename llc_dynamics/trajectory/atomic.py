"""Files that appear whole or not at all: temporary name, write, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from llc_dynamics.errors import TrajectoryError, os_error_text

_TEMPORARY = re.compile(r"\.(?P<final>.+)\.\d+-[0-9a-f]{8}\.tmp")


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
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` at the end of the block and removed if the block fails.

    The block must have fsynced what it wrote. A process that dies in the block leaves a file for which
    `is_temporary` is true, and `path` as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with storage_errors(path):
        try:
            yield temporary
            os.replace(temporary, path)
            fsync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a restart after a crash, sees all of it or the former file."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable; Windows does so by itself and cannot open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
