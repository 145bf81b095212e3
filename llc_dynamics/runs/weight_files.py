"""Weights in files of other programs: safetensors and PyTorch's own format, read without running anything in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from llc_dynamics.errors import CorruptRunError, DataError, TrajectoryError
from llc_dynamics.runs.pickled_files import Foreign, load_pickled, type_name
from llc_dynamics.trajectory.files import storage_errors
from llc_dynamics.trajectory.loading import EXTRA_STATE, without_wrappers

if TYPE_CHECKING:
    import torch

SAFETENSORS = (".safetensors",)
PICKLED = (".pt", ".pth", ".bin", ".ckpt")
INDEX = ".index.json"
#: Where training loops keep the weights among other things.
_USUAL_KEYS = ("model", "state_dict", "model_state_dict", "module", "net", "network", "weights", "params")
#: A state dict may name the same storage several times, and no honest one names it this often.
_MOST_EXPANSION = 16
_LARGEST_INDEX = 1 << 26


def load_state(path: Path, key: str | None = None, prefix: str = "", others: bool = False) -> dict[str, Any]:
    """The state dict in a file, on the CPU, without what wrappers put into its names.

    Its values are tensors, but for what modules keep beside them (`get_extra_state`), which may be anything.

    Parameters
    ----------
    path : `.safetensors`; `.pt`, `.pth`, `.bin` or `.ckpt`, of which only tensors and plain values are made, whatever
        other objects lie beside them; or the index of a checkpoint in several files (`*.index.json`).
    key : where in the file the state dict is, "model" or "a/b"; None finds it if that is unambiguous.
    prefix : removed from the beginning of every name, such as "model.".
    others : names without the prefix may be there and are left out.

    Raises
    ------
    CorruptRunError
        The file is cut short or damaged.
    DataError
        The state dict holds other things than tensors, or code would need to be run; no such code is run.
    """
    found = _without_prefix(path, _load_file(path, key), prefix, others)
    names = without_wrappers(found)
    return {names[name]: tensor for name, tensor in found.items()}


def _load_file(path: Path, key: str | None) -> dict[str, Any]:
    if path.name.endswith(INDEX):
        found = _load_index(path, key)
    elif path.suffix in SAFETENSORS:
        found = _load_safetensors(path)
        if key is not None:
            raise DataError(f"{path}: a safetensors file is flat, it has no '{key}'; leave --key out")
    else:
        found = _find_state(path, load_pickled(path), key)
    _require_bounded(path, found)
    return found


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    with storage_errors(path, "read"), path.open("rb"):
        pass
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            # `save_model` stores a tied tensor once, and says here under which name
            tied = {name: found[kept] for name, kept in (file.metadata() or {}).items() if kept in found}
            return found | {name: tensor for name, tensor in tied.items() if name not in found}
    except (SafetensorError, ValueError, KeyError, OSError, AttributeError) as error:
        raise CorruptRunError(
            f"{path}: not a sound safetensors file ({error}, {path.stat().st_size} bytes); get another copy of it"
        ) from None


def _load_index(path: Path, key: str | None) -> dict[str, Any]:
    """A checkpoint in several files: the index says which tensor is in which."""
    try:
        with storage_errors(path, "read"):
            if path.stat().st_size > _LARGEST_INDEX:
                raise ValueError("too large for an index")
            weight_map = json.loads(path.read_bytes())["weight_map"]
        parts: dict[str, list[str]] = {}
        for name, file in weight_map.items():
            if PurePosixPath(file).name != file or "\\" in file or file.startswith("."):
                raise DataError(f"{path}: names the file {file!r}, which is not in its folder; refused")
            parts.setdefault(file, []).append(name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise CorruptRunError(f"{path}: not an index of a checkpoint ({error}); get another copy of it") from None
    found: dict[str, Any] = {}
    for file, names in parts.items():
        part = path.parent / file
        if not part.is_file() or part.name.endswith(INDEX):
            raise CorruptRunError(f"{part}: listed in {path.name}, but missing; get the whole checkpoint")
        tensors = _load_file(part, key)
        for name in names:
            if name not in tensors:
                raise CorruptRunError(f"{part}: has no '{name}', which {path.name} puts there; get another copy")
            found[name] = tensors[name]
    # In the order of the index, which does not depend on how the tensors were spread over files.
    return {name: found[name] for name in weight_map}


def _find_state(path: Path, content: Any, key: str | None) -> dict[str, Any]:
    """The state dict inside what a file holds."""
    import torch

    if key is not None:
        place = content
        for part in key.split("/"):
            if not isinstance(place, Mapping) or part not in place:
                known = f"it has: {_listed(place)}" if isinstance(place, Mapping) else "there is no table"
                raise DataError(f"{path}: no '{part}' (of --key {key}); {known}")
            place = place[part]
        if problem := _no_state(place):
            raise DataError(f"{path}: '{key}' is no state dict ({problem}); give another --key")
        return dict(place)
    if not isinstance(content, Mapping):
        what = "a pickled object" if isinstance(content, Foreign) else "a"
        raise DataError(
            f"{path}: holds {what} {type_name(content)}, not a state dict; save model.state_dict(), or tensors by name"
        )
    problem = _no_state(content)
    if not problem:
        return dict(content)
    nested = [name for name in _USUAL_KEYS if name in content and not _no_state(content[name])]
    if len(nested) == 1:
        return dict(content[nested[0]])
    if nested:
        raise DataError(
            f"{path}: several state dicts in it ({', '.join(nested)}); say which with --key, as --key {nested[0]}"
        )
    inner = [
        f"in '{name}' {_no_state(content[name])}" for name in _USUAL_KEYS if isinstance(content.get(name), Mapping)
    ]
    problem = (*inner, problem)[0]
    flat = any(isinstance(item, torch.Tensor) for item in content.values())
    advice = "save the tensors alone, or under a key" if flat and not inner else "say where it is with --key"
    raise DataError(f"{path}: no state dict found ({problem}); {advice}. It has: {_listed(content)}")


def _no_state(value: Any) -> str | None:
    """Why a value is no state dict, None if it is one."""
    import torch

    if not isinstance(value, Mapping) or not value:
        return "empty" if isinstance(value, Mapping) else f"a {type_name(value)}"
    for name, item in value.items():
        plain = isinstance(item, torch.Tensor) and not hasattr(item, "full_tensor")  # which parts of a tensor have
        if not isinstance(name, str) or not (plain or name.endswith(EXTRA_STATE)):
            return f"{name!r} is a {type_name(item)}"
    return None


def _listed(content: Mapping[Any, Any]) -> str:
    shown = [f"{name} ({type_name(item)})" for name, item in list(content.items())[:12]]
    return ", ".join(shown) + (", ..." if len(content) > 12 else "")


def _require_bounded(path: Path, state: Mapping[str, Any]) -> None:
    """Refuse views that blow a small storage up: their copy would take memory that the file does not justify."""
    import torch

    folder = path.parent
    size = (
        sum(each.stat().st_size for each in folder.iterdir() if each.is_file())
        if INDEX in path.name
        else path.stat().st_size
    )
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values() if isinstance(tensor, torch.Tensor))
    if total > _MOST_EXPANSION * size:
        raise DataError(f"{path}: its tensors would take {total:,} bytes, the file has {size:,}; refused")


def _without_prefix(path: Path, tensors: dict[str, Any], prefix: str, others: bool) -> dict[str, Any]:
    """Names without the prefix; those that do not begin with it are left out with `others`, unless that is all."""
    within = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if "" in within or (len(within) < len(tensors) and not (others and within)):
        name = next(name for name in tensors if not name.startswith(prefix) or name == prefix)
        raise TrajectoryError(
            f"{path}: '{name}' does not begin with '{prefix}'; leave --strip-prefix out or correct it"
        )
    return within
