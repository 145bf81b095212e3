"""Metrics and curves for trackers: TensorBoard, Weights & Biases, CSV, or whatever has `log(step, values)`."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError
from llc_dynamics.optional import optional_import
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.names import curve_folders


class Tracker(Protocol):
    """What `Recorder(trackers=[...])`, `log_curve` and `log_run` take."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name after `step` optimiser updates. Steps of a curve may lie before those of a training."""


class CSVTracker:
    """Appends a line `step,name,value` for each number to a file; `pandas.DataFrame.pivot` makes a table of them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if not file.tell():
                writer.writerow(("step", "name", "value"))
            writer.writerows((step, name, value) for name, value in values.items())


class TensorBoardTracker:
    """Scalars for `tensorboard --logdir`. Raises `MissingPackageError` where tensorboard is not installed."""

    def __init__(self, folder: str | Path) -> None:
        optional_import("tensorboard", "tensorboard", "TensorBoardTracker")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


class WandbTracker:
    """Metrics of a run of Weights & Biases, over the axis `training_step`.

    run : what `wandb.init(...)` gave; finishing it is the caller's.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self._defined: set[str] = set()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name in values.keys() - self._defined:
            # Its own steps only grow, and a curve is estimated when the training is over.
            self._run.define_metric(name, step_metric="training_step")
            self._defined.add(name)
        self._run.log({"training_step": step, **values})


def log_curve(curve: Curve, trackers: Sequence[Tracker]) -> None:
    """The points of a curve: its value by its name, and `<name>/standard_error` and `<name>/converged`, 0 or 1."""
    columns = {
        curve.name: curve.values,
        f"{curve.name}/standard_error": curve.standard_errors,
        f"{curve.name}/converged": curve.converged,
    }
    for row, step in enumerate(curve.steps):
        _log(trackers, step, {name: float(column[row]) for name, column in columns.items() if column is not None})


def log_run(run: Trajectory | str | Path, trackers: Sequence[Tracker]) -> None:
    """All metrics of a run that is stored, and all LLC curves beside it. What is missing at a step (NaN) is left out.

    Raises `TrajectoryError` for what is no run, `CorruptRunError` for damaged rows or points.
    """
    from llc_dynamics.llc import LLCCurve

    run = run if isinstance(run, Trajectory) else Trajectory(run)
    metrics = {name: run.metrics(name) for name in run.metric_names}
    for row, step in enumerate(run.steps):
        _log(trackers, step, {name: float(values[row]) for name, values in metrics.items()})
    for folder in curve_folders(run.path):
        log_curve(LLCCurve.load(run, folder.name), trackers)


def _log(trackers: Sequence[Tracker], step: int, values: Mapping[str, float]) -> None:
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    for tracker in trackers if known else ():
        tracker.log(int(step), known)


class Trackers:
    """Those of a recording, which none of them may end: the first error of each is a warning, and the next row goes to
    all of them again."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)
        self._failed: set[int] = set()
        for tracker in self._trackers:
            if not callable(getattr(tracker, "log", None)):
                raise ConfigError(
                    f"trackers: {type(tracker).__name__} has no method log(step, values); give a CSVTracker, "
                    "TensorBoardTracker or WandbTracker, or an object of yours with that method"
                )

    def __len__(self) -> int:
        return len(self._trackers)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for place, tracker in enumerate(self._trackers):
            try:
                tracker.log(step, dict(values))
            except Exception as error:
                if place not in self._failed:
                    self._failed.add(place)
                    warnings.warn(
                        f"{type(tracker).__name__} failed at step {step} ({type(error).__name__}: {error}); the "
                        "recording goes on and stores everything; log_run gives it to a tracker later",
                        RuntimeWarning,
                        stacklevel=4,
                    )
