"""What goes into an engine that edits a picture, as arrays: checked once, compared with what was there before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import DTypeError, InputError, RangeError, ShapeError
from effvision.host.edit_blocks import Cell
from effvision.host.regions import Mask, Rect, area, hull, split

__all__ = ["changed_pixels", "check_arrays", "check_finite", "check_mask", "find_change", "missed", "share"]

SLACK = 256.0
"""Pixels of an input that one rectangle more has to save."""
SPARSE = 8
"""Every so many rows and columns are looked at first."""
NEARLY = 0.95
"""If more of those pixels changed, all are taken as changed."""
LANES: dict[int, Any] = {8: np.int64, 4: np.int32, 2: np.int16, 1: np.int8}
"""Words by their bytes, the longest first."""


def check_arrays(given: Any, cells: Sequence[Cell]) -> tuple[NDArray[np.float32], ...]:
    """Return one array, a tuple of them, or arrays by name, as a tuple in the network's order.

    Raises:
        InputError: another number of inputs.
        ShapeError, DTypeError: no arrays of float32, or of other shapes than the network was exported with.
    """
    if isinstance(given, Mapping):
        names = [cell.name for cell in cells]
        if set(given) != set(names):
            raise InputError(f"the network takes {', '.join(names)}; given are {', '.join(sorted(map(str, given)))}")
        given = [given[name] for name in names]
    arrays = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    if len(arrays) != len(cells):
        raise InputError(f"{len(arrays)} inputs given, the network takes {len(cells)}\nhint: give them as one tuple")
    for array, cell in zip(arrays, cells, strict=True):
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise DTypeError(f"input `{cell.name}` is {kind}\nhint: give a numpy array of float32")
        if array.shape != cell.shape:
            raise ShapeError(
                f"input `{cell.name}` has shape {array.shape}, the network was exported for {cell.shape}\n"
                "hint: a file serves one size and batch; export another for this one"
            )
    return arrays


def check_finite(array: NDArray[Any], name: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        RangeError: with the number of them.
    """
    with np.errstate(all="ignore"):
        total = array.sum()  # one pass and no memory; it may overflow without cause, so the pixels have the last word
    wrong = 0 if np.isfinite(total) else int((~np.isfinite(array)).sum())
    if wrong:
        raise RangeError(
            f"input `{name}` holds {wrong} values that are NaN or infinite\n"
            "hint: look for a division by zero in what makes it; nothing was changed"
        )


def check_mask(mask: NDArray[Any], h: int, w: int) -> Mask:
    """Return a mask that is one bool a pixel.

    Raises:
        ShapeError, DTypeError: another shape; not bool.
    """
    if mask.dtype != np.bool_:
        raise DTypeError(f"the mask is {mask.dtype}\nhint: give bool, True where the input changed")
    if mask.shape != (h, w):
        raise ShapeError(f"the mask has shape {mask.shape}, the picture {(h, w)}\nhint: give one bool a pixel, (H, W)")
    return mask


def changed_pixels(before: NDArray[Any], after: NDArray[Any]) -> Mask:
    """Where two inputs (N, C, H, W) differ in any channel of any picture: (H, W)."""
    h, w = before.shape[2:]
    differs = np.ascontiguousarray(before != after).reshape(-1, h * w)
    lanes = next(lane for size, lane in LANES.items() if differs.shape[1] % size == 0)
    # A reduction of whole words, eight pixels at a time: four times faster than `any` on bool.
    found: Mask = np.bitwise_or.reduce(differs.view(lanes), axis=0).view(np.bool_).reshape(h, w)
    return found


def find_change(before: NDArray[Any], after: NDArray[Any], mask: Mask | None) -> list[Rect]:
    """The rectangles of an input that may have changed.

    Args:
        before: (N, C, H, W).
        after: Likewise.
        mask: (H, W) where it may have changed, if known.
    """
    if mask is not None:
        return split(mask, SLACK)
    h, w = before.shape[2:]
    some = (slice(None), slice(None), slice(None, None, SPARSE), slice(None, None, SPARSE))
    if (before[some] != after[some]).any((0, 1)).mean() > NEARLY:  # another picture: not worth a closer look
        return [(0, h, 0, w)]
    return split(changed_pixels(before, after), SLACK)


def missed(before: NDArray[Any], after: NDArray[Any], rects: Sequence[Rect]) -> int:
    """How many pixels differ outside of some rectangles."""
    differs = changed_pixels(before, after)
    for top, bottom, left, right in rects:
        differs[top:bottom, left:right] = False
    return int(differs.sum())


def share(rects: Mapping[int, Sequence[Rect]], cells: Sequence[Cell]) -> tuple[float, float, float, float] | None:
    """Where the edit lies in the pictures that go in, as shares of their height and width; None if in none."""
    found: tuple[float, float, float, float] | None = None
    for cell in cells:
        if not cell.picture or not rects.get(cell.index):
            continue
        box = rects[cell.index][0]
        for rect in rects[cell.index]:
            box = hull(box, rect) if area(rect) else box
        h, w = cell.size
        here = box[0] / h, box[1] / h, box[2] / w, box[3] / w
        if found is None:
            found = here
        else:
            found = min(found[0], here[0]), max(found[1], here[1]), min(found[2], here[2]), max(found[3], here[3])
    return found
