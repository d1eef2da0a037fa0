"""Sparse tensors of torchsparse 2.1 in and out: plain tensors on our side, coordinates x, y, z, batch.

    feats, coords, stride = from_torchsparse(theirs)
    ours = SparseTensor(feats, coords, stride=stride)  # of effvision.ops.sparse
    theirs = to_torchsparse(ours.feats, ours.coords, ours.stride)

torchsparse 2.1 puts the batch first and, like effvision, divides coordinates by the stride; 1 and 2.0 do neither, under the
same names, and are refused. Weights need no conversion: submanifold kernels, size 1, and 2x2x2 with stride 2, down or
up, are (K, C_in, C_out) in the same order, or (C_in, C_out) for size 1, so state dicts of either generation load as
they are. (A 3x3x3 kernel with a stride sees 0, 1, 2 there by default, -1, 0, 1 with padding 1 and here.)

Written from torchsparse's source and tested with a stand-in for it. This project has not run it against torchsparse itself,
which is on no package index and needs a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from effvision._optional import require
from effvision.errors import DTypeError, InputError, ShapeError
from effvision.host.sparse import Kernel, triple

__all__ = ["from_torchsparse", "to_torchsparse"]

_BATCH_LAST, _BATCH_FIRST = [1, 2, 3, 0], [3, 0, 1, 2]


def from_torchsparse(tensor: Any) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
    """Read a tensor of torchsparse 2.1.

    Args:
        tensor: torchsparse.SparseTensor, or whatever has its `feats` (V, C), `coords` (V, 4) batch, x, y, z, `stride` and
            `spatial_range`.

    Returns:
        feats: (V, C), the same tensor.
        coords: (V, 4) int32 x, y, z, batch, in voxels of the tensor's own level, in the order given.
        stride: How many voxels of the finest level one of these spans along x, y and z.

    Raises:
        InputError: no such tensor, or one of an older torchsparse.
        ShapeError, DTypeError: attributes that are not as above.
    """
    missing = [name for name in ("feats", "coords", "stride", "spatial_range") if not hasattr(tensor, name)]
    if missing:
        raise InputError(
            f"{type(tensor).__name__} is no sparse tensor of torchsparse 2.1: it has no {', '.join(missing)}\n"
            "hint: torchsparse 1 and 2.0 keep the batch last and multiples of the stride: "
            "divide `coords[:, :3]` by the stride yourself"
        )
    _check(tensor.feats, tensor.coords)
    return tensor.feats, tensor.coords[:, _BATCH_LAST].int(), triple(_whole(tensor.stride), "stride")


def to_torchsparse(feats: Tensor, coords: Tensor, stride: Kernel = 1) -> Any:
    """Make a tensor of torchsparse 2.1.

    Args:
        feats: (V, C) floating.
        coords: (V, 4) whole numbers x, y, z, batch, in voxels of the tensor's own level, none twice.
        stride: How many voxels of the finest level one of these spans, or three.

    Returns:
        torchsparse.SparseTensor, on the device of `feats`, which it shares.

    Raises:
        MissingDependencyError: torchsparse is not installed.
        ShapeError, DTypeError: tensors that are not as above.
        InputError: an older torchsparse, tensors on different devices, or negative coordinates that it was not told to expect.
    """
    _check(feats, coords)
    torchsparse = require("torchsparse", package="git+https://github.com/mit-han-lab/torchsparse.git")
    if len(coords) and int(coords[:, :3].min()) < 0 and not torchsparse.tensor.get_allow_negative_coordinates():
        raise InputError(
            f"`coords` go down to {int(coords[:, :3].min())}, and torchsparse takes negative ones only if it is told\n"
            "hint: torchsparse.tensor.set_allow_negative_coordinates(True), or subtract the least"
        )
    made = torchsparse.SparseTensor(
        feats=feats, coords=coords[:, _BATCH_FIRST].int().contiguous(), stride=triple(stride, "stride")
    )
    if not hasattr(made, "spatial_range"):
        raise InputError(
            "this torchsparse is older than 2.1, and takes coordinates otherwise\nhint: install torchsparse 2.1"
        )
    return made


def _check(feats: Tensor, coords: Tensor) -> None:
    if coords.ndim != 2 or coords.shape[1] != 4 or feats.ndim != 2 or len(feats) != len(coords):
        raise ShapeError(
            f"`feats` must be (V, C) and `coords` (V, 4); got {tuple(feats.shape)} and {tuple(coords.shape)}"
        )
    if not feats.is_floating_point() or coords.is_floating_point() or coords.is_complex() or coords.dtype == torch.bool:
        raise DTypeError(f"`feats` must be floating and `coords` whole numbers; got {feats.dtype} and {coords.dtype}")
    if feats.device != coords.device:
        raise InputError(f"`feats` is on {feats.device} and `coords` on {coords.device}: move one of them")


def _whole(stride: Any) -> Kernel:
    """A stride as 2.1 keeps it, a tuple; or a number or list, as users set it."""
    return tuple(stride) if isinstance(stride, (list, tuple)) else stride
