"""`complete.json`: the mark that a run reached its end, with the number of rows it then had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llc_dynamics.errors import CorruptRunError
from llc_dynamics.trajectory.atomic import fsync_folder, storage_errors
from llc_dynamics.trajectory.manifest import read_signed, write_signed
from llc_dynamics.trajectory.names import COMPLETE
from llc_dynamics.trajectory.sealed import SCHEMA_VERSION

_FORMAT = "llc_dynamics complete"


def write_complete(run: Path, run_id: str, rows: int, final_step: int) -> None:
    mark = {
        "format": _FORMAT,
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "rows": rows,
        "final_step": final_step,
    }
    write_signed(run / COMPLETE, mark)


def remove_complete(run: Path) -> None:
    """Take the mark away before a run that had ended is continued."""
    path = run / COMPLETE
    with storage_errors(path, "remove"):
        if path.exists():
            path.unlink()
            fsync_folder(run)


def read_complete(run: Path, run_id: str) -> dict[str, Any] | None:
    """The mark, None if the run has none; `CorruptRunError` if it is damaged or of another run."""
    path = run / COMPLETE
    if not path.exists():
        return None
    mark = read_signed(path, _FORMAT)
    if mark.get("run_id") != run_id or not isinstance(mark.get("rows"), int):
        raise CorruptRunError(
            f"{path}: this mark belongs to another run; remove it, or restore the run's own from a copy"
        )
    return mark
