"""This package's side of the comparison with its peers.

The problems of the comparison have targets without noise, or are sampled against the model's own outputs, so the
behavioural loss is the given one up to its factor, and both sides sample the same density. `settings.num_steps` is the
budget of gradients of a chain, as it is for the peers. On a deep linear network kernel and localisation are what
`ld.calibrate(trials=False)` chooses for that budget; on the others it is SGLD at the localisation and step of the
settings, a draw every fourth step.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import llc_dynamics as ld
from llc_dynamics.sampling import Chains
from llc_dynamics.sampling.batches import make_batches
from llc_dynamics.sampling.flat_model import FlatModel
from peers.adapter import peak_mb
from peers.modules import build, data_of, loss_of
from peers.problems import Problem, read_problem
from peers.rows import Row, StepCost
from peers.settings import Settings

_ROUNDS = 5
_STEPS_PER_DRAW = 4


def our_runs(folder: Path, settings: Settings) -> list[Row]:
    """One estimate for each seed of `settings`."""
    torch.set_num_threads(1)
    problem = read_problem(folder)
    return [_row(problem, settings, seed) for seed in settings.seeds]


def outputs_of(problem: Problem) -> Callable[[Any, Any], torch.Tensor]:
    """The model's outputs, scaled so that their mean squared difference is the problem's loss without noise."""
    if problem.loss == "cross_entropy":
        return lambda model, batch: model(batch[0])
    targets = math.prod(problem.targets.shape[1:])
    factor = math.sqrt(targets / 2) if problem.loss == "half_squared_error" else 1.0
    return lambda model, batch: factor * model(batch[0])


def _row(problem: Problem, settings: Settings, seed: int) -> Row:
    module, data = build(problem), data_of(problem)
    loss = ld.behavioural(outputs_of(problem), "kl" if problem.loss == "cross_entropy" else "squared")
    before = peak_mb()
    start, cpu = time.perf_counter(), time.process_time()
    if problem.model["kind"] == "deep_linear":
        rule = ld.calibrate(
            module,
            loss,
            data,
            nbeta=settings.nbeta,
            gradients=settings.num_steps,
            num_chains=settings.num_chains,
            batch_size=settings.batch_size,
            trials=False,
            seed=seed,
        ).settings
    else:
        rule = _at_localization(settings, seed)
    result = ld.estimate_llc(module, loss, data, settings=rule)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    gradients = result.num_gradients * settings.num_chains
    return Row(
        tool="llc_dynamics",
        version=ld.__version__,
        problem=problem.name,
        label=settings.label,
        settings={k: v for k, v in dataclasses.asdict(settings).items() if k != "seeds"},
        seed=seed,
        estimate=result.llc if math.isfinite(result.llc) else None,
        standard_error=result.standard_error,
        error_meaning="Monte Carlo error and spread between chains",
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        seconds_per_step=seconds / gradients,
        gradients=gradients,
        forwards=0,
        peak_mb=peak_mb(),
        start_mb=before,
        converged=result.converged,
        extra={
            "gamma": result.localization,
            "virial": result.virial,
            "reasons": [reason.code for reason in result.reasons],
        },
    )


def _at_localization(settings: Settings, seed: int) -> ld.EstimateSettings:
    """The same budget, localisation and step as a peer has."""
    return ld.EstimateSettings(
        sampler=ld.SGLD(settings.step_size, settings.nbeta, settings.localization),
        num_chains=settings.num_chains,
        num_burnin=settings.num_burnin,
        num_draws=max(settings.num_draws // _STEPS_PER_DRAW, 4),
        steps_per_draw=_STEPS_PER_DRAW,
        batch_size=settings.batch_size,
        seed=seed,
    )


def our_reference(problem: Problem, localization: float, target_error: float) -> tuple[float, float]:
    """The value by MALT, which has no bias of the step, until its error is this share of it; and the error."""
    torch.set_num_threads(1)
    loss = ld.behavioural(outputs_of(problem), "kl" if problem.loss == "cross_entropy" else "squared")
    settings = ld.EstimateSettings(
        sampler=ld.MALT(nbeta=problem.nbeta, localization=localization, num_steps=4),
        num_chains=2,
        num_burnin=30,
        num_draws=80,
        batch_size=128,
        target_error=target_error,
        max_draws=1280,
        seed=12345,
    )
    found = ld.estimate_llc(build(problem), loss, data_of(problem), settings=settings)
    return found.llc, found.total_error


def our_step_cost(folder: Path, settings: Settings) -> StepCost:
    """One SGLD step of one chain, the paired baseline included, beside the bare forward and backward pass."""
    torch.set_num_threads(1)
    problem = read_problem(folder)
    module, data = build(problem), data_of(problem)
    criterion = loss_of(problem)

    def loss_fn(model: Any, batch: Any) -> torch.Tensor:
        return criterion(model(batch[0]), batch[1])

    size, steps = settings.batch_size, settings.num_draws
    batch = tuple(part[:size] for part in data)
    parameters = list(module.parameters())

    def bare() -> None:
        torch.autograd.grad(loss_fn(module, batch).mean(), parameters)

    flat = FlatModel(module, loss_fn)
    kernel = ld.SGLD(settings.step_size, settings.nbeta, settings.localization)
    bare_ms, step_ms = [], []
    with flat:
        batches = make_batches(data, size, None, flat.device)
        # every fourth step is a draw and carries the loss at w*: the samples of a batch are correlated in time anyway
        chains = Chains(
            flat, batches, kernel, nbeta=settings.nbeta, num_chains=settings.num_chains, num_burnin=0,
            steps_per_draw=4, expected_draws=1,
        )  # fmt: skip
        chains.advance(2)
        bare()
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            for _ in range(steps):
                bare()
            bare_ms.append((time.perf_counter() - start) / steps)
            start = time.perf_counter()
            chains.advance(max(steps // 4, 1))
            step_ms.append((time.perf_counter() - start) / (max(steps // 4, 1) * 4 * settings.num_chains))
    return StepCost(
        tool="llc_dynamics",
        version=ld.__version__,
        problem=problem.name,
        label=settings.label,
        num_parameters=problem.num_parameters,
        batch_size=size,
        num_chains=settings.num_chains,
        bare_ms=1000 * min(bare_ms),
        step_ms=1000 * min(step_ms),
        ratio=min(step_ms) / min(bare_ms),
        import_seconds=math.nan,
        import_mb=math.nan,
        peak_mb=peak_mb(),
    )
