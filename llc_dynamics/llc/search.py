"""How a calibration finds its settings: a ladder of localisations, then batches, draws and temperatures.

The work of an estimate is set by one number, the ratio r = sqrt(nbeta h / gamma) of the largest frequency to that of
the localisation: a step is bounded by the one, and a chain has explored after a passage of the other, some r / .35
steps. A budget of gradients therefore bounds r, and with nbeta = n / log n and the curvature h at w* it says how small
gamma can be. Whether chains are in equilibrium there, whether the value still depends on gamma, and what batches and
draws it takes, is then tried out at a few checkpoints.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from llc_dynamics.errors import ConfigError
from llc_dynamics.finding import Finding, sentences
from llc_dynamics.llc.calibration import Calibration, CalibrationOptions, Trial
from llc_dynamics.llc.curvature import Curvature, Measure
from llc_dynamics.llc.problem import Problem, losses_around
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings, Loss
from llc_dynamics.sampling import MALT, Kernel, Underdamped
from llc_dynamics.sampling.batches import Batches, FixedBatches

# Steps per radian of the stiffest direction: what the adaptation of MALT arrives at, on networks that were tried.
_STEP = 0.35
# Without a Metropolis test, and with gradient noise, smaller steps.
_UNCORRECTED_STEP = 0.15
# In units of a passage along the flat directions, 1 / sqrt(gamma).
_BURN_IN_PASSAGES = 4.0
_DRAW_PASSAGES = 7.0
# A change of the batch is a shock, gone after a quarter of a passage.
_BATCH_PASSAGES = 6.0
_STEPS_OF_TRAJECTORY = 16
_LEAST_DRAWS = 24
_LEAST_BURN_IN = 12
# Effective draws that an estimate should end up with; below 50 its own error is too uncertain (`Thresholds`).
_ENOUGH_EFFECTIVE = 75.0
# Rungs of the ladder of gamma, as shares of the ratio that the budget allows.
RUNGS = (0.25, 0.5, 1.0)
# A change below this share of the estimate, from one rung to the next, is a plateau. One rung is a factor 4 in gamma.
_PLATEAU = 0.05
_BATCH_CHANGE = 0.05
_BATCH_FACTORS = (1, 2, 4)
_TEMPERATURE_FACTORS = (1 / 3, 3.0)
# At most so many times the draws that the passages ask for, where few directions make an estimate noisy.
_MOST_DRAWS_FACTOR = 16.0
_SMALLEST_RATIO = 3.0
#: Most trials apart from those of the ladder.
MOST_TRIALS_ELSEWHERE = len(_BATCH_FACTORS) + len(_TEMPERATURE_FACTORS)

Estimates = Callable[[Sequence[tuple[Problem, EstimateSettings]]], list[LLCResult]]


class Search:
    """The state of one calibration.

    `estimates` makes an estimate for each (problem, settings), in their order; `largest` as in `Curvature`.
    """

    def __init__(
        self,
        estimates: Estimates,
        largest: Callable[[Measure], float],
        problems: list[Problem],
        batches: Batches,
        options: CalibrationOptions,
    ) -> None:
        self._estimates, self._problems, self._batches = estimates, problems, batches
        self._options = options
        self._nbeta = options.start.nbeta(batches.num_samples) if options.nbeta is None else float(options.nbeta)
        self._whole = isinstance(batches, FixedBatches) and batches.batch_size == batches.length
        self._loss: Loss = "behavioural" if all(p.loss == "behavioural" for p in problems) else "given"
        self._corrected = self._whole or self._loss == "behavioural"
        passages = _BURN_IN_PASSAGES + _DRAW_PASSAGES
        step = _STEP if self._corrected else _UNCORRECTED_STEP
        self._largest_ratio = options.gradients * step / passages
        if self._largest_ratio < _SMALLEST_RATIO:
            raise ConfigError(
                f"gradients is {options.gradients}: too few for chains to explore anything; give "
                f"{math.ceil(_SMALLEST_RATIO * passages / step)} or more"
            )
        self._wanted_error = max(_PLATEAU, options.target_error)
        self._made: dict[tuple[str, EstimateSettings], LLCResult] = {}
        self._trials: list[Trial] = []
        self._findings: list[Finding] = []
        self._gradients = 0  # of the trials
        self._curvature = Curvature(largest, options.start, self._nbeta, self._largest_ratio)

    def by_rule(self) -> Calibration:
        """What the curvature and the budget say, untried."""
        settings = self._settings(self._largest_ratio, self._options.num_chains)
        curvature = self._curvature.at(self._largest_ratio)
        self._found(
            "untried",
            f"chosen by curvature ({curvature:.3g}) and budget alone: gamma {settings.sampler.localization:.4g}; "
            "nothing was tried out",
        )
        return self._result(settings, plateau=False)

    def run(self) -> Calibration:
        """Try out, and choose."""
        ratio, plateau = self._resolution()
        settings = self._settings(ratio, self._options.num_chains)
        settings = self._enough_batch(settings, ratio)
        settings = self._enough_draws(settings)
        self._neighbours(settings, ratio)
        return self._result(settings, plateau)

    def _resolution(self) -> tuple[float, bool]:
        """The ladder of gamma: the ratio to use, and whether the estimate has a plateau there."""
        chosen, plateau = None, False
        before: list[LLCResult] = []
        rungs = [share * self._largest_ratio for share in RUNGS]
        rungs = [ratio for ratio in rungs if ratio >= _SMALLEST_RATIO] or [self._largest_ratio]
        for ratio in rungs:
            settings = self._settings(ratio, 2)
            rows = self._try("resolution", [(problem, settings) for problem in self._problems], ratio)
            against = [trial for trial in self._trials[-len(rows) :] if not trial.explored]
            if against:
                break
            steady = bool(before) and all(map(_on_a_plateau, before, rows))
            if steady and plateau:
                break  # a third rung on the plateau is of no use
            chosen, plateau, before = ratio, steady, rows
        if chosen is None:
            trial = against[0]
            if self._curvature.left_origin({reason.code for each in against for reason in each.reasons}):
                return self._resolution()
            self._found(
                "not_explored",
                f"NOT EXPLORED even at gamma {self._gamma(rungs[0]):.4g}, the largest that was tried: expect "
                f"estimates with these to say so (at {trial.place}: {sentences(trial.reasons)}). Give more "
                "gradients, or a larger batch",
            )
            return rungs[0], False
        gamma = self._gamma(chosen)
        if plateau:
            times = "twice" if self._curvature.degenerate else "four times"
            self._found("plateau", f"plateau: {times} the gamma gives the same estimate; gamma {gamma:.4g} is on it")
        else:
            self._found(
                "no_plateau",
                f"no plateau seen down to gamma {gamma:.4g}: the estimate is one at this resolution "
                f"(nbeta {self._nbeta:.4g}, gamma {gamma:.4g}), to be kept the same wherever estimates are compared",
            )
        return chosen, plateau

    def _enough_batch(self, settings: EstimateSettings, ratio: float) -> EstimateSettings:
        """The smallest batch from which twice as large ones give the same."""
        if self._whole:
            return settings
        first = size = self._batches.batch_size
        problem = self._problems[-1]
        limit = self._batches.length if isinstance(self._batches, FixedBatches) else math.inf
        sizes = [factor * first for factor in _BATCH_FACTORS if factor * first <= limit]
        pilots = [dataclasses.replace(settings, num_chains=2, batch_size=each) for each in sizes]
        # the first two are always needed, and may be made side by side
        found = self._try("batch", [(problem, pilot) for pilot in pilots[:2]], ratio)
        for before, (size, double) in enumerate(pairwise(sizes)):
            if len(found) < before + 2:
                found += self._try("batch", [(problem, pilots[before + 1])], ratio)
            if _steady(found[before], found[before + 1], _BATCH_CHANGE):
                self._found("batch_enough", f"batches of {size}: twice as large ones give the same estimate")
                return dataclasses.replace(settings, batch_size=size)
            size = double
        self._found(
            "batch_largest", f"batches of {size}, the largest that were tried; larger ones may change the estimate"
        )
        return dataclasses.replace(settings, batch_size=size)

    def _enough_draws(self, settings: EstimateSettings) -> EstimateSettings:
        """As many draws as the wanted error takes, up to a limit, and never fewer than the passages ask for."""
        target_error = self._options.target_error
        rows = [
            trial
            for trial in self._trials
            if trial.localization == settings.sampler.localization and trial.llc != 0 and math.isfinite(trial.llc)
        ]
        if not rows:
            return settings
        # trials have two chains; the square of an error goes with the inverse of all draws
        chains = 2 / settings.num_chains
        needed = max(row.draws * chains * (row.standard_error / abs(row.llc) / target_error) ** 2 for row in rows)
        effective = max(row.draws * chains * _ENOUGH_EFFECTIVE / max(row.ess, 1.0) for row in rows)
        most = _MOST_DRAWS_FACTOR * settings.num_draws
        draws = max(settings.num_draws, math.ceil(min(max(needed, effective), most)))
        expected = target_error * math.sqrt(needed / draws)
        self._found(
            "expected_error",
            f"{settings.num_chains} chains x {draws} draws: expected standard error {100 * expected:.1f}% of the "
            "estimate",
        )
        return dataclasses.replace(settings, num_draws=draws)

    def _neighbours(self, settings: EstimateSettings, ratio: float) -> None:
        """Other temperatures, for the record, at the last checkpoint."""
        problem = self._problems[-1]
        jobs = []
        for factor in _TEMPERATURE_FACTORS:
            sampler = dataclasses.replace(settings.sampler, nbeta=self._nbeta * factor)
            # a passage takes as long as before, in steps that are bounded by nbeta
            longer = max(1.0, math.sqrt(factor))
            near = dataclasses.replace(
                settings,
                sampler=sampler,
                num_chains=2,
                num_burnin=math.ceil(longer * settings.num_burnin),
                num_draws=math.ceil(longer * max(settings.num_draws // 2, _LEAST_DRAWS)),
            )
            jobs.append((problem, near))
        self._try("nbeta", jobs, ratio)
        self._trials.append(self._control(problem, settings.sampler.localization))

    def _control(self, problem: Problem, gamma: float) -> Trial:
        """nbeta times the mean loss at positions from the localisation alone: what an estimate must be far below."""
        losses = self._nbeta * losses_around(problem, gamma, self._options.start)
        self._found(
            "control", f"control: without the loss in the sampling (nbeta = 0) the same average is {losses.mean():.4g}"
        )
        nan = math.nan
        return Trial(
            "control", problem.name, 0.0, gamma, 0.0, self._batches.batch_size, float(losses.mean()),
            float(losses.std()) / math.sqrt(len(losses)), nan, nan, nan, nan, nan, float(len(losses)), len(losses), 0,
            True,
        )  # fmt: skip

    def _try(self, purpose: str, jobs: Sequence[tuple[Problem, EstimateSettings]], ratio: float) -> list[LLCResult]:
        """Make estimates, and keep them as evidence; `ratio` is that of the temperature being calibrated for."""
        jobs = list(jobs)
        results = self._make(jobs)
        # other temperatures are for the record only
        judged = enumerate(results) if purpose != "nbeta" else ()
        noisy = [number for number, result in judged if _times_too_short(result, self._wanted_error) > 1]
        for number in noisy:
            problem, settings = jobs[number]
            longer = min(1.5 * _times_too_short(results[number], self._wanted_error), _MOST_DRAWS_FACTOR)
            jobs[number] = problem, dataclasses.replace(settings, num_draws=math.ceil(longer * settings.num_draws))
        again = self._make([jobs[number] for number in noisy])
        for number, result in zip(noisy, again, strict=True):
            results[number] = result
        for (problem, settings), result in zip(jobs, results, strict=True):
            blocks = result.virial_by_block.values()
            # few draws are no fault of the resolution
            against = tuple(reason for reason in result.reasons if reason.code != "too_few_draws")
            self._trials.append(
                Trial(
                    purpose=purpose,
                    place=problem.name,
                    nbeta=result.nbeta,
                    localization=result.localization,
                    ratio=ratio * math.sqrt(result.nbeta / self._nbeta),
                    batch_size=settings.batch_size or self._batches.batch_size,
                    llc=result.llc,
                    standard_error=result.standard_error,
                    virial=result.virial,
                    lowest_virial=min(blocks),
                    highest_virial=max(blocks),
                    acceptance=result.acceptance,
                    gradient_kinetic=result.gradient_kinetic,
                    ess=result.ess,
                    draws=settings.num_draws,
                    gradients=result.num_gradients,
                    explored=not against,
                    reasons=against,
                )
            )
        return results

    def _found(self, code: str, text: str) -> None:
        self._findings.append(Finding(code, text))

    def _make(self, jobs: Sequence[tuple[Problem, EstimateSettings]]) -> list[LLCResult]:
        """The estimates themselves, counted; one that was made before is taken from there."""
        new = [(problem, settings) for problem, settings in jobs if (problem.name, settings) not in self._made]
        for (problem, settings), result in zip(new, self._estimates(new) if new else [], strict=True):
            self._made[problem.name, settings] = result
            self._gradients += settings.num_chains * result.num_gradients
        return [self._made[problem.name, settings] for problem, settings in jobs]

    def _settings(self, ratio: float, num_chains: int) -> EstimateSettings:
        gamma = self._gamma(ratio)
        sampler: Kernel
        if self._corrected:
            # where the Hessian vanishes chains wander along valleys: the whole budget for every rung
            passage = (self._largest_ratio if self._curvature.degenerate else ratio) / _STEP
            length = int(min(max(passage / 4, 4), _STEPS_OF_TRAJECTORY))
            hold = None if self._whole else math.ceil(_BATCH_PASSAGES * passage / length)
            sampler = MALT(nbeta=self._nbeta, localization=gamma, num_steps=length, updates_per_batch=hold)
            every = 1
        else:
            passage, length = ratio / _UNCORRECTED_STEP, 1
            stiffest = math.sqrt(self._nbeta * self._curvature.at(ratio) + gamma)
            sampler = Underdamped(_UNCORRECTED_STEP / stiffest, nbeta=self._nbeta, localization=gamma)
            every = max(1, min(8, int(passage / 8)))
        return EstimateSettings(
            sampler=sampler,
            num_chains=num_chains,
            num_draws=max(_LEAST_DRAWS, math.ceil(_DRAW_PASSAGES * passage / length / every)),
            num_burnin=max(_LEAST_BURN_IN, math.ceil(_BURN_IN_PASSAGES * passage / length)),
            steps_per_draw=every,
            batch_size=self._batches.batch_size,
            num_samples=self._batches.num_samples,
            seed=self._options.seed,
        )

    def _gamma(self, ratio: float) -> float:
        """Three digits are enough, and read better."""
        return float(f"{self._nbeta * self._curvature.at(ratio) / ratio**2:.3g}")

    def _result(self, settings: EstimateSettings, plateau: bool) -> Calibration:
        return Calibration(
            settings=settings,
            loss=self._loss,
            trials=tuple(self._trials),
            findings=(*self._findings, *self._curvature.findings()),
            plateau=plateau,
            num_gradients=self._gradients + self._curvature.num_gradients * len(self._problems),
        )


def _on_a_plateau(before: LLCResult, after: LLCResult) -> bool:
    """Whether two estimates agree, and are good enough for that to mean anything."""
    error = math.hypot(before.standard_error, after.standard_error)
    return error <= 1.5 * _PLATEAU * abs(after.llc) and _steady(before, after, _PLATEAU)


def _steady(before: LLCResult, after: LLCResult, change: float) -> bool:
    """Whether two estimates agree to a share of their size, as far as their errors can tell (2 standard errors)."""
    error = math.hypot(before.standard_error, after.standard_error)
    size = abs(after.llc)
    return abs(after.llc - before.llc) <= max(change * size, min(2 * error, 2 * change * size))


def _times_too_short(result: LLCResult, wanted_error: float) -> float:
    """Over its own draws those that a trial needs, for the wanted error and for its virial ratio to be judged.

    0 where that cannot be told, or where more draws would not help.
    """
    share = result.standard_error / abs(result.llc) if result.llc else math.nan
    times = (share / wanted_error) ** 2
    codes = {reason.code for reason in result.reasons}
    if codes - {"exploration_unknown", "too_few_draws"}:
        return 0.0
    if "exploration_unknown" in codes:
        times = max(times, (result.virial_error / result.thresholds.max_virial_error) ** 2)
    return times if math.isfinite(times) else 0.0
