"""Points and the voxels of one level: means into voxels, trilinear readings back.

Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution", ECCV 2020, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from effvision.errors import ShapeError
from effvision.host.sparse_levels import PointTable
from effvision.ops.rows import precise, weighted_rows

__all__ = ["PointMap"]


@dataclass(frozen=True, eq=False)
class PointMap:
    """`effvision.host.sparse_levels.PointTable` as tensors: P points among V voxels.

    Attributes:
        voxel: (P,) int64, the row of the voxel each point lies in.
        shares: (V, 1), one over the number of points in each voxel; 0 where there is none.
        corners: (P, J) int64, rows of the voxels a point reads from.
        weights: (P, J), how much each of them counts; sum 1.
    """

    voxel: Tensor
    shares: Tensor
    corners: Tensor
    weights: Tensor

    @classmethod
    def of(cls, table: PointTable, device: torch.device | str = "cpu") -> PointMap:
        """Take a table made on the host."""
        made = (table.voxel, table.shares, table.corners, table.weights)
        return cls(*(torch.from_numpy(one).to(device) for one in made))

    def mean(self, points: Tensor) -> Tensor:
        """Average the rows of the points in each voxel, half types in float32; a voxel without points is zero.

        Args:
            points: (P, C) floating.

        Returns:
            (V, C).

        Raises:
            ShapeError: not the points the map was made for.
        """
        if points.ndim != 2 or points.shape[0] != len(self.voxel):
            raise ShapeError(
                f"`points` must be ({len(self.voxel)}, C), as the map was made for; got {tuple(points.shape)}"
            )
        exact = precise(points)
        sums = exact.new_zeros(len(self.shares), points.shape[1]).index_add(0, self.voxel, exact)
        return (sums * self.shares.to(exact.dtype)).to(points.dtype)

    def read(self, voxels: Tensor) -> Tensor:
        """Read the voxels at the points: trilinear, a point on a voxel's least corner takes that voxel alone.

        Args:
            voxels: (V, C) floating.

        Returns:
            (P, C).

        Raises:
            ShapeError: not the voxels the map was made for.
        """
        if voxels.ndim != 2 or voxels.shape[0] != len(self.shares):
            raise ShapeError(
                f"`voxels` must be ({len(self.shares)}, C), as the map was made for; got {tuple(voxels.shape)}"
            )
        if self.corners.shape[1] == 1:
            return voxels.index_select(0, self.corners[:, 0])
        return weighted_rows(voxels, self.corners, self.weights)
