"""Every kernel against a slow twin of its equations, and against exact stationary values.

Statistical tests allow four standard errors, each a false alarm in 1 of 15,000 for another seed; there are about 150.
Chains are rows of one matrix here, so that hundreds of independent ones give the error of a mean directly.
"""

import copy
import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import problems
import pytest
import torch
from estimates import run_chains, start_of
from problems import outputs, squared_error
from scipy.linalg import expm
from torch import nn

import llc_dynamics as ld
from llc_dynamics import theory
from llc_dynamics.errors import ConfigError
from llc_dynamics.sampling import KERNELS, Evaluation, Target
from llc_dynamics.sampling.batches import Batch, make_batches
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.seeding import torch_generator
from llc_dynamics.theory import family_data

network = functools.partial(problems.network, 2, torch.float64)
regression = functools.partial(problems.regression, 40, dtype=torch.float64)
NBETA, GAMMA, SEED, BURNIN, DRAWS = 30.0, 4.0, 4, 3, 18


# --- twins ------------------------------------------------------------------------------------------------------------


class Twin:
    """One chain written out with numpy vectors, energies and matrix exponentials, step by step."""

    records_in_sample = False

    def __init__(self, kernel, behavioural, batch_size):
        self.kernel, self.start, self.walker = kernel, network(), network()
        self.behavioural = behavioural
        data = regression()
        batches = make_batches(data, batch_size, None, torch.device("cpu"))
        self.stream, self.fresh = batches.stream(SEED, "batch", 0), batches.stream(SEED, "fresh", 0)
        self.noise = torch_generator(SEED, "noise", 0)
        origin = nn.utils.parameters_to_vector(self.start.parameters()).detach()
        self.origin, first = origin.numpy(), next(batches.stream(SEED, "batch", 0))

        def too_high(w):
            return NBETA * (self.loss(w.numpy(), first)[0] - self.loss(self.origin, first)[0]) > len(origin) / 2

        self.first = start_of(origin, SEED, GAMMA, too_high).numpy()

    def xi(self, size=None):
        shape = self.origin.shape if size is None else (size,)
        return torch.empty(shape, dtype=torch.float64).normal_(generator=self.noise).numpy()

    def loss(self, w, batch):
        """Mean loss and its gradient at w."""
        nn.utils.vector_to_parameters(torch.from_numpy(w.copy()), self.walker.parameters())
        x, y = batch.content
        loss = (self.walker(x) - (self.start(x).detach() if self.behavioural else y)).square().mean()
        gradient = torch.autograd.grad(loss, list(self.walker.parameters()))
        return float(loss.detach()), torch.cat([part.reshape(-1) for part in gradient]).numpy()

    def energy(self, w, p, batch):
        return NBETA * self.loss(w, batch)[0] + GAMMA / 2 * np.sum((w - self.origin) ** 2) + np.sum(p**2) / 2

    def drift(self, w, p, time):
        flow = expm(np.array([[0, 1], [-GAMMA, 0]]) * time)
        moved = flow @ np.stack([w - self.origin, p])
        return moved[0] + self.origin, moved[1]

    def rows(self):
        """What is recorded at every draw."""
        hold, batch, state, found = self.kernel.updates_per_batch, None, None, []
        elsewhere = max(1, round(8 / self.kernel.gradients_per_update))
        for step in range(BURNIN + DRAWS):
            before, changed = batch, step == 0 or (hold is not None and step % hold == 0)
            batch = next(self.stream) if changed else batch
            state = self.arrive(self.begin() if state is None else state, batch, step)
            if step >= BURNIN:
                row, fresh = self.row(state, before if self.records_in_sample else batch), math.nan
                if self.kernel.holds_batch and len(batch.indices) < 40 and (step - BURNIN) % elsewhere == 0:
                    fresh = self.row(state, next(self.fresh))[0]
                found.append((*row, fresh))
            state = self.move(state, batch, step)
        return np.array(found).T

    def row(self, state, batch):
        w, p = state["w"], state.get("p")
        loss, gradient = self.loss(w, batch)
        moved = w - self.origin
        virial = np.mean(moved * (NBETA * gradient + GAMMA * moved))
        kinetic = math.nan if p is None else np.mean(p**2)
        cut = len(batch.indices) // 2
        first, second = (
            Batch(tuple(part[rows] for part in batch.content), None) for rows in (slice(cut), slice(cut, None))
        )
        halves = [self.loss(w, part)[0] - self.loss(self.origin, part)[0] for part in (first, second)]
        return (
            loss - self.loss(self.origin, batch)[0],
            0.0 if self.records_in_sample or cut == 20 else (halves[0] - halves[1]) / 2,
            np.sum(moved**2),
            virial,
            kinetic,
            state.get("accepted", math.nan),
        )

    def arrive(self, state, batch, step):  # noqa: ARG002
        return state


class RMSpropTwin(Twin):
    def begin(self):
        return {"w": self.first, "v": np.ones_like(self.origin), "t": 0}

    def move(self, state, batch, step):
        w, v, t, kernel = state["w"], state["v"], state["t"], self.kernel
        gradient = self.loss(w, batch)[1]
        if step < BURNIN:  # afterwards the preconditioner stays as it is
            v, t = kernel.decay * v + (1 - kernel.decay) * gradient**2, t + 1
        scale = 1 / (np.sqrt(v / (1 - kernel.decay**t)) + kernel.stability)
        force = NBETA * gradient + GAMMA * (w - self.origin)
        eps = kernel.step_size
        return {"w": w - eps / 2 * scale * force + np.sqrt(eps * scale) * self.xi(), "v": v, "t": t}


class UnderdampedTwin(Twin):
    def begin(self):
        return {"w": self.first, "p": self.xi()}

    def half_kick(self, w, p, batch):
        h = self.kernel.step_size
        time = 2 * math.tan(math.sqrt(GAMMA) * h / 2) / math.sqrt(GAMMA)
        return p - time / 2 * NBETA * self.loss(w, batch)[1]

    def arrive(self, state, batch, step):
        return {"w": state["w"], "p": self.half_kick(state["w"], state["p"], batch)} if step else state

    def move(self, state, batch, step):  # noqa: ARG002
        w, p, h = state["w"], state["p"], self.kernel.step_size
        keep = math.exp(-h * (2 * math.sqrt(GAMMA) if self.kernel.friction is None else self.kernel.friction))
        for inner in range(self.kernel.num_steps):
            if inner:
                p = self.half_kick(w, p, batch)
            if self.kernel.thermostat:
                along = self.loss(w, batch)[1]
                along = along / np.linalg.norm(along)
                p = p - along * (along @ p) + along * self.xi(1)
            p = self.half_kick(w, p, batch)
            w, p = self.drift(w, p, h / 2)
            p = keep * p + math.sqrt(1 - keep**2) * self.xi()
            w, p = self.drift(w, p, h / 2)
        return {"w": w, "p": p}


class MetropolisTwin(Twin):
    records_in_sample = True

    def begin(self):
        return {"w": self.first, "p": self.xi(), "accepted": 0.0}

    def move(self, state, batch, step):  # noqa: ARG002
        kernel, h = self.kernel, self.kernel.step_size
        w, p = state["w"], state["p"]
        malt = isinstance(kernel, ld.MALT)
        if not malt:
            p = self.xi()
        before, error = (w, p), 0.0
        keep = math.exp(-2 * math.sqrt(GAMMA) * h)
        for _ in range(kernel.num_steps):
            start = self.energy(w, p, batch)
            p = p - h / 2 * NBETA * self.loss(w, batch)[1]
            w, p = self.drift(w, p, h / 2)
            if malt:  # what the noise does to the energy is no error
                error += self.energy(w, p, batch) - start
                p = keep * p + math.sqrt(1 - keep**2) * self.xi()
                start = self.energy(w, p, batch)
            w, p = self.drift(w, p, h / 2)
            p = p - h / 2 * NBETA * self.loss(w, batch)[1]
            error += self.energy(w, p, batch) - start
        accepted = min(1.0, math.exp(-error))
        if float(torch.empty((), dtype=torch.float64).uniform_(generator=self.noise)) >= accepted:
            w, p = before[0], -before[1]
        return {"w": w, "p": p, "accepted": accepted}


@pytest.mark.parametrize(
    ("kernel", "twin", "behavioural", "batch_size"),
    [
        (ld.RMSpropSGLD(1e-2, localization=GAMMA, decay=0.9), RMSpropTwin, False, 8),
        (ld.Underdamped(0.05, localization=GAMMA), UnderdampedTwin, False, 8),
        (ld.Underdamped(0.05, localization=GAMMA, friction=1.0, thermostat=True), UnderdampedTwin, False, 8),
        (ld.Underdamped(0.05, localization=GAMMA, num_steps=3), UnderdampedTwin, True, 8),
        (ld.Underdamped(0.05, localization=GAMMA, num_steps=3, thermostat=True), UnderdampedTwin, False, 40),
        (ld.MALT(0.13, localization=GAMMA, num_steps=3, updates_per_batch=4), MetropolisTwin, True, 8),
        (ld.MALT(0.18, localization=GAMMA, num_steps=3, updates_per_batch=None), MetropolisTwin, True, 8),
        (ld.MALT(0.13, localization=GAMMA, num_steps=3), MetropolisTwin, False, 40),
        (ld.HMC(0.13, localization=GAMMA, num_steps=3, updates_per_batch=1), MetropolisTwin, True, 8),
        (ld.MALA(0.13, localization=GAMMA), MetropolisTwin, False, 40),
    ],
)
def test_a_chain_is_the_equations(kernel, twin, behavioural, batch_size):
    loss_fn = ld.behavioural(outputs) if behavioural else squared_error
    batches = make_batches(regression(), batch_size, None, torch.device("cpu"))
    with FlatModel(network(), loss_fn) as flat:
        traces = run_chains(
            flat, batches, kernel, nbeta=NBETA, num_chains=1, num_burnin=BURNIN, num_draws=DRAWS, seed=SEED
        )
    expected = twin(kernel, behavioural, batch_size).rows()
    names = ("loss_difference", "half_difference", "distance", "virial", "kinetic", "acceptance", "fresh_difference")
    for name, row in zip(names, expected, strict=True):
        np.testing.assert_allclose(getattr(traces, name)[0], row, rtol=1e-8, atol=1e-11, err_msg=name)
    if twin is MetropolisTwin:
        refused = np.diff(traces.distance[0]) == 0
        assert 0 < refused.sum() < len(refused)  # the twin has been held to both


# --- exact stationary values ------------------------------------------------------------------------------------------


def name_of(kernel):
    return type(kernel).__name__


class SharedNoise:
    """One generator for all rows: hundreds of independent chains in one call."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, out):
        return out.normal_(generator=self.generator)

    def uniform(self, like):
        return torch.rand(len(like), generator=self.generator, dtype=torch.float64)


@dataclass
class Found:
    """Time averages of each chain [chain]."""

    llc: np.ndarray
    virial: np.ndarray
    kinetic: np.ndarray
    acceptance: np.ndarray
    state: object

    def agrees(self, name, exact, share=0.0):
        values = getattr(self, name)
        error = values.std(ddof=1) / math.sqrt(len(values))
        return abs(values.mean() - exact) <= max(4 * error, share * abs(exact)) + 1e-12

    def error(self, name="llc"):
        values = getattr(self, name)
        return values.std(ddof=1) / math.sqrt(len(values)) / abs(values.mean())


def stationary(
    kernel, potential, dimension, *, chains=400, adapting=100, burnin=300, draws=300, seed=0, noise=None, always=False
):
    """Run rows of chains from w* = 0; `potential(w [g, d])` gives losses [g] and gradients [g, d]."""
    origin = torch.zeros(dimension, dtype=torch.float64)
    target = Target(origin, kernel.nbeta, kernel.localization)
    noise = SharedNoise(seed) if noise is None else noise

    def evaluate(position):
        losses, gradient = potential(position)
        return Evaluation(losses[:, None], gradient)

    state = kernel.init(origin.repeat(chains, 1), evaluate, target, noise)
    sums = torch.zeros(4, chains, dtype=torch.float64)
    for update in range(adapting + burnin + draws):
        here = evaluate(state.position)
        kernel.on_new_batch(state, here, target)
        if update >= adapting + burnin:
            w = state.position
            sums[0] += kernel.nbeta * here.loss
            sums[1] += (w * (kernel.nbeta * here.gradient + kernel.localization * w)).mean(1)
            if state.momentum is not None:
                sums[2] += state.momentum.square().mean(1)
            if state.acceptance is not None:
                sums[3] += state.acceptance
        kernel.update(state, here, evaluate, target, noise, always or update < adapting)
    return Found(*(sums / draws).numpy(), state)


CURVATURES = (0.1, 1.0, 10.0)
# (step in units of the stiffest direction, gamma, nbeta)
GRID = [(0.3, 1.0, 10.0), (0.3, 30.0, 3.0), (1.0, 5.0, 2.0), (1.2, 100.0, 1.0)]


def quadratic_of(h):
    """Values and gradients of sum h_i w_i^2 / 2 for rows w."""
    return lambda w: ((h * w.square()).sum(1) / 2, h * w)


quadratic = quadratic_of(torch.tensor(CURVATURES, dtype=torch.float64))


def stiffest(gamma, nbeta):
    return nbeta * max(CURVATURES) + gamma


@pytest.mark.parametrize(("size", "gamma", "nbeta"), GRID)
class TestQuadratic:
    def test_sgld(self, size, gamma, nbeta):
        eps = 1.5 * size / stiffest(gamma, nbeta)
        found = stationary(ld.SGLD(eps, nbeta, gamma), quadratic, 3)
        assert found.agrees("llc", theory.quadratic_sgld_llc(CURVATURES, nbeta, gamma, eps))
        a = nbeta * np.array(CURVATURES) + gamma
        assert found.agrees("virial", np.mean(1 / (1 - eps * a / 4)))
        assert found.error() < 0.02

    def test_rmsprop(self, size, gamma, nbeta):
        kernel = ld.RMSpropSGLD(0.25 * size / stiffest(gamma, nbeta), nbeta, gamma, decay=0.9)
        found = stationary(kernel, quadratic, 3, burnin=600, draws=400)
        # given its preconditioner a chain is SGLD in rescaled coordinates
        h, scale = np.array(CURVATURES), found.state.preconditioner.numpy()
        a = nbeta * h + gamma
        width = 1 / (1 - kernel.step_size * scale * a / 4)
        assert found.agrees("llc", np.mean(np.sum(nbeta * h / a * width, 1)) / 2)
        assert found.agrees("virial", np.mean(width))
        assert found.error() < 0.02

    @pytest.mark.parametrize("extra", [{}, {"friction": 1.0}, {"num_steps": 2}])
    def test_underdamped(self, size, gamma, nbeta, extra):
        """Positions exact at any stable step; BAOAB's momenta are colder by a known amount."""
        h = size / math.sqrt(stiffest(gamma, nbeta))
        found = stationary(ld.Underdamped(h, nbeta, gamma, **extra), quadratic, 3, burnin=200, draws=200)
        assert found.agrees("llc", theory.quadratic_llc(CURVATURES, nbeta, gamma))
        assert found.agrees("virial", 1.0)
        assert found.error() < 0.03
        cold = nbeta * np.array(CURVATURES) * math.tan(math.sqrt(gamma) * h / 2) ** 2 / gamma
        assert found.agrees("kinetic", 1 - cold.mean())

    @pytest.mark.parametrize("kernel", [ld.MALT(num_steps=3), ld.HMC(num_steps=4), ld.MALA()], ids=name_of)
    def test_metropolis(self, size, gamma, nbeta, kernel):
        h = size / math.sqrt(stiffest(gamma, nbeta))
        kernel = replace(kernel, step_size=h, nbeta=nbeta, localization=gamma)
        slow = isinstance(kernel, ld.MALA)
        found = stationary(kernel, quadratic, 3, chains=300, burnin=500 if slow else 100, draws=300 if slow else 120)
        assert found.agrees("llc", theory.quadratic_llc(CURVATURES, nbeta, gamma))
        assert found.agrees("virial", 1.0)
        assert found.agrees("kinetic", 1.0)
        assert found.error() < 0.03


def test_the_thermostat_warms_by_less_than_momenta_are_too_cold():
    h = torch.tensor(CURVATURES * 4, dtype=torch.float64)
    kernel = ld.Underdamped(0.3 / math.sqrt(101.0), 10.0, 1.0, thermostat=True)
    found = stationary(kernel, quadratic_of(h), len(h), burnin=200)
    exact = theory.quadratic_llc(h.numpy(), 10.0, 1.0)
    assert -4 * found.error() < found.llc.mean() / exact - 1 < 0.3**2 / 4 + 4 * found.error()
    assert found.error() < 0.015


class TestMetropolis:
    kernel = ld.MALT(0.9 * 2 / math.sqrt(105.0), 10.0, 5.0, num_steps=5)
    exact = theory.quadratic_llc(CURVATURES, 10.0, 5.0)

    @staticmethod
    def run(kernel, **settings):
        return stationary(kernel, quadratic, 3, burnin=100, draws=300, **settings)

    def test_a_large_step_is_refused_often_and_the_value_stays_exact(self):
        found = self.run(self.kernel)
        assert 0.2 < found.acceptance.mean() < 0.8
        assert found.agrees("llc", self.exact)
        assert found.agrees("virial", 1.0)
        assert found.agrees("kinetic", 1.0)

    def test_without_the_test_the_value_is_wrong(self):
        class AcceptsEverything(SharedNoise):
            def uniform(self, like):
                return torch.full((len(like),), -1.0, dtype=torch.float64)

        found = self.run(self.kernel, noise=AcceptsEverything(0))
        assert not found.agrees("virial", 1.0)


def crossing(exponents):
    k = torch.tensor(exponents, dtype=torch.float64)

    def potential(position):
        powers = position.abs() ** (2 * k)
        loss = powers.prod(1)
        others = torch.stack([torch.cat([powers[:, :i], powers[:, i + 1 :]], 1).prod(1) for i in range(len(k))], 1)
        return loss, 2 * k * position.sign() * position.abs() ** (2 * k - 1) * others

    return potential


# Exponents, and a step at which also the narrow arms along the axes are open: kernels with a larger one seldom enter
# them, and whoever starts at 0 then waits long for the right answer.
CROSSINGS = {(2,): 0.15, (3,): 0.15, (1, 1): 0.08, (1, 2): 0.03, (2, 3): 0.04, (3, 3): 0.04, (1, 2, 3): 0.03}


@pytest.mark.parametrize(("exponents", "step_size"), CROSSINGS.items())
@pytest.mark.parametrize("kernel", [ld.MALT(num_steps=8), ld.HMC(num_steps=8), ld.MALA()], ids=name_of)
def test_normal_crossings_with_a_metropolis_test_are_exact(exponents, step_size, kernel):
    nbeta, gamma = 10.0, 1.0
    kernel = replace(kernel, step_size=step_size, nbeta=nbeta, localization=gamma)
    updates = {"burnin": 60, "draws": 140}
    if isinstance(kernel, ld.MALA):
        if len(exponents) > 1:
            pytest.skip("one step an update takes too long to walk along the arms")
        updates = {"burnin": 150, "draws": 500}
    found = stationary(kernel, crossing(exponents), len(exponents), adapting=0, chains=300, **updates)
    assert found.agrees("llc", theory.localized_normal_crossing_llc(exponents, nbeta, gamma))
    assert found.agrees("virial", 1.0)
    assert found.error() < 0.05


@pytest.mark.parametrize(("exponents", "step_size"), list(CROSSINGS.items())[:4])
@pytest.mark.parametrize("kernel", [ld.SGLD(), ld.RMSpropSGLD(stability=2.0), ld.Underdamped()], ids=name_of)
def test_normal_crossings_at_a_small_step_are_within_five_percent(exponents, step_size, kernel):
    nbeta, gamma = 3.0, 1.0
    if not isinstance(kernel, ld.Underdamped):
        step_size = 0.004
    kernel = replace(kernel, step_size=step_size, nbeta=nbeta, localization=gamma)
    found = stationary(kernel, crossing(exponents), len(exponents), adapting=100, burnin=900, draws=1000, chains=600)
    assert found.agrees("llc", theory.localized_normal_crossing_llc(exponents, nbeta, gamma), share=0.05)
    assert found.error() < 0.05


def family(layers, power, inputs):
    def potential(position):
        t = position.detach().requires_grad_(True)
        t1, t2 = t[:, :1], t[:, 1:]
        first, second = inputs[None, :, 0], inputs[None, :, 1]
        for layer in range(layers):
            if layer:
                first, second = first**power, second**power
            first, second = (t1 + t2) * first + t1**2 * second, t1**2 * first + t2**2 * second
        loss = (first**2 + second**2).mean(1)
        return loss.detach(), torch.autograd.grad(loss.sum(), t)[0]

    return potential


@pytest.mark.parametrize(("layers", "power"), [(1, 2), (2, 2), (2, 3)])
def test_two_parameter_family(layers, power):
    inputs, nbeta, gamma = family_data()[0].double(), 1000.0, 1.0
    kernel = ld.MALT(nbeta=nbeta, localization=gamma, num_steps=8)
    found = stationary(kernel, family(layers, power, inputs), 2, adapting=100, burnin=30, draws=120, chains=200)
    exact = theory.localized_two_parameter_family_llc(layers, power, inputs.numpy(), nbeta, gamma)
    assert found.agrees("llc", exact)
    assert found.agrees("virial", 1.0)
    assert found.error() < 0.04


# --- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapting", [64, 200])
@pytest.mark.parametrize("kernel", [ld.MALT(num_steps=4), ld.HMC(num_steps=3, target_acceptance=0.7), ld.MALA()])
def test_the_step_is_adapted_to_the_wanted_acceptance(kernel, adapting):
    kernel = replace(kernel, nbeta=10.0, localization=2.0)
    rng = torch.linspace(0.5, 20, 40, dtype=torch.float64)
    found = stationary(kernel, quadratic_of(rng), 40, adapting=adapting, burnin=50, draws=100)
    # 64 updates are few to climb from the first step, which is a cautious one
    assert abs(found.acceptance.mean() - kernel.target_acceptance) < (0.05 if adapting > 64 else 0.12)
    steps = found.state.step.log()
    # an average over adaptations, not where the last one happened to leave it
    assert float(steps.std()) < 0.12


def test_the_step_is_fixed_after_the_burn_in():
    kernel = ld.MALT(nbeta=10.0, localization=2.0, num_steps=2)
    states = [stationary(kernel, quadratic, 3, chains=5, burnin=0, draws=draws).state.step for draws in (2, 30)]
    assert torch.equal(*states)


def test_a_step_that_is_given_is_not_adapted():
    found = stationary(ld.MALT(0.05, 10.0, 2.0), quadratic, 3, chains=5, adapting=20, burnin=0, draws=1)
    assert (found.state.step == 0.05).all()


@pytest.mark.parametrize("kernel", [ld.MALT(num_steps=1), ld.Underdamped()])
def test_the_first_step_fits_the_stiffest_direction(kernel):
    kernel = replace(kernel, nbeta=10.0, localization=2.0)
    state = stationary(kernel, quadratic, 3, chains=5, adapting=0, burnin=0, draws=1).state
    steps = state.step if state.step is not None else -state.kick[:, 0] / 5  # the kick is nbeta times half the time
    np.testing.assert_allclose(steps, 0.3 / math.sqrt(102), rtol=0.01)


def test_with_step():
    for name in ("SGLD", "RMSpropSGLD", "Underdamped", "MALT", "HMC", "MALA"):
        kernel = KERNELS[name](step_size=0.4, localization=3.0)
        assert kernel.with_step(0.5) == replace(kernel, step_size=0.2)
    adapted = ld.MALT(num_steps=3)
    assert adapted.with_step(0.5) == replace(adapted, target_acceptance=1 - 0.15 / 4)
    assert ld.MALT(target_acceptance=0.5).with_step(2.0).target_acceptance == 0.5
    with pytest.raises(ConfigError, match="with_step"):
        ld.Underdamped().with_step(0.5)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [ld.MALT(), ld.HMC(), ld.MALA(), ld.Underdamped(num_steps=2)])
def test_a_kernel_that_holds_its_batch_wants_a_loss_with_its_minimum_at_the_start(kernel):
    model, short = network(), {"num_chains": 1, "num_draws": 4, "num_burnin": 0, "sampler": kernel}
    with pytest.raises(ConfigError, match=r"behavioural.*batch_size"):
        ld.estimate_llc(model, squared_error, regression(), batch_size=8, **short)
    with pytest.raises(ConfigError, match=type(kernel).__name__):
        ld.estimate_llc(
            model,
            squared_error,
            lambda _, size: problems.regression(size, dtype=torch.float64),
            num_samples=40,
            **short,
        )
    ld.estimate_llc(model, squared_error, regression(), batch_size=40, **short)
    ld.estimate_llc(model, ld.behavioural(outputs), regression(), batch_size=8, **short)


@pytest.mark.parametrize("name", ["RMSpropSGLD", "Underdamped", "MALT", "HMC", "MALA"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"step_size": 0.0},
        {"step_size": math.inf},
        {"step_size": math.nan},
        {"step_size": True},
        {"nbeta": 0.0},
        {"nbeta": math.nan},
        {"localization": -1.0},
        {"localization": math.inf},
        {"localization": True},
    ],
)
def test_settings_out_of_range(name, wrong):
    with pytest.raises(ConfigError, match=f"{name}.*{next(iter(wrong))}"):
        KERNELS[name](**wrong)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("RMSpropSGLD", {"decay": 1.0}, "decay"),
        ("RMSpropSGLD", {"decay": 0.0}, "decay"),
        ("RMSpropSGLD", {"stability": 0.0}, "stability"),
        ("Underdamped", {"num_steps": 0}, "num_steps"),
        ("Underdamped", {"friction": 0.0}, "friction"),
        ("Underdamped", {"localization": 0.0}, "friction"),
        ("Underdamped", {"step_size": 0.4, "localization": 100.0}, "step_size"),
        ("MALT", {"num_steps": 1.5}, "num_steps"),
        ("MALT", {"num_steps": True}, "num_steps"),
        ("MALT", {"friction": -1.0}, "friction"),
        ("MALT", {"localization": 0.0}, "friction"),
        ("MALT", {"target_acceptance": 1.0}, "target_acceptance"),
        ("HMC", {"target_acceptance": 0.0}, "target_acceptance"),
        ("HMC", {"target_acceptance": math.nan}, "target_acceptance"),
        ("HMC", {"num_steps": 0}, "num_steps"),
    ],
)
def test_other_settings_out_of_range(name, wrong, message):
    with pytest.raises(ConfigError, match=f"{name}.*{message}"):
        KERNELS[name](**wrong)


def test_mala_is_one_step_of_hmc():
    with pytest.raises(TypeError):
        ld.MALA(num_steps=2)
    one, other = (
        stationary(kernel, quadratic, 3, chains=3, adapting=0, burnin=0, draws=30).state.position
        for kernel in (ld.MALA(0.1, 10.0, 2.0), ld.HMC(0.1, 10.0, 2.0, num_steps=1))
    )
    assert torch.equal(one, other)


# --- RMSprop ----------------------------------------------------------------------------------------------------------


class TestRMSprop:
    """A 20-dimensional Gaussian whose exact value is 10; with a preconditioner that never rests it comes out wrong."""

    h = torch.logspace(-1, 1, 20, dtype=torch.float64)
    nbeta = 1.0

    def run(self, step_size, **settings):
        kernel = ld.RMSpropSGLD(step_size, self.nbeta, 0.0, decay=0.9)
        return stationary(kernel, quadratic_of(self.h), 20, chains=100, burnin=800, draws=800, **settings)

    def test_the_bias_vanishes_with_the_step(self):
        coarse, fine = self.run(0.2), self.run(0.02)
        bias = self.h.numpy() * fine.state.preconditioner.numpy() * 0.02 / 4
        assert bias.mean() < 0.01
        assert fine.agrees("llc", 10 * (1 + (bias / (1 - bias)).mean()))
        assert abs(fine.llc.mean() - 10) < abs(coarse.llc.mean() - 10) + 4 * fine.error() * 10
        assert fine.error() < 0.02

    def test_a_preconditioner_that_keeps_changing_is_biased_at_any_step(self):
        found = self.run(0.02, always=True)
        assert found.llc.mean() > 10.8 + 4 * 10 * found.error()


def test_copies_do_not_share_state():
    """Settings are values: a kernel object can be used for any number of runs."""
    kernel = ld.MALT(nbeta=10.0, localization=2.0, num_steps=2)
    before = copy.deepcopy(kernel)
    one, two = (stationary(kernel, quadratic, 3, chains=3, burnin=0, draws=5).state.position for _ in range(2))
    assert torch.equal(one, two)
    assert kernel == before
