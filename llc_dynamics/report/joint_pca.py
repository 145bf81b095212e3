"""Joint trajectory PCA of the runs that can be compared, with ridge and every dMMSE_M projected into it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import CorruptRunError, DataError, TrajectoryError
from llc_dynamics.pca import JointTrajectoryPCA, cosine_content, random_walk_cosine_content
from llc_dynamics.trajectory import Trajectory

# The cosine content of a random walk hardly depends on these beyond here, and the control takes a second.
_CONTROL_CHECKPOINTS, _CONTROL_FEATURES, _CONTROL_DRAWS = 200, 200, 20


@dataclass(frozen=True, eq=False)
class PCAAnalysis:
    """Scores of runs and references in one joint basis.

    Attributes
    ----------
    scores, steps : {run label: float64 [checkpoint, component]}, {run label: int64 [checkpoint]}.
    references : {'ridge' or 'dMMSE, M = 8': float64 [component]}. reference_of : {reference: run label}.
    explained_variance_ratio : float64 [component].
    cosine_content : {run label: float64 [component]}, of each run's scores along its own trajectory; NaN for a run
        with too few checkpoints.
    cosine_control : float64 [draw, component], the same for PCA of random walks.
    feature_shape : shape of one function vector, (B, K).
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


def analyse_pca(
    runs: Sequence[Trajectory], labels: Sequence[str], num_tasks: Sequence[float | None], num_components: int = 4
) -> tuple[PCAAnalysis | None, list[str]]:
    """The joint PCA of `runs` and notes on what was left out; None where no two checkpoints can be compared.

    Function vectors can only be compared on one batch: runs recorded on another root batch than the first run's are
    left out, with a note.
    """
    notes: list[str] = []
    chosen: list[tuple[str, float | None, Trajectory, dict[str, NDArray]]] = []
    batch, shape, unchecked = None, None, []
    for run, label, tasks in zip(runs, labels, num_tasks, strict=True):
        stored = _stored_outputs(run)
        if stored is None:
            notes.append(f"{label}: no function vectors are stored, so it is not in the PCA")
            continue
        arrays = run.arrays("evaluation") if "evaluation" in run.array_names else {}
        digest = _digest(arrays)
        if shape is None:
            batch, shape = digest, stored.shape[1:]
        if stored.shape[1:] != shape:
            notes.append(f"{label}: its function vectors have another shape, so it is not in the PCA")
            continue
        if digest != batch:
            notes.append(
                f"{label}: recorded on another root-task batch than {chosen[0][0]}, so its function vectors cannot be "
                "compared and it is not in the PCA"
            )
            continue
        if digest is None:
            unchecked.append(label)
        chosen.append((label, tasks, run, arrays))
    if len(unchecked) > 1:
        notes.append(
            f"the batch behind the function vectors is not stored ({', '.join(unchecked)}): the joint PCA is right "
            "only if it was the same in all of them"
        )
    rows = sum(len(run.steps) for _, _, run, _ in chosen)
    if rows < 3 or shape is None:
        if chosen:
            notes.append(f"no PCA: only {rows} checkpoints are stored")
        return None, notes
    components = min(num_components, rows - 1, int(np.prod(shape)))
    try:
        pca = JointTrajectoryPCA(n_components=components).fit([run for _, _, run, _ in chosen])
        scores = {label: pca.transform(run) for label, _, run, _ in chosen}
    except DataError as error:
        return None, [*notes, f"no PCA: {error}"]
    references, owners = _references(chosen, pca)
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
        notes.append("too few checkpoints for the cosine content of the principal components")
    steps = {label: run.steps for label, _, run, _ in chosen}
    ratio = np.asarray(pca.explained_variance_ratio_)
    return PCAAnalysis(scores, steps, references, owners, ratio, contents, control, tuple(shape)), notes


def _stored_outputs(run: Trajectory) -> Any:
    try:
        return run.outputs()
    except CorruptRunError:
        raise
    except TrajectoryError:
        return None


def _digest(arrays: Mapping[str, NDArray]) -> str | None:
    if "root_x" not in arrays or "root_y" not in arrays:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for name in ("root_x", "root_y"):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _references(
    chosen: Sequence[tuple[str, float | None, Trajectory, dict[str, NDArray]]], pca: JointTrajectoryPCA
) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
    """Ridge once, and dMMSE_M once for each M: with one root batch they are the same in all runs of that M."""
    found: dict[str, NDArray[np.float64]] = {}
    owners: dict[str, str] = {}
    for label, tasks, _, arrays in chosen:
        if "root_ridge" in arrays and "ridge" not in found:
            found["ridge"] = np.asarray(pca.transform(arrays["root_ridge"]))
        if "root_dmmse" in arrays and tasks is not None and math.isfinite(tasks):
            name = f"dMMSE, M = {tasks:,.0f}"
            if name not in found:
                found[name] = np.asarray(pca.transform(arrays["root_dmmse"]))
                owners[name] = label
    return found, owners
