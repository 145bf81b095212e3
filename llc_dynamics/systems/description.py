"""What a system says about its runs, as data: stored with a run, read by whoever shows it.

Reading a description imports and runs nothing. Where a run has none, or a part of one, the defaults stand in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llc_dynamics.settings import from_mapping, to_mapping


@dataclass(frozen=True)
class Axis:
    """How the runs of a sweep differ: order, colour, folder and label of a run come from it.

    name : of the quantity, "M". value : of this run, a number (infinity included) or a word; runs are ordered by it.
    label : of this run, "M = 12".
    """

    name: str
    value: float | str
    label: str


@dataclass(frozen=True)
class Transition:
    """A general solution that a specialised one may replace.

    general, specialised : names of references; specialised None where the run has none (M = infinity).
    probe : where the general solution is better, and its loss rises again when the model leaves it.
    specialised_probe : where the distance to the specialised solution is judged; None for `probe`.
    """

    general: str
    specialised: str | None
    probe: str
    specialised_probe: str | None = None


@dataclass(frozen=True)
class Description:
    """Names and words that the page, the plots and the detectors need of a run.

    axis : None for a run that stands alone. probes : {name: words}, "ood": "new tasks".
    function_vector : the probe whose outputs are the function vector, or None. references : {name: label}.
    transitions : those that detectors look for. loss : what the loss is, "mean squared error".
    words : two or three sentences on the system, for the page.
    """

    axis: Axis | None = None
    probes: Mapping[str, str] = field(default_factory=dict)
    function_vector: str | None = None
    references: Mapping[str, str] = field(default_factory=dict)
    transitions: tuple[Transition, ...] = ()
    loss: str = "loss"
    words: str = ""

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], where: str = "description") -> Description:
        """From JSON types. Raises `ConfigError` for what is no description."""
        return from_mapping(cls, mapping, where)

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return to_mapping(self)


def loss_metric(probe: str) -> str:
    """Name of the metric: mean loss of the model on a probe."""
    return f"loss/{probe}"


def distance_metric(probe: str, reference: str) -> str:
    """Name of the metric: mean squared difference of the model's outputs on a probe from a reference's."""
    return f"distance/{probe}/{reference}"
