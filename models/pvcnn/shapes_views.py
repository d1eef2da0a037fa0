"""How an object is seen: from one side or all around, turned, tilted, with noise, holes, outliers and uneven density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.models.pvcnn.shapes_solids import Samples, Solid, sample

__all__ = ["Look", "PartCloud", "observe", "visible"]

Array = NDArray[Any]
_GAP = 2.0  # pixels of the depth buffer by the spacing of points: one in fifty is empty, and shows what lies behind


@dataclass(frozen=True)
class PartCloud:
    """Points with the part of each.

    Attributes:
        xyz: (P, 3) float32 m, z up, turned about z.
        normals: (P, 3) float32, unit, outward, without noise; zero for outliers.
        labels: (P,) int64 index into `shapes.LABELS`, -1 for outliers.
        category: Of the object.
        partial: Whether it was seen from one side only.
    """

    xyz: Array
    normals: Array
    labels: Array
    category: str
    partial: bool


@dataclass(frozen=True)
class Look:
    """How hard a cloud is to read. All 0 is the plain surface.

    Attributes:
        turn: Largest rotation about z, rad.
        tilt: Largest tilt, rad.
        partial: Share of clouds seen from one place only.
        holes: Share of clouds with a ball of points missing.
        uneven: Largest strength of a slope in density.
        noise: Largest standard deviation of the points, by the object's largest side.
        outliers: Largest share of points that belong to nothing.
    """

    turn: float = np.pi
    tilt: float = 0.0
    partial: float = 0.0
    holes: float = 0.0
    uneven: float = 0.0
    noise: float = 0.0
    outliers: float = 0.0

    @classmethod
    def train(cls) -> Look:
        """Training and development."""
        return cls(tilt=0.12, partial=0.5, holes=0.3, uneven=1.5, noise=0.008, outliers=0.01)

    @classmethod
    def held_out(cls) -> Look:
        """The same, with more noise and outliers."""
        return cls(tilt=0.12, partial=0.5, holes=0.3, uneven=1.5, noise=0.012, outliers=0.02)

    @classmethod
    def plain(cls) -> Look:
        """The whole surface as it is, upright, unturned."""
        return cls(turn=0.0)


def observe(
    solids: Sequence[Solid], labels: Array, points: int, look: Look, rng: np.random.Generator, category: str
) -> PartCloud:
    """Sample the surface of `solids`, whose parts are `labels` (S,), and see it as `look` says; see `shapes.make_cloud`."""
    partial = bool(rng.random() < look.partial)
    drawn = sample(solids, round(points * (4.5 if partial else 2.0)) + 64, rng)
    turn, tilt, way = rng.uniform(-look.turn, look.turn), rng.uniform(0, 1) * look.tilt, rng.uniform(0, 2 * np.pi)
    frame = _about([np.cos(way), np.sin(way), 0.0], tilt) @ _about([0.0, 0.0, 1.0], turn)
    drawn = drawn._replace(xyz=drawn.xyz @ frame.T, normals=drawn.normals @ frame.T)
    size = float(np.ptp(drawn.xyz, axis=0).max())
    kept = np.ones(len(drawn.xyz), bool)
    if partial:
        kept = visible(drawn, rng)
    if rng.random() < look.holes:
        centre = drawn.xyz[rng.integers(len(kept))]
        hole = np.linalg.norm(drawn.xyz - centre, axis=1) > size * rng.uniform(0.06, 0.22)
        if (kept & hole).sum() > 0.4 * kept.sum():
            kept &= hole
    candidates = np.flatnonzero(kept)
    chosen = _uneven(drawn.xyz[candidates], points, rng.uniform(0, look.uneven), rng)
    chosen = candidates[chosen]
    xyz = drawn.xyz[chosen] + rng.normal(0, 1, (points, 3)) * (size * look.noise * rng.random() ** 2)
    normals, owner = drawn.normals[chosen], labels[drawn.solid[chosen]].astype(np.int64)
    stray = rng.random(points) < look.outliers * rng.random()
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    xyz[stray] = rng.uniform(low - 0.15 * size, high + 0.15 * size, (int(stray.sum()), 3))
    normals[stray], owner[stray] = 0, -1
    return PartCloud(xyz.astype(np.float32), normals.astype(np.float32), owner, category, partial)


def visible(drawn: Samples, rng: np.random.Generator) -> Array:
    """Which points (P,) a camera somewhere around the object sees: faces turned to it, nearest in a depth buffer."""
    low, high = drawn.xyz.min(axis=0), drawn.xyz.max(axis=0)
    middle, size = (low + high) / 2, float(np.linalg.norm(high - low))
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(np.sin(-0.1), np.sin(1.0))
    across = np.sqrt(1 - height**2)
    way = np.array([across * np.cos(azimuth), across * np.sin(azimuth), height])
    eye = middle + way * size * rng.uniform(1.2, 3.0)
    toward = eye - drawn.xyz
    depth = np.linalg.norm(toward, axis=1)
    cosine = (toward * drawn.normals).sum(axis=1) / depth
    facing = cosine > 0.05
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    up = np.cross(way, right)
    pixel = _GAP * drawn.spacing_m
    scale = np.linalg.norm(eye - middle) / depth / pixel
    columns = np.floor(-(toward @ right) * scale).astype(np.int64)
    rows = np.floor(-(toward @ up) * scale).astype(np.int64)
    columns -= columns.min() - 1
    rows -= rows.min() - 1
    wide = int(columns.max()) + 2
    buffer = np.full((int(rows.max()) + 2, wide), np.inf)
    np.minimum.at(buffer, (rows, columns), depth)
    slope = np.sqrt(1 - np.minimum(cosine, 1) ** 2) / np.maximum(
        cosine, 0.05
    )  # depth that the surface gains in a pixel
    seen = facing & (depth <= buffer[rows, columns] + pixel * np.minimum(0.3 + 1.5 * slope, 8))
    nearest: Array = seen if np.count_nonzero(seen) >= 32 else facing
    return nearest


def _uneven(xyz: Array, points: int, strength: float, rng: np.random.Generator) -> Array:
    """Choose `points` of (M, 3), those towards a random side more often; again and again where there are too few."""
    way = rng.normal(size=3)
    along = xyz @ (way / np.linalg.norm(way))
    weight = np.exp(strength * (along - along.mean()) / max(float(np.ptp(along)), 1e-9))
    if len(xyz) < points:
        return rng.choice(len(xyz), points, p=weight / weight.sum())
    keys = rng.exponential(size=len(xyz)) / weight  # the least keys: weighted choice without replacement
    return np.argpartition(keys, points - 1)[:points]


def _about(axis: Sequence[float], angle: float) -> Array:
    """Rotation matrix (3, 3) about a unit axis (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: Array = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return turn
