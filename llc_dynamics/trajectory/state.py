"""A model's state dict as flat vectors, one per number format: torch at the edge, numpy inside."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Union

from numpy.typing import NDArray

from llc_dynamics.errors import DataError, ManifestMismatchError
from llc_dynamics.trajectory.formats import (
    STORAGE,
    WeightStorage,
    carrier_view,
    dtype_name,
    flat_bytes_like,
    gather,
    require_in_range,
)

if TYPE_CHECKING:
    import torch

#: What is recorded: a module, or its tensors by name.
Model = Union["torch.nn.Module", Mapping[str, "torch.Tensor"]]


@dataclass(frozen=True)
class StateEntry:
    """One tensor of the state dict: stored elements `offset : offset + size` of the vector of its format."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * STORAGE[self.dtype][1]


@dataclass(frozen=True)
class StateLayout:
    """Which tensors a checkpoint holds and where; a tied tensor stands once under each of its names, as in torch."""

    entries: tuple[StateEntry, ...]

    @classmethod
    def of(cls, model: Model, kinds: Mapping[str, str] | None = None) -> StateLayout:
        """The layout of a model's state; `DataError` names a tensor that cannot be stored.

        kinds : of tensors by name, "parameter" or "buffer", where `model` is a mapping; floating-point ones that it
            does not name count as parameters.
        """
        parameters: set[str | None] = set()
        if not isinstance(model, Mapping):
            own = bare(model)
            plain = plain_names(own, own.state_dict().keys())
            parameters = {plain.get(name) for name, _ in own.named_parameters(remove_duplicate=False)}
            kinds = None
        entries, ends = [], dict.fromkeys(STORAGE, 0)
        for name, tensor in tensors_of(model).items():
            dtype = dtype_name(tensor, f"state '{name}'")
            counts = tensor.is_floating_point() if isinstance(model, Mapping) else name in parameters
            kind = (kinds or {}).get(name, "parameter" if counts else "buffer")
            entry = StateEntry(name, kind, dtype, tuple(tensor.shape), ends[dtype])
            ends[dtype] += entry.size
            entries.append(entry)
        return cls(tuple(entries))

    @classmethod
    def from_json(cls, listed: Any) -> StateLayout:
        """Read what `to_json` made; ValueError, TypeError or KeyError if it is anything else."""
        entries, ends = [], dict.fromkeys(STORAGE, 0)
        for item in listed:
            entry = StateEntry(
                str(item["name"]),
                str(item["kind"]),
                str(item["dtype"]),
                tuple(map(int, item["shape"])),
                int(item["offset"]),
            )
            if min(entry.shape, default=0) < 0 or entry.offset != ends[entry.dtype]:
                raise ValueError(f"state '{entry.name}': wrong shape or offset")
            ends[entry.dtype] += entry.size
            entries.append(entry)
        if len({entry.name for entry in entries}) != len(entries):
            raise ValueError("a state name is listed twice")
        return cls(tuple(entries))

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(entry) | {"shape": list(entry.shape)} for entry in self.entries]

    def sizes(self) -> dict[str, int]:
        """Stored elements of a row by number format."""
        return {name: sum(entry.size for entry in entries) for name, entries in self._by_format.items()}

    def row_bytes(self, storage: WeightStorage | None = None) -> int:
        """Bytes of a row, in the model's own number formats or as `storage` keeps it."""
        kept = WeightStorage.of(storage)
        return sum(size * kept.dtype_of(name).itemsize for name, size in self.sizes().items())

    def difference(self, other: StateLayout, mine: str = "the run", whose: str = "the model") -> str | None:
        """The first difference between this layout, `mine`, and `other`, in words; None if there is none."""
        here = {entry.name: entry for entry in self.entries}
        there = {entry.name: entry for entry in other.entries}
        for name, entry in here.items():
            if name not in there:
                return f"'{name}' {list(entry.shape)} is in {mine}, but not in {whose}"
            found = there[name]
            if found.shape != entry.shape:
                return f"'{name}' has shape {list(entry.shape)} in {mine}, but {list(found.shape)} in {whose}"
            if found.dtype != entry.dtype:
                return f"'{name}' is {entry.dtype} in {mine}, but {found.dtype} in {whose}"
            if found.kind != entry.kind:
                return f"'{name}' is a {entry.kind} in {mine}, but a {found.kind} in {whose}"
        for name, entry in there.items():
            if name not in here:
                return f"'{name}' {list(entry.shape)} is in {whose}, but not in {mine}"
        if list(here) != list(there):
            return f"the tensors of {mine} come in another order than those of {whose}"
        return None

    def copy_into(self, model: Model, row: Mapping[str, NDArray], storage: WeightStorage) -> None:
        """Copy the model's state into one row: a flat vector for each number format, in the format that it is kept in.

        Raises `ManifestMismatchError`, with nothing copied, if the model's tensors are no longer those of this layout,
        and `DataError` for a number that is beyond float16, if that is to be kept.
        """
        import torch

        tensors = tensors_of(model)
        if not self.describes(tensors):
            raise ManifestMismatchError(
                f"the model changed while it was recorded: {self.difference(StateLayout.of(model))}. A run holds one "
                "model; record the changed one into another folder"
            )
        for name, entries in self._by_format.items():
            kept = storage.format_of(name)
            target = carrier_view(row[name], kept)
            if kept == name:
                gather([flat_bytes_like(tensors[entry.name], name) for entry in entries], target)
                continue
            rounded = target.view(getattr(torch, kept))
            for entry in entries:
                part, tensor = slice(entry.offset, entry.offset + entry.size), tensors[entry.name].detach()
                rounded[part].copy_(tensor.reshape(-1))
                if kept == "float16":
                    require_in_range(row[name][part], tensor, entry.name)

    def describes(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether these are the tensors of this layout; recording asks it at every checkpoint."""
        import torch

        if len(tensors) != len(self.entries):
            return False
        for entry, (shape, dtype) in zip(self.entries, self._forms, strict=True):
            tensor = tensors.get(entry.name)
            if tensor is None or tensor.dtype != dtype or tensor.shape != shape:
                return False
            if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
                return False
        return True

    @functools.cached_property
    def _forms(self) -> list[tuple[torch.Size, torch.dtype]]:
        import torch

        return [(torch.Size(entry.shape), getattr(torch, entry.dtype)) for entry in self.entries]

    @functools.cached_property
    def _by_format(self) -> dict[str, list[StateEntry]]:
        found: dict[str, list[StateEntry]] = {}
        for entry in self.entries:
            found.setdefault(entry.dtype, []).append(entry)
        return found

    def tensors(self, row: Mapping[str, NDArray]) -> dict[str, torch.Tensor]:
        """The tensors by name, in the memory of one row (which has to be the caller's to give away)."""
        import torch

        found: dict[str, torch.Tensor] = {}
        for name, entries in self._by_format.items():
            flat = carrier_view(row[name], name).view(getattr(torch, name))
            parts = flat.split([math.prod(entry.shape) for entry in entries])
            found |= {entry.name: part.view(entry.shape) for entry, part in zip(entries, parts, strict=True)}
        return {entry.name: found[entry.name] for entry in self.entries}

    def first_difference(
        self, stored: Mapping[str, NDArray] | None, given: Mapping[str, NDArray] | None
    ) -> StateEntry | None:
        """The first tensor whose bytes differ between two rows, None if all are the same or there are none."""
        if stored is None or given is None:
            return None
        for entry in self.entries:
            part = slice(entry.offset, entry.offset + entry.size)
            if stored[entry.dtype][part].tobytes() != given[entry.dtype][part].tobytes():
                return entry
        return None


def bare(model: torch.nn.Module) -> torch.nn.Module:
    """The user's own module inside the wrappers of torch.compile and data parallelism, which prefix every name."""
    import torch

    if not isinstance(model, torch.nn.Module):
        raise DataError(f"expected a torch.nn.Module or a mapping of names to tensors, got {type(model).__name__}")
    while True:
        if isinstance(model, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), torch.nn.Module):
            model = inner
        else:
            return model


def tensors_of(model: Model) -> dict[str, torch.Tensor]:
    """`state_dict()` of the bare model under plain names, or a mapping as it is; `DataError` for what is no tensor."""
    import torch

    own = model if isinstance(model, Mapping) else bare(model)
    state = own if isinstance(own, Mapping) else own.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or not isinstance(name, str):
            raise DataError(
                f"state '{name}' is a {type(value).__name__}, not a tensor; keep it as a buffer, or drop it from "
                "the state dict"
            )
    if isinstance(own, Mapping):
        return dict(state)
    plain = plain_names(own, state.keys())
    return {plain[name]: tensor for name, tensor in state.items()}


def plain_names(model: torch.nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Names of a state dict -> the same without the prefixes of wrapped (compiled, data-parallel) submodules."""
    import torch

    plain = {name: name for name in names}
    if not any("_orig_mod." in name or "module." in name for name in plain):
        return plain
    parallel = torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel
    wrappers = []
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, parallel):
            wrappers.append((f"{name}.module.", f"{name}."))
        elif isinstance(module._modules.get("_orig_mod"), torch.nn.Module):
            wrappers.append((f"{name}._orig_mod.", f"{name}."))
    # From the inside out, so that the names of outer wrappers still fit.
    for prefix, short in sorted(wrappers, key=lambda wrapper: -len(wrapper[0])):
        for name, found in plain.items():
            if found.startswith(prefix):
                plain[name] = short + found[len(prefix) :]
    return plain if len(set(plain.values())) == len(plain) else {name: name for name in plain}
