"""Stages of point-voxel layers and the classifier of each point: what the networks are put together from.

`width` multiplies every number of channels but those of input and classes, rounded down, as in the published models
(0.125C, 0.25C, 1C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn

from effvision.errors import InputError, ShapeError
from effvision.models.pvcnn.layers import Place, Pointwise, PointwiseMLP, PVConv

__all__ = ["Head", "Stage", "at_width", "check_points", "point_layers", "run_layer"]


class Stage(NamedTuple):
    """`repeats` layers of `channels`: point-voxel convolutions on a grid of `resolution`, or pointwise ones without."""

    channels: int
    repeats: int
    resolution: int | None


def at_width(channels: int, width: float) -> int:
    """Return `channels` times `width`, rounded down.

    Raises:
        InputError: nothing would be left.
    """
    scaled = int(width * channels)
    if scaled < 1:
        raise InputError(f"`width` {width} leaves no channel of {channels}\nhint: the published widths are 0.125 to 1")
    return scaled


def check_points(points: Tensor, channels: int) -> None:
    """Refuse points that are not (N, C, P).

    Raises:
        ShapeError: another number of axes or channels, or no point.
    """
    if points.ndim != 3 or points.shape[1] != channels or points.shape[2] < 1:
        raise ShapeError(f"`points` must be (N, {channels}, P) with at least one point; got {tuple(points.shape)}")


class Head(nn.Sequential):
    """The classifier of each point: pointwise layers (whole numbers), dropout (shares below 1), then one linear layer."""

    def __init__(self, inputs: int, layers: Sequence[int | float], classes: int, *, width: float) -> None:
        made: list[nn.Module] = []
        for layer in layers:
            if layer < 1:
                made.append(nn.Dropout(layer))
            else:
                made.append(PointwiseMLP(inputs, at_width(int(layer), width)))
                inputs = at_width(int(layer), width)
        super().__init__(*made, Pointwise(inputs, classes))

    def forward(
        self, rows: Tensor | Sequence[Tensor], before: Tensor | None = None, after: Tensor | None = None
    ) -> Tensor:
        """Rows (N, P, C) or parts of them, with channels equal in all of a cloud as in `Pointwise`, -> logits (N, K, P)."""
        first, *rest = self
        found: Tensor = first(rows, before, after)
        for layer in rest:
            found = layer(found)
        return found.transpose(1, 2)


def point_layers(
    stages: Sequence[Stage], inputs: int, *, width: float, excite: bool = False, unit_ball: bool = True
) -> tuple[list[PVConv | PointwiseMLP], int]:
    """Return the layers of all stages in turn, and the channels after the last."""
    layers: list[PVConv | PointwiseMLP] = []
    for channels, repeats, resolution in stages:
        outputs = at_width(channels, width)
        for _ in range(repeats):
            if resolution is None:
                layers.append(PointwiseMLP(inputs, outputs))
            else:
                layers.append(PVConv(inputs, outputs, resolution=resolution, excite=excite, unit_ball=unit_ball))
            inputs = outputs
    return layers, inputs


def run_layer(layer: nn.Module, rows: Tensor, place: Place) -> Tensor:
    """Run one of `point_layers`: (N, P, C) -> (N, P, C')."""
    return cast(Tensor, layer(rows, place) if isinstance(layer, PVConv) else layer(rows))
