"""How much of a principal component is what PCA makes of a random walk: its cosine content."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llc_dynamics.errors import DataError
from llc_dynamics.ranges import numbers_of
from llc_dynamics.seeding import numpy_generator

#: From this cosine content on a component is nearly what PCA makes of a random walk, and its turns mean nothing.
RANDOM_WALK_LIKE = 0.7


def cosine_content(scores: ArrayLike, half_periods: ArrayLike | None = None) -> NDArray[np.float64]:
    """Share of each component's sum of squares, along one trajectory, that a cosine of its own frequency explains.

    c_i = (2/T) (integral of cos(i pi t / T) p_i(t))^2 / (integral of p_i(t)^2)  (Hess 2002, Phys. Rev. E 65, 031910,
    eq. 13), with i = 1, 2, ... half periods over the trajectory. The principal components of a random walk of many
    dimensions are these cosines (Hess 2000), so that a value near 1 means that the component shows no more structure
    than a random walk has. A low value does not prove that the structure is real.

    Time is the checkpoint index, as it is for the PCA, to which each checkpoint is one row. The scores are centred
    along the trajectory first: in a joint PCA one run's scores need not have mean zero.

    Parameters
    ----------
    scores : [checkpoint, component] along one trajectory, or [checkpoint].
    half_periods : whole numbers [component], the half periods i to test for; 1, 2, ... by default.

    Returns float64 [component], each from 0 to 1; NaN for a component that does not move.

    Raises `DataError` for fewer than 4 checkpoints, values that are not finite, or half periods that do not fit.
    """
    p = numbers_of("scores", scores)
    p = p[:, None] if p.ndim == 1 else p
    if p.ndim != 2 or len(p) < 4:
        raise DataError(f"scores have shape {p.shape}; wanted [checkpoint, component] with at least 4 checkpoints")
    if not np.isfinite(p).all():
        raise DataError("scores hold NaN or infinite values; drop those checkpoints first")
    waves = np.arange(1, p.shape[1] + 1) if half_periods is None else np.asarray(half_periods)
    if waves.shape != (p.shape[1],) or np.any(waves < 1) or np.any(waves != waves.astype(int)):
        raise DataError(f"half_periods={half_periods!r}; give one whole number of at least 1 for each component")
    if np.any(waves >= len(p)):
        raise DataError(f"{len(p)} checkpoints cannot show {int(waves.max())} half periods; give fewer components")
    # At the midpoints (j + 1/2) / C the cosines are exactly orthogonal to one another and to a constant (DCT-II).
    time = (np.arange(len(p)) + 0.5) / len(p)
    cosines = np.cos(np.pi * time[:, None] * waves)
    p = p - p.mean(axis=0)
    power = (p**2).sum(axis=0)
    overlap = 2.0 / len(p) * (cosines * p).sum(axis=0) ** 2
    return np.where(power > 0, overlap / np.where(power > 0, power, 1.0), np.nan)


def random_walk_cosine_content(
    num_checkpoints: int,
    num_features: int,
    n_components: int = 4,
    num_draws: int = 50,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Cosine contents of the PCA of random walks: the control to hold a run's `cosine_content` against.

    Each draw is a Gaussian random walk of `num_checkpoints` steps in `num_features` dimensions, decomposed on its own.
    The walk's dimension matters: use that of the function vectors, or of the space they effectively fill.

    Returns float64 [draw, component].

    Raises `DataError` for fewer than 4 checkpoints or more components than min(checkpoints, features).
    """
    if num_checkpoints < 4 or not 1 <= n_components <= min(num_checkpoints - 1, num_features):
        raise DataError(
            f"{num_checkpoints} checkpoints in {num_features} dimensions cannot give {n_components} components; "
            "at least 4 checkpoints and min(checkpoints - 1, features) components at most"
        )
    contents = np.empty((num_draws, n_components))
    for draw in range(num_draws):
        generator = numpy_generator(seed, "random-walk control", draw)
        walk = generator.standard_normal((num_checkpoints, num_features)).cumsum(axis=0)
        walk -= walk.mean(axis=0)
        u, s, _ = np.linalg.svd(walk, full_matrices=False)
        contents[draw] = cosine_content(u[:, :n_components] * s[:n_components])
    return contents
