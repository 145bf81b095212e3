"""Stages of curves with known boundaries, and of curves without any."""

import itertools
import math

import numpy as np
import pytest

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.stages import detect_stages, null_curve, null_rates
from llc_dynamics.stages.accounts import staircase_evidence, walk_evidence
from llc_dynamics.stages.gaussian_process import fit_smooth, in_cells
from llc_dynamics.stages.hinges import onsets

# Hoogland et al. 2024, regression transformer, seed 1: ends of the stages, changes of the LLC and of the loss.
ENDS = [1e3, 4e4, 1.26e5, 3.2e5, 5e5]
CHANGES = [21.4, 149, -12.3, -44.1, 3.56]
LOSS_CHANGES = [-0.32, -2.21, -0.07, -0.05, -0.029]


def ramps(steps, ends, changes, start=30.0):
    """Smooth steps in log time from one end to the next, flat in between where they meet."""
    x = np.log1p(steps)
    edges = np.log1p([start, *ends])
    share = [np.clip((x - a) / (b - a), 0, 1) for a, b in itertools.pairwise(edges)]
    return sum(change * (3 * u**2 - 2 * u**3) for change, u in zip(changes, share, strict=True))


def published(seed, points=190, noise=1.0):
    steps = np.unique(np.concatenate([np.linspace(0, ENDS[-1], points // 2), np.geomspace(1, ENDS[-1], points // 2)]))
    steps = np.unique(steps.astype(int))
    rng = np.random.default_rng(seed)
    llc = ramps(steps, ENDS, CHANGES) + noise * rng.standard_normal(len(steps))
    loss = 4.4 + ramps(steps, ENDS, LOSS_CHANGES)
    return ld.Curve(steps, llc, np.full(len(steps), noise), "LLC"), ld.Curve(steps, loss, name="loss")


def test_published_stages_are_found_again():
    curve, loss = published(seed=0)
    report = detect_stages(curve, loss)
    turns = [each for each in report.resolved if each.kind == "turn"]
    for wanted in (4e4, 3.2e5):
        nearest = min(turns, key=lambda each: abs(math.log10(each.step / wanted)))
        assert abs(math.log10(nearest.step / wanted)) < 0.1
        assert nearest.probability > 0.95
        assert nearest.interval[0] <= nearest.step <= nearest.interval[1]
    last = report.stages[-1]
    assert (last.type, report.stages[-3].type, report.stages[-2].type) == ("rise", "fall", "fall")
    assert last.change == pytest.approx(3.56, abs=4 * last.change_error)
    assert sum(stage.change for stage in report.stages) == pytest.approx(sum(CHANGES), abs=4)
    assert sum(stage.loss_change for stage in report.stages) == pytest.approx(sum(LOSS_CHANGES), rel=0.02)
    assert [stage.end for stage in report.stages[:-1]] == [stage.start for stage in report.stages[1:]]


def test_intervals_hold_the_turn_and_types_are_right():
    """40 curves: a 90% interval holds the turn at 40,000 in 31 of 40 or more with probability .995, if it is one."""
    inside = types = stages = 0
    for seed in range(40):
        curve, loss = published(seed, noise=3.0)
        report = detect_stages(curve, loss)
        turn = min(report.resolved, key=lambda each: abs(math.log10(each.step / 4e4)))
        assert turn.kind == "turn"
        inside += turn.interval[0] <= 4e4 <= turn.interval[1]
        middle = [math.sqrt((1 + stage.start) * stage.end) for stage in report.stages]
        truth = [np.interp(math.log(m), np.log([30, *ENDS]), [1, 1, 1, -1, -1, 1]) for m in middle]
        for stage, sign in zip(report.stages, truth, strict=True):
            if stage.type in ("rise", "fall") and abs(sign) == 1:
                stages += 1
                types += (stage.type == "rise") == (sign > 0)
    assert inside >= 31
    assert types >= 0.95 * stages


@pytest.mark.parametrize("kind", ["constant", "monotone", "power_law", "random_walk", "permuted", "component"])
def test_nothing_is_found_in_nothing(kind):
    """With a true rate of 5%, more than 8 of 60 alarms come with a probability of .002."""
    curve, _ = published(seed=1, points=60, noise=3.0)
    (rate,) = null_rates(curve, 60, kinds=(kind,))
    assert rate.alarms <= 8
    assert rate.interval[0] <= rate.rate <= rate.interval[1]


def test_a_component_with_structure_is_read():
    steps = np.arange(0, 4000, 40)
    x = np.log1p(steps)
    values = np.where(x < 6, x, 12 - x) + 0.01 * np.random.default_rng(0).standard_normal(len(x))
    found = detect_stages(ld.Curve(steps, values), component=2)
    assert len(found.resolved) == 1
    cosine = np.cos(2 * np.pi * (np.arange(len(x)) + 0.5) / len(x))
    null = detect_stages(ld.Curve(steps, cosine + 0.01 * np.random.default_rng(0).standard_normal(len(x))), component=2)
    assert not null.resolved
    assert "cosine content" in str(null)


def test_the_slope_is_the_derivative_of_the_mean_and_paths_have_the_posterior_s_moments():
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 10, 40))
    fit = fit_smooth(x, np.sin(x) + 0.1 * rng.standard_normal(40), np.full(40, 0.1))
    numerical = np.gradient(fit.mean, fit.grid)
    assert np.abs(numerical - fit.slope)[2:-2].max() < 0.02
    # an interpolation error of the mean's slope: the fit is within 5 of its errors of the true curve everywhere
    assert (np.abs(fit.mean - np.sin(fit.grid)) < 5 * fit.mean_error).all()
    assert (np.abs(fit.slope - np.cos(fit.grid)) < 5 * fit.slope_error).all()
    values, slopes = fit.paths(4000, rng)
    for paths, mean, error in ((values, fit.mean, fit.mean_error), (slopes, fit.slope, fit.slope_error)):
        assert np.abs(paths.mean(0) - mean).max() < 5 * error.max() / math.sqrt(4000)
        assert np.allclose(paths.std(0), error, rtol=0.08)


def test_the_fit_agrees_with_scikit_learn():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    rng = np.random.default_rng(1)
    x = np.sort(rng.uniform(0, 8, 30))
    y = np.tanh(x - 4) + 0.05 * rng.standard_normal(30)
    fit = fit_smooth(x, y, np.full(30, 0.05))
    scale = y.std()
    # the same process with the numbers that were fitted: amplitude from the prior variance is not public, so refit it
    twin = GaussianProcessRegressor(
        ConstantKernel(1.0, (1e-4, 1e3)) * Matern(fit.length_scale, "fixed", nu=2.5),
        alpha=(0.05**2 + fit.noise**2) / scale**2,
    ).fit(x[:, None], (y - y.mean()) / scale)
    mean, error = twin.predict(fit.grid[:, None], return_std=True)
    assert np.allclose(scale * mean + y.mean(), fit.mean, atol=1e-3)
    assert np.allclose(scale * error, fit.mean_error, atol=2e-3)


def test_a_random_walk_and_a_constant_are_better_accounts_of_themselves():
    rng = np.random.default_rng(2)
    x = np.linspace(0, 10, 120)
    walks = [fit_smooth(x, rng.standard_normal(120).cumsum(), None).weight for _ in range(12)]
    assert np.median(walks) < 0.1
    assert sum(weight > 0.9 for weight in walks) <= 1
    assert fit_smooth(x, rng.standard_normal(120), None).weight < 0.3
    assert fit_smooth(x, np.sin(x) + 0.1 * rng.standard_normal(120), None).weight > 0.99


def common_noise(steps, size, near=0.99, far=0.8):
    """Covariance with correlation .99 between neighbours in the middle that falls to .8 over the whole curve."""
    x = np.log1p(steps)
    distance = np.abs(x[:, None] - x[None, :]) / np.ptp(x)
    power = math.log(math.log(near) / math.log(far)) / math.log(np.median(np.diff(x)) / np.ptp(x))
    return size**2 * far ** (distance**power)


@pytest.mark.parametrize("kind", ["constant", "monotone", "random_walk"])
def test_nothing_is_found_in_common_noise(kind):
    """With a true rate of 5%, more than 4 of 20 alarms come with a probability of .003."""
    steps = np.geomspace(250, 6000, 24).astype(int)
    rise = 10 + 8 / (1 + np.exp(-4 * (np.log1p(steps) - 7)))
    (rate,) = null_rates(ld.Curve(steps, rise, covariance=common_noise(steps, 1.0)), 20, kinds=(kind,))
    assert rate.alarms <= 4


def test_common_noise_hides_less():
    """A rise of 8 and a fall of 1 at errors of 1 a point: the same errors, independent, hide it."""
    steps = np.geomspace(250, 6000, 24).astype(int)
    covariance = common_noise(steps, 1.0)
    root = np.linalg.cholesky(covariance)
    truth = ramps(steps, [1200, 6000], [8, -1], start=250)
    found = {"common": 0, "independent": 0}
    for seed in range(8):
        noise = np.random.default_rng(seed).standard_normal(24)
        for name, curve in (
            ("common", ld.Curve(steps, truth + root @ noise, covariance=covariance)),
            ("independent", ld.Curve(steps, truth + noise, np.ones(24))),
        ):
            found[name] += any(each.kind == "turn" for each in detect_stages(curve).resolved)
    assert found["common"] >= 6
    assert found["independent"] <= 2


def test_a_covariance_of_independent_errors_is_their_standard_errors():
    curve, _ = published(seed=0, points=60)
    errors = np.random.default_rng(0).uniform(0.5, 2.0, len(curve))
    x = np.log1p(curve.steps)
    plain = fit_smooth(x, curve.values, errors)
    full = fit_smooth(x, curve.values, errors, np.diag(errors**2))
    assert np.allclose(plain.mean, full.mean, atol=1e-3)
    assert np.allclose(plain.mean_error, full.mean_error, rtol=1e-3)
    for name, evidence in plain.log_evidence.items():
        assert full.log_evidence[name] == pytest.approx(evidence, abs=1e-3), name


def test_a_shared_level_changes_the_errors_of_the_level_alone():
    """Whatever its size: errors of differences, evidence and curve stay, and the level's variance is found again."""
    curve, _ = published(seed=0, points=60)
    x, errors = np.log1p(curve.steps), curve.standard_errors
    rng = np.random.default_rng(0)
    plain, level = fit_smooth(x, curve.values, errors, np.diag(errors**2)), 1e4
    fit = fit_smooth(x, curve.values, errors, np.diag(errors**2) + level)
    assert np.allclose(plain.mean, fit.mean, atol=1e-3)
    assert np.allclose(plain.slope_error, fit.slope_error, rtol=1e-2)
    assert np.allclose(fit.mean_error**2, level + plain.mean_error**2, rtol=1e-3)
    values, _ = fit.paths(2000, rng)
    assert values[:, 0].std() == pytest.approx(100, rel=0.1)
    change = values[:, -1] - values[:, 0]
    assert change.std() == pytest.approx(np.hypot(plain.mean_error[0], plain.mean_error[-1]), rel=0.1)
    for name, evidence in plain.log_evidence.items():
        assert fit.log_evidence[name] == pytest.approx(evidence, abs=0.05), name


def test_null_curves_have_the_covariance_of_the_curve():
    steps = np.geomspace(250, 6000, 12).astype(int)
    covariance = common_noise(steps, 1.0)
    like = ld.Curve(steps, np.zeros(12), covariance=covariance)
    nulls = [null_curve("constant", like, seed) for seed in range(1000)]
    assert np.array_equal(nulls[0].covariance, covariance)
    # the standard error of an entry is sqrt(2 / 1,000) at most
    assert np.abs(np.cov(np.stack([null.values for null in nulls]).T) - covariance).max() < 5 * math.sqrt(2 / 1000)


def test_cells_have_the_covariance_of_their_averages():
    rng = np.random.default_rng(3)
    x, y, root = np.sort(rng.uniform(0, 1, 200)), rng.standard_normal(200), rng.standard_normal((200, 200))
    covariance = root @ root.T
    _, averages, found = in_cells(x, y, covariance, 10)
    cell = np.minimum((x - x[0]) / (x[-1] - x[0]) * 10, 9).astype(int)
    share = np.stack([(cell == k) / np.diag(covariance) for k in range(10)])
    share /= share.sum(axis=1, keepdims=True)
    assert np.allclose(averages, share @ y)
    assert np.allclose(found, share @ covariance @ share.T)


def test_cells_are_averages_weighted_by_precision():
    rng = np.random.default_rng(3)
    x, y, variance = np.sort(rng.uniform(0, 1, 1000)), rng.standard_normal(1000), rng.uniform(0.5, 2, 1000)
    centres, averages, variances = in_cells(x, y, variance, 10)
    cell = np.minimum((x - x[0]) / (x[-1] - x[0]) * 10, 9).astype(int)
    for k in range(10):
        weight = 1 / variance[cell == k]
        assert averages[k] == pytest.approx((weight * y[cell == k]).sum() / weight.sum())
        assert variances[k] == pytest.approx(1 / weight.sum())
    assert (np.diff(centres) > 0).all()


def test_many_points_give_what_fewer_with_smaller_errors_do():
    curve, _ = published(seed=0, points=2000, noise=3.0)
    report = detect_stages(curve)
    turn = min(report.resolved, key=lambda each: abs(math.log10(each.step / 4e4)))
    assert abs(math.log10(turn.step / 4e4)) < 0.05


def test_unusable_points_are_left_out_and_said():
    curve, loss = published(seed=0)
    values, converged = curve.values.copy(), np.ones(len(curve), bool)
    values[5], converged[[7, 9]] = np.nan, False
    values[[7, 9]] = 1e4
    report = detect_stages(ld.Curve(curve.steps, values, curve.standard_errors, "LLC", converged), loss)
    missing, unconverged = report.notes
    assert missing.code == "not_finite"
    assert "1 of" in str(missing)
    assert unconverged.code == "not_converged"
    assert "2 of" in str(unconverged)
    assert len(report.resolved) >= 2


def test_without_errors_they_are_estimated_and_said():
    curve, _ = published(seed=0, noise=2.0)
    report = detect_stages(ld.Curve(curve.steps, curve.values))
    assert report.noise == pytest.approx(2.0, rel=0.25)
    assert "errors_estimated" in [note.code for note in report.notes]


def test_errors_that_are_too_small_are_not_read_as_structure():
    curve, _ = published(seed=0, noise=2.0)
    report = detect_stages(ld.Curve(curve.steps, curve.values, np.full(len(curve), 1e-3)))
    assert report.noise == pytest.approx(2.0, rel=0.25)
    assert "errors_too_small" in [note.code for note in report.notes]
    shared = ld.Curve(curve.steps, curve.values, covariance=1e-6 * np.eye(len(curve)) + 100.0)
    assert "errors_too_small" in [note.code for note in detect_stages(shared).notes]


def test_bad_input():
    curve, loss = published(seed=0)
    with pytest.raises(DataError, match="at least 8"):
        detect_stages(ld.Curve(curve.steps[:7], curve.values[:7]))
    with pytest.raises(DataError, match="NaN or infinite at every step"):
        detect_stages(ld.Curve(curve.steps, np.full(len(curve), np.nan)))
    with pytest.raises(DataError, match="strictly increasing"):
        ld.Curve([1, 2, 2, 3], [0, 0, 0, 0])
    with pytest.raises(DataError, match="must not be negative"):
        ld.Curve([1, 2, 3], [0, 0, 0], [1, -1, 1])
    with pytest.raises(DataError, match="same run"):
        detect_stages(curve, ld.Curve(loss.steps + 1, loss.values))
    with pytest.raises(ConfigError, match="threshold must be between 0 and 1"):
        detect_stages(curve, threshold=1.5)
    with pytest.raises(ConfigError, match="component must be"):
        detect_stages(curve, component=0)
    with pytest.raises(ConfigError, match="null curve 'brown' is unknown"):
        null_curve("brown", curve)


def test_a_flat_curve_has_no_stages_and_no_crash():
    report = detect_stages(ld.Curve(np.arange(20), np.ones(20), np.zeros(20)))
    assert not report.boundaries
    assert report.stages[0].type == "unresolved"


def test_the_same_seed_gives_the_same_report_as_json():
    import json

    curve, loss = published(seed=0, points=60)
    first, second = (json.dumps(detect_stages(curve, loss, seed=3).to_dict()) for _ in range(2))
    assert first == second


def staircase(seed, count=120):
    """Three abrupt drops of a loss, and treads that only the batch moves."""
    steps = np.unique(np.geomspace(1, 20_000, count).astype(int))
    drops = [size / (1 + np.exp(-50 * (steps / place - 1))) for size, place in ((1.8, 250), (0.9, 900), (0.4, 3000))]
    scatter = 1e-3 * np.random.default_rng(seed).standard_normal(len(steps))
    return ld.Curve(steps, np.log(3.7 - sum(drops)) + scatter, name="log loss")


def test_a_staircase_of_abrupt_drops_is_no_random_walk():
    report = detect_stages(staircase(0))
    assert report.weight > 0.99
    evidence = report.fit.log_evidence
    assert evidence["staircase"] > evidence["random walk in log time"] + 20 > evidence["smooth"]
    for low, high in ((250, 900), (900, 3000)):
        assert any(low < each.step < high for each in report.resolved)


def test_a_random_walk_is_no_staircase():
    clock, ones = np.linspace(0, 10, 60), np.ones(60)
    for seed in range(40):
        walk = np.random.default_rng(seed).standard_normal(60).cumsum()
        points = ((walk - walk.mean()) / walk.std(), 0 * ones, ones)
        assert staircase_evidence(*points) < walk_evidence(clock, *points)


def bent(values, seed=0, error=0.3):
    """A curve with `values` of x = log(t + 1), 0 to 10, at 60 checkpoints, and noise."""
    steps = np.expm1(np.linspace(0, 10, 60)).round().astype(int)
    steps = np.unique(steps)
    scatter = error * np.random.default_rng(seed).standard_normal(len(steps))
    return ld.Curve(steps, values(np.log1p(steps)) + scatter, np.full(len(steps), error), "LLC")


@pytest.mark.parametrize("sign", [1, -1])
def test_flat_then_moving_is_an_onset_and_moving_then_flat_an_end(sign):
    for seed in range(4):
        report = detect_stages(bent(lambda x: 10 + sign * np.clip(4 * (x - 5), 0, 12), seed))
        onset, end = report.resolved  # and no turn where the fit rings
        assert (onset.kind, end.kind) == ("onset", "end")
        for each, place in ((onset, 5), (end, 8)):
            assert abs(math.log10(each.step / math.expm1(place))) < 0.1
            assert each.interval[0] < math.expm1(place) < each.interval[1]
        assert [stage.type for stage in report.stages] == ["flat", "rise" if sign > 0 else "fall", "flat"]
        assert "onset at " in str(report)


def test_what_has_no_scale_has_no_onset():
    """A straight line, and in proportion to t: flat on the axis, but where depends on the end. A bend has one."""
    x = np.linspace(0, 10, 201)
    shapes = {"line": x, "t": np.exp(x - 10), "bend": np.clip(x - 6, 0, 4), "bent line": np.maximum(x, 3 * x - 12)}
    there, places = onsets(x, np.stack(list(shapes.values())), seen=x[::10])
    assert [name for name, found in zip(shapes, there, strict=True) if found] == ["bend"]
    assert x[places[2]] == pytest.approx(6)
    assert not onsets(x, shapes["bend"][None], seen=np.array([0.0, 5.0, 7.0, 10.0]))[0].any()  # two points are no flat


def test_a_long_flat_between_two_falls_is_an_end_and_an_onset_and_a_short_one_a_plateau():
    long = detect_stages(bent(lambda x: -3 * np.clip(x, 0, 3) - 3 * np.clip(x - 6, 0, 4), seed=1))
    assert [each.kind for each in long.resolved] == ["end", "onset"]
    assert [stage.type for stage in long.stages] == ["fall", "flat", "fall"]
    short = detect_stages(bent(lambda x: -3 * np.clip(x, 0, 4.5) - 3 * np.clip(x - 5.5, 0, 4.5)))
    assert [each.kind for each in short.resolved] == ["plateau"]
