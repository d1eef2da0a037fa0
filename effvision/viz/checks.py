"""What may be drawn on."""

from __future__ import annotations

import numpy as np

from effvision.errors import DTypeError, ShapeError

__all__ = ["check_picture"]


def check_picture(image: object) -> None:
    """Refuse what is not (H, W, 3) uint8 with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        given = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise DTypeError(f"`image` must be a numpy array of uint8 RGB; got {given}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ShapeError(f"`image` must be (H, W, 3) with at least one pixel; got {image.shape}")
