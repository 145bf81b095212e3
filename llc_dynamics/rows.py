"""Rows of results in a file, JSON one a line: a call that was stopped keeps what it has, and another one goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def append_row(path: Path, row: Row) -> None:
    """Add a row to the file at once."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def stored_rows(path: Path | None) -> list[Row]:
    """Rows of earlier calls; a last line that one was stopped in is cut off."""
    if path is None or not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]
