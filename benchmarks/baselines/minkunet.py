"""MinkUNet in plain eager PyTorch as torchsparse 1.4 runs it on a CPU: the rival of `sparse_conv.py`.

Choy, Gwak and Savarese, "4D Spatio-Temporal ConvNets", CVPR 2019, with the layers of the authors' repository `spvnas`. Written
from the papers and from what that CPU path does, without a line of `effvision.models` or `effvision.ops`: each kernel map is
searched offset by offset, all 27 of them, once a level; a convolution gathers, multiplies and adds for each offset over the
whole level; batch normalisation and ReLU are layers of their own. Call in eval mode under `torch.inference_mode()`.

Once landed this file is not edited: a faster baseline must not raise or lower our own figure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor, nn

__all__ = ["PlainMinkUNet"]

CHANNELS = (32, 32, 64, 128, 256, 256, 128, 96, 96)
ODD = [(x, y, z) for z, y, x in product((-1, 0, 1), repeat=3)]
EVEN = list(product((0, 1), repeat=3))
Map = list[tuple[Tensor, Tensor]]


def keys_of(coords: Tensor) -> Tensor:
    """One whole number for each voxel (V, 3); coordinates in 0..2^20 - 2."""
    shifted = coords.long() + 1
    return (shifted[:, 0] << 42) | (shifted[:, 1] << 21) | shifted[:, 2]


@dataclass
class Level:
    """Voxels of one stride and the maps found so far."""

    coords: Tensor
    maps: dict[str, Map] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys, self.order = keys_of(self.coords).sort()

    def find(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Rows here of the wanted coordinates, and rows of those that are here."""
        wanted = keys_of(coords)
        place = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        there = (self.keys[place] == wanted).nonzero()[:, 0]
        return self.order[place[there]], there

    def near(self) -> Map:
        """The map of 3x3x3."""
        if "near" not in self.maps:
            self.maps["near"] = [self.find(self.coords + torch.tensor(offset)) for offset in ODD]
        return self.maps["near"]

    def below(self) -> tuple[Level, Map]:
        """The next level and the map of 2x2x2 with stride 2."""
        coarse = Level(torch.unique(torch.div(self.coords, 2, rounding_mode="floor"), dim=0))
        return coarse, [self.find(coarse.coords * 2 + torch.tensor(offset)) for offset in EVEN]


class Conv(nn.Module):
    """For each offset: gather, multiply, add."""

    def __init__(self, inputs: int, outputs: int, volume: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(volume, inputs, outputs) * (2 / (inputs * min(volume, 9))) ** 0.5)

    def forward(self, x: Tensor, pairs: Map | None, rows: int, turned: bool = False) -> Tensor:
        """(V_in, C_in) -> (rows, C_out)."""
        if pairs is None:
            return x @ self.kernel[0]
        out = x.new_zeros(rows, self.kernel.shape[2])
        for weight, (source, target) in zip(self.kernel, pairs, strict=True):
            if turned:
                source, target = target, source
            if len(source):
                out[target] += x[source] @ weight
        return out


class Block(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, volume: int, relu: bool = True) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = Conv(inputs, outputs, volume), nn.BatchNorm1d(outputs), relu

    def forward(self, x: Tensor, pairs: Map | None, rows: int, turned: bool = False) -> Tensor:
        """(V_in, C_in) -> (rows, C_out)."""
        x = self.norm(self.conv(x, pairs, rows, turned))
        return x.relu() if self.relu else x


class Residual(nn.Module):
    """Two 3x3x3 beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = Block(inputs, outputs, 27), Block(outputs, outputs, 27, relu=False)
        self.shortcut = Block(inputs, outputs, 1, relu=False) if inputs != outputs else None

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """(V, C_in) -> (V, C_out)."""
        rows, pairs = len(x), level.near()
        beside = x if self.shortcut is None else self.shortcut(x, None, rows)
        return (self.second(self.first(x, pairs, rows), pairs, rows) + beside).relu()


class PlainMinkUNet(nn.Module):
    """coords (V, 3) whole numbers from 0 up, feats (V, C) -> logits (V, K)."""

    def __init__(self, inputs: int = 4, classes: int = 19, *, width: float = 0.5) -> None:
        super().__init__()
        c = [int(width * count) for count in CHANNELS]
        self.stem = nn.ModuleList([Block(inputs, c[0], 27), Block(c[0], c[0], 27)])
        self.down = nn.ModuleList([Block(c[i], c[i], 8) for i in range(4)])
        self.down_blocks = nn.ModuleList(
            [nn.ModuleList([Residual(c[i], c[i + 1]), Residual(c[i + 1], c[i + 1])]) for i in range(4)]
        )
        self.up = nn.ModuleList([Block(c[4 + i], c[5 + i], 8) for i in range(4)])
        self.up_blocks = nn.ModuleList(
            [nn.ModuleList([Residual(c[5 + i] + c[3 - i], c[5 + i]), Residual(c[5 + i], c[5 + i])]) for i in range(4)]
        )
        self.classifier = nn.Linear(c[8], classes)

    def forward(self, coords: Tensor, feats: Tensor) -> Tensor:
        """Classify every voxel."""
        levels, maps, x = [Level(coords)], [], feats
        for block in self.stem:
            x = block(x, levels[0].near(), len(x))
        beside = [x]
        for down, blocks in zip(self.down, self.down_blocks, strict=True):
            coarse, pairs = levels[-1].below()
            levels.append(coarse)
            maps.append(pairs)
            x = down(x, pairs, len(coarse.coords))
            for block in blocks:
                x = block(x, coarse)
            beside.append(x)
        beside.pop()
        for index, (up, blocks) in enumerate(zip(self.up, self.up_blocks, strict=True)):
            level, other = levels[3 - index], beside.pop()
            x = torch.cat([up(x, maps[3 - index], len(other), turned=True), other], 1)
            for block in blocks:
                x = block(x, level)
        return self.classifier(x)
