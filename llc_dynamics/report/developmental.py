"""Developmental stages of a run, by both methods: what the page and `llc-dynamics stages` say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llc_dynamics.curve import Curve
from llc_dynamics.errors import DataError
from llc_dynamics.finding import Finding
from llc_dynamics.pca.cosine import RANDOM_WALK_LIKE
from llc_dynamics.report.joint_pca import PCAAnalysis
from llc_dynamics.report.numbers import listed, steps_between
from llc_dynamics.report.numbers import step as step_text
from llc_dynamics.stages import Agreement, ChangePoints, NullRate, StageReport, agreement, change_points, detect_stages
from llc_dynamics.systems.description import Description, loss_metric

LLC = "LLC"
ALONE, JOINT = "LLC alone", "joint signal"
#: What has no stages, by the kind of a null curve.
NOTHING = {
    "constant": "constant curves with this noise",
    "monotone": "smooth monotone curves with this noise",
    "power_law": "power laws with this noise",
    "random_walk": "random walks with this noise",
    "permuted": "random orders of these points",
    "component": "second principal components of random walks",
}
# Of the joint trajectory PCA; components more like a random walk's cosine than this are left out of the joint signal.
_COMPONENTS = 2


@dataclass(frozen=True, eq=False)
class StageFindings:
    """Stages of one run.

    Attributes
    ----------
    reports, curves : by name of the curve ("LLC", "loss on new tasks"), where there is enough of it.
    changes : by "joint signal" and "LLC alone"; empty without stages of the LLC.
    agreements : of the LLC's boundaries with them. notes : what could not be judged or was left out.
    """

    reports: Mapping[str, StageReport] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    changes: Mapping[str, ChangePoints] = field(default_factory=dict)
    agreements: Mapping[str, Agreement] = field(default_factory=dict)
    notes: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "reports": {name: report.to_dict() for name, report in self.reports.items()},
            "change_points": {name: changes.to_dict() for name, changes in self.changes.items()},
            "agreements": {name: both.to_dict() for name, both in self.agreements.items()},
        }


def find_stages(
    label: str,
    description: Description,
    curves: Mapping[str, Curve],
    llc: Curve | None,
    pca: PCAAnalysis | None,
    seed: int = 0,
) -> StageFindings:
    """Stages of the LLC, with the change of a loss over each, and of the losses on which transitions are judged.

    That loss is the one on a probe on which no transition is judged, or the training loss. Errors of a mean
    over evaluation samples are left out: the samples are the same at every step, so their error moves the whole curve
    and not one point against the next.
    """
    reports: dict[str, StageReport] = {}
    used: dict[str, Curve] = {}
    notes: list[Finding] = []
    judged = dict.fromkeys(each.probe for each in description.transitions)
    specialised = [each.specialised_probe for each in description.transitions if each.specialised_probe]
    others = [probe for probe in (*specialised, *description.probes) if probe not in judged]
    names = [*map(loss_metric, others), "train_loss", "loss"]
    loss = next((_bare(curves[name], name) for name in names if name in curves), None)
    if llc is not None:
        errors = llc.standard_errors if llc.covariance is None else None
        used[LLC] = Curve(llc.steps, llc.values, errors, LLC, llc.converged, covariance=llc.covariance)
    for probe in judged:
        if loss_metric(probe) in curves:
            words = f"loss on {description.probes.get(probe, probe)}"
            used[words] = _bare(curves[loss_metric(probe)], words)
    for name, curve in used.items():
        try:
            reports[name] = _detect(curve, loss if name == LLC else None, seed, notes)
        except DataError as error:
            notes.append(Finding("no_stages", f"no stages of the {name}: {error}"))
    used = {name: used[name] for name in reports}
    if LLC not in reports:
        return StageFindings(reports, used, notes=tuple(notes))
    joint = {**used, **_components(label, pca, notes)}
    changes = {ALONE: change_points({LLC: used[LLC]})}
    if len(joint) > 1:
        try:
            changes[JOINT] = change_points(joint)
        except DataError as error:
            notes.append(Finding("no_joint_change_points", f"no change points of the joint signal: {error}"))
    agreements = {name: agreement(reports[LLC], found) for name, found in changes.items()}
    return StageFindings(reports, used, changes, agreements, tuple(notes))


def stage_sentences(found: StageFindings | None) -> list[str]:
    """Where the LLC's stages end, and whether change points find that, too."""
    if found is None or LLC not in found.reports:
        return []
    report = found.reports[LLC]
    open_ones = len(report.boundaries) - len(report.resolved)
    more = f"; {open_ones} more {'is' if open_ones == 1 else 'are'} not resolved" if open_ones else ""
    if not report.resolved:
        sentences = [f"No boundary between stages of the LLC is resolved{more}."]
    else:
        rows = [
            f"{'an' if each.kind in ('onset', 'end') else 'a'} {each.kind} at step {step_text(each.step)} "
            f"({report.level:.0%} interval {steps_between(each.interval)}, probability {each.probability:.2f})"
            for each in report.resolved
        ]
        sentences = [f"Between stages of the LLC lie {listed(rows)}{more}."]
    for name, both in found.agreements.items() if report.resolved else ():
        names = listed(list(found.changes[name].names))
        sentences.append(
            f"Change points of {f'{names} together' if name == JOINT else 'the LLC alone'} find {len(both.agreed)} of "
            f"{len(both.boundaries)} again within {both.within:g} decades ({both.expected:.1f} by chance)."
        )
    return sentences


def null_sentences(found: StageFindings | None, rates: Sequence[NullRate]) -> list[str]:
    """How often a boundary is found where there is none."""
    if found is None or not rates:
        return []
    worst = max(rates, key=lambda each: each.rate)
    low, high = worst.interval
    return [
        f"Of {worst.repetitions:,} curves of each of {len(rates)} kinds that have no stages, at the points and errors "
        f"of the {next(iter(found.curves))}, a boundary is found in {worst.rate:.1%} at most ({NOTHING[worst.kind]}; "
        f"95% interval {low:.1%} to {high:.1%})."
    ]


def _bare(curve: Curve, name: str) -> Curve:
    return Curve(curve.steps, curve.values, name=name, converged=curve.converged)


def _detect(curve: Curve, loss: Curve | None, seed: int, notes: list[Finding]) -> StageReport:
    try:
        return detect_stages(curve, loss, seed=seed)
    except DataError as error:
        if loss is None:
            raise
        found = detect_stages(curve, seed=seed)
        notes.append(Finding("no_loss_changes", f"stages without the change of the loss: {error}"))
        return found


def _components(label: str, pca: PCAAnalysis | None, notes: list[Finding]) -> dict[str, Curve]:
    if pca is None or label not in pca.scores:
        return {}
    content = pca.cosine_content.get(label, np.empty(0))
    kept: dict[str, Curve] = {}
    left = []
    for k in range(min(_COMPONENTS, pca.scores[label].shape[1])):
        if k < len(content) and np.isfinite(content[k]) and content[k] < RANDOM_WALK_LIKE:
            kept[f"PC{k + 1}"] = Curve(pca.steps[label], pca.scores[label][:, k], name=f"PC{k + 1}")
        else:
            left.append(f"PC{k + 1}")
    if left:
        text = f"change points were sought without {listed(left)}: nearly the cosine that PCA makes of a random walk"
        notes.append(Finding("cosine_like", text))
    return kept
