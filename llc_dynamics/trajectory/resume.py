"""The resume state: nested Python values with tensors in them, in a sealed file without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, DataError
from llc_dynamics.trajectory.formats import (
    STORAGE,
    dtype_name,
    flat_bytes_like,
    from_stored,
    restore,
    storage_dtype,
    to_stored,
)
from llc_dynamics.trajectory.names import RESUME
from llc_dynamics.trajectory.sealed import SealedFile
from llc_dynamics.trajectory.sealing import write_sealed

_KIND = "resume"
_TREE = "tree"


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
    tables: dict[str, NDArray] = {_TREE: np.frombuffer(tree, np.uint8)}
    tables |= {f"data/{name}": np.concatenate(pieces) for name, pieces in parts.items()}
    write_sealed(run / RESUME, _KIND, run_id, {"rows": rows}, tables)


def read_resume(run: Path, run_id: str, tensors: bool = True) -> tuple[dict[str, Any], int] | None:
    """The state that `write_resume` sealed, on the CPU, and the number of rows before it; None if there is none.

    Raises `CorruptRunError` if it is damaged. Without `tensors` it is checked as well, but torch is not needed: tensors
    come back as None.
    """
    path = run / RESUME
    if not path.exists():
        return None
    file = SealedFile(path, _KIND, run_id)
    tables = file.tables()
    try:
        state, rows = _decode(json.loads(tables[_TREE].tobytes()), tables, tensors), file.details["rows"]
        if not isinstance(state, dict) or type(rows) is not int:
            raise ValueError("not a resume state")
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError, RecursionError) as error:
        raise CorruptRunError(f"{path}: its contents do not fit together ({error}); restore it from a copy") from None
    return state, rows


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
