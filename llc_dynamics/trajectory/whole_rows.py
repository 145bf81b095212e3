"""Checkpoints with everything that was recorded at their step, read one after the other in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import TrajectoryError
from llc_dynamics.trajectory.reader import Trajectory
from llc_dynamics.trajectory.rows import LazyRows

if TYPE_CHECKING:
    import torch

_BLANK = np.float32(np.nan).tobytes()


@dataclass(frozen=True)
class WholeRow:
    """All that a run holds of one step, as `TrajectoryWriter.record` takes it.

    `metrics` has every metric of the run, NaN where the step has none (so that a copy knows the same names); `outputs`
    is None and a sample left out where the row has none. `tensors` is None where the run stores no weights.
    """

    step: int
    tensors: dict[str, torch.Tensor] | None
    metrics: dict[str, float]
    outputs: NDArray[np.float32] | None
    samples: dict[str, NDArray[np.float32]]


def whole_rows(
    run: Trajectory, steps: Iterable[int] | None = None, weights: Collection[int] | None = None
) -> Iterator[WholeRow]:
    """The rows at `steps` (None: all), each read and checked when it is asked for; raises `CorruptRunError`.

    `weights` : the steps of which weights are read; None for all that have some.
    """
    metrics = {name: run.metrics(name) for name in run.metric_names}
    samples = {name: run.sample_rows(name) for name in run.sample_names}
    outputs = stored_outputs(run)
    all_steps, with_weights = run.steps, frozenset(run.weight_steps.tolist()) if weights is None else weights
    for step in all_steps if steps is None else steps:
        row = int(np.searchsorted(all_steps, step))
        values = {name: present(rows[row]) for name, rows in samples.items()}
        yield WholeRow(
            int(step),
            run.state_dict(int(step)) if int(step) in with_weights else None,
            {name: float(column[row]) for name, column in metrics.items()},
            None if outputs is None else present(outputs[row]),
            {name: value for name, value in values.items() if value is not None},
        )


def row_difference(first: WholeRow, second: WholeRow) -> str | None:
    """What differs, bit for bit, between two rows of the same step, in words; None if nothing does."""
    mine, other = first.tensors, second.tensors
    if mine is None or other is None:
        if mine is not other:
            return "one of them has weights there, the other has none"
        mine = other = {}
    for name in [*mine, *(name for name in other if name not in mine)]:
        if name not in mine or name not in other:
            return f"'{name}' is in one of them only"
        if not _same_bits(mine[name], other[name]):
            return f"'{name}'"
    for name in sorted({*first.metrics, *second.metrics}):
        values = (first.metrics.get(name, np.nan), second.metrics.get(name, np.nan))
        if values[0] != values[1] and not all(map(np.isnan, values)):
            return f"metric '{name}' ({values[0]!r} and {values[1]!r})"
    if not _same_array(first.outputs, second.outputs):
        return "the outputs"
    for name in sorted({*first.samples, *second.samples}):
        if not _same_array(first.samples.get(name), second.samples.get(name)):
            return f"the samples of '{name}'"
    return None


def stored_outputs(run: Trajectory) -> LazyRows | None:
    """`run.outputs()`, None if the run has none."""
    run.require_whole()
    try:
        return run.outputs()
    except TrajectoryError:
        return None


def present(values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """None for what the reader gives where nothing was recorded: NaN of one bit pattern throughout."""
    if values.size and np.isnan(values.flat[0]) and values.tobytes() == _BLANK * values.size:
        return None
    return values


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    import torch

    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    flat = (first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))
    return torch.equal(*flat)


def _same_array(first: NDArray | None, second: NDArray | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and first.tobytes() == second.tobytes()
