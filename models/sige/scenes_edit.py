"""Edits as people make them: strokes, shapes and fills on a label map, with round, straight or ragged borders."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.errors import RangeError
from effvision.models.sige.scenes_palette import PALETTE, check_labels, check_seed

__all__ = ["MOST_STROKES", "edit"]

MOST_STROKES = 64
"""Strokes one call may paint."""

Bytes = NDArray[np.uint8]


def edit(labels: Bytes, seed: int, *, strokes: int | None = None) -> Bytes:
    """Paint on a label map.

    Args:
        labels: (H, W) uint8; not changed.
        seed: Of everything random.
        strokes: How many strokes or shapes. Default: 1 to 6 at random.

    Returns:
        (H, W) uint8, a new array.

    Raises:
        DTypeError, ShapeError, RangeError: no label map, no seed, or `strokes` outside 1..`MOST_STROKES`.
    """
    painted = check_labels(labels).copy()
    rng = np.random.default_rng((2, check_seed(seed)))
    if strokes is not None and not 1 <= check_seed(strokes) <= MOST_STROKES:
        raise RangeError(
            f"`strokes` must be 1 to {MOST_STROKES}; got {strokes}\nhint: leave it out for 1 to 6 at random"
        )
    count = int(rng.integers(1, 7)) if strokes is None else int(strokes)
    for _ in range(count):
        here = _shape(rng, *labels.shape)
        if rng.random() < 0.4:
            here = _ragged(rng, here)
        chosen = int(rng.integers(len(PALETTE)))
        if rng.random() < 0.15:  # only over one of the classes there, as with a lock
            row, column = rng.integers(labels.shape[0]), rng.integers(labels.shape[1])
            here &= painted == painted[row, column]
        painted[here == 1] = chosen
    return painted


def _shape(rng: np.random.Generator, height: int, width: int) -> Bytes:
    """Mask (H, W) of one stroke or shape, 0 or 1."""
    cv2: Any = import_cv2()
    mask = np.zeros((height, width), dtype=np.uint8)
    unit = min(height, width) / 256
    x, y = int(rng.integers(width)), int(rng.integers(height))
    kind = rng.random()
    if kind < 0.55:  # a brush pulled along a curve
        thick = max(1, round(float(np.exp(rng.uniform(np.log(3), np.log(44)))) * unit))
        count, turn = int(rng.integers(1, 14)), rng.uniform(0, 2 * np.pi)
        points = [(x, y)]
        for _ in range(count):
            turn += rng.normal(0, 0.5)
            step = rng.uniform(6, 24) * unit
            points.append((points[-1][0] + round(step * np.cos(turn)), points[-1][1] + round(step * np.sin(turn))))
        cv2.polylines(mask, [np.array(points, np.int32)], False, 1, thick)
        for point in (points[0], points[-1]):
            cv2.circle(mask, point, thick // 2, 1, -1)
    elif kind < 0.70:  # a polygon
        turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        radius = rng.uniform(6, 60) * unit * rng.uniform(0.4, 1, len(turns))
        cv2.fillPoly(
            mask, [np.rint(np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], 1)).astype(np.int32)], 1
        )
    elif kind < 0.85:  # a rectangle
        wide, high = (int(rng.uniform(4, 80) * unit) for _ in range(2))
        cv2.rectangle(mask, (x, y), (x + wide, y + high), 1, -1)
    elif kind < 0.89:  # everything below or above a row, as a fill makes it
        mask[max(y, height // 3) :] = 1
        if rng.random() < 0.3:
            mask = 1 - mask
    else:  # dabs
        for _ in range(int(rng.integers(3, 16))):
            at = (x + round(rng.normal(0, 30) * unit), y + round(rng.normal(0, 20) * unit))
            cv2.circle(mask, at, max(1, round(rng.uniform(1, 9) * unit)), 1, -1)
    return mask


def _ragged(rng: np.random.Generator, mask: Bytes) -> Bytes:
    """The mask with a border as of a hand that trembles, (H, W)."""
    cv2: Any = import_cv2()
    coarse = rng.standard_normal((mask.shape[0] // 4 + 1, mask.shape[1] // 4 + 1)).astype(np.float32)
    noise = cv2.resize(coarse, mask.shape[::-1], interpolation=cv2.INTER_CUBIC)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), rng.uniform(1.5, 4))
    return np.asarray((soft + 0.18 * noise > 0.5) & (soft > 0.02), dtype=np.uint8)
