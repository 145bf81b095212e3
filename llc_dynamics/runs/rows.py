"""Checkpoints with everything that was recorded at their step, read one after the other in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.trajectory import LazyRows, Trajectory
from llc_dynamics.trajectory.names import to_link
from llc_dynamics.trajectory.state import StateLayout

_BLANK = np.float32(np.nan).tobytes()


@dataclass(frozen=True)
class WholeRow:
    """All that a run holds of one step, as `TrajectoryWriter.record_kept` takes it.

    `vectors` are the weights as they are kept, by number format, None where the run stores no weights. `metrics` has
    every metric of the run, NaN where the step has none (so that a copy knows the same names). `functions` are
    "outputs" and "samples/..." by path, left out where the row has none.
    """

    step: int
    vectors: Mapping[str, NDArray] | None
    metrics: dict[str, float]
    functions: dict[str, NDArray[np.float32]]


def whole_rows(
    run: Trajectory, steps: Iterable[int] | None = None, weights: Collection[int] | None = None
) -> Iterator[WholeRow]:
    """The rows at `steps` (None: all), each read and checked when it is asked for; raises `CorruptRunError`.

    `weights` : the steps of which weights are read; None for all that have some.
    """
    metrics = {name: run.metrics(name) for name in run.metric_names}
    functions, all_steps = function_rows(run), run.steps
    for step in all_steps if steps is None else steps:
        row = int(np.searchsorted(all_steps, step))
        found = {name: present(rows[row]) for name, rows in functions.items()}
        yield WholeRow(
            int(step),
            run.kept_vectors(int(step)) if weights is None or int(step) in weights else None,
            {name: float(column[row]) for name, column in metrics.items()},
            {name: values for name, values in found.items() if values is not None},
        )


def function_rows(run: Trajectory) -> dict[str, LazyRows]:
    """ "outputs" and "samples/..." of a run by path, as far as it has them."""
    found = {f"samples/{to_link(name, 'sample')}": run.sample_rows(name) for name in run.sample_names}
    outputs = run.stored_outputs()
    return found if outputs is None else {**found, "outputs": outputs}


def row_difference(first: WholeRow, second: WholeRow, layout: StateLayout) -> str | None:
    """What differs, bit for bit, between two rows of the same step, in words; None if nothing does."""
    if first.vectors is None or second.vectors is None:
        if first.vectors is not second.vectors:
            return "one of them has weights there, the other has none"
    elif (entry := layout.first_difference(first.vectors, second.vectors)) is not None:
        return f"'{entry.name}'"
    for name in sorted({*first.metrics, *second.metrics}):
        values = (first.metrics.get(name, np.nan), second.metrics.get(name, np.nan))
        if values[0] != values[1] and not all(map(np.isnan, values)):
            return f"metric '{name}' ({values[0]!r} and {values[1]!r})"
    for name in sorted({*first.functions, *second.functions}):
        mine, other = first.functions.get(name), second.functions.get(name)
        if mine is None or other is None or mine.shape != other.shape or mine.tobytes() != other.tobytes():
            return f"the {name}"
    return None


def present(values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """None for what the reader gives where nothing was recorded: NaN of one bit pattern throughout."""
    if values.size and np.isnan(values.flat[0]) and values.tobytes() == _BLANK * values.size:
        return None
    return values
