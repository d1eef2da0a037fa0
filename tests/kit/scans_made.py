"""Scans made up for tests: one without meaning that has every field, and tiles to train on."""

from __future__ import annotations

from typing import Any

import numpy as np

from effvision.clouds import Cloud

__all__ = ["TILES", "made", "tile"]


def made(points: int = 3000, seed: int = 0, **changes: Any) -> Cloud:
    """Return a cloud of 40 x 40 m; `changes` are fields, None leaves one out."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(0, 40, (points, 3)) * [1, 1, 0.02]
    xyz[: points // 4, 2] += rng.uniform(2, 9, points // 4)
    count = rng.integers(0, 5, points)
    fields: dict[str, Any] = {
        "intensity": rng.gamma(2.0, 400.0, points).astype(np.uint16),
        "num_returns": count.astype(np.uint8),
        "return_number": np.minimum(count, rng.integers(0, 5, points)).astype(np.uint8),
        "rgb": rng.integers(0, 256, (points, 3), dtype=np.uint8),
        "normal": rng.normal(size=(points, 3)).astype(np.float32),
    }
    fields.update(changes)
    xyz = np.round(xyz * 64) / 64  # so that moving it is exact
    return Cloud(xyz.astype(np.float32), {name: values for name, values in fields.items() if values is not None})


def tile(seed: int, points: int = 1500) -> Cloud:
    """A field with a hedge row, a house and a few trees."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(0, 40, (points, 3)) * [1, 1, 0.001]
    label = np.ones(points, np.uint8)
    for number, (low, high), where in (
        (2, (0.25, 0.6), xyz[:, 0] < 6), (3, (2, 9), xyz[:, 1] > 32), (4, (5, 5.1), (abs(xyz[:, :2] - 20) < 6).all(axis=1))
    ):  # fmt: skip
        label[where] = number
        xyz[where, 2] += rng.uniform(low, high, np.count_nonzero(where))
    label[:20] = 0
    count = np.where(label == 3, 3, 1)
    fields = {
        "label": label, "intensity": rng.gamma(3, 300, points).astype(np.uint16),
        "num_returns": count.astype(np.uint8), "return_number": rng.integers(1, count + 1).astype(np.uint8),
    }  # fmt: skip
    return Cloud(xyz.astype(np.float32), fields, name=f"tile {seed}")


TILES = {f"tile-{seed}": tile(seed) for seed in range(2)}
