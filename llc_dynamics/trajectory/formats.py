"""How numbers are stored: torch's formats as numpy formats of the same bytes, and weights narrower on request."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.settings import from_mapping, to_mapping

if TYPE_CHECKING:
    import torch

#: torch's name -> (numpy storage format, stored elements per element). Complex numbers are stored as (real, imaginary);
#: what numpy does not know (bfloat16, float8) as its bits.
STORAGE: dict[str, tuple[str, int]] = {
    "float32": ("<f4", 1),
    "float64": ("<f8", 1),
    "float16": ("<f2", 1),
    "bfloat16": ("<u2", 1),
    "int8": ("|i1", 1),
    "int16": ("<i2", 1),
    "int32": ("<i4", 1),
    "int64": ("<i8", 1),
    "uint8": ("|u1", 1),
    "uint16": ("<u2", 1),
    "uint32": ("<u4", 1),
    "uint64": ("<u8", 1),
    "bool": ("|u1", 1),
    "complex64": ("<f4", 2),
    "complex128": ("<f8", 2),
    "float8_e4m3fn": ("|u1", 1),
    "float8_e5m2": ("|u1", 1),
    "float8_e4m3fnuz": ("|u1", 1),
    "float8_e5m2fnuz": ("|u1", 1),
}

#: The formats that `WeightStorage.dtype` makes narrower.
_WIDE = ("float32", "float64")
#: Half a unit above the largest float16.
_ROUNDS_TO_INFINITY = 65520.0
#: So many bytes may be gathered on an accelerator before they are fetched.
_GATHERED = 256 << 20


@dataclass(frozen=True)
class WeightStorage:
    """What is done with the weights and buffers of a checkpoint before they are written. Rows come back in the number
    formats of the model.

    Parameters
    ----------
    dtype : "exact" keeps every bit. "float16" (11 bits of precision, numbers up to 65,504) and "bfloat16" (8 bits, the
        range of float32) round float32 and float64 tensors to the nearest; other formats stay as they are. What was
        rounded is then kept bit for bit.

    Raises `ConfigError` for another value.
    """

    dtype: Literal["exact", "float16", "bfloat16"] = "exact"

    def __post_init__(self) -> None:
        known = ("exact", "float16", "bfloat16")
        if self.dtype not in known:
            raise ConfigError(f"storage.dtype: {self.dtype!r} is unknown; known: {', '.join(known)}")

    @classmethod
    def of(cls, given: WeightStorage | Mapping[str, Any] | None) -> WeightStorage:
        """From what a user gives: None stands for the rows as they are."""
        if given is None or isinstance(given, WeightStorage):
            return given or cls()
        return from_mapping(cls, given, "storage")

    def to_json(self) -> dict[str, Any]:
        return to_mapping(self)

    def format_of(self, name: str) -> str:
        """torch's name of the format in which numbers of format `name` are kept."""
        return self.dtype if self.dtype != "exact" and name in _WIDE else name

    def dtype_of(self, name: str) -> np.dtype:
        """The numpy format in which numbers of format `name` are kept."""
        return storage_dtype(self.format_of(name))


def storage_dtype(name: str) -> np.dtype:
    """The numpy format in which elements of torch's format `name` are stored; KeyError if it is not known."""
    return np.dtype(STORAGE[name][0])


def dtype_name(tensor: torch.Tensor, where: str) -> str:
    """torch's name of the tensor's format; `DataError`, naming `where`, for a tensor that has no plain bytes."""
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    lazy = isinstance(tensor, torch.nn.UninitializedParameter | torch.nn.UninitializedBuffer)
    if lazy or tensor.device.type == "meta":
        raise DataError(
            f"{where}: this tensor has no values yet; run the model once (or materialise it) before recording"
        )
    if tensor.layout != torch.strided or tensor.is_quantized or name not in STORAGE:
        raise DataError(
            f"{where}: cannot store a tensor of {tensor.dtype}, {tensor.layout}; convert it to a dense tensor of "
            f"one of: {', '.join(STORAGE)}"
        )
    return name


@functools.cache
def carrier(name: str) -> torch.dtype:
    """The torch format that torch shares with numpy and that has the bytes of format `name`."""
    import torch

    # Signed twins of uint16/32/64, for which torch has few kernels; the bytes are the same.
    twin = {"<u2": "int16", "<u4": "int32", "<u8": "int64", "|u1": "uint8"}
    dtype: torch.dtype = getattr(torch, twin.get(STORAGE[name][0]) or np.dtype(STORAGE[name][0]).name)
    return dtype


def flat_bytes_like(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The tensor's elements in order, as a flat tensor of format `carrier(name)`, on its own device."""
    plain = tensor.detach() if tensor.requires_grad else tensor
    if plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg()
    flat, wanted = plain.reshape(-1), carrier(name)
    return flat if flat.dtype == wanted else flat.view(wanted)


def gather(pieces: list[torch.Tensor], target: torch.Tensor) -> None:
    """Copy flat tensors end to end into `target`, on the CPU, with one call where that is possible.

    Many small copies cost more in calls than in bytes, from an accelerator in round trips too.
    """
    import torch

    devices = {piece.device for piece in pieces}
    if len(devices) == 1 and target.device in devices:
        torch.cat(pieces, out=target)
    elif len(devices) == 1 and target.nbytes <= _GATHERED:
        target.copy_(torch.cat(pieces))
    else:
        start = 0
        for piece in pieces:
            target[start : start + piece.numel()].copy_(piece)
            start += piece.numel()


def carrier_view(array: np.ndarray, name: str) -> torch.Tensor:
    """A torch tensor of format `carrier(name)` on the memory of a numpy array of format `storage_dtype(name)`."""
    import torch

    return torch.from_numpy(array.view(str(carrier(name)).removeprefix("torch.")))


def restore(flat: np.ndarray, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A new tensor from stored elements: the inverse of `flat_bytes_like`."""
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return carrier_view(flat, name).clone().view(dtype).reshape(shape)


def widened(vector: NDArray, stored: str, wanted: str) -> NDArray:
    """Numbers that are kept in format `stored` in their own format `wanted` again."""
    if stored == wanted:
        return vector
    if stored == "bfloat16":
        vector = (vector.astype("<u4") << np.uint32(16)).view("<f4")
    return vector.astype(storage_dtype(wanted), copy=False)


def require_in_range(stored: NDArray[np.float16], original: Any, name: str) -> None:
    """Raise `DataError` if numbers of a tensor became infinite in float16."""
    if np.isinf(stored).any():
        largest = float(original.detach().abs().nan_to_num(nan=0.0, posinf=0.0).max())
        if largest >= _ROUNDS_TO_INFINITY:
            raise DataError(
                f"state '{name}': {largest:.3g} is beyond float16 (65,504); record with storage.dtype = 'bfloat16' or "
                "'exact'"
            )


def to_stored(array: NDArray) -> NDArray:
    """A numpy array as it is stored: booleans as bytes, complex numbers as pairs along a new last axis."""
    dtype, width = STORAGE[array.dtype.name]
    if array.dtype.kind not in "bc":
        return array
    flat = array.reshape(-1).view(dtype)
    return flat.reshape(*array.shape, 2) if width == 2 else flat.reshape(array.shape)


def from_stored(stored: NDArray, name: str, shape: tuple[int, ...]) -> NDArray:
    """The inverse of `to_stored`; KeyError, ValueError or TypeError if the numbers are of another format or shape."""
    if stored.dtype != storage_dtype(name):
        raise ValueError(f"{stored.dtype} where {name} should be")
    return stored.reshape(-1).view(name).reshape(shape)
