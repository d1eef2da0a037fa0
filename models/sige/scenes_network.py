"""The generator of scenes: SPADE blocks that start at an eighth of the picture, so that a pixel hangs on nothing far from it.

Blocks, labels and norms are those of `network`; what differs is where it starts. GauGAN starts from a map of a few cells, where
every cell sees the whole picture; a pixel of this one sees 48 pixels each way, about as far as the renderer: edits stay local.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvision.errors import InputError, ShapeError
from effvision.models.sige.network import Norm, SpadeBlock
from effvision.models.sige.scenes_guide import PLANES
from effvision.models.sige.scenes_palette import PALETTE

__all__ = ["CHANNELS", "SceneGenerator"]

CHANNELS = len(PALETTE) + len(PLANES)
"""Channels of what `scenes_guide.network_input` makes."""

_STEP = 8  # sides of the picture are multiples of it


class SceneGenerator(nn.Module):
    """Labels and guide (N, C, H, W) -> picture (N, 3, H, W) in -1..1; H and W multiples of 8.

    Args:
        channels: C.
        widths: Channels at an eighth, a quarter, a half of the picture's size, and at its own.
        hidden: Channels between the labels and each scale and shift, at the same sizes.
        deep: Blocks at an eighth; each lets a pixel see 16 more each way.
        norm: Of the SPADE blocks; an instance norm makes every pixel hang on all others.

    Raises:
        InputError: not four positive widths and hidden widths, or no block.
    """

    def __init__(
        self,
        *,
        channels: int = CHANNELS,
        widths: tuple[int, int, int, int] = (96, 64, 32, 16),
        hidden: tuple[int, int, int, int] = (64, 48, 32, 24),
        deep: int = 1,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        if len(widths) != 4 or len(hidden) != 4 or min(*widths, *hidden, deep, channels) < 1:
            raise InputError(
                f"the generator of scenes needs four widths, four hidden widths, blocks and channels, all above 0; got "
                f"widths={widths}, hidden={hidden}, deep={deep}, channels={channels}\nhint: leave them out for the usual ones"
            )
        self.channels = channels
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.blocks_8 = nn.ModuleList(
            SpadeBlock(widths[0], widths[0], channels, hidden[0], norm=norm) for _ in range(deep)
        )
        self.narrow_4 = nn.Conv2d(widths[0], widths[1], 1)  # before doubling: a 1x1 convolution costs a quarter there
        self.block_4 = SpadeBlock(widths[1], widths[1], channels, hidden[1], norm=norm)
        self.narrow_2 = nn.Conv2d(widths[1], widths[2], 1)
        self.block_2 = SpadeBlock(widths[2], widths[2], channels, hidden[2], norm=norm)
        self.narrow_1 = nn.Conv2d(widths[2], widths[3], 1)
        self.block_1 = SpadeBlock(widths[3], widths[3], channels, hidden[3], norm=norm)
        self.to_picture = nn.Conv2d(widths[3], 3, 3, padding=1)

    def forward(self, labels: Tensor) -> Tensor:
        """Draw pictures (N, 3, H, W) in -1..1 of labels with their guides (N, C, H, W).

        Raises:
            ShapeError: other channels, or sides that are no multiples of 8.
        """
        if labels.ndim != 4 or labels.shape[1] != self.channels or labels.shape[2] % _STEP or labels.shape[3] % _STEP:
            raise ShapeError(
                f"`labels` must be (N, {self.channels}, H, W) with H and W multiples of {_STEP}; got {tuple(labels.shape)}\n"
                "hint: `scenes_guide.network_input` makes it from a label map"
            )
        height, width = labels.shape[2:]
        x = self.first(F.interpolate(labels, size=(height // 8, width // 8), mode="nearest"))
        for block in self.blocks_8:
            x = block(x, labels)
        x = self.block_4(F.interpolate(self.narrow_4(x), scale_factor=2.0, mode="nearest"), labels)
        x = self.block_2(F.interpolate(self.narrow_2(x), scale_factor=2.0, mode="nearest"), labels)
        x = self.block_1(F.interpolate(self.narrow_1(x), scale_factor=2.0, mode="nearest"), labels)
        return torch.tanh(self.to_picture(F.leaky_relu(x, 0.2)))
