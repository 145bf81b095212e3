"""What a system says about its runs, as data: stored with a run, read by whoever shows it.

Reading a description imports and runs nothing. Where a run has none, or a part of one, the defaults stand in.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llc_dynamics.errors import ConfigError
from llc_dynamics.settings import from_mapping, nearest, to_mapping, with_plain_numbers

if TYPE_CHECKING:
    from llc_dynamics.trajectory import Trajectory

_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
_LONGEST_LABEL = 200
_LONGEST_WORDS = 2000
_LARGEST = 1 << 16  # bytes of JSON


@dataclass(frozen=True)
class Axis:
    """How the runs of a sweep differ: order, colour, folder and label of a run come from it.

    name : of the quantity, "M". value : of this run, a number (infinity included) or a word; runs are ordered by it.
    label : of this run, "M = 12".

    Raises `ConfigError` for an empty, overlong or unprintable text.
    """

    name: str
    value: float | str
    label: str

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        for text, what in ((self.name, "name"), (self.label, "label"), (str(self.value), "value")):
            _require_label(text, f"axis.{what}")

    @property
    def folder(self) -> str:
        """Folder name of the run, one safe path component: 'M-12', 'M-inf'."""
        value = self.value
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        safe = re.sub(r"[^A-Za-z0-9_.+-]+", "_", f"{self.name}-{value}")[:100]
        return safe if safe[0].isalnum() else "_" + safe[1:]

    def order(self) -> tuple[float, str]:
        """Sort key: numbers first, in order, infinity last of them; then words by the alphabet."""
        if isinstance(self.value, str):
            return math.inf, f"~{self.value}"
        return float(self.value), ""


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

    def distances(self) -> list[tuple[str, str]]:
        """The pairs (probe, reference) whose distances the detectors read."""
        found = [(self.probe, self.general)]
        if self.specialised is not None:
            found += [(self.probe, self.specialised), (self.specialised_probe or self.probe, self.specialised)]
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Description:
    """Names and words that the page, the plots and the detectors need of a run.

    axis : None for a run that stands alone. probes : {name: words}, "ood": "new tasks".
    function_vector : the probe whose outputs are the function vector, or None. references : {name: label}.
    transitions : those that detectors look for. loss : what the loss is, "mean squared error".
    words : two or three sentences on the system, for the page.

    Raises `ConfigError` for a name that is not 1 to 64 of the characters A-Z a-z 0-9 _ . + -, a label of more than 200
    characters or with unprintable ones, and a transition or function vector that names no probe or reference.
    """

    axis: Axis | None = None
    probes: Mapping[str, str] = field(default_factory=dict)
    function_vector: str | None = None
    references: Mapping[str, str] = field(default_factory=dict)
    transitions: tuple[Transition, ...] = ()
    loss: str = "loss"
    words: str = ""

    def __post_init__(self) -> None:
        for kind, table in (("probes", self.probes), ("references", self.references)):
            for name, label in table.items():
                if not isinstance(name, str) or not _NAME.fullmatch(name):
                    raise ConfigError(
                        f"description.{kind}: {_short(name)} is no name; take 1 to 64 of the characters "
                        "A-Z a-z 0-9 _ . + -, and put words into the label"
                    )
                _require_label(label, f"description.{kind}.{name}")
        _require_label(self.loss, "description.loss")
        if not isinstance(self.words, str) or len(self.words) > _LONGEST_WORDS or not _printable(self.words, "\n"):
            raise ConfigError(
                f"description.words: expected at most {_LONGEST_WORDS} printable characters, got {_short(self.words)}"
            )
        object.__setattr__(self, "transitions", tuple(self.transitions))
        for used, wanted, known in self._used():
            if wanted is not None and wanted not in known:
                raise ConfigError(f"description.{used}: {_short(wanted)} is not there; {nearest(str(wanted), known)}")

    def _used(self) -> Iterable[tuple[str, str | None, Iterable[str]]]:
        yield "function_vector", self.function_vector, self.probes
        for index, each in enumerate(self.transitions):
            where = f"transitions[{index}]"
            yield f"{where}.general", each.general, self.references
            yield f"{where}.specialised", each.specialised, self.references
            yield f"{where}.probe", each.probe, self.probes
            yield f"{where}.specialised_probe", each.specialised_probe, self.probes

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], where: str = "description") -> Description:
        """From JSON types. Raises `ConfigError` for what is no description."""
        try:
            size = len(json.dumps(mapping))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: not of JSON types ({error}); give strings, numbers, lists, tables") from None
        if size > _LARGEST:
            raise ConfigError(f"{where}: {size:,} bytes, and at most {_LARGEST:,} are read; shorten its texts")
        try:
            return from_mapping(cls, mapping, where)
        except ConfigError as error:
            text = str(error)
            text = text if text.startswith(where) else f"{where}: {text.removeprefix('description.')}"
            # Keys of someone else's file stand in it.
            raise ConfigError("".join(c if _printable(c) else "?" for c in text)[: len(where) + 400]) from None

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return to_mapping(self)


def description_of(run: Trajectory) -> Description:
    """The description that is stored with a run; the default one where there is none.

    Raises `ConfigError`, naming the run, for a stored one that is too large, or has bad names, labels or types.
    """
    return Description.from_dict(run.description, f"{run.path}: description")


def loss_metric(probe: str) -> str:
    """Name of the metric: mean loss of the model on a probe."""
    return f"loss/{probe}"


def distance_metric(probe: str, reference: str) -> str:
    """Name of the metric: mean squared difference of the model's outputs on a probe from a reference's."""
    return f"distance/{probe}/{reference}"


def _require_label(text: Any, where: str) -> None:
    if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST_LABEL or not _printable(text):
        raise ConfigError(f"{where}: expected 1 to {_LONGEST_LABEL} printable characters, got {_short(text)}")


def _printable(text: str, allowed: str = "") -> bool:
    """No control characters, no surrogates, nothing that turns the direction of the text around."""
    return all(character.isprintable() or character in allowed for character in text)


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}... ({len(text):,} characters)"
