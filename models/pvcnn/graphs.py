"""The networks as graphs of named tensors for export, in two forms; the networks themselves know of neither.

`PlacedScatterGraph` averages the points of a voxel by a scatter that adds: ONNX Runtime, TensorRT 10 and later. `TableGraph`
takes tables made on the host (`effvision.host.voxels`) and holds gathers and sums only: everything else, TensorRT 8 included.
Grids are read by one gather of eight rows a point in both. PVCNN++, which chooses its centres one by one, has neither form.

The last bit of a coordinate can decide in which voxel a point falls, so both take places that the host computed in float64;
TensorRT has none.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvision.errors import InputError
from effvision.models.pvcnn.frustum import FrustumSegmentation
from effvision.models.pvcnn.fusing import fuse
from effvision.models.pvcnn.layers import Excite, PVConv, VolumeConv
from effvision.models.pvcnn.network import PVCNN
from effvision.ops.voxels import voxel_positions

__all__ = ["TABLES", "PlacedScatterGraph", "TableGraph", "resolutions"]

TABLES = ("parts", "crowded", "shares", "cells", "corners", "weights")
"""Inputs of a `TableGraph` for each resolution, in order: the fields of `effvision.host.voxels.VoxelTables`."""

_MOST_VOXELS = 256
N = TypeVar("N", bound=nn.Module)
_AUTO, _BATCH, _POINTS = torch.export.Dim.AUTO, torch.export.Dim("batch", min=1), torch.export.Dim("points", min=1)
_OPEN: dict[str, dict[int, Any]] = {  # open axes of each input; `one_hot` is told apart by what stands before the `_`
    "points": {0: _BATCH, 2: _POINTS},
    "placed": {0: _BATCH, 2: _POINTS},
    "one": {0: _BATCH},
    "parts": {0: _AUTO, 1: _AUTO},
    "crowded": {0: _AUTO, 1: _AUTO},
    "shares": {0: _AUTO},
    "cells": {0: _BATCH, 1: _AUTO, 2: _AUTO, 3: _AUTO},
    "corners": {0: _AUTO},
    "weights": {0: _AUTO},
}


class PlaneConv(VolumeConv):
    """The same convolution over planes whatever the shape, which is not known when a graph is traced."""

    def forward(self, planes: Tensor) -> Tensor:
        """(N, X, C, Y, Z) -> (N*X, O, Y, Z): one 2D convolution, each plane stacked with those before and after it."""
        clouds, depth, channels, height, width = planes.shape
        padded = F.pad(planes, (0, 0, 0, 0, 0, 0, 1, 1))
        stacked = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=2)
        taps = self.weight.transpose(1, 2).reshape(self.weight.shape[0], 3 * channels, 3, 3)  # depth before channel
        return F.conv2d(stacked.reshape(clouds * depth, 3 * channels, height, width), taps, self.bias, padding=1)


class PlaneLayers(nn.Sequential):
    """The layers of a grid, kept as planes from the first to the last: ONNX Runtime would move every grid it transposes."""

    def forward(self, grid: Tensor) -> Tensor:
        """(N, C, X, Y, Z) -> (N, O, X, Y, Z)."""
        clouds, depth = grid.shape[0], grid.shape[2]
        planes = grid.transpose(1, 2).flatten(0, 1)
        for layer in self:
            if isinstance(layer, PlaneConv):
                planes = layer(_apart(planes, clouds, depth))
            elif isinstance(layer, Excite):
                planes = layer(_apart(planes, clouds, depth).transpose(1, 2)).transpose(1, 2).flatten(0, 1)
            else:
                planes = layer(planes)
        return _apart(planes, clouds, depth).transpose(1, 2)


def _apart(planes: Tensor, clouds: int, depth: int) -> Tensor:
    """(N*X, C, Y, Z) -> (N, X, C, Y, Z); `view` would ask for every other axis too, a node each."""
    return planes.unflatten(0, (clouds, depth))  # type: ignore[no-any-return,no-untyped-call]


def resolutions(network: nn.Module) -> tuple[int, ...]:
    """Return the distinct grid resolutions of a network, in the order they are first used."""
    return tuple(dict.fromkeys(layer.resolution for layer in network.modules() if isinstance(layer, PVConv)))


class _Graph(nn.Module):
    """Holds a fused copy of a network, with convolutions that can be traced."""

    def __init__(self, network: PVCNN | FrustumSegmentation) -> None:
        super().__init__()
        if not isinstance(network, (PVCNN, FrustumSegmentation)):
            raise InputError(
                f"{type(network).__name__} has no form as a graph: its sampling takes one step per point\n"
                "hint: export a PVCNN or a FrustumSegmentation"
            )
        if (most := max(resolutions(network), default=0)) > _MOST_VOXELS:
            raise InputError(f"a graph numbers its voxels in float32, up to {_MOST_VOXELS} a side; got {most}")
        self.network: PVCNN | FrustumSegmentation = _traceable(fuse(network))
        self.unit_ball = all(layer.unit_ball for layer in network.modules() if isinstance(layer, PVConv))
        self.given = ("one_hot",) if isinstance(network, FrustumSegmentation) else ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in order."""
        raise NotImplementedError

    def dynamic_shapes(self) -> tuple[Any, ...]:
        """Which axes are open, for `torch.onnx.export(dynamic_shapes=...)`: clouds, points, and sizes of tables."""
        plain = [name for name in self.inputs if name in ("points", "placed")]
        others = [_OPEN[name.partition("_")[0]] for name in self.inputs if name not in plain]
        return (*[_OPEN[name] for name in plain], *([tuple(others)] if others else []))

    def answer(self, points: Tensor, given: tuple[Tensor, ...], place: _ScatterPlace | _TablePlace) -> Tensor:
        """Run the network; `given` is the one-hot category of a frustum, or nothing."""
        if isinstance(self.network, FrustumSegmentation):
            return self.network.run(points, given[0], place)
        return self.network.run(points, place)


class PlacedScatterGraph(_Graph):
    """points (N, C, P), placed (N, 3, P) as `place_points` gives it, for a frustum also one_hot (N, 3), -> logits (N, K, P)."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in order."""
        return ("points", "placed", *self.given)

    def forward(self, points: Tensor, placed: Tensor, *given: Tensor) -> Tensor:
        """Classify every point."""
        return self.answer(points, given, _ScatterPlace(placed))


class TableGraph(_Graph):
    """points (N, C, P), for a frustum also one_hot (N, 3), then `TABLES` of each of `resolutions`, -> logits (N, K, P)."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in order: the tables as `VoxelTables.arrays` names them."""
        tables = [f"{table}_{size}" for size in resolutions(self.network) for table in TABLES]
        return ("points", *self.given, *tables)

    def forward(self, points: Tensor, *given: Tensor) -> Tensor:
        """Classify every point."""
        sizes = resolutions(self.network)
        tables = given[len(given) - len(TABLES) * len(sizes) :]
        groups = [tables[start : start + len(TABLES)] for start in range(0, len(tables), len(TABLES))]
        place = _TablePlace(dict(zip(sizes, groups, strict=True)))
        return self.answer(points, given[: len(given) - len(tables)], place)


def _traceable(network: N) -> N:
    """Exchange, in place, the convolutions that look at the shape of their input, and what carries grids between them."""
    for layer in network.modules():
        if type(layer) is VolumeConv:
            layer.__class__, layer.taps = PlaneConv, None
        elif isinstance(layer, PVConv):
            layer.voxel_layers.__class__ = PlaneLayers
    return network


class _ScatterPlace:
    """Points by their places in the unit cube (N, 3, P)."""

    def __init__(self, placed: Tensor) -> None:
        self.placed = placed
        self._grids: dict[int, _ScatterGrid] = {}

    def grid(self, resolution: int, *, unit_ball: bool, margin: int | None) -> _ScatterGrid:
        """Return the whole grid: how much of it is needed is not known when a graph is traced."""
        if resolution not in self._grids:
            self._grids[resolution] = _ScatterGrid(self.placed, resolution)
        return self._grids[resolution]


class _ScatterGrid:
    """A grid filled by a scatter that adds, along the last axis."""

    def __init__(self, placed: Tensor, resolution: int) -> None:
        self.side = resolution
        positions = voxel_positions(placed, resolution)
        low = positions.floor()
        fraction = positions - low
        steps = positions.new_tensor([resolution * resolution, resolution, 1])[:, None]
        self.index = (positions.round() * steps).sum(1).to(torch.int64)  # (N, P)
        ones = torch.ones_like(placed[:, :1])
        self.share = 1 / self._add(ones).clamp(min=1)  # (N, 1, V)
        first = torch.arange(placed.shape[0], device=placed.device)[:, None, None] * resolution**3
        far = positions.new_tensor([[k >> 2 & 1, k >> 1 & 1, k & 1] for k in range(8)]).t()  # (3, 8): which corner
        nearest = (low * steps).sum(1)[..., None]
        further = (fraction > 0).to(low.dtype) * steps
        offsets = torch.matmul(further.transpose(1, 2), far)  # float32 is exact for whole numbers to 256**3
        self.corners = ((nearest + offsets).to(torch.int64) + first).reshape(-1, 8)
        self.weights = (1 - far - fraction.transpose(1, 2)[..., None]).abs().prod(2).reshape(-1, 8)

    def _add(self, features: Tensor) -> Tensor:
        empty = features.new_zeros(features.shape[0], features.shape[1], self.side**3)
        return empty.scatter_add(2, self.index[:, None].expand(-1, features.shape[1], -1), features)

    def voxelise(self, features: Tensor) -> Tensor:
        """(N, C, P) -> (N, C, r, r, r)."""
        means = self._add(features) * self.share
        return means.view(means.shape[0], means.shape[1], self.side, self.side, self.side)

    def devoxelise(self, grid: Tensor) -> Tensor:
        """(N, C, r, r, r) -> (N, C, P)."""
        return _read(grid, self.corners, self.weights)


class _TablePlace:
    """Points by the tables of each resolution."""

    def __init__(self, tables: dict[int, tuple[Tensor, ...]]) -> None:
        self._grids = {resolution: _TableGrid(*found) for resolution, found in tables.items()}

    def grid(self, resolution: int, *, unit_ball: bool, margin: int | None) -> _TableGrid:
        """Return the grid of the given size: the host has cut it."""
        return self._grids[resolution]


class _TableGrid:
    """A grid filled by gathers and sums over lists of points."""

    def __init__(
        self, parts: Tensor, crowded: Tensor, shares: Tensor, cells: Tensor, corners: Tensor, weights: Tensor
    ) -> None:
        self.parts, self.crowded, self.shares, self.cells = parts, crowded, shares, cells
        self.corners, self.weights = corners, weights

    def voxelise(self, features: Tensor) -> Tensor:
        """(N, C, P) -> (N, C, X, Y, Z)."""
        rows = features.transpose(1, 2).flatten(0, 1)
        nothing = rows.new_zeros(1, rows.shape[1])
        parts = _rows(torch.cat([rows, nothing]), self.parts).sum(1)
        crowded = _rows(torch.cat([parts, nothing]), self.crowded).sum(1)
        means = torch.cat([parts, crowded, nothing]) * self.shares
        return _rows(means, self.cells).movedim(-1, 1)

    def devoxelise(self, grid: Tensor) -> Tensor:
        """(N, C, X, Y, Z) -> (N, C, P)."""
        return _read(grid, self.corners, self.weights)


def _read(grid: Tensor, corners: Tensor, weights: Tensor) -> Tensor:
    """Sum eight gathered rows: grid (N, C, X, Y, Z), corners and weights (N*P, 8) -> (N, C, P).

    One gather and a product of small matrices: no slower than eight gathers and sums in ONNX Runtime at 16 channels, 3.6 times
    as fast at 128, and a tenth of the nodes.
    """
    rows = _rows(grid.movedim(1, -1).flatten(0, 3), corners)
    found = torch.matmul(weights[:, None], rows)
    return found.view(grid.shape[0], -1, found.shape[2]).transpose(1, 2)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """(R, C) and an index of any shape -> (..., C)."""
    return F.embedding(index, table)
