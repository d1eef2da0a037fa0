"""How far a change is followed: one class a mode.

The exact rule of a block says which part of its target may change. A limit takes that, and what is known of the edit, and
answers which part is computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from effvision.incremental.axes import Pad, Window
from effvision.incremental.blocks import Block
from effvision.incremental.reference import (
    ReferenceOptions,
    active_indices,
    block_shape,
    dilate,
    mask_pyramid,
    output_rects,
)
from effvision.incremental.regions import Mask, Rect, paint, split, within
from effvision.incremental.rules import Convolution, Padding

__all__ = ["Limit", "Local", "Published"]

Shares = tuple[float, float, float, float]
_PAIRS = 256  # more pairs of rectangles than this are intersected as masks


class Limit:
    """Modes `exact` and `frozen`: everything that may change is computed again."""

    def begin(self, cores: Mapping[int, Sequence[Rect]], shares: Shares | None, masks: Sequence[Mask]) -> None:
        """Take an edit: the rectangles of the inputs, where they lie as shares of the picture, and the difference masks."""

    def part(self, block: Block, rects: list[Rect]) -> list[Rect]:
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

    def part(self, block: Block, rects: list[Rect]) -> list[Rect]:
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

    def _core(self, block: Block) -> list[Rect]:
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


class Published(Limit):
    """Mode `reference`: every convolution on the active blocks of the mask at its input's resolution.

    Args:
        options: The settings of the published engine.
    """

    def __init__(self, options: ReferenceOptions) -> None:
        self.options = options
        self._levels: dict[tuple[int, int], Mask] = {}

    def begin(self, cores: Mapping[int, Sequence[Rect]], shares: Shares | None, masks: Sequence[Mask]) -> None:
        """Make the pyramid of the largest inputs' masks together."""
        self._levels = {}
        if not masks:
            return
        largest = max((mask.shape for mask in masks), key=lambda shape: shape[0] * shape[1])
        together = np.logical_or.reduce([mask for mask in masks if mask.shape == largest])
        grown = dilate(together, self.options.dilation)
        self._levels = mask_pyramid(grown, least=self.options.least, dilation=self.options.level_dilation)

    def _level(self, h: int, w: int) -> Mask | None:
        """The mask at a resolution; that of maps larger than the inputs is the inputs' own, enlarged."""
        if (h, w) not in self._levels and self._levels:
            top, left = max(self._levels)
            if h >= top and w >= left and h % top == 0 and w % left == 0:
                self._levels[h, w] = self._levels[top, left].repeat(h // top, 0).repeat(w // left, 1)
        return self._levels.get((h, w))

    def _mask(self, block: Block, index: int) -> Mask | None:
        """The mask of a value that a convolution reads; that of a padded map is padded like it."""
        value = next(value for value in (*block.members, *block.leaves) if value.index == index)
        mask = self._level(*value.size)
        if mask is not None or not isinstance(value.rule, Padding) or value.rule.axes[0] is None:
            return mask
        mask = self._mask(block, value.inputs[0]) if value not in block.leaves else None
        if mask is None:
            return None
        amounts = [(axis.before, axis.m - axis.n - axis.before) for axis in value.rule.axes[0] if isinstance(axis, Pad)]
        rows, columns = (slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(amounts, mask.shape, strict=True))
        grown: Mask = np.pad(mask[rows, columns], [(max(a, 0), max(b, 0)) for a, b in amounts])
        return grown

    def part(self, block: Block, rects: list[Rect]) -> list[Rect]:
        """The active blocks of a convolution; all that may change of anything else, and below the smallest level."""
        rule = block.target.rule
        if not isinstance(rule, Convolution):
            return rects
        axes = rule.axes[0]
        if axes is None or not (isinstance(axes[0], Window) and isinstance(axes[1], Window)):
            return rects
        mask = self._mask(block, block.target.inputs[0])
        if mask is None:
            return [block.whole] if rects else []
        kernel, stride, padding = rule.kernel, rule.stride, (axes[0].padding, axes[1].padding)
        wanted = self.options.point_block if max(kernel) == 1 else self.options.block
        shape = block_shape(wanted, kernel, stride, padding)
        return output_rects(active_indices(mask, shape), shape, kernel, stride, *block.target.size)
