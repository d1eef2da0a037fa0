"""Points to a voxel grid and back: the two ends of a point-voxel convolution.

Liu, Tang, Lin and Han, "Point-Voxel CNN for Efficient 3D Deep Learning", NeurIPS 2019, section 3.2 (normalisation,
voxelisation by the mean, trilinear devoxelisation).

Which voxel a point falls in, and how near it is to the eight around it, depends on coordinates and resolution only. A
`VoxelPlan` holds that; every layer of one resolution shares it. No gradient flows to coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from effvision.errors import DTypeError, RangeError, ShapeError
from effvision.ops.rows import check_finite, check_shape, flat_index, precise, rows_of, weighted_rows

__all__ = ["VoxelPlan", "place_points", "plan_voxels", "voxel_positions"]

_ROUNDINGS = 16
_STEP = 4  # sides of a cut-out grid are multiples of it: few shapes, since oneDNN prepares itself for each new one


def place_points(coords: Tensor, *, unit_ball: bool = True, eps: float = 0.0) -> Tensor:
    """Move and scale clouds so that a grid over the unit cube holds them.

    NeurIPS 2019, section 3.2. With c = coords - mean over the points: c / (2 max|c| + eps) + 0.5, or (c + 1) / 2 without
    `unit_ball`. Points that all lie in one place go to the middle; the reference divides by zero there.

    The arithmetic is float64, rounded once at the end: else the order in which a device adds up the mean would decide in which
    voxel a point near a border falls.

    Args:
        coords: (N, 3, P), any unit, finite.
        unit_ball: Scale each cloud to a ball of diameter 1; else the coordinates are taken to lie in -1..1 already.
        eps: Added to the diameter.

    Returns:
        (N, 3, P), float32 (float64 for float64), without gradient; in 0..1 with `unit_ball`.

    Raises:
        ShapeError: `coords` is not (N, 3, P).
        DTypeError: `coords` is not of a floating dtype.
        RangeError: NaN or infinity among the coordinates.
    """
    check_shape(coords, "coords")
    exact = coords.detach() if coords.device.type == "mps" else coords.detach().double()  # mps has no float64
    placed = _centre_and_scale(exact, unit_ball=unit_ball, eps=eps)
    if not bool(placed[:, :, 0].isfinite().all()):  # one NaN or infinity makes the mean, and so every point, NaN
        check_finite(coords, "coords")
    return placed.to(precise(coords).dtype)


def _centre_and_scale(coords: Tensor, *, unit_ball: bool, eps: float = 0.0) -> Tensor:
    """The arithmetic of `place_points` in the dtype of `coords`, unchecked."""
    mean = coords.mean(2, keepdim=True)
    centred = coords - mean
    if not unit_ball:
        return (centred + 1) / 2
    squared = centred[:, 0].square() + centred[:, 1].square() + centred[:, 2].square()
    diameter = squared.amax(1).sqrt().view(-1, 1, 1) * 2 + eps
    # the mean of equal numbers may differ from them by its rounding; NaN is not less, and stays
    least = mean.abs().amax(1, keepdim=True) * (_ROUNDINGS * torch.finfo(coords.dtype).eps)
    return centred / torch.where(diameter <= least, math.inf, diameter) + 0.5


def voxel_positions(placed: Tensor, resolution: int) -> Tensor:
    """Turn places in the unit cube into coordinates in voxels, where a whole number is the centre of a voxel.

    Args:
        placed: (N, 3, P), as `place_points` gives them.
        resolution: r, voxels along each side.

    Returns:
        (N, 3, P): placed * r, cut to 0..r-1.
    """
    return (placed * resolution).clamp(0, resolution - 1)


@dataclass(frozen=True)
class VoxelPlan:
    """Where the points of N clouds lie in grids of X x Y x Z voxels. Made by `plan_voxels`; rows count as in `rows_of`.

    Attributes:
        shape: X, Y, Z: voxels of the grid, or of the part of it that was cut out.
        clouds: N.
        index: (N*P,) int64, which `index_add_` takes five times as fast as int32: the row of each point's voxel in the
            N*X*Y*Z of all grids, (x*Y + y)*Z + z in the first.
        corners: (N*P, 8) int32 (int64 for more than 2^31 voxels), rows of the voxels around each point; x changes slowest.
        weights: (N*P, 8) in 0..1, sum 1: how much each of them counts.
        shares: (N*X*Y*Z,), one over the number of points in each voxel; 1 where there is none.
    """

    shape: tuple[int, int, int]
    clouds: int
    index: Tensor
    corners: Tensor
    weights: Tensor
    shares: Tensor

    def voxelise(self, features: Tensor) -> Tensor:
        """Average the features of the points in each voxel; empty voxels are zero.

        Sums of half types are taken in float32. On a CPU the points of a voxel are added in their own order.

        Args:
            features: (N, C, P), floating; fastest with the channels adjacent in memory.

        Returns:
            (N, C, X, Y, Z), dtype of `features`, channels adjacent in memory (`torch.channels_last_3d`).

        Raises:
            ShapeError: not the points the plan was made for.
            DTypeError: whole numbers, whose means would be cut off.
        """
        points = self.index.shape[0] // self.clouds
        if not features.is_floating_point():
            raise DTypeError(f"`features` must be of a floating dtype; got {features.dtype}\nhint: `features.float()`")
        if features.ndim != 3 or features.shape[0] != self.clouds or features.shape[2] != points:
            raise ShapeError(
                f"`features` must be (N, C, P) with N={self.clouds}, P={points} as planned; got {tuple(features.shape)}"
            )
        rows = precise(rows_of(features))
        sums = rows.new_zeros(len(self.shares), rows.shape[1]).index_add_(0, self.index, rows)
        means = sums.mul_(self.shares.to(rows.dtype)[:, None]).to(features.dtype)
        return means.view(self.clouds, *self.shape, -1).movedim(-1, 1)

    def devoxelise(self, grid: Tensor) -> Tensor:
        """Read the grid at the points: trilinear between voxel centres.

        NeurIPS 2019, section 3.2: a point exactly on a centre takes that voxel alone.

        Args:
            grid: (N, C, X, Y, Z), floating; fastest with the channels adjacent in memory.

        Returns:
            (N, C, P), dtype of `grid`, channels adjacent in memory.

        Raises:
            ShapeError: not the grid the plan was made for.
        """
        if grid.ndim != 5 or grid.shape[0] != self.clouds or tuple(grid.shape[2:]) != self.shape:
            raise ShapeError(
                f"`grid` must be (N, C, X, Y, Z) with N={self.clouds} and {self.shape} voxels as planned; "
                f"got {tuple(grid.shape)}"
            )
        found = weighted_rows(rows_of(grid), self.corners, self.weights)
        return found.view(self.clouds, -1, grid.shape[1]).transpose(1, 2)


def plan_voxels(positions: Tensor, resolution: int, *, margin: int | None = None) -> VoxelPlan:
    """Find the voxel of each point and the eight around it.

    A position is rounded to its voxel, halves to the even one. The eight are floor(p) and, along an axis where p is not whole,
    the next one, so none lies outside.

    Args:
        positions: (N, 3, P) in voxels, 0..r-1, as `voxel_positions` gives them.
        resolution: r.
        margin: None for whole grids. A number cuts out the smallest box of voxels that holds every corner of every cloud and
            `margin` more around them: for s convolutions of 3x3x3 with zero padding between `voxelise` and `devoxelise`,
            margin s - 1 gives what the whole grid would, to rounding, as all that is cut away was empty.

    Returns:
        The plan, on the device of `positions`.

    Raises:
        ShapeError: `positions` is not (N, 3, P), or `resolution` < 1.
        DTypeError: `positions` is not of a floating dtype.
        RangeError: a position lies outside 0..r-1, or is NaN.
    """
    check_shape(positions, "positions")
    if resolution < 1:
        raise ShapeError(f"`resolution` must be 1 or more voxels; got {resolution}")
    positions = precise(positions.detach())
    lowest, highest = (float(end) for end in torch.aminmax(positions))  # NaN comes through
    if not (lowest >= 0 and highest <= resolution - 1):
        check_finite(positions, "positions")
        raise RangeError(
            f"`positions` must lie in 0..{resolution - 1} voxels; got {lowest:g}..{highest:g}\n"
            "hint: `voxel_positions` gives them"
        )
    floor = positions.floor()
    fraction = positions - floor
    kind = torch.int32 if positions.shape[0] * resolution**3 < 2**31 else torch.int64
    low = floor.to(kind)
    high = low + (fraction > 0)
    origin, shape = _box(low, high, resolution, margin)
    steps = torch.tensor([shape[1] * shape[2], shape[2], 1], dtype=kind, device=low.device).view(1, 3, 1)
    shift = torch.tensor(origin, dtype=kind, device=low.device).view(1, 3, 1)
    voxels = shape[0] * shape[1] * shape[2]
    index = flat_index(((positions.round().to(kind) - shift) * steps).sum(1), voxels).flatten()
    pair = torch.stack([(low - shift) * steps, (high - shift) * steps])  # (2, N, 3, P)
    pair[:, :, 0] = flat_index(pair[:, :, 0].transpose(0, 1), voxels).transpose(0, 1)
    rows = pair[:, None, None, :, 0] + pair[None, :, None, :, 1] + pair[None, None, :, :, 2]  # (2, 2, 2, N, P)
    share = torch.stack([1 - fraction, fraction])
    weights = share[:, None, None, :, 0] * share[None, :, None, :, 1] * share[None, None, :, :, 2]
    counts = torch.bincount(index, minlength=positions.shape[0] * voxels)
    return VoxelPlan(
        shape=shape,
        clouds=positions.shape[0],
        index=index,
        corners=_by_point(rows),
        weights=_by_point(weights),
        shares=1 / counts.clamp(min=1).to(positions.dtype),
    )


def _by_point(values: Tensor) -> Tensor:
    """(2, 2, 2, N, P) -> (N*P, 8), contiguous: written row by row, three times as fast as `contiguous` of a transposed view."""
    flat = values.reshape(8, -1)
    out = flat.new_empty(flat.shape[1], 8)
    out.t().copy_(flat)
    return out


def _box(
    low: Tensor, high: Tensor, resolution: int, margin: int | None
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the first voxel and the size of the grid, or of the part of it that the corners and a margin need."""
    if margin is None:
        return (0, 0, 0), (resolution, resolution, resolution)
    first, last = low.amin((0, 2)).tolist(), high.amax((0, 2)).tolist()
    origin, shape = [], []
    for begin, end in zip(first, last, strict=True):
        begin, end = max(begin - margin, 0), min(end + margin, resolution - 1)
        size = min(-(-(end - begin + 1) // _STEP) * _STEP, resolution)
        origin.append(min(begin, resolution - size))
        shape.append(size)
    return (origin[0], origin[1], origin[2]), (shape[0], shape[1], shape[2])
