"""The errors that users meet. Each message says what was given, what is wrong and what to do.

The command line turns every `LLCDynamicsError`, and every `OSError`, into one line and exit status 1; anything else is
a bug.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space within your quota",
    errno.EFBIG: "raise the file size limit (ulimit -f) or use a smaller rows_per_shard",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "make it readable and writable for this user, or choose another folder",
    errno.EPERM: "make it readable and writable for this user, or choose another folder",
    errno.ELOOP: "it is a link, which a writer does not follow: remove it",
    errno.ENOTDIR: "a part of this path is a file; choose another folder",
    errno.EISDIR: "it is a folder; give a file",
    errno.EEXIST: "it is there already and no folder; choose another name",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def os_error_text(error: OSError) -> str:
    """The operating system's words, and what to do."""
    # HDF5 puts a page of its own state into the message; the operating system's words are enough.
    reason = os.strerror(error.errno) if error.errno else str(error).split("\n")[0]
    return f"{reason}; {_ADVICE.get(error.errno or 0, 'check the disk and the permissions of the folder')}"


def printable(text: str, longest: int | None = None) -> str:
    """`text` on one line for a terminal: what it would obey rather than show is an escape; cut after `longest`."""
    if longest is not None and len(text) > longest:
        return printable(text[:longest]) + "..."
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def some_of(names: Sequence[str], most: int) -> str:
    """The first `most` of the names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class LLCDynamicsError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(LLCDynamicsError, ValueError):
    """A setting is unknown, mistyped or out of its range."""


class DataError(LLCDynamicsError, ValueError):
    """Data, a loss function or a curve has the wrong shape, type or values."""


class MissingPackageError(LLCDynamicsError, ImportError):
    """A function needs a package that is not among the plain dependencies and is not installed."""


class TrajectoryError(LLCDynamicsError):
    """A run folder is missing, foreign, or does not hold what was asked of it."""


class StepNotStoredError(TrajectoryError):
    """The run holds no checkpoint at the step that was asked for."""


class RunLockedError(TrajectoryError):
    """Another process is writing to the run folder."""


class CorruptRunError(TrajectoryError):
    """Stored bytes do not match their checksum, or a stored file cannot be read."""


class ManifestMismatchError(TrajectoryError):
    """The model or the configuration is not the one that the run was recorded with."""
