"""How high each point of a scanned scene lies above the ground, without knowing the scene. NumPy only.

The ground is a surface on grids of ever smaller cells (64, 32, ... m). At each size the lowest point of a cell, measured from
the surface so far, corrects it, unless it lies so high above it that it can only be a roof or a crown. Measured from the
surface so far, a slope looks level from the second size on; so a roof is told from it where cells are narrower than the roof.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["COARSEST_M", "cells_of", "heights_above_ground", "spacing_of", "without_low_outliers"]

Array = NDArray[np.float64]

COARSEST_M = 64.0
"""Side of the largest cells. Buildings wider than this in both directions, without a court, are taken for ground."""

_FINEST_M = 1.0
_MOST_CELLS = 2048  # along an axis; larger scenes get larger cells, so that memory stays bounded
_STEEPEST, _SLACK_M = (
    0.25,
    0.4,
)  # what a cell's lowest point may rise above the surface so far: a share of its side, and more
_WIDEST_ROOF_M = (
    32.0  # in scenes too small for two of the largest cells, cells down to half of this are always taken for ground
)
_FEWEST_M = 1.0  # a low outlier lies at least this and one cell's side below its surroundings


def spacing_of(xyz: NDArray[np.floating]) -> float:
    """Return the mean distance in metres between neighbouring points seen from above, 1 / sqrt(points per m2).

    The area is that of the occupied 4 m cells, so holes and ragged borders do not count. Points (P, 3).
    """
    cells, _ = cells_of(xyz[:, :2], _side(xyz, 4.0))
    side = _side(xyz, 4.0)
    occupied = len(np.unique(cells[:, 0] * (int(cells[:, 1].max()) + 1) + cells[:, 1]))
    return float(np.sqrt(occupied * side * side / len(xyz)))


def cells_of(places: NDArray[np.floating], side: float) -> tuple[NDArray[np.int64], Array]:
    """Return the cell (P, A) of each place (P, A), counted from the least coordinates, and those (A,)."""
    low = places.min(axis=0).astype(np.float64)
    return np.floor((places - low) / side).astype(np.int64), low


def heights_above_ground(xyz: NDArray[np.floating], sides_m: tuple[float, ...] = (_FINEST_M, 8.0)) -> list[Array]:
    """Return the height of each point above ground surfaces of several smoothnesses, metres.

    Args:
        xyz: (P, 3) finite metres, z up.
        sides_m: Sides of the smallest cells of each surface. A cell should hold four points, so sparse clouds and scenes wider
            than 2 km get larger ones.

    Returns:
        For each of `sides_m`, (P,) float64. Does not depend on the order of the points, nor on where the scene lies.
    """
    places = (xyz[:, :2] - xyz[:, :2].min(axis=0)).astype(np.float64)
    z = xyz[:, 2].astype(np.float64)
    finest = max(min(sides_m), 2.0 * spacing_of(xyz))
    limit = _side(xyz, 0.0)
    used = without_low_outliers(xyz, max(finest, limit))
    side = COARSEST_M
    while side < limit:
        side *= 2
    rest = z - z[used].min()
    wanted = {goal: max(goal, finest, limit) for goal in sides_m}
    found: dict[float, Array] = {}
    level = True  # whether the surface so far cannot slope: then a high cell may be ground as well
    while True:
        for _ in range(
            2 if level else 1
        ):  # the lowest points of a slope lie at one side of the cells; the second time they do not
            rest = rest - _correction(places, rest, used, side, refuse=not level)
        level = side >= _WIDEST_ROOF_M and bool((np.floor(places.max(axis=0) / side) < 1).any())
        for goal, least in wanted.items():
            if goal not in found and side / 2 < least * 0.999:
                found[goal] = rest
        if len(found) == len(wanted):
            return [found[goal] for goal in sides_m]
        side /= 2


def without_low_outliers(xyz: NDArray[np.floating], side: float) -> NDArray[np.bool_]:
    """Return a mask (P,): False for points far below everything around them, such as echoes that came by way of a wall.

    A point is one if it lies 1 m and a cell's side below the fourth lowest of the 24 cells around its own.
    """
    cells, _ = cells_of(xyz[:, :2], side)
    shape = tuple((cells.max(axis=0) + 1).tolist())
    flat = cells[:, 0] * shape[1] + cells[:, 1]
    z = xyz[:, 2].astype(np.float64)
    used = np.ones(len(z), bool)
    for _ in range(3):
        low = _lowest(z[used], flat[used], shape)
        around = _fourth_lowest(low)
        bad = used & (z < around.ravel()[flat] - (_FEWEST_M + side))
        if not bad.any():
            break
        used &= ~bad
    return used


def _side(xyz: NDArray[np.floating], side: float) -> float:
    """Return `side`, or more where a grid of it would have too many cells."""
    return max(side, float(np.ptp(xyz[:, :2], axis=0).max()) / _MOST_CELLS)


def _lowest(values: Array, flat: NDArray[np.int64], shape: tuple[int, ...]) -> Array:
    low = np.full(shape[0] * shape[1], np.inf)
    np.minimum.at(low, flat, values)
    return low.reshape(shape)


def _fourth_lowest(low: Array) -> Array:
    """Return for each cell the fourth lowest of the 24 around it; -inf where fewer than eight of them have points.

    A row of cells at a time, so that memory stays that of the grid.
    """
    padded = np.pad(low, 2, constant_values=np.inf)
    out = np.empty_like(low)
    for row in range(low.shape[0]):
        views = [
            padded[row + dx : row + dx + 1, dy : dy + low.shape[1]]
            for dx in range(5)
            for dy in range(5)
            if (dx, dy) != (2, 2)
        ]
        stack = np.partition(np.concatenate(views), (3, 7), axis=0)
        out[row] = np.where(np.isfinite(stack[7]), stack[3], -np.inf)
    return out


def _correction(places: Array, rest: Array, used: NDArray[np.bool_], side: float, *, refuse: bool) -> Array:
    """Return (P,): the surface's change at each point, from the lowest `rest` of each cell."""
    cells = np.floor(places / side).astype(np.int64)
    shape = tuple((cells.max(axis=0) + 1).tolist())
    low = _lowest(rest[used], (cells[:, 0] * shape[1] + cells[:, 1])[used], shape)
    good = low <= _STEEPEST * side + _SLACK_M if refuse else np.isfinite(low)
    surface = _filled(np.where(good, low, 0.0), good)
    return _bilinear(surface, places / side - 0.5)


def _filled(values: Array, good: NDArray[np.bool_]) -> Array:
    """Fill the other cells from those around them, ring by ring; cells more than four rings away keep zero."""
    for _ in range(4):
        if good.all():
            break
        weight, total = _box(good.astype(np.float64)), _box(values)
        new = ~good & (weight > 0)
        values = np.where(new, total / np.maximum(weight, 1), values)
        good = good | new
    return values


def _box(grid: Array) -> Array:
    """Return the sums over 3x3 cells."""
    padded = np.pad(grid, 1)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    total: Array = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return total


def _bilinear(grid: Array, at: Array) -> Array:
    """Read a grid at `at` (P, 2), in cells from the middle of the first; continued straight beyond the outer middles."""
    for axis in range(2):
        if grid.shape[axis] == 1:
            grid = np.repeat(grid, 2, axis=axis)
    last = np.array(grid.shape) - 2
    base = np.clip(np.floor(at).astype(np.int64), 0, last)
    x, y = (at - base).T
    i, j = base.T
    low = grid[i, j] * (1 - y) + grid[i, j + 1] * y
    high = grid[i + 1, j] * (1 - y) + grid[i + 1, j + 1] * y
    read: Array = low * (1 - x) + high * x
    return read
