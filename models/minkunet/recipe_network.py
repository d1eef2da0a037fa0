"""The networks of `minkunet-lidarhd` and `spvcnn-lidarhd`."""

from __future__ import annotations

from typing import Any

from effvision.models.minkunet.convert import NETWORKS
from effvision.models.minkunet.inputs import SceneInput
from effvision.models.minkunet.network import SparseUNet
from effvision.training_lidar import CLASSES

__all__ = ["CHANNELS", "INPUTS", "lidar_network"]

_FEATURES = ("height_low", "height", "height_smooth", "intensity", "returns", "echoes", "shape", "spacing")

INPUTS = {"minkunet": SceneInput(0.375, _FEATURES), "spvcnn": SceneInput(0.5, _FEATURES, 0.125)}
"""How a cloud is prepared for each. A voxel of 0.5 m holds both low vegetation and the ground beneath it, so without a
branch of points voxels have to be smaller."""

CHANNELS = (12, 12, 16, 24, 24, 24, 16, 12, 12)
"""In place of the published ones times a small width, which leaves 4 channels for 15 features where the cloud is finest, and
puts nine tenths of the weights where it is coarsest."""


def lidar_network(name: str, given: SceneInput | None = None) -> SparseUNet:
    """Build a network, untrained.

    Args:
        name: `minkunet` or `spvcnn`.
        given: How clouds are prepared for it; default: as in `INPUTS`.
    """
    kind = given or INPUTS[name]
    sizes: dict[str, Any] = {"voxel_size_m": kind.voxel_m, "channels": CHANNELS}
    if kind.point_m is not None:
        sizes["point_size_m"] = kind.point_m
    return NETWORKS[name](kind.channels, len(CLASSES), **sizes)
