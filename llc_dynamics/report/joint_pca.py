"""Joint trajectory PCA of the runs that can be compared, with their reference solutions projected into it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, DataError, TrajectoryError
from llc_dynamics.finding import Finding
from llc_dynamics.pca import JointTrajectoryPCA, cosine_content, random_walk_cosine_content
from llc_dynamics.report.numbers import percent
from llc_dynamics.report.reading import read_probes
from llc_dynamics.systems.description import Description
from llc_dynamics.trajectory import Trajectory

# The cosine content of a random walk hardly depends on these beyond here, and the control takes a second.
_CONTROL_CHECKPOINTS, _CONTROL_FEATURES, _CONTROL_DRAWS = 200, 200, 20


@dataclass(frozen=True, eq=False)
class PCAAnalysis:
    """Scores of runs and references in one joint basis.

    Attributes
    ----------
    scores, steps : {run label: float64 [checkpoint, component]}, {run label: int64 [checkpoint]}.
    references : {label: float64 [component]}. reference_of : {label: run label}, of references that belong to one run.
    explained_variance_ratio : float64 [component].
    cosine_content : {run label: float64 [component]}, of each run's scores along its own trajectory; NaN for a run
        with too few checkpoints.
    cosine_control : float64 [draw, component], the same for PCA of random walks.
    feature_shape : shape of one function vector.
    """

    scores: Mapping[str, NDArray[np.float64]]
    steps: Mapping[str, NDArray[np.int64]]
    references: Mapping[str, NDArray[np.float64]]
    reference_of: Mapping[str, str]
    explained_variance_ratio: NDArray[np.float64]
    cosine_content: Mapping[str, NDArray[np.float64]]
    cosine_control: NDArray[np.float64] | None
    feature_shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        control = None if self.cosine_control is None else np.median(self.cosine_control, axis=0).tolist()
        return {
            "explained_variance_ratio": self.explained_variance_ratio.tolist(),
            "scores": {label: scores.tolist() for label, scores in self.scores.items()},
            "steps": {label: steps.tolist() for label, steps in self.steps.items()},
            "references": {name: scores.tolist() for name, scores in self.references.items()},
            "cosine_content": {
                label: [None if math.isnan(c) else c for c in content.tolist()]
                for label, content in self.cosine_content.items()
            },
            "cosine_control_median": control,
            "feature_shape": list(self.feature_shape),
        }


@dataclass(frozen=True)
class _Member:
    """A run in the PCA."""

    label: str
    description: Description
    run: Trajectory
    arrays: Mapping[str, NDArray]


def analyse_pca(
    runs: Sequence[Trajectory], labels: Sequence[str], descriptions: Sequence[Description], num_components: int = 4
) -> tuple[PCAAnalysis | None, list[Finding]]:
    """The joint PCA of `runs` and notes on what was left out; None where no two checkpoints can be compared.

    Function vectors can only be compared on one batch: runs recorded on another batch than the first run's are left
    out, with a note.
    """
    notes: list[Finding] = []
    chosen: list[_Member] = []
    batch, shape, unchecked = None, None, []
    for run, label, description in zip(runs, labels, descriptions, strict=True):
        stored = _stored_outputs(run)
        if stored is None:
            notes.append(Finding("no_outputs", f"{label}: no function vectors are stored, so it is not in the PCA"))
            continue
        arrays = read_probes(run)
        digest = _digest(arrays, description.function_vector)
        if shape is None:
            batch, shape = digest, stored.shape[1:]
        if stored.shape[1:] != shape:
            text = f"{label}: its function vectors have another shape, so it is not in the PCA"
            notes.append(Finding("other_shape", text))
            continue
        if digest != batch:
            text = (
                f"{label}: recorded on another batch than {chosen[0].label}, so its function vectors cannot be "
                "compared and it is not in the PCA"
            )
            notes.append(Finding("other_batch", text))
            continue
        if digest is None:
            unchecked.append(label)
        chosen.append(_Member(label, description, run, arrays))
    if len(unchecked) > 1:
        text = (
            f"the batch behind the function vectors is not stored ({', '.join(unchecked)}): the joint PCA is right "
            "only if it was the same in all of them"
        )
        notes.append(Finding("unknown_batch", text))
    rows = sum(len(member.run.steps) for member in chosen)
    if rows < 3 or shape is None:
        if chosen:
            notes.append(Finding("no_pca", f"no PCA: only {rows} checkpoints are stored"))
        return None, notes
    components = min(num_components, rows - 1, int(np.prod(shape)))
    try:
        pca = JointTrajectoryPCA(n_components=components).fit([member.run for member in chosen])
        scores = {member.label: pca.transform(member.run) for member in chosen}
    except DataError as error:
        return None, [*notes, Finding("no_pca", f"no PCA: {error}")]
    references, owners = _references(chosen, pca, notes)
    enough = max(5, components + 1)  # checkpoints that can show the half periods of all components
    contents = {
        label: cosine_content(score) if len(score) >= enough else np.full(components, np.nan)
        for label, score in scores.items()
    }
    control = None
    if any(np.isfinite(content).any() for content in contents.values()):
        control = random_walk_cosine_content(
            max(min(max(len(s) for s in scores.values()), _CONTROL_CHECKPOINTS), components + 2, 4),
            max(min(int(np.prod(shape)), _CONTROL_FEATURES), components),
            components,
            num_draws=_CONTROL_DRAWS,
        )
    else:
        text = "too few checkpoints for the cosine content of the principal components"
        notes.append(Finding("no_cosine_content", text))
    steps = {member.label: member.run.steps for member in chosen}
    ratio = np.asarray(pca.explained_variance_ratio_)
    return PCAAnalysis(scores, steps, references, owners, ratio, contents, control, tuple(shape)), notes


def _stored_outputs(run: Trajectory) -> Any:
    try:
        return run.outputs()
    except CorruptRunError:
        raise
    except TrajectoryError:
        return None


def _digest(arrays: Mapping[str, NDArray], probe: str | None) -> str | None:
    """Of the batch behind the function vectors; None where it is not stored."""
    names = [name for name in arrays if probe is not None and name.startswith(f"{probe}/batch/")]
    if not names:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(names):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _references(
    chosen: Sequence[_Member], pca: JointTrajectoryPCA, notes: list[Finding]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
    """References by label, each once: on one batch, what has one label is the same in all runs.

    A reference belongs to a run unless it is the general solution of a transition, or runs of other places on the axis
    have it too.
    """
    found: dict[str, NDArray[np.float64]] = {}
    owners: dict[str, str] = {}
    general: set[str] = set()
    places: dict[str, set[Any]] = {}
    for member in chosen:
        description, axis = member.description, member.description.axis
        general |= {description.references[each.general] for each in description.transitions}
        for reference, label in description.references.items():
            name = f"{description.function_vector}/reference/{reference}"
            if description.function_vector is None or name not in member.arrays:
                continue
            places.setdefault(label, set()).add(member.label if axis is None else axis.value)
            if label in found:
                continue
            try:
                scores = np.asarray(pca.transform(member.arrays[name]))
            except DataError as error:
                text = f"{member.label}: {label} is not shown in the PCA: {error}"
                notes.append(Finding("reference_left_out", text))
                continue
            if scores.ndim == 1:
                found[label], owners[label] = scores, member.label
    shared = {label for label, where in places.items() if len(where) > 1}
    return found, {label: owner for label, owner in owners.items() if label not in general | shared}


def pca_sentences(pca: PCAAnalysis) -> list[str]:
    """Explained variance, and what the cosine content allows to be read into the components."""
    ratio = pca.explained_variance_ratio
    sentences = []
    if len(ratio) > 1:
        sentences.append(
            f"The first two principal components of the joint trajectory hold {percent(float(ratio[:2].sum()))} of the "
            f"variance of the function vectors ({percent(float(ratio[0]))} and {percent(float(ratio[1]))})."
        )
    contents = np.array(list(pca.cosine_content.values()))
    for component in range(min(2, contents.shape[1]) if len(contents) else 0):
        values = contents[:, component]
        if not np.isfinite(values).any():
            continue
        over = " over the runs" if len(values) > 1 else ""
        text = f"PC{component + 1} has a cosine content of {_range(values)}{over}"
        if pca.cosine_control is not None:
            low, high = np.nanquantile(pca.cosine_control[:, component], [0.05, 0.95])
            text += f" (random walks: {low:.2f} to {high:.2f})"
        sentences.append(text + ".")
    return sentences


def _range(values: NDArray[np.float64]) -> str:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
