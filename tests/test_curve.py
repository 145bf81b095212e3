"""The curve over training that detectors and plots read."""

import numpy as np
import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.errors import DataError


def test_a_curve_keeps_what_it_was_given():
    curve = ld.Curve([0, 10, 100], [3, 2, 1], [0.1, 0.2, 0.3], "LLC", [True, False, True], np.ones((3, 5)))
    assert len(curve) == 3
    assert curve.steps.dtype == np.int64
    assert curve.values.dtype == np.float64
    assert curve.name == "LLC"
    np.testing.assert_array_equal(curve.converged, [True, False, True])
    assert curve.samples.shape == (3, 5)
    assert ld.Curve([1, 2], [1.0, 2.0]).samples is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": [], "values": []}, "non-empty"),
        ({"steps": [[1, 2]], "values": [1, 2]}, "non-empty list"),
        ({"steps": [1, 1], "values": [1, 2]}, "strictly increasing"),
        ({"steps": [2, 1], "values": [1, 2]}, "strictly increasing"),
        ({"steps": [-1, 1], "values": [1, 2]}, "non-negative"),
        ({"steps": [0.5, 1], "values": [1, 2]}, "whole numbers"),
        ({"steps": [np.nan, 1], "values": [1, 2]}, "whole numbers"),
        ({"steps": [1, 2], "values": [1, 2, 3]}, "there are 2 steps"),
        ({"steps": [1, 2], "values": [1, 2], "standard_errors": [1, -1]}, "not be negative"),
        ({"steps": [1, 2], "values": [1, 2], "samples": [1, 2]}, "samples has shape"),
        ({"steps": [1, 2], "values": [1, 2], "converged": [True]}, "converged has shape"),
        ({"steps": [1, 2], "values": [1, 2], "covariance": [1, 2]}, "covariance has shape"),
        ({"steps": [1, 2], "values": [1, 2], "covariance": [[1, 0.5], [0.4, 1]]}, "not symmetric"),
        ({"steps": [1, 2], "values": [1, 2], "covariance": [[1, 2], [2, 1]]}, "not positive semidefinite"),
        ({"steps": [1, 2], "values": [1, 2], "covariance": [[1, 0], [0, -1]]}, "not positive semidefinite"),
        ({"steps": [1, 2], "values": [1, 2], "covariance": [[-1, 0], [0, -1]]}, "not positive semidefinite"),
        ({"steps": [1, 2], "values": [1, 2], "covariance": [[1, np.nan], [np.nan, 1]]}, "whole row"),
        ({"steps": [1, 2], "values": [1, 2], "covariance": [[1, 0], [0, np.inf]]}, "whole row"),
        (
            {"steps": [1, 2], "values": [1, 2], "standard_errors": [1, 1], "covariance": np.eye(2)},
            "standard_errors or a covariance",
        ),
    ],
)
def test_bad_curves(arguments, message):
    with pytest.raises(DataError, match=message):
        ld.Curve(**arguments)


@pytest.mark.parametrize(
    "change", [torch.Tensor.bfloat16, torch.Tensor.requires_grad_, list, lambda x: list(x.requires_grad_())]
)
def test_tensors_of_any_kind(change):
    values = torch.tensor([1.0, 2.0, 4.0])
    found = ld.Curve(
        torch.arange(3), change(values.clone()), change(values / 4), samples=[change(values) for _ in range(3)]
    )
    assert found.values.tolist() == [1.0, 2.0, 4.0]
    assert found.standard_errors.tolist() == [0.25, 0.5, 1.0]
    assert found.samples.shape == (3, 3)


def test_complex_values_are_refused():
    with pytest.raises(DataError, match="values must be numbers"):
        ld.Curve([0, 1], np.array([1j, 2.0]))


SHARED = np.array([[1.0, 0.9, 0.2], [0.9, 1.0, 0.3], [0.2, 0.3, 4.0]])


def test_a_covariance_holds_the_standard_errors():
    curve = ld.Curve([0, 10, 100], [3, 2, 1], covariance=SHARED)
    np.testing.assert_allclose(curve.standard_errors, [1.0, 1.0, 2.0])
    unknown = SHARED.copy()
    unknown[1] = unknown[:, 1] = np.nan
    np.testing.assert_array_equal(ld.Curve([0, 10, 100], [3, 2, 1], covariance=unknown).standard_errors, [1, np.nan, 2])


def test_a_covariance_of_few_draws_or_in_float32_is_one():
    draws = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)  # rank 3 of 40
    curve = ld.Curve(range(40), np.zeros(40), covariance=draws @ draws.T)
    np.testing.assert_array_equal(curve.covariance, curve.covariance.T)


def test_the_difference_of_two_steps_uses_what_is_known():
    steps, values = [0, 10, 100], [3.0, 2.0, 1.0]
    change = ld.Curve(steps, values, covariance=SHARED).difference(0, 10)
    assert change.value == -1.0
    assert change.standard_error == pytest.approx(np.sqrt(0.2))
    np.testing.assert_allclose(change.interval(0.95), -1 + 1.959964 * np.sqrt(0.2) * np.array([-1, 1]))
    assert ld.Curve(steps, values, [3, 4, 5]).difference(0, 10).standard_error == 5.0
    assert np.isnan(ld.Curve(steps, values).difference(0, 10).standard_error)
    samples = np.array([[0.0, 10.0], [1.0, 12.0], [5.0, 5.0]])
    paired = ld.Curve(steps, samples.mean(1), samples=samples).difference(0, 10)
    assert (paired.value, paired.standard_error) == (1.5, 0.5)
    assert paired.interval()[1] - paired.value == pytest.approx(0.5 * 12.7062, rel=1e-4)  # Student's t, one degree
    assert ld.Curve(steps, values).difference(10, 10).interval() == (0.0, 0.0)
    for level in (0, 95, "95%", None):
        with pytest.raises(ld.LLCDynamicsError, match="level must be between 0 and 1"):
            change.interval(level)


@pytest.mark.parametrize("step", [5, None, "10"])
def test_a_difference_needs_steps_of_the_curve(step):
    with pytest.raises(DataError, match=r"no point at step .*3 from 0 to 100"):
        ld.Curve([0, 10, 100], [3, 2, 1]).difference(0, step)


def test_some_points_of_a_curve_keep_all_they_have():
    curve = ld.Curve([0, 10, 100], [3, 2, 1], None, "LLC", [True, False, True], np.ones((3, 5)), SHARED)
    for chosen in ([True, False, True], [0, 2], slice(0, 3, 2)):
        some = curve.at(chosen)
        np.testing.assert_array_equal(some.covariance, SHARED[::2, ::2])
        assert (some.steps.tolist(), some.name, some.converged.tolist()) == ([0, 100], "LLC", [True, True])
        assert some.samples.shape == (2, 5)
    assert ld.Curve([0, 10], [3, 2], [0.1, 0.2]).at([1]).standard_errors.tolist() == [0.2]
    assert curve.to_xarray()["covariance"].dims == ("step", "other_step")
    np.testing.assert_allclose(curve.to_pandas()["standard_error"], [1.0, 1.0, 2.0])
