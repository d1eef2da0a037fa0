"""All kernel maps of a U-Net over one cloud, and where its points lie among the voxels of each level. NumPy only.

Every layer of a level shares one map, so a network of 49 convolutions needs nine of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import InputError, ShapeError
from effvision.host.sparse import KEY_STEPS, Index, Keys, Pairs, check_range, coarser, neighbours, pack, rows_of

__all__ = ["BELOW_ONE", "Levels", "PointTable", "build_levels", "in_no_voxel", "places_of", "point_table"]

BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
"""The greatest share of a voxel's neighbour, so that a point's own voxel always has one."""


@dataclass(frozen=True, eq=False)
class Levels:
    """The voxels of one call at strides 1, 2, 4, ...

    Attributes:
        keys: Of each level, sorted; coordinates count in voxels of that level.
        near: The map of a submanifold convolution of 3x3x3, for each level.
        down: The map of a convolution of 2x2x2 with stride 2 from each level to the next.
    """

    keys: tuple[Keys, ...]
    near: tuple[Pairs, ...]
    down: tuple[Pairs, ...]


@dataclass(frozen=True, eq=False)
class PointTable:
    """Where P points lie among the V voxels of a level.

    Attributes:
        voxel: (P,) int64, the row of the voxel each point lies in.
        shares: (V, 1) float32, one over the number of points in each voxel; 0 where there is none.
        corners: (P, J) int64, rows of the voxels a point reads from; J is 1 where every point lies on one, else 8.
        weights: (P, J) float32, how much each of them counts: trilinear, 0 for a voxel that is not there, sum 1.
    """

    voxel: Index
    shares: NDArray[np.float32]
    corners: Index
    weights: NDArray[np.float32]


def build_levels(keys: Keys, downs: int = 4) -> Levels:
    """Make all maps of a U-Net with `downs` halvings.

    Args:
        keys: (V,) sorted, of level 0.
        downs: How often the voxels double their sides.
    """
    all_keys, near, down = [keys], [neighbours(keys)], []
    for _ in range(downs):
        above, pairs = coarser(all_keys[-1])
        all_keys.append(above)
        down.append(pairs)
        near.append(neighbours(above))
    return Levels(tuple(all_keys), tuple(near), tuple(down))


def point_table(keys: Keys, places: NDArray[Any], batch: NDArray[Any]) -> PointTable:
    """Find the voxel of each point, and the eight that a trilinear reading mixes.

    A voxel stands for its least corner, as in SPVCNN (Tang et al., "Searching Efficient 3D Architectures with Sparse
    Point-Voxel Convolution", ECCV 2020, section 3): a point at whole coordinates reads that voxel alone. Weights of voxels that
    are not there are given to the others.

    Args:
        keys: (V,) sorted.
        places: (P, 3) x, y, z in voxels of this level, whole or not.
        batch: (P,) whole numbers.

    Raises:
        ShapeError: not P places and P batches, or no point.
        RangeError: a place beyond `FARTHEST`, NaN and infinity included.
        InputError: a point outside all voxels.
    """
    if places.ndim != 2 or places.shape[1] != 3 or batch.shape != places.shape[:1]:
        raise ShapeError(f"`places` must be (P, 3) and `batch` (P,); got {places.shape} and {batch.shape}")
    check_range([*places.min(axis=0, initial=0).tolist(), 0], [*places.max(axis=0, initial=0).tolist(), 0])
    base = np.floor(places)
    fraction = np.minimum((places - base).astype(np.float32), BELOW_ONE)
    whole = np.column_stack([base.astype(np.int64), batch])
    packed = pack(whole)
    voxel = rows_of(keys, packed)
    if (voxel < 0).any():
        first = int(np.flatnonzero(voxel < 0)[0])
        raise in_no_voxel(int((voxel < 0).sum()), len(places), first, places[first].tolist())
    shares = np.zeros((len(keys), 1), np.float32)
    counts = np.bincount(voxel, minlength=len(keys))
    shares[counts > 0, 0] = 1 / counts[counts > 0]
    if not fraction.any():
        return PointTable(voxel, shares, voxel[:, None], np.ones((len(voxel), 1), np.float32))
    corners = np.empty((len(voxel), 8), np.int64)
    weights = np.empty((len(voxel), 8), np.float32)
    at_x, at_y, at_z = (np.stack([1 - fraction[:, axis], fraction[:, axis]]) for axis in range(3))
    step_x, step_y, _ = KEY_STEPS
    for x in (0, 1):
        for y in (0, 1):
            wanted = packed + (x * step_x + y * step_y)
            for z, found in enumerate(_two(keys, wanted)):
                corner = 4 * x + 2 * y + z
                corners[:, corner] = np.maximum(found, 0)
                weights[:, corner] = at_x[x] * at_y[y] * at_z[z] * (found >= 0)
    total = weights  # summed two by two, so that every machine rounds alike
    for _ in range(3):
        total = total[:, ::2] + total[:, 1::2]
    weights /= total  # above 0: a point's own voxel is there
    return PointTable(voxel, shares, corners, weights)


def in_no_voxel(count: int, points: int, first: int, place: Sequence[float]) -> InputError:
    """The error about `count` of the points, of which the first lies at `place`."""
    return InputError(
        f"{count} of {points} points lie in no voxel, first point {first} at {[*place]} voxels\n"
        "hint: make the voxels from the same points"
    )


def _two(keys: Keys, wanted: Keys) -> Sequence[Index]:
    """Rows of the wanted voxels and of those above them in z, -1 where they are not there, by one search."""
    place = np.searchsorted(keys, wanted)
    last = len(keys) - 1
    here = np.minimum(place, last)
    low = keys[here] == wanted
    above = np.minimum(place + low, last)
    high = keys[above] == wanted + 1
    return np.where(low, here, -1), np.where(high, above, -1)


def places_of(coords: NDArray[Any], point_size_m: float | None, voxel_size_m: float) -> NDArray[Any]:
    """Turn the coordinates of points on a finer grid, (P, 4) x, y, z, batch, into places among the voxels.

    In float32, as the published code computes it, also where both sizes are equal: its places are then a little off whole
    numbers, which moves logits by up to a thousandth of their spread. With None coordinates are taken as they are.
    """
    if point_size_m is None:
        return coords
    places = coords.astype(np.float32)
    places[:, :3] = places[:, :3] * np.float32(point_size_m) / np.float32(voxel_size_m)
    return places
