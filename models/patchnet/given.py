"""Boxes that people give, checked once where they come in. NumPy only, and part of a device's kit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import DTypeError, RangeError, ShapeError

__all__ = ["MOST_OBJECTS", "check_boxes"]

_LEAST_INSIDE = 0.1  # of a new box's area that must lie within the frame
MOST_OBJECTS = 4096


def check_boxes(value: Any, size: tuple[int, int] | None = None, *, name: str = "boxes") -> NDArray[np.float64]:
    """Return boxes (M, 4) `x1 y1 x2 y2` in pixels; one box alone may come as (4,).

    Args:
        value: Array, list or tensor.
        size: (height, width) of the frame they are in; None checks their form only.
        name: Of the argument, for messages.

    Raises:
        DTypeError: no numbers.
        ShapeError: another shape.
        RangeError: NaN or infinity, a box without area or inverted, or one that lies (nearly) outside the frame.
    """
    try:
        boxes = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DTypeError(f"`{name}` must be numbers (M, 4): x1 y1 x2 y2; got {value!r:.80}") from error
    if boxes.shape == (0,):
        boxes = np.zeros((0, 4))
    if boxes.dtype.kind not in "iuf":
        raise DTypeError(f"`{name}` must be numbers (M, 4): x1 y1 x2 y2; got {value!r:.80}")
    if boxes.ndim == 1:
        boxes = boxes[None]
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ShapeError(f"`{name}` must be (M, 4): x1 y1 x2 y2; got {boxes.shape}")
    if len(boxes) > MOST_OBJECTS:
        raise RangeError(f"`{name}` must be {MOST_OBJECTS} at most; got {len(boxes)}")
    with np.errstate(over="ignore"):  # what float64 cannot hold is infinite, and refused as such
        boxes = boxes.astype(np.float64)
    for box in boxes:
        said = " ".join(f"{place:g}" for place in box)
        if not np.isfinite(box).all():
            raise RangeError(f"`{name}` must be finite; got {said}")
        if box[2] <= box[0] or box[3] <= box[1]:
            raise RangeError(
                f"a box is `x1 y1 x2 y2` with x1 < x2 and y1 < y2; got {said}\nhint: x y width height? "
                "`effvision.host.boxes.xywh_to_xyxy`, or --box-xywh on the command line"
            )
        if size is not None:
            _check_inside(box, size, said)
    return boxes


def _check_inside(box: NDArray[np.float64], size: tuple[int, int], said: str) -> None:
    height, width = size
    x1, y1, x2, y2 = box.tolist()
    hint = "hint: boxes are `x1 y1 x2 y2` in pixels of the frame, not shares of it"
    wide, high = min(x2, width) - max(x1, 0), min(y2, height) - max(y1, 0)
    if wide <= 0 or high <= 0 or wide * high < _LEAST_INSIDE * (x2 - x1) * (y2 - y1):
        raise RangeError(
            f"the box {said} lies outside the frame of {width}x{height} pixels, or nearly so: nothing to follow\n{hint}"
        )
    if min(x1, y1) >= 0 and max(x2, y2) <= 1 < min(height, width):
        raise RangeError(f"the box {said} lies within the frame's first pixel: nothing to follow\n{hint}")
