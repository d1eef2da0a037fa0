"""Resize and crop a picture exactly as Pillow does, in numpy, computing only the pixels that are kept.

Networks trained behind `torchvision.transforms.Resize` saw Pillow's antialiased bilinear filter: a triangle whose width
grows with the shrink factor, applied along rows, rounded to 8 bits, then along columns. OpenCV's bilinear and area
filters differ from it by tens of grey levels. Here both passes are banded matrix products in float64 over Pillow's own
22-bit weights; every product and sum of those fits in 53 bits, so the result is equal to Pillow's, bit for bit.
(Pillow 13 swaps the two passes for frames that lose more than twice as many rows as columns; the results can then differ
by 1 grey level.)
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effvision.errors import DTypeError, InputError, ShapeError

__all__ = ["resize_crop"]

_MODES = ("center", "left", "middle", "right", "stretch")
_WEIGHT_BITS = 22  # Pillow: 32 bits - 8 of the pixel - 2 of headroom
_OUTPUTS_PER_BAND = 4  # measured: wider bands multiply more zeros, narrower ones make more calls
_TILE_COLUMNS = 256
_TILE_BYTES = 16 * 2**20
_ENLARGED_LIMIT_BYTES = 64 * 2**20


class _Band(NamedTuple):
    """Output pixels `out` are `input pixels source @ weights`."""

    source: slice
    out: slice
    weights: NDArray[np.float64]  # (inputs, outputs), or (inputs*3, outputs*3) for interleaved colours


def resize_crop(
    image: NDArray[np.uint8], *, short_side: int | None, size: tuple[int, int], mode: str = "center"
) -> NDArray[np.uint8]:
    """Resize so that the shorter side is `short_side`, then cut out `size`; equal to Pillow, bit for bit.

    The longer side becomes `int(short_side * long / short)`. Offsets are `int(round((resized - size) / 2))` for
    `center`, as torchvision and the code of the TSM paper (Lin et al., ICCV 2019) have them. 480x640 with
    `short_side=256` becomes 256x341, and its centre 224x224 starts at row 16, column 58.

    Args:
        image: (H, W, 3) uint8, any strides; the colour order does not matter.
        short_side: Pixels of the shorter side after resizing; None keeps the size. It must be None with "stretch".
        size: (height, width) of the result in pixels.
        mode: Which part is kept: "center"; "left", "middle" or "right", the three crops of the full-resolution test of
            the TSM paper's code (its middle rounds down to an even offset); "stretch" resizes the whole frame to `size`
            without keeping its aspect.

    Returns:
        A new contiguous array (height, width, 3) uint8.

    Raises:
        ShapeError: `image` is not (H, W, 3) or has no pixels.
        DTypeError: `image` is not a uint8 array.
        InputError: a size or mode that is not possible, a crop larger than the resized frame, or a frame so long and
            thin that enlarging it would need more than 64 MiB.
    """
    _check_image(image)
    height, width, resized_h, resized_w = _check_sizes(image.shape[0], image.shape[1], short_side, size, mode)
    top, left = _offset(mode, resized_h - height, resized_w - width)
    out = np.empty((height, width, 3), np.uint8)
    tile_rows = _tile_rows(image.shape[0], resized_h, min(width, _TILE_COLUMNS))
    for y in range(0, height, tile_rows):
        for x in range(0, width, _TILE_COLUMNS):
            rows, columns = min(tile_rows, height - y), min(_TILE_COLUMNS, width - x)
            vertical = _bands(image.shape[0], resized_h, top + y, top + y + rows, 1)
            horizontal = _bands(image.shape[1], resized_w, left + x, left + x + columns, 3)
            out[y : y + rows, x : x + columns] = _resize_tile(image, vertical, horizontal, rows, columns)
    return out


def _resize_tile(
    image: NDArray[np.uint8], vertical: list[_Band], horizontal: list[_Band], rows: int, columns: int
) -> NDArray[np.uint8]:
    first, last = vertical[0].source.start, max(band.source.stop for band in vertical)
    left, right = horizontal[0].source.start // 3, max(band.source.stop for band in horizontal) // 3
    middle = np.empty((last - first, columns * 3))
    block = max(1, _TILE_BYTES // ((right - left) * 24))
    for start in range(first, last, block):
        stop = min(start + block, last)
        source = image[start:stop, left:right].astype(np.float64, order="C").reshape(stop - start, -1)
        part = middle[start - first : stop - first]
        for band in horizontal:
            inputs = slice(band.source.start - left * 3, band.source.stop - left * 3)
            np.matmul(source[:, inputs], band.weights, out=part[:, band.out])
    middle += 0.5
    np.floor(middle, out=middle)  # Pillow keeps 8 bits between the passes
    result = np.empty((rows, columns * 3))
    for band in vertical:
        inputs = slice(band.source.start - first, band.source.stop - first)
        np.matmul(band.weights.T, middle[inputs], out=result[band.out])
    result += 0.5
    return result.astype(np.uint8).reshape(rows, columns, 3)


@lru_cache(maxsize=128)
def _bands(inputs: int, outputs: int, start: int, stop: int, colours: int) -> list[_Band]:
    """Cut the resizing matrix `inputs` -> `outputs`, columns start..stop, into dense blocks along its diagonal."""
    first, last, weights = _triangle(inputs, outputs, start, stop)
    bands = []
    for low in range(0, stop - start, _OUTPUTS_PER_BAND):
        high = min(low + _OUTPUTS_PER_BAND, stop - start)
        begin, end = int(first[low]), int(last[low:high].max())
        dense = np.zeros((end - begin, high - low))
        for column in range(low, high):
            taps = int(last[column] - first[column])
            offset = int(first[column]) - begin
            dense[offset : offset + taps, column - low] = weights[:taps, column]
        block = np.ascontiguousarray(np.kron(dense, np.eye(colours)))
        bands.append(_Band(slice(begin * colours, end * colours), slice(low * colours, high * colours), block))
    return bands


def _triangle(
    inputs: int, outputs: int, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Weights of Pillow's bilinear filter for outputs start..stop: first and end input of each, and (taps, outputs)."""
    scale = inputs / outputs
    support = max(scale, 1.0)
    center = (np.arange(start, stop) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    last = np.minimum((center + support + 0.5).astype(np.int64), inputs)
    tap = np.arange(int((last - first).max()))[:, None]
    weights = np.maximum(1.0 - np.abs((tap + first - center + 0.5) * (1.0 / support)), 0.0)
    weights[tap >= last - first] = 0.0
    weights /= np.add.reduce(weights, axis=0)
    return first, last, np.floor(0.5 + weights * 2**_WEIGHT_BITS) / 2**_WEIGHT_BITS


def _offset(mode: str, spare_h: int, spare_w: int) -> tuple[int, int]:
    if mode == "stretch":
        return 0, 0
    if mode == "center":
        return round(spare_h / 2), round(spare_w / 2)
    return 2 * (spare_h // 4), {"left": 0, "middle": 2, "right": 4}[mode] * (spare_w // 4)


def _tile_rows(inputs: int, outputs: int, columns: int) -> int:
    """Rows of the result per tile, so that what lies between the two passes stays small."""
    affordable = _TILE_BYTES // (columns * 24)
    return max(1, int(affordable * outputs / inputs) - 2)


def _check_image(image: NDArray[np.uint8]) -> None:
    if not isinstance(image, np.ndarray):
        raise DTypeError(f"`image` must be a numpy array (H, W, 3) uint8; got {type(image).__name__}")
    if image.dtype != np.uint8:
        raise DTypeError(f"`image` must be uint8 0..255; got {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ShapeError(f"`image` must be (H, W, 3); got {image.shape}")
    if image.size == 0:
        raise ShapeError(f"`image` has no pixels; got {image.shape}")


def _check_sizes(
    frame_h: int, frame_w: int, short_side: int | None, size: tuple[int, int], mode: str
) -> tuple[int, int, int, int]:
    """Return height and width of the result, then of the resized frame it is cut from."""
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"`size` must be (height, width), at least 1 each; got {size}")
    if mode not in _MODES:
        raise InputError(f"`mode` must be one of {', '.join(_MODES)}; got {mode!r}")
    if short_side is not None and short_side < 1:
        raise InputError(f"`short_side` must be at least 1 or None; got {short_side}")
    if mode == "stretch":
        if short_side is not None:
            raise InputError(f"`short_side` has no meaning with mode 'stretch' and must be None; got {short_side}")
        resized_h, resized_w = height, width
    elif short_side is None:
        resized_h, resized_w = frame_h, frame_w
    elif frame_w < frame_h:
        resized_h, resized_w = int(short_side * frame_h / frame_w), short_side
    else:
        resized_h, resized_w = short_side, int(short_side * frame_w / frame_h)
    needed = resized_h * resized_w * 3
    if needed > _ENLARGED_LIMIT_BYTES and resized_h * resized_w > frame_h * frame_w:
        raise InputError(
            f"a frame of {frame_h} rows and {frame_w} columns would grow to {resized_h}x{resized_w} "
            f"({needed / 2**20:.0f} MiB; the limit is {_ENLARGED_LIMIT_BYTES // 2**20}): it is too long and thin, or "
            "the asked size is too large\nhint: crop the frame first"
        )
    if height > resized_h or width > resized_w:
        raise InputError(
            f"cannot cut {height}x{width} out of a frame of {resized_h}x{resized_w} (given {frame_h}x{frame_w}, "
            f"`short_side` {short_side})\nhint: a larger `short_side`, or mode 'stretch'"
        )
    return height, width, resized_h, resized_w
