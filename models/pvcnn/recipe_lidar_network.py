"""The network of `pvcnn-lidarhd`."""

from __future__ import annotations

from effvision.models.pvcnn.network import PVCNN
from effvision.models.pvcnn.preparation import Spec
from effvision.models.pvcnn.stages import Stage
from effvision.training_lidar import CLASSES

__all__ = ["SPEC", "STAGES", "lidar_network"]

SPEC = Spec(25.0, 2048, ("height_low", "height", "height_smooth", "intensity", "returns", "echoes", "shape", "spacing"))
"""How a cloud is prepared."""

STAGES = (Stage(16, 1, 20), Stage(32, 1, 10), Stage(48, 1, 5))
"""Voxels of 1.4, 2.8 and 5.6 m: walls and hedges, crowns and houses, and what a sparse cloud still shows."""


def lidar_network(spec: Spec = SPEC) -> PVCNN:
    """Build the network, untrained. Its grids have a fixed size in metres (`unit_ball=False`)."""
    return PVCNN(len(CLASSES), channels=spec.channels, stages=STAGES, cloud=(48,), head=(64, 0.2, 32), unit_ball=False)
