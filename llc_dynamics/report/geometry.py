"""Where runs turn in the plane of the first two joint components: what the page and `llc-dynamics stages` say of it.

Function vectors have no standard errors, so the scatter of the scores about a smooth curve stands for them.
"""

from __future__ import annotations

import numpy as np

from llc_dynamics.errors import DataError
from llc_dynamics.finding import Finding
from llc_dynamics.report.joint_pca import PCAAnalysis
from llc_dynamics.report.numbers import listed, step, steps_between
from llc_dynamics.stages import TrajectoryGeometry, TurningPoint, trajectory_geometry

LIKELY = 0.9  # probability from which a turning point is named
COSINE_LIKE = "cosine-like: a random walk's PCA turns so, too"
_MOST_NAMED = 6  # of one kind
# A smooth curve that explains less of the variance of the checkpoints tells nothing of where the run turns.
_LEAST_EXPLAINED = 0.9


def find_geometry(
    label: str, pca: PCAAnalysis | None, seed: int = 0
) -> tuple[TrajectoryGeometry | None, list[Finding]]:
    """Osculating circles and turning points of one run, and notes.

    None where the run is not in the PCA, cannot be judged, or is not followed by a smooth curve in log time. The notes
    of the geometry itself stay with it: they are about how to read it and not about what is missing.
    """
    if pca is None or label not in pca.scores:
        return None, []
    if pca.scores[label].shape[1] < 2:
        text = "no geometry of the trajectory PCA: it has one component only"
        return None, [Finding("one_component", text)]
    try:
        found = trajectory_geometry(pca.steps[label], pca.scores[label], seed=seed)
    except DataError as error:
        return None, [Finding("no_geometry", f"no geometry of the trajectory PCA: {error}")]
    explained = explained_share(found, pca.steps[label], pca.scores[label])
    if explained < _LEAST_EXPLAINED:
        text = (
            "no geometry of the trajectory PCA: the smooth curve in log time misses the checkpoints, it explains "
            f"{max(explained, 0.0):.0%} of their variance in the plane, and {_LEAST_EXPLAINED:.0%} is asked for"
        )
        return None, [Finding("poor_fit", text)]
    return found, []


def explained_share(found: TrajectoryGeometry, steps: np.ndarray, scores: np.ndarray) -> float:
    """Share of the variance of the checkpoints in the plane that the smooth curve explains: 1 is a perfect fit."""
    points = scores[:, list(found.components)]
    fitted = np.stack([np.interp(np.log1p(steps), found.log_time, axis) for axis in found.position.T], axis=1)
    known = np.isfinite(points).all(axis=1)
    spread = float(((points[known] - points[known].mean(axis=0)) ** 2).sum())
    return 1.0 - float(((points[known] - fitted[known]) ** 2).sum()) / spread if spread > 0 else 1.0


def likely_points(geometry: TrajectoryGeometry) -> list[TurningPoint]:
    """Turning points with a probability of `LIKELY` or more, in order of time."""
    return [point for point in geometry.turning_points if point.probability >= LIKELY]


def turning_phrase(geometry: TrajectoryGeometry) -> str:
    """'vertex at 314 (291 to 337); PC2 turns back at 261 (247 to 276) and 903 (855 to 989)', of the likely ones."""
    kinds: dict[str, list[str]] = {}
    for point in sorted(likely_points(geometry), key=lambda point: -1 if point.component is None else point.component):
        kind = "vertex" if point.component is None else f"PC{point.component + 1} turns back"
        kinds.setdefault(kind, []).append(f"{step(point.step)} ({steps_between(point.interval)})")
    return "; ".join(f"{kind} at {_shortened(places)}" for kind, places in kinds.items()) or "none"


def _shortened(places: list[str]) -> str:
    if len(places) <= _MOST_NAMED:
        return listed(places)
    return f"{', '.join(places[:_MOST_NAMED])} and {len(places) - _MOST_NAMED} later ones"
