"""One test for each defect that was reproduced in devinterp 2.0.1: each would fail if we had it, too.

| defect there | held here, or by a test elsewhere (`ELSEWHERE`, looked up so that the list cannot rot) |
|---|---|
| burn-in is averaged in | `test_burn_in_is_in_no_average` |
| a cache that compares settings only | `TestStoredPoints`; settings, data, loss, weights, parameters elsewhere |
| a chain that dies is averaged from its steps before, unflagged | `test_a_dead_chain_is_in_no_average_and_flagged` |
| a thermostat that never moves its momentum | `test_momentum_moves` |
| RMSprop's bias does not vanish with the step | elsewhere |
| updates in the model's precision | `test_bfloat16_weights_have_the_value_of_float32_ones` |
| chains share minibatches, so the spread between runs is not the reported error | `test_reported_error_is_the_spread` |
| global random seeds are overwritten | elsewhere |
| BatchNorm statistics changed, dropout on | `test_the_loss_at_the_start_is_that_of_evaluation`, and elsewhere |
| float features are truncated to integers | `test_data_arrive_as_they_are` |
| a batch larger than the data is a bare StopIteration | elsewhere |
| a negative value is not flagged | elsewhere |
"""

import ast
import copy
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from problems import NO_DATA, Vector, regression, squared_error
from torch import nn

import llc_dynamics as ld
from llc_dynamics import theory
from llc_dynamics.errors import ConfigError
from llc_dynamics.llc import EstimateSettings, Problem, llc_point
from llc_dynamics.llc.diagnostics import monte_carlo_error
from llc_dynamics.theory import Quadratic, potential_data
from llc_dynamics.theory import squared_error as potential_loss

ELSEWHERE = [
    "sampling/test_sampling_engine.py::test_burn_in_is_not_recorded_and_draws_are_steps_apart",
    "llc/test_llc_curve.py::test_another_computation_under_the_same_name_is_refused",
    "llc/test_llc_curve.py::test_a_loss_that_differs_only_away_from_the_start_is_noticed",
    "llc/test_llc_curve.py::test_functions_are_told_apart_by_what_they_sample",
    "llc/test_llc_curve.py::test_other_weights_are_noticed",
    "llc/test_llc_curve.py::test_another_choice_of_parameters_is_noticed",
    "llc/test_llc_estimate.py::TestDeadChains::test_named_and_left_out_entirely",
    "sampling/test_sampling_kernels.py::TestRMSprop::test_the_bias_vanishes_with_the_step",
    "sampling/test_sampling_kernels.py::TestRMSprop::test_a_preconditioner_that_keeps_changing_is_biased_at_any_step",
    "sampling/test_sampling_engine.py::test_low_precision_weights_are_sampled_in_float32",
    "sampling/test_sampling_engine.py::test_a_chain_does_not_depend_on_how_many_there_are",
    "sampling/test_sampling_engine.py::test_global_generators_are_untouched_and_without_influence",
    "sampling/test_sampling_engine.py::test_the_callers_model_comes_back_untouched",
    "sampling/test_sampling_engine.py::test_sampling_is_in_evaluation_mode_and_sees_the_buffers_as_given",
    "llc/test_llc_estimate.py::TestBadInput::test_batch_larger_than_the_data",
    "llc/test_llc_estimate.py::TestVerdict::test_not_a_minimum",
]


@pytest.mark.parametrize("test", ELSEWHERE)
def test_elsewhere(test):
    file, *place = test.split("::")
    inside = ast.parse((Path(__file__).parents[1] / file).read_text())
    for name in place:
        (inside,) = [each for each in inside.body if getattr(each, "name", None) == name]


def test_burn_in_is_in_no_average():
    """Started at w*, the first steps are far too low, and so would be an average over them."""
    model = Quadratic([1.0] * 1000)
    result = ld.estimate_llc(
        model,
        potential_loss,
        potential_data(model, 4),
        sampler=ld.SGLD(0.1, 1.0, 0.0),
        num_chains=4,
        num_draws=60,
        num_burnin=60,
    )
    exact = theory.quadratic_sgld_llc([1.0] * 1000, 1.0, 0.0, 0.1)
    # E|w|^2 comes up as 1 - exp(-.1 t): over all 120 steps it would average 8% less
    assert abs(result.llc - exact) < 4 * result.standard_error < 0.075 * exact


class TestStoredPoints:
    short: ClassVar = {"sampler": ld.SGLD(1e-4), "num_chains": 2, "num_draws": 8, "num_burnin": 2, "batch_size": 16}

    @pytest.fixture
    def run(self, tmp_path):
        model = self.network(nn.Tanh())
        with ld.TrajectoryWriter(tmp_path / "run", model, config={}) as writer:
            for step in range(4):
                writer.record(step, metrics={"loss": 0.0})
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.mul_(0.5)
        return tmp_path / "run"

    @staticmethod
    def network(activation):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 6), activation, nn.Linear(6, 1))

    def test_checkpoints_under_one_name_have_an_estimate_each(self, run):
        model, data = self.network(nn.Tanh()), regression(60)
        curve = ld.llc_curve(run, model, squared_error, data, **self.short)
        assert len({float(value) for value in curve.values}) == 4
        for place, step in enumerate(curve.steps):
            problem = Problem(model, squared_error, data)
            alone = llc_point(run, int(step), problem, EstimateSettings(**self.short), name="alone")
            assert alone.llc == curve.values[place]

    def test_another_architecture_of_the_same_shapes_is_noticed(self, run):
        data = regression(60)
        ld.llc_curve(run, self.network(nn.Tanh()), squared_error, data, steps=[0], **self.short)
        with pytest.raises(ConfigError, match="probe"):
            ld.llc_curve(run, self.network(nn.ReLU()), squared_error, data, steps=[0], **self.short)
        with pytest.raises(ConfigError, match="probe"):
            llc_point(run, 0, Problem(self.network(nn.ReLU()), squared_error, data), EstimateSettings(**self.short))

    def test_another_kind_of_loss_is_noticed(self, run):
        model, data = self.network(nn.Tanh()), regression(60)
        llc_point(run, 0, Problem(model, squared_error, data), EstimateSettings(**self.short))
        own = ld.behavioural(lambda m, batch: m(batch[0]))
        with pytest.raises(ConfigError, match="loss is given there and behavioural here"):
            llc_point(run, 0, Problem(model, own, data), EstimateSettings(**self.short))


def test_a_dead_chain_is_in_no_average_and_flagged():
    def cliff(model, batch):
        return (torch.where(model.w > 1.0, torch.nan, 1.0) * model.w.square()).sum().expand(len(batch[0]))

    result = ld.estimate_llc(Vector(1), cliff, NO_DATA, sampler=ld.SGLD(0.02, 3.0, 0.0), num_chains=6, num_draws=100)
    dead = [failed.chain for failed in result.failed_chains]
    assert 0 < len(dead) < 6
    assert result.llc == pytest.approx(np.delete(result.corrected_trace, dead, axis=0).mean())
    assert not result.converged
    assert "stopped and left out" in result.reasons[0].text


@pytest.mark.parametrize(
    "kernel",
    [
        ld.Underdamped(0.1, 1.0, 0.0, friction=1.0),
        ld.Underdamped(0.1, 1.0, 0.0, friction=1.0, thermostat=True),
        ld.MALT(0.3, 1.0, 0.0, num_steps=5, friction=1.0),
        ld.HMC(0.3, 1.0, 0.0, num_steps=5),
    ],
)
def test_momentum_moves(kernel):
    """A 50-dimensional Gaussian without localisation: 25. Where the momentum stays as it was drawn it is 0.5 there."""
    model, short = Quadratic([1.0] * 50), isinstance(kernel, ld.Underdamped)
    result = ld.estimate_llc(
        model,
        potential_loss,
        potential_data(model, 4),
        sampler=kernel,
        num_chains=2,
        num_draws=600 if short else 120,
        num_burnin=100 if short else 20,
    )
    assert abs(result.llc - 25) < 4 * result.standard_error
    assert abs(result.kinetic - 1) < 4 * result.kinetic_error + 0.1**2 / 4
    assert result.standard_error < 3


def test_bfloat16_weights_have_the_value_of_float32_ones():
    """200 directions, 100 (1,602 in bfloat16 there); around w* = 1, where bfloat16 has a spacing of 1/128."""
    model = Vector(200, torch.bfloat16)
    torch.nn.init.ones_(model.w)
    result = ld.estimate_llc(
        model,
        lambda model, batch: ((model.w.float() - 1).square().sum() / 2).expand(len(batch[0])),
        NO_DATA,
        sampler=ld.SGLD(1e-4, 1000.0, 0.0),
        num_chains=2,
        num_draws=400,
        num_burnin=100,
    )
    exact = theory.quadratic_sgld_llc([1.0] * 200, 1000.0, 0.0, 1e-4)
    rounding = 200 * 1000 / 2 / 128**2 / 12  # of the weights in the forward pass: the mean square of half a spacing
    assert abs(result.llc - exact) < 4 * result.standard_error + rounding
    assert rounding < 0.006 * exact


def test_reported_error_is_the_spread():
    """40 runs of two chains on minibatches: their spread is their own error bar, to a factor that 40 runs can tell.

    With chi-squared of 39 degrees of freedom the spread alone is off by more than 1.5 in 1 of 10,000.
    """
    x, y = regression(300)
    model = nn.Linear(3, 1)
    best = torch.linalg.lstsq(torch.cat([x, torch.ones(300, 1)], 1), y).solution[:, 0]
    with torch.no_grad():
        model.weight.copy_(best[None, :3])
        model.bias.copy_(best[3:])
    # chains are independent whatever their number, so 40 runs of two are one run of 80
    result = ld.estimate_llc(
        model,
        squared_error,
        (x, y),
        sampler=ld.SGLD(2e-3, 50.0, 10.0),
        num_chains=80,
        num_draws=80,
        num_burnin=25,
        batch_size=10,
    )
    runs = result.trace.reshape(40, 2, -1)
    reported = math.sqrt(np.mean([monte_carlo_error(run)[0] ** 2 for run in runs]))
    spread = runs.mean((1, 2)).std(ddof=1)
    assert spread / 1.5 < reported < 1.9 * spread


def test_the_loss_at_the_start_is_that_of_evaluation():
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(3, 40), nn.BatchNorm1d(40), nn.Dropout(0.5), nn.Linear(40, 1)), regression(60)
    model.eval()
    with torch.no_grad():
        exact = float(squared_error(model, data).mean())
    model.train()
    with torch.no_grad():
        assert abs(float(squared_error(copy.deepcopy(model), data).mean()) / exact - 1) > 0.05
    before = model[1].running_mean.clone()
    result = ld.estimate_llc(model, squared_error, data, num_chains=1, num_draws=5, num_burnin=0, batch_size=60)
    assert result.initial_loss == pytest.approx(exact, rel=1e-5)
    assert torch.equal(model[1].running_mean, before)
    assert model.training


def test_data_arrive_as_they_are():
    """Fractional features, long and boolean columns: in the loss and in what is observed, value for value."""
    x = torch.linspace(-0.9, 0.9, 12)[:, None].repeat(1, 3)
    tokens, flags, half = torch.arange(12), torch.arange(12) % 2 == 0, torch.linspace(0, 1, 12).half()
    data, seen = (x, tokens, flags, half), []

    def loss_fn(model, batch):
        seen.append(batch)
        return model(batch[0]).square().mean(1)

    ld.estimate_llc(
        nn.Linear(3, 1), loss_fn, data, observe={"too": loss_fn}, num_chains=1, num_draws=4, num_burnin=0, batch_size=5
    )
    for batch in seen:
        for part, whole in zip(batch, data, strict=True):
            assert part.dtype == whole.dtype
            assert torch.equal(part, whole[batch[1]])
