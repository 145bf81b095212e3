"""The common format of results: one row per repetition, in JSON lines. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llc_dynamics.rows import append_row as append
from llc_dynamics.rows import stored_rows


@dataclass(frozen=True)
class Row:
    """One estimate.

    tool, version, problem, label : who, on what, with which settings.
    settings : all of the settings, as `peers.settings.Settings` has them, without the seeds.
    estimate : of the LLC; None if the tool failed, which `failure` then tells.
    standard_error : what the tool reports as its error, None if it reports none; `error_meaning` says what it is.
    seconds, cpu_seconds : wall and processor time of the estimate, imports and reading of the data left out.
    seconds_per_step : seconds / (chains x steps); fixed costs are in it. `StepCost` has the marginal cost.
    gradients : minibatch gradients taken, baseline included; forwards : minibatch losses without gradient.
    peak_mb : largest resident memory of the process so far; start_mb : before its first estimate.
    converged : the tool's own verdict, None if it gives none.
    extra : anything else, such as the chains' estimates.
    """

    tool: str
    version: str
    problem: str
    label: str
    settings: dict[str, Any]
    seed: int
    estimate: float | None
    standard_error: float | None
    error_meaning: str | None
    seconds: float
    cpu_seconds: float
    seconds_per_step: float
    gradients: int
    forwards: int
    peak_mb: float
    start_mb: float
    converged: bool | None = None
    failure: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepCost:
    """Marginal cost of one step of one chain, beside the bare forward and backward pass in the same process.

    Times are the smallest of several rounds in which the two took turns.
    """

    tool: str
    version: str
    problem: str
    label: str
    num_parameters: int
    batch_size: int
    num_chains: int
    bare_ms: float
    step_ms: float
    ratio: float
    import_seconds: float
    import_mb: float
    peak_mb: float


def append_row(path: Path, row: Row | StepCost) -> None:
    """Add a row at once, so that a run that is stopped keeps what it has."""
    append(path, asdict(row))


def read_rows(path: Path) -> list[Row | StepCost]:
    """The rows of a file; empty if there is none."""
    return [StepCost(**row) if "bare_ms" in row else Row(**row) for row in stored_rows(path)]
