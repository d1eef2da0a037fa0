"""Where a picture changed: masks, and the few rectangles or the tiles that cover them.

A rectangle is (top, bottom, left, right), half-open, in pixels; a mask is a bool array (H, W).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mask", "Rect", "area", "covered", "hull", "paint", "split", "tidy", "tiles", "within"]

Rect = tuple[int, int, int, int]
Mask = NDArray[np.bool_]
_MOST = 64  # rectangles that one region may have: more cost more to walk through than they save


def area(rect: Rect) -> int:
    """Pixels of a rectangle."""
    return (rect[1] - rect[0]) * (rect[3] - rect[2])


def hull(a: Rect, b: Rect) -> Rect:
    """The smallest rectangle around two."""
    return min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])


def within(rect: Rect, other: Rect) -> Rect | None:
    """What two rectangles share."""
    found = max(rect[0], other[0]), min(rect[1], other[1]), max(rect[2], other[2]), min(rect[3], other[3])
    return found if found[0] < found[1] and found[2] < found[3] else None


def paint(rects: Iterable[Rect], h: int, w: int) -> Mask:
    """The mask (h, w) of some rectangles."""
    mask = np.zeros((h, w), bool)
    for top, bottom, left, right in rects:
        mask[top:bottom, left:right] = True
    return mask


def covered(rects: Sequence[Rect], h: int, w: int) -> int:
    """Pixels that lie in at least one of the rectangles."""
    return sum(map(area, rects)) if len(rects) < 2 else int(paint(rects, h, w).sum())


def split(mask: Mask, slack: float, most: int = _MOST) -> list[Rect]:
    """Cover a mask with rectangles: cut the bounding box in two where that saves most, and again.

    Args:
        mask: (H, W).
        slack: Pixels that one rectangle more has to save to be worth it.
        most: Rectangles at most.
    """
    pending = [box for box in [_bounds(mask, (0, mask.shape[0], 0, mask.shape[1]))] if box]
    done: list[Rect] = []
    while pending:
        box = pending.pop()
        halves = _best_cut(mask, box, slack) if len(done) + len(pending) + 2 <= most else None
        if halves is None:
            done.append(box)
        else:
            pending += halves
    return sorted(done)


def _bounds(mask: Mask, box: Rect) -> Rect | None:
    """The bounding box of what is set inside a box."""
    part = mask[box[0] : box[1], box[2] : box[3]]
    rows: Mask = np.asarray(part.any(1))
    if not rows.any():
        return None
    top, bottom = int(rows.argmax()), len(rows) - int(rows[::-1].argmax())
    columns: Mask = np.asarray(part[top:bottom].any(0))
    left, right = int(columns.argmax()), len(columns) - int(columns[::-1].argmax())
    return box[0] + top, box[0] + bottom, box[2] + left, box[2] + right


def _best_cut(mask: Mask, box: Rect, slack: float) -> list[Rect] | None:
    """Cut a box in two, if the bounding boxes of the halves are at least `slack` pixels smaller together."""
    part = mask[box[0] : box[1], box[2] : box[3]]
    best, where = area(box) - slack, None
    if best <= 0 or part.all():
        return None
    for axis in (0, 1):
        lines = part if axis == 0 else part.T
        if len(lines) < 2:
            continue
        some = lines.any(1)
        first = np.where(some, lines.argmax(1), lines.shape[1])
        last = np.where(some, lines.shape[1] - lines[:, ::-1].argmax(1), 0)
        at = np.arange(len(lines))
        ends = np.maximum.accumulate(np.where(some, at + 1, 0))[:-1]
        starts = np.minimum.accumulate(np.where(some, at, len(lines))[::-1])[::-1][1:]
        upper = np.maximum.accumulate(last)[:-1] - np.minimum.accumulate(first)[:-1]
        lower = np.maximum.accumulate(last[::-1])[::-1][1:] - np.minimum.accumulate(first[::-1])[::-1][1:]
        total = ends * upper + (len(lines) - starts) * lower
        cut = int(total.argmin())
        if total[cut] < best:
            best, where = float(total[cut]), (axis, cut + 1)
    if where is None:
        return None
    axis, cut = where
    top, bottom, left, right = box
    if axis == 0:
        halves = [(top, top + cut, left, right), (top + cut, bottom, left, right)]
    else:
        halves = [(top, bottom, left, left + cut), (top, bottom, left + cut, right)]
    return [found for half in halves if (found := _bounds(mask, half))]


def tidy(rects: Sequence[Rect], h: int, w: int, slack: float) -> list[Rect]:
    """Merge rectangles that overlap or lie close, so that together they cost least.

    Args:
        rects: Of a map of h x w pixels.
        h: Its rows.
        w: Its columns.
        slack: Pixels that one rectangle more costs.
    """
    found = sorted(set(rects))
    if len(found) > 8:
        return split(paint(found, h, w), slack)
    merged = True
    while merged and len(found) > 1:
        merged = False
        pairs = [(a, b) for i, a in enumerate(found) for b in found[i + 1 :]]
        gains = [area(a) + area(b) + slack - area(hull(a, b)) for a, b in pairs]
        best = max(range(len(pairs)), key=gains.__getitem__)
        if gains[best] >= 0:
            a, b = pairs[best]
            found = [rect for rect in found if rect not in (a, b)] + [hull(a, b)]
            merged = True
    return sorted(found)


def tiles(mask: Mask, size: int) -> list[Rect]:
    """The cells of a grid of `size` pixels in which something is set; those at the lower and right border may be smaller."""
    h, w = mask.shape
    rows, columns = -(-h // size), -(-w // size)
    padded = np.zeros((rows * size, columns * size), bool)
    padded[:h, :w] = mask
    cells = padded.reshape(rows, size, columns, size).any(axis=(1, 3))
    return [
        (int(y) * size, min(int(y + 1) * size, h), int(x) * size, min(int(x + 1) * size, w))
        for y, x in zip(*np.nonzero(cells), strict=True)
    ]
