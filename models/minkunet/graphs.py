"""The networks over the tables of `effvision.host.sparse_graph`: as what runs fastest in PyTorch, and as what can be exported.

Both take the same arrays. `PairGraph` reads the lists of pairs back out of the tables and runs the ops of
`effvision.ops.sparse_conv`; `TableGraph` gathers, multiplies and sums by the tables themselves, and so consists of operators
that every runtime of ONNX has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvision.host.sparse_graph import DOWNS, POINT_LEVELS, owners_of, pairs_of, table_axes
from effvision.models.minkunet.maps import Convolves, Maps
from effvision.models.minkunet.network import SparseUNet
from effvision.ops.sparse_conv import KernelMap
from effvision.ops.sparse_points import PointMap
from effvision.ops.sparse_tables import onnx_forms, picked_products, row_sums, summed_products

__all__ = ["PairGraph", "TableGraph"]

_CENTRE = 13  # of 27 offsets
Tables = Mapping[str, Tensor]


class _Graph(nn.Module):
    """Holds a fused network; `forward` takes feats (R, C), then the tables in the order of `table_axes`."""

    def __init__(self, network: SparseUNet) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(table_axes(points=network.has_points))

    def forward(self, feats: Tensor, *tables: Tensor) -> Tensor:
        """Classify every row: logits (R, K)."""
        return self.network.run(feats, self.maps(dict(zip(self.names, tables, strict=True))))

    def maps(self, tables: Tables) -> Maps:
        """Make the network's maps of tables."""
        raise NotImplementedError


class PairGraph(_Graph):
    """The network on its fastest path in PyTorch."""

    def maps(self, tables: Tables) -> Maps:
        """Read the pairs out of the tables; on the host, where they were made."""
        arrays = {name: table.cpu().numpy() for name, table in tables.items()}
        device = tables["near0_rows"].device
        rows = [len(arrays[f"near{level}_rows"]) for level in range(DOWNS + 1)]

        def kernel_map(name: str, volume: int, inputs: int, outputs: int, identity: int) -> KernelMap:
            source, target, bounds = pairs_of(arrays, name, volume, outputs)
            sources, targets = (torch.from_numpy(side).to(device) for side in (source, target))
            return KernelMap(sources, targets, tuple(bounds.tolist()), inputs, outputs, identity)

        near = [kernel_map(f"near{level}", 27, count, count, _CENTRE) for level, count in enumerate(rows)]
        down = [kernel_map(f"down{level}", 8, rows[level], rows[level + 1], -1) for level in range(DOWNS)]
        points = []
        for level in POINT_LEVELS if self.network.has_points else ():
            shares, corners, weights = (tables[f"points{level}_{one}"] for one in ("shares", "corners", "weights"))
            voxel = owners_of(arrays, f"points{level}", len(corners), rows[level])
            points.append(PointMap(torch.from_numpy(voxel).to(device), shares, corners, weights))
        return Maps(near, down, points)


class TableGraph(_Graph):
    """The network as gathers, products and sums."""

    onnx_forms = staticmethod(onnx_forms)

    def maps(self, tables: Tables) -> Maps:
        """Take the tables as they are."""
        near = [_NearMap(tables, f"near{level}") for level in range(DOWNS + 1)]
        down = [_DownMap(tables, level) for level in range(DOWNS)]
        points = [_Points(tables, f"points{level}") for level in POINT_LEVELS if self.network.has_points]
        return Maps(cast("list[Convolves]", near), cast("list[Convolves]", down), points)


def _finished(out: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
    for more in (bias, residual):
        out = out if more is None else out + more
    return out.relu() if relu else out


class _NearMap:
    """A submanifold convolution of 3x3x3."""

    def __init__(self, tables: Tables, name: str) -> None:
        self.chunks = tables[f"{name}_source"], tables[f"{name}_offset"]
        self.sums = _sums(tables, name)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
        """As `effvision.ops.sparse_conv.convolve`."""
        return _finished(summed_products(x, weight, bias, *self.chunks, *self.sums, _CENTRE), None, residual, relu)


class _DownMap:
    """A convolution of 2x2x2 with stride 2."""

    def __init__(self, tables: Tables, level: int) -> None:
        self.chunks = tables[f"down{level}_source"], tables[f"down{level}_offset"]
        self.sums = _sums(tables, f"down{level}")
        self.turned = _UpMap(tables, level)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
        """As `effvision.ops.sparse_conv.convolve`."""
        return _finished(summed_products(x, weight, bias, *self.chunks, *self.sums, -1), None, residual, relu)


class _UpMap:
    """The transposed convolution of a `_DownMap`: each output row is one product."""

    def __init__(self, tables: Tables, level: int) -> None:
        self.chunks = tables[f"up{level}_source"], tables[f"down{level}_offset"]
        self.rows = tables[f"up{level}_rows"]

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
        """As `effvision.ops.sparse_conv.convolve`."""
        return _finished(picked_products(x, weight, *self.chunks, self.rows), bias, residual, relu)


class _Points:
    """Points among the voxels of a level."""

    def __init__(self, tables: Tables, name: str) -> None:
        self.sums, self.rows = _sums(tables, name)
        self.crowd, self.shares, self.corners, self.weights = (
            tables[f"{name}_{one}"] for one in ("crowd", "shares", "corners", "weights")
        )

    def mean(self, points: Tensor) -> Tensor:
        """(P, C) -> (V, C)."""
        return cast(Tensor, row_sums(points, self.sums, self.crowd, self.rows) * self.shares)

    def read(self, voxels: Tensor) -> Tensor:
        """(V, C) -> (P, C)."""
        return torch.matmul(self.weights[:, None], F.embedding(self.corners, voxels)).squeeze(1)


def _sums(tables: Tables, name: str) -> tuple[list[Tensor], Tensor]:
    return [table for key, table in tables.items() if key.startswith(f"{name}_sum")], tables[f"{name}_rows"]
