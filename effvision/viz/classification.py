"""Class names and scores on a translucent panel in a corner of the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.errors import InputError
from effvision.viz.checks import check_picture
from effvision.viz.text import Font, text_width, truncate, write_text

__all__ = ["draw_classification"]

_MAX_ROWS = 5
_PANEL_RGB, _PANEL_ALPHA = (14, 16, 22), 0.78  # white on it keeps a contrast above 9:1 even over a white wall
_WHITE, _SOFT, _DIM = (255, 255, 255), (214, 218, 226), (176, 182, 194)
_ACCENT, _BAR, _TRACK = (72, 199, 255), (150, 160, 178), (70, 76, 88)


@dataclass(frozen=True)
class _Layout:
    """All measures in pixels, derived from the size of the picture; `unit` is the size of ordinary text."""

    unit: int
    width: int
    room: int  # height the panel may take

    @staticmethod
    def fit(height: int, width: int) -> _Layout:
        unit = min(max(9, round(0.025 * math.sqrt(height * width))), max(1, height // 7), max(1, width // 8))
        free = width - 2 * max(1, round(0.7 * unit))
        return _Layout(unit, min(free, max(18 * unit, width // 4)), max(int(0.45 * height), 5 * unit))

    def px(self, units: float) -> int:
        return max(1, round(units * self.unit))

    @property
    def margin(self) -> int:
        return self.px(0.7)

    @property
    def pad(self) -> int:
        return self.px(0.75)

    def height(self, rows: int, note: str | None) -> int:
        """Height of the panel with `rows` labels."""
        foot = _FOOT.gap + _FOOT.text * 0.7 if note else 0.0
        return 2 * self.pad + self.px(_FIRST.height + (rows - 1) * _OTHER.height + foot) + 1


@dataclass(frozen=True)
class _Row:
    """A label with its bar below, in units: gap above, size of the text, gap to the bar, thickness of the bar."""

    gap: float
    text: float
    to_bar: float
    bar: float

    @property
    def height(self) -> float:
        return self.gap + 0.7 * self.text + self.to_bar + self.bar


_FIRST = _Row(gap=0.0, text=1.3, to_bar=0.5, bar=0.26)
_OTHER = _Row(gap=0.72, text=0.95, to_bar=0.36, bar=0.14)
_FOOT = _Row(gap=0.85, text=0.8, to_bar=0.0, bar=0.0)


def draw_classification(
    image: NDArray[np.uint8], *, topk: Sequence[tuple[str, float]], note: str | None = None
) -> NDArray[np.uint8]:
    """Return a copy of `image` with a panel: the first label large, score bars, and a small line below.

    The panel lies in the lower left corner, where it hides the fewest faces, and grows with the picture. Its size does
    not depend on the labels, so it does not jump from frame to frame. On small pictures rows, the small line and the
    number are left out before the first label is. Labels too long are written smaller, then cut with dots. OpenCV 4 has
    no letters beyond ASCII and shows `?` for them.

    Args:
        image: (H, W, 3) uint8 RGB.
        topk: (label, score 0..1), best first; up to five are shown.
        note: The small line, such as "31 fps, 12 ms".

    Raises:
        DTypeError: `image` is no uint8 array.
        ShapeError: `image` is not (H, W, 3).
        InputError: `topk` is empty or not made of pairs, or a score is not a number within 0..1.
    """
    check_picture(image)
    rows = _check_topk(topk)
    out = np.array(image, order="C")
    layout = _Layout.fit(*out.shape[:2])
    while len(rows) > 1 and layout.height(len(rows), note) > layout.room:
        rows.pop()
    if layout.height(len(rows), note) > layout.room:
        note = None
    height = layout.height(len(rows), note)
    top = out.shape[0] - layout.margin - height
    if top < 0 or layout.width < 16 or layout.unit < 5:
        return out  # nothing legible fits
    _panel(out[top : top + height, layout.margin : layout.margin + layout.width], layout.px(0.55))
    y = float(top + layout.pad)
    for index, (label, score) in enumerate(rows):
        y = _row(out, layout, y, label, score, first=index == 0)
    if note:
        font = Font(layout.px(_FOOT.text))
        base = round(y + (_FOOT.gap + 0.7 * _FOOT.text) * layout.unit)
        inside = layout.width - 2 * layout.pad
        write_text(out, truncate(note, font, inside), (layout.margin + layout.pad, base), font, _DIM)
    return out


def _row(out: NDArray[np.uint8], layout: _Layout, y: float, label: str, score: float, *, first: bool) -> float:
    """Draw one label, its score and its bar from `y` down; return where the next row begins."""
    row, color = (_FIRST, _WHITE) if first else (_OTHER, _SOFT)
    left = layout.margin + layout.pad
    right = layout.margin + layout.width - layout.pad
    base = round(y + (row.gap + 0.7 * row.text) * layout.unit)
    font = Font(layout.px(row.text), 600 if first else 400)
    percent = "<1%" if 0 < score < 0.005 else f"{min(score, 1.0):.0%}"
    free = right - left - max(text_width("88%", font), text_width(percent, font)) - layout.px(0.4)
    if free < 7 * layout.unit:  # the bar says it too
        free = right - left
    else:
        write_text(out, percent, (right - text_width(percent, font), base), font, color)
    for share in (0.85, 0.7) if first else (0.9, 0.8):  # a long label is written smaller before it is cut
        if text_width(label, font) > free:
            font = Font(layout.px(share * row.text), font.weight)
    write_text(out, truncate(label, font, free), (left, base), font, color)
    top = base + row.to_bar * layout.unit
    thick = layout.px(row.bar)
    middle = round(top + thick / 2)
    _bar(out, left, right, middle, thick, 1.0, _TRACK)
    _bar(out, left, right, middle, thick, score, _ACCENT if first else _BAR)
    return top + thick


def _bar(
    out: NDArray[np.uint8], left: int, right: int, y: int, thick: int, share: float, color: tuple[int, int, int]
) -> None:
    """A horizontal bar with round ends over `share` of left..right; nothing where it would be shorter than a dot."""
    length = (right - left) * min(share, 1.0)
    if length < max(1.0, thick / 2):
        return
    cv2 = import_cv2()
    radius = thick / 2
    ends = [round(16 * (left + radius)), round(16 * (left + max(radius, length - radius)))]
    cv2.line(out, (ends[0], 16 * y), (ends[1], 16 * y), color, thick, cv2.LINE_AA, shift=4)


def _panel(part: NDArray[np.uint8], radius: int) -> None:
    """Darken `part`, a view of the picture, in place, except outside its round corners."""
    cv2 = import_cv2()
    height, width = part.shape[:2]
    radius = max(1, min(radius, height // 2, width // 2))
    disc = np.zeros((2 * radius, 2 * radius, 1), np.uint8)
    cv2.circle(disc, (16 * radius - 8, 16 * radius - 8), 16 * radius - 8, 255, -1, cv2.LINE_AA, shift=4)
    dark = cv2.LUT(part, _shades())
    for rows, columns, quarter in (
        (slice(None, radius), slice(None, radius), disc[:radius, :radius]),
        (slice(None, radius), slice(-radius, None), disc[:radius, radius:]),
        (slice(-radius, None), slice(None, radius), disc[radius:, :radius]),
        (slice(-radius, None), slice(-radius, None), disc[radius:, radius:]),
    ):
        covered = quarter / np.float32(255)
        dark[rows, columns] = np.rint(covered * dark[rows, columns] + (1 - covered) * part[rows, columns])
    part[:] = dark


def _shades() -> NDArray[np.uint8]:
    """What each grey level of each colour becomes under the panel: (256, 1, 3)."""
    levels = np.arange(256, dtype=np.float32)[:, None, None]
    mixed = levels * (1 - _PANEL_ALPHA) + np.array(_PANEL_RGB, np.float32) * _PANEL_ALPHA
    return np.rint(mixed).astype(np.uint8)


def _check_topk(topk: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    try:
        rows = [(str(label), float(score)) for label, score in topk[:_MAX_ROWS]]
    except (TypeError, ValueError) as error:
        raise InputError(f"`topk` must be a list of (label, score); got {topk!r:.120}") from error
    if not rows:
        raise InputError("`topk` must hold at least one (label, score); it is empty")
    for label, score in rows:
        if not 0 <= score <= 1.001:  # a softmax in float32 may exceed 1 by a hair
            raise InputError(f"a score must lie within 0..1; got {score:g} for {label!r:.60}")
    return rows
