"""How far an edit is followed: one class a mode.

The exact rule of a block says which part of its target may change. A limit takes that, and what is known of the edit, and
answers which part is computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effvision.host.edit_blocks import Block
from effvision.host.regions import Mask, Rect, paint, split, within

__all__ = ["Limit", "Local", "Shares"]

Shares = tuple[float, float, float, float]
_PAIRS = 256  # more pairs of rectangles than this are intersected as masks


class Limit:
    """Modes `exact` and `frozen`: everything that may change is computed again."""

    def begin(self, cores: Mapping[int, Sequence[Rect]], shares: Shares | None, masks: Sequence[Mask]) -> None:
        """Take an edit: the rectangles of the inputs, where they lie as shares of the picture, and the difference masks."""

    def part(self, block: Block[Any], rects: list[Rect]) -> list[Rect]:
        """What is computed again, of the rectangles that may change."""
        return rects


class Local(Limit):
    """Mode `local`: the edit itself, carried to each block's resolution and grown by `halo` pixels there.

    Args:
        halo: Pixels of each block's own map.
    """

    def __init__(self, halo: int) -> None:
        self.halo = halo
        self._cores: dict[int, list[Rect]] = {}
        self._shares: Shares | None = None

    def begin(self, cores: Mapping[int, Sequence[Rect]], shares: Shares | None, masks: Sequence[Mask]) -> None:
        """Start from the edit of the inputs."""
        self._cores = {index: list(rects) for index, rects in cores.items()}
        self._shares = shares

    def part(self, block: Block[Any], rects: list[Rect]) -> list[Rect]:
        """The part of the rectangles that lies within the halo of the edit."""
        core = self._core(block)
        self._cores[block.target.index] = core
        if block.dense or not core:
            return rects
        h, w = block.target.size
        by = self.halo
        grown = [(max(t - by, 0), min(b + by, h), max(le - by, 0), min(r + by, w)) for t, b, le, r in core]
        if len(grown) * len(rects) > _PAIRS:
            return split(paint(rects, h, w) & paint(grown, h, w), 16.0)
        return [found for rect in rects for limit in grown if (found := within(rect, limit))]

    def _core(self, block: Block[Any]) -> list[Rect]:
        """Where the edit lies in the block's target; nothing where that is unknown."""
        if not block.target.picture:
            return []
        pictures = [leaf for leaf in block.leaves if leaf.picture and self._cores.get(leaf.index)]
        if not block.dense and pictures:
            found = [block.reaches(leaf, rect, core=True) for leaf in pictures for rect in self._cores[leaf.index]]
            return sorted({rect for rect in found if rect})
        if self._shares is None:
            return []
        h, w = block.target.size
        top, bottom, left, right = self._shares
        rect = int(top * h), int(np.ceil(bottom * h)), int(left * w), int(np.ceil(right * w))
        return [rect] if rect[0] < rect[1] and rect[2] < rect[3] else []
