"""Airborne lidar tiles for training, whatever the network: read, altered before they are prepared, and scored.

What alters a tile (density, slope, sensor) comes before its preparation, as it would in another place; what the preparation
does not see (turning, mirroring) comes after it. Everything is decided by the seed and the number of the step, so that a run
that goes on after a kill sees what it would have seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from effvision.clouds import Cloud
from effvision.errors import SourceError
from effvision.host.ground import heights_above_ground, spacing_of
from effvision.metrics import SegmentationScores, confusion_matrix
from effvision.sources.clouds import open_cloud

__all__ = [
    "CLASSES",
    "IGNORED",
    "AlteredTiles",
    "Label",
    "alter",
    "lidar_folder",
    "random_turn",
    "read_tiles",
    "score_scene",
    "targets",
    "thinned",
]

S = TypeVar("S")

Label = Callable[[Cloud], tuple[NDArray[np.int32], NDArray[np.float32]]]
"""What a network says of a cloud: a class of 0..3 (P,) and its score (P,) for every point."""

CLASSES = ("ground", "low vegetation", "trees", "building")
"""Labels 1..4 of the data; label 0 (anything else) counts neither in the loss nor in a score."""

IGNORED = -1
"""What `targets` has for label 0."""

_MAN_M = 2.0


def lidar_folder() -> Path:
    """Return the folder of the lidar tiles: `data/pointclouds/lidarhd` under EFFVISION_SHARED, see the recipes."""
    shared = os.environ.get("EFFVISION_SHARED")
    root = Path(shared) if shared else Path(__file__).resolve().parents[2] / "shared"
    return root / "data" / "pointclouds" / "lidarhd"


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


def score_scene(label: Label, cloud: Cloud) -> SegmentationScores:
    """Compare what a network says with the labels of the tile; points of label 0 are left out."""
    labels, _ = label(cloud)
    return SegmentationScores(confusion_matrix(targets(cloud), labels, len(CLASSES), ignore=IGNORED), CLASSES)


@dataclass
class AlteredTiles(Generic[S]):
    """Tiles altered and prepared, as many as a training needs at a time.

    Attributes:
        tiles: To take them from.
        prepare: What the network takes of a whole tile; it runs once for each altered tile.
        seed: Everything random.
        pool: Altered tiles held at a time.
        period: Steps after which each of them is made anew.
    """

    tiles: Mapping[str, Cloud]
    prepare: Callable[[Cloud], S]
    seed: int = 0
    pool: int = 16
    period: int = 64
    _held: dict[int, tuple[int, S, NDArray[np.int64]]] = field(default_factory=dict)

    def tile(self, slot: int, step: int) -> tuple[S, NDArray[np.int64]]:
        """Return what `prepare` made of the tile in a slot, 0 to `pool` - 1, and the classes (P,) of its points."""
        version = (step + slot * self.period // self.pool) // self.period
        if slot not in self._held or self._held[slot][0] != version:
            rng = np.random.default_rng([self.seed, slot, version, 2])
            names = sorted(self.tiles)
            cloud = alter(self.tiles[names[int(rng.integers(len(names)))]], rng)
            self._held[slot] = (version, self.prepare(cloud), targets(cloud))
        return self._held[slot][1:]


def random_turn(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a (2, 2) matrix that turns x and y by any angle, and in half of the cases mirrors them."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if rng.random() < 0.5:
        turn[0] *= -1
    return turn


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
