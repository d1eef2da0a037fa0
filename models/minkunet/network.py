"""MinkUNet and SPVCNN: U-Nets of sparse convolutions over the occupied voxels of a point cloud.

MinkUNet: Choy, Gwak and Savarese, "4D Spatio-Temporal ConvNets: Minkowski Convolutional Neural Networks", CVPR 2019, section 4.
SPVCNN: Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution", ECCV 2020, section 3: the same
network and a branch of points beside it, which keeps the detail that voxels lose. Layers and keys are those of the authors'
repository `spvnas`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from effvision.errors import DTypeError, InputError, ShapeError
from effvision.models.minkunet.layers import ConvBlock, Residual, SparseConv, convolved
from effvision.models.minkunet.maps import Convolves, Maps, build_maps, places_of
from effvision.ops.sparse_maps import pack, sort_keys

__all__ = ["CHANNELS", "SPVCNN", "MinkUNet", "SparseUNet"]

CHANNELS = (32, 32, 64, 128, 256, 256, 128, 96, 96)
"""Of the stem, the four stages down and the four up, at width 1."""

_DROPOUT = 0.3


class SparseUNet(nn.Module):
    """What MinkUNet and SPVCNN share.

    Attributes:
        in_channels: C.
        classes: K.
        width: What the channels are multiplied by, and rounded down.
        voxel_size_m: Side of a voxel in metres: how coordinates are made for it; the network itself does not use it.
    """

    has_points = False

    def __init__(
        self, in_channels: int = 4, classes: int = 19, *, width: float = 1.0, voxel_size_m: float = 0.05,
        channels: Sequence[int] = CHANNELS,
    ) -> None:  # fmt: skip
        """Build it with random weights; arguments as the attributes, and `channels` in place of the published `CHANNELS`.

        Raises:
            InputError: a size that is none, or not nine channels.
        """
        super().__init__()
        if len(channels) != len(CHANNELS):
            raise InputError(f"`channels` must be {len(CHANNELS)} numbers: stem, 4 down, 4 up; got {channels!r:.120}")
        channels = [int(width * count) for count in channels]
        if min(channels) < 1 or in_channels < 1 or classes < 1 or not voxel_size_m > 0:
            raise InputError(
                f"a network needs at least one channel, one class and a voxel size above 0; got in_channels={in_channels}, "
                f"classes={classes}, width={width:g} (channels {channels}), voxel_size_m={voxel_size_m:g}"
            )
        self.in_channels, self.classes, self.width, self.voxel_size_m = in_channels, classes, width, voxel_size_m
        stem = []
        for inputs in (in_channels, channels[0]):
            stem += [SparseConv(inputs, channels[0], 3), nn.BatchNorm1d(channels[0]), nn.ReLU()]
        self.stem = nn.Sequential(*stem)
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(ConvBlock(inputs, inputs, 2), Residual(inputs, outputs), Residual(outputs, outputs))
            for inputs, outputs in pairwise(channels[:5])
        )
        self.up1, self.up2, self.up3, self.up4 = (
            nn.ModuleList(
                [
                    ConvBlock(inputs, outputs, 2, turned=True),
                    nn.Sequential(Residual(outputs + beside, outputs), Residual(outputs, outputs)),
                ]
            )
            for inputs, outputs, beside in zip(channels[4:8], channels[5:], reversed(channels[:4]), strict=True)
        )
        self.classifier = nn.Sequential(nn.Linear(channels[8], classes))
        self.point_transforms = nn.ModuleList(
            nn.Sequential(nn.Linear(channels[a], channels[b]), nn.BatchNorm1d(channels[b]), nn.ReLU())
            for a, b in ((0, 4), (4, 6), (6, 8))
        )
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, coords: Tensor, feats: Tensor) -> Tensor:
        """Classify every voxel.

        Args:
            coords: (V, 4) int32 or int64 x, y, z, batch, in any order, negative ones too, none twice.
            feats: (V, C), dtype and device of the network.

        Returns:
            (V, K) logits, in the order of `coords`.

        Raises:
            ShapeError: not so, or no voxel.
            DTypeError: coordinates that are not whole numbers, or features of another dtype than the network's.
            RangeError: coordinates too large to pack; see `effvision.host.sparse.FARTHEST`.
            InputError: a voxel that stands twice, or tensors on different devices.
        """
        check_call(self, coords, feats)
        keys, rows = sort_keys(pack(coords))
        sorted_feats = torch.empty_like(feats).index_copy(0, rows, feats)
        return self.run(sorted_feats, build_maps(keys, None, feats.device)).index_select(0, rows)

    def run(self, feats: Tensor, maps: Maps) -> Tensor:
        """The network on maps that are given: rows of features in, logits out."""
        raise NotImplementedError

    def _stem(self, x: Tensor, near: Convolves) -> Tensor:
        for first in (0, 3):
            x = convolved(self.stem[first], self.stem[first + 1], x, near)
        return x

    def _down(self, x: Tensor, maps: Maps, level: int) -> Tensor:
        """From `level` to the next."""
        first, *blocks = (self.stage1, self.stage2, self.stage3, self.stage4)[level]
        x = first(x, maps.down[level])
        for block in blocks:
            x = block(x, maps.near[level + 1])
        return x

    def _up(self, x: Tensor, beside: Tensor, maps: Maps, level: int) -> Tensor:
        """To `level` from the one below, joined with what that level had on the way down."""
        raised, blocks = (self.up4, self.up3, self.up2, self.up1)[level]
        x = torch.cat([raised(x, maps.down[level]), beside], dim=1)
        for block in cast(nn.Sequential, blocks):
            x = block(x, maps.near[level])
        return x


class MinkUNet(SparseUNet):
    """The U-Net alone. `point_transforms` are in the published checkpoints too, unused."""

    def run(self, feats: Tensor, maps: Maps) -> Tensor:
        """(V, C) features of sorted voxels -> (V, K) logits."""
        beside = [self._stem(feats, maps.near[0])]
        for level in range(4):
            beside.append(self._down(beside[-1], maps, level))
        x = self.dropout(beside.pop())
        for level in (3, 2):
            x = self._up(x, beside.pop(), maps, level)
        x = self.dropout(x)
        for level in (1, 0):
            x = self._up(x, beside.pop(), maps, level)
        return cast(Tensor, self.classifier(x))


class SPVCNN(SparseUNet):
    """The U-Net with a branch of points.

    Attributes:
        point_size_m: Points may lie on a finer grid than the voxels: the side of its cells in metres, in which `coords` then
            count. None: the voxels' own, exactly.
    """

    has_points = True

    def __init__(
        self, in_channels: int = 4, classes: int = 19, *, width: float = 1.0, voxel_size_m: float = 0.05,
        point_size_m: float | None = None, channels: Sequence[int] = CHANNELS,
    ) -> None:  # fmt: skip
        """Build it with random weights; arguments as the attributes, and `channels` in place of the published `CHANNELS`.

        Raises:
            InputError: a size that is none, or not nine channels.
        """
        super().__init__(in_channels, classes, width=width, voxel_size_m=voxel_size_m, channels=channels)
        if point_size_m is not None and not point_size_m > 0:
            raise InputError(f"`point_size_m` must be above 0 or None; got {point_size_m!r:.60}")
        self.point_size_m = point_size_m

    def forward(self, coords: Tensor, feats: Tensor) -> Tensor:
        """Classify every point.

        Args:
            coords: (P, 4) int32 or int64 x, y, z, batch, in any order, negative ones too; the points of a voxel are averaged,
                also where the same coordinates stand twice.
            feats: (P, C), dtype and device of the network.

        Returns:
            (P, K) logits, in the order of `coords`.

        Raises:
            As MinkUNet, but for voxels that stand twice.
        """
        check_call(self, coords, feats)
        places = places_of(coords, self.point_size_m, self.voxel_size_m)
        keys = torch.unique(pack(places.floor().long()))
        return self.run(feats, build_maps(keys, places, feats.device))

    def run(self, feats: Tensor, maps: Maps) -> Tensor:
        """(P, C) features of points -> (P, K) logits."""
        fine, middle, coarse = maps.points
        beside = [self._stem(fine.mean(feats), maps.near[0])]
        points = fine.read(beside[0])
        x = fine.mean(points)
        for level in range(4):
            x = self._down(x, maps, level)
            beside.append(x)
        beside.pop()
        points = coarse.read(x) + self.point_transforms[0](points)
        x = self.dropout(coarse.mean(points))
        for level in (3, 2):
            x = self._up(x, beside.pop(), maps, level)
        points = middle.read(x) + self.point_transforms[1](points)
        x = self.dropout(middle.mean(points))
        for level in (1, 0):
            x = self._up(x, beside.pop(), maps, level)
        points = fine.read(x) + self.point_transforms[2](points)
        return cast(Tensor, self.classifier(points))


def check_call(network: SparseUNet, coords: Tensor, feats: Tensor) -> None:
    """Refuse what is no cloud for this network; `pack` looks at the coordinates themselves."""
    weight = network.classifier[0].weight
    if coords.ndim != 2 or coords.shape[1] != 4:
        raise ShapeError(f"`coords` must be (V, 4): x, y, z, batch; got {tuple(coords.shape)}")
    if feats.ndim != 2 or feats.shape[1] != network.in_channels:
        raise ShapeError(f"`feats` must be (V, {network.in_channels}); got {tuple(feats.shape)}")
    if len(coords) != len(feats):
        raise ShapeError(f"`coords` has {len(coords)} rows and `feats` {len(feats)}: one of each for a voxel")
    if coords.is_floating_point() or coords.is_complex() or coords.dtype == torch.bool:
        raise DTypeError(
            f"`coords` must be whole numbers of voxels; got {coords.dtype}\n"
            f"hint: (metres / {network.voxel_size_m:g}).round().int()"
        )
    if feats.dtype != weight.dtype:
        raise DTypeError(f"`feats` is {feats.dtype} and the network {weight.dtype}: make them one dtype")
    if coords.device != feats.device:
        raise InputError(f"`coords` is on {coords.device} and `feats` on {feats.device}: move one of them")
    if feats.device != weight.device:
        raise InputError(f"`feats` is on {feats.device} and the network on {weight.device}: move one of them")
