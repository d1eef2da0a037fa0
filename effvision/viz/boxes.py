"""Boxes with labels on a picture: found ones in a colour of their own, lost ones dashed and grey."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from effvision.errors import InputError, RangeError, ShapeError
from effvision.viz.checks import check_picture
from effvision.viz.palette import id_color, luminance
from effvision.viz.text import Font, text_width, truncate, write_text

__all__ = ["draw_boxes"]

Color = tuple[int, int, int]
_Area = tuple[int, int, int, int]  # x1 y1 x2 y2, whole, half-open

_ACCENT: Color = (72, 199, 255)
_DARK: Color = (14, 16, 22)
_WHITE: Color = (255, 255, 255)
_LOST_LINE: Color = (196, 200, 208)
_LOST_CHIP: Color = (58, 62, 70)
_LOST_WORD = "LOST"


@dataclass(frozen=True)
class _Measures:
    """All measures in pixels, derived from the size of the picture; `text` is the size of the labels."""

    height: int
    width: int

    @property
    def text(self) -> int:
        return max(10, round(0.0165 * math.sqrt(self.height * self.width)))

    @property
    def line(self) -> int:
        return max(2, round(self.text / 6))

    @property
    def casing(self) -> int:
        return max(1, round(self.line / 3))

    @property
    def dash(self) -> int:
        return max(4, round(0.7 * self.text))

    @property
    def chip(self) -> int:
        return round(1.5 * self.text)

    @property
    def pad(self) -> int:
        return max(2, round(0.4 * self.text))


def draw_boxes(
    image: NDArray[np.uint8],
    boxes: ArrayLike,
    *,
    ids: Sequence[int] | None = None,
    labels: Sequence[str | None] | None = None,
    colors: Sequence[Color] | None = None,
    lost: ArrayLike | None = None,
) -> NDArray[np.uint8]:
    """Return a copy of `image` with boxes and their labels.

    Lines, letters and dashes grow with the picture. A line has a dark edge, so that it shows on any ground. A label stands
    above its box, or below or inside where there is no room or another label; it never leaves the picture. A box of a few
    pixels is drawn around its object, not over it. What lies outside the picture is not drawn.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (M, 4), `x1 y1 x2 y2` in pixels, half-open. Later ones are drawn over earlier ones.
        ids: A number for each box, which gives it its colour, and its label where `labels` is None.
        labels: Text for each box; None or "" for none.
        colors: RGB for each box. Default: `effvision.viz.id_color` of `ids`; without these, one colour.
        lost: For each box, whether its object was not found in this frame: the box is dashed and grey, and says LOST.

    Raises:
        DTypeError: `image` is no uint8 array.
        ShapeError: `image` is not (H, W, 3), `boxes` is not (M, 4), or something is not given for each box.
        RangeError: boxes that are not finite, or end before they begin.
        InputError: a colour that is none, an id that is not whole.
    """
    check_picture(image)
    rows = _checked_boxes(boxes)
    count = len(rows)
    gone = [False] * count if lost is None else np.asarray(lost, dtype=bool).reshape(-1).tolist()
    if labels is None:
        labels = [None] * count if ids is None else [str(number) for number in ids]
    if colors is None:
        colors = [_ACCENT] * count if ids is None else [id_color(number) for number in ids]
    for name, given in (("ids", ids), ("labels", labels), ("colors", colors), ("lost", gone)):
        if given is not None and (isinstance(given, str) or len(given) != count):
            raise ShapeError(f"`{name}` must have one entry for each of the {count} boxes; got {given!r:.80}")
    paints = [_checked_color(color) for color in colors]
    out = np.array(image, order="C")
    measures = _Measures(*out.shape[:2])
    areas = [_visible(row, measures) for row in rows]
    for area, paint, missing in zip(areas, paints, gone, strict=True):
        if area is not None:
            _outline(out, area, measures, _LOST_LINE if missing else paint, dashed=missing)
    taken: list[_Area] = []
    for area, paint, missing, label in zip(areas, paints, gone, labels, strict=True):
        if area is not None and (label or missing):
            _label(out, area, measures, taken, str(label or ""), paint, lost=missing)
    return out


def _outline(out: NDArray[np.uint8], area: _Area, measures: _Measures, color: Color, *, dashed: bool) -> None:
    """Four bars, or their dashes, each on a darkened ground that is a little larger."""
    pieces = list(_bars(area, measures.line, measures.dash if dashed else 0))
    edge = measures.casing
    for x1, y1, x2, y2 in pieces:
        ground = out[max(0, y1 - edge) : y2 + edge, max(0, x1 - edge) : x2 + edge]
        ground >>= 2
    for x1, y1, x2, y2 in pieces:
        out[y1:y2, x1:x2] = color


def _bars(area: _Area, line: int, dash: int) -> Iterator[_Area]:
    """Cut the border of an area into bars; with `dash`, into pieces of about that length with gaps between them."""
    x1, y1, x2, y2 = area
    for top in (y1, y2 - line):
        for start, stop in _dashes(x1, x2, dash):
            yield start, top, stop, top + line
    inset = 0 if dash else line  # bars do not overlap; dashes may, in the corners
    for left in (x1, x2 - line):
        for start, stop in _dashes(y1 + inset, y2 - inset, dash):
            yield left, start, left + line, stop


def _dashes(start: int, stop: int, dash: int) -> Iterator[tuple[int, int]]:
    """Cut a side into dashes and gaps of about one length, with a dash at each end, so that corners are closed."""
    gaps = round((stop - start) / dash - 1) // 2 if dash else 0
    places = np.rint(np.linspace(start, stop, 2 * max(gaps, 1) + 2)).astype(int).tolist()
    if not dash or stop - start < 9:
        places = [start, stop]
    yield from zip(places[::2], places[1::2], strict=True)


def _visible(row: NDArray[np.float64], measures: _Measures) -> _Area | None:
    """Return what is drawn of a box: within the picture, whole pixels, large enough to have a middle. None: it is outside."""
    sides = []
    for low, high, limit in ((row[0], row[2], measures.width), (row[1], row[3], measures.height)):
        if high <= 0 or low >= limit:
            return None
        start, stop = max(low, 0.0), min(high, float(limit))
        least = min(5 * measures.line, limit)  # below that the lines of both sides would hide what is between them
        grow = max(least - (stop - start), 0.0) / 2
        begin = min(max(round(start - grow), 0), limit - least)
        sides.append((begin, min(max(round(stop + grow), begin + least), limit)))
    (x1, x2), (y1, y2) = sides
    return x1, y1, x2, y2


def _label(
    out: NDArray[np.uint8],
    area: _Area,
    measures: _Measures,
    taken: list[_Area],
    label: str,
    color: Color,
    *,
    lost: bool,
) -> None:
    """Write a label on a ground of the box's colour; of a lost one on grey, with a stripe of its colour."""
    font, bold = Font(measures.text), Font(measures.text, 600)
    stripe = measures.pad if lost else 0
    word = text_width(_LOST_WORD, bold) if lost else 0
    gap = measures.pad if lost and label else 0
    room = measures.width - 2 * measures.pad - stripe - gap - word
    label = truncate(label, font, room) if room > 0 else ""
    gap = gap if label else 0
    long = text_width(label, font) + 2 * measures.pad + stripe + gap + word
    if not (label or lost) or long > measures.width or measures.chip > measures.height:
        return  # nothing legible fits
    chip = _place(area, long, measures, taken)
    taken.append(chip)
    x1, y1, x2, y2 = chip
    out[y1:y2, x1:x2] = _LOST_CHIP if lost else color
    out[y1:y2, x1 : x1 + stripe] = color
    base = y1 + (measures.chip + font.cap_height_px) // 2
    ink = _WHITE if lost or luminance(color) < 0.2 else _DARK
    write_text(out[y1:y2, x1:x2], label, (stripe + measures.pad, base - y1), font, _LOST_LINE if lost else ink)
    if lost:
        write_text(out[y1:y2, x1:x2], _LOST_WORD, (long - measures.pad - word, base - y1), bold, ink)


def _place(area: _Area, long: int, measures: _Measures, taken: list[_Area]) -> _Area:
    """Choose where a chip stands: above its box, inside or below, at its left or right end; the first that is free."""
    x1, y1, x2, y2 = area
    high = measures.chip
    inside = [y1, y2 - high] if y2 - y1 > 3 * high else []
    tops = [top for top in (y1 - high, *inside, y2) if 0 <= top <= measures.height - high]
    tops = tops or [min(max(y1 - high, 0), measures.height - high)]
    lefts = [min(max(left, 0), measures.width - long) for left in (x1, x2 - long)]
    places = [(left, top, left + long, top + high) for left in lefts for top in tops]
    for place in places:
        if not any(
            place[0] < other[2] and other[0] < place[2] and place[1] < other[3] and other[1] < place[3]
            for other in taken
        ):
            return place
    return places[0]


def _checked_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    try:
        rows = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"`boxes` must be numbers (M, 4); got {type(boxes).__name__}") from error
    if rows.size == 0:
        return np.empty((0, 4))
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise ShapeError(f"`boxes` must be (M, 4), x1 y1 x2 y2; got {rows.shape}")
    if not np.isfinite(rows).all() or (rows[:, 2:] < rows[:, :2]).any():
        raise RangeError("`boxes` must be finite `x1 y1 x2 y2` with x1 <= x2 and y1 <= y2")
    return rows


def _checked_color(color: Color) -> Color:
    values = np.asarray(color)
    if values.shape != (3,) or values.dtype.kind not in "iu" or not ((values >= 0) & (values <= 255)).all():
        raise InputError(f"a colour is three whole numbers 0..255, RGB; got {color!r:.60}")
    return int(values[0]), int(values[1]), int(values[2])
