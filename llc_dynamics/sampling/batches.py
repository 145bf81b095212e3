"""Minibatches: from tensors that are given, or from a distribution that is sampled on the fly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from llc_dynamics.batch import mapped
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.sampling.borrowed import new_tensors_on
from llc_dynamics.seeding import numpy_generator, torch_generator

Data = tuple[torch.Tensor, ...] | list[torch.Tensor] | Callable[[torch.Generator, int], Any]
DEFAULT_BATCH_SIZE = 256


@dataclass(frozen=True)
class Batch:
    """What `loss_fn` gets, and which samples it is (`indices` [B]; None if the samples are fresh)."""

    content: Any
    indices: torch.Tensor | None


class Batches(Protocol):
    """An endless stream of independent batches for any chain.

    Attributes
    ----------
    num_samples : n of nbeta = n / log n.
    batch_size : B. whole : whether every batch is all the data.
    fixed : whether all samples are there, one along the first dimension of every tensor.
    """

    num_samples: int
    batch_size: int
    fixed: bool

    @property
    def whole(self) -> bool: ...

    def stream(self, seed: int, *purpose: str | int) -> Iterator[Batch]:
        """Batches from a generator of their own, seeded by `(seed, *purpose)`: never shared between chains."""
        ...

    def sized(self, size: int, seed: int, *purpose: str | int) -> Any:
        """The content of some batch of another size."""
        ...


class TensorBatches:
    """Batches without repetition inside a batch, each independent of the others; the whole data if B = n.

    Independent batches (rather than passes through a shuffled order) make the batch of a step independent of the
    position it is evaluated at, which the estimate needs.
    """

    fixed = True

    def __init__(
        self, tensors: tuple[torch.Tensor, ...], num_samples: int, batch_size: int, device: torch.device
    ) -> None:
        self.tensors = tuple(tensor.to(device) for tensor in tensors)
        self.length = len(tensors[0])
        self.num_samples = num_samples
        self.batch_size = batch_size
        self._device = device

    @property
    def whole(self) -> bool:
        """Whether every batch is all the data."""
        return self.batch_size == self.length

    def stream(self, seed: int, *purpose: str | int) -> Iterator[Batch]:
        """Independent batches of B samples for one chain."""
        if self.whole:
            everything = Batch(self.tensors, torch.arange(self.length, device=self._device))
            while True:
                yield everything
        generator = numpy_generator(seed, *purpose)
        while True:
            chosen = generator.choice(self.length, self.batch_size, replace=False, shuffle=False)
            yield self.take(torch.from_numpy(chosen).to(self._device))

    def sized(self, size: int, seed: int, *purpose: str | int) -> Any:
        """The content of some batch of another size."""
        return self.take(torch.arange(size, device=self._device)).content

    def take(self, indices: torch.Tensor) -> Batch:
        """The samples at `indices`."""
        return Batch(tuple(tensor.index_select(0, indices) for tensor in self.tensors), indices)


class SampledBatches:
    """Fresh samples in every batch, from the caller's `sample(generator, batch_size)`."""

    whole = False
    fixed = False

    def __init__(
        self, sample: Callable[[torch.Generator, int], Any], num_samples: int, batch_size: int, device: torch.device
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self._sample = sample
        self._device = device

    def stream(self, seed: int, *purpose: str | int) -> Iterator[Batch]:
        """Fresh batches for one chain; the generator is a CPU one, so that they are the same on every device."""
        generator = torch_generator(seed, *purpose)
        while True:
            yield Batch(self._content(generator, self.batch_size), None)

    def sized(self, size: int, seed: int, *purpose: str | int) -> Any:
        """The content of some batch of another size, if the function heeds it."""
        return self._content(torch_generator(seed, *purpose), size)

    def _content(self, generator: torch.Generator, size: int) -> Any:
        with new_tensors_on(generator.device):
            return mapped(self._sample(generator, size), lambda leaf: leaf.to(self._device))


def make_batches(data: Data, batch_size: int | None, num_samples: int | None, device: torch.device) -> Batches:
    """Check `data` and choose the kind of batches.

    Raises `DataError` for data of the wrong type or of unequal length or a batch larger than the data, `ConfigError`
    for `num_samples` missing or below 3 and for a batch size below 1.
    """
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ConfigError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    if num_samples is not None and num_samples < 3:
        raise ConfigError(f"num_samples must be at least 3 (nbeta is n / log n), got {num_samples}")
    if isinstance(data, tuple | list):
        length = _common_length(data)
        size = min(DEFAULT_BATCH_SIZE, length) if batch_size is None else batch_size
        if size > length:
            raise DataError(f"batch_size is {size}, but the data holds {length} samples; choose at most {length}")
        if num_samples is None and length < 3:
            raise ConfigError(
                f"the data holds {length} samples; nbeta = n / log n needs 3 or more, or give num_samples"
            )
        return TensorBatches(tuple(data), length if num_samples is None else int(num_samples), size, device)
    if not callable(data) or isinstance(data, torch.nn.Module):
        raise DataError(
            f"data must be a tuple of tensors or a function (generator, batch_size) -> batch, got "
            f"{type(data).__name__}; wrap a single tensor as (tensor,)"
        )
    if num_samples is None:
        raise ConfigError(
            "data is a function, so num_samples must be given: the n of nbeta = n / log n, for example the number of "
            "samples the model was trained on"
        )
    return SampledBatches(data, int(num_samples), batch_size or DEFAULT_BATCH_SIZE, device)


def _common_length(tensors: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> int:
    if not tensors:
        raise DataError("data is an empty tuple; give at least one tensor")
    for place, tensor in enumerate(tensors):
        if not isinstance(tensor, torch.Tensor) or tensor.ndim == 0:
            kind = "a tensor without dimensions" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise DataError(f"data[{place}] is {kind}; every part must be a tensor with samples along dimension 0")
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) > 1:
        raise DataError(f"the tensors of data have {lengths} samples; they must have the same number")
    if lengths[0] == 0:
        raise DataError("the tensors of data hold no samples")
    return lengths[0]
