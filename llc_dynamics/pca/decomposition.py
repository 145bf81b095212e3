"""Leading singular values and right singular vectors of a centred matrix that is read a block of rows at a time.

Three exact-enough ways, chosen by shape. All accumulate in float64 and need two or more passes over the rows: the mean
first, then the centred rows, so that no variance is lost to cancellation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, qr

from llc_dynamics.errors import DataError
from llc_dynamics.pca.rows import StackedRows
from llc_dynamics.seeding import numpy_generator

SOLVERS = ("auto", "gram", "covariance", "randomized")

# Below this size of the smaller side the dense eigenproblem takes a few seconds at most, and a fifth of a gigabyte.
_DENSE_LIMIT = 3000
# The Gram matrix meets every block with every other one; the iteration needs some ten passes over all of them.
_GRAM_BLOCKS = 16


class Decomposition(NamedTuple):
    """`singular_values` [component], `components` [component, feature], `total` = sum of the squares of all."""

    singular_values: NDArray[np.float64]
    components: NDArray[np.float64]
    total: float


def choose_solver(num_rows: int, num_features: int, block_rows: int | None = None) -> str:
    """`gram` or `covariance`, whichever matrix is smaller; `randomized` where that is too large.

    Too large is a smaller side beyond 3000, or a Gram matrix of rows so wide that only a small part of them,
    `block_rows`, is in memory at a time: each block would be read again for every other one.
    """
    if min(num_rows, num_features) > _DENSE_LIMIT:
        return "randomized"
    if num_rows > num_features:
        return "covariance"
    return "randomized" if block_rows is not None and num_rows > _GRAM_BLOCKS * block_rows else "gram"


def decompose(rows: StackedRows, num_components: int, solver: str, seed: int) -> Decomposition:
    """Leading `num_components` of the singular value decomposition of the centred rows."""
    if solver == "gram":
        found = _by_gram(rows, num_components)
    elif solver == "covariance":
        found = _by_covariance(rows, num_components)
    else:
        found = _by_block_krylov(rows, num_components, seed)
    if found.total <= np.finfo(np.float64).eps ** 2 * rows.num_rows * float(rows.mean @ rows.mean):
        raise DataError(
            f"all {rows.num_rows} function vectors are the same; there is no variance to decompose. "
            "Do the runs hold more than one checkpoint, and did the models train?"
        )
    return found


def _by_gram(rows: StackedRows, num_components: int) -> Decomposition:
    """From the matrix of inner products X X' [row, row]; the blocks are read once for every block before them."""
    gram = np.empty((rows.num_rows, rows.num_rows))
    for start, left in rows.blocks():
        for other, right in rows.blocks(first=start):
            product = left @ (left if other == start else right).T
            gram[start : start + len(left), other : other + len(right)] = product
            gram[other : other + len(right), start : start + len(left)] = product.T
    total = float(np.trace(gram))
    squares, vectors = _leading(gram, num_components)
    components = np.zeros((num_components, rows.num_features))
    for start, block in rows.blocks():
        components += vectors[start : start + len(block)].T @ block
    # Normalising the product itself is more exact than dividing by the singular value, which may be near zero.
    return Decomposition(np.sqrt(squares), _orthonormal(components), total)


def _by_covariance(rows: StackedRows, num_components: int) -> Decomposition:
    """From X' X [feature, feature], in one pass."""
    covariance = np.zeros((rows.num_features, rows.num_features))
    for _, block in rows.blocks():
        covariance += block.T @ block
    total = float(np.trace(covariance))
    squares, vectors = _leading(covariance, num_components)
    return Decomposition(np.sqrt(squares), vectors.T, total)


def _by_block_krylov(
    rows: StackedRows,
    num_components: int,
    seed: int,
    oversampling: int = 12,
    tolerance: float = 1e-8,
    max_passes: int = 40,
) -> Decomposition:
    """Block Krylov iteration on X' X from a random start (Musco & Musco 2015, "Randomized block Krylov methods").

    One pass over the rows multiplies the newest block of the basis by X' X; Rayleigh-Ritz on the whole basis gives the
    values. It stops when a pass changes none of the leading squared singular values by more than `tolerance`.
    """
    width = min(num_components + oversampling, rows.num_features)
    generator = numpy_generator(seed, "trajectory PCA", rows.num_features)
    newest = np.linalg.qr(generator.standard_normal((rows.num_features, width)))[0]
    basis, images = newest, np.empty((rows.num_features, 0))
    previous, total = None, 0.0
    for number in range(max_passes):
        image = np.zeros_like(newest)
        for _, block in rows.blocks():
            image += block.T @ (block @ newest)
            if number == 0:
                total += float(np.vdot(block, block))
        images = np.hstack([images, image])
        projected = basis.T @ images
        squares, ritz = _leading((projected + projected.T) / 2, num_components)
        if previous is not None and np.all(np.abs(squares - previous) <= tolerance * squares):
            break
        previous = squares
        # Twice is enough (Kahan): the second projection removes what rounding left in the first.
        direction = image - basis @ (basis.T @ image)
        direction -= basis @ (basis.T @ direction)
        left, sizes, _ = np.linalg.svd(direction, full_matrices=False)
        # What is as small as rounding is noise, not orthogonal to the basis; with nothing else the space is exhausted.
        room = rows.num_features - basis.shape[1]
        newest = left[:, sizes > 1e-12 * float(squares[0])][:, :room]
        if newest.shape[1] == 0:
            break
        newest = np.linalg.qr(newest - basis @ (basis.T @ newest))[0]
        basis = np.hstack([basis, newest])
    else:
        raise DataError(
            f"the randomized solver did not settle within {max_passes} passes; the leading {num_components} components "
            "are not separated from the rest. Use solver='covariance' or 'gram', or fewer components"
        )
    return Decomposition(np.sqrt(squares), (basis @ ritz).T, total)


def _leading(matrix: NDArray[np.float64], number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The `number` largest eigenvalues (clipped at zero) and eigenvectors of a symmetric matrix, largest first."""
    size = len(matrix)
    values, vectors = eigh(matrix, subset_by_index=(size - number, size - 1), overwrite_a=True, check_finite=False)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def _orthonormal(components: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal rows spanning the same flag (QR keeps the order); rows of zero variance get some direction."""
    q, r = qr(components.T, mode="economic")
    return np.asarray((q * np.where(np.diag(r) < 0, -1.0, 1.0)).T, dtype=np.float64)
