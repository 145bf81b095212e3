"""One rule for every random draw: a generator seeded from `(seed, purpose, index)`.

A result is then the same whatever the number of workers, the order of the work, or how often it was restarted.
"""

from __future__ import annotations

import hashlib
import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from llc_dynamics.errors import ConfigError

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that depends on all the arguments and on nothing else (BLAKE2b of their text).

    Raises `ConfigError` for a seed that is no whole number, or that a run's settings cannot store (64 bits).
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise ConfigError(f"seed must be a whole number, such as 0; got {seed!r}") from None
    if not -(2**63) <= number < 2**63:
        raise ConfigError(f"seed must be a whole number of at most 64 bits, such as 0; got {seed!r}")
    text = "/".join([str(number), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(seed: int, *purpose: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A `torch.Generator` for `(seed, *purpose)`; never the global one."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A `numpy.random.Generator` for `(seed, *purpose)`."""
    return np.random.default_rng(derive_seed(seed, *purpose))


@contextmanager
def isolated_generators(seed: int) -> Iterator[None]:
    """Leave the global generators of torch, numpy and `random` as they were, whatever is drawn inside."""
    import torch

    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            seed_global(derive_seed(seed, "global"))
            yield
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])


def seed_global(seed: int) -> None:
    """So that a function that draws from a global generator gives the same result every time."""
    import torch

    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed a GPU that nobody has used yet
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
