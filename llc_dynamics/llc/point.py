"""One point of a curve: the estimate at one checkpoint of a run, computed once and stored beside the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from llc_dynamics.errors import ConfigError
from llc_dynamics.llc.estimate import estimate
from llc_dynamics.llc.identity import Identity, curve_differences, differences, identity_of
from llc_dynamics.llc.problem import Problem
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.llc.storage import curve_folder, point_file, read_point, stored_points, write_point
from llc_dynamics.llc.thresholds import Thresholds
from llc_dynamics.llc.verdict import judged
from llc_dynamics.ranges import whole_number
from llc_dynamics.seeding import derive_seed
from llc_dynamics.trajectory import Trajectory


def llc_point(
    run: Trajectory | str | Path,
    step: int,
    problem: Problem,
    settings: EstimateSettings,
    *,
    name: str = "llc",
    overwrite: bool = False,
    threads: int | None = 1,
    thresholds: Thresholds | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LLCResult:
    """The estimate at one checkpoint, taken from `<run>/llc/<name>/step-<step>.h5` or computed and stored there.

    For process pools over (run, step) pairs: each file appears whole, and the result does not depend on which process
    computes it, nor on other points. With `settings.common_noise` every point has the seed `settings.seed`, otherwise
    one that is derived from it and `step`.

    A stored point is taken only if it is the same computation: settings, seed, sampled parameters, weights of the
    checkpoint, data (by the bytes of its tensors, or `data_id`), and the losses of a few samples at w* and near it,
    which tell another loss function or another distribution. Thresholds are no part of it: a stored point is judged
    anew under those that are given. A finished point is never replaced without `overwrite`, also if another process
    finishes it while this one computes.

    Parameters
    ----------
    run, step : a run, or its folder, and one of its checkpoints.
    problem : the model (which comes back with the weights it had), loss and data; its own checkpoint does not matter.
    name : of the curve that the point belongs to. All its points have the same settings.
    overwrite : compute the point again if the stored one is another computation, instead of raising.
    threads : torch threads while it runs, so that the result is the same in any process; None leaves them alone.
    thresholds, progress : as in `estimate_llc`.

    Raises
    ------
    ConfigError : a setting is out of its range, or the curve `name` holds points with other settings; the message says
        which.
    DataError : as in `estimate_llc`.
    StepNotStoredError : the run has no such checkpoint.
    CorruptRunError : the stored point is damaged.
    TrajectoryError : the point cannot be written, or the folder of the curve is a link.
    """
    run = run if isinstance(run, Trajectory) else Trajectory(run)
    problem = problem.at(run, step)
    path = point_file(curve_folder(run.path, name), step)
    with torch_threads(threads):
        identity = identity_of(problem, settings)
        if not overwrite:
            require_same_curve(path.parent, name, identity.curve, first=path)
        stored = _stored(path, name, identity, overwrite)
        if stored is not None:
            return judged(stored, thresholds)
        own = settings.seed if settings.common_noise else derive_seed(settings.seed, "llc", int(step))
        result = estimate(problem, dataclasses.replace(settings, seed=own), thresholds, progress)
    # looked at again: hours may have passed
    folder = curve_folder(run.path, name)
    if not overwrite:
        require_same_curve(folder, name, identity.curve, first=path)
    if not write_point(path, int(step), result, identity, replace=overwrite):
        stored = _stored(path, name, identity, overwrite=False)
        return result if stored is None else judged(stored, thresholds)
    return result


def _stored(path: Path, name: str, identity: Identity, overwrite: bool) -> LLCResult | None:
    """The stored point if it is this computation; None if there is none, or another that may be replaced."""
    if not path.exists():
        return None
    stored, stored_identity = read_point(path)
    found = differences(stored_identity, identity)
    if found and not overwrite:
        raise ConfigError(_refusal(name, path, found))
    return None if found else stored


def require_same_curve(folder: Path, name: str, curve: dict[str, Any], first: Path | None = None) -> None:
    """Raise `ConfigError` if a point that is stored under `name` (`first`, or any) has other settings."""
    points = list(stored_points(folder).values())
    chosen = first if first in points else next(iter(points), None)
    if chosen is not None:
        found = curve_differences(read_point(chosen)[1].curve, curve)
        if found:
            raise ConfigError(_refusal(name, chosen, found))


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Sums are taken in another order with other numbers of threads; fix it, and put it back."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(whole_number("threads", threads, 1))
        yield
    finally:
        torch.set_num_threads(before)


def _refusal(name: str, path: Path, found: list[str]) -> str:
    return (
        f"the stored curve '{name}' is another computation ({path.name}: {'; '.join(found)}); choose another name=, "
        "or overwrite=True to replace it"
    )
