"""Voxel grids without a scatter: the tables that a graph of gathers and sums needs, made on the host.

TensorRT before 10 overwrites where a scatter should add, without a word. Here the points of each voxel are listed instead, so
that the mean of a voxel is a gather and a sum, and the grid another gather. The numbers are those of `effvision.ops.voxels`.

Lists have one length, the longest, so a crowded voxel would make all of them long. Its points are therefore listed in parts of
a length that the host chooses, and a second table lists the parts of the voxels that have several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import RangeError, ShapeError

__all__ = ["VoxelTables", "graph_arrays", "place_points", "voxel_tables"]


def place_points(coords: NDArray[Any], *, unit_ball: bool = True) -> NDArray[np.float32]:
    """Move and scale clouds so that a grid over the unit cube holds them; float64 inside.

    PVCNN, NeurIPS 2019, section 3.2: c / (2 max|c|) + 0.5 with c = coords - mean, or (c + 1) / 2 without `unit_ball`. Points
    that all lie in one place go to the middle.

    Args:
        coords: (N, 3, P), any unit, finite.
        unit_ball: Scale each cloud to a ball of diameter 1; else the coordinates are taken to lie in -1..1 already.

    Returns:
        (N, 3, P) float32; in 0..1 with `unit_ball`.

    Raises:
        ShapeError: `coords` is not (N, 3, P) with at least one point.
        RangeError: NaN or infinity among the coordinates.
    """
    if coords.ndim != 3 or coords.shape[1] != 3 or coords.shape[0] < 1 or coords.shape[2] < 1:
        raise ShapeError(f"`coords` must be (N, 3, P) with at least one point; got {coords.shape}")
    exact: NDArray[np.float64] = coords.astype(np.float64)
    if not np.isfinite(exact).all():
        raise RangeError("`coords` holds NaN or infinity: such points lie in no voxel\nhint: drop those points first")
    mean = exact.mean(2, keepdims=True)
    centred = exact - mean
    if not unit_ball:
        return np.asarray((centred + 1) / 2, dtype=np.float32)
    diameter = 2 * np.sqrt((centred**2).sum(1, keepdims=True)).max(2, keepdims=True)
    # the mean of equal numbers may differ from them by its rounding
    least = np.abs(mean).max(1, keepdims=True) * (16 * np.finfo(np.float64).eps)
    return np.asarray(centred / np.where(diameter <= least, np.inf, diameter) + 0.5, dtype=np.float32)


@dataclass(frozen=True)
class VoxelTables:
    """One resolution's tables for N clouds of P points. Rows of all clouds count through; R below is the number of parts.

    Attributes:
        parts: (R, K) int64: points of each part, rows of the N*P points and one row of zeros after them, which fills up.
        crowded: (S, L) int64: parts of each voxel that has several, rows of the R parts and one row of zeros after them.
            S is at least 1.
        shares: (R + S + 1, 1) float32: one over the number of points in the voxel; 0 in the last row, the empty voxel.
        cells: (N, X, Y, Z) int64: for each voxel, its row of parts, crowded voxels and the empty voxel, one after the other.
        corners: (N*P, 8) int64: voxels around each point, rows of the N*X*Y*Z.
        weights: (N*P, 8) float32 in 0..1: how much each of them counts.
    """

    parts: NDArray[np.int64]
    crowded: NDArray[np.int64]
    shares: NDArray[np.float32]
    cells: NDArray[np.int64]
    corners: NDArray[np.int64]
    weights: NDArray[np.float32]

    def arrays(self, resolution: int) -> dict[str, NDArray[Any]]:
        """Return the tables under the names a graph gives them: `parts_32`, `crowded_32`, ..."""
        return {f"{name}_{resolution}": getattr(self, name) for name in self.__dataclass_fields__}


def voxel_tables(placed: NDArray[np.float32], resolution: int, *, margin: int | None = None) -> VoxelTables:
    """List the points of every voxel and the voxels around every point.

    Args:
        placed: (N, 3, P) float32, as `place_points` gives it; what lies outside 0..1 goes to the border.
        resolution: r, voxels along each side.
        margin: None for whole grids, r x r x r. A number cuts out the box that holds every corner and so many voxels more;
            one less than the number of 3x3x3 convolutions on the grid changes nothing.

    Returns:
        The tables; their size grows with the points and with the voxels of the grid.
    """
    clouds, _, points = placed.shape
    top = np.float32(resolution - 1)
    positions = np.clip(placed * np.float32(resolution), np.float32(0), top)
    low = np.floor(positions)
    fraction = positions - low  # exact
    first = low.astype(np.int64)
    second = first + (fraction > 0)
    origin, shape = _box(first, second, resolution, margin)
    steps = np.array([shape[1] * shape[2], shape[2], 1])
    voxels = int(np.prod(shape))
    offset = np.arange(clouds)[:, None] * voxels
    nearest = (np.rint(positions).astype(np.int64) - origin[:, None]) * steps[:, None]
    index = (nearest.sum(1) + offset).ravel()

    pair = (np.stack([first, second]) - origin[:, None]) * steps[:, None]  # (2, N, 3, P)
    share = np.stack([1 - fraction, fraction])
    corners = pair[:, None, None, :, 0] + pair[None, :, None, :, 1] + pair[None, None, :, :, 2] + offset
    weights = share[:, None, None, :, 0] * share[None, :, None, :, 1] * share[None, None, :, :, 2]
    parts, crowded, shares, cells = _list_members(index, clouds * voxels)
    return VoxelTables(
        parts=parts,
        crowded=crowded,
        shares=shares,
        cells=cells.reshape(clouds, *shape),
        corners=np.ascontiguousarray(corners.reshape(8, clouds * points).T),
        weights=np.ascontiguousarray(weights.reshape(8, clouds * points).T),
    )


def graph_arrays(
    points: NDArray[np.float32], names: Sequence[str], *, unit_ball: bool = True, margin: int | None = None
) -> dict[str, NDArray[Any]]:
    """Return what a PVCNN graph takes for clouds of points, by the names of its inputs.

    Args:
        points: (N, C, P) float32, coordinates in the first three channels.
        names: Of the graph's inputs: `points`, `placed`, and tables such as `parts_32`. Others are left out.
        unit_ball: As in `place_points`.
        margin: As in `voxel_tables`; only for networks without squeeze and excitation.

    Raises:
        ShapeError: `points` is not (N, C, P).
        RangeError: NaN or infinity among the coordinates.
    """
    placed = place_points(points[:, :3], unit_ball=unit_ball)
    arrays: dict[str, NDArray[Any]] = {"points": points, "placed": placed}
    for resolution in dict.fromkeys(int(name.partition("_")[2]) for name in names if name.startswith("parts_")):
        arrays.update(voxel_tables(placed, resolution, margin=margin).arrays(resolution))
    return {name: arrays[name] for name in names if name in arrays}


def _list_members(
    index: NDArray[np.int64], voxels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return `parts`, `crowded`, `shares` and `cells` (voxels,) for points in the voxels `index` (P,)."""
    points = len(index)
    order = np.argsort(index, kind="stable")
    occupied, begins, counts = np.unique(index[order], return_index=True, return_counts=True)
    length = _part_length(counts)
    needed = -(-counts // length)  # parts of each occupied voxel
    first_part = np.cumsum(needed) - needed
    rank = np.arange(points) - np.repeat(begins, counts)  # of each sorted point within its voxel
    parts = np.full((int(needed.sum()), length), points, dtype=np.int64)
    parts[np.repeat(first_part, counts) + rank // length, rank % length] = order

    several = np.flatnonzero(needed > 1)
    crowded = np.full((max(1, len(several)), int(needed.max())), len(parts), dtype=np.int64)
    numbers = np.arange(crowded.shape[1])
    listed = first_part[several, None] + numbers
    crowded[: len(several)] = np.where(numbers < needed[several, None], listed, len(parts))

    row = first_part.copy()
    row[several] = len(parts) + np.arange(len(several))
    shares = np.zeros((len(parts) + len(crowded) + 1, 1), dtype=np.float32)
    shares[row, 0] = 1 / counts
    cells = np.full(voxels, len(shares) - 1, dtype=np.int64)
    cells[occupied] = row
    return parts, crowded, shares, cells


def _part_length(counts: NDArray[np.int64]) -> int:
    """Choose the length of a part, a power of two, so that both tables together are smallest."""

    def entries(length: int) -> int:
        needed = -(-counts // length)
        several = int((needed > 1).sum())
        return int(needed.sum()) * length + several * int(needed.max())

    return min((1 << bits for bits in range(int(counts.max()).bit_length() + 1)), key=entries)


def _box(
    low: NDArray[np.int64], high: NDArray[np.int64], resolution: int, margin: int | None
) -> tuple[NDArray[np.int64], tuple[int, int, int]]:
    """Return the first voxel and the size of the grid, or of the part of it that the corners and a margin need."""
    if margin is None:
        return np.zeros(3, dtype=np.int64), (resolution, resolution, resolution)
    first = np.maximum(low.min((0, 2)) - margin, 0)
    last = np.minimum(high.max((0, 2)) + margin, resolution - 1)
    size = last - first + 1
    return first, (int(size[0]), int(size[1]), int(size[2]))
