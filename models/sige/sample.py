"""Label maps to begin with, generated: scenes for the generator of scenes, plain shapes for any other classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effvision._files import appearing, as_path
from effvision.errors import InputError
from effvision.models.sige.encoding import Encoding
from effvision.models.sige.label_maps import SUFFIXES, to_colours
from effvision.viz import save_image

__all__ = ["edits", "first_map", "write_sample"]


def first_map(encoding: Encoding, seed: int) -> NDArray[np.uint8]:
    """Return a label map (H, W) uint8: a scene where classes and size are those of the scenes, else bands and boxes."""
    from effvision.models.sige.scenes import NAMES, SIZE, layout

    if encoding.names == NAMES and encoding.size == (SIZE, SIZE):
        return layout(seed)
    rng = np.random.default_rng([7, seed])
    height, width = encoding.size
    bands = np.sort(rng.integers(0, height, 3))
    labels = rng.permutation(len(encoding.names))[np.searchsorted(bands, np.arange(height)) % len(encoding.names)]
    made = np.repeat(labels.astype(np.uint8)[:, None], width, 1)
    for _ in range(6):
        _box(rng, made, len(encoding.names), 0.3)
    return made


def edits(encoding: Encoding, count: int, *, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Yield `count` label maps (H, W) uint8, each but the first an edit of the one before: a box of another class."""
    rng = np.random.default_rng([8, seed])
    labels = first_map(encoding, seed)
    for _ in range(count):
        yield labels
        labels = labels.copy()
        _box(rng, labels, len(encoding.names), 0.2)


def _box(rng: np.random.Generator, labels: NDArray[np.uint8], classes: int, most: float) -> None:
    """Paint a box of at most this share of each side, in place, in a class that is not the one in its middle."""
    height, width = labels.shape
    high, wide = (max(1, int(side * rng.uniform(most / 4, most))) for side in labels.shape)
    top, left = int(rng.integers(0, height - high + 1)), int(rng.integers(0, width - wide + 1))
    middle = int(labels[top + high // 2, left + wide // 2])
    labels[top : top + high, left : left + wide] = (middle + int(rng.integers(1, classes))) % classes


def write_sample(path: str | os.PathLike[str], encoding: Encoding, *, seed: int = 0) -> Path:
    """Write a generated label map as `.png` in the colours of its classes, or as `.npy`.

    Raises:
        InputError: another suffix, or a seed below 0.
        SourceError: the folder does not exist or cannot be written to.
    """
    target = as_path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(f"a label map is written as {' or '.join(SUFFIXES)}; got {target.name!r}")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"`seed` must be a whole number, 0 or more; got {seed!r:.60}")
    labels = first_map(encoding, int(seed))
    if target.suffix.lower() == ".png":
        return save_image(target, to_colours(labels, encoding.colours))
    with appearing(target) as temporary:
        np.save(temporary, labels, allow_pickle=False)
    return target
