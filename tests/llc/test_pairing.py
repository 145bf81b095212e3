"""Errors of the points of a curve that move together, on exact simulations of SGLD on quadratics."""

import numpy as np
import pytest

import llc_dynamics as ld
from llc_dynamics.llc import LLCResult
from llc_dynamics.llc.diagnostics import monte_carlo_error
from llc_dynamics.sampling import FailedChain

NBETA, GAMMA, CHAINS, DRAWS, EVERY = 200.0, 10.0, 2, 150, 4
BASE = np.geomspace(1e-2, 1, 10)
FACTORS = np.exp(np.random.default_rng(5).normal(size=BASE.size))
# four checkpoints beside the first: nearly the same, somewhat other directions, quite other ones, four times as curved
CURVATURES = [BASE, 1.03 * BASE, BASE * FACTORS**0.2, BASE * FACTORS, 4 * BASE]


def traces(repetitions, curvatures=CURVATURES, draws=DRAWS, seed=0):
    """nbeta (L_B(w) - L_B(w*)) [point, repetition, chain, draw] of SGLD on noisy batches, in common."""
    generator = np.random.default_rng(seed)
    h = np.array(curvatures)[:, None, None]
    shape = (1, repetitions, CHAINS, BASE.size)
    step = 0.4 / (NBETA * np.max(curvatures))
    w = generator.normal(size=shape) / np.sqrt(NBETA * h + GAMMA)
    found = np.empty((len(curvatures), repetitions, CHAINS, draws))
    for update in range(draws * EVERY):
        batch = 1 + 0.3 * generator.normal(size=shape)
        if update % EVERY == 0:
            found[..., update // EVERY] = NBETA / 2 * (h * batch * w**2).sum(-1)
        w = w * (1 - step / 2 * (NBETA * h * batch + GAMMA)) + np.sqrt(step) * generator.normal(size=shape)
    return found


def result(trace, seed=0, systematic=0.0, dead=()):
    """What the curve reads of a result."""
    trace = np.where(np.isin(np.arange(len(trace)), dead)[:, None], np.nan, trace)
    alive = np.setdiff1d(np.arange(len(trace)), dead)
    error, ess = monte_carlo_error(trace[alive])
    return LLCResult(
        llc=float(trace[alive].mean()) if len(alive) else np.nan, standard_error=float(np.hypot(error, systematic)),
        systematic_error=systematic, ess_mean=ess, trace=trace, corrected_trace=trace, distance_trace=trace,
        virial_trace=trace, settings={"seed": seed}, failed_chains=tuple(FailedChain(each, 3, None) for each in dead),
        r_hat=1.0, r_hat_distance=1.0, ess=ess, virial=1.0, virial_error=0.1, virial_by_block={},
        virial_by_block_error={}, num_samples=10, nbeta=1.0, dimension=1, initial_loss=0.0, initial_loss_error=0.1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def curves():
    """100 curves, each with its own noise."""
    return [ld.LLCCurve(dict(enumerate(map(result, each)))) for each in traces(100, seed=1).swapaxes(0, 1)]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_intervals_of_a_change_hold_it(curves, step):
    """95% intervals of the paired draws hold it in 90 to 98 of 100, and are no wider than they have to be."""
    exact = np.mean([curve.values[step] - curve.values[0] for curve in curves])
    changes = [curve.difference(0, step) for curve in curves]
    assert 90 <= sum(low <= exact <= high for low, high in (change.interval() for change in changes)) <= 98
    spread = np.std([change.value for change in changes])
    assert 0.8 < np.mean([change.standard_error for change in changes]) / spread < 1.3
    matrix = [ld.Curve.difference(curve, 0, step) for curve in curves]
    assert sum(low <= exact <= high for low, high in (change.interval() for change in matrix)) >= 90
    assert 0.8 < np.mean([change.standard_error for change in matrix]) / spread < 1.6


def test_a_change_between_neighbours_is_far_more_exact_than_either_value(curves):
    change = curves[0].difference(0, 1)
    assert change.standard_error < 0.1 * min(curves[0].standard_errors)


def test_the_covariance_is_one_of_the_stated_errors():
    draws = traces(1, [BASE * factor for factor in np.geomspace(1, 2, 30)], draws=40)[:, 0]
    points = {place: result(trace, systematic=0.01 * place) for place, trace in enumerate(draws)}
    points[3] = result(draws[3], dead=[0])
    points[4] = result(draws[4][:, :20])
    points[5] = result(draws[5], dead=[0, 1])
    points[6] = result(draws[6], seed=1)
    points[7] = result(0 * draws[7])
    curve = ld.LLCCurve(points)
    errors = [each.standard_error for each in curve.results]
    np.testing.assert_allclose(curve.standard_errors, errors, rtol=1e-12)
    covariance = curve.covariance
    assert np.isnan(covariance[5]).all()
    known = np.arange(30) != 5
    inner = covariance[np.ix_(known, known)]
    assert np.linalg.eigvalsh(inner)[0] > -1e-9 * np.trace(inner)
    np.testing.assert_array_equal(covariance[6, [0, 1, 2, 3, 4, 7]], 0)  # other noise
    assert not covariance[7, [0, 1, 2, 3, 4, 6]].any()
    first = covariance[0, :5] / (errors[0] * np.array(errors[:5]))
    assert first[1] > 0.99
    assert 0 < first[3] < 0.95  # one chain of two
    assert 0 < first[4] < 0.95  # half of the draws


def test_a_change_is_judged_by_the_differences_of_the_draws():
    (one, other, *_) = (each[0] for each in traces(1))
    error, ess = monte_carlo_error(other - one)
    found = ld.LLCCurve({0: result(one), 7: result(other)}).difference(0, 7)
    assert found.value == pytest.approx(other.mean() - one.mean())
    assert (found.standard_error, found.degrees_of_freedom) == (error, ess - 1)
    # what is systematic has the same sign at both
    more = ld.LLCCurve({0: result(one, systematic=0.3), 7: result(other, systematic=0.7)})
    assert more.difference(0, 7).standard_error == pytest.approx(np.hypot(error, 0.4))


@pytest.mark.parametrize("change", [{"seed": 1}, {"dead": [1]}, {}])
def test_draws_that_are_no_pairs(change):
    (one, other, *_) = (each[0] for each in traces(1))
    first, second = result(one), result(other if change else other[:, :50], **change)
    curve = ld.LLCCurve({0: first, 7: second})
    found, apart = curve.difference(0, 7), np.hypot(first.standard_error, second.standard_error)
    if "seed" in change:
        assert curve.covariance is None
        assert found.standard_error == apart
    else:  # those draws that both have are pairs
        assert found.standard_error == ld.Curve.difference(curve, 0, 7).standard_error < apart
    assert found.degrees_of_freedom == min(first.ess_mean, second.ess_mean) - 1


def test_independent_points_have_no_covariance():
    assert ld.LLCCurve({0: result(np.random.default_rng(0).normal(size=(2, 30)))}).covariance is None
