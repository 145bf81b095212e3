"""`calibrate`: choose how to sample from what the model and its data are like, by criteria that are computed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from llc_dynamics.errors import ConfigError
from llc_dynamics.llc.calibration import Calibration, CalibrationOptions
from llc_dynamics.llc.estimate import estimate
from llc_dynamics.llc.identity import differences, identity_of
from llc_dynamics.llc.point import torch_threads
from llc_dynamics.llc.problem import Problem, checkpoints_of
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.search import MOST_TRIALS_ELSEWHERE, RUNGS, Search
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.llc.storage import read_point, write_point
from llc_dynamics.llc.verdict import judged
from llc_dynamics.sampling.batches import Data
from llc_dynamics.sampling.flat_model import LossFunction
from llc_dynamics.sampling.selection import Selection
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.workers import can_fork, in_processes, require_workers

Progress = Callable[[int, int], None]
_SHARES_OF_A_RUN = (1 / 3, 2 / 3, 1.0)
_SHARES_OF_EACH_RUN = (2 / 3, 1.0)


def calibrate(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Data,
    *,
    run: Trajectory | str | Path | Sequence[Trajectory | str | Path] | None = None,
    steps: Iterable[int] | None = None,
    gradients: int = 4000,
    target_error: float = 0.05,
    nbeta: float | None = None,
    num_chains: int = 4,
    batch_size: int | None = None,
    num_samples: int | None = None,
    parameters: Selection | None = None,
    trials: bool = True,
    seed: int = 0,
    device: str | torch.device | None = None,
    store: str | Path | None = None,
    workers: int = 1,
    threads: int | None = 1,
    progress: Progress | None = None,
) -> Calibration:
    """Choose kernel, step size, localisation, batch size, burn-in and draws for all checkpoints of a run, or of runs.

    1. The largest curvature h of the loss at each checkpoint, by power iteration. Where the Hessian vanishes, as at
       all-zero factors, that at draws of N(w*, 1/gamma).
    2. A ladder of localisations, the last of which uses up `gradients`; estimates with two chains on each rung.
       Chosen is the smallest gamma at which the chains are in equilibrium at every checkpoint (virial ratio overall and
       by block, halves, chains); or a larger one from which on the estimate does not change, a plateau.
    3. There, twice the batch: if the estimate moves by more than 5%, the batch is doubled, up to 4 times the first.
    4. Draws for `target_error`, from the error of the trials.
    5. For the record, three times and a third of nbeta, and nbeta = 0: positions from the localisation alone.

    The kernel is `MALT` for a behavioural loss or where a batch is all the data, and `Underdamped` for minibatches of a
    given loss. In all some 4 * `gradients` for each checkpoint; more where estimates of few directions are noisy:
    trials have an error of `target_error` or 5%, whichever is larger, to tell a plateau by.

    Parameters
    ----------
    model, loss_fn, data, batch_size, num_samples, parameters, device : as in `estimate_llc`.
    run, steps : a run and the checkpoints to try (None: three, spread evenly over its later part); or several runs of
        this model and data (None: two checkpoints of each), so that their curves compare; without a run the model as
        it is.
    gradients : budget of one chain of one estimate. More gradients buy a finer resolution (smaller gamma).
    target_error : wanted standard error, as a share of the estimate.
    nbeta : inverse temperature; None stands for n / log n.
    trials : False chooses by the curvature and the budget alone, without trying anything out.
    seed : of everything.
    store : a folder in which finished trials are kept; the same call then goes on where it was stopped.
    workers, threads : processes for trials that do not wait for one another, and torch threads, as in `llc_curve`.
    progress : called with (estimates made, most estimates in all).

    Raises `ConfigError` for a setting out of its range or a budget that is too small for any exploration, and what
    `estimate_llc` raises.
    """
    options = CalibrationOptions(gradients, target_error, nbeta, num_chains, batch_size, num_samples, trials, seed)
    problem = Problem(model, loss_fn, data, parameters, device)
    return calibrate_problems(
        _at_checkpoints(problem, run, steps),
        options,
        store=store,
        workers=workers,
        threads=threads,
        progress=progress,
    )


def calibrate_problems(
    problems: Sequence[Problem],
    options: CalibrationOptions,
    *,
    store: str | Path | None = None,
    workers: int = 1,
    threads: int | None = 1,
    progress: Progress | None = None,
) -> Calibration:
    """`calibrate` for problems that differ in more than their weights, such as runs on different data.

    All have the same kind of loss, and one n; the last one is where batches and temperatures are tried.
    """
    workers = require_workers(workers)
    start = options.start
    done, most = 0, len(RUNGS) * len(problems) + MOST_TRIALS_ELSEWHERE

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(min(done, most), most)

    with torch_threads(threads):
        with problems[0].opened(start) as (flat, batches):
            device = flat.device
        workers = workers if workers > 1 and can_fork(device, threads, "calibrate") else 0

        def largest(measure: Callable[[Problem], float]) -> float:
            found = in_processes(measure, problems, min(workers, len(problems)))
            return max((each for each in found if not math.isnan(each)), default=math.nan)

        def estimates(jobs: Sequence[tuple[Problem, EstimateSettings]]) -> list[LLCResult]:
            return in_processes(partial(_estimated, store=store), jobs, workers, count)

        search = Search(estimates, largest, list(problems), batches, options)
        found = search.run() if options.trials else search.by_rule()
    if progress is not None:
        progress(most, most)  # what was not needed counts as done
    return found


def _estimated(job: tuple[Problem, EstimateSettings], store: str | Path | None) -> LLCResult:
    """The estimate; with `store`, kept in that folder and read from there the next time."""
    problem, settings = job
    if store is None:
        return estimate(problem, settings)
    identity = identity_of(problem, settings)
    key = json.dumps([problem.name, identity.weights, identity.curve], sort_keys=True, default=str)
    path = Path(store) / f"{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}.h5"
    if path.exists():
        result, stored = read_point(path)
        if not differences(stored, identity):
            return judged(result)
    result = estimate(problem, settings)
    write_point(path, 0 if problem.checkpoint is None else problem.checkpoint[1], result, identity)
    return result


def _at_checkpoints(
    problem: Problem,
    run: Trajectory | str | Path | Sequence[Trajectory | str | Path] | None,
    steps: Iterable[int] | None,
) -> list[Problem]:
    """The problem as it is, or at `steps` of a run or of each of several; see `spread` for those that None means."""
    if run is None:
        if steps is not None:
            raise ConfigError("steps were given without the run that they are checkpoints of; give run=, too")
        return [problem]
    given = [run] if isinstance(run, Trajectory | str | Path) else list(run)
    if not given:
        raise ConfigError("run is an empty list; give a run, several, or None for the model as it is")
    wanted = None if steps is None else list(steps)
    found = []
    for each in given:
        opened, chosen = checkpoints_of(each, wanted)
        if wanted is None:
            chosen = spread(chosen, len(given))
        found += [problem.at(opened, step, several_runs=len(given) > 1) for step in chosen]
    return found


def spread(steps: Sequence[int], num_runs: int) -> list[int]:
    """Of the checkpoints of one run those at a third, two thirds and the end; with several runs the last two of these.

    The first ones are far from any minimum, and say little about the rest.
    """
    shares = _SHARES_OF_A_RUN if num_runs == 1 else _SHARES_OF_EACH_RUN
    return sorted({steps[int(share * (len(steps) - 1))] for share in shares})
