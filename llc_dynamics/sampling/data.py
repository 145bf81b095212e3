"""What is handed in as `data`: tensors in a container, a data set, or a function; or what to write instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
)

from llc_dynamics.batch import leaves, mapped, num_samples, tensor_of
from llc_dynamics.errors import DataError, LLCDynamicsError
from llc_dynamics.sampling.borrowed import new_tensors_on
from llc_dynamics.sampling.calls import one_line

#: Tuple, list, mapping or dataclass of tensors or arrays; a map-style data set; (generator, batch_size) -> batch.
Data = Any

_FORMS = (
    "data is a tuple or dict of tensors with the samples along dimension 0, a Dataset, or a function "
    "(generator, batch_size) -> batch with num_samples"
)
_IN_MEMORY = "data=torch.utils.data.default_collate(list(itertools.islice({}, 10_000)))"


class Samples:
    """A data set with `data[i]` and `len(data)`, whose samples become batches as in a `DataLoader`."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._several = getattr(dataset, "__getitems__", None)
        self.length = len(dataset)
        if self.length:
            _require_no_lists(self._at([0])[0])

    def take(self, indices: torch.Tensor) -> Any:
        """The samples at `indices`, as one batch. Raises `DataError` where they cannot be had, or make no batch."""
        with torch.no_grad(), new_tensors_on(torch.device("cpu")):
            samples = self._at(indices.tolist())
            try:
                return default_collate(samples)
            except Exception as error:
                raise DataError(
                    f"the samples of data (a {type(self._dataset).__name__}) do not make a batch: "
                    f"{one_line(error)}; make them tensors of one shape, or give a function: "
                    f"{_function_line('dataset', 'collate')}, num_samples={self.length}"
                ) from error

    def _at(self, indices: list[int]) -> Any:
        with errors_of(f"reading samples of data (a {type(self._dataset).__name__})"):
            return self._several(indices) if callable(self._several) else [self._dataset[i] for i in indices]


def opened(data: Data) -> Any:
    """The same as a container of tensors [n, ...], `Samples`, or a function.

    The tensors may share memory with the caller's: they are to be read only. Raises `DataError` for anything else,
    with what to write instead.
    """
    if isinstance(data, Dataset):
        return _opened_set(data)
    if isinstance(data, tuple | list | Mapping) or (_is_dataclass(data) and not callable(data)):
        return _tensors_in(data)
    problem = _problem(data)
    if problem:
        raise DataError(problem)
    return data if callable(data) and not _is_indexed(data) else Samples(data)


@contextmanager
def errors_of(what: str) -> Iterator[None]:
    """Inside, an exception of the user's code becomes a `DataError` that begins with `what`.

    Tensors that it makes are on the CPU, where its generator is, unless it says otherwise.
    """
    try:
        with new_tensors_on(torch.device("cpu")):
            yield
    except LLCDynamicsError:
        raise
    except Exception as error:
        raise DataError(f"{what} failed: {one_line(error)}") from error


def _opened_set(data: Any) -> Any:
    if isinstance(data, IterableDataset):
        raise DataError(
            f"data is an IterableDataset ({type(data).__name__}), of which no batch can be drawn at random; take some "
            f"samples of it into memory: {_IN_MEMORY.format('dataset')}"
        )
    if not _is_indexed(data):
        raise DataError(f"data is a {type(data).__name__} without __len__ and __getitem__; {_FORMS}")
    # Tensors that are there are quicker than samples one by one, unless a subclass changes the samples on the way.
    if isinstance(data, TensorDataset) and type(data).__getitem__ is TensorDataset.__getitem__:
        return _tensors_in(tuple(data.tensors))
    if isinstance(data, Subset) and type(data).__getitem__ is Subset.__getitem__:
        whole = _opened_set(data.dataset) if isinstance(data.dataset, TensorDataset | Subset) else None
        if isinstance(whole, tuple):
            indices = torch.from_numpy(np.array(data.indices, dtype=np.int64))
            return mapped(whole, lambda leaf: leaf[indices.to(leaf.device)])
    return Samples(data)


def _tensors_in(data: Any) -> Any:
    if isinstance(data, Mapping):
        sets = [str(key) for key, value in data.items() if isinstance(value, Dataset) or _is_hugging_face(value)]
        if sets:
            raise DataError(f"data is a mapping of data sets ({', '.join(sets)}); give one: data=data['{sets[0]}']")
    if isinstance(data, list):
        if data and all(isinstance(part, tuple | list | Mapping) or _is_dataclass(part) for part in data):
            raise DataError(
                f"data is a list of {len(data)} {type(data[0]).__name__}s, samples as it seems; make a batch of them "
                "all, data=torch.utils.data.default_collate(data), or give a tuple if these are its parts"
            )
        data = tuple(data)
    others: list[Any] = []

    def converted(leaf: Any) -> Any:
        found = tensor_of(leaf)
        if isinstance(found, torch.Tensor):
            return found
        others.append(leaf)
        return leaf

    content = mapped(mapped(data, lambda leaf: leaf, converted), _plain)
    if not leaves(content):
        kind = f"no tensor, but {type(others[0]).__name__}" if others else "nothing (it is empty)"
        raise DataError(
            f"data is a {type(data).__name__} that holds {kind}; {_FORMS}. Make tensors of lists: torch.tensor(...), "
            'tokenizer(..., return_tensors="pt")'
        )
    length = num_samples(content, "data")
    if len(others) >= length > 1:
        raise DataError(
            f"data holds {len(others)} values outside of tensors ({type(others[0]).__name__}), as in a list of labels "
            f"for its {length} samples; make a tensor of them: torch.tensor(...)"
        )
    return content


def _plain(leaf: torch.Tensor) -> torch.Tensor:
    """Without a graph, and without what is only noted to be done (conjugation); leaves that require grad still do."""
    if leaf.layout != torch.strided or leaf.is_meta or leaf.is_nested:
        kind = "meta" if leaf.is_meta else "nested" if leaf.is_nested else str(leaf.layout).removeprefix("torch.")
        raise DataError(
            f"data holds a tensor of which no samples can be taken ({kind}); give a plain one "
            "(.to_dense(), or padded), or a function (generator, batch_size) -> batch"
        )
    plain = leaf.detach().resolve_conj().resolve_neg()
    return plain.requires_grad_() if leaf.requires_grad and leaf.is_leaf else plain


def _problem(data: Any) -> str:
    """What is wrong with data that is in no container, and what to write; "" for a function or a data set."""
    kind = type(data).__name__
    if isinstance(data, DataLoader):
        return _about_loader(data)
    if hasattr(data, "to_numpy") and not isinstance(data, torch.Tensor):
        return (
            f"data is a {kind}; give arrays of its columns: data=(data[features].to_numpy(dtype='float32'), "
            "data[label].to_numpy())"
        )
    if isinstance(data, torch.Tensor) or hasattr(data, "__array__"):
        name = "tensor" if isinstance(data, torch.Tensor) else "array"
        return f"data is a single {kind}; wrap it as a tuple, data=({name},)"
    if isinstance(data, type):
        return f"data is the class {data.__name__}; give one that is made: data={data.__name__}(...)"
    if isinstance(data, torch.nn.Module):
        return f"data is a model ({kind}): estimate_llc takes the model, then loss_fn, then data; {_FORMS}"
    if isinstance(data, str | bytes | Path):
        return f"data is {data!r}; load it first: {_FORMS}"
    if data is None:
        return f"data is None; {_FORMS}"
    if _is_indexed(data):
        return ""
    if isinstance(data, Iterator) or (hasattr(data, "__iter__") and not callable(data)):
        return (
            f"data is a {kind}, which can only be run through, and an estimate draws batches without end; give what "
            f"it runs over (data=loader.dataset), or take samples into memory: {_IN_MEMORY.format('samples')}"
        )
    return "" if callable(data) else f"data is a {kind}; {_FORMS}"


def _about_loader(loader: DataLoader[Any]) -> str:
    size = "" if loader.batch_size is None else f", batch_size={loader.batch_size}"
    start = "data is a DataLoader, whose batches are not independent of one another; "
    if isinstance(loader.dataset, IterableDataset):
        return f"{start}take samples of it into memory: {_IN_MEMORY.format('loader.dataset')}{size}"
    if loader.collate_fn in (default_collate, default_convert):
        return f"{start}give what it loads: data=loader.dataset{size}"
    count = len(loader.dataset) if hasattr(loader.dataset, "__len__") else "..."
    return (
        f"{start}give what it loads, put together as it does: {_function_line('loader.dataset', 'loader.collate_fn')}"
        f"{size}, num_samples={count}"
    )


def _function_line(dataset: str, collate: str) -> str:
    return (
        f"data=lambda generator, batch_size: {collate}([{dataset}[i] for i in torch.randint(len({dataset}), "
        "(batch_size,), generator=generator).tolist()])"
    )


def _require_no_lists(sample: Any) -> None:
    """`default_collate` takes a list for parts, and would put tokens where samples belong."""
    named = sample.items() if isinstance(sample, Mapping) else enumerate(sample) if isinstance(sample, tuple) else ()
    for name, value in named:
        if isinstance(value, list) and value and all(isinstance(each, int | float) for each in value):
            raise DataError(
                f"a sample of data holds {name!r} as a list of {len(value)} numbers; give tensors: "
                'data=dataset.with_format("torch") for one of Hugging Face, torch.tensor(...) in __getitem__'
            )


def _is_indexed(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _is_hugging_face(data: Any) -> bool:
    return type(data).__module__.partition(".")[0] == "datasets"


def _is_dataclass(data: Any) -> bool:
    return dataclasses.is_dataclass(data) and not isinstance(data, type) and not _is_indexed(data)
