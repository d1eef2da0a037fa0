"""Sample clouds for each kind of input, generated: nothing is downloaded. NumPy only."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effvision.clouds import Cloud
from effvision.sample_scenes import sample_scene, small_scene, write_generated

__all__ = ["sample_scan", "small_sample", "write_sample"]

_SENSOR_M = 1.73  # above the road
_FARTHEST_M = 60.0


def write_sample(path: str | os.PathLike[str], *, kind: str, seed: int = 0) -> Path:
    """Write a sample cloud for a kind of input: a village from the air (`scene`), or a street seen by a car's lidar (`scan`).

    Raises:
        InputError: another suffix than `.ply`, or a seed below 0.
        SourceError: the folder does not exist or cannot be written to.
    """
    return write_generated(path, sample_scan if kind == "scan" else sample_scene, seed=seed)


def small_sample(kind: str, seed: int = 0) -> Cloud:
    """Return a cloud of one to three thousand points for a kind of input."""
    return sample_scan(seed, beams=16, steps=180) if kind == "scan" else small_scene(seed)


def sample_scan(seed: int = 0, *, beams: int = 32, steps: int = 360) -> Cloud:
    """Return one turn of a lidar on a car in a street: a road, walls on both sides, boxes of the size of cars, poles.

    Args:
        seed: Another one, another street.
        beams: Of the lidar, 2 degrees up to 24 degrees down.
        steps: Of a turn.

    Returns:
        Metres from the sensor, x forward; fields `remission` 0..1 and `label`: 0 car, 8 road, 12 building, 17 pole, as
        SemanticKITTI's 19 classes count.
    """
    rng = np.random.default_rng(seed)
    down, turn = np.meshgrid(np.radians(np.linspace(-2, 24, beams)), np.linspace(0, 2 * np.pi, steps, endpoint=False))
    turn += rng.uniform(0, 2 * np.pi / steps)
    ways = np.stack([np.cos(down) * np.cos(turn), np.cos(down) * np.sin(turn), -np.sin(down)], axis=-1).reshape(-1, 3)
    boxes = [(-200.0, side * 9 - 0.5, 200.0, side * 9 + 0.5, 6.0, 12) for side in (-1, 1)]
    for x in np.arange(-28, 29, 8) + rng.uniform(-2, 2, 8):
        side = rng.choice([-1.0, 1.0])
        boxes.append((x - 2.1, side * 4.2 - 0.9, x + 2.1, side * 4.2 + 0.9, 1.5, 0))
        boxes.append((x + 3.2, -side * 6 - 0.1, x + 3.4, -side * 6 + 0.1, 5.0, 17))
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(ways[:, 2] < 0, -_SENSOR_M / ways[:, 2], np.inf)
        label = np.full(len(ways), 8)
        for *sides, height, number in boxes:
            found = _hit(ways, np.array([*sides[:2], -_SENSOR_M]), np.array([*sides[2:], height - _SENSOR_M]))
            nearer = found < reach
            reach[nearer], label[nearer] = found[nearer], number
    there = reach < _FARTHEST_M
    xyz = ways[there] * (reach[there] + rng.normal(0, 0.01, int(there.sum())))[:, None]
    shades = np.zeros(19)
    shades[[8, 12, 0, 17]] = 0.2, 0.35, 0.6, 0.5
    remission = np.clip(shades[label[there]] + rng.normal(0, 0.05, len(xyz)), 0, 1).astype(np.float32)
    return Cloud(xyz.astype(np.float32), {"remission": remission, "label": label[there]}, name="sample")


def _hit(ways: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far rays from the origin go until they enter a box; infinity where they miss it."""
    first, second = low / ways, high / ways
    enter, leave = np.minimum(first, second).max(axis=1), np.maximum(first, second).min(axis=1)
    return np.where((enter < leave) & (enter > 0), enter, np.inf)
