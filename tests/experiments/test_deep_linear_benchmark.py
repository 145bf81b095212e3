"""The random networks of the deep linear benchmark are of their class."""

from itertools import pairwise

import pytest
from scripts import load_script

from llc_dynamics.errors import ConfigError
from llc_dynamics.theory import deep_linear_llc

bench = load_script("benchmarks/deep_linear.py")


@pytest.mark.parametrize("size_class", list(bench.SIZE_CLASSES))
def test_random_networks_are_of_their_class(size_class: str) -> None:
    ranges = bench.SIZE_CLASSES[size_class]
    drawn = [bench.random_deep_linear(size_class, seed) for seed in range(30)]
    assert len(set(drawn)) > 25
    assert drawn[7] == bench.random_deep_linear(size_class, 7)
    for widths, rank in drawn:
        count = sum(before * after for before, after in pairwise(widths))
        assert ranges.num_parameters / 2 <= count <= 2 * ranges.num_parameters
        assert 1 <= rank <= min(widths)
        assert ranges.num_layers[0] <= len(widths) - 1 <= ranges.num_layers[1]
        assert deep_linear_llc(widths, rank) <= count / 2
    assert sum(rank < min(widths) for widths, rank in drawn) > 10


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="1K"):
        bench.random_deep_linear("1k", 0)
