"""Features of points and voxels as rows of one matrix: what voxel grids and neighbourhoods are gathered and summed from.

A tensor (N, C, P) whose channels lie side by side in memory is such a matrix already: nothing is copied then.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from effvision.errors import DTypeError, RangeError, ShapeError

__all__ = ["check_coords", "check_finite", "check_shape", "flat_index", "precise", "rows_of", "weighted_rows"]


def precise(x: Tensor) -> Tensor:
    """Return `x` in float32 where it is of a half type, since voxels and distances need more digits; else `x`."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def rows_of(x: Tensor) -> Tensor:
    """(N, C, ...) -> (N*..., C); a view if the channels are adjacent in memory."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def flat_index(index: Tensor, size: int) -> Tensor:
    """Turn indices into each of N clouds, (N, ...) in 0..size-1, into indices of the N*size rows of all of them."""
    first = torch.arange(index.shape[0], dtype=index.dtype, device=index.device) * size
    return index + first.view(-1, *[1] * (index.ndim - 1))


def weighted_rows(rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Sum a few weighted rows for each result: the gather, the product and the sum in one pass.

    Args:
        rows: (R, C).
        index: (S, K) int32 or int64 in 0..R-1.
        weights: (S, K), any floating dtype; no gradient flows to them.

    Returns:
        (S, C), dtype of `rows`: sum over k of weights[s, k] * rows[index[s, k]].
    """
    exact = precise(rows)
    begins = torch.arange(0, index.numel() + 1, index.shape[1], dtype=index.dtype, device=index.device)
    found = F.embedding_bag(
        index.flatten(),
        exact,
        begins,
        mode="sum",
        per_sample_weights=weights.to(exact.dtype).flatten(),
        include_last_offset=True,
    )
    return found.to(rows.dtype)


def check_coords(coords: Tensor, name: str) -> None:
    """Refuse coordinates that have no place in space: `check_shape`, then `check_finite`."""
    check_shape(coords, name)
    check_finite(coords, name)


def check_shape(coords: Tensor, name: str) -> None:
    """Refuse what are no coordinates.

    Raises:
        ShapeError: not (N, 3, P) with at least one point.
        DTypeError: not real numbers.
    """
    if coords.ndim != 3 or coords.shape[1] != 3 or coords.shape[0] < 1 or coords.shape[2] < 1:
        raise ShapeError(f"`{name}` must be (N, 3, P) with at least one point; got {tuple(coords.shape)}")
    if not coords.is_floating_point():
        raise DTypeError(f"`{name}` must be of a floating dtype; got {coords.dtype}\nhint: `{name}.float()`")


def check_finite(coords: Tensor, name: str) -> None:
    """Refuse coordinates (N, 3, P) that lie nowhere.

    Raises:
        RangeError: NaN or infinity among them.
    """
    if not bool(coords.isfinite().all()):
        raise RangeError(
            f"`{name}` holds NaN or infinity in {int((~coords.isfinite()).any(1).sum())} of "
            f"{coords.shape[0] * coords.shape[2]} points: they lie in no voxel\nhint: drop those points first"
        )
