"""Solids with a label: what the procedural objects are put together from; numpy only.

Every surface is made of triangles and of bands (pieces of cones: walls of cylinders, discs, rings), from both of which points
are drawn uniformly by area. Every solid also knows its signed distance, so that what lies inside another solid is left out and
a test can check the points against the formula. Lengths are metres, z is up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Convex", "Lathe", "Samples", "Solid", "Tube", "box", "loft", "prism", "ring", "rod", "sample", "slab", "taper",
]  # fmt: skip

Array = NDArray[Any]
Rows = ArrayLike | Sequence[Any]
"""Points one after the other, an array or a list of them."""


class Samples(NamedTuple):
    """Points on a surface.

    Attributes:
        xyz: (P, 3) m.
        normals: (P, 3) unit, outward.
        solid: (P,) index of the solid each lies on.
        spacing_m: Side of the square of surface that each stands for.
    """

    xyz: Array
    normals: Array
    solid: Array
    spacing_m: float


class Solid(Protocol):
    """A labelled body.

    Attributes:
        label: Part it belongs to, such as `leg`.
        triangles: (T, 3, 3) corners, counter-clockwise seen from outside.
        bands: (B, 16) pieces of cones, see `bands_of`.
    """

    label: str
    triangles: Array
    bands: Array

    def signed(self, points: Array) -> Array:
        """Signed distance (P,) of points (P, 3): negative inside; outside it may be less than the true one, never 0."""

    def bounds(self) -> tuple[Array, Array]:
        """Corners (3,), (3,) of a box around it."""


class Convex:
    """A convex body with flat faces.

    Args:
        label: Part.
        faces: Corners (n, 3) of each face, in either sense of rotation.
    """

    def __init__(self, label: str, faces: Sequence[Array]) -> None:
        self.label = label
        corners = np.concatenate(faces)
        middle = corners.mean(axis=0)
        triangles, planes = [], []
        for face in faces:
            around = np.roll(face, -1, axis=0)
            normal = np.cross(face, around).sum(axis=0)  # Newell: twice the area's vector
            size = np.linalg.norm(normal)
            if size < 1e-12:
                continue
            normal /= size
            if normal @ (face.mean(axis=0) - middle) < 0:
                face, normal = face[::-1], -normal
            planes.append([*normal, normal @ face.mean(axis=0)])
            fan = [np.stack([face[0], face[i], face[i + 1]]) for i in range(1, len(face) - 1)]
            triangles += fan
        self.triangles = np.array(triangles)
        self.planes = np.array(planes)
        self.bands = np.zeros((0, 16))
        self._bounds = corners.min(axis=0), corners.max(axis=0)

    def signed(self, points: Array) -> Array:
        """See `Solid`."""
        return (points @ self.planes[:, :3].T - self.planes[:, 3]).max(axis=1)  # type: ignore[no-any-return]

    def bounds(self) -> tuple[Array, Array]:
        """See `Solid`."""
        return self._bounds


class Lathe:
    """A body of revolution.

    Args:
        label: Part.
        profile: (S + 1, 2) radius and height along the axis; the body lies to the left of the line when radius points right
            and height up. It begins and ends on the axis or closes on itself.
        origin: (3,) where height is 0.
        axis: (3,) direction of height.
    """

    def __init__(self, label: str, profile: Rows, origin: ArrayLike = (0, 0, 0), axis: ArrayLike = (0, 0, 1)) -> None:
        self.label = label
        self.profile = np.asarray(profile, float)
        self.origin = np.asarray(origin, float)
        self.frame = _frame(np.asarray(axis, float))
        self.triangles = np.zeros((0, 3, 3))
        self.bands = bands_of(self.profile, self.origin, self.frame)

    def signed(self, points: Array) -> Array:
        """See `Solid`; exact on both sides."""
        local = (points - self.origin) @ self.frame.T
        at = np.stack([np.hypot(local[:, 0], local[:, 1]), local[:, 2]], axis=1)
        a, b = self.profile[:-1], self.profile[1:]
        side = b - a
        length = (side**2).sum(axis=1)
        keep = length > 0
        a, side, length = a[keep], side[keep], length[keep]
        off = at[:, None] - a
        along = np.clip((off * side).sum(axis=2) / length, 0, 1)
        apart = np.sqrt(((off - along[..., None] * side) ** 2).sum(axis=2).min(axis=1))
        low, high = a[:, 1], a[:, 1] + side[:, 1]
        z = at[:, 1][:, None]
        crosses = (low > z) != (high > z)
        reach = a[:, 0] + side[:, 0] * (z - low) / np.where(side[:, 1] == 0, 1, side[:, 1])
        inside = ((crosses & (reach > at[:, 0][:, None])).sum(axis=1) % 2).astype(bool)
        return np.where(inside, -apart, apart)  # type: ignore[no-any-return]

    def bounds(self) -> tuple[Array, Array]:
        """See `Solid`."""
        axis = self.frame[2]
        ends = self.origin + np.array([[self.profile[:, 1].min()], [self.profile[:, 1].max()]]) * axis
        reach = self.profile[:, 0].max() * np.sqrt(np.clip(1 - axis**2, 0, 1))
        return ends.min(axis=0) - reach, ends.max(axis=0) + reach


class Tube:
    """A round tube along a line of straight pieces. Its ends are open: let them end inside another solid.

    Args:
        label: Part.
        path: (S + 1, 3).
        radius: m.
    """

    def __init__(self, label: str, path: Rows, radius: float) -> None:
        self.label = label
        self.path = np.asarray(path, float)
        self.radius = radius
        self.triangles = np.zeros((0, 3, 3))
        sides = np.diff(self.path, axis=0)
        self.bands = np.concatenate([
            bands_of(np.array([[radius, 0], [radius, np.linalg.norm(side)]]), start, _frame(side))
            for start, side in zip(self.path, sides, strict=False)
        ])  # fmt: skip

    def signed(self, points: Array) -> Array:
        """See `Solid`; the tube with a half ball at each end."""
        side = np.diff(self.path, axis=0)
        off = points[:, None] - self.path[:-1]
        along = np.clip((off * side).sum(axis=2) / (side**2).sum(axis=1), 0, 1)
        apart = ((off - along[..., None] * side) ** 2).sum(axis=2).min(axis=1)
        return np.sqrt(apart) - self.radius  # type: ignore[no-any-return]

    def bounds(self) -> tuple[Array, Array]:
        """See `Solid`."""
        return self.path.min(axis=0) - self.radius, self.path.max(axis=0) + self.radius


def bands_of(profile: Array, origin: Array, frame: Array) -> Array:
    """Bands (S, 16) of a profile (S + 1, 2): origin 3, frame 9 (two directions across, then the axis), r0, z0, r1, z1."""
    ends = np.concatenate([profile[:-1], profile[1:]], axis=1)
    ends = ends[(np.hypot(ends[:, 2] - ends[:, 0], ends[:, 3] - ends[:, 1]) > 0) & (ends[:, 0] + ends[:, 2] > 0)]
    return np.concatenate([np.tile(np.concatenate([origin, frame.ravel()]), (len(ends), 1)), ends], axis=1)


def _frame(axis: Array) -> Array:
    """Rows: two unit vectors across, and the axis."""
    axis = axis / np.linalg.norm(axis)
    across = np.cross(axis, [1.0, 0, 0] if abs(axis[0]) < 0.7 else [0, 1.0, 0])
    across /= np.linalg.norm(across)
    return np.stack([across, np.cross(axis, across), axis])


# --- solids in short ----------------------------------------------------------------------------------------------------


def loft(label: str, first: ArrayLike, last: ArrayLike) -> Convex:
    """The body between two convex polygons (n, 3) in parallel planes, each edge parallel to its counterpart."""
    a, b = np.asarray(first, float), np.asarray(last, float)
    n = len(a)
    sides = [np.stack([a[i], a[(i + 1) % n], b[(i + 1) % n], b[i]]) for i in range(n)]
    return Convex(label, [a, b, *sides])


def box(label: str, low: ArrayLike, high: ArrayLike) -> Convex:
    """A box between two corners."""
    (x0, y0, z0), (x1, y1, z1) = np.asarray(low, float), np.asarray(high, float)
    floor = [[x0, y0, z0], [x1, y0, z0], [x1, y1, z0], [x0, y1, z0]]
    return loft(label, floor, [[x, y, z1] for x, y, _ in floor])


def slab(label: str, middle: ArrayLike, size: ArrayLike) -> Convex:
    """A box of a size around its middle."""
    m, half = np.asarray(middle, float), np.asarray(size, float) / 2
    return box(label, m - half, m + half)


def taper(label: str, start: ArrayLike, end: ArrayLike, size0: ArrayLike, size1: ArrayLike, axis: int = 2) -> Convex:
    """A bar from `start` to `end` with rectangles across `axis` at both: sizes along the two other axes, in their order."""
    others = [i for i in range(3) if i != axis]
    polygons = []
    for middle, size in ((np.asarray(start, float), size0), (np.asarray(end, float), size1)):
        corners = np.tile(middle, (4, 1))
        half = np.asarray(size, float) / 2
        corners[:, others] += np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
        polygons.append(corners)
    return loft(label, *polygons)


def prism(label: str, polygon: ArrayLike, low: float, high: float, *, axis: int = 2, bevel: float = 0.0) -> Convex:
    """A convex polygon (n, 2) drawn out along `axis` from `low` to `high`; `bevel` shrinks it at the end by that share."""
    flat = np.asarray(polygon, float)
    others = [i for i in range(3) if i != axis]
    ends = []
    for at, shape in ((low, flat), (high, flat.mean(axis=0) + (flat - flat.mean(axis=0)) * (1 - bevel))):
        corners = np.full((len(flat), 3), float(at))
        corners[:, others] = shape
        ends.append(corners)
    return loft(label, *ends)


def ring(count: int, rx: float, ry: float | None = None, *, square: float = 2.0, turn: float = 0.0) -> Array:
    """A polygon (count, 2) around 0: an ellipse, or with a higher exponent `square` a rounded rectangle."""
    angle = np.arange(count) / count * 2 * np.pi + turn
    c, s = np.cos(angle), np.sin(angle)
    return np.stack(
        [
            rx * np.sign(c) * np.abs(c) ** (2 / square),
            (rx if ry is None else ry) * np.sign(s) * np.abs(s) ** (2 / square),
        ],
        axis=1,
    )


def rod(label: str, start: ArrayLike, end: ArrayLike, r0: float, r1: float | None = None) -> Lathe:
    """A round bar between two points, as thick as `r0` at the start and `r1` at the end."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    height = float(np.linalg.norm(b - a))
    return Lathe(label, [[0, 0], [r0, 0], [r0 if r1 is None else r1, height], [0, height]], a, b - a)


# --- points on them -----------------------------------------------------------------------------------------------------


def sample(solids: Sequence[Solid], count: int, rng: np.random.Generator, *, hidden: float = 1e-4) -> Samples:
    """Draw points uniformly by area from the surface of a union of solids.

    Args:
        solids: One or more.
        count: Points drawn. Those deeper than `hidden` times the size of everything inside a solid are left out again.
        rng: Everything random.
        hidden: See there.
    """
    triangles = np.concatenate([s.triangles for s in solids])
    bands = np.concatenate([s.bands for s in solids])
    owner = np.concatenate([
        np.repeat(np.arange(len(solids)), [len(s.triangles) for s in solids]),
        np.repeat(np.arange(len(solids)), [len(s.bands) for s in solids]),
    ])  # fmt: skip
    crossed = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    r0, z0, r1, z1 = bands[:, 12:].T
    area = np.concatenate([np.linalg.norm(crossed, axis=1) / 2, np.pi * (r0 + r1) * np.hypot(r1 - r0, z1 - z0)])
    share = np.cumsum(area)
    chosen = np.searchsorted(share, (np.arange(count) + rng.random(count)) / count * share[-1])  # stratified
    chosen = np.minimum(chosen, len(area) - 1)
    flat = chosen < len(triangles)
    xyz, normals = np.empty((count, 3)), np.empty((count, 3))
    xyz[flat], normals[flat] = _on_triangles(triangles[chosen[flat]], crossed[chosen[flat]], rng)
    xyz[~flat], normals[~flat] = _on_bands(bands[chosen[~flat] - len(triangles)], rng)
    solid = owner[chosen]
    kept = ~_buried(solids, xyz, solid, hidden * float(np.ptp(xyz, axis=0).max()))
    return Samples(xyz[kept], normals[kept], solid[kept], math.sqrt(float(share[-1]) / count))


def _on_triangles(corners: Array, crossed: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    u, v = np.sqrt(rng.random(len(corners)))[:, None], rng.random(len(corners))[:, None]
    xyz = corners[:, 0] * (1 - u) + corners[:, 1] * (u * (1 - v)) + corners[:, 2] * (u * v)
    return xyz, crossed / np.linalg.norm(crossed, axis=1, keepdims=True)


def _on_bands(bands: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    origin, frame = bands[:, :3], bands[:, 3:12].reshape(-1, 3, 3)
    r0, z0, r1, z1 = bands[:, 12:].T
    u, angle = rng.random(len(bands)), rng.random(len(bands)) * 2 * np.pi
    radius = np.sqrt(r0**2 + u * (r1**2 - r0**2))
    slope = r1 - r0
    even = np.abs(slope) < 1e-9
    along = np.where(even, u, (radius - r0) / np.where(even, 1, slope))
    length = np.hypot(slope, z1 - z0)
    c, s = np.cos(angle), np.sin(angle)
    local = np.stack([radius * c, radius * s, z0 + along * (z1 - z0)], axis=1)
    outward = np.stack([(z1 - z0) / length * c, (z1 - z0) / length * s, -slope / length], axis=1)
    return origin + (local[:, None] @ frame)[:, 0], (outward[:, None] @ frame)[:, 0]


def _buried(solids: Sequence[Solid], xyz: Array, solid: Array, deep: float) -> Array:
    """Which points (P,) lie deeper than `deep` inside a solid; a tube's pieces also bury each other's ends."""
    buried = np.zeros(len(xyz), bool)
    for index, body in enumerate(solids):
        low, high = body.bounds()
        near = ((xyz > low) & (xyz < high)).all(axis=1) & ~buried
        if not isinstance(body, Tube):
            near &= solid != index
        where = np.flatnonzero(near)
        if len(where):
            buried[where[body.signed(xyz[where]) < -deep]] = True
    return buried
