"""Label maps as PNG files of every kind a visitor may open."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["png"]


def png(pixels: np.ndarray, mode: str | None = None, *, palette: Sequence[int] | None = None, **options: Any) -> bytes:
    """Return a PNG of these pixels; `palette` makes (H, W) uint8 the places in it, as R G B R G B ..."""
    picture = Image.fromarray(pixels) if mode is None else Image.fromarray(pixels).convert(mode)
    if palette is not None:
        picture = Image.frombytes("P", pixels.shape[::-1], pixels.tobytes())
        picture.putpalette(list(palette))
    written = io.BytesIO()
    picture.save(written, "PNG", **options)
    return written.getvalue()
