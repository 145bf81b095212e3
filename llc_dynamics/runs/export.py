"""From a run folder to one HDF5 file, or one checkpoint to a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, DataError, TrajectoryError
from llc_dynamics.provenance import provenance
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.extras import listing, stored
from llc_dynamics.trajectory.files import remove_abandoned, require_absent, storage_errors, write_whole
from llc_dynamics.trajectory.names import LLC, RESUME, curve_folders, is_run, stored_points, to_link
from llc_dynamics.trajectory.sealed import SealedFile
from llc_dynamics.trajectory.sealing import Rows, write_sealed

#: The kind of an exported file, and that of a stored point of an LLC curve.
KIND = "export"
POINT_KIND = "llc point"
Progress = Callable[[int, int], None]


def export_run(run: str | Path | Trajectory, out: str | Path, *, progress: Progress | None = None) -> Path:
    """Write a whole run into one HDF5 file: rows, fixed arrays, configuration, provenance, resume state, LLC curves.

    The file is described in docs/trajectory-format.md and `import_run` makes the run of it again, bit for bit. It is
    written in bounded memory under a temporary name, flushed, fsynced and renamed: it appears whole or not at all.
    A run that is being written is exported as far as it is sealed.

    Parameters
    ----------
    run : the run, or its folder.
    out : the file to make.
    progress : called with the bytes of rows that are written, and their total.

    Returns
    -------
    `out`.

    Raises
    ------
    TrajectoryError
        There is something at `out`, the run has no checkpoint yet, or the disk is full (nothing is left behind).
    CorruptRunError
        Something in the run does not match its checksum.
    """
    path, out = run.path if isinstance(run, Trajectory) else Path(run), Path(out)
    require_absent(out)
    if is_run(out.parent):
        raise TrajectoryError(f"{out}: lies inside a run folder, where it does not belong; give another place")
    # Before the rows: they must reach at least as far as the resume state.
    resume = (path / RESUME).read_bytes() if (path / RESUME).is_file() else None
    run = Trajectory(path)
    if len(run) == 0:
        raise TrajectoryError(f"{path}: no checkpoint has been sealed yet, so there is nothing to export")
    steps, arrays = run.steps, {name: run.arrays(name) for name in run.array_names}
    description = {
        "complete": run.complete,
        "arrays": {name: listing(given) for name, given in arrays.items()},
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "exported_by": provenance(),
    }
    tables = {"manifest": _text(run.manifest.to_json()), "description": _text(description)}
    tables |= {"step": steps, "state_step": run.weight_steps}
    tables |= {f"metrics/{to_link(name, 'metric')}": run.metrics(name) for name in run.metric_names}
    for name, given in arrays.items():
        tables |= stored(given, f"arrays/{name}")
    if resume is not None:
        tables[f"files/{RESUME}"] = np.frombuffer(resume, np.uint8)
    for folder in curve_folders(path):
        tables.update(_curve_tables(folder))
    with storage_errors(out, "make the folder"):
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(out)
    details = {"rows": len(steps), "first_step": int(steps[0]), "last_step": int(steps[-1])}
    write_sealed(out, KIND, run.manifest.run_id, details, tables, _rows(run), progress)
    return out


def export_checkpoint(run: str | Path | Trajectory, step: int, out: str | Path) -> Path:
    """Write the weights and buffers after `step` optimiser updates to a safetensors file.

    Every tensor keeps its name, shape, number format and bits (bfloat16 and float8 too); a tied tensor stands there
    under each of its names, so that `model.load_state_dict(load_file(out))` needs nothing else. The file's metadata
    names run and step.

    Returns
    -------
    `out`.

    Raises
    ------
    StepNotStoredError
        Naming the nearest stored steps.
    DataError
        A number format that safetensors does not know; the tensor is named.
    TrajectoryError
        `out` has another ending or exists already, or cannot be written (nothing is left behind).
    CorruptRunError
        The checkpoint does not match its checksum.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    out = Path(out)
    if out.suffix != ".safetensors":
        raise TrajectoryError(f"{out}: one checkpoint is written as safetensors; give a name that ends in .safetensors")
    require_absent(out)
    run = run if isinstance(run, Trajectory) else Trajectory(run)
    tensors = run.state_dict(step)
    metadata = {"format": "pt", "step": str(int(step)), "llc_dynamics_run_id": run.manifest.run_id}
    with storage_errors(out, "make the folder"):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        content = save(tensors, metadata)
    except (KeyError, ValueError, SafetensorError) as error:
        formats = ", ".join(sorted({entry.dtype for entry in run.manifest.state.entries}))
        raise DataError(f"{run.path}: step {step} holds {formats}; safetensors cannot store it ({error})") from None
    require_absent(out)
    write_whole(out, content)
    return out


def _text(value: Any) -> NDArray:
    """JSON as a dataset of its UTF-8 bytes."""
    return np.frombuffer(json.dumps(value, indent=1).encode(), np.uint8)


def _rows(run: Trajectory) -> dict[str, Rows]:
    """The large datasets, with the names and so the checksums that they have in the shards."""
    steps, with_weights, storage = run.steps.tolist(), run.weight_steps.tolist(), run.manifest.storage
    rows = {}
    for name, size in run.manifest.state.sizes().items():
        rows[f"state/{name}"] = Rows(storage.dtype_of(name), (size,), with_weights, partial(run.kept_rows, name))
    return rows | {link: Rows.of(values, steps) for link, values in run.function_rows().items()}


def _curve_tables(folder: Path) -> Iterator[tuple[str, NDArray]]:
    """The files of the points of a curve, byte for byte, and what most people want of them as plain columns."""
    columns: list[tuple[Any, ...]] = []
    for number, file in stored_points(folder).items():
        point = SealedFile(file, POINT_KIND)
        point.check()
        result = point.details.get("result")
        try:
            columns.append(
                (number, float(result["llc"]), float(result["standard_error"]), not result["reasons"])  # type: ignore[index]
            )
        except (KeyError, TypeError, ValueError):
            raise CorruptRunError(f"{file}: not a stored LLC estimate; remove it, or restore it from a copy") from None
        # Mapped, not read: a long curve takes more memory than one should have to have.
        yield f"files/{LLC}/{folder.name}/{file.name}", np.memmap(file, np.uint8, "r")
    step, llc, errors, converged = zip(*columns, strict=True) if columns else ((), (), (), ())
    yield f"curves/{folder.name}/step", np.array(step, np.int64)
    yield f"curves/{folder.name}/llc", np.array(llc, np.float64)
    yield f"curves/{folder.name}/standard_error", np.array(errors, np.float64)
    yield f"curves/{folder.name}/converged", np.array(converged, np.uint8)
