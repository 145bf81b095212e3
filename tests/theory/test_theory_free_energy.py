"""Free energies: reduced-rank regression against deep linear networks, crossovers against Lambert's W, coverage."""

from __future__ import annotations

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import lambertw

import llc_dynamics as ld
from llc_dynamics import theory
from llc_dynamics.errors import ConfigError
from llc_dynamics.plots import plot_free_energy
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.theory import Solution

RIDGE = Solution(1.30, 20.0, name="ridge")
DMMSE = Solution(1.25, 60.0, name="dMMSE")


def test_reduced_rank_printed_cases() -> None:
    """One of each case by hand; a wide hidden layer makes the model regular."""
    assert theory.reduced_rank_llc(1, 1, 3, 1) == 1.5  # N + r > M + H: (1 - 1 + 3) / 2
    assert theory.reduced_rank_llc(3, 1, 1, 1) == 1.5
    assert theory.reduced_rank_llc(2, 9, 3, 1) == 3.0  # H + r > M + N: M N / 2
    assert (theory.reduced_rank_llc(2, 1, 2, 0), theory.reduced_rank_multiplicity(2, 1, 2, 0)) == (1.0, 2)
    assert (theory.reduced_rank_llc(2, 2, 2, 0), theory.reduced_rank_multiplicity(2, 2, 2, 0)) == (1.5, 1)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [((0, 1, 1, 0), "inputs"), ((1, 1.5, 1, 0), "hidden"), ((1, 1, "x", 0), "outputs"), ((2, 3, 2, 3), "lower the")],
)
def test_reduced_rank_refuses(numbers, said) -> None:
    with pytest.raises(ConfigError, match=said):
        theory.reduced_rank_llc(*numbers)


def test_free_energy_is_the_log_evidence() -> None:
    """-log of the integral of exp(-n L) over the unit cube, for L = w^4 and for u^2 v^2 (m = 2), up to a constant."""

    def single(n):
        return -math.log(quad(lambda w: math.exp(-n * w**4), 0, 1, points=[n**-0.25])[0])

    def double(n):
        # over v the integral of exp(-n u^2 v^2) is known: erf
        def inner(log_u):
            a = math.sqrt(n) * math.exp(log_u)
            return math.exp(log_u) * math.sqrt(math.pi) / 2 * math.erf(a) / a

        return -math.log(quad(inner, -40, 0, points=[-0.5 * math.log(n)], limit=200)[0])

    for evidence, multiplicity in ((single, 1), (double, 2)):
        small, large = 1e12, 1e24
        exponents = [2] if multiplicity == 1 else [1, 1]
        llc, order = theory.normal_crossing_llc(exponents)
        assert order == multiplicity
        grown = evidence(large) - evidence(small)
        predicted = theory.free_energy(0.0, llc, large, order) - theory.free_energy(0.0, llc, small, order)
        assert grown == pytest.approx(predicted, abs=0.06 if order == 2 else 1e-6)
        if order == 2:  # without the term it is off by log 2
            wrong = theory.free_energy(0.0, llc, large) - theory.free_energy(0.0, llc, small)
            assert abs(grown - wrong) > 0.5


def test_free_energy_of_numbers_and_arrays() -> None:
    assert theory.free_energy(0.5, 3.0, 100) == 50 + 3 * math.log(100)
    assert theory.free_energy(0.5, 3.0, 100, 2) == 50 + 3 * math.log(100) - math.log(math.log(100))
    found = theory.free_energy([0.5, 0.1], [3.0, 4.0], [10, 100])
    np.testing.assert_allclose(found, [5 + 3 * math.log(10), 10 + 4 * math.log(100)])
    assert ld.theory.free_energy is theory.free_energy


@pytest.mark.parametrize(("gain", "cost"), [(0.05, 40.0), (1e-6, 3.0), (1e-12, 100.0), (0.36, 1.0), (5.0, 200.0)])
def test_crossover_is_lamberts_w(gain, cost) -> None:
    found = theory.crossover(simple=Solution(1 + gain, 2.0), accurate=Solution(1.0, 2.0 + cost))
    gain = (1 + gain) - 1.0  # as rounded
    ratio = gain / cost
    assert found.kind == "crosses"
    assert found.n == pytest.approx(-lambertw(-ratio, -1).real / ratio, rel=1e-8)
    assert found.small_n == pytest.approx(-lambertw(-ratio, 0).real / ratio, rel=1e-8)
    assert found.interval == (found.n, found.n)  # nothing uncertain
    assert 1 <= found.small_n < math.e < found.n
    # and the preference changes there, once on each branch
    signs = [-1, -1, 1]
    sizes = [(found.small_n + math.e) / 2, found.n * 0.999, found.n * 1.001]
    if found.small_n > 1.0001:
        sizes, signs = [(1 + found.small_n) / 2, *sizes], [1, *signs]
    difference = theory.preference(Solution(1 + gain, 2.0), Solution(1.0, 2.0 + cost), sizes).difference
    assert (np.sign(difference) == signs).all()


def test_crossover_with_multiplicities_is_a_root() -> None:
    simple = Solution(1.3, 20.0, multiplicity=1)
    for order in (1, 2, 9):
        accurate = Solution(1.25, 60.0, multiplicity=order)
        found = theory.crossover(simple=simple, accurate=accurate)
        assert found.multiplicity_difference == order - 1
        gap = theory.free_energy(1.3, 20.0, found.n, 1) - theory.free_energy(1.25, 60.0, found.n, order)
        assert gap == pytest.approx(0, abs=1e-6)
        # a higher multiplicity lowers the free energy of the accurate solution: it wins earlier
        assert found.n <= theory.crossover(simple=RIDGE, accurate=DMMSE).n + 1e-6
    one_known = theory.crossover(simple=simple, accurate=DMMSE)
    assert one_known.multiplicity_difference is None
    assert one_known.n == theory.crossover(simple=RIDGE, accurate=DMMSE).n


@pytest.mark.parametrize(
    ("gain", "cost", "kind", "said"),
    [
        (-0.1, 10.0, "never", "is no simpler"),
        (0.0, 10.0, "never", "loses as much"),
        (0.0, 0.0, "never", "loses as much"),
        (-0.1, -10.0, "never", "changed roles"),
        (0.1, -10.0, "always", "no more complex"),
        (0.1, 0.0, "always", "no more complex"),
        (0.0, -10.0, "always", "no more complex"),
        (1e-304, 1e3, "never", "beyond n = 1e299"),
        (0.4, 1.0, "always", "at every n above e"),
    ],
)
def test_no_crossover_says_why(gain, cost, kind, said) -> None:
    simple, accurate = Solution(0.0, 30.0, name="ridge"), Solution(-gain, 30.0 + cost, name="dMMSE_8")
    found = theory.crossover(simple=simple, accurate=accurate)
    assert (found.kind, found.n, found.small_n, found.interval) == (kind, None, None, None)
    assert said in found.reason
    assert kind in found.sentence
    assert "ridge" in found.sentence
    sizes = np.geomspace(3, 1e9, 40)
    probability = theory.preference(accurate, simple, sizes).probability
    if "roles" in said:
        assert probability[0] == 1
        assert probability[-1] == 0
    elif (gain, cost) != (0, 0):
        assert (probability == (1.0 if kind == "always" else 0.0)).all()


def test_preference_carries_the_errors() -> None:
    """The stated probability against draws of the measured numbers themselves, to 4 standard errors."""
    first, second = Solution(1.30, 20.0, 0.01, 3.0), Solution(1.25, 60.0, 0.02, 4.0)
    sizes = np.array([3.0, 100.0, 4_000.0, 7_000.0, 1e5])
    found = theory.preference(first, second, sizes)
    draws = 40_000
    generator = numpy_generator(0, "measured solutions")
    losses = np.array([1.30, 1.25]) + generator.standard_normal((draws, 2)) * [0.01, 0.02]
    llcs = np.array([20.0, 60.0]) + generator.standard_normal((draws, 2)) * [3.0, 4.0]
    energies = losses[:, :, None] * sizes + llcs[:, :, None] * np.log(sizes)
    gaps = energies[:, 0] - energies[:, 1]
    np.testing.assert_allclose(gaps.std(axis=0), found.standard_error, rtol=4 / math.sqrt(2 * draws))
    error = np.sqrt(found.probability * (1 - found.probability) / draws)
    assert (np.abs((gaps < 0).mean(axis=0) - found.probability) <= 4 * error + 1e-3).all()
    paired = theory.preference(first, second, sizes, loss_difference_error=0.001)
    assert (paired.standard_error < found.standard_error).all()
    json.dumps(found.to_dict(), allow_nan=False)
    assert "at n = 3" in found.sentence
    assert "at n = 100,000" in found.sentence


@pytest.mark.parametrize(
    ("gain_error", "cost_error"),
    [(0.002, 2.0), (0.02, 2.0), (0.002, 25.0), (0.03, 25.0), (0.06, 10.0)],
    ids=["well known", "loss poor", "LLC poor", "both poor", "loss unresolved"],
)
def test_interval_covers_as_stated(gain_error, cost_error) -> None:
    """Of repeated measurements with these errors 90% hold n*, however poor they are; 4 standard errors."""
    true = theory.crossover(simple=RIDGE, accurate=DMMSE).n
    generator = numpy_generator(0, "coverage of the crossover", f"{gain_error} {cost_error}")
    repetitions, held = 800, 0
    for _ in range(repetitions):
        simple = Solution(1.30 + gain_error * generator.standard_normal(), 200.0, gain_error)
        cost = 40.0 + cost_error * generator.standard_normal()
        interval = theory.crossover(simple=simple, accurate=Solution(1.25, 200.0 + cost, 0.0, cost_error)).interval
        held += interval is not None and interval[0] <= true <= interval[1]
    # the hull of a set with gaps can only hold n* more often
    error = math.sqrt(0.9 * 0.1 / repetitions)
    assert held / repetitions > 0.9 - 4 * error
    if gain_error < 0.03:
        assert held / repetitions < 0.9 + 4 * error


def test_interval_is_where_the_band_holds_zero() -> None:
    simple, accurate = Solution(1.30, 20.0, 0.005, 3.0, name="ridge"), Solution(1.25, 60.0, 0.005, 4.0, name="dMMSE")
    found = theory.crossover(simple=simple, accurate=accurate, level=0.9)
    low, high = found.interval
    assert low < found.n < high
    assert theory.preference(accurate, simple, [low, found.n, high]).probability == pytest.approx([0.05, 0.5, 0.95])
    assert "90% interval" in found.sentence
    wide = theory.crossover(simple=simple, accurate=accurate, level=0.99).interval
    assert wide[0] < low
    assert wide[1] > high
    open_ended = theory.crossover(simple=Solution(1.26, 20.0, 0.02, 3.0), accurate=Solution(1.25, 60.0, 0.02, 3.0))
    assert open_ended.interval[1] == math.inf
    assert open_ended.kind == "crosses"
    assert "to infinity" in open_ended.sentence
    assert open_ended.to_dict()["interval"][1] == "inf"
    json.dumps(open_ended.to_dict(), allow_nan=False)
    from_e = theory.crossover(simple=Solution(1.3, 20.0, 0.001, 30.0), accurate=Solution(1.25, 60.0, 0.001, 30.0))
    assert from_e.interval[0] == math.e
    never = theory.crossover(simple=Solution(1.24, 20.0, 0.02), accurate=Solution(1.25, 60.0, 0.02))
    assert never.kind == "never"
    assert never.interval[1] == math.inf
    assert never.interval[0] > 100


def test_order_over_tasks_is_that_of_the_theory() -> None:
    """As M grows dl shrinks and dlambda grows: later crossovers (Carroll et al. 2025), with the gaps for D=8."""
    gaps = {16: 1.80, 64: 1.49, 256: 1.23, 1024: 0.99}
    found = [
        theory.crossover(simple=Solution(gap, 50.0), accurate=Solution(0.0, 60.0 + 10 * k)).n
        for k, gap in enumerate(gaps.values())
    ]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Solution(math.nan, 1.0, name="ridge"), "ridge: loss must be finite"),
        (lambda: Solution(1.0, -3.0), "behavioural"),
        (lambda: Solution(1.0, 1.0, -0.1), "loss_error"),
        (lambda: Solution(1.0, object()), "its llc and its total_error"),
        (lambda: Solution("low", 1.0), "give a number"),
        (lambda: Solution(1.0, 1.0, 0.1, math.inf), "llc_error"),
        (lambda: Solution(1.0, 1.0, multiplicity=0), "multiplicity"),
        (lambda: theory.free_energy(1.0, 1.0, 1), "above 1"),
        (lambda: theory.free_energy(1.0, 1.0, 2, 1), "e or more"),
        (lambda: theory.free_energy(1.0, 1.0, 10, 1.5), "whole number"),
        (lambda: theory.free_energy(1.0, -1.0, 10), "zero or more"),
        (lambda: theory.preference(RIDGE, 60.0, 10), "second is a float"),
        (lambda: theory.preference(RIDGE, DMMSE, [10.0, math.nan]), "sample sizes"),
        (lambda: theory.preference(RIDGE, DMMSE, [[10.0]]), "list of numbers"),
        (lambda: theory.preference(RIDGE, DMMSE, 10, loss_difference_error=-1), "loss_difference_error"),
        (lambda: theory.crossover(simple=RIDGE, accurate=None), "accurate is a NoneType"),
        (lambda: theory.crossover(simple=RIDGE, accurate=DMMSE, level=90), "between 0 and 1"),
        (lambda: plot_free_energy({}), "no pairs"),
        (lambda: plot_free_energy((RIDGE, 3.0)), "accurate is a float"),
        (lambda: plot_free_energy(RIDGE), "pair"),
    ],
)
def test_refuses_with_advice(call, said) -> None:
    with pytest.raises(ConfigError, match=said):
        call()


def test_plot_free_energy_draws_what_was_computed() -> None:
    simple, accurate = Solution(1.30, 20.0, 0.005, 3.0, name="ridge"), Solution(1.25, 60.0, 0.005, 4.0, name="dMMSE")
    expected = theory.crossover(simple=simple, accurate=accurate)
    ax = plot_free_energy((simple, accurate))
    line = next(line for line in ax.get_lines() if line.get_gid() == "difference")
    np.testing.assert_allclose(
        line.get_ydata(), theory.preference(accurate, simple, line.get_xdata()).difference, rtol=1e-9
    )
    marks = {line.get_gid(): line.get_xdata() for line in ax.get_lines() if line.get_gid()}
    assert marks["crossover"] == pytest.approx([expected.n])
    assert marks["interval"] == pytest.approx(expected.interval)
    plt.close("all")
    never = Solution(1.29, 20.0, 0.0, name="ridge")
    pairs = {8: (simple, accurate), 64: (never, Solution(1.3, 40.0)), 16: (Solution(1.3, 20.0), accurate)}
    ax = plot_free_energy(pairs, n=np.geomspace(10, 1e6, 50))
    assert sum(line.get_gid() == "crossover" for line in ax.get_lines()) == 2
    assert any("never" in text.get_text() for text in ax.get_legend().get_texts())
    plt.close("all")


def test_numbers_of_torch_and_numpy() -> None:
    given = Solution(
        torch.tensor(1.5, requires_grad=True), np.float32(20), np.array(0.25), torch.tensor(3), name="ridge"
    )
    assert given == Solution(1.5, 20.0, 0.25, 3, name="ridge")
    assert {type(each) for each in (given.loss, given.llc, given.loss_error, given.llc_error)} == {float, int}
    sizes = torch.tensor([100.0, 1000.0], requires_grad=True)
    np.testing.assert_array_equal(theory.free_energy(1.5, 20.0, sizes), theory.free_energy(1.5, 20.0, [100, 1000]))
