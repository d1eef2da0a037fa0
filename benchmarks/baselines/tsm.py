"""Online MobileNetV2 with temporal shift as plain eager PyTorch: the rival of `tsm_streaming.py`.

Lin, Gan and Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019, section 3.4 (online) on Sandler
et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, width 1.0. Written from the papers, without a
line of `effvision.models`: NCHW, batch normalisation as layers of its own, the shift as slice and concatenation, and the
channels held for the next frame passed in and handed back as tensors. Call it in eval mode under `torch.inference_mode()`.

Once landed this file is not edited: a faster baseline must not raise or lower our own figure.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["OnlineMobileNetV2"]

# Sandler et al., table 2: expansion, channels, blocks, stride of the first
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
FOLD = 8  # one channel in eight comes from the frame before


def _branch(inputs: int, outputs: int, stride: int, expansion: int) -> nn.Sequential:
    hidden = inputs * expansion
    expand = [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)]
    return nn.Sequential(
        *(expand if expansion > 1 else []),
        nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU6(inplace=True),
        nn.Conv2d(hidden, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )


class ShiftedBlock(nn.Module):
    """An inverted residual with a shortcut, whose branch sees the first channels of the frame before."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.branch = _branch(channels, channels, 1, expansion)
        self.held_channels = channels // FOLD

    def forward(self, x: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """Return features, and the channels to hold for the next frame."""
        kept, rest = x[:, : self.held_channels], x[:, self.held_channels :]
        return x + self.branch(torch.cat((held, rest), dim=1)), kept


class OnlineMobileNetV2(nn.Module):
    """One frame and the held channels of ten blocks in; logits and the channels to hold out."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(inplace=True))
        blocks: list[nn.Module] = []
        channels, scale = 32, 2
        self.held: list[tuple[int, int]] = []  # channels, and by how much the picture has shrunk there
        for expansion, outputs, count, first_stride in STAGES:
            for index in range(count):
                stride = first_stride if index == 0 else 1
                if stride == 1 and channels == outputs:
                    blocks.append(ShiftedBlock(channels, expansion))
                    self.held.append((channels // FOLD, scale))
                else:
                    blocks.append(_branch(channels, outputs, stride, expansion))
                channels, scale = outputs, scale * stride
        self.blocks = nn.ModuleList(blocks)
        self.top = nn.Sequential(nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(inplace=True))
        self.classifier = nn.Linear(1280, classes)

    def first_buffers(self, height: int, width: int) -> list[Tensor]:
        """Zeros (1, C', H', W') for a stream that has seen nothing; `height` and `width` divisible by 32."""
        return [torch.zeros(1, channels, height // scale, width // scale) for channels, scale in self.held]

    def forward(self, frame: Tensor, buffers: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(N, 3, H, W) normalised RGB and the buffers -> logits (N, K) and the next buffers."""
        x = self.stem(frame)
        following: list[Tensor] = []
        for block in self.blocks:
            if isinstance(block, ShiftedBlock):
                x, kept = block(x, buffers[len(following)])
                following.append(kept)
            else:
                x = block(x)
        x = self.top(x).mean(3).mean(2)
        return self.classifier(x), following
