"""Frustum PVCNN-E: from the points of a camera frustum to one oriented box.

Liu, Tang, Lin and Han, NeurIPS 2019, section 4.3, after Qi et al., "Frustum PointNets for 3D Object Detection from RGB-D Data",
CVPR 2018: which points belong to the object, where its centre is, what box it fills. Coordinates are metres in the camera's
frame (x right, y down, z ahead), turned about y so that the frustum's axis is z; turning back is the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effvision.errors import ShapeError
from effvision.models.pvcnn.layers import CloudPlace, Place, PointwiseMLP, linear_block, pooled
from effvision.models.pvcnn.stages import Head, Stage, at_width, check_points, point_layers, run_layer
from effvision.ops.points import gather_points

__all__ = [
    "CATEGORIES",
    "HEADING_BINS",
    "SIZE_TEMPLATES",
    "BoxHead",
    "FrustumBoxes",
    "FrustumEstimate",
    "FrustumPVCNN",
    "FrustumSegmentation",
    "sample_foreground",
]

CATEGORIES = ("Car", "Pedestrian", "Cyclist")
"""What the three numbers of a one-hot category mean."""
HEADING_BINS = 12
SIZE_TEMPLATES: dict[str, tuple[float, float, float]] = {
    "Car": (3.883, 1.629, 1.526),
    "Van": (5.068, 1.901, 2.205),
    "Truck": (10.136, 2.585, 3.252),
    "Pedestrian": (0.844, 0.661, 1.763),
    "Person_sitting": (0.801, 0.598, 1.274),
    "Cyclist": (1.763, 0.597, 1.737),
    "Tram": (16.172, 2.533, 3.531),
    "Misc": (3.643, 1.543, 1.923),
}
"""Mean length, width and height in metres of the KITTI classes; a box is one of them plus a residual."""
_STAGES = (Stage(64, 2, 16), Stage(64, 1, 12), Stage(128, 1, 12), Stage(1024, 1, None))


class FrustumSegmentation(nn.Module):
    """Which points of a frustum belong to the object.

    Args:
        width: Multiplies all channels between input and classes.
        channels: Of a point: x, y, z and what else is known, such as reflectance.
    """

    def __init__(self, *, width: float = 1.0, channels: int = 4) -> None:
        super().__init__()
        self.channels = channels
        layers, last = point_layers(_STAGES, channels, width=width)
        self.point_features = nn.Sequential(*layers)
        self.classifier = Head(len(CATEGORIES) + 2 * last, (512, 256, 128, 128, 0.5), 2, width=width)

    def forward(self, points: Tensor, one_hot: Tensor | None = None) -> Tensor:
        """Tell object from background.

        Args:
            points: (N, C, P), coordinates in metres first.
            one_hot: Category of each frustum's object, (N, 3), see `CATEGORIES`. May instead be given as three more channels
                of every point, `points` (N, C + 3, P); they have to be the same at all points of a frustum.

        Returns:
            Logits (N, 2, P): background, object.

        Raises:
            ShapeError: another number of axes or channels.
            RangeError: NaN or infinity among the coordinates.
        """
        if one_hot is None:
            check_points(points, self.channels + len(CATEGORIES))
            points, one_hot = points[:, : self.channels], points[:, self.channels :, 0]
        else:
            check_points(points, self.channels)
            _check_one_hot(one_hot, points.shape[0])
        return self.run(points, one_hot, CloudPlace(points[:, :3]))

    def run(self, points: Tensor, one_hot: Tensor, place: Place) -> Tensor:
        """The same for points (N, C, P) whose grids come from `place`."""
        rows = points.transpose(1, 2)
        for layer in self.point_features:
            rows = run_layer(layer, rows, place)
        return self.classifier(rows, before=one_hot, after=pooled(rows))  # type: ignore[no-any-return]


class BoxHead(nn.Module):
    """A small PointNet with one answer for each object: pointwise layers, the maximum, linear layers.

    Args:
        layers: Channels of the pointwise layers.
        hidden: Channels of the linear layers.
        outputs: Numbers in the answer.
        width: Multiplies `layers` and `hidden`.
        last: Name under which the checkpoints keep the linear layers.
    """

    def __init__(
        self, layers: Sequence[int], hidden: Sequence[int], outputs: int, *, width: float, last: str = "classifier"
    ) -> None:
        super().__init__()
        inputs, pointwise, linear = 3, [], []
        for channels in layers:
            pointwise.append(PointwiseMLP(inputs, at_width(channels, width)))
            inputs = at_width(channels, width)
        self.features = nn.Sequential(*pointwise)
        inputs += len(CATEGORIES)
        for channels in hidden:
            linear.append(linear_block(inputs, at_width(channels, width)))
            inputs = at_width(channels, width)
        self.last = last
        self.add_module(last, nn.Sequential(*linear, nn.Linear(inputs, outputs)))

    def forward(self, coords: Tensor, one_hot: Tensor) -> Tensor:
        """Coords (N, 3, P) in metres and categories (N, 3) -> (N, outputs)."""
        found = pooled(self.features(coords.transpose(1, 2)))
        return self.get_submodule(self.last)(torch.cat([found, one_hot], dim=1))  # type: ignore[no-any-return]


class FrustumBoxes(nn.Module):
    """The two networks that follow the segmentation, side by side, as raw numbers.

    Both see the points they are given. In the pipeline (`FrustumPVCNN`) the box is estimated about the centre found first.
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        numbers = 3 + 2 * HEADING_BINS + 4 * len(SIZE_TEMPLATES)
        self.center_reg_net = BoxHead((128, 128, 256), (256, 128), 3, width=width, last="regression")
        self.box_est_net = BoxHead((128, 128, 256, 512), (512, 256), numbers, width=width)

    def forward(self, coords: Tensor, one_hot: Tensor) -> Tensor:
        """Estimate.

        Args:
            coords: (N, 3, P), metres from the mean of the object's points.
            one_hot: Category, (N, 3).

        Returns:
            (N, 62): shift of the centre (3), then of the box: centre (3), heading scores (12), heading residuals (12) as
            shares of half a bin, size scores (8), size residuals (8x3) as shares of the templates.

        Raises:
            ShapeError: another number of axes, channels or objects.
        """
        check_points(coords, 3)
        _check_one_hot(one_hot, coords.shape[0])
        return torch.cat([self.center_reg_net(coords, one_hot), self.box_est_net(coords, one_hot)], dim=1)


@dataclass(frozen=True)
class FrustumEstimate:
    """What Frustum PVCNN-E says of N frustums, in the turned frame of its input.

    Attributes:
        mask_logits: (N, 2, P): background, object.
        first_centre: (N, 3) metres, after the first regression.
        centre: (N, 3) metres.
        heading_scores: (N, 12).
        heading_residuals_rad: (N, 12), to be added to the bin's angle.
        size_scores: (N, 8), in the order of `SIZE_TEMPLATES`.
        size_residuals_m: (N, 8, 3), to be added to the templates.
        templates_m: (8, 3): length, width, height.
    """

    mask_logits: Tensor
    first_centre: Tensor
    centre: Tensor
    heading_scores: Tensor
    heading_residuals_rad: Tensor
    size_scores: Tensor
    size_residuals_m: Tensor
    templates_m: Tensor

    def boxes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the likeliest boxes: centre (N, 3) m, length-width-height (N, 3) m, heading (N,) in -pi..pi about y."""
        bins = self.heading_scores.argmax(1, keepdim=True)
        heading = bins * (2 * math.pi / HEADING_BINS) + self.heading_residuals_rad.gather(1, bins)
        kinds = self.size_scores.argmax(1)
        size = self.templates_m[kinds] + self.size_residuals_m[torch.arange(len(kinds), device=kinds.device), kinds]
        return self.centre, size, torch.remainder(heading[:, 0] + math.pi, 2 * math.pi) - math.pi


class FrustumPVCNN(nn.Module):
    """The whole pipeline: segmentation, sampling of the object's points, centre, box.

    Args:
        width: Multiplies all channels between input and answer.
        channels: Of a point.
        points_per_object: How many points of the object the box is estimated from.
    """

    def __init__(self, *, width: float = 1.0, channels: int = 4, points_per_object: int = 512) -> None:
        super().__init__()
        self.points_per_object = points_per_object
        self.inst_seg_net = FrustumSegmentation(width=width, channels=channels)
        boxes = FrustumBoxes(width=width)
        self.center_reg_net, self.box_est_net = boxes.center_reg_net, boxes.box_est_net
        self.register_buffer("size_templates", torch.tensor([list(SIZE_TEMPLATES.values())]))  # (1, 8, 3)

    def forward(self, points: Tensor, one_hot: Tensor, *, generator: torch.Generator | None = None) -> FrustumEstimate:
        """Estimate the box in each frustum.

        Args:
            points: (N, C, P), coordinates in metres first.
            one_hot: Category, (N, 3).
            generator: Which points of the object are taken is drawn from it; the same seed gives the same box. None draws
                from PyTorch's own.

        Raises:
            ShapeError: another number of axes or channels.
            RangeError: NaN or infinity among the coordinates.
        """
        logits = self.inst_seg_net(points, one_hot)
        coords, mean = sample_foreground(points[:, :3], logits, self.points_per_object, generator=generator)
        shift = self.center_reg_net(coords, one_hot)
        answer = self.box_est_net(coords - shift[..., None], one_hot)
        kinds = len(SIZE_TEMPLATES)
        centre, bins, turns, sizes, stretches = answer.split([3, HEADING_BINS, HEADING_BINS, kinds, 3 * kinds], dim=1)
        templates = self.get_buffer("size_templates")
        return FrustumEstimate(
            mask_logits=logits,
            first_centre=mean + shift,
            centre=mean + shift + centre,
            heading_scores=bins,
            heading_residuals_rad=turns * (math.pi / HEADING_BINS),
            size_scores=sizes,
            size_residuals_m=stretches.view(-1, kinds, 3) * templates,
            templates_m=templates[0],
        )


def sample_foreground(
    coords: Tensor, logits: Tensor, count: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw `count` points of each object, about their mean.

    Without repetition where there are enough; else every point equally often, and the rest of `count` drawn. A frustum without
    an object point gives zeros.

    Args:
        coords: (N, 3, P) metres.
        logits: (N, 2, P); a point belongs to the object where the second exceeds the first.
        count: How many.
        generator: Source of the draw, on the CPU.

    Returns:
        (N, 3, count), metres from the mean, and the mean (N, 3) of all points of the object.
    """
    objects = logits[:, 1] > logits[:, 0]  # (N, P)
    number = objects.sum(1, keepdim=True)
    mean = torch.where(objects[:, None], coords, 0).sum(2) / number.clamp(min=1)
    drawn = torch.zeros(coords.shape[0], count, dtype=torch.int64)
    for row, mask in enumerate(objects.cpu()):
        members = mask.nonzero()[:, 0]
        if len(members):
            whole, rest = divmod(count, len(members))
            shuffled = members[torch.randperm(len(members), generator=generator)]
            drawn[row] = torch.cat([members.repeat(whole), shuffled[:rest]])
    picked = gather_points(coords, drawn.to(coords.device)) - mean[..., None]
    return torch.where(number[..., None] > 0, picked, 0), mean


def _check_one_hot(one_hot: Tensor, clouds: int) -> None:
    if tuple(one_hot.shape) != (clouds, len(CATEGORIES)):
        raise ShapeError(f"`one_hot` must be (N, {len(CATEGORIES)}) with N={clouds}; got {tuple(one_hot.shape)}")
