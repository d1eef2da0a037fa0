"""The outline of a region on a picture: what an edit computed anew."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.errors import DTypeError, ShapeError
from effvision.viz.checks import check_picture

__all__ = ["draw_outline"]

_LIGHT, _DARK = (255, 255, 255), (20, 24, 32)
_DASH = 4  # pixels of one colour along a diagonal


def draw_outline(image: NDArray[np.uint8], region: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Draw the border of a region as a dashed line, black and white in turn, so that it shows on anything.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        region: (H, W) bool. Nothing is drawn where it is empty or the whole picture.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        DTypeError, ShapeError: no picture, or a region that is not bool or of another size.
    """
    check_picture(image)
    if not isinstance(region, np.ndarray) or region.dtype != np.bool_:
        raise DTypeError(f"`region` must be a bool array; got {getattr(region, 'dtype', type(region).__name__)}")
    if region.shape != image.shape[:2]:
        raise ShapeError(f"`region` is {region.shape}, the picture {image.shape[:2]}")
    out = image.copy()
    if not region.any() or region.all():
        return out
    cv2: Any = import_cv2()
    inside = cv2.erode(
        region.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    rows, columns = np.nonzero(region & (inside == 0))
    dark = (rows + columns) // _DASH % 2 == 0
    out[rows, columns] = np.where(dark[:, None], np.array(_DARK, np.uint8), np.array(_LIGHT, np.uint8))
    return out
