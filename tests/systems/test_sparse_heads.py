"""Sparse regression in context: the task, its predictors by slow twins and an independent Monte Carlo, the models."""

import math

import pytest
import torch
from sklearn.linear_model import Lasso

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.checks import check_system
from llc_dynamics.systems.linear_transformer.model import LinearTransformer
from llc_dynamics.systems.linear_transformer.task import Contexts, moments_of
from llc_dynamics.systems.sparse_heads import references as ref
from llc_dynamics.systems.sparse_heads.model import SoftmaxTransformer
from llc_dynamics.systems.sparse_heads.system import SparseRegression
from llc_dynamics.systems.sparse_heads.task import SparseTask, excess_risk

torch.set_num_threads(1)
F64 = torch.float64
TASK = SparseTask(5, 2, 9, 0.7)
SMALL = {"dimension": 4, "sparsity": 2, "num_examples": 8, "num_layers": 2, "num_heads": 3, "num_contexts": 40}


def some_contexts(count: int, task: SparseTask = TASK) -> tuple[torch.Tensor, torch.Tensor, Contexts]:
    tokens, _, w = task.tokens(torch_generator(0, "tokens"), count, 1, F64)
    x, y = tokens[..., :-1], tokens[..., -1]
    return x, y, Contexts(moments_of(x, y), w, torch.full((count,), task.sigma, dtype=F64), task.num_examples)


@pytest.mark.parametrize(("coefficients", "fourth"), [("gaussian", 3.0), ("signs", 1.0)])
def test_the_support_is_uniform_and_the_entries_are_as_said(coefficients: str, fourth: float) -> None:
    """20 comparisons at 5 errors: a false alarm in some 10^5 runs."""
    w = SparseTask(5, 2, 9, 0.7, coefficients).weights(torch_generator(1, "w"), 40_000, F64)  # type: ignore[arg-type]
    assert ((w != 0).sum(1) == 2).all()
    for values, expected in (
        ((w != 0).double().T, 2 / 5),
        (w.T, 0.0),
        (w.square().T, 2 / 5),
        (w.pow(4).T, 2 / 5 * fourth),
    ):
        error = values.std(1) / math.sqrt(40_000)
        assert ((values.mean(1) - expected).abs() < 5 * error).all()


def test_moments_are_drawn_as_those_of_tokens() -> None:
    """36 comparisons of means at 5 errors."""
    drawn = TASK.contexts(torch_generator(1, "direct"), 20_000, dtype=F64)
    _, _, slow = some_contexts(20_000)
    error = ((drawn.moments.var(0) + slow.moments.var(0)) / 20_000).sqrt()
    assert ((drawn.moments.mean(0) - slow.moments.mean(0)).abs() < 5 * error).all()
    ols = [excess_risk(ref.estimates(each, TASK, ["ols"])["ols"], each.w) for each in (drawn, slow)]
    error = ((ols[0].var() + ols[1].var()) / 20_000).sqrt()
    assert (ols[0].mean() - ols[1].mean()).abs() < 5 * error


def test_predictors_against_the_slow_way() -> None:
    x, y, contexts = some_contexts(4)
    names = ref.names_for(TASK)
    found = ref.estimates(contexts, TASK, names)
    constants = {name: ref.tuned(TASK, name) for name in names}
    for b in range(4):
        X, t = x[b], y[b]
        r = X.T @ t / 9

        def descended(
            scales: torch.Tensor, rate: float, steps: int, X: torch.Tensor = X, t: torch.Tensor = t
        ) -> torch.Tensor:
            seen, w = X * scales, torch.zeros(5, dtype=F64)
            for _ in range(steps):
                w = w + rate * seen.T @ (t - seen @ w) / 9
            return scales * w

        one = torch.ones(5, dtype=F64)
        relative = r.square() / r.square().mean()
        share = constants["mixed"][1]
        S = X.T @ X / 9

        def flowed(R2: torch.Tensor, time: float, S: torch.Tensor = S, r: torch.Tensor = r) -> torch.Tensor:
            """w' = R^2 (r - S w) as one linear system with a constant entry."""
            system = torch.zeros(6, 6, dtype=F64)
            system[:5, :5], system[:5, 5] = -R2[:, None] * S, R2 * r
            return torch.linalg.matrix_exp(time * system)[:5, 5]

        lasso = Lasso(constants["lasso"][0], fit_intercept=False, tol=1e-12, max_iter=100_000)
        support = contexts.w[b] != 0
        restricted = torch.zeros(5, dtype=F64)
        restricted[support] = torch.linalg.lstsq(X[:, support], t).solution
        expected = {
            "zero": torch.zeros(5, dtype=F64),
            "gd": descended(one, constants["gd"][0], ref.STEPS),
            "flow": flowed(one, constants["flow"][0]),
            "literal": descended(r, constants["literal"][0], ref.STEPS),
            "normalised": descended(relative.sqrt(), constants["normalised"][0], ref.STEPS),
            "mixed": descended((1 - share + share * relative).sqrt(), constants["mixed"][0], ref.STEPS),
            "preprocessed": flowed(r.square(), constants["preprocessed"][0]),
            "ridge": torch.linalg.solve(X.T @ X + constants["ridge"][0] * torch.eye(5, dtype=F64), X.T @ t),
            "ols": torch.linalg.lstsq(X, t).solution,
            "lasso": torch.from_numpy(lasso.fit(X.numpy(), t.numpy()).coef_),
            "support": restricted,
        }
        assert set(expected) == set(names) == set(ref.LABELS)
        for name, value in expected.items():
            torch.testing.assert_close(found[name][b], value, msg=name, rtol=1e-5, atol=1e-6)


def test_risks_are_those_of_an_independent_monte_carlo() -> None:
    """d = 16, s = 4, n = 40, sigma = 1; at 4 errors, those of the figures taken as large as ours."""
    task = SparseTask(16, 4, 40, 1.0)
    contexts = task.contexts(torch_generator(1, "test"), 2000, dtype=F64)
    published = {"flow": 0.566, "preprocessed": 0.339, "ridge": 0.542, "ols": 0.693, "lasso": 0.277}
    for name, estimate in ref.estimates(contexts, task, list(published)).items():
        risk = excess_risk(estimate, contexts.w)
        error = math.sqrt(2) * risk.std().item() / math.sqrt(len(risk))
        assert risk.mean().item() == pytest.approx(published[name], abs=4 * error), name


def model_of(attention: str) -> tuple[SparseRegression, torch.nn.Module]:
    system = SparseRegression(**SMALL, attention=attention)  # type: ignore[arg-type]
    return system, system.build(0).double()


def test_linear_attention_shares_the_recursion_and_its_loss_is_exact() -> None:
    system, model = model_of("linear")
    assert isinstance(model, LinearTransformer)
    tokens, queries, w = system.task.tokens(torch_generator(3, "x"), 30, 5000, F64)
    x, y = tokens[..., :-1], tokens[..., -1]
    moments = moments_of(x, y)
    predictions = torch.stack([model.token_predictions(x, y, queries[:, i])[-1] for i in range(200)], 1)
    weights = system.outputs(model, (moments, w))
    torch.testing.assert_close(predictions, (queries[:, :200] @ weights[..., None])[..., 0])
    errors = (queries @ (weights - w)[..., None])[..., 0].square()
    risk = system.loss(model, (moments, w))
    assert ((errors.mean(1) - risk).abs() < 5 * errors.std(1) / math.sqrt(5000)).all()


def test_softmax_attention_against_the_slow_way() -> None:
    system, model = model_of("softmax")
    assert isinstance(model, SoftmaxTransformer)
    batch = system.task.tokens(torch_generator(3, "x"), 3, 2, F64)
    found = system.outputs(model, batch)
    for b in range(3):
        for m in range(2):
            tokens = batch[0][b].clone()
            tokens[:, -1] /= 4
            asked = torch.cat((batch[1][b, m], torch.zeros(1, dtype=F64)))
            for p, q in zip(model.p, model.q, strict=True):

                def added(
                    e: torch.Tensor, E: torch.Tensor = tokens, p: torch.Tensor = p, q: torch.Tensor = q
                ) -> torch.Tensor:
                    return sum(p_k @ E.T @ torch.softmax(E @ q_k @ e, 0) for p_k, q_k in zip(p, q, strict=True))

                moved = torch.stack([e + added(e) for e in tokens])
                asked = asked + added(asked)
                tokens = moved
            torch.testing.assert_close(found[b, m], -4 * asked[-1])
    expected = (found - (batch[1] @ batch[2][..., None])[..., 0]).square().mean(1)
    torch.testing.assert_close(system.loss(model, batch), expected)


def test_the_probe_of_softmax_has_answers_of_the_references() -> None:
    system, model = model_of("softmax")
    probes, _ = check_system(system, 0)
    tokens, queries, w = probes["id"].batch
    contexts = system.contexts_of(tokens, w)
    ols = ref.estimates(contexts, system.task, ["ols"])["ols"]
    torch.testing.assert_close(probes["id"].references["ols"], (queries @ ols[..., None])[..., 0], rtol=1e-3, atol=1e-4)
    medians = system.metrics(model.float(), probes)
    assert list(medians) == ["median/layer_1", "median/layer_2"]
    assert medians["median/layer_2"] == pytest.approx(system.loss(model, probes["id"].batch).median().item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 5}, "sparsity: of d = 4 weights 1 to 4 can be non-zero; got 5"),
        ({"sparsity": 0}, "sparsity: of d = 4 .* got 0"),
        ({"sigma": -1.0}, "sigma: a standard deviation is 0 or more"),
        ({"coefficients": "cauchy"}, "coefficients: 'cauchy' is unknown; known: gaussian, signs"),
        ({"attention": "sparse"}, "attention: 'sparse' is unknown; known: linear, softmax"),
        ({"num_heads": 0}, "num_heads must be 1 or more; got 0"),
        ({"num_examples": 0}, "num_examples must be 1 or more; got 0"),
        ({"num_queries": 0}, "num_queries must be 1 or more; got 0"),
        ({"num_contexts": 1}, "num_contexts must be 2 or more; got 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SparseRegression(**{**SMALL, **settings})


def test_fewer_examples_than_weights_leave_references_out() -> None:
    system = SparseRegression(**{**SMALL, "num_examples": 3})  # type: ignore[arg-type]
    assert set(system.probes(0)["id"].references) == {"zero", "flow", "preprocessed", "ridge", "lasso", "support"}
    _, _, contexts = some_contexts(3, SparseTask(5, 4, 3))
    with pytest.raises(ConfigError, match="n = 3 examples do not determine 4 weights"):
        ref.on_support(contexts)
    with pytest.raises(ConfigError, match="reference 'laso' is unknown; did you mean 'lasso'"):
        ref.estimates(contexts, TASK, ["laso"])


def test_tokens_of_another_shape() -> None:
    _, model = model_of("softmax")
    with pytest.raises(DataError, match=r"tokens \[B, n, 5\] and queries \[B, m, 4\]; got \[2, 8, 4\] and \[2, 1, 4\]"):
        model(torch.zeros(2, 8, 4), torch.zeros(2, 1, 4))
