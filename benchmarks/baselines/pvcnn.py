"""PVCNN for S3DIS as plain eager PyTorch, and the full PointNet it is compared with: the rivals of `pvcnn.py`.

Liu, Tang, Lin and Han, "Point-Voxel CNN for Efficient 3D Deep Learning", NeurIPS 2019. Written from the paper, without a line
of `effvision.models` or `effvision.ops`: channels first, `nn.Conv3d`, batch normalisation as layers of its own, voxelising by
`index_add`, reading the grid by eight gathers, everything again in every layer. Call in eval mode under
`torch.inference_mode()`.

Once landed this file is not edited: a faster baseline must not raise or lower our own figure.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["PlainPVCNN", "PlainPointNet", "RowPointNet", "devoxelise", "voxelise"]

# channels at width 1, layers, voxels a side; then pointwise
BLOCKS = ((64, 1, 32), (64, 2, 16), (128, 1, 16))
POINTWISE = 1024


def voxelise(features: Tensor, positions: Tensor, resolution: int) -> Tensor:
    """Mean of the features (N, C, P) at positions (N, 3, P) in each voxel: (N, C, r, r, r)."""
    clouds, channels, _ = features.shape
    voxels = resolution**3
    x, y, z = positions.round().long().unbind(1)
    index = (x * resolution + y) * resolution + z  # (N, P)
    grid = features.new_zeros(clouds, channels, voxels)
    counts = features.new_zeros(clouds, voxels)
    for n in range(clouds):
        grid[n].index_add_(1, index[n], features[n])
        counts[n].index_add_(0, index[n], features.new_ones(index.shape[1]))
    return (grid / counts.clamp(min=1)[:, None]).view(clouds, channels, resolution, resolution, resolution)


def devoxelise(grid: Tensor, positions: Tensor) -> Tensor:
    """Trilinear reading of a grid (N, C, r, r, r) at positions (N, 3, P): (N, C, P)."""
    resolution = grid.shape[-1]
    flat = grid.flatten(2)
    low = positions.floor()
    rest = positions - low
    first = low.long()
    second = first + (rest > 0).long()
    total = torch.zeros_like(flat[:, :, :1]).expand(-1, -1, positions.shape[2])
    for corner in range(8):
        far = (corner >> 2 & 1, corner >> 1 & 1, corner & 1)
        x, y, z = ((second if far[axis] else first)[:, axis] for axis in range(3))
        shares = [rest[:, axis] if far[axis] else 1 - rest[:, axis] for axis in range(3)]
        index = (x * resolution + y) * resolution + z
        found = flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))
        total = total + found * (shares[0] * shares[1] * shares[2])[:, None]
    return total


def _pointwise(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(inputs, outputs, 1), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True))


def _linear(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True))


class PointVoxel(nn.Module):
    """Two 3x3x3 convolutions on a grid, plus one layer on the points."""

    def __init__(self, inputs: int, outputs: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.voxels = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, padding=1),
            nn.BatchNorm3d(outputs, eps=1e-4),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv3d(outputs, outputs, 3, padding=1),
            nn.BatchNorm3d(outputs, eps=1e-4),
            nn.LeakyReLU(0.1, inplace=True),
        )
        self.points = _pointwise(inputs, outputs)

    def positions(self, coords: Tensor) -> Tensor:
        """Coordinates (N, 3, P) in voxels, 0..r-1."""
        centred = coords - coords.mean(2, keepdim=True)
        scaled = centred / (centred.norm(dim=1, keepdim=True).amax(2, keepdim=True) * 2) + 0.5
        return (scaled * self.resolution).clamp(0, self.resolution - 1)

    def forward(self, features: Tensor, coords: Tensor) -> Tensor:
        """(N, C, P) -> (N, C', P)."""
        positions = self.positions(coords)
        grid = self.voxels(voxelise(features, positions, self.resolution))
        return devoxelise(grid, positions) + self.points(features)


class PlainPVCNN(nn.Module):
    """(N, 9, P), coordinates first -> logits (N, K, P)."""

    def __init__(self, classes: int, *, width: float) -> None:
        super().__init__()
        inputs, total = 9, 0
        blocks: list[nn.Module] = []
        for channels, repeats, resolution in BLOCKS:
            for _ in range(repeats):
                blocks.append(PointVoxel(inputs, int(width * channels), resolution))
                inputs = int(width * channels)
                total += inputs
        self.blocks = nn.ModuleList(blocks)
        last = int(width * POINTWISE)
        self.wide = _pointwise(inputs, last)
        hidden, cloud = int(width * 256), int(width * 128)
        self.cloud = nn.Sequential(_linear(last, hidden), _linear(hidden, cloud))
        first, second = int(width * 512), int(width * 256)
        self.head = nn.Sequential(
            _pointwise(total + last + cloud, first),
            nn.Dropout(0.3),
            _pointwise(first, second),
            nn.Dropout(0.3),
            nn.Conv1d(second, classes, 1),
        )

    def forward(self, points: Tensor) -> Tensor:
        """Classify every point."""
        coords, features = points[:, :3], points
        found = []
        for block in self.blocks:
            features = block(features, coords)
            found.append(features)
        features = self.wide(features)
        cloud = self.cloud(features.amax(2))[:, :, None].expand(-1, -1, points.shape[2])
        return self.head(torch.cat([*found, features, cloud], dim=1))  # type: ignore[no-any-return]


class PlainPointNet(nn.Module):
    """The full-width PointNet of the paper's S3DIS table, as 1-D convolutions: (N, 9, P) -> logits (N, K, P)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        sizes = (9, 64, 64, 64, 128, 1024)
        self.points = nn.Sequential(*[_pointwise(a, b) for a, b in pairwise(sizes)])
        self.cloud = nn.Sequential(_linear(1024, 256), _linear(256, 128))
        self.head = nn.Sequential(
            _pointwise(1152, 512), _pointwise(512, 256), nn.Dropout(0.3), nn.Conv1d(256, classes, 1)
        )

    def forward(self, points: Tensor) -> Tensor:
        """Classify every point."""
        features = self.points(points)
        cloud = self.cloud(features.amax(2))[:, :, None].expand(-1, -1, points.shape[2])
        return self.head(torch.cat([features, cloud], dim=1))  # type: ignore[no-any-return]


class RowPointNet(nn.Module):
    """The same PointNet as linear layers on rows of points: the other form its authors might have chosen."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        sizes = (9, 64, 64, 64, 128, 1024)
        self.points = nn.Sequential(*[_linear(a, b) for a, b in pairwise(sizes)])
        self.cloud = nn.Sequential(_linear(1024, 256), _linear(256, 128))
        self.head = nn.Sequential(_linear(1152, 512), _linear(512, 256), nn.Dropout(0.3), nn.Linear(256, classes))

    def forward(self, points: Tensor) -> Tensor:
        """(N, 9, P) -> logits (N, K, P)."""
        clouds, _, number = points.shape
        features = self.points(points.transpose(1, 2).reshape(clouds * number, -1))
        cloud = self.cloud(features.view(clouds, number, -1).amax(1)).repeat_interleave(number, dim=0)
        return self.head(torch.cat([features, cloud], dim=1)).view(clouds, number, -1).transpose(1, 2)  # type: ignore[no-any-return]
