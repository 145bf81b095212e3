"""`calibrate`: choose how to sample from what the model and its data are like, by criteria that are computed."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from llc_dynamics.errors import ConfigError
from llc_dynamics.llc.calibration import Calibration, CalibrationOptions
from llc_dynamics.llc.estimate import estimate
from llc_dynamics.llc.identity import differences, identity_of
from llc_dynamics.llc.point import torch_threads
from llc_dynamics.llc.problem import Problem, checkpoints_of
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.search import Search
from llc_dynamics.llc.sending import Sent
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.llc.storage import read_point, write_point
from llc_dynamics.llc.verdict import judged
from llc_dynamics.sampling.batches import Batches, Data
from llc_dynamics.sampling.flat_model import FlatModel, LossFunction
from llc_dynamics.sampling.selection import Selection
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.workers import executor_of, mapped, require_workers

Progress = Callable[[int, int], None]
# Below so many operations a batch is a gradient's overhead, and a larger one is free.
_OPERATIONS, _SMALLEST_BATCH = 3e8, 32
# Checkpoints at which the curvature is looked at; the ladder has so many rungs at most.
_LOOKS, _MOST_RUNGS = 6, 9
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
    max_seconds: float | None = 300.0,
    device: str | torch.device | None = None,
    store: str | Path | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    threads: int | None = 1,
    progress: Progress | None = None,
) -> Calibration:
    """Choose kernel, step size, localisation, batch size, burn-in and draws for all checkpoints of a run, or of runs.

    1. The largest curvature h of the loss at w*, by power iteration, at up to 8 checkpoints. Where the Hessian
       vanishes, as at all-zero factors, that at draws of N(w*, 1/gamma).
    2. A ladder of localisations, gamma = nbeta h / r^2 with r = 4, 8, 16, ..., each tried with two chains at each of
       the checkpoints: up to the resolution that takes all of `gradients`, or at which chains do not explore. The
       kernel is `SGLD` where it explores in half of `gradients`, and on minibatches of a given loss; else `MALT`.
       Where SGLD's step, or the correction for a held batch, adds too much, the step is shortened, or the batch
       enlarged (up to 16 times, or all the data).
    3. Chosen is the finest gamma at which chains explore at all of the checkpoints (if there is one with virial ratios
       of .93 or more: clearly; estimates repeat what is low in the trials) and `gradients` are enough for
       `target_error`; a quarter of them, where the estimate grows by more than 20% with every rung, as in networks. If
       they never are, that of the smallest error.
    4. As many draws as `target_error` takes, by the errors of the trials, and never more than `gradients` allow.

    All trials together take at most 5 * `gradients` for each checkpoint. The findings say what an estimate and a whole
    curve will take in seconds.

    Parameters
    ----------
    model, loss_fn, data, batch_size, num_samples, parameters, device : as in `estimate_llc`.
    run, steps : a run and the checkpoints to try (None: three, spread evenly over its later part); or several runs of
        this model and data (None: two checkpoints of each), so that their curves compare; without a run the model as
        it is.
    gradients : budget of one chain of one estimate. More gradients buy a finer resolution (smaller gamma).
    target_error : wanted standard error, as a share of the estimate.
    max_seconds : no trial is begun that would end later than this (None: however long it takes), so that the trials
        end in minutes on any model; the result is what is known by then, and says so.
    nbeta : inverse temperature; None stands for n / log n.
    trials : False chooses by the curvature and the budget alone, without trying anything out.
    seed : of everything.
    store : a folder in which finished trials are kept; the same call then goes on where it was stopped.
    workers, executor, threads : where trials that do not wait for one another are made, and torch threads, as in
        `llc_curve`.
    progress : called with (estimates made, most estimates in all), first when nothing was refused.

    Raises `ConfigError` for a setting out of its range or a budget that is too small for any exploration, and what
    `estimate_llc` raises.
    """
    options = CalibrationOptions(
        gradients, target_error, nbeta, num_chains, batch_size, num_samples, trials, seed, max_seconds
    )
    problem = Problem(model, loss_fn, data, parameters, device)
    tried, all_of_them = _at_checkpoints(problem, run, steps)
    return calibrate_problems(
        tried,
        options,
        points=all_of_them,
        store=store,
        workers=workers,
        executor=executor,
        threads=threads,
        progress=progress,
    )


def calibrate_problems(
    problems: Sequence[Problem],
    options: CalibrationOptions,
    *,
    points: Sequence[Problem] | None = None,
    store: str | Path | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    threads: int | None = 1,
    progress: Progress | None = None,
) -> Calibration:
    """`calibrate` for problems that differ in more than their weights, such as runs on different data.

    All have the same kind of loss, and one n. `points` are those that the settings are for (None: `problems`).
    """
    workers = require_workers(workers)
    store = None if store is None else Path(store).absolute()
    start = options.start
    points = problems if points is None else points
    looked_at = [*problems, *(points[place] for place in np.linspace(0, len(points) - 1, _LOOKS).astype(int))]
    looked_at = list({each.name: each for each in looked_at}.values())
    done, most = 0, _MOST_RUNGS * len(problems)

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(min(done, most), most)

    with torch_threads(threads), ExitStack() as stack:
        with problems[0].opened(start) as (flat, batches):
            device, cheap = flat.device, batches.batch_size
            if options.batch_size is None:
                cheap = min(cheap, _affordable_batch(flat, batches))
        pool = (
            executor
            if workers == 1 or executor is not None
            else stack.enter_context(executor_of(None, workers, device))
        )

        def largest(measure: Callable[[Problem], float]) -> float:
            called = Sent(partial(_measured, measure, looked_at, threads), looked_at)
            found = mapped(called, range(len(looked_at)), pool)
            return max((each for each in found if not math.isnan(each)), default=math.nan)

        def estimates(jobs: Sequence[tuple[Problem, EstimateSettings]]) -> list[tuple[LLCResult, float]]:
            called = Sent(partial(_estimated, jobs, store, threads), [problem for problem, _ in jobs])
            return mapped(called, range(len(jobs)), pool, count)

        search = Search(estimates, largest, problems, batches, options, cheap, len(points))
        if progress is not None:
            progress(0, most)  # all that could be refused has been
        found = search.run() if options.trials else search.by_rule()
    if progress is not None:
        progress(most, most)  # what was not needed counts as done
    return found


def _affordable_batch(flat: FlatModel, batches: Batches) -> int:
    """The largest power of two of samples, from 32 on, whose loss takes `_OPERATIONS`, by a count of products alone."""
    content = flat.prepare(next(batches.stream(0, "operations")).content, batches.batch_size)
    with FlopCounterMode(display=False) as counter:
        flat.losses(flat.origin, content, batches.batch_size)
    of_a_sample = max(counter.get_total_flops() / batches.batch_size, 1.0)
    return max(2 ** math.floor(math.log2(max(_OPERATIONS / of_a_sample, 1.0))), _SMALLEST_BATCH)


def _measured(
    measure: Callable[[Problem], float], problems: Sequence[Problem], threads: int | None, place: int
) -> float:
    with torch_threads(threads):
        return measure(problems[place])


def _estimated(
    jobs: Sequence[tuple[Problem, EstimateSettings]], store: Path | None, threads: int | None, place: int
) -> tuple[LLCResult, float]:
    """The estimate and its seconds; with `store`, kept in that folder and read from there the next time."""
    with torch_threads(threads):
        return _estimate(*jobs[place], store)


def _estimate(problem: Problem, settings: EstimateSettings, store: Path | None) -> tuple[LLCResult, float]:
    path = None
    if store is not None:
        identity = identity_of(problem, settings)
        key = json.dumps([problem.name, identity.weights, identity.curve], sort_keys=True, default=str)
        path = store / f"{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}.h5"
        if path.exists():
            result, stored = read_point(path)
            if not differences(stored, identity):
                return judged(result), float(result.provenance.get("seconds", math.nan))
    # on a busy machine the clock says more than a core will take
    alone = problem.computed_on.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    start = clock()
    result = estimate(problem, settings)
    seconds = clock() - start
    if path is not None:
        step = 0 if problem.checkpoint is None else problem.checkpoint[1]
        timed = replace(result, provenance={**result.provenance, "seconds": seconds})
        write_point(path, step, timed, identity)
    return result, seconds


def _at_checkpoints(
    problem: Problem,
    run: Trajectory | str | Path | Sequence[Trajectory | str | Path] | None,
    steps: Iterable[int] | None,
) -> tuple[list[Problem], list[Problem]]:
    """The problem as it is, or at `steps` of a run or of each of several; see `spread` for those that None means.

    And all checkpoints with weights.
    """
    if run is None:
        if steps is not None:
            raise ConfigError("steps were given without the run that they are checkpoints of; give run=, too")
        return [problem], [problem]
    given = [run] if isinstance(run, Trajectory | str | Path) else list(run)
    if not given:
        raise ConfigError("run is an empty list; give a run, several, or None for the model as it is")
    wanted = None if steps is None else list(steps)
    found, points = [], []
    for each in given:
        opened, chosen = checkpoints_of(each, wanted)
        if wanted is None:
            chosen = spread(chosen, len(given))
        found += [problem.at(opened, step, several_runs=len(given) > 1) for step in chosen]
        points += [problem.at(opened, step, several_runs=len(given) > 1) for step in opened.weight_steps]
    return found, points


def spread(steps: Sequence[int], num_runs: int) -> list[int]:
    """Of the checkpoints of one run those at a third, two thirds and the end; with several runs the last two of these.

    The first ones are far from any minimum, and say little about the rest.
    """
    shares = _SHARES_OF_A_RUN if num_runs == 1 else _SHARES_OF_EACH_RUN
    return sorted({steps[int(share * (len(steps) - 1))] for share in shares})
