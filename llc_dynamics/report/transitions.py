"""Transitions of a run: does it come near a general solution and leave it for a specialised one? Found and in words.

Everything is said in the labels of the run's description, and for each transition that it declares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import DataError
from llc_dynamics.finding import Finding
from llc_dynamics.plots.bands import curve_errors
from llc_dynamics.report.numbers import percent, plain, step, steps_between, with_error
from llc_dynamics.report.reading import Level, known_points, last_value, reference_gap
from llc_dynamics.stages import SpecialisationVerdict, TransienceVerdict, detect_specialisation, detect_transience
from llc_dynamics.systems.description import Description, Transition, distance_metric, loss_metric


@dataclass(frozen=True, eq=False)
class TransitionFindings:
    """What was found of one declared transition.

    Attributes
    ----------
    transience : verdict on `transition.probe`. specialisation : verdict on the specialised probe. None where the run
        does not hold what it needs.
    gap : mean squared difference of the two solutions on `transition.probe`, None where it is not known.
    """

    transition: Transition
    transience: TransienceVerdict | None
    specialisation: SpecialisationVerdict | None
    gap: Level | None = None

    @property
    def t_crit(self) -> int | None:
        """The step of least loss of a transient solution."""
        return None if self.transience is None else self.transience.t_crit

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            **asdict(self.transition),
            "transience": None if self.transience is None else self.transience.to_dict(),
            "specialisation": None if self.specialisation is None else self.specialisation.to_dict(),
        }


def judge_transition(
    transition: Transition,
    curves: Mapping[str, Curve],
    arrays: Mapping[str, NDArray],
    seed: int = 0,
    notes: list[Finding] | None = None,
) -> TransitionFindings:
    """Both verdicts, from metrics by name and the arrays of the probes; what could not be judged goes to `notes`."""
    notes = [] if notes is None else notes
    pair = (transition.general, transition.specialised)
    gap = reference_gap(arrays, transition.probe, *pair)
    transience = _judge_transience(transition, curves, gap, seed, notes)
    specialisation = None
    if transition.specialised is not None:
        where = transition.specialised_probe or transition.probe
        distance = curves.get(distance_metric(where, transition.specialised))
        special = reference_gap(arrays, where, *pair)
        if distance is not None:
            try:
                specialisation = detect_specialisation(
                    distance, reference_distance=None if special is None else special.value, seed=seed
                )
            except DataError as error:
                notes.append(Finding("no_specialisation_verdict", f"no verdict on specialisation: {error}"))
    return TransitionFindings(transition, transience, specialisation, gap)


def _judge_transience(
    transition: Transition, curves: Mapping[str, Curve], gap: Level | None, seed: int, notes: list[Finding]
) -> TransienceVerdict | None:
    """By loss and distances on `transition.probe`."""
    loss, near = loss_metric(transition.probe), distance_metric(transition.probe, transition.general)
    if loss not in curves or near not in curves:
        notes.append(Finding("no_transience_verdict", f"no verdict on transience: it needs {loss} and {near}"))
        return None
    specialised = None
    if transition.specialised is not None:
        name = distance_metric(transition.probe, transition.specialised)
        specialised = curves.get(name)
        if specialised is None:
            text = f"transience was judged without the distance to the specialised solution: {name} was not measured"
            notes.append(Finding("no_specialised_distance", text))
    try:
        return detect_transience(
            general=curves[near],
            specialised=specialised,
            ood_loss=curves[loss],
            reference_distance=gap.value if gap is not None and specialised is not None else None,
            seed=seed,
        )
    except DataError as error:
        notes.append(Finding("no_transience_verdict", f"no verdict on transience: {error}"))
        return None


class Names:
    """The words for one transition in the sentences on one run.

    A reference's label loses the part that only repeats the run's axis: 'X, M = 12' of the run 'M = 12' is 'X'.
    """

    def __init__(self, description: Description, transition: Transition) -> None:
        self._description = description
        self.general = self.of(transition.general)
        self.specialised = None if transition.specialised is None else self.of(transition.specialised)
        self.loss = f"loss on {description.probes.get(transition.probe, transition.probe)}"
        probe = transition.specialised_probe or transition.probe
        self.specialised_probe = description.probes.get(probe, probe)

    def of(self, reference: str) -> str:
        """The label of a reference."""
        label = self._description.references.get(reference, reference)
        axis = self._description.axis
        return label if axis is None else label.removesuffix(f", {axis.label}")

    def told(self, text: object) -> str:
        """A detector's reason with these words in the places of its own."""
        said = str(text)
        specialised = self.specialised or "the specialised one"
        for plain_words, words in (
            ("the general predictor", self.general),
            ("the specialised predictor", specialised),
            ("the general one", self.general),
            ("the specialised one", specialised),
            ("the general towards", f"{self.general} towards"),
            ("out-of-distribution loss", self.loss),
        ):
            said = said.replace(plain_words, words)
        return said


def kind_of(description: Description, transition: Transition) -> str:
    """'transient' and the label of the general solution: the same in all runs of a sweep."""
    return f"transient {Names(description, transition).general}"


def explanation(description: Description, transition: Transition) -> str:
    """What a transient solution is, for a reader who sees the page for the first time."""
    names = Names(description, transition)
    left = "" if names.specialised is None else f" for {names.specialised}"
    return (
        f"Transient {names.general} means that a model first comes near {names.general} and "
        f"later leaves it{left}: its {names.loss} falls and then rises."
    )


def verdict_sentences(
    found: TransitionFindings,
    description: Description,
    curves: Mapping[str, Curve],
    levels: Mapping[str, Mapping[str, Level]],
) -> list[str]:
    """The verdict on transience with its numbers; those of the detector, none recomputed."""
    verdict = found.transience
    if verdict is None:
        return []
    names = Names(description, found.transition)
    loss = known_points(curves[loss_metric(found.transition.probe)])
    last, at = step(int(loss.steps[-1])), verdict.minimum_step
    low = with_error(verdict.minimum, _error_at(loss, at))
    yardsticks = _yardsticks(names, levels.get(loss.name, {}))
    kind = kind_of(description, found.transition)
    if verdict.transient:
        relative_error = verdict.rebound_standard_error / abs(verdict.minimum)
        return [
            f"The model came nearest to {names.general}, by its {names.loss}, at step {step(at)} "
            f"({verdict.level:.0%} interval {steps_between(verdict.t_crit_interval)}), where that loss was "
            f"{low}{yardsticks}.",
            f"From there to step {last} the loss rose by {percent(verdict.rebound_relative, relative_error)} "
            f"({verdict.rebound_paired_z:.1f} paired standard errors over samples; z = {verdict.rebound_z:.1f} with "
            f"the jitter of the weights): {kind}.",
        ]
    why = f"No {kind}: {names.told(verdict.reasons[0])}."
    if at == int(loss.steps[-1]):
        return [why, f"At the end, step {last}, the {names.loss} is {low}{yardsticks}."]
    return [
        why,
        f"The {names.loss} was least at step {step(at)} ({low}), and {plain(float(loss.values[-1]))} at step "
        f"{last}{yardsticks}.",
    ]


def evidence_sentences(found: TransitionFindings, description: Description) -> list[str]:
    """How near to the general solution the model came, and how it specialised."""
    names = Names(description, found.transition)
    sentences = []
    verdict = found.transience
    if verdict is not None and verdict.transient:
        text = (
            f"At its nearest the mean squared distance to {names.general} was "
            f"{with_error(verdict.general_distance, verdict.general_distance_error)}, "
            f"{percent(verdict.nearness)} less than at the first checkpoint"
        )
        if verdict.specialised_distance is not None:
            text += f"; to {names.specialised} it was {plain(verdict.specialised_distance)}"
        gap = "" if found.gap is None else f", and the two solutions are {plain(found.gap.value)} apart"
        sentences.append(f"{text}{gap}.")
    special = found.specialisation
    if special is None:
        return sentences
    where = names.specialised_probe
    if not special.specialised or special.t_half is None:
        return [*sentences, f"No specialisation on {where}: {names.told(special.reasons[0])}."]
    low, high = special.ratio_interval
    return [
        *sentences,
        f"On {where} the distance to {names.specialised} fell {plain(special.ratio)} times ({special.level:.0%} "
        f"interval {plain(low)} to {plain(high)}), from {plain(special.start)} to "
        f"{with_error(special.end, special.end_error)}; half of the fall, on a {special.scale} scale, was done by step "
        f"{step(special.t_half)} ({steps_between(special.t_half_interval)}).",
    ]


def distance_left(
    found: TransitionFindings,
    description: Description,
    curves: Mapping[str, Curve],
    levels: Mapping[str, Mapping[str, Level]],
) -> str | None:
    """How far a transient run stayed from the loss of the general solution; None where that is not known."""
    metric = loss_metric(found.transition.probe)
    level, verdict = levels.get(metric, {}).get(found.transition.general), found.transience
    if level is None or verdict is None or not verdict.transient:
        return None
    names = Names(description, found.transition)
    excess = verdict.minimum - level.value
    text = (
        f"the model did not become {names.general}. At its nearest its {names.loss} was still {plain(excess)} above "
        f"the {plain(level.value)} of {names.general}"
    )
    start = float(known_points(curves[metric]).values[0])
    if start > level.value:
        text += f" ({percent(excess / (start - level.value))} of the way that it had to go from the first checkpoint)"
    return text + "."


def verdict_notes(found: TransitionFindings, description: Description) -> list[str]:
    """What the detectors left out, in words."""
    names = Names(description, found.transition)
    given = [note for verdict in (found.transience, found.specialisation) if verdict for note in verdict.notes]
    # A run without a specialised solution, such as one at infinity, has none that could be given.
    expected = {"no_specialised_predictor"} if found.transition.specialised is None else set()
    return [names.told(note) for note in given if note.code not in expected]


def state_in_words(
    transition: Transition, description: Description, verdict: TransienceVerdict, curves: Mapping[str, Curve]
) -> str:
    """What a run seems to be doing, from its verdict so far and its distances at the last checkpoint."""
    names = Names(description, transition)
    if verdict.transient:
        return f"past the transient: {names.told(verdict.summary())}"
    near = last_value(curves[distance_metric(transition.probe, transition.general)])
    far_curve = curves.get(distance_metric(transition.probe, transition.specialised or ""))
    place = f"at distance {near:.3g} from {names.general}"
    if far_curve is not None:
        far = last_value(far_curve)
        first, second = (names.general, near), (names.specialised, far)
        (one, its), (other, theirs) = (first, second) if near <= far else (second, first)
        place = f"nearer to {one} (distance {its:.3g}) than to {other} ({theirs:.3g})"
    loss = known_points(curves[loss_metric(transition.probe)])
    if verdict.minimum_step >= int(loss.steps[-1]):
        return f"the {names.loss} still falls; {place}"
    reason = names.told(verdict.reasons[0]) if verdict.reasons else "nothing speaks for a transient"
    return f"least {names.loss} so far at step {verdict.minimum_step:,}; {place}. Not transient: {reason}"


def _yardsticks(names: Names, levels: Mapping[str, Level]) -> str:
    rows = [f"{names.of(reference)}: {plain(level.value)}" for reference, level in levels.items()]
    return f" (on the same samples {'; '.join(rows)})" if rows else ""


def _error_at(curve: Curve, at: int) -> float | None:
    errors = curve_errors(curve)
    if errors is None:
        return None
    error = float(errors[abs(curve.steps - at).argmin()])
    return error if math.isfinite(error) else None
