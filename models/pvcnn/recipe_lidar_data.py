"""Training columns for airborne lidar: whole tiles are altered, prepared, and cut into turned columns.

What alters a tile (density, slope, sensor) comes before the preparation, as it would in another place; what the preparation
does not see (turning, mirroring) comes after it. Everything is decided by the seed and the number of the step, so that a run
that goes on after a kill sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.clouds import Cloud
from effvision.errors import SourceError
from effvision.host.ground import heights_above_ground, spacing_of
from effvision.models.pvcnn.preparation import Scene, Spec, prepare
from effvision.sources.clouds import open_cloud

__all__ = ["CLASSES", "IGNORED", "Columns", "alter", "read_tiles", "targets", "thinned"]

CLASSES = ("ground", "low vegetation", "trees", "building")
"""Labels 1..4 of the data; label 0 (anything else) counts neither in the loss nor in a score."""

IGNORED = -1
_MAN_M = 2.0
_FEWEST = 24  # points of a column


def read_tiles(folder: Path) -> dict[str, Cloud]:
    """Read the `.npz` tiles of a folder, by name.

    Raises:
        SourceError: there are none.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise SourceError(f"{folder} has no .npz tiles\nhint: `--data` names the folder of `lidarhd` (train, val)")
    return {path.stem: open_cloud(path) for path in paths}


def targets(cloud: Cloud) -> NDArray[np.int64]:
    """Return (P,) classes 0..3, or `IGNORED`."""
    return cloud.field("label").astype(np.int64) - 1


def thinned(cloud: Cloud, density: float, *, seed: int = 0) -> Cloud:
    """Keep so many random points a square metre; the cloud itself if it has no more."""
    share = density * spacing_of(cloud.xyz) ** 2
    if share >= 1:
        return cloud
    return cloud.select(np.random.default_rng(seed).random(len(cloud)) < share)


def alter(cloud: Cloud, rng: np.random.Generator) -> Cloud:
    """Return the tile as another sensor might have seen it in another place."""
    xyz = cloud.xyz.astype(np.float64)
    xyz -= xyz.min(axis=0)
    keep = _window(xyz, rng, side=300.0)
    keep = _thinned(xyz, keep, rng)
    number, count = cloud.field("return_number")[keep].astype(int), cloud.field("num_returns")[keep].astype(int)
    kept = rng.random()
    if kept < 0.08:  # a delivery of last echoes only
        keep = keep[number >= count]
    elif kept < 0.12:
        keep = keep[number <= 1]
    xyz, fields = xyz[keep], {name: values[keep].copy() for name, values in cloud.fields.items()}
    if rng.random() < 0.08:
        fields["return_number"][:] = fields["num_returns"][:] = 1
    fields["intensity"] = _dimmed(fields["intensity"].astype(np.float64), rng)
    xyz = xyz * rng.uniform(0.85, 1.2) * np.array([1, 1, rng.uniform(0.9, 1.1)])
    xyz[:, 2] += _steeper(xyz, rng)
    xyz += rng.normal(size=xyz.shape) * np.array([1, 1, 0.3]) * rng.choice([0.0, 0.03, 0.08])
    xyz[:, 2] += _terrain(xyz, rng)
    if rng.random() < 0.3:
        _stray(xyz, fields, rng)
    return Cloud(xyz.astype(np.float32), fields, name=cloud.name)


def _window(xyz: NDArray[np.float64], rng: np.random.Generator, side: float) -> NDArray[np.int64]:
    """A part of a large tile: as good for training, and quicker to prepare."""
    low, high = xyz[:, :2].min(axis=0), xyz[:, :2].max(axis=0)
    corner = low + rng.random(2) * np.maximum(high - low - side, 0)
    return np.flatnonzero(((xyz[:, :2] >= corner) & (xyz[:, :2] <= corner + side)).all(axis=1))


def _thinned(xyz: NDArray[np.float64], keep: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Fewer points, down to 0.3 a square metre; sometimes more here and fewer there, as strips overlap."""
    if rng.random() < 0.25:
        return keep
    density = len(keep) / max(1.0, float(np.prod(np.ptp(xyz[keep, :2], axis=0))))
    share = min(1.0, float(np.exp(rng.uniform(np.log(0.3), np.log(20.0)))) / density)
    if density < 1:
        share = rng.uniform(0.6, 1.0)
    shares = np.full(len(keep), share)
    if rng.random() < 0.3:
        direction = rng.normal(size=2)
        along = xyz[keep, :2] @ direction / np.linalg.norm(direction)
        shares[along > rng.uniform(along.min(), along.max())] *= 0.5
    chosen = keep[rng.random(len(keep)) < shares]
    return chosen if len(chosen) >= 200 else keep


def _dimmed(intensity: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Another sensor's intensities; sometimes none."""
    if rng.random() < 0.25:
        return np.zeros(len(intensity))
    noisy = intensity ** rng.uniform(0.7, 1.4) * np.exp(rng.normal(size=len(intensity)) * rng.uniform(0, 0.25))
    return np.asarray(noisy * np.exp(rng.normal()))


def _steeper(xyz: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """What stands high is lower or higher in half of the tiles: roofs are flat in one place and steep in another."""
    if rng.random() < 0.5:
        return np.zeros(len(xyz))
    above = np.maximum(heights_above_ground(xyz)[0] - _MAN_M, 0.0)
    return np.asarray(above * (np.exp(rng.uniform(np.log(0.7), np.log(2.2))) - 1))


def _terrain(xyz: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A slope of up to 35 % and hills."""
    rise = np.zeros(len(xyz))
    if rng.random() < 0.7:
        angle, slope = rng.uniform(0, 2 * np.pi), 0.35 * rng.random() ** 1.5
        rise += slope * (xyz[:, 0] * np.cos(angle) + xyz[:, 1] * np.sin(angle))
    if rng.random() < 0.5:
        angle, length, steep = rng.uniform(0, 2 * np.pi), rng.uniform(40, 200), rng.uniform(0, 0.25)
        along = xyz[:, 0] * np.cos(angle) + xyz[:, 1] * np.sin(angle)
        rise += steep * length / (2 * np.pi) * np.sin(2 * np.pi * along / length + rng.uniform(0, 2 * np.pi))
    return rise


def _stray(xyz: NDArray[np.float64], fields: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> None:
    """A few points far below or above; in place."""
    lost = rng.integers(len(xyz), size=int(rng.integers(1, 12)))
    xyz[lost, 2] += rng.choice([-1, 1], size=len(lost)) * rng.uniform(2, 40, size=len(lost))
    fields["label"][lost] = 0


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
    _held: dict[int, tuple[int, Scene, NDArray[np.int64]]] = field(default_factory=dict)

    def batch(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return channels (N, C, P) and classes (N, P) of one step; P differs from step to step."""
        rng = np.random.default_rng([self.seed, step, 1])
        points = int(rng.choice([self.spec.points // 4, self.spec.points // 2, self.spec.points], p=[0.25, 0.6, 0.15]))
        slots = [int(rng.integers(self.pool)) for _ in range(self.columns)]
        made = [self._column(self._scene(slot, step), points, rng) for slot in slots]
        return np.stack([channels for channels, _ in made]), np.stack([classes for _, classes in made])

    def _scene(self, slot: int, step: int) -> tuple[Scene, NDArray[np.int64]]:
        version = (step + slot * self.period // self.pool) // self.period
        if slot not in self._held or self._held[slot][0] != version:
            rng = np.random.default_rng([self.seed, slot, version, 2])
            names = sorted(self.tiles)
            cloud = alter(self.tiles[names[int(rng.integers(len(names)))]], rng)
            self._held[slot] = (version, prepare(cloud, self.spec), targets(cloud))
        return self._held[slot][1:]

    def _column(
        self, made: tuple[Scene, NDArray[np.int64]], points: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scene, classes = made
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if rng.random() < 0.5:
            turn[0] *= -1
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
