"""Procedural furniture and objects as labelled clouds of points, for training, tests and samples; numpy only, no file.

    shape = make_shape("train", 7)                       # solids and the numbers behind them
    cloud = make_cloud("held-out", 7, points=2048)       # what a sensor would see of it

Everything follows from (seed, split, index); categories take turns. What the splits hold is said in `shapes_draw`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from effvision.errors import InputError
from effvision.models.pvcnn.shapes_draw import SPLITS, Draw
from effvision.models.pvcnn.shapes_furniture import bed, chair, shelf, table
from effvision.models.pvcnn.shapes_objects import airplane, bottle, car, lamp, monitor, mug
from effvision.models.pvcnn.shapes_solids import Samples, Solid, sample
from effvision.models.pvcnn.shapes_views import Look, PartCloud, observe

__all__ = ["CATEGORIES", "IGNORED", "LABELS", "PARTS", "Shape", "make_cloud", "make_shape", "parts_of"]

_MAKERS: dict[str, Callable[[Draw], list[Solid]]] = {
    "airplane": airplane, "bed": bed, "bottle": bottle, "car": car, "chair": chair, "lamp": lamp, "monitor": monitor,
    "mug": mug, "shelf": shelf, "table": table,
}  # fmt: skip
PARTS: dict[str, tuple[str, ...]] = {
    "airplane": ("body", "wing", "tail", "engine"),
    "bed": ("mattress", "headboard", "frame"),
    "bottle": ("body", "neck", "cap"),
    "car": ("body", "cabin", "wheel"),
    "chair": ("seat", "back", "leg", "arm"),
    "lamp": ("base", "pole", "shade"),
    "monitor": ("screen", "neck", "foot"),
    "mug": ("body", "handle", "saucer"),
    "shelf": ("side", "board", "back"),
    "table": ("top", "leg", "drawers"),
}
CATEGORIES = tuple(PARTS)
LABELS = tuple(f"{category}/{part}" for category, parts in PARTS.items() for part in parts)
IGNORED = -1
"""Label of points that belong to no part: outliers."""
_INDEX = {label: index for index, label in enumerate(LABELS)}


@dataclass(frozen=True)
class Shape:
    """One object.

    Attributes:
        category: One of `CATEGORIES`.
        solids: What it is made of, metres, z up, standing at 0.
        labels: Index into `LABELS` of each solid.
        shares: Where each key parameter lies in its range, 0..1.
        variants: Structural variants.
    """

    category: str
    solids: tuple[Solid, ...]
    labels: tuple[int, ...]
    shares: Mapping[str, float]
    variants: Mapping[str, str]

    def sample(self, count: int, rng: np.random.Generator) -> Samples:
        """Draw about `count` points from the surface, fewer by those that turn out to be buried."""
        return sample(self.solids, count, rng)


def parts_of(category: str) -> tuple[int, ...]:
    """Indices into `LABELS` of the parts of a category."""
    return tuple(_INDEX[f"{category}/{part}"] for part in PARTS[category])


def make_shape(split: str, index: int, *, seed: int = 0, category: str | None = None) -> Shape:
    """Make one object.

    Args:
        split: `train`, `development` or `held-out`.
        index: Which one; categories take turns.
        seed: Everything random.
        category: Take this one instead.

    Raises:
        InputError: no such split or category, or a negative number.
    """
    rng = np.random.default_rng(_key(split, index, seed, 0))
    category = CATEGORIES[index % len(CATEGORIES)] if category is None else category
    if category not in PARTS:
        raise InputError(f"`category` must be one of {', '.join(CATEGORIES)}; got {category!r:.60}")
    draw = Draw(rng, split)
    solids = _MAKERS[category](draw)
    labels = tuple(_INDEX[f"{category}/{solid.label}"] for solid in solids)
    return Shape(category, tuple(solids), labels, draw.shares, draw.variants)


def make_cloud(
    split: str, index: int, *, points: int = 2048, seed: int = 0, look: Look | None = None, category: str | None = None
) -> PartCloud:
    """Make what a sensor would see of one object.

    Args:
        split: As in `make_shape`.
        index: As in `make_shape`.
        points: P.
        seed: As in `make_shape`.
        look: How it is seen. Default: that of the split, `Look.train()` or `Look.held_out()`.
        category: As in `make_shape`.

    Raises:
        InputError: as `make_shape`, or fewer than 16 points.
    """
    if points < 16:
        raise InputError(f"`points` must be 16 or more; got {points}")
    shape = make_shape(split, index, seed=seed, category=category)
    rng = np.random.default_rng(_key(split, index, seed, 1))
    look = look or (Look.held_out() if split == "held-out" else Look.train())
    return observe(shape.solids, np.array(shape.labels), points, look, rng, shape.category)


def _key(split: str, index: int, seed: int, stream: int) -> tuple[int, int, int, int]:
    if split not in SPLITS or index < 0 or seed < 0:
        raise InputError(
            f"`split` must be one of {', '.join(SPLITS)}, `index` and `seed` 0 or more; got {split!r:.60}, {index}, {seed}"
        )
    return seed, SPLITS.index(split), index, stream
