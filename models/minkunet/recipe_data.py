"""Training clouds: pieces cut from altered tiles, turned at random, several in one call by their batch numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.clouds import Cloud
from effvision.host.ground import spacing_of
from effvision.models.minkunet.inputs import Scene, SceneInput
from effvision.training_lidar import CLASSES, IGNORED, AlteredTiles, random_turn

__all__ = ["Batch", "Pieces"]

_FEWEST = 24  # points of a piece
_SIDE_M = (16.0, 120.0)
_CHOSEN = 0.3  # share of the pieces around a point of a class drawn evenly


@dataclass(frozen=True, eq=False)
class Batch:
    """Some pieces.

    Attributes:
        coords: (R, 4) int32 x, y, z, batch.
        feats: (R, C) float32.
        inverse: (P,) int64, the row of each point.
        classes: (P,) int64, 0..3 or `IGNORED`.
    """

    coords: NDArray[np.int32]
    feats: NDArray[np.float32]
    inverse: NDArray[np.int64]
    classes: NDArray[np.int64]


@dataclass
class Pieces:
    """Batches of pieces: squares of about as many points in dense tiles as in sparse ones.

    Attributes:
        tiles: To take them from.
        kind: How they are prepared.
        seed: Everything random.
        pieces: Of a batch.
        points: Of a piece, at most; a quarter at least, where the tile has them.
        pool: Altered tiles held at a time.
        period: Steps after which each of them is made anew.
    """

    tiles: Mapping[str, Cloud]
    kind: SceneInput
    seed: int = 0
    pieces: int = 3
    points: int = 9000
    pool: int = 12
    period: int = 72
    _tiles: AlteredTiles[tuple[Scene, float]] = field(init=False)

    def __post_init__(self) -> None:
        self._tiles = AlteredTiles(self.tiles, self._prepare, self.seed, self.pool, self.period)

    def _prepare(self, cloud: Cloud) -> tuple[Scene, float]:
        return self.kind.prepare(cloud), spacing_of(cloud.xyz)

    def batch(self, step: int) -> Batch:
        """Return the pieces of one step."""
        rng = np.random.default_rng([self.seed, step, 1])
        made = [self._piece(*self._tiles.tile(int(rng.integers(self.pool)), step), rng) for _ in range(self.pieces)]
        rows, coords = 0, []
        inverse: list[NDArray[np.int64]] = []
        for number, (arrays, _) in enumerate(made):
            coords.append(arrays["coords"] + np.array([0, 0, 0, number], np.int32))
            inverse.append(arrays["inverse"] + rows)
            rows += len(arrays["coords"])
        return Batch(
            np.concatenate(coords),
            np.concatenate([arrays["feats"] for arrays, _ in made]),
            np.concatenate(inverse),
            np.concatenate([classes for _, classes in made]),
        )

    def _piece(
        self, prepared: tuple[Scene, float], classes: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
        scene, spacing_m = prepared
        turn = random_turn(rng)
        side = float(np.clip(spacing_m * np.sqrt(self.points * rng.uniform(0.25, 1)), *_SIDE_M))
        for _ in range(20):
            wanted = np.flatnonzero(classes == rng.integers(len(CLASSES))) if rng.random() < _CHOSEN else classes[:0]
            centre = int(rng.choice(wanted)) if len(wanted) else int(rng.integers(len(classes)))
            middle = scene.places[centre, :2] + rng.uniform(-0.4, 0.4, 2) * side
            turned = (scene.places[:, :2] - middle) @ turn.T
            members = np.flatnonzero((np.abs(turned) < side / 2).all(axis=1))
            if len(members) >= _FEWEST:
                break
        else:
            members = np.arange(len(classes))[:: max(1, len(classes) // self.points)]
        places = np.column_stack([turned, scene.places[:, 2]])[members].astype(np.float32)
        arrays = self.kind.rows(Scene(places, scene.features[members]))
        return arrays, np.where(classes[members] < 0, IGNORED, classes[members])
