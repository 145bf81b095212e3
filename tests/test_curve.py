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
