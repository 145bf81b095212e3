"""Nested Python values with tensors in them, stored in a sealed file without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, DataError
from llc_dynamics.trajectory.checksum import row_checksum
from llc_dynamics.trajectory.dtypes import STORAGE, dtype_name, flat_bytes_like, restore
from llc_dynamics.trajectory.sealed import check_structure, open_datasets, read_header, write_sealed

_TREE = "tree"


def write_nested(path: Path, kind: str, run_id: str, value: Any, details: Mapping[str, Any]) -> None:
    """Seal `value`: mappings (keys str or int), lists, tuples, tensors, arrays, int, float, bool, str, None.

    `DataError` names the place of anything else in it. Numbers of one format lie end to end in the dataset
    `data/<format>`; the JSON text in `tree` says how the value is put together from them.
    """
    parts: dict[str, list[NDArray]] = {}
    ends: dict[str, int] = {}
    tree = json.dumps(_encode(value, parts, ends, "state"), separators=(",", ":")).encode()
    bulk: dict[str, NDArray] = {_TREE: np.frombuffer(tree, np.uint8)}
    bulk |= {f"data/{name}": np.concatenate(pieces) for name, pieces in parts.items()}
    write_sealed(path, kind, run_id, details, {}, bulk)


def read_nested(path: Path, kind: str, run_id: str) -> tuple[Any, dict[str, Any]]:
    """The value that `write_nested` sealed, on the CPU, and the details of the header; `CorruptRunError` if damaged."""
    header = read_header(path, kind, run_id)
    check_structure(path, header)
    with open_datasets(path, header) as datasets:
        contents = {}
        for name in (name for name in datasets if not name.startswith("checksum/")):
            contents[name] = datasets[name][()]
            if row_checksum(0, name, contents[name], header.version) != int(datasets[f"checksum/{name}"][0]):
                raise CorruptRunError(
                    f"{path}: '{name}' does not match its checksum; the file is damaged. Restore it from a copy"
                )
    try:
        tree = json.loads(contents[_TREE].tobytes())
        return _decode(tree, contents), header.details
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
        flat = flat_bytes_like(value, name).cpu().numpy().view(STORAGE[name][0])
        return {"tensor": _append(name, flat, parts, ends), "shape": list(value.shape)}
    if isinstance(value, np.ndarray) and value.dtype.name in STORAGE:
        flat = value.astype(value.dtype.newbyteorder("<")).reshape(-1).view(STORAGE[value.dtype.name][0])
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


def _decode(node: dict[str, Any], contents: Mapping[str, NDArray]) -> Any:
    if "value" in node:
        return node["value"]
    if "float" in node:
        return float.fromhex(node["float"])
    if "mapping" in node:
        return {key: _decode(item, contents) for key, item in node["mapping"]}
    if "list" in node:
        return [_decode(item, contents) for item in node["list"]]
    if "tuple" in node:
        return tuple(_decode(item, contents) for item in node["tuple"])
    kind = "tensor" if "tensor" in node else "array"
    name, start, size = node[kind]
    flat = contents[f"data/{name}"][start : start + size]
    if flat.size != size or flat.dtype != np.dtype(STORAGE[name][0]):
        raise ValueError(f"{name} data is missing")
    if kind == "tensor":
        return restore(flat, name, tuple(node["shape"]))
    return flat.copy().view(name).reshape(node["shape"])
