"""PVCNN, point-voxel networks for point clouds: fine detail from the points, neighbourhoods from a small voxel grid.

Liu, Tang, Lin and Han, "Point-Voxel CNN for Efficient 3D Deep Learning", NeurIPS 2019.
"""

from __future__ import annotations

from effvision.models.pvcnn.predictor import PVCNN

__all__ = ["PVCNN"]
