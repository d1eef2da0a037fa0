"""PVCNN for S3DIS and ShapeNet parts, PVCNN++, and the PointNet they are compared with.

Liu, Tang, Lin and Han, "Point-Voxel CNN for Efficient 3D Deep Learning", NeurIPS 2019, sections 3 and 4. Every network takes
(N, C, P), coordinates first, and gives (N, K, P): logits, before softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from effvision.models.pvcnn.layers import CloudPlace, FeaturePropagation, Place, SetAbstraction, linear_block, pooled
from effvision.models.pvcnn.stages import Head, Stage, at_width, check_points, point_layers, run_layer

__all__ = ["PVCNN", "PVCNN2", "PointNet", "s3dis", "shapenet"]

S3DIS_STAGES = (Stage(64, 1, 32), Stage(64, 2, 16), Stage(128, 1, 16), Stage(1024, 1, None))
SHAPENET_STAGES = (Stage(64, 1, 32), Stage(128, 2, 16), Stage(512, 1, None), Stage(2048, 1, None))
POINTNET_STAGES = (Stage(64, 3, None), Stage(128, 1, None), Stage(1024, 1, None))

# PVCNN++, from the finest level to the coarsest: layers before the sampling, then centres, radius, neighbours, channels
_DOWN: tuple[tuple[Stage | None, int, float, int, tuple[int, ...]], ...] = (
    (Stage(32, 2, 32), 1024, 0.1, 32, (32, 64)),
    (Stage(64, 3, 16), 256, 0.2, 32, (64, 128)),
    (Stage(128, 3, 8), 64, 0.4, 32, (128, 256)),
    (None, 16, 0.8, 32, (256, 256, 512)),
)
# and back up: channels after the interpolation, then layers at that level
_UP: tuple[tuple[tuple[int, ...], Stage], ...] = (
    ((256, 256), Stage(256, 1, 8)),
    ((256, 256), Stage(256, 1, 8)),
    ((256, 128), Stage(128, 2, 16)),
    ((128, 128, 64), Stage(64, 1, 32)),
)


class PVCNN(nn.Module):
    """Point-voxel layers one after the other; every point is classified from all of them and from the cloud's maximum.

    Args:
        classes: K.
        channels: Input channels of the layers, coordinates first.
        categories: Further input channels that only the classifier sees, such as a one-hot object category.
        stages: The layers.
        cloud: Channels of the layers that the maximum over the points passes through; none leaves it as it is.
        head: The classifier, see `Head`.
        excite: With squeeze and excitation on the voxel grids.
        unit_ball: Scale each cloud into the grid; without, coordinates lie in -1..1 already.
        width: Multiplies all channels between input and classes.
    """

    def __init__(
        self,
        classes: int,
        *,
        channels: int = 9,
        categories: int = 0,
        stages: Sequence[Stage] = S3DIS_STAGES,
        cloud: Sequence[int] = (256, 128),
        head: Sequence[int | float] = (512, 0.3, 256, 0.3),
        excite: bool = False,
        unit_ball: bool = True,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.channels, self.categories = channels, categories
        layers, last = point_layers(stages, channels, width=width, excite=excite, unit_ball=unit_ball)
        self.point_features = nn.ModuleList(layers)
        blocks = []
        concatenated = categories + sum(layer.channels for layer in layers)
        for outputs in cloud:
            blocks.append(linear_block(last, at_width(outputs, width)))
            last = at_width(outputs, width)
        self.cloud_features = nn.Sequential(*blocks)
        self.classifier = Head(concatenated + last, head, classes, width=width)

    def forward(self, points: Tensor) -> Tensor:
        """Classify every point.

        Args:
            points: (N, C, P), coordinates in the first three channels, `categories` in the last.

        Returns:
            Logits (N, K, P).

        Raises:
            ShapeError: another number of axes or channels.
            RangeError: NaN or infinity among the coordinates.
        """
        check_points(points, self.channels + self.categories)
        return self.run(points, CloudPlace(points[:, :3]))

    def run(self, points: Tensor, place: Place) -> Tensor:
        """The same for points whose grids come from `place`."""
        rows = points.transpose(1, 2)  # (N, P, C)
        rows, found = rows[..., : self.channels], [rows[..., self.channels :]] if self.categories else []
        for layer in self.point_features:
            rows = run_layer(layer, rows, place)
            found.append(rows)
        cloud = self.cloud_features(pooled(rows))
        return self.classifier(found, after=cloud)  # type: ignore[no-any-return]


class PointNet(nn.Module):
    """Pointwise layers and the cloud's maximum, no neighbourhoods: the baseline of the paper's S3DIS table."""

    def __init__(self, classes: int, *, channels: int = 9, width: float = 1.0) -> None:
        super().__init__()
        self.channels = channels
        layers, last = point_layers(POINTNET_STAGES, channels, width=width)
        self.point_features = nn.Sequential(*layers)
        hidden, cloud = at_width(256, width), at_width(128, width)
        self.cloud_features = nn.Sequential(linear_block(last, hidden), linear_block(hidden, cloud))
        self.classifier = Head(last + cloud, (512, 256, 0.3), classes, width=width)

    def forward(self, points: Tensor) -> Tensor:
        """(N, C, P) -> logits (N, K, P).

        Raises:
            ShapeError: another number of axes or channels.
        """
        check_points(points, self.channels)
        rows = self.point_features(points.transpose(1, 2))
        return self.classifier(rows, after=self.cloud_features(pooled(rows)))  # type: ignore[no-any-return]


class PVCNN2(nn.Module):
    """PVCNN++: point-voxel layers at four levels of a PointNet++.

    Args:
        classes: K.
        channels: Input channels, coordinates (metres: the radii are) first.
        width: Multiplies all channels between input and classes.
    """

    def __init__(self, classes: int, *, channels: int = 9, width: float = 1.0) -> None:
        super().__init__()
        self.channels = channels
        inputs, skips, down = channels, [], []
        for stage, centres, radius, neighbours, outputs in _DOWN:
            skips.append(inputs)
            layers: list[nn.Module] = []
            if stage is not None:
                layers, inputs = _level(stage, inputs, width)
            channels_ = [at_width(number, width) for number in outputs]
            layers.append(SetAbstraction(inputs, channels_, centres=centres, radius=radius, neighbours=neighbours))
            inputs = channels_[-1]
            down.append(layers[0] if len(layers) == 1 else nn.Sequential(*layers))
        self.sa_layers = nn.ModuleList(down)
        skips[0] = channels - 3
        up = []
        for (outputs, stage), skip in zip(_UP, reversed(skips), strict=True):
            carry = FeaturePropagation(inputs + skip, [at_width(number, width) for number in outputs])
            layers, inputs = _level(stage, carry.channels, width)
            up.append(nn.Sequential(carry, *layers))
        self.fp_layers = nn.ModuleList(up)
        self.classifier = Head(inputs, (128, 0.5), classes, width=width)

    def forward(self, points: Tensor) -> Tensor:
        """(N, C, P) -> logits (N, K, P); the sampling starts at point 0, so the order of the points matters.

        Raises:
            ShapeError: another number of axes or channels.
            RangeError: NaN or infinity among the coordinates.
        """
        check_points(points, self.channels)
        rows, coords = points.transpose(1, 2), points[:, :3]
        levels: list[tuple[Tensor, Tensor, CloudPlace]] = []
        for level in self.sa_layers:
            cloud = CloudPlace(coords)
            levels.append((rows, coords, cloud))
            for layer in level if isinstance(level, nn.Sequential) else (level,):
                if isinstance(layer, SetAbstraction):
                    rows, coords = layer(rows, coords)
                else:
                    rows = run_layer(layer, rows, cloud)
        levels[0] = (points[:, 3:].transpose(1, 2), *levels[0][1:])  # the way back takes everything but the coordinates
        for level, (skip, finer, cloud) in zip(self.fp_layers, reversed(levels), strict=True):
            carry, *layers = cast(nn.Sequential, level)
            rows, coords = carry(rows, coords, finer, skip), finer
            for layer in layers:
                rows = run_layer(layer, rows, cloud)
        return self.classifier(rows)  # type: ignore[no-any-return]


def _level(stage: Stage, inputs: int, width: float) -> tuple[list[nn.Module], int]:
    """Return the point-voxel layers of one level of PVCNN++, and the channels after them."""
    layers, outputs = point_layers([stage], inputs, width=width, excite=True)
    return list(layers), outputs


def s3dis(classes: int = 13, *, channels: int = 9, width: float = 1.0) -> PVCNN:
    """Build the PVCNN of the paper's S3DIS table.

    The nine published channels: x, y, z in metres (x and y from the middle of a 1.5 m block, z above the floor), r, g, b in
    0..1, and x, y, z as shares of the room.
    """
    return PVCNN(classes, channels=channels, width=width)


def shapenet(parts: int = 50, *, categories: int = 16, channels: int = 6, width: float = 1.0) -> PVCNN:
    """Build the PVCNN of the paper's ShapeNet part table: coordinates in the unit ball, normals, one-hot category."""
    return PVCNN(
        parts,
        channels=channels,
        categories=categories,
        stages=SHAPENET_STAGES,
        cloud=(),
        head=(256, 0.2, 256, 0.2, 128),
        excite=True,
        unit_ball=False,
        width=width,
    )
