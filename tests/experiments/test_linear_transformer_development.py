"""How linear transformers develop: nearest references, onsets, and inputs of unequal variances."""

import numpy as np
import pytest
import torch
from scripts import load_together

from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.linear_transformer import references as ref
from llc_dynamics.systems.linear_transformer.task import Contexts, Noise, draw

torch.set_num_threads(1)
cells, development, keys = load_together("linear_transformers", "cells", "development", "keys")


def test_the_nearest_reference_is_timed_with_an_interval() -> None:
    """From `near` to `far` on a line: the mean passes the middle at step 50, in a share of the contexts later."""
    steps, rng = np.arange(101), np.random.default_rng(0)
    way = np.clip(steps / 100 + 0.1 * rng.standard_normal(400)[:, None], 0, 1).T  # [C, B]
    found = development.nearest({"far": (1 - way) ** 2, "near": way**2, "never": np.full(way.shape, 9.0)}, steps)
    assert list(found) == ["near", "far"]
    step, low, high = found["far"]
    assert low <= step <= high
    assert (step, low, high) == pytest.approx((50, 49, 51), abs=2)
    assert found["near"][0] == 0


def test_a_reference_that_is_the_nearest_for_too_short_is_not_named() -> None:
    steps = np.arange(10)
    first = np.ones((10, 50))
    second = np.full((10, 50), 2.0)
    second[4:6] = 0.0
    assert list(development.nearest({"first": first, "second": second}, steps)) == ["first"]


def test_an_onset_is_where_a_value_stays_above_half_of_its_final_one() -> None:
    steps = np.arange(0, 100, 10)
    final = [-1.0] * development._FINAL
    assert development.onset(steps, np.array([1.0, -0.8, -0.4, -0.6, -0.9, *final])) == 30
    assert development.onset(steps, np.array([-1.0, -0.8, -0.9, -0.6, -0.9, *final])) == 0
    assert development.onset(steps, np.array([-1.0, -0.8, -0.9, -0.6, 0.9, *final])) == 50


def test_inputs_of_unequal_variances_are_those_of_their_tokens() -> None:
    """Least squares on the moments finds w itself without noise; and the second moments of the inputs are as said."""
    moments, w = keys.contexts(torch_generator(0), 4000)
    given = Contexts(moments.double(), w.double(), torch.zeros(len(w)), keys.EXAMPLES)
    torch.testing.assert_close(ref.least_squares(ref.Spectrum(given)), w.double(), rtol=1e-3, atol=1e-3)
    sigma = moments[:, :-1, :-1].mean(0) / keys.EXAMPLES
    torch.testing.assert_close(sigma, torch.diag(torch.tensor(keys.VARIANCES)), rtol=0.03, atol=0.05)
    plain = draw(torch_generator(0), 4000, len(keys.VARIANCES), keys.EXAMPLES).contexts(Noise(0.0))
    torch.testing.assert_close(w, plain.w)


@pytest.mark.parametrize("kind", keys.KINDS)
def test_both_kinds_train_from_a_small_start(kind: str) -> None:
    rows = dict(keys.train(kind, 0, steps=3))
    assert sorted(rows) == [0, 1, 2, 3]
    assert rows[0] == pytest.approx(keys.VARIANCES, rel=0.1)  # w^L = 0, nearly
