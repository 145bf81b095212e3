"""Exact learning coefficients against published values, closed forms from elsewhere, and quadrature."""

import math
import subprocess
import sys
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.integrate import dblquad, quad

import llc_dynamics as ld
from llc_dynamics import theory
from llc_dynamics.errors import ConfigError
from llc_dynamics.seeding import numpy_generator


@pytest.mark.parametrize(
    ("widths", "rank", "llc"),
    [
        ((2, 2, 2), 0, 1.5),
        ((2, 2, 2), 1, 2),
        ((5, 5, 5), 0, 9.5),
        ((5, 5, 5), 2, 11.5),
        ((5, 3, 5), 3, 10.5),
        ((4, 3, 8), 3, 13.5),
        ((10, 10, 10, 10), 0, 33.5),
        ((10, 10, 10, 10), 5, 46),
        ((10, 20, 20, 10), 5, 50),
        ((50, 40, 30, 40, 50), 10, 700),
        ((10, 8, 9, 10), 4, 40.5),
        ((13, 6, 5, 7, 17, 5), 1, 15.5),
    ],
)
def test_deep_linear_values(widths: tuple[int, ...], rank: int, llc: float) -> None:
    assert ld.theory.deep_linear_llc(widths=widths, rank=rank) == llc


def _reduced_rank(inputs: int, hidden: int, outputs: int, rank: int) -> tuple[float, int]:
    """Aoyagi & Watanabe 2005, main theorem (stochastic complexities of reduced rank regression)."""
    M, H, N, r = inputs, hidden, outputs, rank
    if N + r > M + H:
        return (H * M - H * r + N * r) / 2, 1
    if M + r > N + H:
        return (H * N - H * r + M * r) / 2, 1
    if H + r > M + N:
        return M * N / 2, 1
    odd = (M + H + N + r) % 2
    return (-((H + r) ** 2) - M**2 - N**2 + 2 * (H + r) * (M + N) + 2 * M * N + odd) / 8, 1 + odd


def test_two_layers_are_reduced_rank_regression() -> None:
    cases = 0
    for inputs, hidden, outputs in product(range(1, 11), repeat=3):
        for rank in range(min(inputs, hidden, outputs) + 1):
            widths = (inputs, hidden, outputs)
            found = theory.deep_linear_llc(widths, rank), theory.deep_linear_multiplicity(widths, rank)
            assert found == _reduced_rank(inputs, hidden, outputs, rank), (widths, rank)
            same = theory.reduced_rank_llc(*widths, rank), theory.reduced_rank_multiplicity(*widths, rank)
            assert same == found
            cases += 1
    assert cases > 4_000


def test_deep_linear_symmetries() -> None:
    """Transposition reverses the widths; at rank 0 any order of them gives the same; one layer is a regular model."""
    generator = numpy_generator(0, "widths")
    for _ in range(300):
        widths = generator.integers(1, 12, generator.integers(2, 7)).tolist()
        rank = int(generator.integers(0, min(widths) + 1))
        for formula in (theory.deep_linear_llc, theory.deep_linear_multiplicity):
            assert formula(widths, rank) == formula(widths[::-1], rank)
            assert formula(widths, 0) == formula(sorted(widths), 0)
        assert theory.deep_linear_llc(widths[:2], min(rank, *widths[:2])) == widths[0] * widths[1] / 2
        parameters = sum(before * after for before, after in pairwise(widths))
        assert theory.deep_linear_llc(widths, rank) <= min(parameters, widths[0] * widths[-1]) / 2


@pytest.mark.parametrize(
    ("widths", "rank", "said"),
    [
        ((5,), 1, "inputs and the outputs"),
        ((5, 0, 5), 0, r"widths\[1\]"),
        ((5, 2.5), 0, r"widths\[1\]"),
        (7, 0, "list of whole numbers"),
        ((5, 3, 5), 4, "at most rank 3"),
        ((5, 3, 5), -1, "rank"),
    ],
)
def test_deep_linear_refuses(widths: tuple[int, ...], rank: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        theory.deep_linear_llc(widths, rank)


def test_quadratic_closed_forms() -> None:
    """The posterior's value by integration, the value of SGLD by iterating its own variance to the fixed point."""
    curvatures, nbeta, gamma, step = [0.3, 2.0, 0.0], 30.0, 5.0, 0.01
    posterior = stationary = 0.0
    for h in curvatures:
        precision = nbeta * h + gamma
        bounds = 9 / math.sqrt(precision)
        mass = quad(lambda w, a=precision: math.exp(-a * w * w / 2), -bounds, bounds)[0]
        second = quad(lambda w, a=precision: w * w * math.exp(-a * w * w / 2), -bounds, bounds)[0] / mass
        posterior += nbeta * h / 2 * second
        variance = 0.0
        for _ in range(5_000):
            variance = (1 - step * precision / 2) ** 2 * variance + step
        stationary += nbeta * h / 2 * variance
    assert theory.quadratic_llc(curvatures, nbeta, gamma) == pytest.approx(posterior, rel=1e-9)
    assert theory.quadratic_sgld_llc(curvatures, nbeta, gamma, step) == pytest.approx(stationary, rel=1e-9)
    assert theory.quadratic_llc([1.0, 4.0], nbeta, 0.0) == 1.0


def test_quadratic_refuses() -> None:
    with pytest.raises(ConfigError, match="diverges"):
        theory.quadratic_sgld_llc([1.0], 100.0, 0.0, 0.04)
    with pytest.raises(ConfigError, match="needs localization"):
        theory.quadratic_llc([1.0, 0.0], 1.0, 0.0)
    with pytest.raises(ConfigError, match="curvatures"):
        theory.quadratic_llc([], 1.0, 1.0)


@pytest.mark.parametrize(
    ("exponents", "answer"), [((1,), (0.5, 1)), ((3,), (1 / 6, 1)), ((1, 2, 2), (0.25, 2)), ((0, 1), (0.5, 1))]
)
def test_normal_crossing_values(exponents: tuple[int, ...], answer: tuple[float, int]) -> None:
    assert theory.normal_crossing_llc(exponents) == answer


@pytest.mark.parametrize(
    ("exponent", "nbeta", "gamma"), [(1, 10.0, 1.0), (2, 100.0, 1.0), (3, 1e4, 5.0), (2, 1.0, 50.0)]
)
def test_localized_power_is_the_integral(exponent: int, nbeta: float, gamma: float) -> None:
    def density(w: float) -> float:
        return math.exp(-nbeta * w ** (2 * exponent) - gamma / 2 * w * w)

    edge = [nbeta ** (-1 / (2 * exponent))]
    mass = quad(density, 0, 9 / math.sqrt(gamma), points=edge, epsabs=1e-14)[0]
    energy = quad(lambda w: nbeta * w ** (2 * exponent) * density(w), 0, 9 / math.sqrt(gamma), points=edge)[0]
    found = theory.localized_normal_crossing_llc([exponent], nbeta, gamma)
    assert found == pytest.approx(energy / mass, rel=1e-9)


@pytest.mark.parametrize(
    ("exponents", "nbeta", "gamma"), [((1, 1), 50.0, 1.0), ((1, 2), 500.0, 2.0), ((3, 2), 30.0, 1.0)]
)
def test_localized_crossing_is_the_integral(exponents: tuple[int, int], nbeta: float, gamma: float) -> None:
    """A plain double integral over a quadrant, in log coordinates so that the thin valleys are resolved."""

    def cost(u: float, v: float) -> float:
        return nbeta * math.exp(2 * (exponents[0] * u + exponents[1] * v))

    def density(u: float, v: float) -> float:
        return math.exp(u + v - cost(u, v) - gamma / 2 * (math.exp(2 * u) + math.exp(2 * v)))

    mass = dblquad(density, -18, 2.2, -18, 2.2, epsabs=1e-9, epsrel=1e-9)[0]
    energy = dblquad(lambda u, v: cost(u, v) * density(u, v), -18, 2.2, -18, 2.2, epsabs=1e-9, epsrel=1e-9)[0]
    found = theory.localized_normal_crossing_llc(exponents, nbeta, gamma)
    assert found == pytest.approx(energy / mass, rel=3e-7)


def test_localized_crossing_tends_to_lambda() -> None:
    assert theory.localized_normal_crossing_llc([1, 3], 1e40, 1.0) == pytest.approx(1 / 6, rel=1e-6)
    # At multiplicity m the mass is about nbeta^-lambda (log nbeta)^(m - 1), so the estimate lags by (m - 1)/log nbeta.
    nbeta = 1e24
    lag = theory.localized_normal_crossing_llc([1, 1], nbeta, 1.0) - 0.5
    assert lag == pytest.approx(-1 / math.log(nbeta), rel=0.05)
    assert theory.localized_normal_crossing_llc([2], 7.0, 0.0) == 0.25
    assert theory.localized_normal_crossing_llc([2], 7.0, 1e-9) == pytest.approx(0.25, rel=1e-6)
    # A coordinate that the loss does not see changes nothing.
    assert theory.localized_normal_crossing_llc([0, 2], 7.0, 1.0) == theory.localized_normal_crossing_llc([2], 7.0, 1.0)


def test_normal_crossing_refuses() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        theory.normal_crossing_llc([0, 0])
    with pytest.raises(ConfigError, match="no finite mass"):
        theory.localized_normal_crossing_llc([1, 1], 10.0, 0.0)
    with pytest.raises(ConfigError, match="nbeta"):
        theory.localized_normal_crossing_llc([1], -1.0, 1.0)


@pytest.mark.parametrize(("layers", "llc"), [(1, 3 / 4), (2, 1 / 4), (3, 3 / 28), (4, 1 / 20), (5, 3 / 124)])
def test_two_parameter_family_published_values(layers: int, llc: float) -> None:
    assert theory.two_parameter_family_llc(layers, 2) == llc


INPUTS = numpy_generator(0, "inputs of the family").uniform(-1, 1, (16, 2))


@pytest.mark.parametrize(("layers", "power"), [(1, 2), (2, 2), (3, 2), (2, 3), (3, 3), (2, 1)])
def test_two_parameter_family_lambda_is_the_limit(layers: int, power: int) -> None:
    """nbeta E[L] without localisation tends to lambda, its error falling with the square of the radius explored."""
    llc = theory.two_parameter_family_llc(layers, power)
    degree = 1.5 / llc
    far, near = (
        theory.localized_two_parameter_family_llc(layers, power, INPUTS[:3], 10.0 ** (2 * degree * decades), 0.0)
        for decades in (1.0, 1.5)
    )
    assert near == pytest.approx(llc, rel=1e-3)
    assert (llc - near) / (llc - far) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(("layers", "power"), [(1, 2), (2, 2), (2, 3), (3, 3)])
def test_two_parameter_family_volume(layers: int, power: int) -> None:
    """The area of {L < v} on a grid falls as v^lambda: counted in a box in (t1 + t2, t1), without any polar formula."""
    llc = theory.two_parameter_family_llc(layers, power)
    logarithms = []
    for radius in (0.02, 0.002):
        half_widths = np.array([30 * radius**2, 5 * radius])
        axes = [np.linspace(-half, half, 601) for half in half_widths]
        s, t1 = np.meshgrid(*axes, indexing="ij")
        outputs = theory.two_parameter_family_outputs(np.stack([t1, s - t1], -1), INPUTS[:4], layers, power)
        loss = np.mean(np.sum(outputs**2, -1), -1)
        level = radius ** (3 / llc)
        inside = loss < level
        assert inside.sum() > 1_000
        edge = np.concatenate([inside[[0, -1]].ravel(), inside[:, [0, -1]].ravel()])
        assert not edge.any()  # the box holds all of the set
        logarithms.append((math.log(inside.mean() * half_widths.prod()), math.log(level)))
    (area, level), (small_area, small_level) = logarithms
    assert (area - small_area) / (level - small_level) == pytest.approx(llc, rel=0.02)


def test_localized_two_parameter_family_is_the_integral() -> None:
    layers, power, nbeta, gamma = 2, 2, 40.0, 3.0

    def cost(t2: float, t1: float) -> float:
        outputs = theory.two_parameter_family_outputs([t1, t2], INPUTS[:3], layers, power)
        return nbeta * float(np.mean(np.sum(outputs**2, -1)))

    grid = np.linspace(-4.5, 4.5, 901)
    t1, t2 = np.meshgrid(grid, grid, indexing="ij")
    energies = np.zeros_like(t1)
    for row in range(len(grid)):
        outputs = theory.two_parameter_family_outputs(np.stack([t1[row], t2[row]], -1), INPUTS[:3], layers, power)
        energies[row] = nbeta * np.mean(np.sum(outputs**2, -1), -1)
    assert energies[350, 500] == pytest.approx(cost(grid[500], grid[350]))
    weights = np.exp(-energies - gamma / 2 * (t1**2 + t2**2))
    found = theory.localized_two_parameter_family_llc(layers, power, INPUTS[:3], nbeta, gamma)
    assert found == pytest.approx(float((weights * energies).sum() / weights.sum()), rel=1e-8)


def test_two_parameter_family_refuses() -> None:
    with pytest.raises(ConfigError, match="layers"):
        theory.two_parameter_family_llc(0, 2)
    with pytest.raises(ConfigError, match="fewer layers"):
        theory.localized_two_parameter_family_llc(20, 2, INPUTS, 10.0, 1.0)
    with pytest.raises(ConfigError, match="inputs"):
        theory.two_parameter_family_outputs([0.1, 0.1], [1.0, 2.0], 2, 2)


def test_formulas_need_no_torch() -> None:
    program = """
import sys
from llc_dynamics import theory
theory.deep_linear_llc([2, 2], 1)
assert "torch" not in sys.modules
theory.Quadratic([1.0])
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_exported_name_is_there() -> None:
    assert all(hasattr(theory, name) for name in theory.__all__)
    with pytest.raises(AttributeError, match="no attribute 'quartic'"):
        _ = theory.quartic
