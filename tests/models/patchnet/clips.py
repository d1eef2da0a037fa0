"""Frames with known boxes for the tests of sessions: the generated sample, plain frames, and what a result says."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.models.patchnet.sample import render

__all__ = ["SIZE", "apart", "clip", "overlaps", "plain", "said", "scattered", "truth"]

SIZE = (280, 320)
_LONGEST = 16


@lru_cache(maxsize=4)
def _rendered(seed: int) -> tuple[tuple[NDArray[np.uint8], ...], NDArray[np.float64]]:
    frames, boxes = zip(*render(_LONGEST, seed=seed, size=SIZE), strict=True)
    for frame in frames:
        frame.flags.writeable = False  # shared by all tests
    return frames, np.stack(boxes)


def clip(count: int, *, seed: int = 0) -> list[NDArray[np.uint8]]:
    """The first frames of a sample (280, 320, 3); two of its balloons are wholly in it."""
    return list(_rendered(seed)[0][:count])


def truth(at: int, *, seed: int = 0) -> NDArray[np.float64]:
    """(2, 4): where the balloon on the left and the one below are in that frame."""
    return _rendered(seed)[1][at][[0, 2]]


def plain(value: int = 120) -> NDArray[np.uint8]:
    """A frame with nothing in it."""
    return np.full((*SIZE, 3), value, np.uint8)


def scattered(count: int, *, seed: int = 0) -> NDArray[np.float64]:
    """(count, 4) boxes anywhere in the frame, some over its border."""
    rng = np.random.default_rng(seed)
    corner, sides = rng.uniform(-5, 1, (count, 2)) + rng.uniform(0, 0.8, (count, 2)) * SIZE[::-1], rng.uniform(12, 60)
    return np.concatenate([corner, corner + sides], axis=1)


def overlaps(one: Any, other: Any) -> list[float]:
    """Intersection over union, pair by pair."""
    found = []
    for a, b in zip(np.asarray(one, float), np.asarray(other, float), strict=True):
        shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
        found.append(shared / (sum(areas) - shared))
    return found


def said(result: Any) -> dict[str, Any]:
    """All of a result but how long it took."""
    return {
        **{name: getattr(result, name).tolist() for name in ("boxes", "ids", "scores", "lost", "classes")},
        **{name: getattr(result, name) for name in ("names", "key", "ended", "timestamp", "index", "reset_reason")},
    }


def apart(one: Any, other: Any) -> float:
    """How far the boxes and scores of two results are apart; infinite if they are not of the same objects."""
    a, b = said(one), said(other)
    for name in a:
        if name not in ("boxes", "scores") and a[name] != b[name]:
            return float("inf")
    return float(max(np.abs(getattr(one, name) - getattr(other, name)).max(initial=0) for name in ("boxes", "scores")))
