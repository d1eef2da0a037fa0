"""How far a change is followed in mode `reference`; the other modes are in `effvision.host.edit_limits`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from effvision.host.edit_axes import Pad, Window
from effvision.host.edit_limits import Limit, Shares
from effvision.host.regions import Mask, Rect
from effvision.incremental.blocks import NetworkBlock
from effvision.incremental.reference import (
    ReferenceOptions,
    active_indices,
    block_shape,
    dilate,
    mask_pyramid,
    output_rects,
)
from effvision.incremental.rules import Convolution, Padding

__all__ = ["Published"]


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

    def _mask(self, block: NetworkBlock, index: int) -> Mask | None:
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

    def part(self, block: NetworkBlock, rects: list[Rect]) -> list[Rect]:
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
