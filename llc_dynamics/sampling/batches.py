"""Minibatches: of data that is given, or of a distribution that is sampled on the fly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from llc_dynamics.batch import leaves, mapped, num_samples, with_tensors
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.sampling.data import Data as Data
from llc_dynamics.sampling.data import Samples, errors_of, opened
from llc_dynamics.seeding import numpy_generator, torch_generator

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


class FixedBatches:
    """Batches without repetition inside a batch, each independent of the others; the whole data if B = n.

    Independent batches (rather than passes through a shuffled order) make the batch of a step independent of the
    position it is evaluated at, which the estimate needs. All are copies of the data.

    Attributes
    ----------
    length : samples that there are. device : of the batches. Others : as of `Batches`.
    """

    fixed = True

    def __init__(self, content: Any, num_samples: int, batch_size: int, device: torch.device) -> None:
        self.length = _length(content)
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.device = device
        self._content = content if isinstance(content, Samples) else mapped(content, self._moved)
        self._everything: Batch | None = None

    @property
    def whole(self) -> bool:
        """Whether every batch is all the data."""
        return self.batch_size == self.length

    def stream(self, seed: int, *purpose: str | int) -> Iterator[Batch]:
        """Independent batches of B samples for one chain."""
        if self.whole:
            if self._everything is None:
                self._everything = self.take(torch.arange(self.length, device=self.device))
            while True:
                yield self._everything
        generator = numpy_generator(seed, *purpose)
        while True:
            chosen = generator.choice(self.length, self.batch_size, replace=False, shuffle=False)
            yield self.take(torch.from_numpy(chosen).to(self.device))

    def sized(self, size: int, seed: int, *purpose: str | int) -> Any:
        """The content of some batch of another size."""
        return self.take(torch.arange(size, device=self.device)).content

    def take(self, indices: torch.Tensor) -> Batch:
        """The samples at `indices`."""
        if isinstance(self._content, Samples):
            return Batch(mapped(self._content.take(indices), self._moved), indices)
        return Batch(mapped(self._content, lambda leaf: _rows(leaf, indices)), indices)

    def _moved(self, leaf: torch.Tensor) -> torch.Tensor:
        moved = leaf.detach().to(self.device)
        return moved.requires_grad_() if leaf.requires_grad else moved


class SampledBatches:
    """Fresh samples in every batch, from the caller's `sample(generator, batch_size)`.

    `before` is called each time: what samples by the model itself finds it at w*, wherever the chains are.
    """

    whole = False
    fixed = False

    def __init__(
        self, sample: Callable[[torch.Generator, int], Any], num_samples: int, batch_size: int, device: torch.device
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self._sample = sample
        self._device = device
        self.before: Callable[[], None] = lambda: None

    def stream(self, seed: int, *purpose: str | int) -> Iterator[Batch]:
        """Fresh batches for one chain; the generator is a CPU one, so that they are the same on every device."""
        generator = torch_generator(seed, *purpose)
        while True:
            yield Batch(self._drawn(generator, self.batch_size), None)

    def sized(self, size: int, seed: int, *purpose: str | int) -> Any:
        """The content of some batch of another size, if the function heeds it."""
        return self._drawn(torch_generator(seed, *purpose), size)

    def _drawn(self, generator: torch.Generator, size: int) -> Any:
        self.before()
        with errors_of(f"data(generator, {size})"):
            try:
                content = self._sample(generator, size)
            except StopIteration as error:
                raise DataError(
                    f"data(generator, {size}) has no more batches (StopIteration): the iterator behind it is at its "
                    "end, and an estimate asks for batches without end. Give the data set that a loader loads, "
                    f"data=loader.dataset, batch_size={size}, or draw a new batch in every call"
                ) from error
        content = mapped(with_tensors(content), lambda leaf: leaf.to(self._device))
        _require_full(content, size)
        return content


def make_batches(data: Data, batch_size: int | None, num_samples: int | None, device: torch.device) -> Batches:
    """Check `data` and choose the kind of batches.

    Raises `DataError` for data of the wrong type or of unequal length or a batch larger than the data, `ConfigError`
    for `num_samples` missing or below 3 and for a batch size below 1.
    """
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ConfigError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    if num_samples is not None and num_samples < 3:
        raise ConfigError(f"num_samples must be at least 3 (nbeta is n / log n), got {num_samples}")
    content = opened(data)
    if callable(content):
        if num_samples is None:
            raise ConfigError(
                "data is a function, so num_samples must be given: the n of nbeta = n / log n, for example the number "
                "of samples the model was trained on"
            )
        return SampledBatches(content, int(num_samples), batch_size or DEFAULT_BATCH_SIZE, device)
    length = _length(content)
    if not length:
        raise DataError("the data holds no samples")
    size = min(DEFAULT_BATCH_SIZE, length) if batch_size is None else batch_size
    if size > length:
        raise DataError(f"batch_size is {size}, but the data holds {length} samples; choose at most {length}")
    if num_samples is None and length < 3:
        raise ConfigError(f"the data holds {length} samples; nbeta = n / log n needs 3 or more, or give num_samples")
    return FixedBatches(content, length if num_samples is None else int(num_samples), size, device)


def _length(content: Any) -> int:
    return content.length if isinstance(content, Samples) else num_samples(content)


def _rows(leaf: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    if leaf.requires_grad:  # a leaf of its own, as the caller's is: inputs that a loss differentiates by
        return leaf.detach().index_select(0, indices).requires_grad_()
    return leaf.index_select(0, indices)


def _require_full(content: Any, size: int) -> None:
    """Raise `DataError` for a batch that is certainly too short; what is no row a sample is not counted."""
    found = leaves(content)
    lengths = {len(leaf) if leaf.ndim else size for leaf in found}
    if len(lengths) == 1 and lengths < {*range(size)} and not any(size in leaf.shape for leaf in found):
        raise DataError(
            f"data(generator, {size}) gave a batch of {lengths.pop()} samples, and batch_size is {size}: the last "
            "batch of a DataLoader is shorter; give its data set, data=loader.dataset, or the loader drop_last=True"
        )
