"""One object's points as the part network takes them. NumPy only: it travels with exported files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import ShapeError

__all__ = ["unit_cloud"]

_SHARE = 98  # per cent of the points that decide the size: outliers do not
_ROOM = 1.1
_FURTHEST = 1.5


def unit_cloud(xyz: NDArray[Any]) -> NDArray[np.float32]:
    """Move an object's mean to 0 and scale it, so that 98 % of its points lie within 1 / 1.1 of there.

    The ball of radius 1 is the grid of a network built with `unit_ball=False`; what lies outside counts for its border.

    Args:
        xyz: (P, 3) finite, any unit; z up.

    Returns:
        (P, 3) float32, outliers cut to -1.5..1.5. Points that all lie in one place go to 0.

    Raises:
        ShapeError: not (P, 3) with at least one point.
    """
    if xyz.ndim != 2 or xyz.shape[1] != 3 or len(xyz) == 0:
        raise ShapeError(f"`xyz` must be (P, 3) with at least one point; got {xyz.shape}")
    centred = xyz.astype(np.float64) - xyz.mean(axis=0, dtype=np.float64)
    radius = float(np.percentile(np.linalg.norm(centred, axis=1), _SHARE)) * _ROOM
    if not radius > 16 * np.finfo(np.float64).eps * float(np.abs(xyz).max()):  # what the mean was rounded by
        return np.zeros(xyz.shape, np.float32)
    placed = np.clip(centred / radius, -_FURTHEST, _FURTHEST)
    return placed.astype(np.float32)  # type: ignore[no-any-return]
