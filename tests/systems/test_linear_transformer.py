"""The linear transformer: its recursion is the token form, its parts are the paper's, its start is tame."""

import math

import pytest
import torch

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.linear_transformer.model import Architecture, LinearTransformer
from llc_dynamics.systems.linear_transformer.system import MixedNoiseRegression
from llc_dynamics.systems.linear_transformer.task import Noise, draw_tokens, moments_of

torch.set_num_threads(1)
F64 = torch.float64
KINDS = [
    {},
    {"num_heads": 3},
    {"num_layers": 1, "num_heads": 2},
    {"key_rank": 2, "num_heads": 2},
    {"algorithm": "diag", "num_heads": 2},
    {"algorithm": "gdpp"},
    {"algorithm": "diag", "num_layers": 1},
]


def system_of(**settings: object) -> MixedNoiseRegression:
    return MixedNoiseRegression(**{"dimension": 4, "num_examples": 8, "num_layers": 3, **settings})  # type: ignore[arg-type]


def model_of(**settings: object) -> LinearTransformer:
    model = system_of(**settings).build(0).double()
    assert isinstance(model, LinearTransformer)
    return model


def some_tokens(count: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch_generator(0, "tokens")
    x, y, _, _ = draw_tokens(generator, count, 4, 8, Noise(2.0), F64)
    return x, y, torch.randn(count, 4, generator=generator, dtype=F64)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("as_compiled", [False, True])
def test_the_recursion_is_the_token_form(kind: dict, as_compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: as_compiled)
    model = model_of(**kind)
    x, y, query = some_tokens()
    slow = model.token_predictions(x, y, query)
    by_layer = model.weights_by_layer(moments_of(x, y))
    assert slow.abs().max() > 0.01
    torch.testing.assert_close((by_layer * query).sum(-1), slow, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model(moments_of(x, y)), by_layer[-1], rtol=1e-9, atol=1e-9)


def test_the_maps_are_those_of_the_tokens() -> None:
    """The paper's theorem: x_i^l = M x_i + y_i u, y_i^l = a y_i - w.x_i."""
    model = model_of(num_heads=2)
    x, y, _ = some_tokens()
    tokens = torch.cat((x, y[..., None]), dim=-1)
    for layer, t in enumerate(model.maps(moments_of(x, y))):
        p, q = model.matrices(layer)
        g = tokens.mT @ tokens
        tokens = tokens + sum(tokens @ (p_k @ g @ q_k).mT for p_k, q_k in zip(p, q, strict=True))
        M, u, w, a = t[:, :4, :4], t[:, :4, 4], -t[:, 4, :4], t[:, 4, 4]
        torch.testing.assert_close(tokens[..., :4], x @ M.mT + y[..., None] * u[:, None])
        torch.testing.assert_close(tokens[..., 4], a[:, None] * y - (x @ w[..., None])[..., 0])


def test_the_products_are_what_diagonal_layers_do() -> None:
    model = model_of(algorithm="diag", num_heads=2)
    x, y, _ = some_tokens(3)
    xx, xy, yx, yy = model.products()[0]
    sigma, alpha, square = x.mT @ x, (y[..., None] * x).sum(1), y.square().sum(1)
    t = model.maps(moments_of(x, y))[0]
    torch.testing.assert_close(t[:, :4, :4], torch.eye(4, dtype=F64) + xx * sigma)
    torch.testing.assert_close(t[:, :4, 4], xy * alpha)
    torch.testing.assert_close(-t[:, 4, :4], -yx * alpha)
    torch.testing.assert_close(t[:, 4, 4], 1 + yy * square)
    assert model_of(algorithm="gdpp").products()[:, [1, 3]].abs().max() == 0


def test_the_products_of_a_full_layer_are_those_of_the_diagonal_one_that_it_is() -> None:
    diagonal, full = model_of(algorithm="diag", num_heads=2), model_of(num_heads=2)
    with torch.no_grad():
        for layer in range(3):
            p, q = diagonal.own_matrices(layer)
            full.p[layer].copy_(torch.diag_embed(p))
            full.q[layer].copy_(torch.diag_embed(q))
    torch.testing.assert_close(full.products(), diagonal.products())
    x, y, _ = some_tokens()
    torch.testing.assert_close(full(moments_of(x, y)), diagonal(moments_of(x, y)))


def test_the_start_is_the_same_for_a_seed_and_its_loss_is_below_ten() -> None:
    system = MixedNoiseRegression(num_layers=7)
    one, other = system.build(3), system.build(3)
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    loss = system.loss(one, system.sample(torch_generator(3, "start"), 1024))
    assert loss.shape == (1024,)
    assert loss.mean() < 10


def test_separate_keys_start_with_entries_of_the_size_of_a_merged_matrix() -> None:
    model = LinearTransformer(Architecture(num_layers=20, key_rank=3))
    entries = torch.cat([model.own_matrices(layer)[1].flatten() for layer in range(20)])
    assert entries.std().item() == pytest.approx(0.3, rel=0.15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 0}, "num_layers must be 1 or more; got 0"),
        ({"num_heads": 0}, "num_heads must be 1 or more; got 0"),
        ({"dimension": 0}, "dimension must be 1 or more; got 0"),
        ({"num_examples": 0}, "num_examples must be 1 or more; got 0"),
        ({"algorithm": "diagonal"}, "algorithm: 'diagonal' is unknown; known: full, diag, gdpp"),
        ({"algorithm": "diag", "key_rank": 2}, "key_rank: separate keys and queries need algorithm 'full'"),
        ({"sigma_max": -1.0}, "sigma_max: a standard deviation is 0 or more"),
        ({"sigmas": ()}, "sigmas: the set of noise levels is empty"),
        ({"num_contexts": 1}, "num_contexts must be 2 or more"),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        system_of(**settings)


def test_moments_of_another_shape() -> None:
    with pytest.raises(DataError, match=r"the model takes moments \[B, 5, 5\]; got \[3, 4, 4\]"):
        model_of()(torch.zeros(3, 4, 4))


def test_one_layer_learns_one_step_of_gradient_descent() -> None:
    """The closed form d/2 (1 - n / (n + d + 1 + E sigma^2)), by descent on a large batch; any class attains it."""
    system = system_of(algorithm="diag", num_layers=1, sigma_max=2.0)
    model = system.build(0).double()
    batch = system.contexts(torch_generator(1, "train"), 20_000, dtype=F64).batch
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = system.loss(model, batch).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    losses = system.loss(model, batch)
    expected = 2 * (1 - 8 / (8 + 5 + 4 / 3))
    assert abs(losses.mean().item() - expected) < 4 * losses.std().item() / math.sqrt(20_000)


def test_fewer_examples_than_inputs_leave_references_out() -> None:
    system = system_of(num_examples=3)
    assert "ols" not in system.probes(0)["id"].references
    assert "tunedrr" not in system.describe().references
    assert "constrr" in system.describe().references
