"""How linear transformers develop: inputs of unequal variances, merged and separate keys."""

import pytest
import torch
from scripts import load_together

from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.linear_transformer import references as ref
from llc_dynamics.systems.linear_transformer.task import Contexts, Noise, draw

torch.set_num_threads(1)
cells, keys = load_together("linear_transformers", "cells", "keys")


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
