"""Models whose learning coefficient is known: that each is what it says, at the point that it says."""

import math
from collections.abc import Callable

import pytest
import torch

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.theory import (
    DeepLinearData,
    DeepLinearNetwork,
    NormalCrossing,
    Quadratic,
    ReLUNetwork,
    TwoParameterFamily,
    deep_linear_llc,
    family_data,
    half_squared_error,
    mean_squared_error,
    potential_data,
    rank_minimal_network,
    rescaled,
    squared_error,
    two_parameter_family_outputs,
)


def test_deep_linear_network_is_its_product() -> None:
    network = DeepLinearNetwork((4, 7, 3, 5), seed=1).double()
    x = torch.randn(6, 4, generator=torch_generator(0, "x"), dtype=torch.float64)
    slow = torch.linalg.multi_dot([weight.detach() for weight in reversed(list(network.weights))])
    torch.testing.assert_close(network.product(), slow)
    torch.testing.assert_close(network(x), x @ slow.T)
    assert [tuple(weight.shape) for weight in network.weights] == [(7, 4), (3, 7), (5, 3)]
    assert not torch.equal(network.weights[0], DeepLinearNetwork((4, 7, 3, 5), seed=2).double().weights[0])


@pytest.mark.parametrize(
    ("widths", "rank"), [((10, 8, 9, 10), 4), ((13, 6, 5, 7, 17, 5), 1), ((6, 3, 6), 3), ((3, 4, 5), 0), ((5, 6), 2)]
)
def test_every_layer_has_the_rank_of_the_product(widths: tuple[int, ...], rank: int) -> None:
    network = rank_minimal_network(widths, rank, seed=3)
    num_layers = len(widths) - 1
    balanced = torch.linalg.svdvals(network.product().detach().double())
    for matrix, power in [(network.product(), 1), *((weight, num_layers) for weight in network.weights)]:
        values = torch.linalg.svdvals(matrix.detach().double())
        assert (values[:rank] ** power > 0.499).all()
        assert (values[:rank] ** power < 2.001).all()
        assert (values[rank:] < 1e-6).all()
        # Balanced: each layer carries the L-th root of the product's singular values.
        torch.testing.assert_close(values[:rank] ** power, balanced[:rank], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("widths", "rank"), [((2, 2, 2), 1), ((3, 4, 2), 2), ((4, 2, 3, 4), 1), ((3, 3, 3), 0)])
def test_hessian_at_the_rank_minimal_point(widths: tuple[int, ...], rank: int) -> None:
    """With two layers or more exactly r (H_0 + H_L) - r^2 directions are curved there: twice lambda's first term."""
    network = rank_minimal_network(widths, rank, seed=0).double()
    data = DeepLinearData(network.product().detach())
    sizes = [weight.numel() for weight in network.weights]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        total = torch.eye(widths[0], dtype=torch.float64)
        for part, weight in zip(flat.split(sizes), network.weights, strict=True):
            total = part.view_as(weight) @ total
        return (total - data.teacher).square().sum() / 2

    flat = torch.cat([weight.detach().ravel() for weight in network.weights])
    curvatures = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))
    curved = int((curvatures > 1e-9).sum())
    assert curved == rank * (widths[0] + widths[-1]) - rank**2
    assert curved / 2 <= deep_linear_llc(widths, rank)


def test_population_loss_is_the_mean_loss() -> None:
    """Against a sample: 4 standard errors, for both distributions of the inputs."""
    network = DeepLinearNetwork((5, 4, 3), seed=0)
    teacher = rank_minimal_network((5, 4, 3), 2, seed=1).product().detach()
    for inputs, noise in [("normal", 1.0), ("uniform", 0.0)]:
        data = DeepLinearData(teacher, inputs=inputs, noise=noise)
        losses = half_squared_error(network, data(torch_generator(0, "sample", inputs), 40_000)).detach().double()
        error = losses.std() / math.sqrt(len(losses))
        assert abs(losses.mean() - data.population_loss(network)) < 4 * error


def test_losses_are_per_sample() -> None:
    network = rank_minimal_network((5, 4, 3), 2)
    x, y = DeepLinearData(network.product().detach())(torch_generator(0, "batch"), 8)
    outputs = network(x).detach()
    by_hand = torch.tensor([sum((outputs[i, j] - y[i, j]) ** 2 for j in range(3)) for i in range(8)])
    torch.testing.assert_close(half_squared_error(network, (x, y)), by_hand / 2)
    torch.testing.assert_close(mean_squared_error(network, (x, y)), by_hand / 3)
    torch.testing.assert_close(squared_error(network, (x, y)), by_hand)
    with pytest.raises(DataError, match="must agree"):
        half_squared_error(network, (x, y[:, :2]))


def test_data_is_fresh_and_repeatable() -> None:
    teacher = rank_minimal_network((5, 4, 3), 2).product().detach()
    data = DeepLinearData(teacher, inputs="uniform", noise=0.0)
    generator = torch_generator(0, "stream")
    (x, y), (other, _) = data(generator, 500), data(generator, 500)
    again, _ = data(torch_generator(0, "stream"), 500)
    assert torch.equal(x, again)
    assert not torch.equal(x, other)
    assert x.dtype == torch.float32
    assert 9 < x.max() <= 10
    assert -10 <= x.min() < -9
    torch.testing.assert_close(y, x @ teacher.T)


def test_deep_linear_refuses() -> None:
    with pytest.raises(ConfigError, match="whole numbers"):
        DeepLinearNetwork((5,))
    with pytest.raises(ConfigError, match="smallest width, 3"):
        rank_minimal_network((5, 3, 5), 4)
    with pytest.raises(ConfigError, match="detach"):
        DeepLinearData(DeepLinearNetwork((2, 2)).product())
    with pytest.raises(ConfigError, match="normal"):
        DeepLinearData(torch.zeros(2, 2), inputs="gaussian")


@pytest.mark.parametrize(
    ("model", "potential"),
    [
        (Quadratic([0.0, 1.0, 6.0]), lambda w: 0.5 * (w[1] ** 2 + 6 * w[2] ** 2)),
        (NormalCrossing([3]), lambda w: w[0] ** 6),
        (NormalCrossing([1, 0, 2]), lambda w: w[0] ** 2 * w[2] ** 4),
    ],
)
def test_potentials(model: Quadratic | NormalCrossing, potential: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Zero with zero gradient at w*; elsewhere the potential, up to a constant also with noisy targets."""
    clean, noisy = potential_data(model, 12), potential_data(model, 12, noise=0.7, seed=4)
    at_origin = squared_error(model, noisy)
    assert at_origin.shape == (12,)
    assert at_origin.std() > 0.1
    loss = squared_error(model, clean)
    assert torch.equal(loss, torch.zeros(12))
    loss.mean().backward()
    assert model.weight.grad is not None
    assert torch.equal(model.weight.grad, torch.zeros_like(model.weight))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([0.8, -1.3, 0.6])[: len(model.weight)])
        exact = potential(model.weight)
        torch.testing.assert_close(squared_error(model, clean), exact.expand(12))
        torch.testing.assert_close((squared_error(model, noisy) - at_origin).mean(), exact)


@pytest.mark.parametrize(("layers", "power"), [(1, 2), (3, 2), (2, 3)])
def test_family_is_that_of_the_theory_room(layers: int, power: int) -> None:
    model = TwoParameterFamily(layers, power).double()
    x, y = (part.double() for part in family_data(4))
    assert x.shape == (16, 2)
    assert float(x.abs().max()) == 0.75
    assert torch.equal(squared_error(model, (x, y)), torch.zeros(16, dtype=torch.float64))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([0.9, -0.4]))
    expected = two_parameter_family_outputs(model.weight.detach().numpy(), x.numpy(), layers, power)
    torch.testing.assert_close(model(x).detach(), torch.from_numpy(expected))


def test_rescaling_is_exact() -> None:
    network = ReLUNetwork((3, 8, 6, 2), seed=5)
    generator = torch_generator(0, "rescaling")
    with torch.no_grad():
        for bias in network.biases:
            bias.normal_(generator=generator)
    x = torch.randn(20, 3, generator=generator)
    powers_of_two = [2.0 ** torch.randint(-10, 11, (8,), generator=generator), 2.0**-7]
    same = rescaled(network, powers_of_two)
    assert torch.equal(same(x), network(x))
    assert not torch.equal(same.weights[0], network.weights[0])
    six_decades = [10.0 ** (6 * torch.rand(width, generator=generator) - 3) for width in (8, 6)]
    torch.testing.assert_close(rescaled(network, six_decades)(x), network(x), rtol=1e-4, atol=1e-5)
    back = rescaled(same, [1 / powers_of_two[0], 2.0**7])
    assert all(torch.equal(one, other) for one, other in zip(back.parameters(), network.parameters(), strict=True))


def test_relu_network_by_hand() -> None:
    network = ReLUNetwork((3, 8, 6, 2), seed=5).double()
    x = torch.randn(4, 3, generator=torch_generator(0, "x"), dtype=torch.float64)
    hidden = (x @ network.weights[0].T).clamp(min=0)
    hidden = (hidden @ network.weights[1].T).clamp(min=0)
    torch.testing.assert_close(network(x), hidden @ network.weights[2].T)


def test_small_models_refuse() -> None:
    with pytest.raises(ConfigError, match="curvatures"):
        Quadratic([1.0, -1.0])
    with pytest.raises(ConfigError, match="not all zero"):
        NormalCrossing([0, 0])
    with pytest.raises(ConfigError, match="power"):
        TwoParameterFamily(2, 0)
    with pytest.raises(ConfigError, match="even"):
        potential_data(NormalCrossing([1]), 7)
    with pytest.raises(ConfigError, match="2 hidden layers"):
        rescaled(ReLUNetwork((3, 8, 6, 2)), [1.0])
    with pytest.raises(ConfigError, match="positive finite"):
        rescaled(ReLUNetwork((3, 8, 2)), [-1.0])
    with pytest.raises(ConfigError, match="whole numbers"):
        ReLUNetwork((3,))
