"""What the benchmarks share: the command line, clocks, tables, and rows of results that a second call goes on with."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from llc_dynamics.rows import Row, append_row, stored_rows


def command_line(
    text: str | None, *, folder: bool = False, rounds: int | None = None, out: str | None = None
) -> argparse.ArgumentParser:
    """A parser that shows the module's docstring `text` as it stands, with the options that are asked for.

    folder : of the disk to measure. rounds : the default number of repeated measurements. out : what a file holds.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    if folder:
        said = "on the disk to measure; a temporary one in it is used and removed"
        parser.add_argument("--folder", type=Path, help=said)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    if out is not None:
        parser.add_argument("--out", type=Path, help=out)
    return parser


def chosen_sections(parser: argparse.ArgumentParser, names: Sequence[str], sections: Iterable[str]) -> list[str]:
    """`names`, or all sections where none is named; ends the program at an unknown one."""
    known = list(sections)
    for name in names:
        if name not in known:
            parser.error(f"unknown section {name}; choose from {', '.join(known)}")
    return list(names) or known


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the wall clock and on the processor."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - busy


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
                append_row(path, row)
        rows.append(row)
    return rows


def write_json(path: Path | None, content: Any) -> None:
    """Nothing where no file was asked for."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n")


def markdown_row(values: Iterable[Any]) -> str:
    """One row of a Markdown table, numbers with four digits."""
    return f"| {' | '.join(f'{value:.4g}' if isinstance(value, float) else str(value) for value in values)} |"


def markdown_head(names: Sequence[str]) -> str:
    """The two lines that begin one."""
    return f"{markdown_row(names)}\n|{'---|' * len(names)}"
