"""What a generator of pictures answers to an edit: the picture, and how little of it was computed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import InputError, ShapeError
from effvision.results import Result

__all__ = ["Edit"]


@dataclass(frozen=True, eq=False)
class Edit(Result):
    """A picture after an edit.

    Attributes:
        image: (H, W, 3) uint8 RGB, the whole picture; the result's own.
        changed: (H, W) bool: where the picture was computed anew; it differs from the one before nowhere else. After `undo` and
            `redo`: where it differs.
        macs: Multiply-adds computed.
        dense_macs: Those of a full pass; 0 where they cannot be counted.
        how: For every block of the network that was computed: `dense` and perhaps why, or the number of rectangles or tiles.
        note: What there is to know about this update, such as an edit that reaches the whole picture. Mostly empty.
        labels: (H, W) uint8, the label map it was drawn from, where the caller asked to keep it.

    Raises:
        ShapeError: parts that do not fit each other.
    """

    image: NDArray[np.uint8] = field(kw_only=True, repr=False, compare=False)
    changed: NDArray[np.bool_] = field(repr=False)
    macs: float
    dense_macs: float
    how: Mapping[str, str] = field(default_factory=dict, repr=False)
    note: str = ""
    labels: NDArray[np.uint8] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        size = self.image.shape[:2]
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.changed.shape != size:
            raise ShapeError(
                f"`image` must be (H, W, 3) and `changed` (H, W); got {self.image.shape} and {self.changed.shape}"
            )
        if self.labels is not None and self.labels.shape != size:
            raise ShapeError(f"the picture is {size}, and the label map {self.labels.shape}")

    @property
    def computed_fraction(self) -> float:
        """Multiply-adds computed, as a share of a full pass, 0..1; that of the picture where they cannot be counted."""
        return self.macs / self.dense_macs if self.dense_macs else self.changed_fraction

    @property
    def changed_fraction(self) -> float:
        """Share of the picture that was computed anew, 0..1."""
        return float(self.changed.mean()) if self.changed.size else 0.0

    @property
    def event(self) -> str:
        """How much was computed."""
        return f"computed {self.computed_fraction:.1%} of a full pass"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: sizes, shares, the box of what changed, and what every result carries. Pictures are left out."""
        rows, columns = np.flatnonzero(self.changed.any(1)), np.flatnonzero(self.changed.any(0))
        box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1] if len(rows) else None
        return {
            "size": list(self.image.shape[:2]),
            "computed_fraction": round(self.computed_fraction, 6),
            "changed_fraction": round(self.changed_fraction, 6),
            "changed_box": box,
            "macs": int(self.macs),
            "dense_macs": int(self.dense_macs),
            "how": dict(self.how),
            "note": self.note,
            **super().to_dict(),
        }

    def plot(self, image: np.ndarray | None = None) -> np.ndarray:
        """Draw the outline of what was computed anew on a copy of the picture; (H, W, 3) uint8 RGB.

        Args:
            image: Another picture of the same size (H, W, 3) uint8 RGB to draw it on, such as the label map in colours.

        Raises:
            InputError: a picture of another size.
        """
        picture = self.image if image is None else image
        if getattr(picture, "shape", None) != self.image.shape or picture.dtype != np.uint8:
            raise InputError(
                f"`image` must be {self.image.shape} uint8 RGB; got {getattr(picture, 'shape', picture)!s:.60}"
            )
        return self._draw(picture)

    def save(self, path: str | os.PathLike[str], image: np.ndarray | None = None) -> Path:
        """Write the picture itself (`.png`, `.jpg`), without an outline, or the plain data (`.json`); the file appears whole.

        Args:
            path: The file.
            image: Another picture to write in its place, such as that of `plot`.

        Raises:
            InputError: another suffix.
            SourceError: the folder does not exist or cannot be written.
        """
        from effvision._files import as_path
        from effvision.viz import save_image

        target = as_path(path)
        if target.suffix.lower() in (".jpg", ".jpeg", ".png"):
            return save_image(target, self.image if image is None else image)
        return super().save(target, image)

    def _draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        from effvision.viz import draw_outline

        return draw_outline(image, self.changed)
