"""Runs that were trained elsewhere: a folder of checkpoints becomes a trajectory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llc_dynamics.errors import ManifestMismatchError
from llc_dynamics.provenance import provenance
from llc_dynamics.runs.checkpoint_files import find_checkpoints
from llc_dynamics.runs.staging import require_free, staged_run
from llc_dynamics.runs.weight_files import load_state
from llc_dynamics.trajectory import Trajectory, WeightStorage
from llc_dynamics.trajectory.manifest import Manifest, plain_config
from llc_dynamics.trajectory.state import StateLayout, bare

if TYPE_CHECKING:
    import torch

#: Endings of the names of what models usually keep as buffers, which a state dict does not tell from parameters.
_BUFFERS = (
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "inv_freq",
    "masked_bias",
    "attn.bias",
    "attention.bias",
)


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

    PyTorch files are read with `torch.load(weights_only=True)` only, so that opening them runs no code; see
    `find_checkpoints` for the layouts that are understood. One checkpoint at a time is in memory. The run folder is
    built under a hidden name and renamed when it is whole; an import that was killed goes on.

    Parameters
    ----------
    folder : the checkpoints: files, or one subfolder a step as in Pythia's revisions.
    out : the run folder to make.
    pattern : which files are meant and where their step stands, "model_{step}.pt"; None finds out.
    key : where the state dict is in files that hold more than it, "model" or "a/b"; None finds out.
    strip_prefix : removed from all names, such as "module." of data parallelism.
    storage : how weights are kept, as for `TrajectoryWriter`.
    model : the module that the checkpoints belong to, if it is at hand: they are compared with it, and it says which
        tensors are parameters. Without it, floating-point tensors count as parameters unless their names are those of
        usual buffers.
    config : settings to store with the run.
    progress : called with the checkpoints that are done and their number.

    Raises
    ------
    TrajectoryError
        No checkpoints, steps that are missing, ambiguous or repeated in the names, or something is at `out`.
    ManifestMismatchError
        A tensor is missing, extra, or of another shape or format than in the first checkpoint; the message names file
        and tensor.
    CorruptRunError, DataError
        A file is damaged, or holds something else than tensors.
    """
    folder, out = Path(folder), Path(out)
    require_free(out)
    found = find_checkpoints(folder, pattern)
    steps = list(found)
    first_file = found[steps[0]]
    first = load_state(first_file, key, strip_prefix)
    parameters = _parameters(first, model)
    kinds = {name: "parameter" if name in parameters else "buffer" for name in first}
    layout = StateLayout.of(first, kinds)
    if model is not None:
        _require_same(first_file, StateLayout.of(model), layout, "the model")
    names = list(first)
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
        }
    }
    settings = plain_config(dict(config or {}))
    manifest = Manifest(layout, settings, origin, {}, WeightStorage.of(storage))
    # Filled anew for each checkpoint, so that one at a time is in memory.
    tensors = first
    with staged_run(out, manifest, {}, model=tensors) as staged:
        for done, (step, path) in enumerate(found.items(), start=1):
            if step <= staged.last_step:
                continue
            loaded = load_state(path, key, strip_prefix)
            given = {name: loaded[name] for name in names if name in loaded} | loaded
            _require_same(path, layout, StateLayout.of(given), str(first_file), stored=path)
            tensors.update(given)
            staged.writer.record(step)
            if progress is not None:
                progress(done, len(found))
        staged.writer.finish()
        staged.publish()
    return Trajectory(out)


def _parameters(tensors: Mapping[str, torch.Tensor], model: torch.nn.Module | None) -> frozenset[str]:
    if model is not None:
        return frozenset(name for name, _ in bare(model).named_parameters(remove_duplicate=False))
    return frozenset(
        name for name, tensor in tensors.items() if tensor.is_floating_point() and not name.endswith(_BUFFERS)
    )


def _require_same(
    path: Path, wanted: StateLayout, given: StateLayout, reference: str, stored: Path | None = None
) -> None:
    """Raise `ManifestMismatchError`, naming the file and the first tensor that is not as `wanted`."""
    mine = {entry.name: entry for entry in given.entries}
    theirs = {entry.name: entry for entry in wanted.entries}
    problem = None
    for name in [*theirs, *(name for name in mine if name not in theirs)]:
        if name not in mine:
            problem = f"'{name}' {list(theirs[name].shape)} is missing, which {reference} has"
        elif name not in theirs:
            problem = f"'{name}' {list(mine[name].shape)} is in it, which {reference} does not have"
        elif mine[name].shape != theirs[name].shape:
            problem = f"'{name}' has shape {list(mine[name].shape)}, but {list(theirs[name].shape)} in {reference}"
        elif mine[name].dtype != theirs[name].dtype:
            problem = f"'{name}' is {mine[name].dtype}, but {theirs[name].dtype} in {reference}"
        if problem is not None:
            break
    if problem is None:
        return
    wrapped = [prefix for prefix in ("module.", "_orig_mod.", "model.") if all(n.startswith(prefix) for n in mine)]
    hint = f"; all its names begin with '{wrapped[0]}': --strip-prefix {wrapped[0]} removes that" if wrapped else ""
    advice = hint or (
        "; a run holds one model. Leave the file out with --pattern, or import it into another run" if stored else ""
    )
    raise ManifestMismatchError(f"{path}: {problem}{advice}")


def _stamp(folder: Path, path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.relative_to(folder)), status.st_size, status.st_mtime_ns
