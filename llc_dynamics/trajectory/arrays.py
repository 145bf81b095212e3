"""Fixed arrays that belong to a run (its evaluation batches): one sealed file a set, one dataset an array."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, DataError
from llc_dynamics.trajectory.formats import STORAGE, from_stored, to_stored
from llc_dynamics.trajectory.names import arrays_file, to_link
from llc_dynamics.trajectory.sealed import MOST_AXES, SealedFile
from llc_dynamics.trajectory.sealing import write_sealed

if TYPE_CHECKING:
    import torch

ArraySet = Mapping[str, "NDArray[Any] | torch.Tensor"]


def plain_arrays(name: str, given: ArraySet) -> dict[str, NDArray]:
    """The arrays of a set as little-endian numpy arrays; `DataError` names one that cannot be stored."""
    import torch

    if not isinstance(given, Mapping):
        raise DataError(f"arrays '{name}': expected a mapping of names to arrays, got {type(given).__name__}")
    arrays = {}
    for key, value in given.items():
        to_link(key, f"arrays '{name}'")
        try:
            array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        except TypeError:
            raise DataError(
                f"arrays '{name}': '{key}' is {value.dtype}, which numpy lacks; convert it to float32"
            ) from None
        if array.dtype.name not in STORAGE or array.ndim >= MOST_AXES:
            raise DataError(
                f"arrays '{name}': '{key}' holds {array.dtype} {list(array.shape)}; only numbers and booleans with "
                f"fewer than {MOST_AXES} axes can be stored"
            )
        arrays[key] = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).reshape(array.shape)
    return arrays


def digest(arrays: Mapping[str, NDArray]) -> str:
    """SHA-256 of the names, formats, shapes and bytes of a set."""
    total = hashlib.sha256()
    for key in sorted(arrays):
        array = arrays[key]
        total.update(f"{len(key)}:{key} {array.dtype.name} {list(array.shape)}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def listing(arrays: Mapping[str, NDArray]) -> dict[str, Any]:
    """{array: [format, shape]}, which `restored` needs beside the stored numbers; JSON."""
    return {key: [array.dtype.name, list(array.shape)] for key, array in arrays.items()}


def stored(arrays: Mapping[str, NDArray], folder: str) -> dict[str, NDArray]:
    """The datasets of a set: booleans as bytes, complex numbers as pairs along a new last axis."""
    return {f"{folder}/{to_link(key, 'array')}": to_stored(array) for key, array in arrays.items()}


def restored(listed: Any, tables: Mapping[str, NDArray], folder: str, expected_digest: str) -> dict[str, NDArray]:
    """The inverse of `stored`; KeyError, ValueError, TypeError or AttributeError if it is not what the digest says."""
    arrays = {
        str(key): from_stored(tables[f"{folder}/{to_link(key, 'array')}"], dtype, tuple(shape))
        for key, (dtype, shape) in listed.items()
    }
    if digest(arrays) != expected_digest:
        raise ValueError("not the arrays that the manifest lists")
    return arrays


def write_arrays(run: Path, name: str, arrays: Mapping[str, NDArray], run_id: str) -> None:
    """Seal a set that `plain_arrays` made."""
    details = {"name": name, "arrays": listing(arrays)}
    write_sealed(arrays_file(run, name), "arrays", run_id, details, stored(arrays, "data"))


def read_arrays(run: Path, name: str, run_id: str, expected_digest: str) -> dict[str, NDArray]:
    """Read a set and compare it with the digest in the manifest; raises `CorruptRunError` if it is not the same."""
    path = arrays_file(run, name)
    file = SealedFile(path, "arrays", run_id)
    tables = file.tables()
    try:
        return restored(file.details["arrays"], tables, "data", expected_digest)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CorruptRunError(f"{path}: its contents do not fit together ({error}); restore it from a copy") from None
