"""Rows of a benchmark in a JSON-lines file: a call that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def fill(cells: Iterable[Row], path: Path | None, measure: Callable[[Row], Row]) -> list[Row]:
    """The row of every cell: the one in the file, else a new one, which is printed and appended to it.

    A cell is what a row was made with (its settings), `measure` what is found there; a row holds both.
    """
    known = stored_rows(path)
    rows = []
    for cell in cells:
        row = next((row for row in known if cell.items() <= row.items()), None)
        if row is None:
            row = {**cell, **measure(cell)}
            print(json.dumps(row), flush=True)
            if path is not None:
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        rows.append(row)
    return rows


def stored_rows(path: Path | None) -> list[Row]:
    """Rows of an earlier call; a last line that it was stopped in is cut off."""
    if path is None or not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]
