"""The engine: what it leaves untouched, what a chain depends on, batches, dead chains."""

import copy
import functools
import random

import numpy as np
import problems
import pytest
import torch
from estimates import run_chains, start_of
from problems import squared_error
from torch import nn
from torch.nn import functional

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.sampling.baseline import PairedBaseline
from llc_dynamics.sampling.batches import make_batches
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.seeding import torch_generator

regression = functools.partial(problems.regression, 40)
CPU = torch.device("cpu")
SHORT = {"num_chains": 2, "num_draws": 6, "num_burnin": 3, "steps_per_draw": 2, "seed": 4}


class Everything(nn.Module):
    """Tied, frozen and unused parameters, dropout, BatchNorm, a recurrent layer, and a buffer that counts calls."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm, self.dropout = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.recurrent = nn.GRU(3, 2, batch_first=True)
        self.frozen = nn.Linear(2, 1)
        self.frozen.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(2, 2))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3), persistent=False)

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().mean(0)
        hidden = self.dropout(self.norm(self.second(self.first(x))))
        return self.frozen(self.recurrent(hidden[:, None])[0][:, 0])


def run(model, data, loss_fn=squared_error, sampler=None, batch_size=8, **changes):
    flat = FlatModel(model, loss_fn)
    batches = make_batches(data, batch_size, None, CPU)
    settings = {**SHORT, "nbeta": 5.0, **changes}
    with flat:
        return run_chains(flat, batches, sampler or ld.SGLD(1e-3, localization=1.0), **settings)


def test_the_callers_model_comes_back_untouched():
    torch.manual_seed(0)
    model = Everything().train()
    model.norm.eval()
    x, y = regression()
    squared_error(model, (x, y)).mean().backward()
    before = copy.deepcopy(model)
    objects = [*model.parameters(), *model.buffers()]
    storages = [tensor.data_ptr() for tensor in objects]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    run(model, (x, y))
    assert [*map(id, objects)] == [id(tensor) for tensor in [*model.parameters(), *model.buffers()]]
    assert storages == [tensor.data_ptr() for tensor in objects]
    for (name, own), original in zip(
        [*model.named_parameters(), *model.named_buffers()],
        [*before.parameters(), *before.buffers()],
        strict=True,
    ):
        assert torch.equal(own, original), name
        assert own.requires_grad == original.requires_grad
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) if gradient is None else torch.equal(parameter.grad, gradient)
    assert [module.training for module in model.modules()] == [module.training for module in before.modules()]
    assert model.second.weight is model.first.weight


def test_the_model_comes_back_after_an_error():
    model = nn.Sequential(nn.Linear(3, 1), nn.Dropout()).train()
    weight, calls = model[0].weight.detach().clone(), []

    def fails_later(model, batch):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return squared_error(model, batch)

    with pytest.raises(KeyboardInterrupt):
        run(model, regression(), fails_later)
    assert torch.equal(model[0].weight, weight)
    assert model.training
    assert model[1].training


def test_sampling_is_in_evaluation_mode_and_sees_the_buffers_as_given():
    model = Everything().train()
    seen = []

    def loss_fn(model, batch):
        seen.append((model.training, model.dropout.training, float(model.calls), float(model.norm.running_mean.sum())))
        return squared_error(model, batch)

    run(model, regression(), loss_fn)
    assert set(seen) == {(False, False, 0.0, 0.0)}
    assert len(seen) > 2 * 9


def test_global_generators_are_untouched_and_without_influence():
    def noisy(model, batch):  # a loss that draws from every global generator
        extra = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
        return squared_error(model, batch) * (1 + functional.dropout(torch.ones(()), 0.1) * extra)

    model, data = nn.Linear(3, 1), regression()
    traces = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        traces.append(run(model, data, noisy).loss_difference)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
        assert random.getstate() == states[2]
    assert np.array_equal(*traces)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_chain_does_not_depend_on_how_many_there_are(fresh):
    def sample(generator, size):
        x = torch.randn(size, 3, generator=generator)
        return x, x.sum(1, keepdim=True)

    def traces(num_chains):
        batches = make_batches(sample if fresh else regression(), 8, 50 if fresh else None, CPU)
        with FlatModel(model, squared_error) as flat:
            settings = {**SHORT, "num_chains": num_chains}
            return run_chains(flat, batches, ld.SGLD(1e-3), nbeta=5.0, **settings)

    model = nn.Linear(3, 1)
    one, three = traces(1), traces(3)
    for name in ("loss_difference", "loss_at_origin", "distance", "virial", "virial_by_block"):
        assert np.array_equal(getattr(one, name), getattr(three, name)[:1])
        assert not np.array_equal(getattr(three, name)[1], getattr(three, name)[2])


def test_against_a_slow_twin():
    """The same chain, written out with autograd on a copy of the model."""
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double(), regression()
    data = tuple(tensor.double() for tensor in data)
    traces = run(model, data, sampler=ld.SGLD(1e-2, localization=3.0), num_chains=1)
    batches = make_batches(data, 8, None, CPU).stream(4, "batch", 0)
    noise = torch_generator(4, "noise", 0)
    walker = copy.deepcopy(model)
    flat = nn.utils.parameters_to_vector
    origin = flat(model.parameters()).detach()

    def too_high(position):
        nn.utils.vector_to_parameters(position, walker.parameters())
        return 5.0 * (squared_error(walker, batch) - squared_error(model, batch)).mean() > len(origin) / 2

    batch, rows = next(batches).content, []
    nn.utils.vector_to_parameters(start_of(origin, 4, 3.0, too_high), walker.parameters())
    for step in range(3 + 5 * 2 + 1):
        batch = next(batches).content if step else batch
        loss = squared_error(walker, batch).mean()
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(walker.parameters()))])
        position = flat(walker.parameters()).detach()
        force = 5.0 * gradient + 3.0 * (position - origin)
        if step >= 3 and (step - 3) % 2 == 0:
            moved = position - origin
            paired = float(loss.detach() - squared_error(model, batch).mean().detach())
            rows.append((paired, float(moved @ moved), float(moved @ force) / len(moved)))
        xi = torch.empty_like(position).normal_(generator=noise)
        nn.utils.vector_to_parameters(position - 1e-2 / 2 * force + 1e-1 * xi, walker.parameters())
    expected = np.array(rows).T
    for own, twin in zip((traces.loss_difference, traces.distance, traces.virial), expected, strict=True):
        np.testing.assert_allclose(own[0], twin, rtol=1e-9, atol=1e-12)


def test_burn_in_is_not_recorded_and_draws_are_steps_apart():
    model, data = nn.Linear(3, 1), regression()
    every = run(model, data, num_draws=30, num_burnin=0, steps_per_draw=1)
    later = run(model, data, num_draws=6, num_burnin=7, steps_per_draw=3)
    assert every.distance[0, 0] > 0
    for name in ("loss_difference", "distance", "virial"):
        assert np.array_equal(getattr(later, name), getattr(every, name)[:, 7:25:3])


def test_low_precision_weights_are_sampled_in_float32():
    """Steps of 1e-6 on weights of size one vanish in bfloat16; the chain must move as the float32 one does."""
    model = nn.Linear(3, 1, bias=False)
    nn.init.ones_(model.weight)
    data = regression()

    def in_model_precision(model, batch):
        return squared_error(model, tuple(tensor.to(model.weight.dtype) for tensor in batch)).float()

    wide = run(model, data, in_model_precision, ld.SGLD(1e-6))
    low = run(model.bfloat16(), data, in_model_precision, ld.SGLD(1e-6))
    np.testing.assert_allclose(low.distance, wide.distance, rtol=1e-2)
    assert model.weight.dtype == torch.bfloat16


def test_looked_up_baseline_is_the_computed_one():
    model, data = nn.Linear(3, 1), regression(17)
    batches = make_batches(data, 5, None, CPU)
    with FlatModel(model, squared_error) as flat:
        looked_up, computed = PairedBaseline(flat, batches, 100, 0), PairedBaseline(flat, batches, 2, 0)
        assert looked_up.looked_up
        assert not computed.looked_up
        for _, batch in zip(range(5), batches.stream(0, "batch", 0), strict=False):
            torch.testing.assert_close(looked_up.losses(batch), computed.losses(batch))


def test_losses_that_depend_on_the_batch_are_not_looked_up():
    def centred(model, batch):
        losses = squared_error(model, batch)
        return losses - 0.1 * losses.mean()

    batches = make_batches(regression(17), 5, None, CPU)
    with FlatModel(nn.Linear(3, 1), centred) as flat:
        assert not PairedBaseline(flat, batches, 100, 0).looked_up


def test_batches_hold_no_sample_twice_and_cover_the_data():
    data = (torch.arange(10),)
    stream = make_batches(data, 4, None, CPU).stream(0, "batch", 0)
    counts = torch.zeros(10)
    for _ in range(500):
        chosen = next(stream).content[0]
        assert len(set(chosen.tolist())) == 4
        counts += torch.bincount(chosen, minlength=10)
    # each count is binomial(500, .4): sd 11
    assert (counts - 200).abs().max() < 4.5 * 11
    assert torch.equal(next(make_batches(data, 10, None, CPU).stream(0, "batch", 0)).content[0], data[0])


def test_a_chain_that_dies_is_stopped_and_the_others_go_on():
    class Cliff(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

    def loss_fn(model, batch):  # NaN beyond a cliff that some chains reach and others do not
        safe = torch.where(model.w > 0.4, torch.nan, 1.0)
        return (safe * model.w.square()).expand(len(batch[0]))

    traces = run(
        Cliff(),
        (torch.zeros(8, 1),),
        loss_fn,
        ld.SGLD(0.01, localization=1.0),
        num_chains=8,
        num_draws=30,
        steps_per_draw=1,
    )
    dead = {failed.chain: failed for failed in traces.failed}
    assert 0 < len(dead) < 8
    for chain in range(8):
        finite = np.isfinite(traces.distance[chain])
        if chain in dead:
            reached = dead[chain].step - 3
            assert np.isfinite(traces.loss_difference[chain, : max(reached, 0)]).all()
            assert np.isnan(traces.loss_difference[chain, max(reached, 0) :]).all()
            assert f"chain {chain} at step {dead[chain].step}" in str(dead[chain])
        else:
            assert finite.all()


def test_an_exploding_chain_is_stopped_before_it_overflows():
    model = nn.Linear(3, 1)
    traces = run(model, regression(), sampler=ld.SGLD(1e3), num_draws=50)
    assert [failed.chain for failed in traces.failed] == [0, 1]
    assert "step_size" in traces.failed[0].reason.text
    assert not (np.abs(traces.loss_difference[np.isfinite(traces.loss_difference)]) > 1e10).any()


class TestBadInput:
    def test_scalar_loss(self):
        with pytest.raises(DataError, match=r"one loss per sample.*shape \[8\].*shape \(\)"):
            run(nn.Linear(3, 1), regression(), lambda m, b: squared_error(m, b).mean())

    def test_loss_of_another_shape(self):
        with pytest.raises(DataError, match=r"shape \(8, 1\)"):
            run(nn.Linear(3, 1), regression(), lambda m, b: (m(b[0]) - b[1]) ** 2)

    def test_loss_that_is_no_tensor(self):
        with pytest.raises(DataError, match="float"):
            run(nn.Linear(3, 1), regression(), lambda m, b: 1.0)  # noqa: ARG005

    def test_loss_without_gradient(self):
        with pytest.raises(DataError, match="no gradient"):
            run(nn.Linear(3, 1), regression(), lambda m, b: squared_error(m, b).detach())

    def test_nan_in_the_data(self):
        x, y = regression()
        y[7] = torch.nan
        with pytest.raises(DataError, match=r"loss at w\*.*NaN"):
            run(nn.Linear(3, 1), (x, y), num_draws=60)

    def test_nan_at_the_start(self):
        model = nn.Linear(3, 1)
        nn.init.constant_(model.weight, torch.nan)
        with pytest.raises(DataError, match=r"loss at w\*.*NaN"):
            run(model, regression())

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ((torch.zeros(5, 1), torch.zeros(4, 1)), r"\[5, 1\], \[4, 1\]"),
            ((torch.zeros(3, 1),), "batch_size is 8, but the data holds 3"),
            ((), "empty"),
            (torch.zeros(9, 1), r"\(tensor,\)"),
            ((np.zeros((9, 1), dtype=object),), "array of object"),
            ((torch.tensor(1.0),), r"along dimension 0; got \[\]"),
            ((torch.zeros(0, 1),), "no samples"),
        ],
    )
    def test_data(self, data, message):
        with pytest.raises(DataError, match=message):
            make_batches(data, 8, None, CPU)

    def test_function_without_num_samples(self):
        with pytest.raises(ConfigError, match="num_samples"):
            make_batches(lambda generator, size: None, 8, None, CPU)  # noqa: ARG005

    @pytest.mark.parametrize("num_samples", [2, 0, -5])
    def test_too_few_samples(self, num_samples):
        with pytest.raises(ConfigError, match="at least 3"):
            make_batches(regression(), 8, num_samples, CPU)

    @pytest.mark.parametrize("batch_size", [0, -1, 2.5])
    def test_batch_size(self, batch_size):
        with pytest.raises(ConfigError, match="batch_size"):
            make_batches(regression(), batch_size, None, CPU)

    def test_nothing_to_sample(self):
        with pytest.raises(ConfigError, match="requires a gradient"):
            FlatModel(nn.Linear(3, 1).requires_grad_(False), squared_error)

    def test_not_a_module(self):
        with pytest.raises(DataError, match=r"torch\.nn\.Module"):
            FlatModel(lambda x: x, squared_error)


def test_a_large_model_is_recorded_block_by_block_with_the_same_numbers(monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    data = (torch.randn(64, 6), torch.randn(64, 2))

    def estimated():
        return ld.estimate_llc(
            model,
            squared_error,
            data,
            sampler=ld.SGLD(1e-4, nbeta=20.0, localization=10.0),
            num_chains=2,
            num_draws=20,
            num_burnin=5,
            batch_size=16,
        )

    whole = estimated()
    monkeypatch.setattr("llc_dynamics.sampling.traces.SMALL", 0)
    monkeypatch.setattr("llc_dynamics.sampling.flat_model.SMALL", 0)
    parts = estimated()
    assert np.array_equal(whole.trace, parts.trace)
    assert np.allclose(whole.distance_trace, parts.distance_trace, rtol=1e-5)
    assert parts.virial_by_block == pytest.approx(whole.virial_by_block, rel=1e-4)
