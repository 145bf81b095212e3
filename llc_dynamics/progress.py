"""Progress on standard error: bars on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import math
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
# Of more than so many units this share is done before anything is said of the rest.
_MANY, _FEWEST = 500, 0.05
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
    work: str
    total: float | None
    since: float
    limit: float
    done: float = 0.0
    #: What an earlier call had done, which counts for nothing; None before anything is known.
    begun: float | None = None


class Lines:
    """`Bars` without a terminal: after ten seconds, and then now and then, one line for all tasks.

    What is left is at the pace of the latest half of the time, of all tasks of one work together.
    """

    def __init__(self, silent: bool = False) -> None:
        self._silent = silent
        self._tasks: list[_Task] = []
        #: When how much of a work was done in this call.
        self._pace: dict[str, list[tuple[float, float]]] = {}
        self._started = self._ended = time.monotonic()
        self._next = self._started + _FIRST

    def add_task(self, description: str, *, total: float | None, limit: float | None = None) -> int:
        now = time.monotonic()
        ends = math.inf if limit is None else now + limit
        self._tasks.append(_Task(description, description.rpartition(" ")[0], total, now, ends))
        return len(self._tasks) - 1

    def update(self, task_id: int, *, total: float | None = None, completed: float | None = None) -> None:
        """`completed` units were done, which may have been so from the beginning."""
        task = self._tasks[task_id]
        task.total = task.total if total is None else total
        if completed is not None:
            task.done = completed
            task.begun = completed if task.begun is None else task.begun
            self._note(task.work)
        self.refresh()

    def advance(self, task_id: int, advance: float = 1) -> None:
        """Units were done, since the task was added or the last one was."""
        task = self._tasks[task_id]
        # Its first unit waited for a worker until other work was done.
        since = max(task.since, self._ended)
        self._pace.setdefault(task.work, [(since, 0.0)])
        task.done += advance
        task.begun = task.begun or 0.0
        self._note(task.work)
        self.refresh()

    def _note(self, work: str) -> None:
        done = sum(task.done - task.begun for task in self._tasks if task.work == work and task.begun is not None)
        now = time.monotonic()
        self._pace.setdefault(work, []).append((now, done))
        if all(task.done >= (task.total or math.inf) for task in self._tasks if task.work == work):
            self._ended = now

    def refresh(self) -> None:
        now = time.monotonic()
        if self._silent or now < self._next:
            return
        self._next = now + max(_BETWEEN, _SHARE * (now - self._started))
        parts = [text for work in dict.fromkeys(task.work for task in self._tasks) if (text := self._part(work, now))]
        if parts:
            with suppress(OSError):
                print(f"after {duration(now - self._started)}: {'; '.join(parts)}", file=sys.stderr, flush=True)

    def _part(self, work: str, now: float) -> str:
        """What is said of a work; nothing where it is done, or nobody knows how many units it has."""
        tasks = [task for task in self._tasks if task.work == work]
        done, total = sum(task.done for task in tasks), sum(task.total or 0 for task in tasks)
        if done >= total:
            return ""
        text = f"{printable(tasks[0].title) if len(tasks) == 1 else work} {done:,.0f} of {total:,.0f}"
        limit = max(max(task.limit for task in tasks) - now, 0.0)
        left = self._left(work, total - done, now)
        if math.isinf(min(left, limit)):
            return text
        return f"{text}, {f'about {duration(left)}' if left <= limit else f'at most {duration(limit)}'} left"

    def _left(self, work: str, units: float, now: float) -> float:
        """Seconds that so many units will take; infinite where that cannot be said yet."""
        noted = self._pace.get(work, [])
        if not noted or not noted[-1][1]:
            return math.inf
        finished = noted[-1][1]
        # The first steps of a training are dense with checkpoints; a unit that takes its time is a measure by itself.
        if units + finished > _MANY and finished < _FEWEST * (units + finished):
            return math.inf
        since, before = [each for each in noted if each[0] <= (noted[0][0] + now) / 2][-1]
        return units * (now - since) / (finished - before) if finished > before else math.inf


def duration(seconds: float) -> str:
    """In the two largest units: 45 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    whole = round(seconds)
    for size, unit, small, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
