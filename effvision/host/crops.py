"""Crops of boxes at sub-pixel places, as PatchNet's authors take them. NumPy, and OpenCV where it is there.

A template is what lies in a box, sampled to 64x64 (width and height scaled apart); a search picture is what lies in the box
grown by 119/64 about its centre, sampled to 119x119. Sampling is bilinear at single points, without a filter for shrinking;
outside the frame lies the mean colour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MEAN_RGB", "crop_boxes", "crop_boxes_numpy", "search_windows", "template_windows"]

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

    OpenCV does it where it can be imported. From version 5 on it is exact; earlier ones place samples on a grid of 1/32 pixel.

    Args:
        image: (H, W, 3) uint8 RGB.
        windows: (M, 4) from `template_windows` or `search_windows`.
        size: Pixels a side of each crop.

    Returns:
        (M, 3, size, size) float32, RGB minus `MEAN_RGB`; 0 where a window leaves the frame.
    """
    try:
        import cv2
    except ImportError:  # a device may have none
        return crop_boxes_numpy(image, windows, size)
    height, width = image.shape[:2]
    out = np.zeros((len(windows), 3, size, size), np.float32)
    across = _places(windows[:, 0], windows[:, 2], width, size)
    down = _places(windows[:, 1], windows[:, 3], height, size)
    regions = np.stack([_span(across, width), _span(down, height)], axis=1)  # (M, x y, first last)
    areas = np.prod(regions[:, :, 1] - regions[:, :, 0], axis=1)
    whole = (
        image.astype(np.float32) if areas.sum() > height * width else None
    )  # once, if that is less than piece by piece
    mean = np.array(MEAN_RGB, np.float32)[:, None, None]
    for index in np.flatnonzero(areas):
        (left, right), (top, bottom) = regions[index]
        if whole is None:
            region = image[top:bottom, left:right].astype(np.float32)
        else:
            region, left, top = whole, 0, 0
        x, y = across[index], down[index]
        matrix = np.array([[(x[-1] - x[0]) / (size - 1), 0, x[0] - left], [0, (y[-1] - y[0]) / (size - 1), y[0] - top]])
        crop = cv2.warpAffine(
            region,
            matrix,
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=MEAN_RGB,
        )
        np.subtract(crop.transpose(2, 0, 1), mean, out=out[index])
    return out


def crop_boxes_numpy(image: NDArray[np.uint8], windows: Floats, size: int) -> NDArray[np.float32]:
    """Compute `crop_boxes` without OpenCV: exact, and four times as slow."""
    height, width = image.shape[:2]
    out = np.zeros((len(windows), 3, size, size), np.float32)
    across = _places(windows[:, 0], windows[:, 2], width, size)
    down = _places(windows[:, 1], windows[:, 3], height, size)
    mean = np.array(MEAN_RGB, np.float32)
    for index in range(len(windows)):
        columns, rows = _Taps(across[index], width), _Taps(down[index], height)
        if columns.none or rows.none:
            continue
        region = image[rows.first : rows.last, columns.first : columns.last]
        # pixels outside are the mean colour, so that colour is off before anything is weighted
        low, high = (region[:, taps].astype(np.float32) - mean for taps in (columns.low, columns.high))
        near = low * columns.shares[0][:, None] + high * columns.shares[1][:, None]
        shares = rows.shares[:, :, None, None]
        out[index] = (near[rows.low] * shares[0] + near[rows.high] * shares[1]).transpose(2, 0, 1)
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


def _span(places: NDArray[np.float64], length: int) -> NDArray[np.intp]:
    """First and last pixel, the latter exclusive, that samples (M, size) need of an axis: (M, 2); equal if they need none."""
    first = np.clip(np.floor(places.min(axis=1)) - 1, 0, length)
    last = np.clip(np.ceil(places.max(axis=1)) + 2, 0, length)
    span: NDArray[np.intp] = np.stack([first, np.maximum(last, first)], axis=1).astype(np.intp)
    return span


class _Taps:
    """The two pixels each sample of one axis lies between, relative to `first`, and the share of each; 0 of what is outside."""

    def __init__(self, places: NDArray[np.float64], length: int) -> None:
        low = np.floor(places)
        share, high = places - low, low + 1
        there = np.stack([(low >= 0) & (low < length), (high >= 0) & (high < length)])
        self.none = not there.any()
        self.shares = (np.stack([1 - share, share]) * there).astype(np.float32)
        low, high = np.clip(low, 0, length - 1).astype(np.intp), np.clip(high, 0, length - 1).astype(np.intp)
        self.first, self.last = int(low.min()), int(high.max()) + 1
        self.low, self.high = low - self.first, high - self.first
