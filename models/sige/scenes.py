"""Landscapes with their label maps, as many as wanted: what the generator of scenes learns from, and what to begin with.

`layout(7)` is a label map (256, 256) uint8, `render(labels)` the picture (256, 256, 3) uint8 of any map, `edit(labels, 3)` the
map as if somebody had painted on it, and `network_input(labels)` what the generator takes, (K + P, 256, 256) float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effvision.errors import InputError
from effvision.models.sige.scenes_edit import edit
from effvision.models.sige.scenes_guide import PLANES, guide, network_input
from effvision.models.sige.scenes_layout import layout
from effvision.models.sige.scenes_palette import NAMES, PALETTE, SIZE, check_labels, check_seed, coloured
from effvision.models.sige.scenes_render import REACH, render

__all__ = [
    "NAMES",
    "PALETTE",
    "PLANES",
    "REACH",
    "SIZE",
    "SPLITS",
    "Scene",
    "check_labels",
    "coloured",
    "edit",
    "guide",
    "layout",
    "network_input",
    "render",
    "scene",
]

SPLITS = ("train", "validation", "test")
"""Scenes of two splits have no seed in common."""

_SPLIT_STEP = 3  # seeds of a split are this far apart


class Scene(NamedTuple):
    """One scene: labels (256, 256) uint8, picture (256, 256, 3) uint8 RGB, and the seed of its guide."""

    labels: NDArray[np.uint8]
    picture: NDArray[np.uint8]
    guide_seed: int


def scene(seed: int, *, split: str = "train", painted: float = 0.0) -> Scene:
    """One scene of a split.

    Args:
        seed: Which one, from 0 on.
        split: One of `SPLITS`.
        painted: Share of scenes that have been painted on, see `edit`.

    Raises:
        DTypeError, RangeError: a seed that is no whole number from 0 on.
        InputError: no such split.
    """
    if split not in SPLITS:
        raise InputError(f"`split` {split!r:.60} is unknown\nhint: one of {', '.join(SPLITS)}")
    own = check_seed(seed) * _SPLIT_STEP + SPLITS.index(split)
    labels = layout(own)
    rng = np.random.default_rng((3, own))
    if rng.random() < painted:
        labels = edit(labels, own, strokes=int(rng.integers(1, 13)))
    return Scene(labels, render(labels, own), own)
