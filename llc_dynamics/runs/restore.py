"""From one file back to a run folder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, LLCDynamicsError, TrajectoryError
from llc_dynamics.runs.export import KIND
from llc_dynamics.runs.staging import require_free, staged_run
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.arrays import restored
from llc_dynamics.trajectory.files import storage_errors, write_whole
from llc_dynamics.trajectory.manifest import LARGEST_JSON, Manifest, parsed
from llc_dynamics.trajectory.names import RESUME, from_link, require_own_folder
from llc_dynamics.trajectory.sealed import MAGIC, SealedFile, row_checksum
from llc_dynamics.trajectory.shards import WholeRow, present

Progress = Callable[[int, int], None]
#: The files of a run that an export keeps byte for byte.
_FILE = re.compile(rf"{re.escape(RESUME)}|llc/[A-Za-z0-9][A-Za-z0-9_.-]{{0,99}}/step-\d{{1,19}}\.h5")
_DAMAGED = "the file is damaged or was not written by llc-dynamics; get another copy of it"


def import_run(file: str | Path, out: str | Path, *, progress: Progress | None = None) -> Trajectory:
    """Make a run folder of a file that `export_run` wrote: the same run, with every row bit for bit as it was.

    The run keeps its run id, configuration, resume state and LLC curves; its provenance gets an entry `imported` that
    names the file and its digest. The folder is built under a hidden name and renamed when it is whole; an import that
    was killed goes on.

    Parameters
    ----------
    out : the run folder to make.
    progress : called with the rows that are done and their number.

    Raises
    ------
    TrajectoryError
        No such file, not an export, of another version, something is at `out` already, or the disk is full.
    CorruptRunError
        The file is cut short or damaged; nothing is left at `out`.
    """
    file, out = Path(file), Path(out)
    require_free(out)
    archive = Archive(file)
    origin = {
        "from": file.name,
        "kind": KIND,
        "digest": archive.content.digest,
        "exported": archive.description.get("exported"),
    }
    manifest = dataclasses.replace(archive.manifest, provenance=archive.manifest.provenance | {"imported": origin})
    with staged_run(out, manifest, archive.arrays()) as staged:
        for row in archive.rows(after=staged.last_step):
            staged.record(row)
            if progress is not None:
                progress(int(np.searchsorted(archive.steps, row.step)) + 1, len(archive.steps))
        staged.writer.seal()
        for name, content in archive.files():
            place = require_own_folder(staged.path, *name.split("/")[:-1]) / Path(name).name
            with storage_errors(place, "make the folder"):
                place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, content)
        if archive.complete:
            staged.writer.finish()
        staged.publish()
    return Trajectory(out)


def verify_archive(file: str | Path, progress: Progress | None = None) -> int:
    """Read every byte of an exported file and compare it with its checksums; the number of rows.

    Raises `CorruptRunError` at the first thing that does not match, `TrajectoryError` for a file that is no export.
    """
    archive = Archive(Path(file))
    archive.arrays()
    for _ in archive.files():
        pass
    for done, _ in enumerate(archive.rows(after=-1), start=1):
        if progress is not None:
            progress(done, len(archive.steps))
    return len(archive.steps)


class Archive:
    """An exported file, opened for reading: everything but its rows was compared with the digest.

    Raises as `import_run` does.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        if not file.is_file():
            what = "this is a folder" if file.is_dir() else "no such file"
            raise TrajectoryError(f"{file}: {what}; give a file that `llc-dynamics export` wrote")
        with storage_errors(file, "read"), file.open("rb") as stream:
            start = stream.read(len(MAGIC))
        if start and not MAGIC.startswith(start):
            raise TrajectoryError(f"{file}: not a file that `llc-dynamics export` wrote")
        self.content = SealedFile(file, KIND)
        self.content.check()
        try:
            self.manifest = Manifest.from_json(self._json("manifest"), file)
            self.description = self._json("description")
            if self.manifest.run_id != self.content.run_id:
                raise ValueError("the manifest is of another run")
            self.steps = self._table("step", "<i8")
            self._state_rows = {int(step): row for row, step in enumerate(self._table("state_step", "<i8"))}
            self.complete = self.description["complete"]
            if np.any(np.diff(self.steps) <= 0) or not isinstance(self.complete, bool):
                raise ValueError("no valid steps")
            self._metrics = {
                from_link(link.removeprefix("metrics/")): self._table(link, "<f8")
                for link in self.content.datasets
                if link.startswith("metrics/")
            }
            self._functions = [link for link in self.content.datasets if link == "outputs" or _is_samples(link)]
            self._check_rows()
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise self._refused(str(error)) from None

    def arrays(self) -> dict[str, dict[str, NDArray]]:
        """The fixed arrays, each set compared with the digest in the manifest."""
        sets: dict[str, dict[str, NDArray]] = {}
        try:
            for name, expected in self.manifest.arrays.items():
                folder = f"arrays/{name}"
                links = [link for link in self.content.datasets if link.startswith(f"{folder}/")]
                tables = {link: self.content.table(link) for link in links}
                sets[name] = restored(self.description["arrays"][name], tables, folder, expected)
        except LLCDynamicsError:
            raise
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise self._refused(str(error)) from None
        return sets

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Files of the run folder that are kept byte for byte: the resume state and the points of LLC curves."""
        for link in self.content.datasets:
            folder, _, name = link.partition("/")
            if folder == "files":
                if not _FILE.fullmatch(name):
                    raise self._refused(f"'{link}' is no file of a run")
                yield name, self.content.table(link).tobytes()

    def rows(self, after: int) -> Iterator[WholeRow]:
        """The rows of later steps than `after`, each compared with its checksums."""
        for row in np.flatnonzero(self.steps > after).tolist():
            step = int(self.steps[row])
            place = self._state_rows.get(step)
            functions = {link: present(self._row(link, row, step)) for link in self._functions}
            yield WholeRow(
                step,
                None
                if place is None
                else {name: self._row(f"state/{name}", place, step) for name in self.manifest.state.sizes()},
                {name: float(column[row]) for name, column in self._metrics.items()},
                {link: values for link, values in functions.items() if values is not None},
            )

    def _row(self, link: str, row: int, step: int) -> NDArray:
        values = self.content.rows(link, row, row + 1)[0]
        if row_checksum(step, link, values) != int(self._sums[link][row]):
            raise CorruptRunError(
                f"{self.file}: step {step}: the stored {link.split('/')[0]} do not match their checksum; {_DAMAGED}"
            )
        return values

    def _check_rows(self) -> None:
        """ValueError or KeyError unless the rows are those that manifest and steps ask for."""
        wanted: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
            f"state/{name}": (self.manifest.storage.dtype_of(name), (len(self._state_rows), size))
            for name, size in self.manifest.state.sizes().items()
        }
        for link in self._functions:
            wanted[link] = (np.dtype("<f4"), (len(self.steps), *self.content.datasets[link].shape[1:]))
        for link, (dtype, shape) in wanted.items():
            found = self.content.datasets[link]
            if (found.dtype, found.shape) != (dtype, shape) or not self.content.is_rows(link):
                raise ValueError(f"'{link}' is {found.dtype} {list(found.shape)}, not {dtype} {list(shape)}")
        self._sums = {link: self.content.table(f"checksum/{link}") for link in wanted}

    def _json(self, link: str) -> dict[str, Any]:
        if self.content.datasets[link].nbytes > LARGEST_JSON:
            raise ValueError(f"'{link}' is larger than any")
        return parsed(self.content.table(link).tobytes(), self.file)

    def _table(self, link: str, dtype: str) -> NDArray:
        entry = self.content.datasets[link]
        rows = (self.content.details.get("rows"),)
        if entry.dtype != np.dtype(dtype) or len(entry.shape) != 1 or (link != "state_step" and entry.shape != rows):
            raise ValueError(f"'{link}' is {entry.dtype} {list(entry.shape)}")
        return self.content.table(link)

    def _refused(self, problem: str) -> CorruptRunError:
        return CorruptRunError(f"{self.file}: its contents do not fit together ({problem}); {_DAMAGED}")


def _is_samples(link: str) -> bool:
    """Whether a dataset is of samples; ValueError if it is of samples without a name."""
    return link.startswith("samples/") and bool(from_link(link.removeprefix("samples/")))
