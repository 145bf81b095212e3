"""The task of mixed noise and its predictors: closed forms, the slow way, and figures of an independent Monte Carlo."""

import math

import pytest
import torch

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.linear_transformer import references as ref
from llc_dynamics.systems.linear_transformer.task import Contexts, Noise, draw, draw_tokens, moments_of, query_loss
from llc_dynamics.systems.linear_transformer.tuning import tune, tuned

torch.set_num_threads(1)
F64 = torch.float64


def from_tokens(count: int, d: int, n: int, noise: Noise, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Contexts]:
    x, y, w, sigma = draw_tokens(torch_generator(seed, "tokens"), count, d, n, noise, F64)
    return x, y, Contexts(moments_of(x, y), w, sigma, n)


def test_moments_are_drawn_as_those_of_tokens() -> None:
    """Means of entries and of their squares, of both ways; 150 comparisons at 5 errors: a false alarm in 10^4 runs."""
    for d, n in ((3, 6), (3, 2)):
        noise = Noise(2.0)
        drawn = draw(torch_generator(1, "direct"), 40_000, d, n, F64).contexts(noise).moments
        _, _, slow = from_tokens(40_000, d, n, noise)
        assert torch.linalg.matrix_rank(drawn[:50]).unique().tolist() == [min(n, d + 1)]
        for power in (1, 2):
            one, other = drawn**power, slow.moments**power
            error = ((one.var(0) + other.var(0)) / len(one)).sqrt()
            assert ((one.mean(0) - other.mean(0)).abs() < 5 * error).all()


def test_one_draw_serves_all_noise_settings() -> None:
    one = draw(torch_generator(0, "x"), 500, 3, 6, F64)
    clean, noisy, few = (one.contexts(noise) for noise in (Noise(0.0), Noise(4.0), Noise(sigmas=(1, 3))))
    torch.testing.assert_close(clean.moments[:, :3, :3], noisy.moments[:, :3, :3])
    assert torch.equal(clean.w, few.w)
    assert torch.equal(torch.unique(few.sigma), torch.tensor([1.0, 3.0], dtype=F64))
    assert noisy.sigma.min() >= 0
    assert noisy.sigma.max() < 4
    again = draw(torch_generator(0, "x"), 500, 3, 6, F64).contexts(Noise(4.0))
    assert torch.equal(noisy.moments, again.moments)


def test_query_loss_is_the_mean_over_queries() -> None:
    generator = torch_generator(3, "queries")
    estimate, w = torch.randn(2, 4, generator=generator, dtype=F64), torch.randn(2, 4, generator=generator, dtype=F64)
    x = torch.randn(200_000, 4, generator=generator, dtype=F64)
    sampled = 0.5 * ((x @ estimate.T) - x @ w.T).square()
    assert ((sampled.mean(0) - query_loss(estimate, w)).abs() < 5 * sampled.std(0) / math.sqrt(len(x))).all()


def test_predictors_against_the_slow_way() -> None:
    x, y, contexts = from_tokens(5, 4, 9, Noise(1.5))
    tuning = ref.Tuning(0.7, 1.2, 0.8, {"1": (0.03,), "2": (0.1, 0.04)}, {"2": ((0.05, 0.2), (0.04,))})
    names = ["zero", "gd1", "gd2", "gdpp2", "ols", "constrr", "adarr", "tunedrr", "oracle"]
    found = ref.estimates(contexts, tuning, names)
    for b in range(5):
        X, t = x[b], y[b]
        ols = torch.linalg.lstsq(X, t).solution
        residual = (t - X @ ols).square().sum() / (9 - 4)

        def ridge(c: torch.Tensor | float, X: torch.Tensor = X, t: torch.Tensor = t) -> torch.Tensor:
            return torch.linalg.solve(X.T @ X + c * torch.eye(4, dtype=F64), X.T @ t)

        step = 0.1 * X.T @ t
        first = 0.05 * X.T @ t
        moved, left = X - 0.04 * X @ X.T @ X, t - X @ first  # GD++ transforms the inputs and the residuals' labels
        expected = {
            "zero": torch.zeros(4, dtype=F64),
            "gd1": 0.03 * X.T @ t,
            "gd2": step + 0.04 * X.T @ (t - X @ step),
            "ols": ols,
            "constrr": ridge(0.7),
            "adarr": ridge(residual),
            "tunedrr": ridge(min(1.2 * residual, torch.tensor(0.64, dtype=F64))),
            "oracle": ridge(contexts.sigma[b] ** 2),
        }
        query = torch.eye(4, dtype=F64)
        moved_query = query - 0.04 * query @ X.T @ X
        expected["gdpp2"] = first + 0.2 * moved_query @ moved.T @ left
        for name, value in expected.items():
            torch.testing.assert_close(found[name][b], value, msg=name)


def test_ridge_that_knows_the_noise_is_best() -> None:
    contexts = draw(torch_generator(0, "x"), 4000, 4, 8, F64).contexts(Noise(3.0))
    losses = {name: query_loss(w, contexts.w) for name, w in ref.estimates(contexts, tuned(Noise(3.0), 4, 8)).items()}
    for name, loss in losses.items():
        assert loss.mean() >= losses["oracle"].mean(), name
    order = ["oracle", "tunedrr", "adarr", "constrr", "gdpp2", "gd1", "zero"]
    means = [losses[name].mean().item() for name in order]
    assert means == sorted(means)


def test_one_step_of_gradient_descent_has_a_closed_form() -> None:
    """Best rate 1 / (n + d + 1 + E sigma^2), loss d/2 (1 - n rate); sd of one loss about 1.3."""
    for noise in (Noise(0.0), Noise(sigmas=(1, 3))):
        tuning = tune(noise, 4, 8)
        rate = 1 / (8 + 4 + 1 + noise.mean_variance)
        assert tuning.gd["1"][0] == pytest.approx(rate, rel=0.03)
        contexts = draw(torch_generator(9, "test"), 100_000, 4, 8, F64).contexts(noise)
        loss = query_loss(ref.estimates(contexts, tuning, ["gd1"])["gd1"], contexts.w)
        assert abs(loss.mean() - 2 * (1 - 8 * rate)) < 4 * loss.std() / math.sqrt(len(loss)) + 0.002


def test_the_stored_tuning_gives_the_figures_of_an_independent_monte_carlo() -> None:
    """sigma up to 5, 60,000 contexts there (errors .005 for the oracle, .001 to .02), as many here; at 4 errors."""
    contexts = draw(torch_generator(5, "test"), 60_000, 10, 20, F64).contexts(Noise(5.0))
    tuning = tuned(Noise(5.0), 10, 20)
    losses = {name: query_loss(each, contexts.w) for name, each in ref.estimates(contexts, tuning).items()}
    published = {"constrr": 0.362, "adarr": 0.0716, "tunedrr": 0.0518, "ols": 3.042, "zero": 3.449}
    assert losses["oracle"].mean().item() == pytest.approx(1.551, abs=4 * 0.0076)
    for name, expected in published.items():
        adjusted = losses[name] - losses["oracle"]
        error = math.sqrt(2) * adjusted.std().item() / math.sqrt(len(adjusted))
        assert adjusted.mean().item() == pytest.approx(expected, abs=4 * error), name
    assert (tuning.factor, tuning.cap) == (pytest.approx(1.3, rel=0.05), pytest.approx(4.22, rel=0.05))


def test_without_noise_least_squares_is_right() -> None:
    _, _, contexts = from_tokens(20, 4, 8, Noise(0.0))
    found = ref.estimates(contexts, tuned(Noise(0.0), 4, 8))
    for name in ("ols", "constrr", "adarr", "tunedrr", "oracle"):
        torch.testing.assert_close(found[name], contexts.w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma_max": -1.0}, "sigma_max: a standard deviation is 0 or more and finite; got -1.0"),
        ({"sigma_max": math.inf}, "sigma_max: .*got inf"),
        ({"sigmas": (1.0, -3.0)}, "sigmas: a standard deviation is 0 or more and finite; got -3.0"),
        ({"sigmas": ()}, "sigmas: the set of noise levels is empty; name at least one"),
    ],
)
def test_noise_that_is_none(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Noise(**settings)


def test_too_few_examples_for_least_squares() -> None:
    _, _, contexts = from_tokens(5, 4, 3, Noise(1.0))
    spectrum = ref.Spectrum(contexts)
    with pytest.raises(ConfigError, match=r"OLS: n = 3 examples do not determine d = 4 weights; take num_examples"):
        ref.least_squares(spectrum)
    with pytest.raises(ConfigError, match=r"n = 3 examples for d = 4 .*AdaRR and TunedRR.*num_examples of 5 or more"):
        _ = spectrum.noise_variance
    few = ref.estimates(contexts, tuned(Noise(1.0), 4, 3))
    assert set(few) == set(ref.LABELS) - set(ref.NEED_RESIDUALS)
    assert all(torch.isfinite(each).all() for each in few.values())


def test_tokens_of_other_shapes() -> None:
    with pytest.raises(DataError, match=r"x must be \[B, n, d\] and y \[B, n\]; got \[2, 3, 4\] and \[2, 4\]"):
        moments_of(torch.zeros(2, 3, 4), torch.zeros(2, 4))
