"""Matching many small patterns, each within its own picture: the correlation that PatchNet is made of.

Every object brings filters of its own, so this is a convolution whose weights are not constants. On a CPU a plain
convolution for each object is the fastest form PyTorch has; `correlate_by_products` computes the same by slices and one matrix
product, which is what ONNX Runtime and TensorRT take for weights that change with every call.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from effvision.errors import ShapeError

__all__ = ["correlate", "correlate_by_products", "patch_energy", "response_size"]


def response_size(search: int, patch: int, stride: int) -> int:
    """Return how many places a patch of `patch` pixels takes along `search` pixels, a step being `stride`."""
    return (search - patch) // stride + 1


def correlate(search: Tensor, filters: Tensor, *, stride: int = 2) -> Tensor:
    """Slide the patches of each object over its own search picture.

    Args:
        search: (M, C, S, S).
        filters: (M, P, C, K, K): P patches for each of the M objects.
        stride: Pixels from one place to the next.

    Returns:
        (M, P, R, R) with R = (S - K) // stride + 1: sums of products over C, K, K.

    Raises:
        ShapeError: shapes that do not fit each other.
    """
    _check(search, filters)
    if search.shape[0] == 0:
        size = response_size(search.shape[-1], filters.shape[-1], stride)
        return search.new_zeros(0, filters.shape[1], size, size)
    if search.device.type == "cpu":
        each = [
            functional.conv2d(picture[None], own, stride=stride) for picture, own in zip(search, filters, strict=True)
        ]
        return each[0] if len(each) == 1 else torch.cat(each)
    objects, channels = search.shape[:2]
    joined = functional.conv2d(
        search.reshape(1, objects * channels, *search.shape[2:]), filters.flatten(0, 1), stride=stride, groups=objects
    )
    return joined.view(objects, filters.shape[1], *joined.shape[2:])


def correlate_by_products(search: Tensor, filters: Tensor, *, stride: int = 2) -> Tensor:
    """Compute `correlate` by slices and one matrix product for any number of objects; see there.

    The picture is first sorted into stride * stride coarser ones, so that every slice is of neighbouring numbers; they are laid
    beside each other along the rows, and these then as whole rows.

    Raises:
        ShapeError: as `correlate`, or the patch is no multiple of the stride.
    """
    _check(search, filters)
    patch, size = filters.shape[-1], response_size(search.shape[-1], filters.shape[-1], stride)
    if patch % stride:
        raise ShapeError(f"a patch of {patch} pixels cannot be cut into steps of {stride}")
    steps, used = patch // stride, (size - 1) * stride + patch
    (objects, channels), patches = search.shape[:2], filters.shape[1]
    cells = used // stride
    coarse = search[:, :, :used, :used].reshape(objects, channels, used, cells, stride).transpose(3, 4)
    coarse = coarse.reshape(objects, channels, cells, stride * stride, cells).permute(0, 3, 1, 2, 4).flatten(1, 2)
    rows = torch.cat([coarse[:, :, :, step : step + size] for step in range(steps)], dim=1)
    placed = torch.cat([rows[:, :, step : step + size] for step in range(steps)], dim=1)  # (M, K * K * C, R, R)
    own = filters.permute(0, 1, 3, 4, 2).reshape(objects, patches, steps, stride, steps, stride * channels)
    own = own.transpose(3, 4).flatten(2)  # in the order of `placed`: steps, place within the step, channel
    return torch.matmul(own, placed.flatten(2)).reshape(objects, patches, size, size)


def patch_energy(search: Tensor, *, patch: int, stride: int = 2) -> Tensor:
    """Sum the squares under a patch at every place: (M, C, S, S) -> (M, 1, R, R)."""
    squares = (search * search).sum(1, keepdim=True)
    if (
        stride > 1 and patch % stride == 0
    ):  # first what lies between two places, then their sums: a few adds instead of all
        squares = functional.avg_pool2d(squares, stride)
        return functional.avg_pool2d(squares, patch // stride, stride=1) * float(patch * patch)
    return functional.avg_pool2d(squares, patch, stride=stride) * float(patch * patch)


def _check(search: Tensor, filters: Tensor) -> None:
    fits = search.ndim == 4 and filters.ndim == 5 and filters.shape[-1] == filters.shape[-2] <= search.shape[-1]
    if not fits or search.shape[-1] != search.shape[-2] or (search.shape[:2] != (filters.shape[0], filters.shape[2])):
        raise ShapeError(
            f"`search` must be (M, C, S, S) and `filters` (M, P, C, K, K); got {tuple(search.shape)} and {tuple(filters.shape)}"
        )
