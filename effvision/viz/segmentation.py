"""A cloud coloured by class, with a legend of names and counts beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.errors import InputError, ShapeError
from effvision.viz.palette import class_colors
from effvision.viz.points import BACKGROUND_RGB, View, render_points
from effvision.viz.text import Font, text_width, truncate, write_text

__all__ = ["draw_segmentation"]

_TEXT, _SOFT, _LINE = (32, 36, 44), (104, 110, 122), (222, 225, 231)
_NARROWEST = 300  # pixels: a picture below has no legend


@dataclass(frozen=True)
class _Row:
    name: str
    count: str
    share: str
    color: tuple[int, int, int]


def draw_segmentation(
    xyz: NDArray[Any],
    labels: NDArray[Any],
    names: Sequence[str],
    *,
    colors: NDArray[np.uint8] | None = None,
    size: tuple[int, int] = (720, 960),
    view: View | None = None,
    note: str | None = None,
) -> NDArray[np.uint8]:
    """Draw points in the colours of their classes, and a legend of the classes that occur.

    Args:
        xyz: (P, 3) finite metres, z up.
        labels: (P,) whole, 0..K-1.
        names: K class names.
        colors: (K, 3) uint8. Default: `effvision.viz.class_colors(names)`.
        size: (height, width) of the picture in pixels. One narrower than 300 has no legend.
        view: From where. Default: told from the cloud.
        note: A small line below the legend.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ShapeError, RangeError, InputError: parts that do not fit each other, or cannot be drawn.
    """
    palette = class_colors(names) if colors is None else colors
    if palette.shape != (len(names), 3) or palette.dtype != np.uint8:
        raise ShapeError(f"`colors` must be ({len(names)}, 3) uint8; got {palette.shape} {palette.dtype}")
    counts = _counts(labels, len(xyz), len(names))
    height, width = size
    legend = _legend(names, counts, palette) if width >= _NARROWEST else []
    unit = min(max(11, round(height / 46)), max(11, width // 40))
    side = _legend_width(legend, unit, width) if legend else 0
    picture = render_points(xyz, palette[labels], size=(height, width - side), view=view)
    if not side:
        return picture
    out = np.full((height, width, 3), BACKGROUND_RGB, np.uint8)
    out[:, : width - side] = picture
    _draw_legend(out, legend, left=width - side, unit=unit, head=_head(xyz), note=note)
    return out


def _counts(labels: NDArray[Any], points: int, classes: int) -> NDArray[np.int64]:
    if labels.shape != (points,) or labels.dtype.kind not in "iu":
        raise ShapeError(f"`labels` must be ({points},) whole numbers; got {labels.shape} {labels.dtype}")
    if points and not (labels.min() >= 0 and labels.max() < classes):
        raise InputError(
            f"`labels` must lie within 0..{classes - 1}, for there are {classes} names; got {labels.min()}..{labels.max()}"
        )
    return np.bincount(labels, minlength=classes)


def _legend(names: Sequence[str], counts: NDArray[np.int64], palette: NDArray[np.uint8]) -> list[_Row]:
    """One row for each class that occurs, in the order of the classes."""
    total = max(int(counts.sum()), 1)
    rows = []
    for index, name in enumerate(names):
        count = int(counts[index])
        if count:
            share = 100 * count / total
            red, green, blue = (int(part) for part in palette[index])
            rows.append(_Row(name, f"{count:,}", "<1%" if share < 0.5 else f"{share:.0f}%", (red, green, blue)))
    return rows


def _head(xyz: NDArray[Any]) -> tuple[str, str]:
    sides = [float(xyz[:, axis].max()) - float(xyz[:, axis].min()) for axis in range(3)]
    return f"{len(xyz):,} points", " x ".join(f"{side:.0f}" if side >= 20 else f"{side:.1f}" for side in sides) + " m"


def _legend_width(rows: list[_Row], unit: int, width: int) -> int:
    """Width of the column at the right, at most a third of the picture."""
    font, small = Font(unit), Font(round(0.85 * unit))
    name = max(text_width(row.name, font) for row in rows)
    numbers = max(text_width(row.count, small) for row in rows) + text_width("100%", small)
    return min(max(round(name + numbers + 5.2 * unit), 12 * unit), width // 3)


def _draw_legend(
    out: NDArray[np.uint8], rows: list[_Row], *, left: int, unit: int, head: tuple[str, str], note: str | None
) -> None:
    """Write the legend into the column from `left` to the right edge: size of the cloud, then a row a class."""
    cv2 = import_cv2()
    height, width = out.shape[:2]
    font, small, bold = Font(unit), Font(round(0.85 * unit)), Font(round(1.1 * unit), 600)
    x, end = left + unit // 2, width - unit
    y = round(2.0 * unit)
    write_text(out, truncate(head[0], bold, end - x), (x, y), bold, _TEXT)
    y += round(1.5 * unit)
    write_text(out, truncate(head[1], small, end - x), (x, y), small, _SOFT)
    y += round(0.9 * unit)
    cv2.line(out, (x, y), (end, y), _LINE, 1)
    step = round(1.75 * unit)
    foot = round(1.6 * unit) if note else 0
    shown = rows[: max(1, (height - y - unit - foot) // step)]
    if len(shown) < len(rows):
        shown = shown[:-1]
    shares = end - text_width("100%", small)
    for row in shown:
        y += step
        _swatch(out, (x + unit // 2, y - font.cap_height_px // 2), unit, row.color)
        write_text(out, row.share, (end - text_width(row.share, small), y), small, _SOFT)
        begin = shares - round(0.5 * unit) - text_width(row.count, small)
        write_text(out, row.count, (begin, y), small, _TEXT)
        name = x + round(1.6 * unit)
        write_text(out, truncate(row.name, font, begin - round(0.6 * unit) - name), (name, y), font, _TEXT)
    if len(shown) < len(rows):
        write_text(out, f"and {len(rows) - len(shown)} more", (x, y + step), small, _SOFT)
        y += step
    if note:
        write_text(out, truncate(note, small, end - x), (x, min(y + 2 * unit, height - unit // 2)), small, _SOFT)


def _swatch(out: NDArray[np.uint8], middle: tuple[int, int], unit: int, color: tuple[int, int, int]) -> None:
    cv2 = import_cv2()
    radius = round(16 * 0.46 * unit)
    cv2.circle(out, (16 * middle[0], 16 * middle[1]), radius, color, -1, cv2.LINE_AA, shift=4)
