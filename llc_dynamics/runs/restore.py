"""From one file back to a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, TrajectoryError
from llc_dynamics.llc.storage import curve_folder
from llc_dynamics.runs.archive import KIND, POINT
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.arrays import digest
from llc_dynamics.trajectory.atomic import storage_errors, write_whole
from llc_dynamics.trajectory.checksum import row_checksum
from llc_dynamics.trajectory.dtypes import STORAGE, storage_dtype
from llc_dynamics.trajectory.manifest import FORMAT
from llc_dynamics.trajectory.names import RESUME, arrays_file, from_link, to_link
from llc_dynamics.trajectory.sealed import MAGIC, Header, check_structure, open_datasets, read_header
from llc_dynamics.trajectory.staging import require_free, staged_run
from llc_dynamics.trajectory.state import StateLayout
from llc_dynamics.trajectory.storage import WeightStorage, widened
from llc_dynamics.trajectory.structure import StoredDataset
from llc_dynamics.trajectory.whole_rows import WholeRow, present

Progress = Callable[[int, int], None]
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
        No such file, not an export, of a newer version, something is at `out` already, or the disk is full.
    CorruptRunError
        The file is cut short or damaged; nothing is left at `out`.
    """
    file, out = Path(file), Path(out)
    require_free(out)
    with open_archive(file) as archive:
        manifest = archive.manifest | {
            "provenance": archive.manifest["provenance"]
            | {
                "imported": {
                    "from": file.name,
                    "kind": KIND,
                    "digest": archive.header.digest,
                    "exported": archive.description.get("exported"),
                }
            }
        }
        with staged_run(out, manifest, archive.arrays()) as staged:
            for row in archive.rows(after=staged.last_step):
                staged.record(row)
                if progress is not None:
                    progress(int(np.searchsorted(archive.steps, row.step)) + 1, len(archive.steps))
            for name, content in archive.files():
                place = staged.path / name
                with storage_errors(place, "make the folder"):
                    place.parent.mkdir(parents=True, exist_ok=True)
                write_whole(place, content)
            if archive.description["complete"]:
                staged.finish()
            staged.publish()
    return Trajectory(out)


def verify_archive(file: str | Path, progress: Progress | None = None) -> int:
    """Read every byte of an exported file and compare it with its checksums; the number of rows.

    Raises `CorruptRunError` at the first thing that does not match, `TrajectoryError` for a file that is no export.
    """
    with open_archive(Path(file)) as archive:
        archive.arrays()
        for _ in archive.files():
            pass
        for done, _ in enumerate(archive.rows(after=-1), start=1):
            if progress is not None:
                progress(done, len(archive.steps))
        return len(archive.steps)


@contextmanager
def open_archive(file: Path) -> Iterator[Archive]:
    """Check header and structures of an exported file and open it; raises as `import_run` does."""
    if not file.is_file():
        what = "this is a folder" if file.is_dir() else "no such file"
        raise TrajectoryError(f"{file}: {what}; give a file that `llc-dynamics export` wrote")
    with storage_errors(file, "read"), file.open("rb") as stream:
        start = stream.read(len(MAGIC))
    if start and not MAGIC.startswith(start):
        raise TrajectoryError(f"{file}: not a file that `llc-dynamics export` wrote")
    header = read_header(file, KIND)
    check_structure(file, header)
    with open_datasets(file, header) as datasets:
        yield Archive(file, header, datasets)


class Archive:
    """An exported file whose structure was checked, open for reading."""

    def __init__(self, file: Path, header: Header, datasets: Mapping[str, StoredDataset]) -> None:
        self.file = file
        self.header = header
        self._datasets = datasets
        self.manifest = self._json("manifest")
        self.description = self._json("description")
        try:
            if self.manifest["format"] != FORMAT or self.manifest["run_id"] != header.run_id:
                raise ValueError("the manifest is of another run")
            self.layout = StateLayout.from_json(self.manifest["state"])
            self.steps = self._table("step", "<i8")
            self._state_rows = {int(step): row for row, step in enumerate(self._table("state_step", "<i8"))}
            self._storage = WeightStorage.of(self.manifest["storage"])
            if not isinstance(self.manifest["provenance"], dict) or np.any(np.diff(self.steps) <= 0):
                raise ValueError("no valid provenance or steps")
            if not isinstance(self.description["complete"], bool):
                raise ValueError("no valid description")
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise self._refused(str(error)) from None

    def arrays(self) -> dict[str, dict[str, NDArray]]:
        """The fixed arrays, each set compared with the digest in the manifest."""
        sets: dict[str, dict[str, NDArray]] = {}
        try:
            for name, expected in self.manifest["arrays"].items():
                arrays_file(self.file, name)
                sets[name] = {}
                for key, (dtype, shape) in self.description["arrays"][name].items():
                    stored = np.asarray(self._datasets[f"arrays/{name}/{to_link(key, 'array')}"][()])
                    if stored.dtype != np.dtype(STORAGE[dtype][0]):
                        raise ValueError(f"array '{key}' is {stored.dtype}")
                    sets[name][key] = stored.reshape(-1).view(dtype).reshape(shape)
                if digest(sets[name]) != expected:
                    raise ValueError(f"arrays '{name}' are not those of the manifest")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise self._refused(str(error)) from None
        return sets

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Files of the run folder that are kept byte for byte: the resume state and the points of LLC curves."""
        for link in self._datasets:
            folder, _, name = link.partition("/")
            if folder != "files":
                continue
            if name != RESUME:
                parts = name.split("/")
                if len(parts) != 3 or parts[0] != "llc" or not POINT.fullmatch(parts[2]):
                    raise self._refused(f"'{link}' is no file of a run")
                curve_folder(self.file, parts[1])
            yield name, np.asarray(self._datasets[link][()]).tobytes()

    def rows(self, after: int) -> Iterator[WholeRow]:
        """The rows of later steps than `after`, each compared with its checksums."""
        wanted = np.flatnonzero(self.steps > after)
        sizes = self.layout.sizes()
        metrics = {
            from_link(link.removeprefix("metrics/")): self._table(link, "<f8")
            for link in self._datasets
            if link.startswith("metrics/")
        }
        functions = [link for link in self._datasets if link == "outputs" or link.startswith("samples/")]
        for row in wanted:
            step = int(self.steps[row])
            vectors = {}
            for dtype, size in sizes.items() if step in self._state_rows else ():
                kept = self._storage.format_of(dtype)
                vector = self._row(f"state/{dtype}", self._state_rows[step], step, storage_dtype(kept), (size,))
                vectors[dtype] = widened(vector, kept, dtype)
            extra = {link: present(self._row(link, int(row), step, np.dtype("<f4"))) for link in functions}
            yield WholeRow(
                step,
                self.layout.tensors(vectors) if step in self._state_rows else None,
                {name: float(column[row]) for name, column in metrics.items()},
                extra.get("outputs"),
                {
                    from_link(link.removeprefix("samples/")): values
                    for link, values in extra.items()
                    if values is not None and link != "outputs"
                },
            )

    def _row(
        self, link: str, row: int, step: int, dtype: np.dtype, shape: tuple[int, ...] | None = None
    ) -> NDArray[Any]:
        try:
            dataset, sums = self._datasets[link], self._datasets[f"checksum/{link}"]
            if dataset.dtype != dtype or sums.dtype != np.dtype("<u8") or sums.shape != dataset.shape[:1]:
                raise ValueError(f"'{link}' is {dataset.dtype} {list(dataset.shape)}")
            if shape is not None and dataset.shape[1:] != shape:
                raise ValueError(
                    f"'{link}' has rows of {list(dataset.shape[1:])} where the manifest needs {list(shape)}"
                )
            values = np.asarray(dataset[row])
            same = row_checksum(step, link, values, self.header.version) == int(sums[row])
        except (KeyError, ValueError, IndexError) as error:
            raise self._refused(str(error)) from None
        if not same:
            raise CorruptRunError(
                f"{self.file}: step {step}: the stored {link.split('/')[0]} do not match their checksum; {_DAMAGED}"
            )
        return values

    def _table(self, link: str, dtype: str) -> NDArray[Any]:
        table = np.asarray(self._datasets[link][()])
        rows = (self.header.details.get("rows"),)
        if table.dtype != np.dtype(dtype) or table.ndim != 1 or (link != "state_step" and table.shape != rows):
            raise ValueError(f"'{link}' is {table.dtype} {list(table.shape)}")
        return table

    def _json(self, link: str) -> dict[str, Any]:
        try:
            content = json.loads(np.asarray(self._datasets[link][()]).tobytes())
        except (KeyError, ValueError, RecursionError) as error:
            raise self._refused(f"'{link}': {error}") from None
        if not isinstance(content, dict):
            raise self._refused(f"'{link}' is not a table")
        return content

    def _refused(self, problem: str) -> CorruptRunError:
        return CorruptRunError(f"{self.file}: its contents do not fit together ({problem}); {_DAMAGED}")
