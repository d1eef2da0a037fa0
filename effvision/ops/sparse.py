"""Sparse tensors, and the convolutions and poolings over them that users of spconv, torchsparse and MinkowskiEngine know.

    x = SparseTensor(feats, coords)  # or SparseTensor.from_points(...)
    y = submanifold_conv3d(x, weight)  # the same voxels
    down = sparse_conv3d(y, weight2, kernel_size=2, stride=2)
    up = sparse_conv_transpose3d(down, weight3, y)  # exactly the voxels of y
    rows = up.given()  # in the order of `coords`

Weights are (K, C_in, C_out), as in the checkpoints of torchsparse and MinkowskiEngine; `kernel_offsets` of
`effvision.host.sparse` gives their order. The kernel maps of a level are made when they are first needed and kept with its
voxels, so that no call names them. Choy, Gwak, Savarese, "4D Spatio-Temporal ConvNets", CVPR 2019, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from effvision.errors import DTypeError, InputError, RangeError, ShapeError
from effvision.host.sparse import Kernel, check_range, triple
from effvision.ops.rows import precise
from effvision.ops.sparse_conv import convolve, pool
from effvision.ops.sparse_maps import Voxels, pack
from effvision.ops.sparse_points import PointMap

__all__ = [
    "SparseTensor",
    "avg_pool3d",
    "cat",
    "global_avg_pool3d",
    "global_max_pool3d",
    "max_pool3d",
    "sparse_conv3d",
    "sparse_conv_transpose3d",
    "submanifold_conv3d",
]


class SparseTensor:
    """Features of the occupied voxels of N clouds. Rows are sorted by batch, x, y, z.

    Coordinates are x, y, z, batch, in voxels of the tensor's own level: halved by a stride of 2, as in spconv, torchsparse 2;
    not so in MinkowskiEngine. All three put the batch first: `coords[:, [1, 2, 3, 0]]` turns theirs into ours.

    Attributes:
        feats: (V, C) floating.
        voxels: Where they are, shared by all tensors of a level; holds the kernel maps.
    """

    def __init__(self, feats: Tensor, coords: Tensor, *, stride: Kernel = 1, batch_size: int | None = None) -> None:
        """Sort voxels and their features.

        Args:
            feats: (V, C) floating.
            coords: (V, 4) whole numbers x, y, z, batch in any order, negative ones too, none twice; on the device of `feats`.
            stride: How many voxels of the finest level one of these spans, or three.
            batch_size: N; None: one more than the greatest batch.

        Raises:
            ShapeError: not so, or no voxel.
            DTypeError: features that are not floating or coordinates that are not whole.
            RangeError: coordinates that cannot be packed; see `effvision.host.sparse.FARTHEST`.
            InputError: a voxel that stands twice (`from_points` averages those), or tensors on different devices.
        """
        _check_rows(feats, coords, "coords")
        self.voxels = Voxels.of(coords, stride=stride, batch_size=batch_size)
        rows = self.voxels.rows
        assert rows is not None
        self.feats = torch.empty_like(feats).index_copy(0, rows, feats)

    @classmethod
    def on(cls, voxels: Voxels, feats: Tensor) -> SparseTensor:
        """Features (V, C), one row for each of `voxels` in their sorted order.

        Raises:
            ShapeError: not so.
            DTypeError: not floating.
            InputError: on another device.
        """
        if feats.ndim != 2 or len(feats) != len(voxels):
            raise ShapeError(f"`feats` must be ({len(voxels)}, C), a row for each voxel; got {tuple(feats.shape)}")
        _check_rows(feats, voxels.keys, "voxels")
        made = cls.__new__(cls)
        made.voxels, made.feats = voxels, feats
        return made

    @classmethod
    def from_points(
        cls, points: Tensor, feats: Tensor, *, voxel_size: float | Sequence[float], batch: Tensor | None = None,
        batch_size: int | None = None,
    ) -> tuple[SparseTensor, PointMap]:  # fmt: skip
        """Average the features of the points of each voxel, floor(points / voxel_size).

        Args:
            points: (P, 3) floating or whole x, y, z, in metres or whatever `voxel_size` counts in; no gradient flows to them.
            feats: (P, C) floating.
            voxel_size: Side of a voxel, or three for x, y, z; 1 where `points` are voxels already.
            batch: (P,) whole numbers, the cloud of each point; None: one cloud.
            batch_size: N; None: one more than the greatest of `batch`.

        Returns:
            The tensor, whose `given()` repeats each voxel's row for its points; and the map between both: `read(feats)`
            interpolates rows of voxels at the points, trilinear, a voxel standing for its least corner; `voxel` is the row of
            each point; `mean` averages other features of the points.

        Raises:
            ShapeError: rows that do not fit each other, or no point.
            DTypeError: features that are not floating, batches that are not whole.
            RangeError: NaN, infinity or points too far off to be packed; sides of voxels that are not above 0.
            InputError: tensors on different devices.
        """
        for name, given in (("points", points), ("batch", batch)):
            if given is not None:
                _check_tensor(given, name)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ShapeError(f"`points` must be (P, 3): x, y, z; got {tuple(points.shape)}")
        batch = points.new_zeros(len(points), dtype=torch.int64) if batch is None else batch
        _check_rows(feats, points, "points")
        _check_rows(feats, batch, "batch")
        places = _places(points, voxel_size)
        if batch.ndim != 1 or batch.is_floating_point() or batch.is_complex() or batch.dtype == torch.bool:
            raise DTypeError(f"`batch` must be (P,) whole numbers; got {tuple(batch.shape)} {batch.dtype}")
        keys = torch.unique(pack(torch.column_stack([places.floor().long(), batch.long()])))
        voxels = Voxels(keys, batch_size=batch_size)
        point_map = voxels.points(places, batch)
        voxels.rows = point_map.voxel
        return cls.on(voxels, point_map.mean(feats)), point_map

    @classmethod
    def from_dense(
        cls, dense: Tensor, *, occupied: Tensor | None = None, origin: tuple[int, int, int] = (0, 0, 0)
    ) -> SparseTensor:
        """Take the occupied voxels of a grid.

        Args:
            dense: (N, C, X, Y, Z) floating.
            occupied: (N, X, Y, Z) bool; None: where any channel is not zero.
            origin: Coordinates of the grid's first voxel.

        Raises:
            ShapeError: not so, or nothing is occupied.
            DTypeError: features that are not floating.
            RangeError: coordinates that cannot be packed.
            InputError: tensors on different devices.
        """
        if dense.ndim != 5:
            raise ShapeError(f"`dense` must be (N, C, X, Y, Z); got {tuple(dense.shape)}")
        occupied = (dense != 0).any(1) if occupied is None else occupied
        if occupied.shape != (len(dense), *dense.shape[2:]) or occupied.dtype != torch.bool:
            given = f"{tuple(occupied.shape)} {occupied.dtype}"
            raise ShapeError(f"`occupied` must be {(len(dense), *dense.shape[2:])} bool; got {given}")
        if occupied.device != dense.device:
            raise InputError(f"`dense` is on {dense.device} and `occupied` on {occupied.device}: move one of them")
        batch, *axes = occupied.nonzero(as_tuple=True)
        coords = torch.stack([*(axis + first for axis, first in zip(axes, origin, strict=True)), batch], dim=1)
        return cls(dense[batch, :, axes[0], axes[1], axes[2]], coords, batch_size=len(dense))

    def to_dense(
        self, *, origin: tuple[int, int, int] | None = None, size: tuple[int, int, int] | None = None
    ) -> tuple[Tensor, tuple[int, int, int]]:
        """Write the features into a grid of zeros.

        Args:
            origin: Coordinates of the grid's first voxel; None: the least there are.
            size: X, Y, Z; None: up to the greatest there are.

        Returns:
            (N, C, X, Y, Z), and the origin.

        Raises:
            RangeError: voxels outside the grid.
        """
        coords = self.coords.long()
        low, high = torch.stack(coords[:, :3].aminmax(dim=0)).tolist()
        first = (low[0], low[1], low[2]) if origin is None else origin
        x, y, z = (b + 1 - a for a, b in zip(first, high, strict=True)) if size is None else size
        if any(a < o or b >= o + s for a, b, o, s in zip(low, high, first, (x, y, z), strict=True)):
            raise RangeError(
                f"voxels reach from {low} to {high}, outside a grid of {(x, y, z)} from {first}\n"
                "hint: leave `origin` and `size` out, and the grid holds them all"
            )
        dense = self.feats.new_zeros(self.batch_size, x, y, z, self.feats.shape[1])
        places = [coords[:, axis] - first[axis] for axis in range(3)]
        return dense.index_put((coords[:, 3], *places), self.feats).movedim(-1, 1), first

    @property
    def coords(self) -> Tensor:
        """(V, 4) int32 x, y, z, batch in voxels of this level, sorted like the rows of `feats`."""
        return self.voxels.coords

    @property
    def stride(self) -> tuple[int, int, int]:
        """How many voxels of the finest level one of these spans along x, y and z."""
        return self.voxels.stride

    @property
    def batch_size(self) -> int:
        """N, clouds."""
        return self.voxels.batch_size

    def given(self) -> Tensor:
        """The features in the order of the coordinates or points that were given: (M, C), gradients and all.

        Raises:
            InputError: voxels that a strided convolution made, in which nothing was given.
        """
        if self.voxels.rows is None:
            raise InputError("these voxels were made, not given, and have no other order than that of `coords`")
        return self.feats.index_select(0, self.voxels.rows)

    def replace_feature(self, feats: Tensor) -> SparseTensor:
        """Other features (V, C) on the same voxels; errors as `on`."""
        return SparseTensor.on(self.voxels, feats)

    def __add__(self, other: SparseTensor) -> SparseTensor:
        _check_voxels(self, other)
        mine, theirs = self.feats.shape[1], other.feats.shape[1]
        if mine != theirs:
            raise ShapeError(f"tensors of {mine} channels and {theirs} cannot be added up")
        return self.replace_feature(self.feats + other.feats)

    def __len__(self) -> int:
        return len(self.voxels)

    def __repr__(self) -> str:
        shape, dtype = tuple(self.feats.shape), self.feats.dtype
        return (
            f"SparseTensor({shape}, {dtype}, stride={self.stride}, batch_size={self.batch_size}, '{self.feats.device}')"
        )


def cat(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Join the channels of tensors on the same voxels.

    Raises:
        InputError: none, or voxels that differ.
    """
    if not tensors:
        raise InputError("`cat` needs at least one tensor")
    for other in tensors[1:]:
        _check_voxels(tensors[0], other)
    return tensors[0].replace_feature(torch.cat([one.feats for one in tensors], dim=1))


# -- convolutions ----------------------------------------------------------------------------------------------------------


def submanifold_conv3d(
    x: SparseTensor, weight: Tensor, bias: Tensor | None = None, *, kernel_size: Kernel = 3, dilation: Kernel = 1,
    residual: SparseTensor | None = None, relu: bool = False,
) -> SparseTensor:  # fmt: skip
    """Convolve; the outputs are the voxels of the inputs. spconv's SubMConv3d; stride 1 of torchsparse and MinkowskiEngine.

    out[v] = bias + residual[v] + sum over k of x[v + offset k] weight[k], over the voxels that are there. Graham, Engelcke, van
    der Maaten, CVPR 2018, section 3.

    Args:
        x: V voxels, C_in channels.
        weight: (K, C_in, C_out); or (C_in, C_out) for size 1.
        bias: (C_out,).
        kernel_size: Size along x, y, z, or one number for all three.
        dilation: Likewise, voxels between taps.
        residual: V voxels, C_out channels.
        relu: Cut the result at zero.

    Raises:
        ShapeError: sizes that do not fit each other.
        DTypeError: dtypes that differ.
        InputError: tensors on different devices, sizes that are none, a residual on other voxels.
    """
    taps = _taps(weight, kernel_size)
    if residual is not None:
        _check_voxels(x, residual)
    added = None if residual is None else residual.feats
    kernel_map = x.voxels.near(kernel_size, dilation)
    return x.replace_feature(convolve(x.feats, taps, kernel_map, bias=bias, residual=added, relu=relu))


def sparse_conv3d(
    x: SparseTensor, weight: Tensor, bias: Tensor | None = None, *, kernel_size: Kernel = 2, stride: Kernel = 2,
    dilation: Kernel = 1, relu: bool = False,
) -> SparseTensor:  # fmt: skip
    """Convolve with a stride; there is an output wherever the kernel sees an input. spconv's SparseConv3d.

    out[o] = bias + sum over k of x[o * stride + offset k] weight[k]. With stride 1 voxels spread to their neighbours;
    `submanifold_conv3d` keeps them.

    Args:
        x: V voxels, C_in channels.
        weight: (K, C_in, C_out); or (C_in, C_out) for size 1.
        bias: (C_out,).
        kernel_size: Size along x, y, z, or one number for all three.
        stride: Likewise.
        dilation: Likewise.
        relu: Cut the result at zero.

    Raises:
        ShapeError, DTypeError: as `submanifold_conv3d`.
        InputError: likewise; or the kernel sees no voxel.
        RangeError: voxels spread beyond what can be packed.
    """
    taps = _taps(weight, kernel_size)
    voxels, kernel_map = x.voxels.down(kernel_size, stride, dilation)
    return SparseTensor.on(voxels, convolve(x.feats, taps, kernel_map, bias=bias, relu=relu))


def sparse_conv_transpose3d(
    x: SparseTensor, weight: Tensor, fine: SparseTensor | Voxels, bias: Tensor | None = None, *, kernel_size: Kernel = 2,
    dilation: Kernel = 1, relu: bool = False,
) -> SparseTensor:  # fmt: skip
    """Convolve back to a finer level, exactly onto its voxels. spconv's SparseInverseConv3d; `transposed` of torchsparse.

    out[o * stride + offset k] gets x[o] weight[k]; the stride is that between the two levels. The map is that of the
    convolution down, if there was one of that kernel. A voxel of `fine` that no voxel of `x` leads to is the bias alone.

    Args:
        x: C_in channels.
        weight: (K, C_in, C_out), in the order of the convolution down.
        fine: A tensor of the finer level, or its voxels.
        bias: (C_out,).
        kernel_size: Size along x, y, z, or one number for all three.
        dilation: Likewise.
        relu: Cut the result at zero.

    Raises:
        ShapeError, DTypeError: as `submanifold_conv3d`.
        InputError: likewise; or levels that do not fit into each other, or of different clouds.
    """
    taps = _taps(weight, kernel_size)
    voxels = fine.voxels if isinstance(fine, SparseTensor) else fine
    kernel_map = voxels.between(x.voxels, kernel_size, dilation).turned
    return SparseTensor.on(voxels, convolve(x.feats, taps, kernel_map, bias=bias, relu=relu))


# -- poolings --------------------------------------------------------------------------------------------------------------


def max_pool3d(
    x: SparseTensor, kernel_size: Kernel = 2, stride: Kernel | None = None, dilation: Kernel = 1
) -> SparseTensor:
    """Take the greatest of the voxels that are there under the kernel.

    Args:
        x: (V, C).
        kernel_size: Size along x, y, z, or one number for all three.
        stride: Likewise; None: `kernel_size`. With stride 1 the outputs are the voxels of `x`.
        dilation: Likewise.

    Raises:
        InputError: sizes that are none, or a kernel that sees no voxel.
    """
    return _pool(x, kernel_size, stride, dilation, "max")


def avg_pool3d(
    x: SparseTensor, kernel_size: Kernel = 2, stride: Kernel | None = None, dilation: Kernel = 1
) -> SparseTensor:
    """Average the voxels that are there under the kernel, empty ones not counted; arguments and errors of `max_pool3d`."""
    return _pool(x, kernel_size, stride, dilation, "mean")


def global_max_pool3d(x: SparseTensor) -> Tensor:
    """Take the greatest of each cloud: (N, C).

    Raises:
        InputError: a cloud without a voxel.
    """
    place = _clouds(x)[:, None].expand_as(x.feats)
    return x.feats.new_zeros(x.batch_size, x.feats.shape[1]).scatter_reduce(
        0, place, x.feats, "amax", include_self=False
    )


def global_avg_pool3d(x: SparseTensor) -> Tensor:
    """Average each cloud: (N, C); half types in float32.

    Raises:
        InputError: a cloud without a voxel.
    """
    clouds, rows = _clouds(x), precise(x.feats)
    counts = torch.bincount(clouds, minlength=x.batch_size).to(rows.dtype)
    sums = rows.new_zeros(x.batch_size, rows.shape[1]).index_add(0, clouds, rows)
    return (sums / counts[:, None]).to(x.feats.dtype)


def _pool(x: SparseTensor, kernel: Kernel, stride: Kernel | None, dilation: Kernel, mode: str) -> SparseTensor:
    steps = triple(kernel if stride is None else stride, "stride")
    if steps == (1, 1, 1):
        return x.replace_feature(pool(x.feats, x.voxels.near(kernel, dilation), mode))
    voxels, kernel_map = x.voxels.down(kernel, steps, dilation)
    return SparseTensor.on(voxels, pool(x.feats, kernel_map, mode))


def _clouds(x: SparseTensor) -> Tensor:
    """(V,) int64, the cloud of each voxel."""
    clouds = x.coords[:, 3].long()
    counts = torch.bincount(clouds, minlength=x.batch_size)
    if not bool(counts.all()):
        raise InputError(f"cloud {int((counts == 0).nonzero()[0])} of {x.batch_size} has no voxel: nothing to pool")
    return clouds


# -- checks ----------------------------------------------------------------------------------------------------------------


def _check_rows(feats: Tensor, beside: Tensor, name: str) -> None:
    """Refuse features that are none, or do not belong to what is given beside them."""
    _check_tensor(feats, "feats")
    _check_tensor(beside, name)
    if feats.ndim != 2:
        raise ShapeError(f"`feats` must be (rows, C); got {tuple(feats.shape)}")
    if not feats.is_floating_point():
        raise DTypeError(f"`feats` must be of a floating dtype; got {feats.dtype}\nhint: `feats.float()`")
    if beside.ndim < 1 or len(feats) != len(beside):
        raise ShapeError(
            f"`feats` has {len(feats)} rows and `{name}` {tuple(beside.shape)}: one row of each belongs together"
        )
    if feats.device != beside.device:
        raise InputError(f"`feats` is on {feats.device} and `{name}` on {beside.device}: move one of them")


def _check_tensor(given: object, name: str) -> None:
    if not isinstance(given, Tensor):
        raise DTypeError(f"`{name}` must be a tensor; got {type(given).__name__}\nhint: `torch.as_tensor({name})`")


def _check_voxels(x: SparseTensor, other: SparseTensor) -> None:
    if not x.voxels.equals(other.voxels):
        raise InputError(
            f"{x} and {other} lie on different voxels\nhint: rows belong together only on one level of one cloud"
        )


def _taps(weight: Tensor, kernel: Kernel) -> Tensor:
    """The weights as (K, C_in, C_out)."""
    sizes = triple(kernel, "kernel_size")
    volume = math.prod(sizes)
    weight = weight[None] if weight.ndim == 2 and volume == 1 else weight
    if weight.ndim != 3 or len(weight) != volume:
        raise ShapeError(f"`weight` must be ({volume}, C_in, C_out) for a kernel of {sizes}; got {tuple(weight.shape)}")
    return weight


def _sides(voxel_size: float | Sequence[float]) -> Sequence[float]:
    """The sides of a voxel along x, y and z."""
    sides = voxel_size if isinstance(voxel_size, Sequence) else (voxel_size,) * 3
    with suppress(TypeError, ValueError):  # of what are no numbers
        if len(sides) == 3 and all(math.isfinite(side) and side > 0 for side in sides):
            return sides
    raise RangeError(f"`voxel_size` must be above 0, one number or three; got {voxel_size!r:.80}")


def _places(points: Tensor, voxel_size: float | Sequence[float]) -> Tensor:
    """(P, 3) points in voxels, none of them NaN or too far off to become whole numbers."""
    sides = _sides(voxel_size)
    if points.is_complex() or points.dtype == torch.bool:
        raise DTypeError(f"`points` must be real numbers; got {points.dtype}")
    exact = precise(points.detach()) if points.is_floating_point() else points.double()
    # a tensor, not a number: a GPU would multiply by the reciprocal of a number, which rounds otherwise
    places = exact / torch.tensor(sides, dtype=exact.dtype, device=exact.device)
    if len(places):
        low, high = torch.stack(places.aminmax(dim=0)).tolist()  # NaN if one is among them
        check_range([*low, 0], [*high, 0])
    return places
