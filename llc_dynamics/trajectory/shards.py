"""The shards of a run as one sequence of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, TrajectoryError
from llc_dynamics.trajectory.manifest import Manifest
from llc_dynamics.trajectory.names import SHARDS, from_link, shard_index, shard_name
from llc_dynamics.trajectory.shard import Shard


class ShardList:
    """Shards in the order of their numbers; those that are damaged or missing are kept as errors in `damage`."""

    def __init__(self, run: Path, manifest: Manifest) -> None:
        self._run = run
        self._manifest = manifest
        self._next = 0
        self.shards: list[Shard] = []
        self.damage: list[CorruptRunError] = []
        self._steps: NDArray[np.int64] = np.empty(0, np.int64)
        self._state_steps: NDArray[np.int64] = np.empty(0, np.int64)
        self._times: list[float] = []
        #: First row of every shard, and the end.
        self.bounds: NDArray[np.int64] = np.zeros(1, np.int64)

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def steps(self) -> NDArray[np.int64]:
        return self._steps

    @property
    def state_steps(self) -> NDArray[np.int64]:
        """The steps whose rows have weights."""
        return self._state_steps

    @property
    def num_rows(self) -> int:
        return len(self._steps)

    @property
    def last_step(self) -> int:
        return int(self._steps[-1]) if len(self._steps) else -1

    def refresh(self) -> int:
        """Take in shards that were sealed since the last call; the number of new rows."""
        before = self.num_rows
        folder = self._run / SHARDS
        while True:
            path = folder / shard_name(self._next)
            later = None if path.exists() else self._later(folder)
            # A listing may show a newer shard and not this one, so this one is looked for again after it.
            if later is not None and not path.exists():
                missing = later - self._next
                what = "the shard is missing" if missing == 1 else f"it and {missing - 1} more shards are missing"
                self.damage.append(
                    CorruptRunError(f"{path}: {what}, later ones are there; restore from a copy of the run")
                )
                # To the next that is there, not through all between: the number in a name may be anything.
                self._next = later
            elif not path.exists():
                break
            else:
                try:
                    self.append(Shard(self._run, self._next, self._manifest))
                except CorruptRunError as error:
                    self.damage.append(error)
                    self._next += 1
        return self.num_rows - before

    def append(self, shard: Shard) -> None:
        if np.any(np.diff(shard.steps) <= 0) or shard.steps[0] <= self.last_step:
            raise CorruptRunError(
                f"{shard.path}: its steps ({shard.steps[0]} to {shard.steps[-1]}) do not come after {self.last_step}; "
                "restore it from a copy"
            )
        self._next += 1
        self.shards.append(shard)
        self._steps = np.concatenate([self._steps, shard.steps])
        self._state_steps = np.concatenate([self._state_steps, shard.state_steps])
        self._steps.flags.writeable = self._state_steps.flags.writeable = False
        self.bounds = np.append(self.bounds, len(self._steps))

    def require_whole(self) -> None:
        """Raise the first damage, if there is any."""
        if self.damage:
            raise self.damage[0]

    def locate(self, step: int) -> tuple[Shard, int] | None:
        """The shard that holds `step` and the row in it."""
        row = int(np.searchsorted(self._steps, step))
        if row >= len(self._steps) or self._steps[row] != step:
            return None
        shard = int(np.searchsorted(self.bounds, row, side="right")) - 1
        return self.shards[shard], row - int(self.bounds[shard])

    def sealed_times(self) -> NDArray[np.float64]:
        """For every row the date of its file, NaN for a file that is gone; each file is asked once."""
        for shard in self.shards[len(self._times) :]:
            try:
                self._times.append(shard.path.stat().st_mtime)
            except OSError:
                self._times.append(np.nan)
        return np.repeat(np.array(self._times), np.diff(self.bounds))

    def extra_shapes(self) -> dict[str, tuple[int, ...]]:
        """Row shapes of "outputs" and "samples/..." over all shards; `CorruptRunError` if two shards disagree."""
        shapes: dict[str, tuple[int, ...]] = {}
        for shard in self.shards:
            for name, shape in shard.extra_shapes().items():
                if shapes.setdefault(name, shape) != shape:
                    raise CorruptRunError(
                        f"{shard.path}: {name} {list(shape)} a row, but {list(shapes[name])} in earlier shards"
                    )
        return shapes

    def sample_names(self) -> list[str]:
        prefix = "samples/"
        return sorted(from_link(name[len(prefix) :]) for name in self.extra_shapes() if name.startswith(prefix))

    def _later(self, folder: Path) -> int | None:
        """The smallest number of a shard after the next one that is there, None if there is none."""
        try:
            numbers = (shard_index(entry.name) for entry in folder.iterdir())
            return min((number for number in numbers if number is not None and number > self._next), default=None)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TrajectoryError(f"{folder}: cannot look into the folder ({error.strerror})") from error
