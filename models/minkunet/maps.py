"""What the networks of this family ask of a cloud: the kernel maps of each level, and where its points lie in three of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from effvision.host.sparse import Keys
from effvision.host.sparse_graph import DOWNS, POINT_LEVELS
from effvision.ops.sparse_maps import Voxels

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


def build_maps(keys: Keys | Tensor, points: NDArray[Any] | Tensor | None, device: torch.device) -> Maps:
    """Make the maps of a cloud: on a CPU by `effvision.host.sparse`, elsewhere on the device itself.

    Args:
        keys: (V,) sorted, of the voxels.
        points: (P, 4) x, y, z, batch in voxels, whole or not; None without a branch of points.
        device: Where the network runs.

    Raises:
        InputError: a point in no voxel.
    """
    packed = torch.as_tensor(keys, device=device)
    levels, down = [Voxels(packed)], []
    for _ in range(DOWNS):
        above, kernel_map = levels[-1].down()
        levels.append(above)
        down.append(kernel_map)
    near = [level.near() for level in levels]
    if points is None:
        return Maps(near, down)
    placed = torch.as_tensor(points, device=device)
    places, batch = placed[:, :3], placed[:, 3].long()
    places = places if places.is_floating_point() else places.float()
    return Maps(near, down, [levels[level].points(places / 2**level, batch) for level in POINT_LEVELS])


def places_of(coords: Tensor, point_size_m: float | None, voxel_size_m: float) -> Tensor:
    """Turn the coordinates of points on a finer grid, (P, 4) x, y, z, batch, into places among the voxels.

    In float32, as the published code computes it, also where both sizes are equal: its places are then a little off whole
    numbers, which moves logits by up to a thousandth of their spread. With None coordinates are taken as they are.
    """
    if point_size_m is None:
        return coords
    # tensors, not numbers: a GPU would multiply by the reciprocal of a number, which rounds otherwise
    point_size, voxel_size = (
        torch.tensor(size, dtype=torch.float32, device=coords.device) for size in (point_size_m, voxel_size_m)
    )
    return torch.cat([coords[:, :3].float() * point_size / voxel_size, coords[:, 3:].float()], dim=1)
