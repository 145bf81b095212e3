"""What a run holds beside its rows: fixed arrays (its evaluation batches), and the state from which its loop goes on.

A set of arrays is one sealed file with one dataset an array. The resume state is nested Python values with tensors in
them, in one sealed file without pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, DataError
from llc_dynamics.ranges import array_of
from llc_dynamics.trajectory.formats import (
    STORAGE,
    dtype_name,
    flat_bytes_like,
    from_stored,
    restore,
    storage_dtype,
    to_stored,
)
from llc_dynamics.trajectory.names import RESUME, arrays_file, to_link
from llc_dynamics.trajectory.sealed import MOST_AXES, SealedFile
from llc_dynamics.trajectory.sealing import write_sealed

if TYPE_CHECKING:
    import torch

ArraySet = Mapping[str, "NDArray[Any] | torch.Tensor"]


def plain_arrays(name: str, given: ArraySet) -> dict[str, NDArray]:
    """The arrays of a set as little-endian numpy arrays; `DataError` names one that cannot be stored."""
    if not isinstance(given, Mapping):
        raise DataError(f"arrays '{name}': expected a mapping of names to arrays, got {type(given).__name__}")
    arrays = {}
    for key, value in given.items():
        to_link(key, f"arrays '{name}'")
        try:
            array = array_of(value)
        except (TypeError, ValueError):
            raise DataError(f"arrays '{name}': '{key}' is no array of numbers, but {type(value).__name__}") from None
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
    with _fitting(path):
        return restored(file.details["arrays"], tables, "data", expected_digest)


def write_resume(run: Path, run_id: str, state: Mapping[str, Any], rows: int) -> None:
    """Seal `state`, from which the loop goes on after `rows` checkpoints.

    It may hold mappings (keys str or int), lists, tuples, tensors, arrays, int, float, bool, str, None; `DataError`
    names the place of anything else. Numbers of one format lie end to end in the dataset `data/<format>`; the JSON text
    in `tree` says how the state is put together from them.
    """
    if not isinstance(state, Mapping):
        raise DataError(f"state: expected a mapping, got {type(state).__name__}")
    parts: dict[str, list[NDArray]] = {}
    ends: dict[str, int] = {}
    tree = json.dumps(_encode(state, parts, ends, "state"), separators=(",", ":")).encode()
    tables: dict[str, NDArray] = {"tree": np.frombuffer(tree, np.uint8)}
    tables |= {f"data/{name}": np.concatenate(pieces) for name, pieces in parts.items()}
    write_sealed(run / RESUME, "resume", run_id, {"rows": rows}, tables)


def read_resume(run: Path, run_id: str, tensors: bool = True) -> tuple[dict[str, Any], int] | None:
    """The state that `write_resume` sealed, on the CPU, and the number of rows before it; None if there is none.

    Raises `CorruptRunError` if it is damaged. Without `tensors` it is checked as well, but torch is not needed: tensors
    come back as None.
    """
    path = run / RESUME
    if not path.exists():
        return None
    file, tables = _as_it_stands(path, run_id)
    with _fitting(path):
        state, rows = _decode(json.loads(tables["tree"].tobytes()), tables, tensors), file.details["rows"]
        if not isinstance(state, dict) or type(rows) is not int:
            raise ValueError("not a resume state")
        return state, rows


def _as_it_stands(path: Path, run_id: str) -> tuple[SealedFile, dict[str, NDArray]]:
    """The resume file and its tables: of the file that follows, where a writer replaces it in between."""
    while True:
        file = SealedFile(path, "resume", run_id)
        try:
            return file, file.tables()
        except CorruptRunError:
            if file.replaced() is None:
                raise


@contextlib.contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """`CorruptRunError`, naming `path`, for what goes wrong with numbers and JSON that do not fit together."""
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError, RecursionError) as error:
        raise CorruptRunError(f"{path}: its contents do not fit together ({error}); restore it from a copy") from None


def _encode(value: Any, parts: dict[str, list[NDArray]], ends: dict[str, int], where: str) -> Any:
    import torch

    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return {"value": value}
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, Mapping):
        pairs = []
        for key, item in value.items():
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise DataError(f"{where}: the key {key!r} is neither a string nor a whole number; it cannot be stored")
            pairs.append([key, _encode(item, parts, ends, f"{where}[{key!r}]")])
        return {"mapping": pairs}
    if isinstance(value, list | tuple):
        items = [_encode(item, parts, ends, f"{where}[{index}]") for index, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, torch.Tensor):
        name = dtype_name(value, where)
        flat = flat_bytes_like(value, name).cpu().numpy().view(storage_dtype(name))
        return {"tensor": _append(name, flat, parts, ends), "shape": list(value.shape)}
    if isinstance(value, np.ndarray) and value.dtype.name in STORAGE:
        flat = to_stored(value.astype(value.dtype.newbyteorder("<"))).reshape(-1)
        return {"array": _append(value.dtype.name, flat, parts, ends), "shape": list(value.shape)}
    shown = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise DataError(
        f"{where}: a {shown} cannot be stored; give tensors, arrays of numbers, mappings, lists, int, float, bool, "
        "str or None"
    )


def _append(name: str, flat: NDArray, parts: dict[str, list[NDArray]], ends: dict[str, int]) -> list[Any]:
    start = ends.get(name, 0)
    parts.setdefault(name, []).append(flat)
    ends[name] = start + flat.size
    return [name, start, flat.size]


def _decode(node: dict[str, Any], tables: Mapping[str, NDArray], tensors: bool) -> Any:
    if "value" in node:
        return node["value"]
    if "float" in node:
        return float.fromhex(node["float"])
    if "mapping" in node:
        return {key: _decode(item, tables, tensors) for key, item in node["mapping"]}
    if "list" in node:
        return [_decode(item, tables, tensors) for item in node["list"]]
    if "tuple" in node:
        return tuple(_decode(item, tables, tensors) for item in node["tuple"])
    kind = "tensor" if "tensor" in node else "array"
    name, start, size = node[kind]
    flat, shape = tables[f"data/{name}"][start : start + size], tuple(node["shape"])
    width = STORAGE[name][1]
    if flat.dtype != storage_dtype(name) or flat.size != size or width * np.prod(shape, dtype=object) != size:
        raise ValueError(f"{name} data is missing")
    if kind == "array":
        return from_stored(flat, name, shape).copy()
    return restore(flat, name, shape) if tensors else None
