"""Crops of boxes at sub-pixel places, as PatchNet's authors take them. NumPy only.

A template is what lies in a box, sampled to 64x64 (width and height scaled apart); a search picture is what lies in the box
grown by 119/64 about its centre, sampled to 119x119. Sampling is bilinear at single points, without a filter for shrinking;
outside the frame lies the mean colour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MEAN_RGB", "crop_boxes", "search_windows", "template_windows"]

MEAN_RGB = (122.7717, 115.9465, 102.9801)
"""Mean colour taken off every crop, 0..255; the authors' values."""

Floats = NDArray[np.floating]


def template_windows(boxes: Floats) -> NDArray[np.float64]:
    """Return the windows that templates are cut from; boxes and windows (M, 4) `x1 y1 x2 y2` in pixels."""
    windows = np.array(boxes, np.float64)
    windows[:, 2:] += 1  # the authors' boxes include their last pixel
    return windows


def search_windows(boxes: Floats, growth: float) -> NDArray[np.float64]:
    """Return the windows around boxes (M, 4) that are searched: the box grown by `growth` about its centre."""
    boxes = np.asarray(boxes, np.float64)
    center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * (growth / 2)
    return np.concatenate([center - half, center + half + 1], axis=1)


def crop_boxes(image: NDArray[np.uint8], windows: Floats, size: int) -> NDArray[np.float32]:
    """Sample windows of a frame.

    Args:
        image: (H, W, 3) uint8 RGB.
        windows: (M, 4) from `template_windows` or `search_windows`.
        size: Pixels a side of each crop.

    Returns:
        (M, 3, size, size) float32, RGB minus `MEAN_RGB`; 0 where a window leaves the frame.
    """
    height, width = image.shape[:2]
    out = np.zeros((len(windows), 3, size, size), np.float32)
    across, down = (
        _places(windows[:, 0], windows[:, 2], width, size),
        _places(windows[:, 1], windows[:, 3], height, size),
    )
    mean = np.array(MEAN_RGB, np.float32)
    for index in range(len(windows)):
        columns, rows = _Taps(across[index], width), _Taps(down[index], height)
        if columns.none or rows.none:
            continue
        region = image[rows.first : rows.last, columns.first : columns.last]
        # the shorter way first: what is gathered along one axis is all that the other has to read
        near = region[:, columns.low].astype(np.float32)
        near += columns.share[:, None] * (region[:, columns.high].astype(np.float32) - near)
        crop = near[rows.low]
        crop += rows.share[:, None, None] * (near[rows.high] - crop)
        crop -= mean
        crop *= columns.weight[:, None]
        crop *= rows.weight[:, None, None]
        out[index] = crop.transpose(2, 0, 1)
    return out


def _places(begin: Floats, end: Floats, length: int, size: int) -> NDArray[np.float64]:
    """Where the samples of each window lie along one axis, in pixels: (M, size).

    `begin` and `end` are placed by the rule of aligned corners and sampled by that of pixel areas, as in the authors' versions
    of PyTorch; the two differ by less than a pixel.
    """
    steps = (2 * np.arange(size) + 1) / size - 1
    span = max(length - 1, 1)
    along = (end - begin)[:, None] / span * steps + ((begin + end - length + 1) / span)[:, None]
    places: NDArray[np.float64] = ((along + 1) * length - 1) / 2
    return places


class _Taps:
    """The two pixels each sample of one axis lies between, relative to `first`, and how much of each."""

    def __init__(self, places: NDArray[np.float64], length: int) -> None:
        low = np.floor(places)
        share = places - low
        inside_low, inside_high = (low >= 0) & (low < length), (low >= -1) & (low < length - 1)
        self.none = not (inside_low.any() or inside_high.any())
        if self.none:
            return
        # a tap outside counts as the mean colour, which is zero once that is taken off: the other one is weighted alone
        alone = inside_low ^ inside_high
        low_index = np.clip(low, 0, length - 1).astype(np.intp)
        high_index = np.clip(low + 1, 0, length - 1).astype(np.intp)
        self.first, self.last = int(low_index.min()), int(high_index.max()) + 1
        self.low, self.high = low_index - self.first, high_index - self.first
        self.weight = np.where(alone, np.where(inside_low, 1 - share, share), inside_low & inside_high).astype(
            np.float32
        )
        self.share = np.where(alone, inside_high, share).astype(np.float32)
