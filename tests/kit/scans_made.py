"""A scan without meaning, with every field that features are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from effvision.clouds import Cloud

__all__ = ["made"]


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
