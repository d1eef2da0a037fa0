"""What the published engine does, pixel for pixel: its difference masks, its dilation, its pyramid, its blocks.

Li et al., "Efficient Spatially Sparse Inference for Conditional GANs and Diffusion Models" (NeurIPS 2022). The functions follow
what their released code computes, except that an empty mask stays empty (theirs marks everything). Mode `reference` of
`effvision.incremental.make_incremental` uses them: every convolution is computed on the active blocks of the mask at its
resolution, and masks do not grow from layer to layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from effvision.errors import RangeError, ShapeError
from effvision.host.regions import Mask, Rect

__all__ = [
    "BlockShape",
    "ReferenceOptions",
    "active_indices",
    "block_shape",
    "difference_mask",
    "dilate",
    "gather",
    "mask_pyramid",
    "output_rects",
    "scatter",
    "scatter_gather",
    "scatter_map",
    "scatter_with_block_residual",
]

Indices = NDArray[np.int32]


@dataclass(frozen=True)
class ReferenceOptions:
    """The settings of mode `reference`, with the values published for GauGAN.

    Attributes:
        epsilon: Inputs differ where they differ by more.
        dilation: Of the difference mask, before anything else.
        level_dilation: Of the mask at every resolution.
        least: Resolutions with fewer rows and fewer columns than this are computed dense.
        block: Wanted block size of kernels larger than one pixel.
        point_block: Wanted block size of 1x1 kernels.
    """

    epsilon: float = 1e-3
    dilation: int = 1
    level_dilation: int = 2
    least: tuple[int, int] = (4, 4)
    block: int = 6
    point_block: int = 4


@dataclass(frozen=True)
class BlockShape:
    """Geometry of the blocks of one convolution, (rows, columns) in pixels of its input.

    Attributes:
        size: Of a block, halo included.
        step: From one block to the next.
        offset: How far the first block lies outside the picture.
    """

    size: tuple[int, int]
    step: tuple[int, int]
    offset: tuple[int, int]


def block_shape(wanted: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> BlockShape:
    """The blocks of a convolution: as many outputs as fit into `wanted` input pixels, at least one."""
    counts = [max(wanted - k, 0) // s for k, s in zip(kernel, stride, strict=True)]
    size = [n * s + k for n, k, s in zip(counts, kernel, stride, strict=True)]
    step = [(n + 1) * s for n, s in zip(counts, stride, strict=True)]
    return BlockShape((size[0], size[1]), (step[0], step[1]), (padding[0], padding[1]))


def difference_mask(before: Tensor, after: Tensor, epsilon: float = 0.02) -> Mask:
    """Where two pictures differ by more than `epsilon` in any channel.

    Args:
        before: (H, W), (C, H, W) or (1, C, H, W).
        after: Likewise.
        epsilon: Strictly more than this is a difference.

    Returns:
        (H, W) bool.

    Raises:
        ShapeError: the shapes differ, or there is more than one picture.
    """
    if before.shape != after.shape or before.ndim not in (2, 3, 4) or (before.ndim == 4 and before.shape[0] != 1):
        raise ShapeError(
            f"cannot compare {tuple(before.shape)} with {tuple(after.shape)}\n"
            "hint: give two pictures (H, W), (C, H, W) or (1, C, H, W) of one shape"
        )
    found = (before - after).abs() > epsilon
    while found.ndim > 2:
        found = found.any(0)
    return found.cpu().numpy()


def dilate(mask: Mask, by: int | tuple[int, int]) -> Mask:
    """Grow a mask (H, W) along rows and along columns, each from the mask itself: a pixel becomes a plus, not a square."""
    rows, columns = (by, by) if isinstance(by, int) else by
    grown = mask.copy()
    for n in range(1, rows + 1):
        grown[n:] |= mask[:-n]
        grown[:-n] |= mask[n:]
    for n in range(1, columns + 1):
        grown[:, n:] |= mask[:, :-n]
        grown[:, :-n] |= mask[:, n:]
    return grown


def mask_pyramid(
    mask: Mask, *, least: int | tuple[int, int] = 4, dilation: int = 1, threshold: float = 0.3
) -> dict[tuple[int, int], Mask]:
    """The mask at every resolution, halved until both sides are smaller than `least`.

    Args:
        mask: (H, W).
        least: (rows, columns).
        dilation: Of every level's mask; it does not go into the next level.
        threshold: A pixel of a level is set if more than this share of it is.

    Returns:
        (h, w) -> mask (h, w). An empty mask is empty at every level.
    """
    rows, columns = (least, least) if isinstance(least, int) else least
    h, w = mask.shape
    level = torch.from_numpy(mask.astype(np.float32))[None, None]
    found = {}
    while h >= 1 and w >= 1 and (h >= rows or w >= columns):
        top = float(level.max())
        limit = min(threshold, top - 1e-3) if top > 0 else threshold
        found[h, w] = dilate((level[0, 0] > limit).numpy(), dilation)
        h, w = h // 2, w // 2
        if h and w:
            level = F.interpolate(level, (h, w), mode="bilinear", align_corners=False)
    return found


def active_indices(mask: Mask, shape: BlockShape) -> Indices:
    """The blocks in which anything is set: (N, 2) int32, row and column of their first pixel, row by row; may be negative."""
    h, w = mask.shape
    (top, left), (bottom, right) = shape.offset, shape.size
    padded = torch.from_numpy(np.pad(mask, ((top, bottom), (left, right))).astype(np.float32))[None, None]
    if min(padded.shape[2] - bottom, padded.shape[3] - right) < 0:
        raise RangeError(f"blocks of {shape.size} do not fit a mask of {h}x{w}\nhint: take smaller blocks")
    cells = F.max_pool2d(padded, shape.size, shape.step)[0, 0] > 0.5
    found = cells.nonzero() * torch.tensor(shape.step) - torch.tensor(shape.offset)
    return found.numpy().astype(np.int32)


def output_rects(
    indices: Indices, shape: BlockShape, kernel: Sequence[int], stride: Sequence[int], h: int, w: int
) -> list[Rect]:
    """The outputs of the blocks of a convolution, as rectangles of its map of h x w pixels."""
    high, wide = ((size - k) // s + 1 for size, k, s in zip(shape.size, kernel, stride, strict=True))
    rects = []
    for row, column in indices.tolist():
        top, left = (row + shape.offset[0]) // stride[0], (column + shape.offset[1]) // stride[1]
        rect = (top, min(top + high, h), left, min(left + wide, w))
        if rect[0] < rect[1] and rect[2] < rect[3]:  # theirs computes blocks outside the map too
            rects.append(rect)
    return rects


def _pixels(indices: Indices, size: Sequence[int], h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns (N, b, b) of blocks, clamped into the picture, and which of them lie inside it."""
    at = torch.from_numpy(indices.astype(np.int64))
    rows = (at[:, :1] + torch.arange(size[0]))[:, :, None].expand(-1, -1, size[1])
    columns = (at[:, 1:] + torch.arange(size[1]))[:, None, :].expand(-1, size[0], -1)
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    return rows.clamp(0, h - 1), columns.clamp(0, w - 1), inside


def gather(
    x: Tensor,
    indices: Indices,
    size: Sequence[int],
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Cut blocks out of a map: activation(x * scale + shift), and zero outside the map.

    Args:
        x: (B, C, H, W).
        indices: (N, 2).
        size: Rows and columns of a block.
        scale: Broadcast against x.
        shift: Likewise.
        activation: Any function of single numbers.

    Returns:
        (B * N, C, rows, columns), all blocks of one picture together.
    """
    x = x if scale is None else x * scale
    x = x if shift is None else x + shift
    x = x if activation is None else activation(x)
    rows, columns, inside = _pixels(indices, size, x.shape[2], x.shape[3])
    blocks = x[:, :, rows, columns] * inside.to(x.dtype)
    return blocks.transpose(1, 2).reshape(-1, x.shape[1], size[0], size[1])


def _places(indices: Indices, shape: BlockShape, stride: Sequence[int]) -> Indices:
    """Where the outputs of blocks begin."""
    places: Indices = ((indices + np.array(shape.offset)) // np.array(stride)).astype(np.int32)
    return places


def scatter(
    blocks: Tensor,
    cached: Tensor,
    indices: Indices,
    shape: BlockShape,
    stride: Sequence[int] = (1, 1),
    residual: Tensor | None = None,
) -> Tensor:
    """Put the outputs of blocks into a copy of the cached map, clipped at its border.

    Args:
        blocks: (B * N, C, h, w).
        cached: (B, C, H, W).
        indices: (N, 2), of the inputs.
        shape: Of the convolution's blocks.
        stride: Of the convolution.
        residual: (B, C, H, W), added where blocks are written.
    """
    out = cached.clone()
    batch, channels, h, w = cached.shape
    high, wide = blocks.shape[2:]
    by_picture = blocks.reshape(batch, len(indices), channels, high, wide)
    for number, (top, left) in enumerate(_places(indices, shape, stride).tolist()):
        bottom, right = min(top + high, h), min(left + wide, w)
        if top >= bottom or left >= right:
            continue
        part = by_picture[:, number, :, : bottom - top, : right - left]
        if residual is not None:
            part = part + residual[:, :, top:bottom, left:right]
        out[:, :, top:bottom, left:right] = part
    return out


def scatter_map(
    indices: Indices, shape: BlockShape, high: int, wide: int, h: int, w: int, stride: Sequence[int] = (1, 1)
) -> Indices:
    """For every pixel of a map of h x w: the block that computes it and its row and column there, or -1 three times."""
    found = np.full((h, w, 3), -1, np.int32)
    for number, (top, left) in enumerate(_places(indices, shape, stride).tolist()):
        part = found[top : top + high, left : left + wide]
        rows, columns = np.mgrid[: part.shape[0], : part.shape[1]]
        part[..., 0], part[..., 1], part[..., 2] = number, rows, columns
    return found


def scatter_gather(
    blocks: Tensor,
    cached: Tensor,
    indices: Indices,
    shape: BlockShape,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Blocks of the map that `scatter` would make, for the next convolution of the same size and stride 1."""
    full = scatter(blocks, cached, indices, shape)
    return gather(full, indices, shape.size, scale=scale, shift=shift, activation=activation)


def scatter_with_block_residual(
    main: Tensor,
    cached_main: Tensor,
    main_indices: Indices,
    main_shape: BlockShape,
    residual: Tensor,
    cached_residual: Tensor,
    residual_indices: Indices,
    residual_shape: BlockShape,
) -> Tensor:
    """The sum of two branches, each computed on its own blocks and cached elsewhere."""
    return scatter(main, cached_main, main_indices, main_shape) + scatter(
        residual, cached_residual, residual_indices, residual_shape
    )
