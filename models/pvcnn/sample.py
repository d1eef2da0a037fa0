"""Sample clouds for each kind of input, generated: nothing is downloaded. NumPy only."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effvision.clouds import Cloud
from effvision.sample_scenes import sample_scene, small_scene, write_generated

__all__ = ["sample_room", "small_sample", "write_sample"]

Array = NDArray[np.float64]
_Box = tuple[tuple[float, float, float], tuple[float, float, float], tuple[int, int, int]]


def write_sample(path: str | os.PathLike[str], *, kind: str, seed: int = 0) -> Path:
    """Write a sample cloud for a kind of input: a village (`scene`), a furnished room (`room`), a chair or the like (`object`).

    Raises:
        InputError: another suffix than `.ply`, or a seed below 0.
        SourceError: the folder does not exist or cannot be written to.
    """
    make = {"room": sample_room, "object": _sample_object}.get(kind, sample_scene)
    return write_generated(path, make, seed=seed)


def small_sample(kind: str, seed: int = 0) -> Cloud:
    """Return a cloud of one to two thousand points for a kind of input: `scene`, `room` or `object`."""
    if kind == "object":
        return _sample_object(seed)
    if kind == "room":
        room = sample_room(seed)
        return room.select(np.all(room.xyz[:, :2] < 1.4, axis=1))  # a corner: one column
    return small_scene(seed)


def sample_room(seed: int = 0) -> Cloud:
    """Return a furnished room of about 5 x 4 x 2.8 m, 30,000 points, with `rgb`."""
    rng = np.random.default_rng(seed)
    wide, deep, high = rng.uniform(4.5, 6), rng.uniform(3.5, 5), rng.uniform(2.5, 3)
    boxes: list[_Box] = [
        ((0, 0, -0.02), (wide, deep, 0), (150, 120, 90)),
        ((0, 0, high), (wide, deep, high + 0.02), (240, 240, 235)),
    ]
    for low, top in (
        ((0, 0, 0), (0.02, deep, high)),
        ((0, 0, 0), (wide, 0.02, high)),
        ((0, deep, 0), (wide, deep + 0.02, high)),
    ):
        boxes.append((low, top, (215, 210, 195)))
    x, y = rng.uniform(1, wide - 2.5), rng.uniform(1, deep - 2)
    boxes.append(((x, y, 0.7), (x + 1.5, y + 0.8, 0.75), (140, 90, 50)))  # a table, and a chair before it
    for dx in (0, 1.44):
        boxes += [((x + dx, y + dy, 0), (x + dx + 0.06, y + dy + 0.06, 0.7), (120, 75, 45)) for dy in (0, 0.74)]
    boxes += [((x + 0.5, y - 0.5, 0.42), (x + 0.95, y - 0.05, 0.46), (60, 70, 120))]
    boxes += [((x + 0.5, y - 0.5, 0.46), (x + 0.95, y - 0.46, 0.95), (60, 70, 120))]
    boxes += [((wide - 0.4, 0.5, 0), (wide, 2, 2), (100, 70, 50))]  # a bookcase
    areas = np.array([_area(np.subtract(top, low)) for low, top, _ in boxes])
    counts = (30_000 * areas / areas.sum()).astype(int) + 1
    xyz = np.concatenate([_on_box(rng, low, top, n) for (low, top, _), n in zip(boxes, counts, strict=True)])
    colour = np.repeat([rgb for *_, rgb in boxes], counts, axis=0) + rng.normal(0, 8, (len(xyz), 3))
    rgb = np.clip(colour, 0, 255).astype(np.uint8)
    return Cloud((xyz + rng.normal(0, 0.004, xyz.shape)).astype(np.float32), {"rgb": rgb}, name="sample")


def _sample_object(seed: int = 0) -> Cloud:
    """Return one procedural object, its parts as `label`."""
    from effvision.models.pvcnn.shapes import make_cloud

    made = make_cloud("development", 4 + seed, points=2048, seed=7)  # the fifth is a chair
    return Cloud(made.xyz.astype(np.float32), {"label": made.labels.astype(np.int32)}, name="sample")


def _area(size: NDArray[np.floating]) -> float:
    x, y, z = size
    return float(2 * (x * y + y * z + x * z))


def _on_box(rng: np.random.Generator, low: tuple[float, ...], top: tuple[float, ...], count: int) -> Array:
    """Points (n, 3) evenly on the surface of a box."""
    size = np.subtract(top, low)
    faces = np.array([size[1] * size[2], size[0] * size[2], size[0] * size[1]])
    xyz = rng.uniform(0, 1, (count, 3))
    axis = rng.choice(3, count, p=faces / faces.sum())
    xyz[np.arange(count), axis] = rng.integers(0, 2, count)
    return np.asarray(low + xyz * size)
