"""The classes of the procedural scenes: what can be painted, in which colour the page shows it; the check of a label map."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effvision.errors import DTypeError, InputError, RangeError, ShapeError

__all__ = [
    "LARGEST",
    "NAMES",
    "PALETTE",
    "SIZE",
    "SMALLEST",
    "Paint",
    "check_labels",
    "check_seed",
    "class_index",
    "coloured",
]

SIZE = 256
"""Side of a scene in pixels."""

SMALLEST, LARGEST = 32, 1024
"""Sides a label map may have, in pixels."""


class Paint(NamedTuple):
    """One class: its name, and the RGB colour (0..255) that stands for it on a palette and in a coloured label map."""

    name: str
    colour: tuple[int, int, int]


PALETTE: tuple[Paint, ...] = (
    Paint("sky", (135, 188, 235)),
    Paint("cloud", (240, 244, 250)),
    Paint("mountain", (120, 112, 128)),
    Paint("snow", (214, 228, 244)),
    Paint("hill", (92, 132, 110)),
    Paint("grass", (118, 176, 74)),
    Paint("field", (222, 186, 84)),
    Paint("sand", (236, 216, 164)),
    Paint("water", (52, 112, 178)),
    Paint("road", (104, 104, 110)),
    Paint("tree", (40, 96, 48)),
    Paint("bush", (76, 140, 60)),
    Paint("rock", (150, 142, 132)),
    Paint("wall", (238, 226, 204)),
    Paint("roof", (186, 76, 56)),
)
"""Every class; its place is its label."""

NAMES: tuple[str, ...] = tuple(paint.name for paint in PALETTE)
"""Names of the classes, by label."""


def class_index(name: str) -> int:
    """Label of a class.

    Raises:
        InputError: no class has this name.
    """
    if name not in NAMES:
        raise InputError(f"no class of the scenes is called {name!r:.60}\nhint: one of {', '.join(NAMES)}")
    return NAMES.index(name)


def check_labels(labels: Any) -> NDArray[np.uint8]:
    """Return a label map if it is one: (H, W) uint8, sides `SMALLEST` to `LARGEST`, labels below `len(PALETTE)`.

    Raises:
        DTypeError: not a NumPy array of uint8.
        ShapeError: not two axes, or a side too short or too long.
        RangeError: a label that is no class.
    """
    if not isinstance(labels, np.ndarray) or labels.dtype != np.uint8:
        given = f"an array of {labels.dtype}" if isinstance(labels, np.ndarray) else f"a {type(labels).__name__}"
        raise DTypeError(f"a label map must be a NumPy array of uint8; got {given}\nhint: labels.astype(numpy.uint8)")
    if labels.ndim != 2 or not all(SMALLEST <= side <= LARGEST for side in labels.shape):
        raise ShapeError(
            f"a label map must have the shape (H, W) with sides {SMALLEST} to {LARGEST}; got {labels.shape}\n"
            "hint: one label a pixel, no axis of channels; resize with nearest neighbours"
        )
    highest = int(labels.max())
    if highest >= len(PALETTE):
        row, column = (int(place[0]) for place in np.nonzero(labels == highest))
        raise RangeError(
            f"labels must be 0 to {len(PALETTE) - 1}; got {highest} at row {row}, column {column}\n"
            f"hint: the classes are, from 0 on, {', '.join(NAMES)}"
        )
    return labels


def check_seed(seed: Any) -> int:
    """Return a seed if it is a whole number from 0 on.

    Raises:
        DTypeError: not a whole number.
        RangeError: below 0.
    """
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)):
        raise DTypeError(f"`seed` must be a whole number; got {seed!r:.60}\nhint: give an int from 0 on")
    if seed < 0:
        raise RangeError(f"`seed` must not be negative; got {seed}\nhint: give an int from 0 on")
    return int(seed)


def coloured(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Picture (H, W, 3) uint8 RGB of a label map (H, W) uint8 in the colours of the palette.

    Raises:
        InputError: no label map, see `check_labels`.
    """
    table = np.array([paint.colour for paint in PALETTE], dtype=np.uint8)
    return np.asarray(table[check_labels(labels)])
