"""How a calibration finds its settings: a ladder of resolutions from coarse to fine, and the rung that serves best.

A budget of gradients bounds r = sqrt(nbeta h / gamma) (see `plan`), and with nbeta = n / log n and the curvature h at
w* it says how small gamma can be. Whether chains are in equilibrium there, whether the value still depends on gamma,
and what batches and draws it takes, is tried out at a few checkpoints.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from llc_dynamics.errors import ConfigError, some_of
from llc_dynamics.finding import Finding, sentences
from llc_dynamics.llc import advice
from llc_dynamics.llc.calibration import NOISE, Calibration, CalibrationOptions, Trial
from llc_dynamics.llc.curvature import Curvature, Measure, largest_curvature_of
from llc_dynamics.llc.plan import Plan, plan_malt, plan_sgld
from llc_dynamics.llc.problem import Problem
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.rungs import Rung, Tuning, above, growing, steady
from llc_dynamics.llc.settings import EstimateSettings, Loss
from llc_dynamics.sampling import SGLD
from llc_dynamics.sampling.batches import Batches, FixedBatches

# The ladder: one rung is a factor 4 in gamma.
RATIOS = tuple(4.0 * 2**rung for rung in range(9))
_SMALLEST_RATIO = 3.0
# All trials together take at most so many times `gradients` for each checkpoint, on so many chains.
_MOST_WORK, _TRIAL_CHAINS = 5, 2
# eps (nbeta h + gamma) of SGLD, stable below 4, whose bias is taken off; smaller where batches are noisy at w*.
_STEP, _STEP_OF_NOISE, _SMALLEST_STEP = 1.0, 0.6, 0.02
# SGLD is used where an estimate by it explores in this share of the budget.
_SGLD_SHARE = 0.5
# Trials go on to the wanted error for this share of the budget, if that is more than exploring takes, and for so many
# times as long at most.
_TRIAL_SHARE, _MOST_TIMES = 0.125, 4
# Where the estimate grows with every rung, a finer resolution is another one, not a better one: not worth more than
# this share of the budget; and as not all checkpoints were tried, each is to have so many times the effective draws.
_SHARE, _EFFECTIVE = 0.25, 2.0
# So many times the draws that the error of the trials asks for, which is itself uncertain.
_MARGIN = 1.2
# SGLD's correction, as a share of the estimate, above which the step is shortened, and what it is to become.
_CORRECTION, _WANTED_CORRECTION = 0.35, 0.15
_TOO_HOT = {"heated", "block_heated", "biased", "chains_failed", "all_chains_failed"}
# Estimates at all points of a curve are to take so many times `max_seconds` of one core at most.
_TIMES_OF_CURVE = 4
# An error that is not given up for time.
_TOLERABLE = 0.1
# Reasons that leave a checkpoint out where the loss is a given one; so many of those are named.
_NO_MINIMUM, _MOST_NAMES = {"not_a_minimum", "left_well"}, 3
# The largest batch, over the first one, that is tried; a given loss of few batches of data is sampled on all of it.
_LARGEST_BATCH, _FEW_BATCHES = 16, 8
# A batch is too small if one so many times as large has less than this share of its largest curvature.
_LARGER, _SPANS = 4, 0.7

Estimates = Callable[[Sequence[tuple[Problem, EstimateSettings]]], list[tuple[LLCResult, float]]]


class Search:
    """The state of one calibration.

    `estimates` makes an estimate for each (problem, settings), in their order, and says how many seconds it took;
    `largest` as in `Curvature`; `cheap_batch` is the largest batch of which SGLD is to take a gradient, where the loss
    allows; `num_points` is how many estimates the settings are for.
    """

    def __init__(
        self,
        estimates: Estimates,
        largest: Callable[[Measure], float],
        problems: Sequence[Problem],
        batches: Batches,
        options: CalibrationOptions,
        cheap_batch: int,
        num_points: int = 1,
    ) -> None:
        self._estimates, self._problems, self._options = estimates, list(problems), options
        self._num_problems = len(self._problems)  # also those that are left out later
        self._num_points = num_points
        self._deadline = math.inf if options.max_seconds is None else time.monotonic() + options.max_seconds
        self._nbeta = options.start.nbeta(batches.num_samples) if options.nbeta is None else float(options.nbeta)
        self._length = batches.length if isinstance(batches, FixedBatches) else math.inf
        self._loss: Loss = "behavioural" if all(p.loss == "behavioural" for p in problems) else "given"
        first = batches.batch_size
        if self._loss == "given" and options.batch_size is None and self._length <= _FEW_BATCHES * first:
            first = int(self._length)
        self._first_batch = first
        self._start = dataclasses.replace(options.start, num_samples=batches.num_samples)
        given = self._loss == "given"
        expensive = not given and cheap_batch < first
        spanning = first if expensive else self._spanning_batch()
        fresh = cheap_batch if expensive else spanning if given else first
        self._noisy = given and spanning < self._length
        # SGLD has a new batch for every gradient, and its noise is taken off; a batch that is held must span the
        # directions, and a given loss is to have little noise
        self._tuning = Tuning(
            step=_STEP_OF_NOISE if self._noisy else _STEP,
            fresh_batch=fresh,
            held_batch=spanning,
        )
        self._trials: list[Trial] = []
        self._findings: list[Finding] = []
        self._gradients = 0  # of all chains of all trials
        self._seconds: dict[tuple[type, int | None], float] = {}  # of one gradient, by kernel and batch
        self._curvature: Curvature | None = None
        least = self._plan(_SMALLEST_RATIO, self._tuning)
        needed = least.gradients(least.least)
        if options.gradients < needed:
            raise ConfigError(
                f"gradients is {options.gradients}: too few for chains to explore anything; give {needed} or more"
            )
        self._finest = self._finest_ratio()
        settings = dataclasses.replace(self._start, batch_size=fresh if expensive else spanning)
        self._curvature = Curvature(largest, settings, self._nbeta, self._finest)

    def by_rule(self) -> Calibration:
        """What the curvature and the budget say, untried."""
        plan = self._plan(self._finest, self._tuning)
        self._found(
            "untried",
            f"chosen by curvature ({self._curvature_at(self._finest):.3g}) and budget alone: gamma "
            f"{plan.sampler.localization:.4g}; nothing was tried out",
        )
        return self._result(self._settings(plan, self._tuning), plateau=False)

    def run(self) -> Calibration:
        """Try out, and choose."""
        rungs, failed, ended = self._climb()
        if not rungs:
            return self._unexplored(failed, ended)
        target = self._options.target_error
        most = [self._most(rung) for rung in rungs]
        grows = len(rungs) > 1 and growing(*rungs[-2:])
        share, ess = (_SHARE, _EFFECTIVE) if grows else (1.0, _MARGIN)
        wanted = [rung.draws_for(target, settings, ess) for rung, settings in zip(rungs, most, strict=True)]
        errors = [max(rung.errors(settings)) for rung, settings in zip(rungs, most, strict=True)]
        enough = [place for place, rung in enumerate(rungs) if self._within(rung, _MARGIN * wanted[place], share)]
        settled = [place for place in enough if rungs[place].settled]
        chosen = (settled or enough)[-1] if enough else errors.index(min(errors))
        # neither the resolution before nor any finer one says anything else
        pairs = pairwise(rungs[max(chosen - 1, 0) :])
        plateau = rungs[-1].complete or (chosen > 0 and all(steady(*pair) for pair in pairs))
        least = self._plan(rungs[chosen].ratio, rungs[chosen].tuning).least
        draws = min(max(least, math.ceil(_MARGIN * min(wanted[chosen], 1e9))), most[chosen].num_draws)
        settings = dataclasses.replace(most[chosen], num_draws=draws, lambda_above=above(rungs, chosen))
        gamma = self._gamma(rungs[chosen].ratio)
        others = [self._gamma(rung.ratio) for rung in rungs if rung is not rungs[chosen]]
        self._findings.append(
            advice.plateau(gamma, self._nbeta) if plateau else advice.no_plateau(gamma, self._nbeta, others)
        )
        if failed is not None:
            gamma, (place, reason) = self._gamma(failed.ratio), self._against(failed)[0]
            name = self._problems[place].name
            self._found("finer_not_explored", f"gamma {gamma:.4g} takes more than this budget (at {name}: {reason})")
        if ended is not None:
            self._findings.append(ended)
        self._findings.append(advice.expected_error(rungs[chosen], settings, target))
        return self._result(settings, plateau)

    def _climb(self) -> tuple[list[Rung], Rung | None, Finding | None]:
        """The rungs at which chains explore; the first at which they do not; and why the ladder ended otherwise."""
        assert self._curvature is not None
        rungs: list[Rung] = []
        ratios = [ratio for ratio in RATIOS if ratio <= self._finest] or [self._finest]
        if self._curvature.degenerate:  # each rung takes the whole budget
            ratios = [self._finest / 2, self._finest]
        for ratio in ratios:
            rung, ended = self._tried(ratio)
            if rung is None:
                return rungs, None, ended
            if not rungs:
                rung = self._with_minimum(rung)
            codes = {reason.code for _, reason in self._against(rung)}
            if codes:
                if not rungs and self._curvature.left_origin(codes):
                    return self._climb()
                return rungs, rung, None
            rungs.append(rung)
            if rung.complete:
                break
        return rungs, None, None

    def _against(self, rung: Rung) -> list[tuple[int, Finding]]:
        """What speaks against estimates at this resolution with all of the budget."""
        return rung.against(self._most(rung))

    def _with_minimum(self, rung: Rung) -> Rung:
        """The rung, and the search from here on, without checkpoints at which w* is no minimum of the given loss.

        All of them stay where that is so of all.
        """
        lost = [{reason.code for reason in row.reasons} & _NO_MINIMUM for row in rung.rows]
        if self._loss == "behavioural" or not any(lost) or all(lost):
            return rung
        names = [problem.name for problem, codes in zip(self._problems, lost, strict=True) if codes]
        self._found(
            "no_minimum",
            f"w* is no minimum of the given loss at {some_of(names, _MOST_NAMES)}, so that estimates say so there, and "
            "at checkpoints like it; with ld.behavioural(...) every checkpoint is one",
        )
        self._problems = [problem for problem, codes in zip(self._problems, lost, strict=True) if not codes]
        return dataclasses.replace(
            rung, rows=tuple(row for row, codes in zip(rung.rows, lost, strict=True) if not codes)
        )

    def _within(self, rung: Rung, draws: float, share: float) -> bool:
        """Whether so many draws, and the least that the rung takes, are within a share of the budget."""
        plan = self._plan(rung.ratio, rung.tuning)
        budget = min(share * self._options.gradients, self._affordable(rung.settings))
        return draws < math.inf and plan.gradients(max(math.ceil(draws), plan.least)) <= budget

    def _most(self, rung: Rung) -> EstimateSettings:
        """Of estimates at this rung with all of the budget: what the curve can afford, or what convergence takes."""
        plan = self._plan(rung.ratio, rung.tuning)
        settings = self._settings(plan, rung.tuning)
        needed = _MARGIN * rung.draws_for(max(_TOLERABLE, self._options.target_error), settings)
        least = plan.gradients(max(plan.least, math.ceil(min(needed, settings.num_draws))))
        budget = min(self._options.gradients, max(self._affordable(rung.settings), least))
        return dataclasses.replace(settings, num_draws=plan.draws_within(budget))

    def _affordable(self, settings: EstimateSettings) -> float:
        """Gradients of a chain that leave the curve within its time."""
        seconds = self._seconds[type(settings.sampler), settings.batch_size]
        most = math.inf if self._options.max_seconds is None else _TIMES_OF_CURVE * self._options.max_seconds
        return most / (self._num_points * self._options.num_chains * seconds) if self._num_points > 1 else math.inf

    def _tried(self, ratio: float) -> tuple[Rung | None, Finding | None]:
        """The rung, with batch and step that serve it; or why it was not tried."""
        while True:
            plan = self._plan(ratio, self._tuning)
            gamma, least = plan.sampler.localization, plan.least
            work = _TRIAL_CHAINS * len(self._problems) * plan.gradients(least)
            if self._gradients + work > _MOST_WORK * self._options.gradients * len(self._problems):
                return None, Finding("budget", f"the trials ended with their budget, before gamma {gamma:.4g}")
            if self._trials and time.monotonic() + work * min(self._seconds.values()) > self._deadline:
                return None, Finding("out_of_time", f"the trials ended after max_seconds, before gamma {gamma:.4g}")
            longer = min(_MOST_TIMES * least, plan.draws_within(_TRIAL_SHARE * self._options.gradients))
            settings = dataclasses.replace(
                self._settings(plan, self._tuning, least),
                num_chains=_TRIAL_CHAINS,
                target_error=max(0.05, self._options.target_error),
                max_draws=max(least, longer),
            )
            rung = Rung(ratio, self._tuning, settings, tuple(self._made(settings, ratio)))
            if not self._adjusted(rung):
                return rung, None

    def _adjusted(self, rung: Rung) -> bool:
        """Whether step or batch were changed for what this rung showed, so that it must be tried again."""
        rows = [row for row in rung.rows if math.isfinite(row.llc) and row.llc]
        if isinstance(rung.settings.sampler, SGLD):
            share = max((row.sgld_bias / abs(row.llc) for row in rows), default=math.inf)
            if not (share > _CORRECTION or {each.code for row in rung.rows for each in row.reasons} & _TOO_HOT):
                return False
            step = self._tuning.step * min(max(_WANTED_CORRECTION / share if share > 0 else 0.0, 0.25), 0.5)
            self._tuning = dataclasses.replace(self._tuning, step=step)
            return step >= _SMALLEST_STEP and self._fits(self._plan(rung.ratio, self._tuning))
        share = max((row.systematic_error / abs(row.llc) for row in rows), default=0.0)
        batch, wanted = self._tuning.held_batch, self._options.target_error / 1.5
        if share <= wanted or batch >= self._largest_batch:
            return False
        # the error of a batch goes with its inverse
        batch = int(min(2 ** math.ceil(math.log2(share / wanted)) * batch, self._largest_batch))
        self._tuning = dataclasses.replace(self._tuning, held_batch=batch)
        return True

    def _made(self, settings: EstimateSettings, ratio: float) -> list[LLCResult]:
        """Estimates at all checkpoints, kept as evidence."""
        found = self._estimates([(problem, settings) for problem in self._problems])
        kernel = type(settings.sampler)
        work = sum(settings.num_chains * result.num_gradients for result, _ in found)
        self._gradients += work
        self._seconds[kernel, settings.batch_size] = sum(seconds for _, seconds in found) / work
        for problem, (result, _) in zip(self._problems, found, strict=True):
            self._trials.append(Trial.of(result, problem.name, kernel.__name__, ratio))
        return [result for result, _ in found]

    # What an estimate takes.

    def _spanning_batch(self) -> int:
        """The first batch, or a larger one: few samples, in many directions, have too large a curvature in some."""
        size, before = self._first_batch, self._curvature_of(self._first_batch)
        while size < self._largest_batch:
            larger = int(min(_LARGER * size, self._largest_batch))
            after = self._curvature_of(larger)
            if not 0 < after < _SPANS * before:
                break
            size, before = larger, after
        return size

    @property
    def _largest_batch(self) -> float:
        return min(self._length, _LARGEST_BATCH * self._first_batch)

    def _curvature_of(self, batch_size: int) -> float:
        settings = dataclasses.replace(self._start, batch_size=batch_size)
        return largest_curvature_of(self._problems[-1], settings, self._nbeta)

    def _plan(self, ratio: float, tuning: Tuning) -> Plan:
        """Kernel and lengths at a resolution."""
        gamma = self._gamma(ratio)
        by_sgld = plan_sgld(self._nbeta, gamma, ratio, tuning.step)
        degenerate = self._curvature is not None and self._curvature.degenerate
        # where the Hessian vanishes chains wander along valleys: the whole budget for every rung
        whole = tuning.held_batch >= self._length
        by_malt = plan_malt(self._nbeta, gamma, self._finest if degenerate else ratio, whole)
        cheap = by_sgld.gradients(by_sgld.least) <= _SGLD_SHARE * self._options.gradients
        return (
            by_sgld if self._noisy or not (degenerate or self._fits(by_malt)) or (cheap and not degenerate) else by_malt
        )

    def _fits(self, plan: Plan) -> bool:
        return plan.gradients(plan.least) <= self._options.gradients

    def _finest_ratio(self) -> float:
        """The largest r that the budget allows, to 1%."""
        ratio = _SMALLEST_RATIO
        while self._fits(self._plan(1.01 * ratio, self._tuning)):
            ratio *= 1.01
        return ratio

    def _gamma(self, ratio: float) -> float:
        """Three digits are enough, and read better."""
        return float(f"{self._nbeta * self._curvature_at(ratio) / ratio**2:.3g}")

    def _curvature_at(self, ratio: float) -> float:
        return 1.0 if self._curvature is None else self._curvature.at(ratio)  # 1: only costs are asked for

    def _settings(self, plan: Plan, tuning: Tuning, draws: int | None = None) -> EstimateSettings:
        """Of an estimate; None stands for as many draws as the budget allows."""
        number = plan.draws_within(self._options.gradients) if draws is None else draws
        return dataclasses.replace(
            self._start,
            sampler=plan.sampler,
            num_draws=number,
            num_burnin=plan.num_burnin,
            steps_per_draw=plan.steps_per_draw,
            batch_size=tuning.fresh_batch if isinstance(plan.sampler, SGLD) else tuning.held_batch,
            target_error=None,
        )

    # What was found.

    def _found(self, code: str, text: str) -> None:
        self._findings.append(Finding(code, text))

    def _unexplored(self, failed: Rung | None, ended: Finding | None) -> Calibration:
        """Without a rung at which chains explore."""
        if ended is not None:
            self._findings.append(ended)
        if failed is None:
            return self.by_rule()
        against = self._against(failed)
        settings = self._most(failed)
        what = "TOO FEW DRAWS" if {reason.code for _, reason in against} <= NOISE else "NOT EXPLORED"
        self._found(
            "not_explored",
            f"{what} even at gamma {settings.sampler.localization:.4g}, the largest that was tried: expect "
            f"estimates with these to say so (at {self._problems[against[0][0]].name}: "
            f"{sentences([reason for _, reason in against])}). Give more gradients, or a larger batch",
        )
        return self._result(settings, plateau=False)

    def _result(self, settings: EstimateSettings, plateau: bool) -> Calibration:
        assert self._curvature is not None
        self._findings += self._curvature.findings()
        if (settings.batch_size or 0) > self._first_batch:
            self._found(
                "batch",
                f"batches of {settings.batch_size}: smaller ones show too few directions, or leave too large an error",
            )
        if self._noisy:
            self._findings.append(advice.GIVEN_LOSS)
        seconds = self._seconds.get((type(settings.sampler), settings.batch_size), math.nan)
        seconds *= settings.num_chains * self._gradients_of(settings)
        if math.isfinite(seconds):
            self._findings.append(advice.cost(seconds, self._num_points))
        return Calibration(
            settings=settings,
            loss=self._loss,
            trials=tuple(self._trials),
            findings=tuple(self._findings),
            plateau=plateau,
            num_gradients=self._gradients + self._curvature.num_gradients * self._num_problems,
            seconds=seconds,
        )

    def _gradients_of(self, settings: EstimateSettings) -> int:
        """Gradients of a chain."""
        updates = settings.num_burnin + settings.num_draws * settings.steps_per_draw
        return updates * settings.sampler.gradients_per_update
