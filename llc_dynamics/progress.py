"""Progress on standard error: bars on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llc_dynamics.errors import printable

if TYPE_CHECKING:
    from rich.progress import Task

# Seconds before the first line and between two lines, which grow to a share of the time so far.
_FIRST, _BETWEEN, _SHARE = 10.0, 30.0, 0.02
# Points of an LLC curve may take minutes each; a bar's speed is that of so many seconds.
_SPEED_OVER = 1800.0


class Bars(Protocol):
    """What progress is told to. A task is named "<work> <of what>"; the times of tasks of one work are like."""

    def add_task(self, description: str, *, total: float | None, limit: float | None = None) -> Any:
        """limit : seconds from now after which the task ends in any case."""

    def update(self, task_id: Any, *, total: float | None = None, completed: float | None = None) -> None: ...

    def advance(self, task_id: Any, advance: float = 1) -> None: ...

    def refresh(self) -> None:
        """To be called now and then while nothing happens."""


@contextmanager
def progress_bars(enabled: bool | None = None) -> Iterator[Bars]:
    """Bars on a terminal; without one, lines with the time that is left. `enabled=False` shows nothing."""
    if enabled is False or not (enabled or sys.stderr.isatty()):
        yield Lines(silent=enabled is False)
        return
    state = random.getstate()
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    random.setstate(state)  # rich draws from the caller's generator when it is imported

    class Title(ProgressColumn):
        """As it stands: names of folders are no markup."""

        def render(self, task: Task) -> Text:
            return Text(printable(task.description))

    with Progress(
        Title(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        speed_estimate_period=_SPEED_OVER,
    ) as bars:
        yield bars


@dataclass
class _Task:
    title: str
    total: float | None
    limit: float
    since: float
    done: float = 0.0
    #: Where the pace is measured from: what an earlier call had done counts for nothing.
    begun: float = 0.0
    counted: bool = False


class Lines:
    """`Bars` without a terminal: after ten seconds, and then now and then, one line for all tasks.

    What is left is at the pace of the units that were finished, those of all tasks of one work together.
    """

    def __init__(self, silent: bool = False) -> None:
        self._silent = silent
        self._tasks: list[_Task] = []
        self._started = time.monotonic()
        self._next = self._started + _FIRST

    def add_task(self, description: str, *, total: float | None, limit: float | None = None) -> int:
        now = time.monotonic()
        self._tasks.append(_Task(description, total, float("inf") if limit is None else now + limit, now))
        return len(self._tasks) - 1

    def update(self, task_id: int, *, total: float | None = None, completed: float | None = None) -> None:
        task = self._tasks[task_id]
        task.total = task.total if total is None else total
        if completed is not None:
            task.done = completed
            if not task.counted:
                task.begun, task.since = completed, time.monotonic()
            task.counted = True
        self.refresh()

    def advance(self, task_id: int, advance: float = 1) -> None:
        self._tasks[task_id].done += advance
        self._tasks[task_id].counted = True
        self.refresh()

    def refresh(self) -> None:
        now = time.monotonic()
        if self._silent or now < self._next:
            return
        self._next = now + max(_BETWEEN, _SHARE * (now - self._started))
        works: dict[str, list[_Task]] = {}
        for task in self._tasks:
            works.setdefault(task.title.rpartition(" ")[0], []).append(task)
        parts = [text for work, tasks in works.items() if (text := _part(work, tasks, now))]
        if parts:
            with suppress(OSError):
                print(f"after {duration(now - self._started)}: {'; '.join(parts)}", file=sys.stderr, flush=True)


def _part(work: str, tasks: list[_Task], now: float) -> str:
    """What is said of the tasks of one work; nothing where they are done, or nobody knows how many units they have."""
    title = printable(tasks[0].title) if len(tasks) == 1 else work
    done, total = sum(task.done for task in tasks), sum(task.total or 0 for task in tasks)
    if done >= total:
        return ""
    text = f"{title} {done:,.0f} of {total:,.0f}"
    counted = [task for task in tasks if task.counted]
    finished = sum(task.done - task.begun for task in counted)
    if finished <= 0:
        return text
    left = (total - done) * (now - min(task.since for task in counted)) / finished
    limit = max(max(task.limit for task in tasks) - now, 0.0)
    return f"{text}, {f'about {duration(left)}' if left <= limit else f'at most {duration(limit)}'} left"


def duration(seconds: float) -> str:
    """In the two largest units: 45 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    whole = round(seconds)
    for size, unit, small, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
