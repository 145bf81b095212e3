"""Two folders change places in one step, so that no moment exists at which either name leads nowhere."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from llc_dynamics.errors import TrajectoryError
from llc_dynamics.trajectory.atomic import fsync_folder, storage_errors

_AT_FDCWD = -100
# RENAME_EXCHANGE of Linux (renameat2) and RENAME_SWAP of macOS (renamex_np) have the same value.
_SWAP = 2


def exchange(first: Path, second: Path) -> None:
    """Exchange what two names in one folder lead to.

    Raises `TrajectoryError`, with nothing changed, where the system or the file system cannot do it in one step.
    """
    if os.name != "posix":
        raise _impossible(second, f"{sys.platform} has no call for it")
    system = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if sys.platform == "darwin" and hasattr(system, "renamex_np"):
        failed = system.renamex_np(*names, ctypes.c_uint(_SWAP))
    elif sys.platform.startswith("linux") and hasattr(system, "renameat2"):
        failed = system.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_SWAP))
    else:
        raise _impossible(second, f"{sys.platform} has no call for it")
    if failed:
        raise _impossible(second, os.strerror(ctypes.get_errno()))
    with storage_errors(second, "make the exchange durable"):
        fsync_folder(second.parent)


def _impossible(path: Path, reason: str) -> TrajectoryError:
    return TrajectoryError(
        f"{path}: cannot be exchanged for its successor in one step here ({reason}), and anything else could lose it "
        "in a crash. Write the new run into another folder instead, and replace this one by hand"
    )
