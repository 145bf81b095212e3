"""LLCs of linear transformers that are known: ranks, and the singular point that a Hessian gets wrong."""

import pytest
import torch
from scripts import load_together

torch.set_num_threads(1)
(exact_llc,) = load_together("linear_transformers", "exact_llc")


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("case", [case for case in exact_llc.CASES if case.layers == 1], ids=lambda case: case.name)
def test_half_the_rank(case, dimension):
    data = exact_llc.contexts(dimension)
    found = len(exact_llc.curvatures(exact_llc.point(case, dimension, data), data)) / 2
    exact = case.exact(dimension)
    assert found == (exact - dimension / 2 if case.zero_head else exact)


def test_the_singular_point_is_estimated_right():
    """9, not the 7.5 of the Hessian: within 4 errors of the one, a chance of 1 in 16,000, and more from the other."""
    (case,) = (each for each in exact_llc.CASES if each.zero_head)
    data = exact_llc.contexts(3)
    model = exact_llc.point(case, 3, data)
    gamma = exact_llc.localization(case, exact_llc.curvatures(model, data))
    result = exact_llc.estimate(model, data, gamma, seed=1, draws=150)
    assert abs(result.llc - 9) < 4 * result.standard_error
    assert result.llc - 7.5 > 4 * result.standard_error
