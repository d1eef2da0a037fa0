"""Training columns for airborne lidar: cut from altered and prepared tiles, turned at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from effvision.clouds import Cloud
from effvision.models.pvcnn.preparation import Scene, Spec, prepare
from effvision.training_lidar import CLASSES, IGNORED, AlteredTiles, random_turn

__all__ = ["Columns"]

_FEWEST = 24  # points of a column


@dataclass
class Columns:
    """Batches of columns.

    Attributes:
        tiles: To take them from.
        spec: How they are prepared.
        seed: Everything random.
        columns: N, of a batch.
        pool: Altered tiles held at a time.
        period: Steps after which each of them is made anew.
    """

    tiles: Mapping[str, Cloud]
    spec: Spec
    seed: int = 0
    columns: int = 10
    pool: int = 16
    period: int = 64
    _tiles: AlteredTiles[Scene] = field(init=False)

    def __post_init__(self) -> None:
        make = partial(prepare, spec=self.spec)
        self._tiles = AlteredTiles(self.tiles, make, self.seed, self.pool, self.period)

    def batch(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return channels (N, C, P) and classes (N, P) of one step; P differs from step to step."""
        rng = np.random.default_rng([self.seed, step, 1])
        points = int(rng.choice([self.spec.points // 4, self.spec.points // 2, self.spec.points], p=[0.25, 0.6, 0.15]))
        slots = [int(rng.integers(self.pool)) for _ in range(self.columns)]
        made = [self._column(self._tiles.tile(slot, step), points, rng) for slot in slots]
        return np.stack([channels for channels, _ in made]), np.stack([classes for _, classes in made])

    def _column(
        self, made: tuple[Scene, NDArray[np.int64]], points: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scene, classes = made
        turn = random_turn(rng)
        for _ in range(20):
            wanted = np.flatnonzero(classes == rng.integers(len(CLASSES))) if rng.random() < 0.3 else classes[:0]
            centre = int(rng.choice(wanted)) if len(wanted) else int(rng.integers(len(classes)))
            middle = scene.places[centre, :2] + rng.uniform(-0.4, 0.4, 2) * scene.block_m
            turned = (scene.places[:, :2] - middle) @ turn.T
            members = np.flatnonzero((np.abs(turned) < scene.block_m / 2).all(axis=1))
            if len(members) >= _FEWEST:
                break
        index = np.resize(rng.permutation(members), points)
        column = Scene(
            np.column_stack([turned, scene.places[:, 2]])[index].astype(np.float32),
            scene.features[index],
            scene.block_m,
        )
        channels = column.channels(np.arange(points))
        return channels, np.where(classes[index] < 0, IGNORED, classes[index])
