"""Colours of classes and of followed objects: always the same for the same names or numbers, apart for most eyes."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from effvision.errors import InputError

__all__ = ["OTHER_RGB", "class_colors", "id_color", "luminance"]

OTHER_RGB = (150, 153, 160)
"""Of classes that stand for nothing in particular."""

_LEAST_LUMINANCE = 0.24  # of a line on dark video: a contrast of 5 against black

_OTHER = frozenset(
    {"other", "others", "unlabeled", "unlabelled", "unknown", "ignore", "clutter", "unclassified", "noise"}
)

# Names that people expect in a certain colour. Green and red, brown and green differ in lightness, not in hue alone.
_EXPECTED: dict[str, tuple[int, int, int]] = {
    "ground": (200, 166, 126),
    "terrain": (200, 166, 126),
    "vegetation": (16, 84, 56),
    "trees": (16, 84, 56),
    "tree": (16, 84, 56),
    "high vegetation": (16, 84, 56),
    "medium vegetation": (70, 160, 80),
    "low vegetation": (160, 236, 92),
    "building": (206, 58, 18),
    "buildings": (206, 58, 18),
    "water": (40, 110, 200),
    "road": (122, 104, 150),
    "sidewalk": (222, 150, 200),
    "car": (24, 116, 205),
    "person": (240, 96, 24),
    "pole": (64, 64, 72),
}

# Okabe and Ito, 2008, "Color Universal Design" (its yellow darkened for a light ground), then twelve more in the same spirit.
_CYCLE: tuple[tuple[int, int, int], ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (86, 180, 233),
    (204, 121, 167),
    (196, 178, 24),
    (72, 52, 132),
    (120, 40, 60),
    (140, 200, 140),
    (60, 90, 30),
    (255, 150, 140),
    (30, 190, 200),
    (150, 90, 220),
    (110, 80, 50),
    (240, 200, 120),
    (20, 60, 100),
    (170, 30, 120),
    (150, 170, 200),
    (90, 130, 130),
)


def class_colors(names: Sequence[str]) -> NDArray[np.uint8]:
    """Return a colour for each class, (K, 3) uint8 RGB, told from the names and their order alone.

    A class has its colour whether or not a cloud has points of it. Well-known names have the colour people expect, such as
    green for trees; classes that stand for the rest are grey; the others take their turns in a palette that colour-blind people
    can tell apart. From the 21st such class on colours are generated, and are no longer easy to tell apart for anyone.

    Raises:
        InputError: there is no name, or one is no text.
    """
    if isinstance(names, str) or not len(names) or not all(isinstance(name, str) for name in names):
        raise InputError(f"`names` must be a list of class names; got {names!r:.120}")
    out = np.empty((len(names), 3), np.uint8)
    used: set[tuple[int, int, int]] = set()
    waiting = []
    for index, name in enumerate(names):
        plain = " ".join(name.lower().replace("_", " ").replace("-", " ").split())
        color = OTHER_RGB if plain in _OTHER else _EXPECTED.get(plain)
        if color is None or (color in used and color != OTHER_RGB):
            waiting.append(index)
            continue
        out[index] = color
        used.add(color)
    free = [color for color in _CYCLE if all(_distance(color, other) > 60 for other in used)]
    for turn, index in enumerate(waiting):
        out[index] = free[turn] if turn < len(free) else _generated(turn - len(free))
    return out


def id_color(number: int) -> tuple[int, int, int]:
    """Return the colour (RGB 0..255) of the object with this number: steady, bright enough for video, unlike its neighbours'.

    Hues of following numbers lie a golden section apart, so that any few of them are spread over the circle; lightness changes
    too, for eyes that do not tell the hues apart.

    Raises:
        InputError: `number` is not whole.
    """
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
        raise InputError(f"the number of an object must be whole; got {number!r:.60}")
    turn = (int(number) * 0x9E3779B9 + 0x8A000000) % 2**32 / 2**32  # the golden section, exact for numbers of any size
    lightness = (0.58, 0.70, 0.50)[int(number) % 3]
    while True:
        red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(turn, lightness, 0.9))
        if luminance((red, green, blue)) >= _LEAST_LUMINANCE:
            return red, green, blue
        lightness += 0.03  # blue and violet are dark at a lightness where green is bright


def luminance(color: tuple[int, int, int]) -> float:
    """Return the relative luminance (WCAG 2) of a colour: 0 black, 1 white."""
    linear = [value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _distance(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """How far apart two colours are, roughly: the eye tells greens apart best and blues worst."""
    red, green, blue = (a - b for a, b in zip(one, other, strict=True))
    return float((2 * red**2 + 4 * green**2 + 3 * blue**2) ** 0.5) / 1.5


def _generated(turn: int) -> tuple[int, int, int]:
    hue = (0.05 + turn * 0.6180339887) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, (0.35, 0.5, 0.65)[turn % 3], 0.6)
    return round(255 * red), round(255 * green), round(255 * blue)
