"""What a check found: a code for programs, a sentence for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A reason or a note. Code decides by `code` ("too_few_draws"); `text` is for people and may change."""

    code: str
    text: str

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, str]:
        """JSON types."""
        return {"code": self.code, "text": self.text}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Finding:
        """The inverse of `to_dict`."""
        return cls(str(mapping["code"]), str(mapping["text"]))


@dataclass(frozen=True)
class FailedChain:
    """A chain that was stopped: which, after how many updates, and why.

    The codes of a reason: `data_not_finite` (the loss at w* is not finite on a batch), `weights_not_finite` (they or
    the gradient), `loss_not_finite`, `loss_exploded`.
    """

    chain: int
    step: int
    reason: Finding

    def __str__(self) -> str:
        return f"chain {self.chain} at step {self.step} ({self.reason})"


def sentences(findings: Iterable[Finding]) -> str:
    """The texts of several findings in one line."""
    return "; ".join(finding.text for finding in findings)
