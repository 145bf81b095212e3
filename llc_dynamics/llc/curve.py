"""The LLC over a run: one setting for all checkpoints, stored point by point, resumed where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llc_dynamics.curve import Change, Curve
from llc_dynamics.errors import ConfigError, LLCDynamicsError, TrajectoryError
from llc_dynamics.finding import Finding
from llc_dynamics.llc.calibration import Calibration
from llc_dynamics.llc.frames import curve_to_datatree, curve_to_pandas, curve_to_xarray
from llc_dynamics.llc.identity import curve_differences, curve_identity, tensor_data_id
from llc_dynamics.llc.pairing import paired_covariance, paired_error
from llc_dynamics.llc.point import llc_point, require_same_curve
from llc_dynamics.llc.problem import Problem, checkpoints_of
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.sending import Sent
from llc_dynamics.llc.settings import EstimateSettings, Everyday
from llc_dynamics.llc.storage import curve_folder, read_point, stored_points
from llc_dynamics.llc.thresholds import Thresholds
from llc_dynamics.llc.verdict import judged
from llc_dynamics.progress import progress_bars
from llc_dynamics.ranges import whole_numbers
from llc_dynamics.sampling.batches import Data
from llc_dynamics.sampling.flat_model import LossFunction
from llc_dynamics.sampling.selection import Selection
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.workers import executor_of, mapped, require_workers

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

#: Called after each point with (step, points done, points in all).
PointProgress = Callable[[int, int, int], None]


@dataclass(frozen=True, eq=False)
class LLCCurve(Curve):
    """lambda_hat over training: an `ld.Curve` with the results behind its points.

    Points with the same seed, all those of `llc_curve` unless `common_noise` is off, have errors that move together:
    `covariance` says how, and `difference` has the error of a change.

    Parameters
    ----------
    results : {step: LLCResult}; steps, values, standard errors and `converged` are read from them.
    name : of the curve.

    Attributes
    ----------
    results : tuple of LLCResult, in the order of the steps.
    reasons : for each step a tuple of findings, what speaks against its estimate; empty if nothing does.
    """

    results: tuple[LLCResult, ...] = field(default=(), repr=False)
    reasons: tuple[tuple[Finding, ...], ...] = field(default=(), repr=False)

    def __init__(self, results: Mapping[int, LLCResult], name: str = "llc") -> None:
        ordered = tuple(results[step] for step in sorted(results))
        covariance = paired_covariance(ordered)
        super().__init__(
            steps=sorted(results),
            values=[result.llc for result in ordered],
            standard_errors=[result.standard_error for result in ordered] if covariance is None else None,
            name=name,
            converged=[result.converged for result in ordered],
            covariance=covariance,
        )
        object.__setattr__(self, "results", ordered)
        object.__setattr__(self, "reasons", tuple(result.reasons for result in ordered))

    @classmethod
    def load(cls, run: str | Path | Trajectory, name: str = "llc", steps: Iterable[int] | None = None) -> LLCCurve:
        """A stored curve, also one that is not finished yet; `steps` picks points.

        Raises `TrajectoryError` if nothing (or not every one of `steps`) is stored under `name`, `ConfigError` if its
        points were computed with different settings, `CorruptRunError` for a damaged one.
        """
        folder = curve_folder(Path(run.path if isinstance(run, Trajectory) else run), name)
        points = stored_points(folder)
        wanted = sorted(points if steps is None else set(whole_numbers("steps", steps, 0)))
        missing = [step for step in wanted if step not in points]
        if missing or not wanted:
            what = f"no points at steps {', '.join(map(str, missing))}" if missing else "no points"
            raise TrajectoryError(f"{folder}: {what} of the LLC curve '{name}' are stored; compute them with llc_curve")
        results, settings = {}, None
        for step in wanted:
            results[step], identity = read_point(points[step])
            settings = identity.curve if settings is None else settings
            found = curve_differences(settings, identity.curve)
            if found:
                raise ConfigError(
                    f"{folder}: the points at steps {wanted[0]} and {step} were computed with different settings "
                    f"({'; '.join(found)}); compute the curve again with overwrite=True"
                )
        return cls(results, name)

    def difference(self, a: int, b: int) -> Change:
        """lambda_hat at step `b` minus that at step `a`, with its error: from the paired draws where there are such.

        Raises `DataError` for a step that is not on the curve.
        """
        change = super().difference(a, b)
        first, second = (self.results[self.place_of(step)] for step in (a, b))
        paired = paired_error(first, second)
        if paired is None:
            return dataclasses.replace(change, degrees_of_freedom=max(min(first.ess_mean, second.ess_mean) - 1, 1.0))
        error, ess = paired
        return Change(change.value, error, max(ess - 1, 1.0))

    def to_pandas(self, draws: bool = False) -> pd.DataFrame:
        """One row per step: estimate, errors, interval, diagnostics, verdict in words (columns: `frames.scalars`).

        With `draws`, the traces instead: columns llc, distance, virial, index (step, chain, draw). Raises
        `MissingPackageError` without pandas.
        """
        return curve_to_pandas(self.steps, self.results, draws)

    def to_xarray(self) -> xr.Dataset:
        """All results: traces [step, chain, draw] with NaN where a point has fewer, virial_by_block, values [step].

        `covariance` [step, other_step] is there where errors move together.

        What settings, provenance and thresholds of all points have in common is in `attrs`, as JSON texts. Raises
        `MissingPackageError` without xarray.
        """
        found = curve_to_xarray(self.name, self.steps, self.results)
        if self.covariance is not None:
            found["covariance"] = ("step", "other_step"), self.covariance
        return found

    def to_datatree(self) -> xr.DataTree:
        """llc, distance and virial [chain, draw, step] as the `posterior` of an ArviZ data tree.

        ArviZ's diagnostics are NaN at steps where a chain died or that have fewer draws than others; the trees of
        single points, `curve.results[i].to_datatree()`, leave dead chains out. Raises `MissingPackageError` without
        arviz-base.
        """
        return curve_to_datatree(self.name, self.steps, self.results)

    @property
    def resolution(self) -> str | None:
        """What the points count, in words (see `LLCResult.resolution`); None where they differ in it."""
        found = {result.resolution for result in self.results}
        return found.pop() if len(found) == 1 else None

    @property
    def initial_loss(self) -> Curve:
        """L(w*) over training, as estimated along with the points (their batches, hence noisy)."""
        return self._of("initial_loss", "loss")

    @property
    def virial(self) -> Curve:
        """The virial ratio over training: 1 in equilibrium, below where the chains have not explored."""
        return self._of("virial", "virial", self.converged)

    def _of(self, attribute: str, name: str, converged: NDArray[np.bool_] | None = None) -> Curve:
        values, errors = ([getattr(each, key) for each in self.results] for key in (attribute, f"{attribute}_error"))
        return Curve(self.steps, values, errors, name=name, converged=converged)


def llc_curve(
    run: Trajectory | str | Path,
    model: nn.Module,
    loss_fn: LossFunction,
    data: Data,
    *,
    steps: Iterable[int] | None = None,
    name: str = "llc",
    workers: int = 1,
    executor: Executor | None = None,
    threads: int | None = 1,
    data_id: str | None = None,
    overwrite: bool = False,
    parameters: Selection | None = None,
    device: str | torch.device | None = None,
    thresholds: Thresholds | None = None,
    progress: PointProgress | bool | None = None,
    settings: EstimateSettings | Calibration | None = None,
    **everyday: Unpack[Everyday],
) -> LLCCurve:
    """Estimate the LLC at checkpoints of a run, all with one setting; stored beside the run as they finish.

    Call it again to go on where it stopped: points that are stored and are the same computation (see `llc_point`) are
    read, the others computed. Results do not depend on `workers` and `executor`, nor on stopping and going on.

    Model, loss function and data are sent to the processes, functions of notebooks included, the weights that the run
    stores not; what cannot be sent is named in an error. See docs/scaling.md for executors on clusters.

    Parameters
    ----------
    run : a run, or its folder.
    model : comes back with the weights it had.
    loss_fn, data, parameters, device, thresholds : as in `estimate_llc`.
    steps : checkpoints of the run; None stands for all that have weights.
    name : the curve lives in `<run>/llc/<name>/`.
    workers : processes of this machine, one thread each; for the device `cuda`, each has one GPU. 1 stands for this
        process itself.
    executor : where the points are computed instead, any `concurrent.futures.Executor`; its processes see the run at
        the same path.
    data_id : a name for the data; worth giving for a function that draws samples.
    threads : as in `llc_point`.
    overwrite : replace what is stored under `name` with other settings, instead of raising.
    progress : a function that is called with (step, done, total) after each point; None shows a bar on a terminal,
        False nothing.
    settings, **everyday : as in `estimate_llc`, `sampler` to `seed` being the ones that are given by themselves.

    Raises
    ------
    ConfigError, DataError, StepNotStoredError, CorruptRunError : as `llc_point`. What was stored before stays.
    """
    run, wanted = checkpoints_of(run, steps)
    workers = require_workers(workers)
    chosen = EstimateSettings.of(settings, everyday)
    problem = Problem(model, loss_fn, data, parameters, device, tensor_data_id(data) if data_id is None else data_id)
    curve = curve_identity(problem, chosen)
    folder = curve_folder(run.path, name)
    if overwrite:
        _remove_others(folder, curve)
    else:
        require_same_curve(folder, name, curve)

    compute = Sent(
        partial(_point, run, problem, chosen, name=name, overwrite=overwrite, threads=threads, thresholds=thresholds),
        [problem.at(run, wanted[0])],
    )
    with _reporting(progress, len(wanted), name) as report, ExitStack() as stack:
        if executor is None and min(workers, len(wanted)) > 1:
            executor = stack.enter_context(executor_of(None, workers, problem.computed_on))
        mapped(compute, wanted, executor, lambda place, _: report(wanted[place]))
    stored = LLCCurve.load(run, name, wanted)
    results = zip(wanted, stored.results, strict=True)
    return LLCCurve({step: judged(result, thresholds) for step, result in results}, name)


def _point(run: Trajectory, problem: Problem, settings: EstimateSettings, step: int, **others: Any) -> None:
    llc_point(run, step, problem, settings, **others)


def _remove_others(folder: Path, curve: Mapping[str, Any]) -> None:
    """Remove points of other settings (or damaged ones); those of the same setting are still good."""
    for path in stored_points(folder).values():
        try:
            same = not curve_differences(read_point(path)[1].curve, curve)
        except LLCDynamicsError:
            same = False
        if not same:
            path.unlink()


@contextmanager
def _reporting(progress: PointProgress | bool | None, total: int, name: str) -> Iterator[Callable[[int], None]]:
    done = 0
    with progress_bars(False if callable(progress) else progress) as bars:
        bar = bars.add_task(f"LLC curve '{name}'", total=total)

        def report(step: int) -> None:
            nonlocal done
            done += 1
            bars.advance(bar)
            if callable(progress):
                progress(step, done, total)

        yield report
