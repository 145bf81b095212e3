"""Runs that were trained elsewhere: a folder of checkpoints becomes a trajectory."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llc_dynamics.errors import DataError, ManifestMismatchError, printable, some_of
from llc_dynamics.provenance import provenance
from llc_dynamics.runs.checkpoint_files import find_checkpoints
from llc_dynamics.runs.staging import require_free, staged_run
from llc_dynamics.runs.weight_files import load_state
from llc_dynamics.trajectory import Trajectory, WeightStorage
from llc_dynamics.trajectory.loading import EXTRA_STATE, Fit, is_constant
from llc_dynamics.trajectory.manifest import Manifest, plain_config
from llc_dynamics.trajectory.state import StateLayout, bare, plain_names

if TYPE_CHECKING:
    import torch

_SAMPLED = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
_ONE_MODEL = "a run holds one model in one number format. Leave the file out with --pattern, import it into another run"


def import_checkpoints(
    folder: str | Path,
    out: str | Path,
    *,
    pattern: str | None = None,
    key: str | None = None,
    strip_prefix: str = "",
    storage: WeightStorage | Mapping[str, Any] | None = None,
    model: torch.nn.Module | None = None,
    config: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """Make a run of a folder of checkpoints that another program wrote: weights and steps, nothing else is in them.

    Opening the files runs no code: of PyTorch files only tensors and plain values are read, whatever other objects lie
    beside them. See `find_checkpoints` for the layouts that are understood. One checkpoint at a time is in memory. The
    run folder is built under a hidden name and renamed when it is whole; an import that was killed goes on.

    With a `model` it decides: its names are found with and without wrappers (`module.`, `_orig_mod.`) and a prefix that
    all share (Lightning's `model.`), a tied tensor under either of its names; each checkpoint must fit into it, where a
    floating-point format may be narrower than the model's (float16 for float32); what it does not have is left out: a
    criterion's weights, metrics, averaged copies, buffers of other versions. A warning says what was left out, and
    what an estimate would refuse.

    Parameters
    ----------
    folder : the checkpoints: files, or one subfolder a step as in Pythia's revisions.
    out : the run folder to make.
    pattern : which files are meant and where their step stands, "model_{step}.pt"; None finds out.
    key : where the state dict is in files that hold more than it, "model" or "a/b"; None finds out.
    strip_prefix : removed from all names, such as "model."; with a `model`, other names are left out.
    storage : how weights are kept, as for `TrajectoryWriter`.
    model : the module that the checkpoints belong to, if it is at hand. Without it, floating-point tensors count as
        parameters unless their names are those of usual buffers, and all tensors are kept.
    config : settings to store with the run.
    progress : called with the checkpoints that are done and their number.

    Raises
    ------
    TrajectoryError
        No checkpoints, steps that are missing, ambiguous or repeated in the names, or something is at `out`.
    ManifestMismatchError
        A tensor is missing, extra, or of another shape or format than in the first checkpoint or the model; the message
        names file and tensor.
    CorruptRunError, DataError
        A file is damaged, holds something else than tensors, or would need code to be run.
    """
    folder, out = Path(folder), Path(out)
    require_free(out)
    found = find_checkpoints(folder, pattern)
    steps = list(found)
    first_file = found[steps[0]]

    def read(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
        return _arranged(path, load_state(path, key, strip_prefix, others=model is not None), model)

    tensors, left_out = read(first_file)
    layout = StateLayout.of(tensors, _kinds(tensors, model))
    stamp = hashlib.sha256(json.dumps([[step, *_stamp(folder, path)] for step, path in found.items()]).encode())
    origin = provenance() | {
        "imported": {
            "from": folder.resolve().name,
            "kind": "checkpoints",
            "checkpoints": len(found),
            "first": str(first_file.relative_to(folder)),
            "last": str(found[steps[-1]].relative_to(folder)),
            "files": f"sha256 of steps, names, sizes and times: {stamp.hexdigest()}",
            "pattern": pattern,
            "key": key,
            "strip_prefix": strip_prefix,
            "left_out": left_out.copy(),
        }
    }
    settings = plain_config(dict(config or {}))
    manifest = Manifest(layout, settings, origin, {}, WeightStorage.of(storage))
    undefined = []
    # `tensors` is filled anew for each checkpoint, so that one at a time is in memory.
    with staged_run(out, manifest, {}, model=tensors) as staged:
        for done, (step, path) in enumerate(found.items(), start=1):
            if step <= staged.last_step:
                continue
            given, more = read(path)
            left_out += [name for name in more if name not in left_out]
            given = {name: given[name] for name in tensors if name in given} | given
            if problem := layout.difference(StateLayout.of(given, _kinds(given, model)), str(first_file), "this file"):
                advice = _ONE_MODEL + (", or give the model, which says what belongs to it" if model is None else "")
                raise ManifestMismatchError(f"{path}: {problem}; {advice}")
            tensors.update(given)
            undefined += [step] if _undefined(given, layout) else []
            staged.writer.record(step)
            if progress is not None:
                progress(done, len(found))
        staged.writer.finish()
        staged.publish()
    for finding in _doubts(layout, model, left_out, undefined):
        warnings.warn(printable(f"{folder}: {finding}"), UserWarning, stacklevel=2)
    return Trajectory(out)


def _arranged(
    path: Path, state: dict[str, Any], model: torch.nn.Module | None
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of a checkpoint to store, under the names of the model if there is one, and what is left out."""
    extra = [name for name in state if name.endswith(EXTRA_STATE)]
    tensors = {name: value for name, value in state.items() if name not in extra}
    try:
        layout = StateLayout.of(tensors, _kinds(tensors, None))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if model is None:
        return tensors, extra
    advice = "give the model that the checkpoints belong to, in their number format or a wider one"
    fit = Fit.of(model, layout, str(path), whose="the file", advice=advice, foreign=True)
    return fit.with_constants(tensors), [*fit.left_out, *extra]


def _kinds(tensors: Mapping[str, torch.Tensor], model: torch.nn.Module | None) -> dict[str, str]:
    """ "parameter" or "buffer" by name."""
    if model is None:
        named = {
            name
            for name, tensor in tensors.items()
            if tensor.is_floating_point()
            and not (name.endswith(("running_mean", "running_var")) or is_constant(name, tensor.shape))
        }
    else:
        own = bare(model)
        plain = plain_names(own, own.state_dict())
        named = {plain.get(name, name) for name, _ in own.named_parameters(remove_duplicate=False)}
    return {name: "parameter" if name in named else "buffer" for name in tensors}


def _undefined(tensors: Mapping[str, torch.Tensor], layout: StateLayout) -> bool:
    """Whether a parameter is NaN or infinite somewhere."""
    floats = [entry.name for entry in layout.entries if entry.kind == "parameter" and entry.dtype in _SAMPLED]
    return not all(bool(tensors[name].isfinite().all()) for name in floats)


def _doubts(
    layout: StateLayout, model: torch.nn.Module | None, left_out: list[str], undefined: list[int]
) -> Iterator[str]:
    """What was not taken over, and what an estimate would refuse."""
    if left_out:
        yield f"left out, as no weights of the model: {some_of(left_out, 8)}"
    if undefined:
        yield f"weights are NaN or infinite at step {', '.join(map(str, undefined[:8]))}; no estimate can be made there"
    packed = [
        entry
        for entry in layout.entries
        if entry.dtype.startswith("float8") or (entry.dtype in ("int8", "uint8") and entry.name.endswith("weight"))
    ]
    kinds = {entry.kind for entry in layout.entries if entry.dtype in _SAMPLED}
    if "parameter" not in kinds and not any(entry.dtype.startswith("complex") for entry in layout.entries):
        yield "no floating-point parameter is in the checkpoints, so that an estimate has nothing to sample"
    elif packed:
        yield f"'{packed[0].name}' is {packed[0].dtype}; an estimate cannot sample quantised weights"
    elif model is not None and not any(parameter.requires_grad for parameter in model.parameters()):
        yield "no parameter of the model requires a gradient; call requires_grad_(True) before an estimate"


def _stamp(folder: Path, path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.relative_to(folder)), status.st_size, status.st_mtime_ns
