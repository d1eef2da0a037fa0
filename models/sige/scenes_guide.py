"""What a picture needs besides its labels: where a pixel lies, and the grain of each material there.

The renderer draws every texture from these planes, and the generator is given the same planes. So a picture is a function of
what the network sees, and a flat region of one class can become foliage or waves: without them all its pixels would be equal.
NumPy only: a predictor needs this file, and no torch or OpenCV.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from effvision.errors import ShapeError
from effvision.models.sige.scenes_palette import LARGEST, PALETTE, SMALLEST, check_labels, check_seed

__all__ = ["CELL", "DOORS", "PLANES", "guide", "network_input"]

PLANES = (
    "height", "fine", "clump", "patch", "broad", "leaves", "crags", "waves", "rows", "courses", "panes",
)  # fmt: skip
"""The planes of a guide, in order. `height` is -1 in the first row and 1 in the last; `fine` to `broad` are noises with
waves of about 2, 6, 14 and 40 pixels; `leaves` and `crags` are bumps lit from the upper left; `waves` and `rows` lie on the
ground in perspective; `courses` are tiles and boards, `panes` (1, doors -1) where a wall may have windows."""

CELL = 16  # pixels from window to window
DOORS = 3 * CELL  # and from door to door
_TILE = 512  # side of the noises, which repeat
_HORIZON = 0.36  # height of the horizon of the ground's perspective, as a share of the picture's

Array = NDArray[np.float32]


def _noise(seed: int, wavelength: float, *, flat: float = 1.0) -> Array:
    """Noise (512, 512) that repeats, of deviation 1; `flat` times longer waves along a row."""
    white = np.random.default_rng((9, seed)).standard_normal((_TILE, _TILE))
    rows, columns = np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None] * flat
    radius = np.hypot(rows, columns) * wavelength
    band = np.exp(-((np.maximum(radius, 1.0) - 1.0) ** 2) * 3.0) * np.minimum(radius, 1.0) ** 1.5
    made = np.fft.irfft2(np.fft.rfft2(white) * band, s=(_TILE, _TILE))
    return np.asarray(made / made.std(), dtype=np.float32)


def _lit(relief: Array) -> Array:
    """Slope of a repeating relief towards the light from the upper left, of deviation 1."""
    along = np.roll(relief, -1, 1) - np.roll(relief, 1, 1) + 0.8 * (np.roll(relief, -1, 0) - np.roll(relief, 1, 0))
    return np.asarray(along / along.std(), dtype=np.float32)


@lru_cache(maxsize=1)
def _noises() -> dict[str, Array]:
    """The repeating noises behind the planes; a few must be of the same place, so that light fits to shape."""
    crest = 1.0 - np.abs(_noise(5, 60.0)) - 0.36 * np.abs(_noise(6, 22.0)) + 0.08 * _noise(7, 8.0)
    planes = {
        "fine": _noise(1, 2.2), "clump": _noise(2, 6.0), "patch": _noise(3, 14.0), "broad": _noise(4, 40.0),
        "leaves": _lit(_noise(2, 6.0) + 0.35 * _noise(8, 3.5)), "crags": _lit(crest),
        "waves": _noise(10, 6.0, flat=3.5),
    }  # fmt: skip
    return {name: np.asarray(0.4 * plane, dtype=np.float32) for name, plane in planes.items()}


def _roll(plane: Array, seed: int, number: int, height: int, width: int) -> Array:
    """Part (H, W) of a repeating plane that a seed chooses."""
    rng = np.random.default_rng((seed, number))
    down, right = (int(rng.integers(0, max(1, _TILE - side))) for side in (height, width))
    if max(height, width) < _TILE:
        return plane[down : down + height, right : right + width]
    rows, columns = (np.arange(height) + down) % _TILE, (np.arange(width) + right) % _TILE
    return np.asarray(plane[rows[:, None], columns])


def _depth(height: int) -> Array:
    """How near the ground is (H,), 0.08 at the horizon and above, 1 in the last row."""
    share = (np.arange(height) + 0.5) / height
    return np.asarray(np.clip((share - _HORIZON) / (1 - _HORIZON), 0.08, 1.0), dtype=np.float32)


def _waves(seed: int, height: int, width: int) -> Array:
    """Waves (H, W): the further away, the smaller; read from the noise between its columns."""
    near = _depth(height)
    down, right = np.random.default_rng((seed, 4)).integers(0, _TILE, 2)
    rows = (down + np.cumsum(1.1 / (0.45 + 1.1 * near)) * (256 / height)).astype(np.int64) % _TILE
    columns = right + (np.arange(width) - width / 2)[None] / (0.35 + 1.3 * near)[:, None] * (256 / width)
    left = np.floor(columns).astype(np.int64)
    rest = (columns - left).astype(np.float32)
    plane = _noises()["waves"]
    here, beside = plane[rows[:, None], left % _TILE], plane[rows[:, None], (left + 1) % _TILE]
    return np.asarray(here + (beside - here) * rest)


@lru_cache(maxsize=8)
def _fixed(height: int, width: int) -> dict[str, Array]:
    """Planes that no seed changes."""
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    near = _depth(height)[:, None]
    across = (x - width / 2) / width / (near + 0.1)
    rows = np.sin(2 * np.pi * 13 * across) * np.clip((near - 0.06) * 5, 0, 1)  # too fine to be seen far away
    course = (y % 4 == 3) | ((x + 4 * (y // 4 % 2)) % 8 == 0)  # every second course is half a tile further
    boards = np.where(course, -1.0, 0.6 - 0.3 * (y % 4))
    inside = (np.abs(x % CELL - CELL // 2) <= 3) & (np.abs(y % CELL - CELL // 2) <= 4)
    door = np.abs((x + 3) % DOORS - 3) <= 3
    panes = np.where(inside, 1.0, np.where(door, -1.0, 0.0))
    down = np.broadcast_to(np.linspace(-1, 1, height)[:, None], (height, width))
    found = {"height": down, "rows": rows, "courses": boards, "panes": panes}
    return {name: np.ascontiguousarray(plane, dtype=np.float32) for name, plane in found.items()}


def guide(height: int, width: int, seed: int = 0) -> Array:
    """Planes (P, H, W) float32 in [-1, 1], named by `PLANES`.

    Args:
        height: Rows of the picture.
        width: Columns of the picture.
        seed: Which part of the noises is used: another grain, the same scene.

    Raises:
        ShapeError: a side outside `SMALLEST`..`LARGEST`.
        DTypeError, RangeError: a seed that is no whole number from 0 on.
    """
    if not all(SMALLEST <= side <= LARGEST for side in (height, width)):
        raise ShapeError(
            f"a guide must have sides from {SMALLEST} to {LARGEST}; got {height} x {width}\n"
            "hint: give the sides of the label map"
        )
    noises, fixed, seed = _noises(), _fixed(height, width), check_seed(seed)
    place = {"fine": 0, "clump": 1, "leaves": 1, "patch": 2, "broad": 3, "crags": 5}  # leaves lie on their clumps
    made = np.empty((len(PLANES), height, width), dtype=np.float32)
    for plane, name in zip(made, PLANES, strict=True):
        if name in fixed:
            plane[...] = fixed[name]
        else:
            noise = (
                _waves(seed, height, width)
                if name == "waves"
                else _roll(noises[name], seed, place[name], height, width)
            )
            np.clip(noise, -1, 1, out=plane)
    return made


def network_input(labels: NDArray[np.uint8], seed: int = 0) -> Array:
    """What the generator of scenes takes: one-hot labels (K) and then the guide (P), as (K + P, H, W) float32.

    Raises:
        InputError: no label map, or no seed, see `check_labels` and `guide`.
    """
    labels = check_labels(labels)
    classes = len(PALETTE)
    made = np.empty((classes + len(PLANES), *labels.shape), dtype=np.float32)
    for label in range(classes):  # a plane at a time stays in the processor's cache
        np.copyto(made[label], labels == label)
    made[classes:] = guide(labels.shape[0], labels.shape[1], seed)
    return made
