"""What the networks of this family ask of a cloud: the kernel maps of each level, and where its points lie in three of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effvision.host.sparse import Keys
from effvision.host.sparse_graph import POINT_LEVELS
from effvision.host.sparse_levels import build_levels, places_of, point_table
from effvision.ops.sparse_conv import KernelMap
from effvision.ops.sparse_points import PointMap

__all__ = ["POINT_LEVELS", "Convolves", "Maps", "Reads", "build_maps", "places_of"]


class Convolves(Protocol):
    """A kernel map, whatever carries the convolution out."""

    @property
    def turned(self) -> Convolves:
        """The map of the transposed convolution."""

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
        """As `effvision.ops.sparse_conv.convolve`."""


class Reads(Protocol):
    """Points among the voxels of a level."""

    def mean(self, points: Tensor) -> Tensor:
        """(P, C) -> (V, C)."""

    def read(self, voxels: Tensor) -> Tensor:
        """(V, C) -> (P, C)."""


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps of one call.

    Attributes:
        near: Submanifold 3x3x3, for the levels of stride 1, 2, 4, 8 and 16.
        down: 2x2x2 with stride 2, from each level but the last to the next.
        points: For `POINT_LEVELS`; empty without a branch of points.
    """

    near: Sequence[Convolves]
    down: Sequence[Convolves]
    points: Sequence[Reads] = ()


def build_maps(keys: Keys, points: NDArray[Any] | None, device: torch.device) -> Maps:
    """Make the maps of a cloud on the host.

    Args:
        keys: (V,) sorted, of the voxels.
        points: (P, 4) x, y, z, batch in voxels, whole or not; None without a branch of points.
        device: Where the network runs.
    """
    levels = build_levels(keys)
    near, down = ([KernelMap.of(pairs, device) for pairs in side] for side in (levels.near, levels.down))
    if points is None:
        return Maps(near, down)
    places, batch = points[:, :3], points[:, 3].astype(np.int64)
    tables = [point_table(levels.keys[level], places / 2**level, batch) for level in POINT_LEVELS]
    return Maps(near, down, [PointMap.of(table, device) for table in tables])
