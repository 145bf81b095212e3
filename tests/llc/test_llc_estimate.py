"""`estimate_llc`: exact answers, honest errors, and a verdict that names what is wrong."""

import dataclasses
import json
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from estimates import estimate, result_of, run_chains, texts
from problems import NO_DATA, Vector, least_squares, quadratic, squared_error
from scipy.signal import lfilter
from torch import nn

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.finding import Finding
from llc_dynamics.llc import EstimateSettings, Thresholds, judge, judged
from llc_dynamics.llc.diagnostics import change_between_halves, monte_carlo_error, r_hat, r_hat_by_chance
from llc_dynamics.sampling import ChainTraces
from llc_dynamics.sampling.batches import make_batches
from llc_dynamics.sampling.flat_model import FlatModel


def traces_of(loss, distance=None, virial=None):
    """Chain traces made by hand; what is not given looks as in equilibrium."""
    loss = np.asarray(loss, dtype=float)
    noise = np.random.default_rng(5).standard_normal((2, *loss.shape))
    distance = 1 + 0.1 * noise[0] if distance is None else distance
    virial = 1 + 0.1 * noise[1] if virial is None else virial
    return dataclasses.replace(
        ChainTraces.empty(*loss.shape, 1),
        loss_difference=loss,
        loss_at_origin=np.ones_like(loss),
        distance=distance,
        virial=virial,
        virial_by_block=virial[..., None].astype(np.float32),
    )


def white(chains=4, draws=500, seed=0):
    return np.random.default_rng(seed).standard_normal((chains, draws))


class TestEstimate:
    def test_minibatch_regression_has_the_exact_value(self):
        data, model, curvature = least_squares()
        nbeta, gamma, step_size = 300.0, 100.0, 2e-5
        exact = float((0.5 * nbeta * curvature / (nbeta * curvature + gamma)).sum())
        result = ld.estimate_llc(
            model,
            squared_error,
            data,
            sampler=ld.SGLD(step_size, nbeta, gamma),
            num_chains=2,
            num_draws=1200,
            num_burnin=300,
            batch_size=400,
        )
        # gradient noise of variance 4 h / B in every direction heats by the factor 1 + eps nbeta^2 (4 / B) / (2 * 2)
        heating = step_size * nbeta**2 * 4 / 400 / 4
        assert heating < 0.01
        assert abs(result.llc - exact) < 4 * result.standard_error + 2 * heating * exact
        assert result.standard_error < 0.1 * exact

    def test_pairing_cuts_the_variance(self):
        data, model, _ = least_squares()
        with FlatModel(model, squared_error) as flat:
            traces = run_chains(
                flat,
                make_batches(data, 50, None, torch.device("cpu")),
                ld.SGLD(1e-5, localization=100.0),
                nbeta=300.0,
                num_chains=2,
                num_draws=500,
                num_burnin=100,
                steps_per_draw=1,
                seed=0,
            )
        unpaired = traces.loss_difference + traces.loss_at_origin
        assert traces.loss_difference.var() < unpaired.var() / 20

    def test_coverage(self):
        """The 95% interval holds the stationary value in 50 of 60 or more; a coverage of 95% fails so in 1 of 5,000."""
        curvature, nbeta, gamma, step_size = torch.tensor([1.0, 2.0, 5.0, 10.0]), 1.0, 1.0, 0.15
        a = nbeta * curvature + gamma
        exact = float((0.5 * nbeta * curvature / (a * (1 - step_size * a / 4))).sum())
        repetitions, chains = 60, 2
        # chains are independent whatever their number, so 60 repetitions of two are one run of 120
        whole = ld.estimate_llc(
            Vector(4),
            quadratic(curvature),
            NO_DATA,
            sampler=ld.SGLD(step_size, nbeta, gamma),
            num_chains=repetitions * chains,
            num_draws=60,
            num_burnin=15,
        )
        covered = 0
        for part in whole.trace.reshape(repetitions, chains, -1):
            low, high = result_of(traces_of(part)).interval(0.95)
            covered += low < exact < high
        assert covered >= 50

    def test_nbeta_defaults_to_n_over_log_n_and_never_uses_the_batch_size(self):
        data, model, _ = least_squares(samples=100)
        short = {"num_chains": 1, "num_draws": 4, "num_burnin": 0, "batch_size": 10}
        assert ld.estimate_llc(model, squared_error, data, **short).nbeta == pytest.approx(100 / math.log(100))
        given = ld.estimate_llc(model, squared_error, data, num_samples=1000, **short)
        assert given.nbeta == pytest.approx(1000 / math.log(1000))
        assert given.num_samples == 1000

    def test_the_seed_decides(self):
        data, model, _ = least_squares(samples=100)
        short = {"num_chains": 2, "num_draws": 5, "num_burnin": 2, "batch_size": 10}
        first, again, other = (ld.estimate_llc(model, squared_error, data, seed=seed, **short) for seed in (1, 1, 2))
        assert np.array_equal(first.trace, again.trace)
        assert not np.array_equal(first.trace, other.trace)

    def test_initial_loss_is_the_loss_at_the_start(self):
        data, model, _ = least_squares(samples=500)
        result = ld.estimate_llc(model, squared_error, data, num_draws=200, num_burnin=0, batch_size=50)
        exact = float(squared_error(model, data).mean().detach())
        assert abs(result.initial_loss - exact) < 4 * result.initial_loss_error

    def test_result_says_what_it_is(self):
        data, model, _ = least_squares(samples=100)
        result = ld.estimate_llc(model, squared_error, data, num_draws=20, num_burnin=5, batch_size=10)
        assert "\n" not in repr(result)
        assert "±" in repr(result)
        assert "converged" in repr(result)
        stored = json.loads(json.dumps(result.to_dict()))
        assert stored["settings"]["sampler"] == {
            "kernel": "SGLD",
            "step_size": 1e-4,
            "nbeta": None,
            "localization": 100.0,
        }
        assert stored["provenance"]["versions"]["torch"]
        assert set(result.virial_by_block) == {"weight"}
        assert result.trace.shape == result.distance_trace.shape == (4, 20)

    def test_progress_ends_at_the_total(self):
        data, model, _ = least_squares(samples=100)
        calls = []
        ld.estimate_llc(
            model, squared_error, data, num_chains=2, num_draws=20, progress=lambda *call: calls.append(call)
        )
        assert calls[-1] == (2 * 220, 2 * 220)
        assert calls == sorted(calls)


class TestVerdict:
    def test_a_sound_estimate_converges(self):
        result = result_of(traces_of(5 + white()))
        assert result.converged
        assert result.reasons == ()

    def test_stuck_chains_have_not_explored(self):
        """Three stiff directions bound the step; 300 flat ones have then hardly moved, though the loss settles."""
        curvature = torch.cat([torch.full((3,), 100.0), torch.full((300,), 1e-3)])
        result = ld.estimate_llc(
            Vector(303),
            quadratic(curvature),
            NO_DATA,
            sampler=ld.SGLD(1e-3, 10.0, 1.0),
            num_chains=2,
            num_draws=150,
            num_burnin=50,
        )
        assert not result.converged
        assert any(reason.startswith("not explored: virial ratio") for reason in texts(result.reasons))
        assert result.virial < 0.3

    def test_too_large_a_step_is_said_although_its_bias_is_taken_off(self):
        result = ld.estimate_llc(
            Vector(50), quadratic(torch.ones(50)), NO_DATA, sampler=ld.SGLD(2.0, 1.0, 0.0), num_chains=2, num_draws=200
        )
        assert any(reason.startswith("biased by the step: ") for reason in texts(result.reasons))
        assert result.virial + result.virial_heat == pytest.approx(2.0, abs=8 * result.virial_error)
        assert result.llc == pytest.approx(25.0, abs=4 * result.standard_error)

    def test_one_block_that_is_heated_or_stuck_is_named(self):
        noise = 0.05 * np.random.default_rng(0).standard_normal((2, 4, 500))
        by_block = np.stack([1 + noise[0], 0.4 + noise[1]], axis=-1).astype(np.float32)
        traces = dataclasses.replace(traces_of(5 + white()), virial_by_block=by_block)
        assert result_of(traces, ("a", "b"), dimension=10).reasons == (
            Finding("block_not_explored", "not explored in b: virial ratio 0.400"),
        )
        hot = dataclasses.replace(traces, virial_by_block=by_block[..., ::-1] * 2)
        (reason,) = texts(result_of(hot, ("a", "b"), dimension=10).reasons)
        assert reason.startswith("heated in b: virial ratio 1.99")

    def test_not_a_minimum(self):
        result = ld.estimate_llc(
            Vector(20),
            quadratic(-torch.ones(20)),
            NO_DATA,
            sampler=ld.SGLD(0.02, 1.0, 5.0),
            num_chains=2,
            num_draws=300,
        )
        assert result.llc < 0
        assert any("w* is not a minimum of the loss" in reason for reason in texts(result.reasons))

    def test_drift(self):
        drifting = result_of(traces_of(5 + white() + np.linspace(0, 1, 500)))
        assert any(reason.startswith("still drifting: the loss") for reason in texts(drifting.reasons))
        apart = result_of(traces_of(5 + white(), distance=1 + 0.01 * white(seed=1) + np.linspace(0, 0.3, 500)))
        assert any(note.startswith("still drifting: |w - w*|^2") for note in texts(apart.notes))

    def test_disagreement(self):
        offset = np.array([0, 0, 0, 3.0])[:, None]
        assert any(
            "R-hat of the loss" in reason for reason in texts(result_of(traces_of(5 + white() + offset)).reasons)
        )
        far = result_of(traces_of(5 + white(), distance=2 + 0.1 * white(seed=1) + offset))
        assert any("R-hat of |w - w*|^2" in note for note in texts(far.notes))
        # the same in all but size: a percent of the distance does not matter
        near = result_of(traces_of(5 + white(), distance=2 + 0.0003 * white(seed=1) + 0.003 * offset))
        assert near.r_hat_distance > 1.5
        assert near.converged
        assert near.notes == ()

    def test_too_few_draws(self):
        result = result_of(traces_of(9 + white(draws=4)))
        assert any(reason.startswith("too few effective draws") for reason in texts(result.reasons))

    def test_a_virial_ratio_that_is_all_noise_decides_nothing(self):
        result = result_of(traces_of(5 + white(), virial=1 + 20 * white(seed=1)))
        assert any(reason.startswith("cannot tell whether the chains explored") for reason in texts(result.reasons))

    def test_a_loss_without_effect(self):
        result = ld.estimate_llc(Vector(3), lambda m, b: (0 * m.w).sum().expand(len(b[0])), NO_DATA, num_draws=20)
        assert result.llc == 0
        assert any("no effect" in reason for reason in texts(result.reasons))

    def test_false_alarms(self):
        """Of 120 sets of four autocorrelated chains in equilibrium 7 or fewer are doubted (measured: about 1%)."""
        rng, doubted, covered = np.random.default_rng(1), 0, 0
        for _ in range(120):
            shocks = rng.standard_normal((4, 400, 20))
            shocks[:, 1:] *= math.sqrt(1 - 0.8**2)
            energy = (lfilter([1], [1, -0.8], shocks, axis=1) ** 2).sum(2)
            result = result_of(traces_of(energy / 2, energy, energy / 20), dimension=20)
            doubted += not result.converged
            low, high = result.interval()
            covered += low < 10 < high
        assert doubted <= 7
        assert 0.88 * 120 <= covered <= 118

    def test_thresholds_change_the_verdict_only(self):
        result = result_of(traces_of(white(draws=4) + 5))
        relaxed = judged(result, Thresholds(min_ess=5, max_virial_error=1.0))
        assert not result.converged
        assert relaxed.converged
        assert relaxed.llc == result.llc

    @pytest.mark.parametrize("wrong", [{"r_hat": 0.9}, {"virial_low": 1.1}, {"min_ess": -1.0}])
    def test_thresholds_out_of_range(self, wrong):
        with pytest.raises(ConfigError, match="Thresholds"):
            Thresholds(**wrong)


class TestDeadChains:
    def result(self, num_chains):
        def cliff(model, batch):
            return (torch.where(model.w > 0.4, torch.nan, 1.0) * model.w.square()).sum().expand(len(batch[0]))

        return ld.estimate_llc(
            Vector(1),
            cliff,
            NO_DATA,
            sampler=ld.SGLD(0.01, 5.0, 1.0),
            num_chains=num_chains,
            num_draws=40,
            num_burnin=10,
        )

    def test_named_and_left_out_entirely(self):
        result = self.result(8)
        dead = {failed.chain for failed in result.failed_chains}
        alive = [chain for chain in range(8) if chain not in dead]
        assert 0 < len(dead) < 8
        assert any(np.isfinite(result.trace[chain]).any() for chain in dead)
        assert result.llc == pytest.approx(result.corrected_trace[alive].mean())
        assert np.isnan(result.corrected_trace[sorted(dead)]).all()
        error = monte_carlo_error(result.corrected_trace[alive])[0]
        assert result.standard_error == pytest.approx(math.hypot(error, result.systematic_error))
        assert not result.converged
        assert all(f"chain {chain} at step" in result.reasons[0].text for chain in dead)

    def test_all_dead(self):
        model, data = nn.Linear(3, 1), (torch.ones(10, 3), torch.ones(10, 1))
        result = ld.estimate_llc(model, squared_error, data, sampler=ld.SGLD(1e5), num_draws=20)
        assert math.isnan(result.llc)
        assert math.isnan(result.standard_error)
        assert all(math.isnan(bound) for bound in result.interval())
        assert len(result.failed_chains) == 4
        assert "all chains failed" in result.reasons[-1].text
        assert "NOT converged" in repr(result)
        json.dumps(result.to_dict())


class TestDiagnostics:
    def test_standard_error_of_white_noise(self):
        error, ess = monte_carlo_error(white(4, 5000))
        assert error == pytest.approx(1 / math.sqrt(20000), rel=0.5)
        assert ess == pytest.approx(20000, rel=0.2)

    def test_standard_error_of_an_autoregression(self):
        shocks = white(4, 20000)
        trace = lfilter([1], [1, -0.9], shocks, axis=1)
        exact = 10 / math.sqrt(trace.size)  # long-run variance 1/(1 - .9)^2
        assert exact / 1.5 < monte_carlo_error(trace)[0] < exact * 1.9

    def test_chains_that_never_move_have_the_error_of_their_spread(self):
        starts = np.array([1.0, 2.0, 3.0, 4.0])
        trace = starts[:, None] + 1e-6 * white()
        error, ess = monte_carlo_error(trace)
        assert error >= starts.std(ddof=1) / 2
        assert ess < 10

    def test_single_chain_is_compared_with_itself(self):
        assert r_hat(white(1, 1000)) < 1.01
        assert r_hat(white(1, 1000) + np.linspace(0, 3, 1000)) > 1.2

    def test_r_hat_by_chance_holds_its_level(self):
        exceeded = sum(r_hat(trace) > r_hat_by_chance(trace, 0.99) for trace in white(4, 60 * 200).reshape(200, 4, 60))
        assert exceeded <= 12  # R-hat is the larger of two statistics, so 4 are expected at most

    def test_change_between_halves(self):
        change, error = change_between_halves(white() + np.repeat([0.0, 2.0], 250))
        assert abs(change - 2) < 4 * error
        assert error < 0.2

    def test_constant_and_short_traces(self):
        assert monte_carlo_error(np.ones((2, 10))) == (0.0, 20.0)
        assert r_hat(np.ones((2, 10))) == 1.0
        assert math.isnan(monte_carlo_error(np.ones((2, 3)))[0])
        assert math.isnan(monte_carlo_error(np.full((2, 10), np.nan))[0])


class TestBadInput:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"num_chains": 0},
            {"num_draws": 3},
            {"num_draws": 10.0},
            {"num_burnin": -1},
            {"steps_per_draw": 0},
            {"seed": 1.5},
        ],
    )
    def test_counts(self, wrong):
        data, model, _ = least_squares(samples=100)
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ld.estimate_llc(model, squared_error, data, **wrong)

    def test_sampler_of_another_kind(self):
        data, model, _ = least_squares(samples=100)
        with pytest.raises(ConfigError, match="sampler"):
            ld.estimate_llc(model, squared_error, data, sampler=1e-4)

    def test_two_samples(self):
        with pytest.raises(ConfigError, match="n / log n"):
            ld.estimate_llc(nn.Linear(3, 1), squared_error, (torch.zeros(2, 3), torch.zeros(2, 1)))

    def test_batch_larger_than_the_data(self):
        data, model, _ = least_squares(samples=100)
        with pytest.raises(DataError, match="101"):
            ld.estimate_llc(model, squared_error, data, batch_size=101)

    @pytest.mark.parametrize("name", ["common_noise", "bias_checks"])
    @pytest.mark.parametrize("value", ["false", None, 1])
    def test_switches_that_are_neither_on_nor_off(self, name, value):
        with pytest.raises(ConfigError, match=f"{name} must be True or False"):
            ld.EstimateSettings(**{name: value})

    @pytest.mark.parametrize("level", [0, 1, 95, "95%", None])
    def test_interval_level(self, level):
        with pytest.raises(ConfigError, match="level"):
            result_of(traces_of(white())).interval(level)

    def test_smallest_run_that_is_allowed(self):
        data, model, _ = least_squares(samples=100)
        result = ld.estimate_llc(model, squared_error, data, num_chains=1, num_draws=4, num_burnin=0)
        assert not result.converged


def test_what_is_no_everyday_setting_goes_into_settings():
    data, model, _ = least_squares(100)
    for name, value in {"max_draws": 900, "metric": "relative", "engine": "devinterp", "bias_checks": True}.items():
        said = rf"{name} is not an argument of its own: give settings=ld\.EstimateSettings\({name}=\.\.\., \.\.\.\)"
        with pytest.raises(ConfigError, match=said):
            ld.estimate_llc(model, squared_error, data, **{name: value})
        with pytest.raises(ConfigError, match=said):
            ld.llc_spectrum(model, squared_error, data, [1.0], **{name: value})
    with pytest.raises(ConfigError, match="num_drws: unknown setting of an LLC estimate; did you mean 'num_draws'"):
        ld.estimate_llc(model, squared_error, data, num_drws=3)


def test_findings_are_told_by_their_codes_and_shown_by_their_texts():
    found = result_of(traces_of(9 + white(draws=4)))
    assert "too_few_draws" in {reason.code for reason in found.reasons}
    assert all(str(reason) == reason.text and reason.text in repr(found) for reason in found.reasons)
    assert found.to_dict()["reasons"] == [{"code": each.code, "text": each.text} for each in found.reasons]
    assert judge(found, Thresholds()) == found.reasons


class TestLambdaItself:
    """Curvatures of gamma / nbeta: localisation hides half of every direction, so that lambda = d/2 = 20 reads 10."""

    SETTINGS: ClassVar = {"sampler": ld.MALT(0.2, 8.0, 8.0, num_steps=4), "num_chains": 8, "num_draws": 150}

    def test_from_the_chains_alone(self):
        found = estimate(Vector(40), quadratic(torch.ones(40)), NO_DATA, chain_method="vmap", **self.SETTINGS)
        assert abs(found.llc - 10) < 4 * found.standard_error
        assert abs(found.exponent - 0.5) < 4 * found.exponent_error
        low, high = found.lambda_interval()
        assert low < 20 < high
        assert found.interval()[1] < 20
        (note,) = [note.text for note in found.notes if note.code == "no_plateau"]
        assert f"for lambda itself the interval is {low:.3g} to {high:.3g}" in note
        assert "above gamma / nbeta = 1" in note

    def test_from_a_calibration(self):
        sized = {"lambda_above": (1.0, 0.1), "chain_method": "vmap"}
        found = estimate(Vector(40), quadratic(torch.ones(40)), NO_DATA, **sized, **self.SETTINGS)
        low, high = found.lambda_interval(0.95)
        assert low < 20 < high
        assert (low + high) / 2 == pytest.approx(2 * found.llc)
        narrow = estimate(
            Vector(40), quadratic(torch.ones(40)), NO_DATA, **(sized | {"lambda_above": (0, 0)}), **self.SETTINGS
        )
        assert narrow.lambda_interval() == narrow.interval()
        assert not [note for note in narrow.notes if note.code == "no_plateau"]

    @pytest.mark.parametrize("wrong", [(1.0,), (1.0, -0.1), "x", (1, 2, 3), (math.nan, 0.1)])
    def test_bad_shares(self, wrong):
        with pytest.raises(ConfigError, match="lambda_above"):
            EstimateSettings(lambda_above=wrong)
