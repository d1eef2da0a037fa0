"""Clouds of voxels for tests, and what a dense convolution makes of them."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

Triple = tuple[int, int, int]

# kernel, dilation: cubes, boxes of mixed parity, a single tap
KERNELS: list[tuple[Any, Any]] = [
    (1, 1),
    (2, 1),
    (3, 1),
    (5, 1),
    (2, 2),
    (3, 2),
    ((3, 1, 2), 1),
    ((1, 3, 5), (1, 2, 1)),
]

# kernel, stride, dilation
STRIDED: list[tuple[Any, Any, Any]] = [
    (2, 2, 1),  # each voxel belongs to one output
    (3, 3, 1),  # likewise, with taps on both sides
    (3, 2, 1),  # overlapping
    (5, 2, 1),
    (2, 1, 1),  # voxels spread
    (3, 1, 2),
    (2, 2, 2),
    (1, 2, 1),  # sees only some voxels
    (2, 3, 1),
    ((2, 3, 1), (2, 2, 1), (1, 2, 1)),
]


def cloud(seed: int, *, side: int = 4, share: float = 0.4, batches: int = 1, shift: int = -3) -> NDArray[np.int64]:
    """Voxels (V, 4) x, y, z, batch in a shuffled order, at least one; a batch may have none, but the last has one."""
    draw = np.random.default_rng(seed)
    there = draw.random((batches, side, side, side)) < share * np.linspace(1, 0.3, batches)[:, None, None, None]
    there[-1, side // 2, 0, side - 1] = True
    batch, x, y, z = there.nonzero()
    return draw.permutation(np.stack([x + shift, y + shift, z + 2 * shift, batch], axis=1))


def clouds() -> st.SearchStrategy[NDArray[np.int64]]:
    """From one voxel to a full grid, one to three uneven clouds, negative coordinates too."""
    return st.builds(
        cloud,
        st.integers(0, 10_000),
        side=st.integers(1, 4),
        share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        batches=st.integers(1, 3),
        shift=st.integers(-5, 3),
    )


def three(value: Any) -> Triple:
    return value if isinstance(value, tuple) else (value,) * 3


def volume(kernel: Any) -> int:
    return int(np.prod(three(kernel)))


def taps(kernel: Any, dilation: Any) -> list[Triple]:
    """Offsets in the order of published weights, written out: x fastest for an odd volume, z fastest for an even one."""
    axes = [
        [step * (at - (size // 2 if size % 2 else 0)) for at in range(size)]
        for size, step in zip(three(kernel), three(dilation), strict=True)
    ]
    if volume(kernel) % 2:
        return [(x, y, z) for z, y, x in product(*reversed(axes))]
    return list(product(*axes))


def dense_weight(weight: Tensor, kernel: Any) -> Tensor:
    """(K, C_in, C_out) -> (C_in, C_out, X, Y, Z)."""
    x, y, z = three(kernel)
    if volume(kernel) % 2:
        return weight.view(z, y, x, *weight.shape[1:]).permute(3, 4, 2, 1, 0)
    return weight.view(x, y, z, *weight.shape[1:]).permute(3, 4, 0, 1, 2)


def reaches(kernel: Any, dilation: Any) -> list[tuple[int, int]]:
    """Least and greatest offset along each axis."""
    offsets = taps(kernel, dilation)
    return [(min(axis), max(axis)) for axis in zip(*offsets, strict=True)]


def padded(grid: Tensor, kernel: Any, dilation: Any, value: float = 0.0) -> Tensor:
    """A grid (N, C, X, Y, Z) with room for every tap, so that output 0 of a convolution stands at voxel 0."""
    margins = [width for low, high in reversed(reaches(kernel, dilation)) for width in (-low, high)]
    return F.pad(grid, margins, value=value)


def dense_conv(grid: Tensor, weight: Tensor, kernel: Any, stride: Any = 1, dilation: Any = 1) -> Tensor:
    """out[o] = sum of grid[o * stride + offset k] weight[k] by `conv3d`; (N, C, X, Y, Z) -> (N, C_out, ...)."""
    taps_first = dense_weight(weight, kernel).transpose(0, 1)
    return F.conv3d(padded(grid, kernel, dilation), taps_first, stride=stride, dilation=dilation)


def box(coords: NDArray[np.int64], stride: Any = 1, room: int = 8) -> tuple[Triple, Triple]:
    """Origin and size of a grid around the voxels, with room on every side and a corner that is a multiple of the stride."""
    low, high = coords[:, :3].min(axis=0) - room, coords[:, :3].max(axis=0) + room
    step = np.array(three(stride))
    origin = low // step * step
    size = -(-(high + 1 - origin) // step) * step
    return tuple(origin.tolist()), tuple(size.tolist())


def random_feats(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
