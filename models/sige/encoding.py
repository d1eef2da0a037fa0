"""From a label map to what a generator takes, and only the part of it that an edit changed. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import InputError
from effvision.models.sige.scenes_guide import PLANES, guide

__all__ = ["Encoding", "Rect", "distinct_colours", "hull_of", "parse_encoding"]

Rect = tuple[int, int, int, int]
"""Top, bottom, left, right: half-open."""

_LARGEST_SIDE = 4096
_MOST_CLASSES = 256


@dataclass(frozen=True, eq=False)
class Encoding:
    """How labels become the network's input.

    Attributes:
        kind: `labels`: one-hot, one channel a class. `scenes`: one-hot, then the planes of the guide of `scenes_guide`, which
            depend on the picture's size and a seed, not on the labels; so an edit changes only the one-hot channels. `colors`:
            the classes' colours as a picture (3 channels) in -1..1, as pix2pix takes them.
        size: (H, W) of the picture.
        names: K class names.
        colours: (K, 3) uint8 RGB.
        seed: Of the guide.
        edges: Whether one channel more follows the classes: 1 where a pixel's label differs from that of one of its four
            neighbours. GauGAN of Cityscapes takes the edges of instances there, which these are wherever no two instances of
            one class touch.
    """

    kind: str
    size: tuple[int, int]
    names: tuple[str, ...]
    colours: NDArray[np.uint8] = field(repr=False)
    seed: int = 0
    edges: bool = False

    @property
    def channels(self) -> int:
        """Of the network's input."""
        if self.kind == "colors":
            return 3
        return len(self.names) + (len(PLANES) if self.kind == "scenes" else int(self.edges))

    @cached_property
    def _guide(self) -> NDArray[np.float32]:
        """Made once: it would be a tenth of the time of a full pass, which an edit is compared with."""
        return guide(*self.size, self.seed)

    def array(self, labels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's input (1, C, H, W) float32 of a whole label map (H, W)."""
        made = np.empty((1, self.channels, *self.size), np.float32)
        if self.kind == "scenes":
            made[0, len(self.names) :] = self._guide
        self.write(made, labels, (0, self.size[0], 0, self.size[1]))
        return made

    def write(self, made: NDArray[np.float32], labels: NDArray[np.uint8], part: Rect) -> None:
        """Bring a part of an input of `array` up to date with a label map (H, W), in place."""
        here = (slice(part[0], part[1]), slice(part[2], part[3]))
        inside = labels[here]
        if self.kind == "colors":
            shown = self.colours[inside].transpose(2, 0, 1)
            made[0][:, here[0], here[1]] = shown / np.float32(127.5) - np.float32(1)
            return
        for label in range(len(self.names)):  # a plane at a time stays in the processor's cache
            np.copyto(made[0, label][here], inside == label)
        if self.edges:
            grown = (slice(max(0, part[0] - 1), part[1] + 1), slice(max(0, part[2] - 1), part[3] + 1))
            made[0, -1][grown] = _edges(labels)[grown]

    def touched(self, differs: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where the network's input may change (H, W) when labels change where `differs` is True."""
        return _grown(differs) if self.edges else differs

    def to_dict(self) -> dict[str, Any]:
        """Return the card's `preprocess`."""
        table = {"kind": self.kind, "size": list(self.size), "colors": self.colours.tolist()}
        more: dict[str, dict[str, Any]] = {"scenes": {"seed": self.seed}, "labels": {"edges": self.edges}}
        return {**table, **more.get(self.kind, {})}


def hull_of(mask: NDArray[np.bool_]) -> Rect:
    """Return the smallest rectangle around what is True in (H, W); something has to be."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def distinct_colours(names: Sequence[str]) -> NDArray[np.uint8]:
    """Return a colour for each class (K, 3) uint8 RGB, no two alike: `effvision.viz.class_colors`, some a shade off."""
    from effvision.viz import class_colors

    colours = class_colors(names)
    seen: set[tuple[int, ...]] = set()
    for row in colours:
        while tuple(row.tolist()) in seen:
            row[2] = (int(row[2]) + 1) % 256
        seen.add(tuple(row.tolist()))
    return colours


def parse_encoding(settings: Mapping[str, Any], names: tuple[str, ...]) -> Encoding:
    """Read a card's `preprocess`: `kind`, `size` (rows, columns), `colors`; for scenes `seed`, for labels `edges`.

    Raises:
        InputError: a setting is missing, unknown or out of range, or there are not as many colours as names.
    """
    if unknown := set(settings) - {"kind", "size", "colors", "seed", "edges"}:
        raise InputError(
            f"a label map's settings are kind, size, colors, seed and edges; got {', '.join(sorted(map(str, unknown)))}"
        )
    edges = settings.get("edges", False)
    kind, size, seed = settings.get("kind"), settings.get("size"), settings.get("seed", 0)
    if kind not in ("labels", "scenes", "colors"):
        raise InputError(f"`kind` must be labels, scenes or colors; got {kind!r:.60}")
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 2
        or not all(_whole(side, 1, _LARGEST_SIDE) for side in size)
    ):
        raise InputError(f"`size` must be rows and columns, 1 to {_LARGEST_SIDE}; got {size!r:.60}")
    if not 1 < len(names) <= _MOST_CLASSES:
        raise InputError(f"there must be 2 to {_MOST_CLASSES} classes; got {len(names)}")
    try:
        colours = np.array(settings.get("colors"))
    except ValueError:
        colours = np.zeros(0)
    whole = (
        colours.dtype.kind in "iu" and colours.shape == (len(names), 3) and colours.min() >= 0 and colours.max() < 256
    )
    if not whole or len(np.unique(colours, axis=0)) < len(names):
        raise InputError(
            f"`colors` must be {len(names)} different RGB colours, 0..255; got {settings.get('colors')!r:.80}"
        )
    if not _whole(seed, 0, 2**31):
        raise InputError(f"`seed` must be a whole number, 0 or more; got {seed!r:.60}")
    if not isinstance(edges, bool) or (edges and kind != "labels"):
        raise InputError(f"`edges` must be True or False, and is for kind 'labels' only; got {edges!r:.60}")
    return Encoding(str(kind), (int(size[0]), int(size[1])), names, colours.astype(np.uint8), int(seed), edges)


def _edges(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """True (H, W) where a label differs from that of one of its four neighbours; SPADE's `get_edges`."""
    found = np.zeros(labels.shape, np.bool_)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (H, W) and the four neighbours of each of its pixels."""
    found = mask.copy()
    found[1:] |= mask[:-1]
    found[:-1] |= mask[1:]
    found[:, 1:] |= mask[:, :-1]
    found[:, :-1] |= mask[:, 1:]
    return found


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(least <= value <= most)
