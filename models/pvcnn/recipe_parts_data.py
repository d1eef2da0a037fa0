"""Batches of procedural clouds for the part networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effvision.models.pvcnn.shapes import make_cloud
from effvision.models.pvcnn.unit_cloud import unit_cloud

__all__ = ["Batches"]


@dataclass(frozen=True)
class Batches:
    """The endless sequence of training batches; each follows from its step alone, and no object comes twice.

    Attributes:
        seed: Everything random.
        clouds: N.
        points: P of a batch, one of these.
    """

    seed: int
    clouds: int = 16
    points: tuple[int, ...] = (512, 1024, 1536)

    def batch(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return coordinates (N, 3, P) as `unit_cloud` gives them, 0.9 to 1.1 times as large, and labels (N, P)."""
        rng = np.random.default_rng((self.seed, step, 7))
        points = int(rng.choice(self.points))
        xyz, labels = [], []
        for index in range(step * self.clouds, (step + 1) * self.clouds):
            cloud = make_cloud("train", index, points=points, seed=self.seed)
            xyz.append(unit_cloud(cloud.xyz).T * np.float32(rng.uniform(0.9, 1.1)))
            labels.append(cloud.labels)
        return np.stack(xyz), np.stack(labels)
