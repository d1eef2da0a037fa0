"""What the PVCNN networks are made of.

Inside a network features are (N, P, C): the points of a cloud are rows, so that a pointwise layer is one matrix product and
voxel grids are gathered from rows. The parameters carry the names and shapes of the published checkpoints.

Where the points lie is not passed through the layers as numbers but as a `Place`, which knows how to get features into a
voxel grid and back. The usual one is `CloudPlace`; an exported graph brings one of its own (`graphs.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvision.errors import InputError
from effvision.ops.points import ball_query, farthest_points, gather_points, interpolate_three, nearest_three
from effvision.ops.volumes import convolve_volume, plane_taps
from effvision.ops.voxels import VoxelPlan, place_points, plan_voxels, voxel_positions

__all__ = [
    "CloudPlace",
    "FeaturePropagation",
    "Grid",
    "PVConv",
    "Place",
    "Pointwise",
    "PointwiseMLP",
    "SetAbstraction",
    "VolumeConv",
    "linear_block",
    "pooled",
]


class Grid(Protocol):
    """A voxel grid around the points: (N, C, P) in, (N, C, X, Y, Z) between, (N, C, P) out."""

    def voxelise(self, features: Tensor) -> Tensor:
        """Average the features of the points of each voxel."""

    def devoxelise(self, grid: Tensor) -> Tensor:
        """Read the grid at the points."""


class Place(Protocol):
    """Where the points of N clouds lie."""

    def grid(self, resolution: int, *, unit_ball: bool, margin: int | None) -> Grid:
        """Return the grid of `resolution` voxels a side; see `plan_voxels` for `margin`, which a place may ignore."""


class CloudPlace:
    """The points of N clouds by their coordinates (N, 3, P). Grids are planned once and shared by the layers."""

    def __init__(self, coords: Tensor) -> None:
        self.coords = coords
        self._placed: dict[bool, Tensor] = {}
        self._plans: dict[tuple[int, bool, int | None], VoxelPlan] = {}

    def grid(self, resolution: int, *, unit_ball: bool, margin: int | None) -> VoxelPlan:
        """Return the plan for one resolution."""
        key = (resolution, unit_ball, margin)
        if key not in self._plans:
            if unit_ball not in self._placed:
                self._placed[unit_ball] = place_points(self.coords, unit_ball=unit_ball)
            positions = voxel_positions(self._placed[unit_ball], resolution)
            self._plans[key] = plan_voxels(positions, resolution, margin=margin)
        return self._plans[key]


class Pointwise(nn.Conv1d):
    """A 1x1 convolution of rows (..., C) -> (..., O). `dims` trailing ones in the weight's shape follow the checkpoints."""

    def __init__(self, inputs: int, outputs: int, dims: int = 1) -> None:
        super().__init__(inputs, outputs, 1)
        if dims == 2:
            self.weight = nn.Parameter(self.weight[..., None].detach().clone())

    def forward(
        self, rows: Tensor | Sequence[Tensor], before: Tensor | None = None, after: Tensor | None = None
    ) -> Tensor:
        """Rows (..., C), or parts of them whose channels follow each other, -> (..., O).

        `before` (N, C') and `after` (N, C'') are first and last input channels that all points of a cloud share: they are
        multiplied once for each cloud and not once for each point.
        """
        weight = self.weight.flatten(1)
        parts = [rows] if isinstance(rows, Tensor) else rows
        shared = [part for part in (before, after) if part is not None]
        if not shared:
            return _linear(parts, weight, self.bias)
        first = 0 if before is None else before.shape[-1]
        last = first + sum(part.shape[-1] for part in parts)
        columns = torch.cat([weight[:, :first], weight[:, last:]], dim=1)
        once = F.linear(torch.cat(shared, dim=-1), columns, self.bias)
        return _linear(parts, weight[:, first:last], None) + once[:, None]


def _linear(parts: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """The linear layer of parts side by side, without laying them side by side: that took a fifth of a network's time.

    A graph for export gets one product of all, in fewer nodes.
    """
    if len(parts) == 1 or torch.compiler.is_exporting():
        return F.linear(torch.cat(list(parts), dim=-1) if len(parts) > 1 else parts[0], weight, bias)
    done = parts[0].shape[-1]
    out = F.linear(parts[0], weight[:, :done], bias)
    flat = out.view(-1, out.shape[-1])
    for part in parts[1:]:
        flat.addmm_(part.reshape(-1, part.shape[-1]), weight[:, done : done + part.shape[-1]].t())
        done += part.shape[-1]
    return out


class _RowNorm(nn.BatchNorm1d):
    """Batch normalisation of rows (..., C) over everything but the channels: that of a cloud, or of neighbourhoods."""

    def forward(self, rows: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return super().forward(rows.flatten(0, -2)).view(rows.shape)


class PointwiseMLP(nn.Module):
    """Linear, batch normalisation and ReLU for each point by itself, once for each number in `outputs`.

    Args:
        inputs: C.
        outputs: Channels after each of them.
        dims: 1 for points, 2 for neighbourhoods of points: only the shape of the stored weight differs.
    """

    def __init__(self, inputs: int, outputs: int | Sequence[int], *, dims: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (outputs,) if isinstance(outputs, int) else outputs:
            layers += [Pointwise(inputs, channels, dims), _RowNorm(channels), nn.ReLU(inplace=True)]
            inputs = channels
        self.layers = nn.Sequential(*layers)
        self.channels = inputs

    def forward(
        self, rows: Tensor | Sequence[Tensor], before: Tensor | None = None, after: Tensor | None = None
    ) -> Tensor:
        """(..., C) -> (..., C'); parts of rows, `before` and `after` as in `Pointwise`."""
        first, *rest = self.layers
        found: Tensor = first(rows, before, after)
        for layer in rest:
            found = layer(found)
        return found


class VolumeConv(nn.Conv3d):
    """A 3x3x3 convolution with padding 1, in the form that is fastest for its shape."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.taps: Tensor | None
        self.register_buffer("taps", None, persistent=False)

    def forward(self, grid: Tensor) -> Tensor:
        """(N, C, X, Y, Z) -> (N, O, X, Y, Z)."""
        return convolve_volume(grid, self.weight, self.bias, taps=self.taps)

    def keep_taps(self) -> None:
        """Keep the weight as `convolve_planes` takes it from now on; for networks that do not learn any more."""
        self.taps = plane_taps(self.weight.detach())


class Excite(nn.Module):
    """Squeeze and excitation of a voxel grid: each channel is scaled by what the means of all say (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = channels // reduction
        if hidden < 1:
            raise InputError(
                f"squeeze and excitation needs {reduction} or more channels; got {channels}: a greater width"
            )
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, grid: Tensor) -> Tensor:
        """(N, C, X, Y, Z) -> the same shape."""
        scale: Tensor = self.fc(grid.mean((2, 3, 4)))
        return grid * scale[:, :, None, None, None]


class PVConv(nn.Module):
    """Point-voxel convolution: two convolutions on a coarse grid, plus a layer on the points themselves.

    NeurIPS 2019, section 3.2 and figure 2.

    Args:
        inputs: C.
        outputs: C'.
        resolution: Voxels along each side of the grid.
        excite: With squeeze and excitation on the grid.
        unit_ball: Scale the cloud into the grid; see `voxel_positions`.
    """

    def __init__(
        self, inputs: int, outputs: int, *, resolution: int, excite: bool = False, unit_ball: bool = True
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.unit_ball = unit_ball
        self.excite = excite
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [
                VolumeConv(channels, outputs),
                nn.BatchNorm3d(outputs, eps=1e-4),
                nn.LeakyReLU(0.1, inplace=True),
            ]
        self.voxel_layers = nn.Sequential(*layers, *([Excite(outputs)] if excite else []))
        self.point_features = PointwiseMLP(inputs, outputs)
        self.channels = outputs

    def forward(self, rows: Tensor, place: Place) -> Tensor:
        """(N, P, C) -> (N, P, C')."""
        # statistics and squeezing look at every voxel; else those far from all points change nothing
        margin = None if self.training or self.excite else 1
        grid = place.grid(self.resolution, unit_ball=self.unit_ball, margin=margin)
        voxels = self.voxel_layers(grid.voxelise(rows.transpose(1, 2)))
        found: Tensor = self.point_features(rows)
        return found + grid.devoxelise(voxels).transpose(1, 2)


class SetAbstraction(nn.Module):
    """Fewer points, each with the maximum over its neighbourhood (PointNet++, NIPS 2017, section 3.2).

    Args:
        inputs: C.
        outputs: Channels of the layers inside a neighbourhood.
        centres: How many points are chosen.
        radius: Of a neighbourhood, in the unit of the coordinates.
        neighbours: Points taken in each.
    """

    def __init__(self, inputs: int, outputs: Sequence[int], *, centres: int, radius: float, neighbours: int) -> None:
        super().__init__()
        self.centres, self.radius, self.neighbours = centres, radius, neighbours
        self.mlps = nn.ModuleList([PointwiseMLP(inputs + 3, outputs, dims=2)])
        self.channels = outputs[-1]

    def forward(self, rows: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, P, C) at coords (N, 3, P) -> features (N, M, C') at (N, 3, M)."""
        centres = gather_points(coords, farthest_points(coords, self.centres))
        index = ball_query(centres, coords, radius=self.radius, neighbours=self.neighbours)
        offsets = gather_points(coords, index) - centres[..., None]  # (N, 3, M, U)
        around = gather_points(rows.transpose(1, 2), index)  # (N, C, M, U)
        grouped = torch.cat([offsets.movedim(1, -1), around.movedim(1, -1)], dim=-1)
        return self.mlps[0](grouped).amax(2), centres


class FeaturePropagation(nn.Module):
    """From few points back to many: interpolated features beside those of the way down (NIPS 2017, section 3.4)."""

    def __init__(self, inputs: int, outputs: Sequence[int]) -> None:
        super().__init__()
        self.mlp = PointwiseMLP(inputs, outputs)
        self.channels = outputs[-1]

    def forward(self, rows: Tensor, centres: Tensor, coords: Tensor, skip: Tensor) -> Tensor:
        """Features (N, M, C) at centres (N, 3, M), skip (N, P, C'') at coords (N, 3, P) -> (N, P, C')."""
        carried = interpolate_three(rows.transpose(1, 2), *nearest_three(coords, centres)).transpose(1, 2)
        return self.mlp(torch.cat([carried, skip], dim=-1))  # type: ignore[no-any-return]


def linear_block(inputs: int, outputs: int) -> nn.Sequential:
    """Linear, batch normalisation and ReLU for one vector per cloud."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True))


def pooled(rows: Tensor) -> Tensor:
    """(N, P, C) -> (N, C), the maximum over the points."""
    return rows.amax(1)
