"""lambda_hat at several resolutions: as a function of gamma, of nbeta, and over training."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llc_dynamics.errors import ConfigError
from llc_dynamics.llc.calibration import Calibration
from llc_dynamics.llc.curve import LLCCurve
from llc_dynamics.llc.estimate import estimate
from llc_dynamics.llc.point import llc_point
from llc_dynamics.llc.problem import Problem, checkpoints_of
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.sending import Sent
from llc_dynamics.llc.settings import EstimateSettings, Everyday
from llc_dynamics.llc.thresholds import Thresholds
from llc_dynamics.ranges import numbers_of
from llc_dynamics.sampling.batches import Data, make_batches
from llc_dynamics.sampling.flat_model import LossFunction
from llc_dynamics.sampling.selection import Selection
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.workers import mapped

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class LLCSpectrum:
    """lambda_hat [step, nbeta, gamma].

    Attributes
    ----------
    steps : int64 [S], checkpoints; one 0 for a model that is no checkpoint.
    nbetas : float64 [T]. localizations : float64 [G], ascending.
    results : LLCResult [S][T][G].
    values, standard_errors : float64 [S, T, G]. converged : bool [S, T, G].
    """

    steps: NDArray[np.int64]
    nbetas: NDArray[np.float64]
    localizations: NDArray[np.float64]
    results: tuple[tuple[tuple[LLCResult, ...], ...], ...]

    @property
    def values(self) -> NDArray[np.float64]:
        """The estimates."""
        return self._of(lambda result: result.llc)

    @property
    def standard_errors(self) -> NDArray[np.float64]:
        """Their standard errors."""
        return self._of(lambda result: result.standard_error)

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Whether nothing speaks against them."""
        return self._of(lambda result: result.converged).astype(bool)

    def curve(self, localization: float, nbeta: float | None = None) -> LLCCurve:
        """The curve over training at one resolution; `nbeta` may be left out if there is one only.

        Raises `ConfigError` for a resolution that was not estimated.
        """
        column = _place(self.localizations, localization, "localization")
        if nbeta is None and len(self.nbetas) > 1:
            raise ConfigError(f"nbeta must be one of {', '.join(f'{value:.4g}' for value in self.nbetas)}")
        row = 0 if nbeta is None else _place(self.nbetas, nbeta, "nbeta")
        results = {int(step): table[row][column] for step, table in zip(self.steps, self.results, strict=True)}
        return LLCCurve(results, f"LLC at gamma {localization:.4g}")

    def _of(self, what: Callable[[LLCResult], Any]) -> NDArray[Any]:
        return np.array([[[what(result) for result in row] for row in table] for table in self.results])


def llc_spectrum(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Data,
    localizations: Sequence[float],
    *,
    nbetas: Sequence[float] | None = None,
    run: Trajectory | str | Path | None = None,
    steps: Iterable[int] | None = None,
    settings: EstimateSettings | Calibration | None = None,
    name: str = "spectrum",
    parameters: Selection | None = None,
    device: str | torch.device | None = None,
    data_id: str | None = None,
    thresholds: Thresholds | None = None,
    overwrite: bool = False,
    executor: Executor | None = None,
    progress: Progress | None = None,
    **everyday: Unpack[Everyday],
) -> LLCSpectrum:
    """Estimate lambda_hat at several localisations (and temperatures), at one model or over a run.

    A chain needs a time of 1 / sqrt(gamma) to pass along a flat direction (with momentum; SGLD needs 1 / gamma). The
    burn-in and the draws that are given count for the *largest* gamma; those of a smaller one are longer in proportion.

    Parameters
    ----------
    localizations : values of gamma, any order.
    nbetas : values of nbeta; None stands for the sampler's own, or n / log n.
    run, steps : checkpoints of a run (None: all); each point is stored beside the run under `<name>-...`, and read from
        there when the call is repeated.
    data_id : a name for the data of stored points; worth giving for a function that draws samples.
    executor : where the estimates are made instead of in this process, with one thread each, as in `llc_curve`.
    others : as in `estimate_llc`.

    Raises `ConfigError` for an empty list or a value that is not positive, and what `estimate_llc` raises.
    """
    base = EstimateSettings.of(settings, everyday)
    gammas = _positive(localizations, "localizations")
    temperatures = None if nbetas is None else _positive(nbetas, "nbetas")
    batches = make_batches(data, base.batch_size, base.num_samples, torch.device("cpu"))
    betas = np.array([base.nbeta(batches.num_samples)]) if temperatures is None else temperatures
    if run is None and steps is not None:
        raise ConfigError("steps were given without the run that they are checkpoints of; give run=, too")
    stored, places = (None, [0]) if run is None else checkpoints_of(run, steps)
    problem = Problem(model, loss_fn, data, parameters, device, data_id)
    units = list(itertools.product(places, betas.tolist(), gammas.tolist()))

    def estimated(unit: tuple[int, float, float]) -> LLCResult:
        step, nbeta, gamma = unit
        longer = (float(gammas[-1]) / gamma) ** (0.5 if base.sampler.has_momentum else 1.0)
        own = dataclasses.replace(
            base,
            sampler=dataclasses.replace(base.sampler, nbeta=nbeta, localization=gamma),
            num_burnin=math.ceil(base.num_burnin * longer),
            num_draws=math.ceil(base.num_draws * longer),
        )
        if stored is None:
            return estimate(problem, own, thresholds)
        own_name = f"{name}-gamma-{gamma:.6g}-nbeta-{nbeta:.6g}"
        return llc_point(stored, step, problem, own, name=own_name, overwrite=overwrite, thresholds=thresholds)

    done = itertools.count(1)
    found = mapped(
        Sent(estimated, [problem if stored is None else problem.at(stored, places[0])]),
        units,
        executor,
        lambda *_: None if progress is None else progress(next(done), len(units)),
    )
    return LLCSpectrum(
        np.array(places, dtype=np.int64), betas, gammas, _in_pieces(_in_pieces(found, len(gammas)), len(betas))
    )


def _in_pieces(values: Sequence[Any], size: int) -> tuple[Any, ...]:
    return tuple(tuple(values[start : start + size]) for start in range(0, len(values), size))


def _positive(values: Sequence[float], name: str) -> NDArray[np.float64]:
    found = np.unique(numbers_of(name, values))
    if not found.size or not (np.isfinite(found).all() and found[0] > 0):
        raise ConfigError(f"{name} must be one or more positive numbers, got {values}")
    return found


def _place(values: NDArray[np.float64], wanted: float, name: str) -> int:
    near = np.flatnonzero(np.isclose(values, wanted, rtol=1e-6))
    if not near.size:
        raise ConfigError(f"{name} {wanted} was not estimated; there are {', '.join(f'{v:.4g}' for v in values)}")
    return int(near[0])
