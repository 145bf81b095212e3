"""How weights are stored: as they are, or smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.optional import optional_import
from llc_dynamics.settings import from_mapping, to_mapping
from llc_dynamics.trajectory.dtypes import storage_dtype

#: The formats that `dtype` makes narrower.
_WIDE = ("float32", "float64")
#: Half a unit above the largest float16.
_ROUNDS_TO_INFINITY = 65520.0


@dataclass(frozen=True)
class WeightStorage:
    """What is done with the weights and buffers of a checkpoint before they are written. Rows are sealed and checked
    all the same, and come back in the number formats of the model.

    Parameters
    ----------
    dtype : "exact" keeps every bit. "float16" (11 bits of precision, numbers up to 65,504) and "bfloat16" (8 bits, the
        range of float32) round float32 and float64 tensors to the nearest; other formats stay as they are. What was
        rounded is then kept bit for bit.
    delta : store each row as its difference to the row before, the first of a shard whole. Exact; it makes
        `compression` work better, and reading one row takes reading those before it in the shard.
    compression : "none", or "zstd" (with HDF5's byte shuffle), which needs the extra `compression`.

    Raises `ConfigError` for another value, or for `delta` without compression, which saves nothing.
    """

    dtype: Literal["exact", "float16", "bfloat16"] = "exact"
    delta: bool = False
    compression: Literal["none", "zstd"] = "none"

    def __post_init__(self) -> None:
        for name, known in (("dtype", ("exact", "float16", "bfloat16")), ("compression", ("none", "zstd"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"storage.{name}: {getattr(self, name)!r} is unknown; known: {', '.join(known)}")
        if not isinstance(self.delta, bool):
            raise ConfigError(f"storage.delta: expected true or false, got {self.delta!r}")
        if self.delta and self.compression == "none":
            raise ConfigError("storage.delta: differences take as much room as the rows; add compression = 'zstd'")

    @classmethod
    def of(cls, given: WeightStorage | Mapping[str, Any] | None) -> WeightStorage:
        """From what a user gives: None stands for the rows as they are."""
        if given is None or isinstance(given, WeightStorage):
            return given or cls()
        return from_mapping(cls, given, "storage")

    def to_json(self) -> dict[str, Any]:
        return to_mapping(self)

    @property
    def packed(self) -> bool:
        """Whether rows are compressed."""
        return self.compression != "none"

    def format_of(self, name: str) -> str:
        """torch's name of the format in which numbers of format `name` are kept."""
        return self.dtype if self.dtype != "exact" and name in _WIDE else name

    def dtype_of(self, name: str) -> np.dtype:
        """The format of the dataset `state/<name>`: of differences, unsigned whole numbers of the same size."""
        dtype = storage_dtype(self.format_of(name))
        return np.dtype(f"<u{dtype.itemsize}") if self.delta else dtype

    def require_codec(self, what: str) -> None:
        """Raise `MissingPackageError` if rows are compressed and the package for it is missing."""
        if self.packed:
            zstd_filter(what)


def zstd_filter(what: str) -> dict[str, Any]:
    """Arguments of `h5py.Group.create_dataset`; importing the package also teaches HDF5 to read such datasets."""
    plugin = optional_import("hdf5plugin", "compression", what)
    return {"shuffle": True, **plugin.Zstd(clevel=1)}


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


def to_differences(row: NDArray, former: NDArray | None) -> NDArray:
    """The difference of two rows' bits, as whole numbers of the same size; `row` itself if there is no row before.

    The bits are subtracted as unsigned numbers, modulo their range, and the sign is moved into the last bit (zigzag):
    2 d for d >= 0, -2 d - 1 for d < 0. Small changes of either sign thus have zeros in the upper bytes.
    """
    bits = _bits(row)
    if former is None:
        return bits
    change = (bits - _bits(former)).view(bits.dtype.str.replace("u", "i"))
    return ((change << 1) ^ (change >> (8 * bits.itemsize - 1))).view(bits.dtype)


def from_differences(stored: NDArray, former: NDArray | None, dtype: np.dtype) -> NDArray:
    """The inverse of `to_differences`, as numbers of format `dtype`."""
    if former is None:
        return stored.view(dtype)
    one = stored.dtype.type(1)
    change = (stored >> one) ^ (~(stored & one) + one)
    return (_bits(former) + change).view(dtype)


def _bits(row: NDArray) -> NDArray:
    return row.view(f"<u{row.itemsize}")
