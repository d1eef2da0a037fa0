"""A picture of a cloud of points without a display: projection, depth buffer, shading and legend, in numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.errors import DTypeError, InputError, RangeError, ShapeError

__all__ = ["View", "automatic_view", "render_points"]

BACKGROUND_RGB = (246, 247, 249)

_SHARP = 2  # the picture is made so many times larger and scaled down: round edges without jags
_FIELD_OF_VIEW = math.radians(32)
_LARGEST = 4096
_EDGE_DARK = 0.8  # the share of light that the deepest edge takes
_EDGE_REACH = (2, 5)  # pixels of the large picture
_EDGE_STRENGTH = 0.16
_NOWHERE = 1e6  # times the scale: deeper than anything
_BLOCK = 16
_LEAST_RADIUS, _MOST_RADIUS = 2.0, 10.0  # pixels of the large picture
_OUTLIERS = 4.0  # a box so many times larger than that of 99 % of the points is not framed whole


@dataclass(frozen=True)
class View:
    """From where a cloud is looked at; z is up.

    Attributes:
        azimuth_deg: Direction the eye lies in, seen from the middle: 0 is +x, 90 is +y.
        elevation_deg: Height of the eye above the horizon: 90 looks straight down.
        perspective: Whether near things are larger; parallel projection otherwise.
    """

    azimuth_deg: float
    elevation_deg: float = 45.0
    perspective: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.azimuth_deg) and -90 <= self.elevation_deg <= 90):
            raise InputError(
                f"a view needs a finite azimuth and an elevation of -90 to 90 degrees; got {self.azimuth_deg!r:.40} and "
                f"{self.elevation_deg!r:.40}"
            )


def automatic_view(xyz: NDArray[np.float32]) -> View:
    """Return an oblique view from above that has the cloud's longer side across the picture.

    Args:
        xyz: (P, 3) finite metres.
    """
    step = max(1, len(xyz) // 50_000)
    flat = np.array(xyz[::step, :2], np.float64)
    flat -= flat.mean(axis=0)
    spread, axes = np.linalg.eigh(flat.T @ flat)
    if spread[1] <= 1.3 * max(spread[0], 1e-12):  # as wide as deep: across a corner
        return View(-60.0)
    along = math.degrees(math.atan2(axes[1, 1], axes[0, 1]))
    azimuth = along - 90 + 25  # a little from one end, so that depth is seen
    return View(azimuth % 180 - 180)  # of the two sides, the one nearer to -y


def render_points(
    xyz: NDArray[Any],
    rgb: NDArray[np.uint8],
    *,
    size: tuple[int, int] = (720, 960),
    view: View | None = None,
    point_px: float | None = None,
) -> NDArray[np.uint8]:
    """Draw points, the nearer ones in front, shaded at edges in depth so that shape is seen.

    Shading: eye-dome lighting, Boucheny 2009, "Interactive scientific visualization of large datasets", chapter 4.

    Args:
        xyz: (P, 3) finite numbers, metres, z up.
        rgb: (P, 3) uint8.
        size: (height, width) of the picture in pixels.
        view: From where. Default: `automatic_view`.
        point_px: Width of a point in the middle of the cloud. Default: told from how densely the points lie.

    Returns:
        (H, W, 3) uint8 RGB on a light ground. The whole cloud is in it, but for far outliers.

    Raises:
        ShapeError, DTypeError, RangeError, InputError: points, colours or a size that cannot be drawn.
    """
    height, width = _check(xyz, rgb, size)
    eye = view or automatic_view(xyz)
    columns, rows, depth, pixels_per_m = _project(xyz, eye, height * _SHARP, width * _SHARP)
    large = (height * _SHARP, width * _SHARP)
    nearest, near = _front(columns, rows, depth, large)
    radius = _radius(near) if point_px is None else max(0.0, (point_px * _SHARP - 1) / 2)
    nearest, near = _grow(nearest, near, radius, float(np.median(depth)) if eye.perspective else None)
    light = _edges(near, pixels_per_m)
    painted = np.full((*large, 3), BACKGROUND_RGB, np.uint8)
    seen = nearest >= 0
    painted[seen] = np.rint(rgb[nearest[seen]] * light[seen][:, None]).astype(np.uint8)
    out: NDArray[np.uint8] = import_cv2().resize(painted, (width, height), interpolation=import_cv2().INTER_AREA)
    return out


def _check(xyz: NDArray[Any], rgb: NDArray[Any], size: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(xyz, np.ndarray) or xyz.ndim != 2 or xyz.shape[1] != 3 or len(xyz) == 0:
        raise ShapeError(
            f"`xyz` must be (P, 3) with at least one point; got {getattr(xyz, 'shape', type(xyz).__name__)}"
        )
    if xyz.dtype.kind not in "fiu" or not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8:
        raise DTypeError(
            f"`xyz` must be numbers and `rgb` uint8; got {xyz.dtype} and {getattr(rgb, 'dtype', type(rgb))}"
        )
    if rgb.shape != (len(xyz), 3):
        raise ShapeError(f"`rgb` must be ({len(xyz)}, 3), a colour for each point; got {rgb.shape}")
    if not np.isfinite(xyz).all():
        raise RangeError("`xyz` must be finite; it holds NaN or infinity\nhint: `open_cloud(..., drop_nonfinite=True)`")
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError) as error:
        raise InputError(f"`size` must be (height, width) in pixels; got {size!r:.80}") from error
    if not (16 <= height <= _LARGEST and 16 <= width <= _LARGEST):
        raise InputError(f"`size` must be (height, width), 16 to {_LARGEST} pixels each; got {size!r:.80}")
    return height, width


# --- from metres to pixels ----------------------------------------------------------------------------------------------


def _project(
    xyz: NDArray[Any], view: View, height: int, width: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], float]:
    """Return column, row and depth of each point, and how many pixels a metre takes in the middle of the cloud."""
    low, high = _box(xyz)
    middle, radius = (low + high) / 2, max(float(np.linalg.norm(high - low)) / 2, 1e-6)
    azimuth, elevation = math.radians(view.azimuth_deg), math.radians(view.elevation_deg)
    toward = np.array(  # from the middle to the eye
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    up = np.cross(toward, right)
    axes = np.stack([right, up, toward], axis=1)
    x, y, z = ((xyz - middle.astype(xyz.dtype if xyz.dtype.kind == "f" else np.float64)) @ axes.astype(np.float32)).T
    distance = radius / math.sin(_FIELD_OF_VIEW / 2)
    depth = np.maximum(
        np.asarray(distance - z, np.float32), np.float32(1e-3 * distance)
    )  # in front of the eye, as outliers may not be
    if view.perspective:
        shrink = distance / np.maximum(depth, 0.05 * distance)
        x, y = x * shrink, y * shrink
    inside = _inside(xyz, low, high)
    scale, column, row = _fit(x[inside], y[inside], height, width)
    columns = np.rint(np.clip(column + x * scale, -1, width)).astype(np.int32)
    rows = np.rint(np.clip(row - y * scale, -1, height)).astype(np.int32)
    return columns, rows, depth, scale


def _box(xyz: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners of what is to be in the picture: all points, or 99 % of them where a few lie far off."""
    low = np.array([xyz[:, axis].min() for axis in range(3)], np.float64)
    high = np.array([xyz[:, axis].max() for axis in range(3)], np.float64)
    sample = np.asarray(xyz[:: max(1, len(xyz) // 50_000)], np.float64)
    inner_low, inner_high = np.percentile(sample, [0.5, 99.5], axis=0)
    if np.linalg.norm(high - low) > _OUTLIERS * max(float(np.linalg.norm(inner_high - inner_low)), 1e-6):
        margin = 0.05 * (inner_high - inner_low)
        return np.maximum(low, inner_low - margin), np.minimum(high, inner_high + margin)
    return low, high


def _inside(xyz: NDArray[Any], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    good = np.ones(len(xyz), bool)
    for axis in range(3):
        good &= (xyz[:, axis] >= low[axis]) & (xyz[:, axis] <= high[axis])
    return good if good.any() else ~good


def _fit(x: NDArray[Any], y: NDArray[Any], height: int, width: int) -> tuple[float, float, float]:
    """Return pixels a metre, and the column and row of the point (0, 0), so that all of it has its place and a margin."""
    left, right, bottom, top = (float(value) for value in (x.min(), x.max(), y.min(), y.max()))
    room_x, room_y = 0.93 * (width - 1), 0.93 * (height - 1)
    scale = min(room_x / max(right - left, 1e-6), room_y / max(top - bottom, 1e-6))
    return scale, (width - 1) / 2 - scale * (left + right) / 2, (height - 1) / 2 + scale * (bottom + top) / 2


# --- depth buffer -------------------------------------------------------------------------------------------------------


def _front(
    columns: NDArray[np.int32], rows: NDArray[np.int32], depth: NDArray[np.float32], size: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return for each pixel its nearest point, -1 where there is none, and that point's depth."""
    height, width = size
    here = np.flatnonzero((columns >= 0) & (columns < width) & (rows >= 0) & (rows < height))
    # Far to near, so that of the points that share a pixel the nearest is written last. Depths are positive: their bits sort
    # as they do, and numpy sorts whole numbers several times faster than it finds an order.
    keys = (~depth[here].view(np.uint32)).astype(np.uint64) << np.uint64(32) | here.astype(np.uint64)
    keys.sort()
    here = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    place = rows[here].astype(np.int64) * width + columns[here]
    nearest = np.full(height * width, -1, np.int32)
    nearest[place] = here
    near = np.full(height * width, np.inf, np.float32)
    seen = nearest >= 0
    near[seen] = depth[nearest[seen]]
    return nearest.reshape(size), near.reshape(size)


def _radius(near: NDArray[np.float32]) -> float:
    """Return by how many pixels a point has to grow so that surfaces close, told from how full the picture is."""
    height, width = (side // _BLOCK * _BLOCK for side in near.shape)
    seen = np.isfinite(near[:height, :width]).reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    share = seen.mean(axis=(1, 3))
    filled = share[share > 0]
    typical = float(np.average(filled, weights=filled)) if filled.size else 1.0
    apart = 1 / math.sqrt(max(typical, 1e-4))  # pixels from one point to the next
    return min(max(apart, _LEAST_RADIUS), _MOST_RADIUS)


def _grow(
    nearest: NDArray[np.int32], near: NDArray[np.float32], radius: float, middle_depth: float | None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Let every point cover a disc: `radius` pixels at the middle depth, more in front of it, less behind."""
    height, width = near.shape
    border = math.ceil(radius * 1.5) + 1
    wide = width + 2 * border
    flat_near = np.full((height + 2 * border) * wide, np.inf, np.float32)  # with a border, into which discs may reach
    flat_nearest = np.full(len(flat_near), -1, np.int32)
    rows, columns = np.nonzero(nearest >= 0)
    place = (rows + border) * wide + columns + border
    point, depth = nearest[rows, columns], near[rows, columns]
    flat_near[place], flat_nearest[place] = depth, point
    own = np.full(len(depth), radius, np.float32)
    if middle_depth is not None:
        own = np.clip(radius * middle_depth / depth, 0.6 * radius, 1.5 * radius)
    order = np.argsort(-own, kind="stable")  # the largest first: each ring takes as many from the front as reach so far
    place, point, depth, own = place[order], point[order], depth[order], own[order]
    for dy in range(-border, border + 1):
        for dx in range(-border, border + 1):
            reach = math.hypot(dx, dy) - 0.3
            count = int(np.searchsorted(-own, -reach, side="right"))
            if (dx, dy) == (0, 0) or count == 0:
                continue
            to = place[:count] + (dy * wide + dx)  # no two alike: one source, one target
            better = np.flatnonzero(depth[:count] < flat_near[to])
            to = to[better]
            flat_near[to], flat_nearest[to] = depth[better], point[better]
    inner = (slice(border, border + height), slice(border, border + width))
    return flat_nearest.reshape(-1, wide)[inner], flat_near.reshape(-1, wide)[inner]


def _edges(near: NDArray[np.float32], pixels_per_m: float) -> NDArray[np.float32]:
    """Return the light of each pixel, 0..1: darker the deeper it lies behind what is around it."""
    cv2 = import_cv2()
    depth = np.where(np.isfinite(near), near, np.float32(_NOWHERE)) * np.float32(pixels_per_m)
    dark = np.zeros_like(depth)
    for reach in _EDGE_REACH:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        step = (depth - cv2.erode(depth, disc)) / np.float32(reach)  # pixels of depth for one across: a slope
        dark += np.clip(step - 1, 0, 8)
    light: NDArray[np.float32] = np.exp(dark * np.float32(-_EDGE_STRENGTH / len(_EDGE_REACH)))
    return (1 - _EDGE_DARK) + _EDGE_DARK * light
