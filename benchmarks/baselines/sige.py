"""GauGAN in plain eager PyTorch as its authors' code and SIGE's dense comparison run it: the rival of `sige.py`.

Park, Liu, Wang and Zhu, "Semantic Image Synthesis with Spatially-Adaptive Normalization", CVPR 2019; Li et al., "Efficient
Spatially Sparse Inference for Conditional GANs and Diffusion Models", NeurIPS 2022, whose dense generator joins what reads the
same labels. Written from the papers and what that code does, without a line of `effvision.models`: NCHW, batch normalisation as
a layer of its own, labels resized anew in every block. Call in eval mode under `torch.inference_mode()`.

Once landed this file is not edited: a faster baseline must not raise or lower our own figure.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PlainGauGAN"]

CHANNELS = (16, 16, 16, 16, 8, 4, 2, 1)  # of the blocks in turn, in and out, as multiples of the width
DOUBLINGS = 6  # for Cityscapes: 4x8 becomes 256x512


class Norm(nn.Module):
    """Batch normalisation, then a scale and a shift made of the labels."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(channels, affine=False)
        self.both = nn.Conv2d(hidden, 2 * channels, 3, padding=1)
        self.channels = channels

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """(N, C, H, W) and (N, C_hidden, H, W) -> (N, C, H, W)."""
        gamma, beta = torch.split(self.both(hidden), self.channels, dim=1)
        return self.normalise(x) * (1 + gamma) + beta


class Block(nn.Module):
    """The residual block; its shortcut has a norm and a convolution where channels change."""

    def __init__(self, inputs: int, outputs: int, labels: int, hidden: int) -> None:
        super().__init__()
        middle = min(inputs, outputs)
        self.first, self.second = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((inputs, middle), (middle, outputs)))
        self.norms = nn.ModuleList([Norm(inputs, hidden), Norm(middle, hidden)])
        self.shortcut = None
        if inputs != outputs:
            self.norms.append(Norm(inputs, hidden))
            self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.shared = nn.Conv2d(labels, len(self.norms) * hidden, 3, padding=1)
        self.hidden = hidden

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(N, C, H, W), labels of any size -> (N, C_out, H, W)."""
        resized = F.interpolate(labels, size=x.shape[2:], mode="nearest")
        hidden = torch.split(F.relu(self.shared(resized)), self.hidden, dim=1)
        beside = x if self.shortcut is None else self.shortcut(self.norms[2](x, hidden[2]))
        y = self.first(F.leaky_relu(self.norms[0](x, hidden[0]), 0.2))
        y = self.second(F.leaky_relu(self.norms[1](y, hidden[1]), 0.2))
        return beside + y


class PlainGauGAN(nn.Module):
    """One-hot labels (N, C, H, W), multiples of 64 -> picture (N, 3, H, W) in -1..1."""

    def __init__(self, labels: int = 36, *, width: int = 64) -> None:
        super().__init__()
        channels = [count * width for count in CHANNELS]
        self.start = nn.Conv2d(labels, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList([Block(a, b, labels, 2 * width) for a, b in pairwise(channels)])
        self.picture = nn.Conv2d(width, 3, 3, padding=1)
        self.enlarge = nn.Upsample(scale_factor=2)

    def forward(self, labels: Tensor) -> Tensor:
        """Draw a picture."""
        rows, columns = (side // 2**DOUBLINGS for side in labels.shape[2:])
        x = self.start(F.interpolate(labels, size=(rows, columns)))
        for number, block in enumerate(self.blocks):
            x = block(self.enlarge(x) if number else x, labels)
        return torch.tanh(self.picture(F.leaky_relu(x, 0.2)))
