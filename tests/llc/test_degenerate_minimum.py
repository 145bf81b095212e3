"""w* where the Hessian vanishes: a curvature there is rounding, and settings come from what chains meet."""

import math

import pytest
import torch
from estimates import codes, estimate
from problems import NO_DATA, Vector, outputs, quadratic, squared_error
from torch import nn

import llc_dynamics as ld
from llc_dynamics.llc import EstimateSettings
from llc_dynamics.llc.curvature import largest_curvature_of
from llc_dynamics.llc.problem import Problem
from llc_dynamics.theory import NormalCrossing, Quadratic, localized_normal_crossing_llc

ROWS = (torch.zeros(4, 1),)
BEHAVIOURAL = ld.behavioural(outputs)
NBETA = 900.0


class Quartics(nn.Module):
    """Outputs w_i^2: the behavioural loss is the mean of w_i^4 over d directions."""

    def __init__(self, size):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size))

    def forward(self, x):
        return self.w.square().expand(len(x), -1)


class Factors(nn.Module):
    """W_2 W_1 at zero, [3, 4] of inner width 2."""

    def __init__(self, bias=False):
        super().__init__()
        self.first, self.second = nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=bias)
        for parameter in self.parameters():
            parameter.data.zero_()

    def forward(self, x):
        return self.second(self.first(x))


INPUTS = (torch.randn(200, 4, generator=torch.Generator().manual_seed(5)),)


def curvature(model, data, loss=BEHAVIOURAL, batch_size=None):
    return largest_curvature_of(Problem(model, loss, data), EstimateSettings(batch_size=batch_size), NBETA)


class TestCurvatureAtTheMinimum:
    @pytest.mark.parametrize(
        ("model", "data"),
        [
            (NormalCrossing([2]), ROWS),
            (NormalCrossing([1, 1]), ROWS),
            (NormalCrossing([1, 2, 3]), ROWS),
            (Quartics(5), ROWS),
            (Factors(), INPUTS),
        ],
    )
    def test_there_is_none(self, model, data):
        assert curvature(model, data) == 0

    @pytest.mark.parametrize("curvatures", [[1e-6], [1.0, 0.0], [5.0] * 30])
    def test_there_is_one(self, curvatures):
        assert curvature(Quadratic(curvatures), ROWS) == pytest.approx(max(curvatures) / len(curvatures), rel=0.01)

    def test_a_slope_of_the_batch_is_no_missing_curvature(self):
        y = 3 * torch.randn(200, 1, generator=torch.Generator().manual_seed(1))
        loss = lambda model, batch: (model.w - batch[0]).square().sum(1)  # noqa: E731
        assert curvature(Vector(1), (y,), loss, batch_size=10) == pytest.approx(2.0, rel=0.01)


class TestCalibration:
    def test_an_exact_value(self):
        found = ld.calibrate(Quartics(12), BEHAVIOURAL, ROWS, nbeta=NBETA, num_samples=1000, gradients=400)
        assert "degenerate" in codes(found.findings)
        trial = found.trials[0]
        assert trial.explored, trial.reasons
        result = ld.estimate_llc(Quartics(12), BEHAVIOURAL, ROWS, settings=found, seed=9)
        exact = 12 * localized_normal_crossing_llc([2], NBETA / 12, result.localization)
        assert abs(result.llc - exact) < 4 * result.standard_error
        assert 0.7 * 3 < exact < 3  # near d/4, the value without localisation

    def test_factors_at_zero(self):
        """By the rule alone: the value of HMC at the same gamma, below the learning coefficient."""
        rule = {"num_samples": 10_000, "gradients": 800, "trials": False}
        found = ld.calibrate(Factors(), BEHAVIOURAL, INPUTS, **rule)
        assert codes(found.findings) == ["untried", "degenerate"]
        gamma = found.settings.sampler.localization
        assert 0.1 < gamma < 100
        result = ld.estimate_llc(Factors(), BEHAVIOURAL, INPUTS, settings=found, seed=9)
        long = {"num_draws": 150, "num_burnin": 40, "batch_size": 200, "num_samples": 10_000}
        reference = estimate(
            Factors(), BEHAVIOURAL, INPUTS, sampler=ld.HMC(localization=gamma, num_steps=8), num_chains=2, **long
        )
        assert abs(result.llc - reference.llc) < 4 * math.hypot(result.standard_error, reference.standard_error)
        assert 0.6 < result.llc / ld.theory.reduced_rank_llc(4, 2, 3, 0) < 1.1

    def test_a_given_loss_whose_noise_gives_w_star_some_curvature(self):
        """Between the factors, from the targets' noise: SGLD explodes on minibatches, MALT on all the data does not."""
        data = (*INPUTS, 0.03 * torch.randn(200, 3, generator=torch.Generator().manual_seed(2)))
        assert 0 < curvature(Factors(), data, squared_error, batch_size=50) < 0.1
        found = ld.calibrate(
            Factors(), squared_error, data, num_samples=10_000, batch_size=50, gradients=700, target_error=0.3
        )
        assert found.settings.batch_size == 200
        assert isinstance(found.settings.sampler, ld.MALT)
        result = ld.estimate_llc(Factors(), squared_error, data, settings=found, seed=9)
        sampler = ld.MALT(nbeta=result.nbeta, localization=result.localization, num_steps=8)
        whole = {"num_draws": 150, "num_burnin": 40, "batch_size": 200, "num_chains": 2}
        reference = estimate(Factors(), squared_error, data, sampler=sampler, **whole)
        assert abs(result.llc - reference.llc) < 4 * math.hypot(result.standard_error, reference.standard_error)

    def test_what_is_regular_is_calibrated_as_before(self):
        found = ld.calibrate(Quadratic([4.0] * 8), BEHAVIOURAL, ROWS, num_samples=1000, trials=False)
        ratio = math.sqrt(1000 / math.log(1000) * 0.5 / found.settings.sampler.localization)
        assert ratio == pytest.approx(4000 * 0.35 / 10, rel=0.05)
        assert codes(found.findings) == ["untried"]


class TestFirstStep:
    """Without curvature at w*, and hardly any localisation, it would be infinite, and a burn-in too short for it."""

    @pytest.mark.parametrize("kernel", [ld.MALT(localization=1e-8, num_steps=4), ld.HMC(localization=0.0, num_steps=4)])
    @pytest.mark.parametrize("model", [Quartics(6), Factors()])
    def test_of_a_trajectory(self, kernel, model):
        data = INPUTS if isinstance(model, Factors) else ROWS
        settings = {"num_draws": 20, "num_burnin": 10, "num_chains": 2, "num_samples": 1000}
        found = estimate(model, BEHAVIOURAL, data, sampler=kernel, batch_size=4, **settings)
        assert 1e-3 < found.step_size < 1
        assert found.acceptance > 0.3
        assert "never_moved" not in codes(found.reasons)

    def test_of_underdamped(self):
        sampler = ld.Underdamped(nbeta=NBETA, localization=1e-8)
        found = estimate(Factors(), BEHAVIOURAL, INPUTS, sampler=sampler, num_draws=8, num_burnin=0)
        assert not found.failed_chains
        assert 0 < found.distance_trace[:, -1].min() < found.distance_trace.max() < 14

    def test_is_that_of_the_curvature_where_there_is_one(self):
        sampler = ld.MALT(nbeta=2.0, localization=1.0, num_steps=4)
        found = estimate(Vector(2), quadratic([12.0, 1.0]), NO_DATA, sampler=sampler, num_draws=4, num_burnin=0)
        assert found.step_size == pytest.approx(0.3 / 5, rel=0.01)
