"""Runs that stop by themselves: at a wanted error (with an error that is still valid), or when their time is up."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import estimates
import numpy as np
import pytest
from estimates import texts
from problems import NO_DATA, Vector, quadratic
from scipy import stats

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError
from llc_dynamics.llc import EstimateSettings, stopping
from llc_dynamics.llc.diagnostics import monte_carlo_error
from llc_dynamics.theory import quadratic_sgld_llc

CURVATURES = [1.0, 2.0, 5.0, 10.0]


def estimate(**settings):
    loss_fn, sampler = quadratic(CURVATURES), ld.SGLD(0.15, 1.0, 1.0)
    return estimates.estimate(Vector(4), loss_fn, NO_DATA, sampler=sampler, num_burnin=20, **settings)


@dataclass(frozen=True)
class Summary:
    llc: float
    standard_error: float
    ess_mean: float
    draws: int
    stopped: str = ""


@pytest.fixture(autouse=True)
def summaries(monkeypatch):
    """Chains that are made up say themselves what a summary of them is."""
    summarise = stopping.summarise
    told = lambda chains, settings: chains.summary() if isinstance(chains, Recorded) else summarise(chains, settings)  # noqa: E731
    monkeypatch.setattr(stopping, "summarise", told)


class Recorded:
    """Stands for chains whose draws are there already."""

    def __init__(self, draws):
        self.draws, self.num_draws, self.looks = draws, 0, []

    def advance(self, more, progress=None):  # noqa: ARG002
        self.num_draws += more
        self.looks.append(self.num_draws)

    def summary(self):
        seen = self.draws[:, : self.num_draws]
        error, ess = monte_carlo_error(seen)
        return Summary(float(seen.mean()), error, ess, self.num_draws)


def sgld_draws(repetitions, num_draws, step_size, seed):
    """Exact simulation of SGLD on the quadratic, [repetition, chain, draw]."""
    rng, h = np.random.default_rng(seed), np.array(CURVATURES)
    w, draws = np.zeros((repetitions, 4, 4)), np.empty((repetitions, 4, num_draws))
    for draw in range(-60, num_draws):
        if draw >= 0:
            draws[..., draw] = (h * w**2 / 2).sum(-1)
        w = w * (1 - step_size * (h + 1) / 2) + math.sqrt(step_size) * rng.standard_normal(w.shape)
    return draws


@pytest.mark.parametrize(("first", "step_size", "target"), [(20, 0.15, 0.1), (50, 0.05, 0.1), (50, 0.15, 0.05)])
def test_intervals_of_stopped_runs_hold_the_value(first, step_size, target):
    """95% intervals hold it in 180 of 200 or more (bar: 90%). The first has 186; without a least number 180."""
    exact = quadratic_sgld_llc(CURVATURES, 1.0, 1.0, step_size)
    settings = EstimateSettings(num_draws=first, target_error=target)
    held, ended = 0, set()
    for draws in sgld_draws(200, 16 * first, step_size, seed=0):
        chains = Recorded(draws)
        found = stopping.run_until_done(chains, settings)
        ended.add(found.stopped)
        assert chains.looks == [first * 2**look for look in range(len(chains.looks))]
        held += abs(found.llc - exact) < found.standard_error * stats.t.ppf(0.975, found.ess_mean - 1)
    assert ended == {"target_error"}
    assert 180 <= held <= 198


def test_stops_at_the_wanted_error():
    result = estimate(num_draws=40, target_error=0.1)
    assert result.stopped == "target_error"
    assert result.standard_error <= 0.1 * result.llc
    assert 40 <= result.trace.shape[1] < 640
    assert not any("stopped" in note for note in texts(result.notes))


def test_says_that_the_wanted_error_was_not_reached():
    result = estimate(num_draws=20, target_error=1e-3, max_draws=50)
    assert result.stopped == "max_draws"
    assert result.trace.shape[1] == 50
    assert any("target_error was not reached" in note for note in texts(result.notes))


def test_few_effective_draws_do_not_stop_a_run():
    few = SimpleNamespace(llc=1.0, standard_error=0.01, ess_mean=30.0)
    assert not stopping.good_enough(few, 0.05)
    assert stopping.good_enough(SimpleNamespace(**vars(few) | {"ess_mean": 300.0}), 0.05)


def test_stops_when_time_is_up(monkeypatch):
    """By a clock that advances by a second with every draw of a chain, 4 chains: 100 s hold the burn-in and 15-20."""
    now = [0.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])

    class Timed(Recorded):
        def advance(self, more, progress=None):
            now[0] += 4 * (more + (5 if not self.num_draws else 0))
            super().advance(more, progress)

    chains = Timed(sgld_draws(1, 500, 0.15, seed=1)[0])
    found = stopping.run_until_done(chains, EstimateSettings(num_draws=500, max_seconds=100))
    assert found.stopped == "max_seconds"
    assert found.draws == 20  # 25 updates of 4 s
    assert now[0] == 100


def test_a_time_that_is_too_short_still_gives_an_error():
    result = estimate(num_draws=500, max_seconds=1e-9)
    assert result.stopped == "max_seconds"
    assert result.trace.shape == (4, 4)
    assert math.isfinite(result.standard_error)
    assert any("stopped by max_seconds after 4 draws" in note for note in texts(result.notes))
    assert not result.converged


def test_enough_time_changes_nothing():
    calls = []
    timed = estimate(num_draws=60, max_seconds=3600.0, progress=lambda *call: calls.append(call))
    assert timed.stopped == "num_draws"
    assert np.array_equal(timed.trace, estimate(num_draws=60).trace)
    assert calls[-1] == (60, 60)
    assert timed.settings["max_seconds"] == 3600.0


@pytest.mark.parametrize("seconds", [0, -1.0, math.inf, math.nan])
def test_impossible_times(seconds):
    with pytest.raises(ConfigError, match="max_seconds"):
        EstimateSettings(max_seconds=seconds)
