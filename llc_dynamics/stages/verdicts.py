"""What the detectors answer: frozen records that turn into JSON and into a sentence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llc_dynamics.finding import Finding


@dataclass(frozen=True)
class TransienceVerdict:
    """What `detect_transience` found. Distances and losses are in the units of the curves, times in steps.

    Attributes
    ----------
    kind : "transient" or "none"; `transient` is the same as a bool.
    t_crit : the step of least out-of-distribution loss (of its trend), None where there is no verdict.
    t_crit_interval : (low, high) in steps at probability `level`, never narrower than the neighbouring checkpoints.
    minimum_step, minimum : where the trend of the loss is least and its value there, whatever the verdict.
    rebound : trend of the loss at the end minus at its minimum, the minimum chosen on other sequences than those it is
        measured on (where there are samples).
    rebound_relative : rebound / minimum.
    rebound_sampling_error : standard error over evaluation sequences, of the paired differences end minus minimum.
    rebound_jitter_error : standard error from the jitter between checkpoints.
    rebound_standard_error : both together.
    rebound_z : rebound / rebound_standard_error. rebound_paired_z : rebound / rebound_sampling_error.
    false_alarm_probability : how often a curve that only falls, with the same two noises, shows a z as large.
    depth : fall of the loss from the first checkpoint to the minimum.
    general_distance, general_distance_error, specialised_distance : trend of the two distances at the minimum.
    nearness : 1 - general_distance / (distance at the first checkpoint): 1 at the general predictor, 0 no nearer to it
        than at the start.
    nearness_beyond_line : 1 - general_distance / (least distance that the straight way from the start to the
        specialised predictor has to the general one): 0 on that way, 1 at the general predictor. None without
        `reference_distance`.
    general_change, specialised_change : change of the distances from the minimum to the end; `_error` their errors.
    reasons : what the verdict rests on. notes : what was left out or could not be known.
    """

    kind: str
    t_crit: int | None
    t_crit_interval: tuple[int, int] | None
    level: float
    minimum_step: int
    minimum: float
    rebound: float
    rebound_relative: float
    rebound_sampling_error: float
    rebound_jitter_error: float
    rebound_standard_error: float
    rebound_z: float
    rebound_paired_z: float
    false_alarm_probability: float
    depth: float
    general_distance: float
    general_distance_error: float
    specialised_distance: float | None
    nearness: float
    nearness_beyond_line: float | None
    general_change: float
    general_change_error: float
    specialised_change: float | None
    specialised_change_error: float | None
    reasons: tuple[Finding, ...]
    notes: tuple[Finding, ...]

    @property
    def transient(self) -> bool:
        return self.kind == "transient"

    def to_dict(self) -> dict[str, Any]:
        """JSON types only; infinite ratios (of a noiseless curve) become None."""
        return {"transient": self.transient, **json_ready(asdict(self))}

    def summary(self) -> str:
        """The verdict in one sentence."""
        if not self.transient or self.t_crit is None or self.t_crit_interval is None:
            return f"No transience: {self.reasons[0]}."
        low, high = self.t_crit_interval
        return (
            f"Transient: the out-of-distribution loss is least at step {self.t_crit:,} ({self.level:.0%} interval "
            f"{low:,} to {high:,}), then rises by {self.rebound_relative:.1%} ({self.rebound_z:.1f} standard errors); "
            f"at its best the distance to the general predictor had fallen by {self.nearness:.0%}."
        )


@dataclass(frozen=True)
class SpecialisationVerdict:
    """What `detect_specialisation` found. Times are in steps, distances in the units of the curve.

    Attributes
    ----------
    kind : "specialised" or "none"; `specialised` is the same as a bool.
    t_half, t_half_interval : when half of the fall was done, with its interval at probability `level`.
    t_begin, t_end : when 10% and 90% of the fall were done.
    start, end : distance at the first checkpoint, and its trend at the end; `end_error` its standard error.
    ratio, ratio_interval : start / end, how many times nearer the model came.
    fall_z : the fall (of the logarithm, where `scale` is "log") over its standard error.
    t_cross : when the distance fell below `reference_distance` for good, None if never or if that was not given.
    scale : "log" or "linear", of what half and the percentages are.
    reasons, notes : as in `TransienceVerdict`.
    """

    kind: str
    t_half: float | None
    t_half_interval: tuple[float, float] | None
    t_begin: float | None
    t_end: float | None
    level: float
    start: float
    end: float
    end_error: float
    ratio: float
    ratio_interval: tuple[float, float]
    fall_z: float
    t_cross: float | None
    scale: str
    reasons: tuple[Finding, ...]
    notes: tuple[Finding, ...]

    @property
    def specialised(self) -> bool:
        return self.kind == "specialised"

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return {"specialised": self.specialised, **json_ready(asdict(self))}

    def summary(self) -> str:
        """The verdict in one sentence."""
        if not self.specialised or self.t_half is None or self.t_half_interval is None:
            return f"No specialisation: {self.reasons[0]}."
        low, high = self.t_half_interval
        return (
            f"Specialised: the distance to the specialised predictor fell {self.ratio:.3g} times, half of it (on a "
            f"{self.scale} scale) by step {self.t_half:,.0f} ({self.level:.0%} interval {low:,.0f} to {high:,.0f})."
        )


def json_ready(value: Any) -> Any:
    """Tuples to lists, numpy numbers to Python's, what is not finite to None."""
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [json_ready(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
