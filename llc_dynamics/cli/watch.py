"""`llc-dynamics watch`: a run on the terminal while it is being written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from llc_dynamics.errors import printable
from llc_dynamics.progress import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llc_dynamics.report.live import Snapshot

_WIDTH = 24


def watch(
    run: Annotated[Positional[Path], arg(help="A run folder.", metavar="RUN")],
    every: Annotated[float, arg(help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, arg(help="Print what there is now, and end.")] = False,
) -> None:
    """Show a run while it is being written: losses, distances, LLC, and the stage that it seems to be in.

    Ends when the run is complete. Reading does not hinder the writer, and only what is new is read. In a pipe a frame
    is printed whenever there are new checkpoints.

    Example: `llc-dynamics watch runs/small/M-8`
    """
    from llc_dynamics.errors import ConfigError
    from llc_dynamics.trajectory import Trajectory
    from llc_dynamics.trajectory.names import classify

    if not 0.05 <= every <= 86_400:
        raise ConfigError(f"--every {every:g}: give seconds between two looks, from 0.05 to 86400")
    if classify(run) != "foreign":
        Trajectory(run)  # says what is wrong before torch is imported
    from rich.console import Console
    from rich.live import Live

    from llc_dynamics.report.live import LiveRun

    live_run, console = LiveRun(run), Console()
    seen = live_run.look()
    if once or seen.state == "complete":
        console.print(frame(seen))
        return
    if console.is_terminal:
        with Live(frame(seen), console=console, auto_refresh=False) as live:
            while seen.state != "complete":
                time.sleep(every)
                seen = live_run.look()
                live.update(frame(seen), refresh=True)
        return
    shown = -1
    while True:
        if len(seen.steps) != shown or seen.state == "complete":
            shown = len(seen.steps)
            console.print(frame(seen))
        if seen.state == "complete":
            return
        time.sleep(every)
        seen = live_run.look()


def frame(seen: Snapshot) -> RenderableType:
    """A snapshot as something that rich prints."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from llc_dynamics.report.live import sparkline

    parts: list[RenderableType] = [Text(line) for line in _head(seen)]
    if seen.metrics:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("metric", no_wrap=True)
        for title in ("now", "least", "at step"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("over the checkpoints", no_wrap=True)
        for metric in seen.metrics:
            table.add_row(
                Text(printable(metric.name, 60)),
                f"{metric.latest:.4g}",
                f"{metric.least:.4g}",
                f"{metric.least_step:,}",
                sparkline(metric.values, _WIDTH),
            )
        parts.append(table)
    for point in seen.llc:
        doubt = "" if point.converged else ", not converged"
        parts.append(
            Text(
                f"LLC '{printable(point.curve)}': {point.value:.4g} ± {point.standard_error:.2g} at step "
                f"{point.step:,} ({point.points} point{'s' if point.points > 1 else ''}{doubt})"
            )
        )
    if seen.stage is not None:
        parts.append(Text(printable(f"stage: {seen.stage}", 1000)))
    return Panel(Group(*parts), title=Text(printable(f"{seen.name}: {seen.state}")), title_align="left")


def _head(seen: Snapshot) -> list[str]:
    if not len(seen.steps):
        return ["no checkpoint is sealed yet"]
    last = int(seen.steps[-1])
    where = f"step {last:,}"
    if seen.last_step is not None:
        where += f" of {seen.last_step:,} ({last / seen.last_step:.0%})"
    count = f"{len(seen.steps):,} checkpoints"
    if seen.num_weights < len(seen.steps):
        count += f", {seen.num_weights:,} with weights"
    lines = [f"{where}, {count}"]
    about = [] if seen.age is None else [f"last one sealed {duration(seen.age)} ago"]
    if seen.state == "being written" and seen.rows_per_second is not None and seen.steps_per_second is not None:
        about.append(f"{60 * seen.rows_per_second:.3g} checkpoints and {60 * seen.steps_per_second:.3g} steps a minute")
        if seen.seconds_left is not None:
            about.append(f"{duration(seen.seconds_left)} left")
    return [*lines, "; ".join(about)] if about else lines
