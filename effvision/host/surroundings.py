"""What the surroundings of a point look like: flat, stringy or full, level or upright. NumPy only.

The eigenvalues of the covariance of the points around one tell it (Weinmann et al., ISPRS Journal 2015, section 3.2). The
surroundings are 3x3x3 small cells around that of the point, which takes sums over sorted keys and no search for neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.host.ground import cells_of

__all__ = ["mean_around", "shapes_around"]

Array = NDArray[np.float64]

_BITS = 21  # of each coordinate of a cell's key
_SIX = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def shapes_around(xyz: NDArray[np.floating], cell_m: float) -> Array:
    """Describe the points in the 3x3x3 cells around each point's own.

    With eigenvalues a >= b >= c of their covariance: linearity (a - b) / a, planarity (b - c) / a, scatter c / a, and upright,
    1 - |z| of the direction of c: 0 for a floor, 1 for a wall.

    Args:
        xyz: (P, 3) finite metres, z up.
        cell_m: Side of a cell.

    Returns:
        (P, 4) float64 in 0..1; zeros where fewer than four points lie around.
    """
    keys, inverse, offset = _cells(xyz, cell_m)
    columns = [np.ones(len(xyz)), *offset.T, *(offset[:, i] * offset[:, j] for i, j in _SIX)]
    return _describe(_around(keys, _sums(columns, keys, inverse)))[inverse]


def mean_around(xyz: NDArray[np.floating], cell_m: float, values: NDArray[Any]) -> Array:
    """Return (P,): the mean of `values` (P,) over the points in the 3x3x3 cells around each point's own."""
    keys, inverse, _ = _cells(xyz, cell_m)
    columns = [np.ones(len(xyz)), np.asarray(values, np.float64)]
    sums = _around(keys, _sums(columns, keys, inverse))
    mean: Array = (sums[:, 1] / sums[:, 0])[inverse]
    return mean


def _cells(xyz: NDArray[np.floating], cell_m: float) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Return the keys (V,) of the occupied cells in order, each point's (P,), and its place from its cell's middle (P, 3)."""
    reach = float(np.ptp(xyz, axis=0).max())
    cell_m = max(cell_m, reach / (2**_BITS - 4))
    cells, low = cells_of(xyz, cell_m)
    cells += 1  # so that no neighbour is negative
    key: NDArray[np.int64] = (cells[:, 0] << (2 * _BITS)) | (cells[:, 1] << _BITS) | cells[:, 2]
    keys, inverse = np.unique(key, return_inverse=True)
    return keys, inverse.reshape(-1), (xyz - low) / cell_m - (cells - 0.5)  # in cells: numbers near one


def _sums(columns: list[Array], keys: NDArray[np.int64], inverse: NDArray[np.int64]) -> Array:
    """Return (V, A): the sums of A columns (P,) over the points of each cell."""
    sums = [np.bincount(inverse, weights=column, minlength=len(keys)).astype(np.float64) for column in columns]
    return np.stack(sums, axis=1)


def _around(keys: NDArray[np.int64], sums: Array) -> Array:
    """Add the sums (V, A) of the 27 cells around each; moments (V, 10) moved to the middle of the one they are added for."""
    total = np.zeros_like(sums)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            for dz in (-1, 0, 1):
                wanted = keys + ((dx << (2 * _BITS)) + (dy << _BITS) + dz)
                place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
                here = np.flatnonzero(keys[place] == wanted)
                found = sums[place[here]]
                total[here] += _moved(found, (dx, dy, dz)) if found.shape[1] == 10 else found
    return total


def _moved(sums: Array, by: tuple[int, int, int]) -> Array:
    """Return count, sums and sums of products (V, 10) of points after all were moved by `by`."""
    count, first = sums[:, 0], sums[:, 1:4]
    out = sums.copy()
    for axis in range(3):
        out[:, 1 + axis] += by[axis] * count
    for column, (i, j) in enumerate(_SIX, start=4):
        out[:, column] += by[i] * first[:, j] + by[j] * first[:, i] + by[i] * by[j] * count
    return out


def _describe(sums: Array) -> Array:
    count = np.maximum(sums[:, 0], 1)
    mean = sums[:, 1:4] / count[:, None]
    covariance = np.empty((len(sums), 3, 3))
    for column, (i, j) in enumerate(_SIX, start=4):
        covariance[:, i, j] = covariance[:, j, i] = sums[:, column] / count - mean[:, i] * mean[:, j]
    values, vectors = np.linalg.eigh(covariance)  # ascending
    c, b, a = np.maximum(values, 0).T
    a = np.maximum(a, 1e-9)
    shapes = np.stack([(a - b) / a, (b - c) / a, c / a, 1 - np.abs(vectors[:, 2, 0])], axis=1)
    enough: Array = np.where((sums[:, 0] >= 4)[:, None], np.clip(shapes, 0, 1), 0.0)
    return enough
