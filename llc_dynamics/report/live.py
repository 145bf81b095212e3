"""What can be said of a run while it is being written, at little cost: only what was sealed since is read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import CorruptRunError, DataError, TrajectoryError
from llc_dynamics.llc.storage import read_point, stored_points
from llc_dynamics.report.reading import Level, planned_steps, read_description, read_probes, reference_gap
from llc_dynamics.report.transitions import state_in_words
from llc_dynamics.stages import detect_transience
from llc_dynamics.systems.description import Transition, distance_metric, loss_metric
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.files import is_locked
from llc_dynamics.trajectory.names import LOCK, classify, is_run

#: Rows with samples that are kept for each unit of log(step + 1): some 150 over a run of 150,000 steps.
_PER_LOG_UNIT = 12


@dataclass(frozen=True)
class Metric:
    """A metric so far: `values` [C] with NaN where it was not recorded, and its last finite value."""

    name: str
    values: NDArray[np.float64]
    latest: float
    least: float
    least_step: int


@dataclass(frozen=True)
class LatestLLC:
    """The last point of a stored curve, and how many points it has."""

    curve: str
    points: int
    step: int
    value: float
    standard_error: float
    converged: bool


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment.

    Attributes
    ----------
    state : "complete", "being written", or "not being written" (stopped, or not yet gone on with).
    steps : int64 [C]; num_weights of them have weights. last_step : None where the configuration does not say.
    metrics : training loss and losses first, then distances, then the others by name.
    stage : in words, what the run seems to be doing; None for a run that declares no transition or lacks its metrics.
    age : seconds since the last row was sealed, None before the first. steps_per_second : over the last shards, None if
        the dates of the files do not tell.
    """

    name: str
    state: str
    steps: NDArray[np.int64]
    num_weights: int
    last_step: int | None
    metrics: tuple[Metric, ...]
    llc: tuple[LatestLLC, ...]
    stage: str | None
    age: float | None
    rows_per_second: float | None
    steps_per_second: float | None

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None where that is not known."""
        if self.last_step is None or not self.steps_per_second or not len(self.steps):
            return None
        return max(0.0, (self.last_step - int(self.steps[-1])) / self.steps_per_second)


class LiveRun:
    """A run that is looked at again and again.

    Raises `TrajectoryError` for a folder that is no run, and `CorruptRunError` later on for damage.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if classify(path) == "foreign":
            runs = sorted(child.name for child in path.iterdir() if is_run(child))
            if runs:
                raise TrajectoryError(f"{path}: a folder of runs; watch one of them: {', '.join(runs)}")
        self._run = Trajectory(path)
        self._description = read_description(self._run, [])
        needed = [name for each in self._description.transitions for name in _needed(each) if name is not None]
        self._needed = tuple(dict.fromkeys(needed))
        self._last_step = planned_steps(self._run)
        self._seen = 0
        #: One row for each stretch of log(step + 1), the first one in it, and its samples by metric.
        self._rows: list[int] = []
        self._samples: dict[str, list[NDArray[np.float32]]] = {}
        self._gaps: dict[Transition, Level | None] = {}
        self._points: dict[Path, LatestLLC] = {}
        self._stage: str | None = None

    def look(self) -> Snapshot:
        """See what was sealed since the last look."""
        run = self._run
        # Asked first, because it may look for shards itself: from here on all that is read has the same rows.
        complete = run.complete
        run.refresh()
        steps = run.steps
        if len(steps) > self._seen:
            self._take_in(steps)
            self._stage = self._describe_stage(steps)
        being_written = is_locked(run.path / LOCK)
        state = "complete" if complete else "being written" if being_written else "not being written"
        age, rows_per_second, steps_per_second = _rate(run.sealed_times, steps)
        return Snapshot(
            name=run.path.name,
            state=state,
            steps=steps,
            num_weights=len(run.weight_steps),
            last_step=self._last_step,
            metrics=tuple(_metrics(run)),
            llc=tuple(self._latest_points()),
            stage=self._stage,
            age=age,
            rows_per_second=rows_per_second,
            steps_per_second=steps_per_second,
        )

    def _take_in(self, steps: NDArray[np.int64]) -> None:
        """Read the samples of those new rows that are kept."""
        stretch = (np.log1p(steps) * _PER_LOG_UNIT).astype(int)
        first = np.flatnonzero(np.diff(stretch, prepend=-1))
        fresh = [int(row) for row in first if row >= self._seen]
        for name in self._needed:
            if name in self._run.sample_names and fresh:
                self._samples.setdefault(name, []).extend(np.asarray(self._run.sample_rows(name)[fresh]))
        self._rows += fresh
        self._seen = len(steps)

    def _curve(self, name: str, steps: NDArray[np.int64]) -> Curve | None:
        """The kept rows and the last one of a metric."""
        if name not in self._run.metric_names or not np.isfinite(self._run.metrics(name)).any():
            return None
        last = len(steps) - 1
        rows = [*self._rows, *([] if self._rows[-1:] == [last] else [last])]
        values = self._run.metrics(name)[rows]
        kept = self._samples.get(name)
        if kept is None or len(kept) != len(self._rows):
            return Curve(steps[rows], values, name=name)
        samples = kept if len(rows) == len(kept) else [*kept, np.asarray(self._run.sample_rows(name)[last])]
        return Curve(steps[rows], values, name=name, samples=np.stack(samples))

    def _describe_stage(self, steps: NDArray[np.int64]) -> str | None:
        """A sentence for each transition whose loss and distance are measured."""
        said = []
        for transition in self._description.transitions:
            curves = {
                name: curve
                for name in _needed(transition)
                if name is not None and (curve := self._curve(name, steps)) is not None
            }
            loss, general, specialised = (None if name is None else curves.get(name) for name in _needed(transition))
            if loss is None or general is None:
                continue
            gap = None if specialised is None else self._gap(transition)
            try:
                verdict = detect_transience(
                    general=general,
                    specialised=specialised,
                    ood_loss=loss,
                    reference_distance=None if gap is None else gap.value,
                    num_bootstrap=100,
                )
            except DataError as error:
                said.append(f"too early to tell ({error})")
                continue
            said.append(state_in_words(transition, self._description, verdict, curves))
        return "; ".join(dict.fromkeys(said)) or None

    def _gap(self, transition: Transition) -> Level | None:
        if transition not in self._gaps:
            arrays = read_probes(self._run)
            pair = (transition.general, transition.specialised)
            self._gaps[transition] = reference_gap(arrays, transition.probe, *pair)
        return self._gaps[transition]

    def _latest_points(self) -> list[LatestLLC]:
        folder = self._run.path / "llc"
        found = []
        for curve in sorted(folder.iterdir()) if folder.is_dir() else ():
            points = stored_points(curve)
            if not points:
                continue
            step = max(points)
            known = self._points.get(curve)
            if known is None or known.step != step or known.points != len(points):
                try:
                    result, _ = read_point(points[step])
                except (CorruptRunError, TrajectoryError):
                    continue
                known = LatestLLC(
                    curve.name, len(points), step, result.llc, result.standard_error, bool(result.converged)
                )
                self._points[curve] = known
            found.append(known)
        return found


def _needed(transition: Transition) -> tuple[str, str, str | None]:
    """Metrics that say where a run stands: loss, distance to the general and to the specialised solution."""
    far = transition.specialised
    return (
        loss_metric(transition.probe),
        distance_metric(transition.probe, transition.general),
        None if far is None else distance_metric(transition.probe, far),
    )


def _place(name: str) -> tuple[int, str]:
    """Order of metrics: training loss, losses, distances, others."""
    if name in ("train_loss", "loss"):
        return 0, name
    return (1 if name.startswith("loss/") else 2 if name.startswith("distance/") else 3), name


def _metrics(run: Trajectory) -> list[Metric]:
    found = []
    steps = run.steps
    for name in sorted(run.metric_names, key=_place):
        values = run.metrics(name)
        finite = np.flatnonzero(np.isfinite(values))
        if len(finite):
            least = int(finite[np.argmin(values[finite])])
            found.append(Metric(name, values, float(values[finite[-1]]), float(values[least]), int(steps[least])))
    return found


def _rate(times: NDArray[np.float64], steps: NDArray[np.int64]) -> tuple[float | None, float | None, float | None]:
    """Age of the last row, rows and steps a second over the last shards (five at most); None where dates do not tell.

    The rows of a shard share a date, that of its end; the time between two dates belongs to the rows after the first.
    """
    if not len(times):
        return None, None, None
    age = max(0.0, time.time() - float(times[-1]))
    seals = np.flatnonzero(np.diff(times, append=np.inf))[-6:]
    if len(seals) < 2:
        return age, None, None
    spent = float(times[seals[-1]] - times[seals[0]])
    if not spent > 0:
        return age, None, None
    return age, float(seals[-1] - seals[0]) / spent, float(steps[seals[-1]] - steps[seals[0]]) / spent


def sparkline(values: Sequence[float] | NDArray[np.float64], width: int) -> str:
    """Values as a row of block characters, each the mean of its share of the points; blanks where none is finite."""
    numbers = np.asarray(values, np.float64)
    numbers = np.where(np.abs(numbers) < 1e200, numbers, np.nan)  # sums of larger ones overflow
    if not np.isfinite(numbers).any() or width < 1:
        return " " * max(width, 0)
    pieces = np.array_split(numbers, min(width, len(numbers)))
    means = np.array([piece[np.isfinite(piece)].mean() if np.isfinite(piece).any() else np.nan for piece in pieces])
    low, high = np.nanmin(means), np.nanmax(means)
    share = (means - low) / (high - low) if high > low else np.where(np.isnan(means), np.nan, 0.0)
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(" " if np.isnan(x) else blocks[min(7, int(x * 8))] for x in share).ljust(width)
