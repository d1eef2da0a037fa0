"""Boxes in numpy: overlap of pairs, non-maximum suppression, other ways to write a box.

A box is `x1 y1 x2 y2` in pixels, half-open: it is x2 - x1 wide. Nothing here adds a pixel to a side, as code for closed boxes
does. Arithmetic is float64, so that what is compared with a threshold does not depend on how boxes were grouped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from effvision.errors import RangeError, ShapeError

__all__ = ["box_iou", "nms", "xywh_to_xyxy"]

_BLOCK = 128  # candidates compared at once with what is kept; measured: smaller blocks make more calls, larger ones more pairs


def box_iou(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return how much each box of `first` overlaps each of `second`: intersection over union.

    Args:
        first: Boxes (M, 4), `x1 y1 x2 y2`, finite.
        second: Boxes (N, 4), likewise.

    Returns:
        (M, N) float64, 0..1. A box without area, inverted ones included, overlaps nothing, not even itself.
        [0, 0, 2, 2] and [1, 0, 3, 2] share 2 of 6 square pixels: 1/3.

    Raises:
        ShapeError: one of them is not (any, 4).
    """
    one, other = _checked(first, "first"), _checked(second, "second")
    return _overlap(one, _area(one), other, _area(other))


def nms(
    boxes: ArrayLike, scores: ArrayLike, classes: ArrayLike | None, iou: float = 0.5, *, limit: int | None = None
) -> NDArray[np.int64]:
    """Keep the best of the boxes that lie over each other: greedy non-maximum suppression within each class.

    From the best score down, a box is kept unless it overlaps a kept one of its class by more than `iou`. Of equal scores
    the earlier comes first, so the same boxes always give the same answer.

    Args:
        boxes: (M, 4), `x1 y1 x2 y2`, finite.
        scores: (M,), finite.
        classes: (M,), whole. None: boxes suppress each other whatever they are.
        iou: Overlap from above which two boxes are one object, 0..1.
        limit: Stop when so many are kept.

    Returns:
        Which boxes are kept, int64, best first.

    Raises:
        ShapeError: arrays that are not as above or differ in length.
        RangeError: `iou` is not within 0..1, or `limit` is below 0.
    """
    rows, ranks, kinds = _checked(boxes, "boxes"), np.asarray(scores), None if classes is None else np.asarray(classes)
    if ranks.shape != (len(rows),) or (kinds is not None and kinds.shape != (len(rows),)):
        given = f"{ranks.shape}" if kinds is None else f"{ranks.shape} and {kinds.shape}"
        raise ShapeError(f"`scores` and `classes` must be (M,) for M boxes; got {given} for {len(rows)} boxes")
    if not 0 <= iou <= 1:
        raise RangeError(f"`iou` must lie within 0..1; got {iou!r}")
    if limit is not None and limit < 0:
        raise RangeError(f"`limit` must be 0 or more, or None; got {limit!r}")
    order = np.argsort(-ranks.astype(np.float64), kind="stable")
    rows = rows[order]
    kinds = None if kinds is None else kinds[order]
    kept = _greedy(rows, kinds, iou, len(rows) if limit is None else limit)
    return order[kept].astype(np.int64)


def xywh_to_xyxy(boxes: ArrayLike, *, center: bool = False) -> NDArray[Any]:
    """Return boxes `x y width height` as `x1 y1 x2 y2`.

    Args:
        boxes: (..., 4). Whole numbers become float64; floating types stay what they are.
        center: `x y` is the middle, as YOLO writes them; else the left upper corner, as OpenCV, COCO and OTB do.

    Returns:
        A new array of the same shape. [10, 20, 4, 6] is [10, 20, 14, 26], and with `center` [8, 17, 12, 23].

    Raises:
        ShapeError: the last axis does not have 4 entries.
    """
    given = np.asarray(boxes)
    if given.ndim == 0 or given.shape[-1] != 4:
        raise ShapeError(f"`boxes` must be (..., 4): x y width height; got {given.shape}")
    out = given.astype(given.dtype if given.dtype.kind == "f" else np.float64)
    if center:
        out[..., :2] -= out[..., 2:] / 2
    out[..., 2:] += out[..., :2]
    return out


def _greedy(rows: NDArray[np.float64], kinds: NDArray[Any] | None, iou: float, limit: int) -> NDArray[np.int64]:
    """Which of the rows, best first, are kept: block by block, against those kept before and then within the block."""
    areas = _area(rows)
    kept = np.empty(0, np.int64)
    for start in range(0, len(rows), _BLOCK):
        if len(kept) >= limit:
            break
        block = np.arange(start, min(start + _BLOCK, len(rows)))
        if len(kept):
            block = block[~_covers(rows, areas, kinds, kept, block, iou).any(axis=0)]
        inside = _covers(rows, areas, kinds, block, block, iou)
        free = np.ones(len(block), bool)
        for turn in range(len(block)):
            if free[turn]:
                free[turn + 1 :] &= ~inside[turn, turn + 1 :]
        kept = np.concatenate([kept, block[free]])
    return kept[:limit]


def _covers(
    rows: NDArray[np.float64],
    areas: NDArray[np.float64],
    kinds: NDArray[Any] | None,
    one: NDArray[np.int64],
    other: NDArray[np.int64],
    iou: float,
) -> NDArray[np.bool_]:
    """Whether row `one` of a pair suppresses row `other`: (len(one), len(other))."""
    over = _overlap(rows[one], areas[one], rows[other], areas[other]) > iou
    if kinds is not None:
        over &= kinds[one][:, None] == kinds[other]
    return over


def _overlap(
    one: NDArray[np.float64], one_area: NDArray[np.float64], other: NDArray[np.float64], other_area: NDArray[np.float64]
) -> NDArray[np.float64]:
    shared = np.ones((len(one), len(other)))
    for low, high in ((0, 2), (1, 3)):
        side = np.minimum(one[:, high, None], other[:, high])
        side -= np.maximum(one[:, low, None], other[:, low])
        shared *= np.maximum(side, 0.0, out=side)
    union = one_area[:, None] + other_area
    union -= shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0).prod(axis=1)
    return area


def _checked(boxes: ArrayLike, name: str) -> NDArray[np.float64]:
    given = np.asarray(boxes, dtype=np.float64)
    if given.shape == (0,):  # an empty list
        return np.empty((0, 4))
    if given.ndim != 2 or given.shape[1] != 4:
        raise ShapeError(f"`{name}` must be (any number, 4): x1 y1 x2 y2; got {given.shape}")
    return given
