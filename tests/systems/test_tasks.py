import math

import numpy as np
import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.in_context_regression import predictors
from llc_dynamics.systems.in_context_regression.predictors import dmmse, ridge

INF = math.inf
PAPER = {"dimension": 8, "context_length": 16, "noise_variance": 0.125}
SMALL = {"dimension": 4, "context_length": 8, "noise_variance": 0.125}


def sample(task: ld.InContextRegression, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return task.sample(torch_generator(seed, "test"), count, dtype=torch.float64)


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    """Mean over sequences of the mean over positions, and its standard error."""
    per_sequence = values.mean(1)
    return per_sequence.mean().item(), (per_sequence.std() / math.sqrt(len(per_sequence))).item()


def slow_ridge(x: np.ndarray, y: np.ndarray, noise: float) -> np.ndarray:
    """Every prefix by itself: least squares on the data augmented with sqrt(s2) I (accurate at any noise)."""
    length, dimension = x.shape
    predictions = []
    for k in range(length):
        design = np.vstack([x[:k], math.sqrt(noise) * np.eye(dimension)])
        target = np.concatenate([y[:k], np.zeros(dimension)])
        predictions.append(np.linalg.lstsq(design, target, rcond=None)[0] @ x[k])
    return np.array(predictions)


def slow_dmmse(x: np.ndarray, y: np.ndarray, tasks: np.ndarray, noise: float) -> np.ndarray:
    predictions = []
    for k in range(len(y)):
        log_weights = -((y[:k] - tasks @ x[:k].T) ** 2).sum(1) / (2 * noise)
        weights = np.exp(log_weights - log_weights.max())
        predictions.append(weights @ tasks @ x[k] / weights.sum())
    return np.array(predictions)


@pytest.mark.parametrize(
    ("length", "noise", "tolerance"), [(8, 0.125, 1e-10), (200, 0.125, 1e-9), (8, 1e-8, 1e-7), (200, 1e-10, 1e-7)]
)
def test_ridge_against_least_squares(length: int, noise: float, tolerance: float) -> None:
    task = ld.InContextRegression(INF, 5, length, noise)
    x, y = sample(task, 4)
    slow = np.stack([slow_ridge(a, b, noise) for a, b in zip(x.numpy(), y.numpy(), strict=True)])
    np.testing.assert_allclose(task.ridge(x, y).numpy(), slow, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("length", "noise"), [(8, 0.125), (200, 0.125), (200, 1e-10)])
@pytest.mark.parametrize("chunk_elements", [2**24, 100])
def test_dmmse_against_the_formula(
    length: int, noise: float, chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictors, "_CHUNK_ELEMENTS", chunk_elements)
    task = ld.InContextRegression(37, 5, length, noise)
    x, y = sample(task, 4)
    tasks = task.task_vectors().numpy()
    slow = np.stack([slow_dmmse(a, b, tasks, noise) for a, b in zip(x.numpy(), y.numpy(), strict=True)])
    np.testing.assert_allclose(task.dmmse(x, y).numpy(), slow, rtol=1e-8, atol=1e-9)


def test_first_position() -> None:
    """At k = 1 ridge predicts zero and dMMSE_M the mean task."""
    task = ld.InContextRegression(6, **SMALL)
    x, y = sample(task, 50)
    assert torch.equal(task.ridge(x, y)[:, 0], torch.zeros(50, dtype=torch.float64))
    torch.testing.assert_close(task.dmmse(x, y)[:, 0], x[:, 0] @ task.task_vectors().mean(0))


def test_zero_predictor_has_its_exact_loss() -> None:
    x, y = sample(ld.InContextRegression(INF, **PAPER), 40_000)
    mean, error = mean_and_error(y.square())
    assert abs(mean - 8.125) < 4 * error
    assert x.shape == (40_000, 16, 8)


@pytest.mark.parametrize(("settings", "expected", "given_error"), [(PAPER, 2.70, 0.01), (SMALL, 1.652, 0.005)])
def test_ridge_loss_out_of_distribution(settings: dict, expected: float, given_error: float) -> None:
    """The published Monte Carlo values of loss_inf(ridge), within both errors."""
    task = ld.InContextRegression(INF, **settings)
    x, y = sample(task, 16_384)
    mean, error = mean_and_error((task.ridge(x, y) - y).square())
    assert abs(mean - expected) < 4 * math.hypot(error, given_error)


def test_ridge_loss_by_position() -> None:
    expected = [8.1, 7.1, 6.2, 5.2, 4.3, 3.4, 2.5, 1.8, 1.24, 0.87, 0.64, 0.50, 0.40, 0.34, 0.31, 0.29]
    task = ld.InContextRegression(INF, **PAPER)
    x, y = sample(task, 16_384)
    squares = (task.ridge(x, y) - y).square()
    rounding = np.array([0.05] * 8 + [0.005] * 8)
    error = (squares.std(0) / math.sqrt(len(squares))).numpy()
    assert np.all(np.abs(squares.mean(0).numpy() - expected) < rounding + 4 * error)


@pytest.mark.parametrize(
    ("settings", "num_tasks", "loss", "gap", "ood", "num_draws"),
    [(PAPER, 64, 1.20, 1.49, 7.4, 8), (PAPER, 256, 1.45, 1.23, 6.1, 3), (SMALL, 16, 1.04, 0.72, 3.4, 16)],
)
def test_dmmse_losses_over_task_draws(
    settings: dict, num_tasks: int, loss: float, gap: float, ood: float, num_draws: int
) -> None:
    """loss_M(dMMSE), ridge's gap on q_M and loss_inf(dMMSE): means over task draws against the published means.

    The draw of the tasks matters more than the sequences, so the error is that of the spread between draws; the
    published values are means over 8 draws of their own.
    """
    found = []
    for seed in range(num_draws):
        task = ld.InContextRegression(num_tasks, **settings, seed=seed)
        x, y = sample(task, 2_048, seed)
        x_out, y_out = sample(task.with_tasks(INF), 2_048, seed)
        dmmse_loss = (task.dmmse(x, y) - y).square().mean().item()
        ridge_loss = (task.ridge(x, y) - y).square().mean().item()
        found.append((dmmse_loss, ridge_loss - dmmse_loss, (task.dmmse(x_out, y_out) - y_out).square().mean().item()))
    spread = np.maximum(np.std(found, axis=0, ddof=1), 0.03 * np.array([loss, gap, ood]))
    error = spread * math.sqrt(1 / num_draws + 1 / 8)
    assert np.all(np.abs(np.mean(found, axis=0) - [loss, gap, ood]) < 4 * error)


@pytest.mark.parametrize("num_tasks", [4, 64])
@pytest.mark.parametrize("inside", [True, False])
def test_bayes_identities(num_tasks: int, inside: bool) -> None:
    """E_qM (ridge - dMMSE)^2 = loss_M(ridge) - loss_M(dMMSE); on q_inf the same with the roles swapped."""
    task = ld.InContextRegression(num_tasks, **SMALL)
    x, y = sample(task if inside else task.with_tasks(INF), 40_000)
    by_ridge, by_dmmse = task.ridge(x, y), task.dmmse(x, y)
    loss_gap = (by_ridge - y).square() - (by_dmmse - y).square()
    mean, error = mean_and_error((by_ridge - by_dmmse).square() - (loss_gap if inside else -loss_gap))
    assert abs(mean) < 4 * error
    assert error < 0.05


def test_at_infinity_dmmse_is_ridge() -> None:
    task = ld.InContextRegression(INF, **SMALL)
    x, y = sample(task, 10)
    assert torch.equal(task.dmmse(x, y), task.ridge(x, y))


def test_large_task_set_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """M = 2^15 with chunks: the same answer, and no temporary above the bound."""
    largest = 0
    original = torch.exp

    def watched(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return original(tensor)

    monkeypatch.setattr(predictors, "_CHUNK_ELEMENTS", 2**20)
    monkeypatch.setattr(predictors.torch, "exp", watched)
    task = ld.InContextRegression(2**15, **SMALL)
    x, y = sample(task, 64)
    found = task.dmmse(x, y)
    assert largest <= 2**20
    np.testing.assert_allclose(
        found[0].numpy(), slow_dmmse(x[0].numpy(), y[0].numpy(), task.task_vectors().numpy(), 0.125), rtol=1e-9
    )


def test_task_sets_are_nested_and_seeded() -> None:
    big, small = (ld.InContextRegression(m, 3, 4, 0.1, seed=5) for m in (1000, 7))
    assert torch.equal(big.task_vectors()[:7], small.task_vectors())
    assert not torch.equal(ld.InContextRegression(7, 3, 4, 0.1, seed=6).task_vectors(), small.task_vectors())
    first, second = (small.sample(torch_generator(1, "a"), 5) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_sequences_come_from_the_task_set() -> None:
    """With next to no noise, least squares on each sequence recovers a member of T_M, each about equally often."""
    task = ld.InContextRegression(3, 4, 8, 1e-12)
    x, y = sample(task, 3_000)
    found = torch.linalg.lstsq(x, y[..., None]).solution[..., 0]
    distances = torch.cdist(found, task.task_vectors())
    assert distances.min(1).values.max() < 1e-3
    counts = torch.bincount(distances.argmin(1), minlength=3).double()
    assert ((counts - 1000).abs() < 4 * math.sqrt(1000 * 2 / 3)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tasks": 0}, "whole number of 1 or more, or inf; got 0"),
        ({"num_tasks": 2.5}, "whole number"),
        ({"num_tasks": math.nan}, "whole number"),
        ({"context_length": 1}, "K must be 2 or more"),
        ({"noise_variance": -0.1}, "noise_variance must be positive and finite; got -0.1"),
        ({"noise_variance": 0.0}, "small value"),
        ({"dimension": 0}, "D must be 1 or more"),
    ],
)
def test_bad_settings(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ld.InContextRegression(**changes)


def test_bad_arguments() -> None:
    x, y = torch.zeros(2, 3, 4), torch.zeros(2, 3)
    with pytest.raises(DataError, match=r"got \(2, 3, 4\) and \(2, 4\)"):
        ridge(x, torch.zeros(2, 4), 0.1)
    with pytest.raises(DataError, match="tasks must be"):
        dmmse(x, y, torch.zeros(3, 5), 0.1)
    with pytest.raises(ConfigError, match="positive"):
        ridge(x, y, -1.0)
    with pytest.raises(ConfigError, match="infinity"):
        ld.InContextRegression().task_vectors()
