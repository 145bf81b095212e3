"""Fixed arrays that belong to a run (its evaluation batches): one sealed file a set, one dataset an array."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, DataError
from llc_dynamics.trajectory.checksum import row_checksum
from llc_dynamics.trajectory.dtypes import STORAGE
from llc_dynamics.trajectory.names import arrays_file, to_link
from llc_dynamics.trajectory.sealed import check_structure, open_datasets, read_header, write_sealed

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
        if array.dtype.name not in STORAGE:
            raise DataError(f"arrays '{name}': '{key}' holds {array.dtype}; only numbers and booleans can be stored")
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


def write_arrays(run: Path, name: str, arrays: Mapping[str, NDArray], run_id: str) -> None:
    """Seal a set that `plain_arrays` made."""
    bulk = {
        f"data/{to_link(key, 'array')}": np.atleast_1d(array.view(np.uint8) if array.dtype == bool else _as_real(array))
        for key, array in arrays.items()
    }
    details = {"name": name, "arrays": {key: [array.dtype.name, list(array.shape)] for key, array in arrays.items()}}
    write_sealed(arrays_file(run, name), "arrays", run_id, details, {}, bulk)


def read_arrays(run: Path, name: str, run_id: str, expected_digest: str) -> dict[str, NDArray]:
    """Read a set and compare it with the digest in the manifest; raises `CorruptRunError` if it is not the same."""
    path = arrays_file(run, name)
    header = read_header(path, "arrays", run_id)
    check_structure(path, header)
    arrays = {}
    try:
        listed = [(str(key), str(dtype), tuple(shape)) for key, (dtype, shape) in header.details["arrays"].items()]
        with open_datasets(path, header) as datasets:
            for key, dtype, shape in listed:
                link = f"data/{to_link(key, 'array')}"
                stored = np.asarray(datasets[link][()])
                if row_checksum(0, link, stored, header.version) != int(datasets[f"checksum/{link}"][0]):
                    raise CorruptRunError(f"{path}: '{key}' does not match its checksum; restore the file from a copy")
                if stored.dtype != np.dtype(STORAGE[dtype][0]):
                    raise ValueError(f"'{key}' is {stored.dtype}")
                arrays[key] = stored.reshape(-1).view(dtype).reshape(shape)
        same = digest(arrays) == expected_digest
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CorruptRunError(f"{path}: its contents do not fit together ({error}); restore it from a copy") from None
    if not same:
        raise CorruptRunError(f"{path}: not the arrays that the manifest lists; restore it from a copy of this run")
    return arrays


def _as_real(array: NDArray) -> NDArray:
    """Complex numbers as pairs along a new last axis, everything else as it is."""
    if array.dtype.kind != "c":
        return array
    return array.reshape(-1).view(STORAGE[array.dtype.name][0]).reshape(*array.shape, 2)
