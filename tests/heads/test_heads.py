"""Heads of a model: masking, importance with known answers, probes, and the LLC of a head."""

import numpy as np
import pytest
import torch
from torch import nn

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.heads import (
    HeadImportance,
    Heads,
    Risk,
    head_importance,
    head_llc_curves,
    importance_over_training,
    probe_risk,
    pruned_heads,
)
from llc_dynamics.heads.risk import measure_risk
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.systems.sparse_heads.system import SparseRegression
from llc_dynamics.training import CheckpointConfig, RunConfig, TrainingConfig, train

torch.set_num_threads(1)


class Sums(nn.Module):
    """Two layers of heads that add a w_k x each, and are right together: 1, and then .6, .3, .1, as y = 2 x."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor([1.0]))
        self.second = nn.Parameter(torch.tensor([0.6, 0.3, 0.1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (self.first.sum() + self.second.sum())


PARTS = {(1, 1): {"first": ...}, **{(2, k + 1): {"second": k} for k in range(3)}}
NOISE = 0.1


def risk(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(2 x - f)^2 + .01 x^2: every ratio is the same in every context."""
    return (2 * x - model(x)).square() + NOISE**2 * x.square()


def contexts(count: int = 400) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


def toy() -> tuple[Sums, Heads]:
    model = Sums()
    return model, Heads(PARTS, model)


def test_a_masked_model_is_a_copy_without_the_head() -> None:
    model, heads = toy()
    before = [each.clone() for each in model.parameters()]
    masked = heads.without(model, [(2, 1), (2, 3)])
    assert masked(torch.ones(1)).item() == pytest.approx(1.3)
    assert all(map(torch.equal, before, model.parameters()))
    assert heads.layers == {1: [(1, 1)], 2: [(2, 1), (2, 2), (2, 3)]}
    assert heads.all_but([(2, 2)], 2) == [(2, 1), (2, 3)]
    assert heads.all_but([(2, 2)]) == [(1, 1), (2, 1), (2, 3)]


def test_columns_of_an_output_projection_are_a_head() -> None:
    """torch's own attention: without head 2 the output is that of the first head's values alone."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    heads = Heads({(1, k + 1): {"out_proj.weight": np.s_[:, 4 * k : 4 * k + 4]} for k in range(2)}, attention)
    x = torch.randn(3, 5, 8)
    _, weights = attention(x, x, x, average_attn_weights=False)
    values = x @ attention.in_proj_weight[16:20].T + attention.in_proj_bias[16:20]
    expected = weights[:, 0] @ values @ attention.out_proj.weight[:, :4].T + attention.out_proj.bias
    torch.testing.assert_close(heads.without(attention, [(1, 2)])(x, x, x)[0], expected)


def test_importance_of_heads_whose_ratios_are_known() -> None:
    model, heads = toy()
    found = head_importance(model, heads, risk, contexts())
    squares = np.array([0.6, 0.3, 0.1]) ** 2
    expected = np.log(squares / NOISE**2 + 1)
    for k in range(3):
        value, error = found.log_ratio((2, k + 1))
        assert value == pytest.approx(expected[k], rel=1e-4)
        assert error < 1e-4
        assert found.median_ratio((2, k + 1))[0] == pytest.approx(np.exp(expected[k]), rel=1e-4)
        assert found.mean_shares(2)[2, k + 1][0] == pytest.approx(squares[k] / squares.sum(), rel=1e-4)
        assert found.log_shares(2)[2, k + 1][0] == pytest.approx(expected[k] / expected.sum(), rel=1e-4)
    effective, error = found.effective_heads(2)
    assert effective == pytest.approx(expected.sum() ** 2 / (expected**2).sum(), rel=1e-4)
    assert error < 1e-3
    assert found.effective_heads(1)[0] == pytest.approx(1)
    head, (log, _), (median, _) = found.keep_one(2)
    assert head == (2, 1)
    assert log == pytest.approx(np.log(0.4**2 / NOISE**2 + 1), rel=1e-4)
    assert median == pytest.approx(np.exp(log), rel=1e-3)
    assert found.keep_one(1)[1][0] == 0  # its layer has no other head
    assert pruned_heads(heads, found) == [(2, 2), (2, 3)]


def test_errors_cover_the_truth() -> None:
    """Log-normal ratios of three heads: each error times 2.6 holds 99% of the estimates; 60 of 60 in 57 or more."""
    generator, inside = numpy_generator(0, "coverage"), 0
    true = np.array([1.0, 0.5, 0.2])
    for _ in range(20):
        full = np.exp(generator.standard_normal(500))
        ratios = np.exp(true[:, None] + 0.7 * generator.standard_normal((3, 500)))
        found = HeadImportance(Risk(full), {(1, k + 1): Risk(full * ratios[k]) for k in range(3)}, {})
        value, error = found.log_ratio((1, 2))
        share, share_error = found.log_shares(1)[1, 2]
        median, median_error = found.median_ratio((1, 2))
        inside += abs(value - 0.5) < 2.6 * error
        inside += abs(share - 0.5 / 1.7) < 2.6 * share_error
        # the median of the product is the product of the medians, both being log-normal
        inside += abs(median - np.exp(0.5)) < 2.6 * median_error
        assert error == pytest.approx(0.7 / np.sqrt(500), rel=0.2)
    assert inside >= 57


def test_no_head_that_matters_has_no_effective_number() -> None:
    full = Risk(np.ones(50))
    found = HeadImportance(full, {(1, 1): full, (1, 2): Risk(np.full(50, 0.5))}, {})
    assert np.isnan(found.effective_heads(1)[0])


def test_heavy_tails_are_said_and_the_median_is_shown() -> None:
    generator = numpy_generator(0, "tails")
    tame, wild = Risk(generator.exponential(size=2000)), Risk(np.exp(3 * generator.standard_normal(2000)))
    assert tame.findings == ()
    assert str(tame).startswith(f"{tame.mean:.3g} ± ")
    (finding,) = wild.findings
    assert finding.code == "heavy_tailed"
    assert f"the median is {wild.median:.3g}" in finding.text
    assert "(median; the mean" in str(wild)
    assert abs(wild.median - 1) < 4 * wild.median_error
    assert wild.median_error == pytest.approx(1.2533 * 3 / np.sqrt(2000), rel=0.35)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({(1, 1): {"frst": 0}}, r"head \(1, 1\): the model has no parameter 'frst'; did you mean 'first'"),
        ({(1, 1): {"first": 4}}, r"head \(1, 1\): 4 does not index 'first', which is \[1\]"),
        ({(1, 1): {}}, r"head \(1, 1\): no weight is named"),
        ({(0, 1): {"first": 0}}, r"with layers 1, 2, ...; got layers \[0\]"),
        ({(1, 1): {"first": 0}, (1, 3): {"second": 0}}, r"heads of layer 1 must be numbered 1, 2, ...; got \[1, 3\]"),
        ({}, "with layers 1, 2"),
    ],
)
def test_heads_that_cannot_be(parts: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Heads(parts, Sums())


def test_heads_that_are_not_there() -> None:
    model, heads = toy()
    with pytest.raises(ConfigError, match=r"there is no head \(2, 9\); layer 2 has heads 1 to 3"):
        heads.without(model, [(2, 9)])
    with pytest.raises(ConfigError, match=r"there is no head \(7, 1\); the model has layers 1 to 2"):
        heads.selection((7, 1))
    with pytest.raises(ConfigError, match="there is no layer 3; the model has layers 1 to 2"):
        heads.selection(3)
    with pytest.raises(ConfigError, match="masking all 4 heads leaves no attention"):
        heads.without(model, heads.masks)
    with pytest.raises(DataError, match=r"one value a context, \[S\]; got \[\]"):
        measure_risk(model, lambda model, x: risk(model, x).mean(), contexts())
    with pytest.raises(DataError, match="400 of 400 risks are negative or not finite"):
        measure_risk(model, lambda model, x: risk(model, x) - 1e9, contexts())


def test_a_probe_finds_what_is_linear_and_no_more() -> None:
    generator = numpy_generator(0, "probe")
    x = generator.standard_normal((400, 3, 4))
    noise = generator.standard_normal((400, 3))
    y = x @ np.array([1.0, -2.0, 0.0, 0.5]) + 0.3 * noise
    found = probe_risk(x, y)
    assert len(found.samples) == 200
    assert abs(found.mean - 0.09 * (1 + 4 / 600)) < 4 * found.mean_error
    # A few contexts that a layer has blown up do not turn it.
    x[:10] *= 1e4
    assert probe_risk(x, y).mean == pytest.approx(found.mean, rel=0.05)
    with pytest.raises(DataError, match=r"features must be \[S, Q, F\] and targets \[S, Q\]"):
        probe_risk(x, y[:, 0])
    with pytest.raises(DataError, match="3 contexts of 1 queries are too few to fit 4 features"):
        probe_risk(x[:6, :1], y[:6, :1])
    with pytest.raises(DataError, match="not finite"):
        probe_risk(np.full((40, 1, 1), np.nan), np.zeros((40, 1)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ld.Trajectory, SparseRegression]:
    system = SparseRegression(6, 2, 12, num_layers=2, num_heads=2, num_contexts=200)
    training = TrainingConfig(num_steps=60, batch_size=64, learning_rate=1e-2, warmup_steps=0, max_gradient_norm=1.0)
    config = RunConfig(system, training, CheckpointConfig(linear_interval=30, num_log=0))
    return train(config, tmp_path_factory.mktemp("heads") / "run"), system


def test_importance_over_training_is_that_of_the_checkpoints(trained: tuple[ld.Trajectory, SparseRegression]) -> None:
    run, system = trained
    model, batch = system.build(0), system.probes(0)["id"].batch
    heads = Heads(system.heads(), model)
    history = importance_over_training(run, model, heads, system.loss, batch, keep_one=True)
    assert list(history) == [0, 30, 60]
    run.load_into(model, 30)
    slow = heads.without(model, [(2, 1)])
    with torch.no_grad():
        ratio = (system.loss(slow, batch) / system.loss(model, batch)).log().double().numpy()
    curve = history.log_ratio((2, 1))
    np.testing.assert_allclose(curve.samples[1], ratio, rtol=1e-4, atol=1e-5)
    assert curve.values[1] == pytest.approx(ratio.mean(), rel=1e-4)
    for layer in (1, 2):
        assert ((history.effective_heads(layer).values >= 1) | np.isnan(history.effective_heads(layer).values)).all()
        assert len(history.keep_one(layer)) == 3


def test_the_llc_of_a_head_is_the_restricted_one(trained: tuple[ld.Trajectory, SparseRegression]) -> None:
    run, system = trained
    model = system.build(0)
    heads = Heads(system.heads(), model)
    settings = ld.EstimateSettings(ld.SGLD(step_size=1e-4), num_chains=2, num_draws=10, num_burnin=0, batch_size=50)
    data = system.probes(0)["id"].batch
    found = head_llc_curves(
        run, model, heads, ld.behavioural(system.outputs), data, chosen=[(1, 2), 2], steps=[60], settings=settings
    )
    run.load_into(model, 60)
    for chosen, curve in found.items():
        alone = ld.estimate_llc(
            model, ld.behavioural(system.outputs), data, settings=settings, parameters=heads.selection(chosen)
        )
        assert curve.results[0].llc == alone.llc
    assert [curve.name for curve in found.values()] == ["head-1-2", "layer-2"]
    assert found[1, 2].results[0].dimension == 2 * 49
    assert found[2].results[0].dimension == 2 * 2 * 49
