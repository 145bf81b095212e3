"""From a run folder to one file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, TrajectoryError
from llc_dynamics.llc.storage import read_point, stored_points
from llc_dynamics.provenance import provenance
from llc_dynamics.runs.archive import RowTable, require_absent, text_array, write_archive
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.dtypes import STORAGE, storage_dtype
from llc_dynamics.trajectory.holder import StateHolder
from llc_dynamics.trajectory.info import curve_folders
from llc_dynamics.trajectory.names import RESUME, is_run, to_link
from llc_dynamics.trajectory.rows import LazyRows
from llc_dynamics.trajectory.staging import current_manifest
from llc_dynamics.trajectory.state import empty_rows
from llc_dynamics.trajectory.whole_rows import stored_outputs

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
    steps = run.steps
    arrays = {name: run.arrays(name) for name in run.array_names}
    points = {folder.name: stored_points(folder) for folder in curve_folders(path)}
    description = {
        "complete": run.complete,
        "arrays": {
            name: {key: [array.dtype.name, list(array.shape)] for key, array in given.items()}
            for name, given in arrays.items()
        },
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "exported_by": provenance(),
    }

    def tables() -> Iterator[tuple[str, NDArray]]:
        yield "manifest", text_array(current_manifest(run.manifest.to_json()))
        yield "description", text_array(description)
        yield "step", steps
        yield "state_step", run.weight_steps
        for name in run.metric_names:
            yield f"metrics/{to_link(name, 'metric')}", run.metrics(name)
        for name, given in arrays.items():
            for key, array in given.items():
                yield f"arrays/{name}/{to_link(key, 'array')}", _storable(array)
        if resume is not None:
            yield f"files/{RESUME}", np.frombuffer(resume, np.uint8)
        for curve, files in points.items():
            yield from _curve_tables(curve, files)

    details = {"rows": len(steps), "first_step": int(steps[0]), "last_step": int(steps[-1])}
    write_archive(out, run.manifest.run_id, details, tables(), _row_tables(run), progress)
    return out


def _row_tables(run: Trajectory) -> dict[str, RowTable]:
    """The large datasets, with the names and so the checksums that they have in the shards."""
    steps, with_weights, storage = run.steps.tolist(), run.weight_steps.tolist(), run.manifest.storage
    tables = {}
    for dtype, size in run.manifest.state.sizes().items():
        kept = storage_dtype(storage.format_of(dtype))
        tables[f"state/{dtype}"] = RowTable(kept, (size,), with_weights, _StateReader(run, dtype, with_weights))
    functions = {f"samples/{to_link(name, 'sample')}": run.sample_rows(name) for name in run.sample_names}
    if (outputs := stored_outputs(run)) is not None:
        functions["outputs"] = outputs
    for name, rows in functions.items():
        tables[name] = RowTable(rows.dtype, rows.shape[1:], steps, _read_of(rows))
    return tables


def _read_of(rows: LazyRows) -> Callable[[int, int], NDArray]:
    return lambda start, stop: rows[start:stop]


@dataclasses.dataclass(frozen=True)
class _StateReader:
    """Reads the flat vectors of one number format, in the format in which the run keeps them."""

    run: Trajectory
    dtype: str
    steps: list[int]

    def __call__(self, start: int, stop: int) -> NDArray:
        layout, storage = self.run.manifest.state, self.run.manifest.storage
        room = {dtype: vectors[0] for dtype, vectors in empty_rows(layout, 1, storage).items()}
        vectors = np.empty((stop - start, *room[self.dtype].shape), room[self.dtype].dtype)
        for row in range(start, stop):
            layout.copy_into(StateHolder(self.run.state_dict(self.steps[row]), ()), room, storage)
            vectors[row - start] = room[self.dtype]
        return vectors


def _storable(array: NDArray) -> NDArray:
    """Booleans as bytes and complex numbers as pairs along a new last axis, everything else as it is."""
    if array.dtype == bool:
        return array.view(np.uint8)
    if array.dtype.kind == "c":
        return array.reshape(-1).view(STORAGE[array.dtype.name][0]).reshape(*array.shape, 2)
    return array


def _curve_tables(curve: str, files: dict[int, Path]) -> Iterator[tuple[str, NDArray]]:
    """The files of the points, byte for byte, and what most people want of them as plain columns."""
    rows: list[tuple[Any, ...]] = []
    for number, file in files.items():
        result, _ = read_point(file)
        rows.append((number, result.llc, result.standard_error, result.converged))
        try:
            content = file.read_bytes()
        except OSError as error:
            raise CorruptRunError(f"{file}: cannot be read ({error.strerror})") from None
        yield f"files/llc/{curve}/{file.name}", np.frombuffer(content, np.uint8)
    if rows:
        step, llc, errors, converged = zip(*rows, strict=True)
        yield f"curves/{curve}/step", np.array(step, np.int64)
        yield f"curves/{curve}/llc", np.array(llc, np.float64)
        yield f"curves/{curve}/standard_error", np.array(errors, np.float64)
        yield f"curves/{curve}/converged", np.array(converged, np.uint8)
