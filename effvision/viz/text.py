"""Antialiased text that looks the same with OpenCV 5 (TrueType, Unicode) and OpenCV 4 (stroke font, ASCII)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2

__all__ = ["Font", "text_width", "truncate", "write_text"]

_CAP_HEIGHT = 0.7  # of the pixel size, in OpenCV 5's built-in face
_STROKE_CAP_HEIGHT = 21.0  # of FONT_HERSHEY_SIMPLEX at scale 1


@dataclass(frozen=True)
class Font:
    """A size in pixels (line to line about 1.3 times that) and a weight: 400 regular, 600 semibold."""

    size_px: int
    weight: int = 400

    @property
    def cap_height_px(self) -> int:
        """Height of a capital letter."""
        return max(1, round(self.size_px * _CAP_HEIGHT))

    @property
    def _scale(self) -> float:
        return self.cap_height_px / _STROKE_CAP_HEIGHT

    @property
    def _stroke_px(self) -> int:
        return max(1, round(self.size_px * (0.115 if self.weight > 500 else 0.075)))


def write_text(
    image: NDArray[np.uint8], text: str, origin: tuple[int, int], font: Font, color: tuple[int, int, int]
) -> None:
    """Write one line into `image` (H, W, 3), in place; `origin` is (x, y) of its left end on the base line."""
    cv2 = import_cv2()
    text = _printable(text)
    if hasattr(cv2, "FontFace"):
        cv2.putText(image, text, origin, color, cv2.FontFace("sans"), font.size_px, font.weight)
    else:
        cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, font._scale, color, font._stroke_px, cv2.LINE_AA)


def text_width(text: str, font: Font) -> int:
    """Return the width of one line in pixels."""
    cv2 = import_cv2()
    text = _printable(text)
    if not text:
        return 0
    if hasattr(cv2, "FontFace"):
        box = cv2.getTextSize((1 << 16, 1 << 10), text, (0, 512), cv2.FontFace("sans"), font.size_px, font.weight)
        return int(box[0] + box[2])
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, font._scale, font._stroke_px)[0][0])


def truncate(text: str, font: Font, width_px: int) -> str:
    """Return `text`, or as much of its beginning as fits into `width_px` with dots behind it; maybe nothing."""
    if text_width(text, font) <= width_px:
        return text
    low, high = 0, len(text)  # text[:low] + dots fits, or low is 0
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle].rstrip() + "...", font) <= width_px:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "..." if low else ""


def _printable(text: str) -> str:
    """One line without control characters; for OpenCV 4, accents are dropped and what is left beyond ASCII is `?`."""
    text = "".join(" " if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char for char in text)
    if hasattr(import_cv2(), "FontFace"):
        return text
    plain = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return plain.encode("ascii", "replace").decode("ascii")
