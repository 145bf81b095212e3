"""The specialisation verdict on curves with a known time and strength."""

import json

import numpy as np
import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError

STEPS = np.unique(np.concatenate([np.linspace(0, 10_000, 61), 10_000 ** np.linspace(0, 1, 41)]).astype(np.int64))


def falling(start=4.0, end=0.1, middle=1000.0, width=0.4, jitter=0.0, count=256, seed=0):
    """log distance falls by a logistic step about `middle`; sequences differ by a factor."""
    generator = np.random.default_rng(seed)
    x = (np.log1p(STEPS) - np.log1p(middle)) / width
    log = np.log(start) + (np.log(end) - np.log(start)) / (1 + np.exp(-x))
    log = log + jitter * generator.standard_normal(len(STEPS))
    factor = generator.gamma(4.0, 0.25, count)
    samples = np.exp(log)[:, None] * factor / factor.mean() * generator.gamma(50, 1 / 50, (len(STEPS), count))
    return ld.Curve(STEPS, samples.mean(axis=1), name="distance to dMMSE", samples=samples)


def test_time_and_strength_of_a_known_fall():
    verdict = ld.detect_specialisation(falling(jitter=0.03))
    assert verdict.specialised
    assert verdict.t_half_interval[0] < 1000 < verdict.t_half_interval[1]
    assert verdict.t_begin < verdict.t_half < verdict.t_end
    # A logistic step has 10% and 90% at log time -/+ 2.2 widths.
    assert np.log(verdict.t_end / verdict.t_begin) == pytest.approx(2 * np.log(9) * 0.4, rel=0.25)
    assert verdict.ratio == pytest.approx(40.0, rel=0.15)
    assert verdict.ratio_interval[0] < 40 < verdict.ratio_interval[1]
    assert "40" in verdict.summary() or "times" in verdict.summary()
    assert json.loads(json.dumps(verdict.to_dict(), allow_nan=False))["specialised"] is True


def test_interval_of_the_time_covers():
    hits = 0
    for seed in range(40):
        low, high = ld.detect_specialisation(falling(jitter=0.1, seed=seed)).t_half_interval
        hits += low <= 1000 <= high
    # Nominal 90%, widened to the checkpoints: fewer than 31 of 40 would come up in 1% of cases at 90%.
    assert hits >= 31


def test_linear_scale_is_earlier_than_log():
    log, linear = (ld.detect_specialisation(falling(), scale=scale).t_half for scale in ("log", "linear"))
    assert linear < log


def test_flat_curve_is_none():
    verdict = ld.detect_specialisation(falling(end=4.0, jitter=0.05))
    assert not verdict.specialised
    assert verdict.t_half is None
    assert verdict.summary().startswith("No specialisation")


def test_false_positives_on_flat_jitter():
    found = [ld.detect_specialisation(falling(end=4.0, jitter=0.3, seed=s), num_bootstrap=100) for s in range(100)]
    assert sum(v.specialised for v in found) <= 5


def test_as_near_as_the_general_predictor_is_not_specialised():
    curve = falling(end=0.7)
    assert ld.detect_specialisation(curve).specialised
    verdict = ld.detect_specialisation(curve, reference_distance=0.7)
    assert not verdict.specialised
    assert verdict.reasons[0].code == "no_nearer_than_general"
    crossed = ld.detect_specialisation(falling(), reference_distance=0.7)
    assert crossed.specialised
    # The trend passes log 0.7 where the logistic step is at log(0.7 / 4) / log(0.1 / 4).
    share = np.log(0.7 / 4) / np.log(0.1 / 4)
    assert crossed.t_cross == pytest.approx(1001 * np.exp(0.4 * np.log(share / (1 - share))) - 1, rel=0.1)


def test_a_small_fall_is_reported_but_not_enough():
    verdict = ld.detect_specialisation(falling(end=3.0))
    assert not verdict.specialised
    assert verdict.reasons[0].code == "fall_too_small"
    assert "less than the 1.5 asked for" in str(verdict.reasons[0])


def test_without_samples():
    verdict = ld.detect_specialisation(ld.Curve(STEPS, falling().values))
    assert verdict.specialised
    assert [note.code for note in verdict.notes] == ["no_errors"]


@pytest.mark.parametrize(
    ("curve", "options", "error", "message"),
    [
        (ld.Curve(range(5), np.ones(5)), {}, DataError, "at least 8"),
        (ld.Curve(range(20), np.zeros(20)), {}, DataError, "zero or below"),
        (ld.Curve(range(20), np.full(20, np.nan)), {}, DataError, "every step"),
        (np.ones(20), {}, DataError, r"ld\.Curve"),
        (falling(), {"scale": "cubic"}, ConfigError, "scale"),
        (falling(), {"level": 0.0}, ConfigError, "level"),
        (falling(), {"reference_distance": 0.0}, DataError, "positive distance"),
    ],
)
def test_bad_input(curve, options, error, message):
    with pytest.raises(error, match=message):
        ld.detect_specialisation(curve, **options)


def test_numbers_of_any_kind():
    curve = falling(jitter=0.03)
    verdicts = [
        ld.detect_specialisation(curve, reference_distance=kind(0.5), min_z=kind(4.0), num_bootstrap=np.int64(60))
        for kind in (float, np.float32, np.array, torch.tensor)
    ]
    assert len({verdict.t_cross for verdict in verdicts}) == 1
