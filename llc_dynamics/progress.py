"""Progress bars on standard error: shown on a terminal, silent in a pipe."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llc_dynamics.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress, Task


@contextmanager
def progress_bars(enabled: bool | None = None) -> Iterator[Progress]:
    """A `rich.progress.Progress` with time spent and time left; `enabled=None` shows it on a terminal only."""
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

    show = sys.stderr.isatty() if enabled is None else enabled
    bars = Progress(
        Title(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not show,
    )
    with bars:
        yield bars
