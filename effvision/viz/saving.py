"""Write a picture into an image file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effvision._files import as_path, write_bytes
from effvision._optional import import_cv2
from effvision.errors import InputError, SourceError
from effvision.viz.checks import check_picture

__all__ = ["save_image"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_JPEG_QUALITY = 92


def save_image(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> Path:
    """Write `image` (H, W, 3) uint8 RGB to `path`; the suffix chooses the format, and the file appears whole.

    Returns:
        The path written.

    Raises:
        DTypeError: `path` is neither text nor a path.
        InputError: `image` is no RGB picture, or the suffix is none of .png .jpg .jpeg .webp .bmp.
        SourceError: the folder is missing or cannot be written to, or the picture is too large for the format.
    """
    target = as_path(path)
    if target.suffix.lower() not in _SUFFIXES:
        raise InputError(f"an image is written as {', '.join(_SUFFIXES)}; got {target.name!r}")
    check_picture(image)
    cv2 = import_cv2()
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if target.suffix.lower() in (".jpg", ".jpeg") else []
    try:
        good, data = cv2.imencode(target.suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    except cv2.error as error:
        raise SourceError(
            f"{target} could not be encoded, {image.shape[0]}x{image.shape[1]} pixels: {error}"
        ) from error
    if not good:
        raise SourceError(f"{target} could not be encoded, {image.shape[0]}x{image.shape[1]} pixels")
    return write_bytes(target, data.tobytes())
