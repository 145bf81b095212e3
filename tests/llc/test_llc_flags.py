"""What goes wrong is flagged with the right reason; what is worth knowing is noted; what is sound passes."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from estimates import codes, estimate, result_of, texts
from problems import NO_DATA, Vector, outputs, quadratic, regression, squared_error
from torch import nn

import llc_dynamics as ld
from llc_dynamics.errors import DataError
from llc_dynamics.sampling import ChainTraces
from llc_dynamics.theory import DeepLinearData, quadratic_llc, quadratic_sgld_llc, rank_minimal_network

KERNELS = [
    ld.SGLD(100.0, 50.0, 1.0),
    ld.RMSpropSGLD(1e4, 50.0, 1.0),
    ld.Underdamped(2.0, 50.0, 1.0),
    ld.MALA(100.0, 50.0, 1.0),
    ld.HMC(100.0, 50.0, 1.0, num_steps=3),
    ld.MALT(100.0, 50.0, 1.0, num_steps=3),
]


def white(seed):
    return np.random.default_rng(seed).standard_normal((4, 500))


def result(**changes):
    """Four chains that look as in equilibrium but for `changes` of the traces or of the arguments of `result_of`."""
    names = {each.name for each in dataclasses.fields(ChainTraces)}
    traces = dataclasses.replace(
        ChainTraces.empty(4, 500, 1),
        loss_difference=changes.pop("loss_difference", 5 + white(0)),
        loss_at_origin=np.ones((4, 500)),
        distance=changes.pop("distance", 10 + 0.3 * white(1)),
        virial=changes.pop("virial", 1 + 0.1 * white(2)),
        virial_by_block=(1 + 0.1 * white(3))[..., None].astype(np.float32),
        **{name: changes.pop(name) for name in names & changes.keys()},
    )
    return result_of(traces, ("w",), **{"dimension": 10, "localization": 0.1} | changes)


class TestDisasters:
    @pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
    def test_a_step_far_too_large(self, kernel):
        short = {"num_chains": 2, "num_draws": 12, "num_burnin": 2}
        found = estimate(Vector(20), quadratic(2.0), NO_DATA, sampler=kernel, **short)
        assert not found.converged
        said = " ".join(texts(found.reasons))
        if hasattr(kernel, "target_acceptance"):
            assert found.reasons[0].text.startswith("no chain moved: every proposal was refused; the step is too large")
            assert "no effect" not in said
        else:
            assert math.isnan(found.llc)
            assert "try a smaller step_size" in said

    def test_nan_in_the_data(self):
        x, y = regression(200)
        x[50] = torch.nan
        with pytest.raises(DataError, match="NaN or infinite"):
            estimate(nn.Linear(3, 1), squared_error, (x, y), batch_size=20, num_draws=50)

    def test_nan_that_turns_up_later(self):
        calls = []

        def sample(generator, size):
            calls.append(1)
            x = torch.randn(size, 3, generator=generator)
            if len(calls) > 30:
                x[0] = torch.nan
            return x, x.sum(1, keepdim=True)

        found = estimate(
            nn.Linear(3, 1), squared_error, sample, num_samples=100, batch_size=10, num_draws=50, num_burnin=5
        )
        assert math.isnan(found.llc)
        assert not found.converged
        assert "no longer finite" in found.reasons[0].text or "NaN in the data" in found.reasons[0].text

    def test_w_star_is_no_minimum(self):
        """A slope at w*: the localised value is 1/2 - nbeta b^2 / 2, negative."""
        found = estimate(
            Vector(1),
            lambda m, b: (m.w.square() / 2 + 2 * m.w).expand(len(b[0])),
            NO_DATA,
            sampler=ld.SGLD(0.1, 1.0, 0.01),
            num_chains=8,
            num_draws=150,
            num_burnin=40,
            chain_method="vmap",
        )
        assert found.llc < 0
        assert any(
            reason.startswith("negative estimate") and "not a minimum" in reason for reason in texts(found.reasons)
        )

    def test_w_star_is_no_minimum_although_the_estimate_is_positive(self):
        found = estimate(
            Vector(2),
            lambda m, b: (m.w.square().sum() / 2 + m.w[0]).expand(len(b[0])),
            NO_DATA,
            sampler=ld.SGLD(0.1, 1.0, 0.01),
            num_chains=8,
            num_draws=150,
            num_burnin=40,
            chain_method="vmap",
        )
        assert 0.2 < found.llc < 0.9
        assert found.share_below > 0.1
        assert any("not a minimum" in reason and "lower loss than w*" in reason for reason in texts(found.reasons))

    def test_the_noise_of_batches_is_not_taken_for_lower_loss(self):
        model = nn.Linear(3, 1, bias=False)
        x, y = regression(200)
        model.weight.data = torch.linalg.lstsq(x, y).solution.T.contiguous()
        found = estimate(
            model, squared_error, (x, y), sampler=ld.SGLD(1e-3, 20.0, 5.0), batch_size=10, num_draws=100, num_burnin=50
        )
        assert (found.trace < 0).mean() > 0.1
        assert found.share_below < 0.05

    def test_zero_within_its_error_is_not_sound_when_negative(self):
        found = result(loss_difference=white(0) - white(0).mean() - 0.01)
        assert any(reason.startswith("negative estimate, zero within its error") for reason in texts(found.reasons))


class Branches(nn.Module):
    """Two branches, one of them a ReLU that never opens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.live, self.dead_in, self.dead_out = nn.Linear(3, 1), nn.Linear(3, 4), nn.Linear(4, 1, bias=False)
        self.dead_in.bias.data.fill_(-1e4)

    def forward(self, x):
        return self.live(x) + self.dead_out(torch.relu(self.dead_in(x)))


class TestDeadBranch:
    def test_is_noted_and_adds_nothing(self):
        model, (x, y) = Branches(), regression(200)
        loss = ld.behavioural(outputs)
        settings = {
            "sampler": ld.MALT(nbeta=20.0, localization=20.0, num_steps=4, step_size=0.2),
            "num_draws": 40,
            "num_burnin": 10,
        }
        found = estimate(model, loss, (x, y), batch_size=200, **settings)
        alone = estimate(model, loss, (x, y), batch_size=200, parameters="live.*", **settings)
        assert found.without_gradient == ("dead_in.weight", "dead_in.bias", "dead_out.weight")
        (note,) = (note for note in texts(found.notes) if "no gradient at all" in note)
        assert "dead_in.weight, dead_in.bias, dead_out.weight" in note
        assert abs(found.llc - alone.llc) < 4 * math.hypot(found.standard_error, alone.standard_error)
        # they move under the localisation alone, as they should: virial ratio 1, and nothing to complain of
        for name in found.without_gradient:
            assert abs(found.virial_by_block[name] - 1) < 4 * found.virial_by_block_error[name]
        assert not any("dead" in reason for reason in texts(found.reasons))

    def test_a_loss_that_never_changes_is_flagged(self):
        found = estimate(
            Vector(3),
            lambda m, b: (0 * m.w).sum().expand(len(b[0])),
            NO_DATA,
            sampler=ld.SGLD(0.01),
            num_draws=20,
            num_burnin=2,
        )
        assert any("no effect" in reason for reason in texts(found.reasons))
        assert any("no gradient at all at the last draw in w" in note for note in texts(found.notes))


class TestVerdict:
    def test_sound(self):
        assert result().reasons == ()
        assert result(kinetic=0.99 + 0.02 * white(4), gradient_kinetic=0.95 + white(5) ** 2 * 0.05).converged

    def test_hot_along_the_gradient(self):
        found = result(kinetic=1 + 0.02 * white(4), gradient_kinetic=1.4 * white(5) ** 2)
        (reason,) = texts(found.reasons)
        assert reason.startswith("heated: kinetic temperature along the gradient of the loss 1.")

    def test_hot(self):
        assert result(kinetic=1.3 + 0.02 * white(4)).reasons[0].text.startswith("heated: kinetic temperature 1.3")

    def test_few_hot_directions_among_many_flat_ones(self):
        """The whole is 2% too high: nothing, unless the loss contributes a tenth of it and is then 20% too hot."""
        warm = 1.02 + 0.02 * white(2)
        assert result(virial=warm, distance=10 + 0.3 * white(1), localization=0.01).converged
        (reason,) = texts(result(virial=warm, distance=92 + 0.3 * white(1)).reasons)
        assert reason.startswith("heated: virial ratio 1.01")
        assert "of which the loss contributes 0.09" in reason

    def test_few_acceptances(self):
        (reason,) = texts(result(acceptance=np.full((4, 500), 0.2)).reasons)
        assert reason.startswith("step too large: 20% of the proposals were accepted (limit 40%)")

    def test_a_chain_that_refused_everything(self):
        distance = 10 + 0.3 * white(1)
        distance[2] = 10.0
        found = result(distance=distance, acceptance=np.full((4, 500), 0.7))
        assert found.reasons[0].text.startswith("chain 2 never moved: every proposal was refused")

    def test_a_bias_of_sgld_that_is_known(self):
        made = {"virial": 1.1 + 0.01 * white(2), "distance": 100.0 + 0.3 * white(1), "sampler": ld.SGLD(0.1)}
        few = result(gradient_square=np.full((4, 500), 80.0), **made)
        assert few.sgld_bias == pytest.approx(1.0, abs=0.02)
        assert few.llc == pytest.approx(few.trace.mean() - few.sgld_bias)
        assert "biased" not in codes(few.reasons)
        (reason,) = [
            each for each in result(gradient_square=np.full((4, 500), 160.0), **made).reasons if each.code == "biased"
        ]
        assert reason.text.startswith("biased by the step: it added 2.0")

    def test_heat_does_not_hide_what_is_not_explored(self):
        """Virial .95, of which .1 is heat of the step: 15% of the directions are missing."""
        low = 0.95 + 0.01 * white(2)
        assert result(virial=low).converged
        (reason,) = texts(result(virial=low, gradient_square=np.full((4, 500), 36.0), sampler=ld.SGLD(0.1)).reasons)
        assert reason.startswith("not explored: virial ratio 0.8")

    def test_growing_distance_alone_is_worth_a_note(self):
        growing = 10 + 0.1 * white(1) + np.linspace(0, 4, 500)
        found = result(distance=growing)
        assert found.converged
        assert [note.code for note in found.notes if note.code == "slow_distance"]
        found = result(distance=growing, virial=0.7 + 0.01 * white(2))
        assert codes(found.reasons).count("slow_distance") == 1
        assert any("not explored yet" in text for text in texts(found.reasons))


def test_the_virial_ratio_of_few_directions_is_noisy_without_harm():
    # by chance the ratio of one direction is known to sqrt(2 / 20) from 20 effective draws; here to .3
    noisy = {"virial": 1 + 13 * (white(2) - white(2).mean()), "distance": 10 + 9 * white(1)}
    assert "exploration_unknown" in codes(result(**noisy, dimension=10).reasons)
    assert result(**noisy, dimension=1).converged
    # chains that are far apart have not been everywhere, however few directions there are
    apart = noisy | {"distance": noisy["distance"] + 20 * np.arange(4)[:, None]}
    assert "exploration_unknown" in codes(result(**apart, dimension=1).reasons)


def curved_and_flat(model, batch):
    """Curvatures `batch[1]` in the first directions, none in the others; `batch[0]` is gradient noise, both [B, k]."""
    noise, curvatures = batch
    curved = model.w[: noise.shape[1]] - 2
    return (curvatures * curved.square()).sum(1) / 2 + noise @ curved


class TestKnownHeatOfSGLD:
    """Flat directions have a virial ratio of 1/(1 - eps gamma/4). Here nbeta = gamma, so that a = gamma (1 + h)."""

    def run(self, curvatures, flat, step, noise=0.0, gamma=100.0, **others):
        count = len(curvatures)
        model = Vector(count + flat)
        model.w.data.fill_(2.0)
        half = noise * torch.randn(100, count, generator=torch.Generator().manual_seed(0))
        data = torch.cat([half, -half]), torch.tensor(curvatures).expand(200, count)
        settings = {"num_draws": 150, "num_burnin": 100, "steps_per_draw": max(1, int(0.4 / step / gamma)), "seed": 3}
        sampler = ld.SGLD(step, 100.0, gamma)
        return estimate(model, curved_and_flat, data, sampler=sampler, batch_size=20, **settings, **others)

    def test_many_flat_directions(self):
        found = self.run([2.0] * 20, 4_000, 4e-4)
        assert found.virial_heat > 0.01
        assert abs(found.virial - 1) < 4 * found.virial_error + 1e-4
        assert found.converged, found.reasons

    def test_in_units_of_the_weights(self):
        """Weights of 2: gamma/2 |w - w*|^2 / 4, the heat as before, and nbeta h / gamma four times as large."""
        found = self.run([0.5] * 20, 4_000, 4e-4, metric="relative")
        assert found.virial_heat > 0.01
        assert found.converged, found.reasons
        assert abs(found.llc - 10 * 2 / 3) < 4 * found.standard_error

    def test_mixed_curvatures(self):
        """Steps up to half of the stability limit: the bias is known, and taken off."""
        curvatures, flat, step = [0.1] * 40 + [1.0] * 40 + [8.0] * 20, 100, 2e-3
        found = self.run(curvatures, flat, step, num_chains=8)
        exact = [h * 100 for h in curvatures] + [0.0] * flat
        bias = quadratic_sgld_llc(exact, 1.0, 100.0, step) - quadratic_llc(exact, 1.0, 100.0)
        assert abs(found.sgld_bias - bias) < 0.05 * bias + 4 * found.sgld_bias_error
        assert abs(found.llc - quadratic_llc(exact, 1.0, 100.0)) < 4 * found.standard_error
        assert found.converged, found.reasons

    def test_noise_of_the_gradients_that_is_most_of_the_estimate(self):
        assert "biased" in codes(self.run([2.0] * 20, 4_000, 4e-4, 40.0).reasons)

    def test_of_the_kernel_that_has_it(self):
        """The same traces: 1% is SGLD's heat at eps gamma = .04, and of no other kernel."""
        made = {"virial": 1.0101 + 0.01 * white(2), "distance": 100 + 0.3 * white(1), "dimension": 10}
        made |= {"gradient_square": np.full((4, 500), 1e-3), "localization": 0.1}
        assert result(**made, sampler=ld.SGLD(0.4)).converged
        for other in (ld.RMSpropSGLD(0.4), ld.Underdamped(0.2)):
            assert codes(result(**made, sampler=other).reasons) == ["heated"]


class TestNotes:
    def test_behavioural_against_given(self):
        observed = {"given": 5 + 0.5 * white(6)}
        (note,) = texts(result(observed=observed, loss_fn=ld.behavioural(outputs)).notes)
        assert note.startswith("loss 'given' over the same draws, 5")
        assert "agrees with the behavioural estimate" in note
        (note,) = texts(result(observed={"given": 8 + 0.5 * white(6)}, loss_fn=ld.behavioural(outputs)).notes)
        assert "differs from the behavioural estimate" in note
        assert result(observed=observed).notes == ()

    def test_in_the_dictionary(self):
        found = result(distance=10 + 0.1 * white(1) + np.linspace(0, 4, 500)).to_dict()
        assert found["notes"]
        assert found["total_error"] == found["standard_error"]


def test_pseudo_converged_sgld_on_a_deep_linear_network():
    """1,000 steps at a stable step are a third low, and the loss settles: 'not explored' is among the reasons."""
    widths, rank, n = (9, 6, 5, 6, 9), 1, 100_000
    network = rank_minimal_network(widths, rank, seed=0)
    found = estimate(
        network,
        ld.behavioural(lambda m, b: m(b[0]) * math.sqrt(widths[-1] / 2)),
        DeepLinearData(network.product().detach()),
        sampler=ld.SGLD(5e-6, None, 1.0),
        num_samples=n,
        num_chains=2,
        num_draws=60,
        num_burnin=200,
        steps_per_draw=5,
        batch_size=50,
    )
    assert found.llc < 0.9 * ld.theory.deep_linear_llc(widths, rank)
    assert any(reason.startswith("not explored: virial ratio") for reason in texts(found.reasons))
