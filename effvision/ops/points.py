"""Neighbourhoods of points: sampling, ball query, grouping, interpolation. Plain PyTorch, batched, any device.

Qi, Yi, Su and Guibas, "PointNet++: Deep Hierarchical Feature Learning on Point Sets in a Metric Space", NIPS 2017, sections
3.2 (sampling, grouping) and 3.4 (interpolation). Distances are squared and summed as x, y, z, so that a point on the border
of a ball falls on the same side everywhere. No table of all pairs is made: a cloud of a million points needs tens of megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from effvision.errors import InputError, ShapeError
from effvision.ops.rows import check_coords, flat_index, precise, rows_of, weighted_rows

__all__ = ["ball_query", "farthest_points", "gather_points", "interpolate_three", "nearest_three"]

_PAIRS = 1 << 22  # distances held at a time
_FARTHEST = 1e38
_NEAREST_SQUARED, _FARTHEST_SQUARED = 1e-10, 1e10


def farthest_points(coords: Tensor, count: int) -> Tensor:
    """Choose points that cover each cloud: always the one farthest from those chosen.

    NIPS 2017, section 3.2. The first is point 0; of equally far ones the first is taken. With fewer points than `count`
    (or fewer distinct ones) all are chosen, then point 0 again.

    Args:
        coords: (N, 3, P), finite.
        count: M, how many to choose.

    Returns:
        (N, M) int64 in 0..P-1.

    Raises:
        InputError: `count` < 1, or the coordinates cannot be used (`ShapeError`, `DTypeError`, `RangeError`).
    """
    check_coords(coords, "coords")
    if count < 1:
        raise InputError(f"`count` must be 1 or more points; got {count}")
    coords = precise(coords.detach())
    clouds, _, points = coords.shape
    chosen = torch.zeros(clouds, count, dtype=torch.int64, device=coords.device)
    nearest = torch.full((clouds, points), _FARTHEST, dtype=coords.dtype, device=coords.device)
    last = chosen[:, 0]
    for step in range(1, count):
        centre = coords.gather(2, last.view(-1, 1, 1).expand(-1, 3, 1))
        torch.minimum(nearest, _squared(coords, centre), out=nearest)
        last = nearest.argmax(1)
        chosen[:, step] = last
    return chosen


def ball_query(centres: Tensor, coords: Tensor, *, radius: float, neighbours: int) -> Tensor:
    """Find points nearer than `radius` to each centre.

    NIPS 2017, section 3.2. The first `neighbours` in the order of the cloud, not the nearest; where there are fewer the first
    one fills up, and where there is none point 0 does.

    Args:
        centres: (N, 3, M), finite.
        coords: (N, 3, P), finite.
        radius: In the unit of the coordinates; a point exactly on the border is outside.
        neighbours: U.

    Returns:
        (N, M, U) int64 in 0..P-1.

    Raises:
        InputError: `radius` or `neighbours` is not positive, or the coordinates cannot be used.
    """
    _check_pair(centres, coords)
    if not radius > 0 or neighbours < 1:
        raise InputError(f"`radius` must be positive and `neighbours` 1 or more; got {radius} and {neighbours}")
    centres, coords = precise(centres.detach()), precise(coords.detach())
    points = coords.shape[2]
    taken = min(neighbours, points)
    numbers = torch.arange(points, dtype=torch.int32, device=coords.device)
    reach = coords.new_tensor(radius) ** 2
    found = []
    for part in _parts(centres, coords):
        inside = _squared(coords[:, :, None], part[:, :, :, None]) < reach  # (N, m, P)
        ranked = torch.where(inside, numbers, points)
        found.append(ranked.topk(taken, dim=2, largest=False).values)
    hits = torch.cat(found, dim=1).long()
    first = hits[:, :, :1]
    filled = torch.where(hits < points, hits, torch.where(first < points, first, 0))
    fill = filled[:, :, :1].expand(-1, -1, neighbours - taken)
    return torch.cat([filled, fill], dim=2)


def gather_points(features: Tensor, index: Tensor) -> Tensor:
    """Take points by their index.

    Args:
        features: (N, C, P), any dtype.
        index: (N, ...) int64 in 0..P-1, such as (N, M) from `farthest_points` or (N, M, U) from `ball_query`.

    Returns:
        (N, C, ...), channels adjacent in memory. Gradients flow to `features`, added up where a point is taken twice.

    Raises:
        ShapeError: `features` is not (N, C, P), or `index` is of another number of clouds.
    """
    if features.ndim != 3 or index.ndim < 2 or index.shape[0] != features.shape[0]:
        raise ShapeError(
            f"`index` must be (N, ...) for `features` (N, C, P); got {tuple(index.shape)} for {tuple(features.shape)}"
        )
    rows = rows_of(features).index_select(0, flat_index(index, features.shape[2]).flatten())
    return rows.view(*index.shape, features.shape[1]).movedim(-1, 1)


def nearest_three(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Find the three centres nearest to each point, and how much each counts.

    NIPS 2017, section 3.4: weights 1 / d^2, d^2 cut to 1e-10..1e10, divided by their sum. Of equally near centres the first
    comes first. With fewer than three centres the missing ones are centre 0, as far as can be, and weigh next to nothing.

    Args:
        points: (N, 3, P), finite.
        centres: (N, 3, M), finite.

    Returns:
        Indices (N, P, 3) int64 in 0..M-1, the nearest first, and weights (N, P, 3), sum 1, float32 (float64 for float64).

    Raises:
        InputError: the coordinates cannot be used.
    """
    _check_pair(points, centres)
    points, centres = precise(points.detach()), precise(centres.detach())
    indices, distances = [], []
    for part in _parts(points, centres):
        squared = _squared(centres[:, :, None], part[:, :, :, None])  # (N, p, M)
        index = torch.zeros(*squared.shape[:2], 3, dtype=torch.int64, device=squared.device)
        distance = torch.full_like(index, _FARTHEST_SQUARED, dtype=squared.dtype)
        for rank in range(min(3, squared.shape[2])):
            least = squared.min(dim=2, keepdim=True)
            distance[:, :, rank : rank + 1], index[:, :, rank : rank + 1] = least.values, least.indices
            squared.scatter_(2, least.indices, torch.inf)
        indices.append(index)
        distances.append(distance)
    weights = 1 / torch.cat(distances, dim=1).clamp(_NEAREST_SQUARED, _FARTHEST_SQUARED)
    return torch.cat(indices, dim=1), weights / weights.sum(2, keepdim=True)


def interpolate_three(features: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Carry features of centres to points, as found by `nearest_three`.

    Args:
        features: Of the centres, (N, C, M), floating.
        index: (N, P, 3) int64.
        weights: (N, P, 3).

    Returns:
        (N, C, P), dtype of `features`, channels adjacent in memory. Gradients flow to `features`.

    Raises:
        ShapeError: the three do not belong together.
    """
    if features.ndim != 3 or index.ndim != 3 or index.shape != weights.shape or index.shape[0] != features.shape[0]:
        raise ShapeError(
            f"`index` and `weights` must be (N, P, 3) for `features` (N, C, M); got {tuple(index.shape)} and "
            f"{tuple(weights.shape)} for {tuple(features.shape)}"
        )
    rows = flat_index(index, features.shape[2]).flatten(0, 1)
    found = weighted_rows(rows_of(features), rows, weights.flatten(0, 1))
    return found.view(features.shape[0], -1, features.shape[1]).transpose(1, 2)


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of (N, 3, ...) to (N, 3, ...), broadcast; x, y and z are added in this order."""
    total = (a[:, 0] - b[:, 0]).square_()
    total += (a[:, 1] - b[:, 1]).square_()
    total += (a[:, 2] - b[:, 2]).square_()
    return total


def _parts(queries: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Split queries (N, 3, M) so that the distances of one part to `others` (N, 3, P) fit in the budget."""
    size = max(1, _PAIRS // (others.shape[0] * others.shape[2]))
    return iter(torch.split(queries, size, dim=2))


def _check_pair(a: Tensor, b: Tensor) -> None:
    check_coords(a, "centres or points")
    check_coords(b, "coords or centres")
    if a.shape[0] != b.shape[0] or a.dtype != b.dtype:
        raise ShapeError(
            f"both sets of points must have as many clouds and one dtype; got {tuple(a.shape)} {a.dtype} and "
            f"{tuple(b.shape)} {b.dtype}"
        )
