"""What an airborne or ground scan tells of each point: heights above the ground, echoes, intensity, surroundings. NumPy only.

    heights = heights_above_ground(cloud.xyz)
    features = scene_features(cloud, ("height", "intensity", "shape"), heights=heights)      # (P, F)
    places = scene_places(cloud.xyz, heights[0])                                             # (P, 3)

It travels with exported files. Every channel is bounded, and none but `relative` tells where the scene lies or how bright its
sensor is. Nothing depends on the order of the points, nor (but for rounding) on where the scene lies. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.clouds import Cloud
from effvision.errors import InputError, RangeError
from effvision.host.ground import heights_above_ground, spacing_of
from effvision.host.surroundings import mean_around, shapes_around

__all__ = ["FEATURES", "feature_fields", "feature_width", "parse_features", "scene_features", "scene_places"]

Array = NDArray[np.float32]


def parse_features(names: Any) -> tuple[str, ...]:
    """Check what a card or an exported file says of its channels.

    Raises:
        InputError: not a list of different names of `FEATURES`.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InputError(f"`features` must be a list of names; got {names!r:.80}")
    features = tuple(map(str, names))
    if any(name not in FEATURES for name in features) or len(set(features)) < len(features):
        raise InputError(f"`features` must be different names out of {', '.join(FEATURES)}; got {list(names)!r:.200}")
    return features


def feature_fields(names: Sequence[str]) -> tuple[str, ...]:
    """Return the fields that a cloud must have for these of `FEATURES`, sorted."""
    return tuple(sorted({field for name in names for field in FEATURES[name].fields}))


def feature_width(names: Sequence[str]) -> int:
    """Return F, the channels of these of `FEATURES` together."""
    return sum(FEATURES[name].width for name in names)


def scene_features(cloud: Cloud, names: Sequence[str], *, heights: list[NDArray[np.float64]] | None = None) -> Array:
    """Compute channels of every point: O(P log P) time, some hundred bytes a point.

    Args:
        cloud: Metres, z up.
        names: Of `FEATURES`; their channels follow each other in this order.
        heights: What `heights_above_ground(cloud.xyz)` returned, where it is needed besides. Default: computed if a feature
            is made of it.

    Returns:
        (P, F) float32, F as `feature_width` says.

    Raises:
        InputError: the cloud lacks a field that a feature is made of.
        RangeError: a field holds NaN, infinity or an impossible value.
    """
    cloud.need(feature_fields(names))
    source = _Source(cloud, heights)
    columns = [FEATURES[name].make(source).reshape(len(cloud), -1) for name in names]
    return np.concatenate([np.zeros((len(cloud), 0)), *columns], axis=1).astype(np.float32)


def scene_places(xyz: NDArray[np.floating], height: NDArray[np.float64]) -> Array:
    """Return where points lie on level ground, (P, 3) float32 metres: x and y from the scene's middle, and the height.

    Args:
        xyz: (P, 3).
        height: (P,), above the ground; it is cut to -2..40 m, for a bird must not move the middle of anything.
    """
    places = np.empty((len(xyz), 3), np.float32)
    low, high = xyz.min(axis=0).astype(np.float64), xyz.max(axis=0).astype(np.float64)
    places[:, :2] = xyz[:, :2] - (low + high)[:2] / 2
    places[:, 2] = np.clip(height, -2, 40)
    return places


class _Source:
    """A cloud and what several features share, computed when first asked for."""

    def __init__(self, cloud: Cloud, heights: list[NDArray[np.float64]] | None) -> None:
        self.cloud = cloud
        self._heights = heights

    @property
    def heights(self) -> list[NDArray[np.float64]]:
        """Above the fine and the smooth ground, metres."""
        if self._heights is None:
            self._heights = heights_above_ground(self.cloud.xyz)
        return self._heights

    def whole(self, name: str) -> NDArray[np.float64]:
        """A field of counts: 0 (not known) is read as 1."""
        values = self.cloud.field(name).astype(np.float64)
        if len(values) and values.min() < 0:
            raise RangeError(f"{self.cloud.name}: `{name}` counts from 1; got {values.min():g}")
        return np.maximum(values, 1.0)


def _low(heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heights where a hand's breadth matters: -1..30 m as an inverse hyperbolic sine, 0.25 m is 0.8 and 5 m is 2.3."""
    return np.arcsinh(np.clip(heights, -1, 30) / 0.1) / 2


def _high(heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heights of houses and trees: -5..30 m, as a logarithm of about -1..2."""
    clipped = np.clip(heights, -5, 30)
    return np.asarray(np.sign(clipped) * np.log1p(np.abs(clipped)) / np.log1p(5.0))


def _intensity(source: _Source) -> NDArray[np.float64]:
    """The logarithm of the intensity, its median in the cloud 0 and its quartiles one apart; -2..2, all 0 if it is constant."""
    values = source.cloud.field("intensity").astype(np.float64)
    if values.min() < 0:
        raise RangeError(f"{source.cloud.name}: `intensity` must not be negative; got {values.min():g}")
    top = float(np.percentile(values, 99))
    scaled = np.log(values / top + 0.02) if top > 0 else np.zeros(len(values))
    low, middle, high = np.percentile(scaled, (25, 50, 75))
    return np.clip((scaled - middle) / (high - low), -2, 2) if high > low else np.zeros(len(values))


def _returns(source: _Source) -> NDArray[np.float64]:
    """(P, 2): how far through its pulse an echo is, 0 first to 1 last or only; and how many came after the first, 0..1."""
    number, count = source.whole("return_number"), source.whole("num_returns")
    count = np.maximum(count, number)
    share = np.where(count > 1, (number - 1) / np.maximum(count - 1, 1), 1.0)
    return np.stack([share, np.minimum(count - 1, 3) / 3], axis=1)


def _echoes(source: _Source) -> NDArray[np.float64]:
    """The share of the points around that are not the only echo of their pulse: crowns, seldom roofs."""
    several = np.maximum(source.whole("num_returns"), source.whole("return_number")) > 1
    cell_m = float(np.clip(spacing_of(source.cloud.xyz), 1.0, 4.0))
    return mean_around(source.cloud.xyz, cell_m, several)


def _spacing(source: _Source) -> NDArray[np.float64]:
    """How far points lie apart, one number for the cloud: half the binary logarithm of metres, -1 (16 a m2) to 0.5 (0.25 a m2).

    A hand's breadth above the ground means something in a dense cloud, and nothing where the ground is one point in a 4 m cell.
    """
    return np.full(len(source.cloud), np.clip(np.log2(spacing_of(source.cloud.xyz)) / 2, -1, 0.5))


def _normal(source: _Source) -> NDArray[np.float64]:
    """(P, 2): |z| of the normal, and the length of its level part: neither turns with the scene nor depends on its sign."""
    normal = source.cloud.field("normal").astype(np.float64)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    return np.stack([np.abs(normal[:, 2]), np.linalg.norm(normal[:, :2], axis=1)], axis=1)


def _relative(source: _Source) -> NDArray[np.float64]:
    """(P, 3): the place in the bounding box of the cloud, 0..1. For rooms; in open scenes it tells where the site lies."""
    xyz = source.cloud.xyz.astype(np.float64)
    low, size = xyz.min(axis=0), np.ptp(xyz, axis=0)
    return np.asarray((xyz - low) / np.where(size > 0, size, 1.0))


def _shapes(source: _Source) -> NDArray[np.float64]:
    """(P, 4): what the surroundings look like, in cells about as wide as points lie apart, at least 0.5 m."""
    return shapes_around(source.cloud.xyz, float(np.clip(spacing_of(source.cloud.xyz), 0.5, 4.0)))


@dataclass(frozen=True)
class _Feature:
    make: Callable[[_Source], NDArray[np.float64]]
    width: int = 1
    fields: tuple[str, ...] = ()


FEATURES: Mapping[str, _Feature] = MappingProxyType(
    {
        "height_low": _Feature(lambda source: _low(source.heights[0])),
        "height": _Feature(lambda source: _high(source.heights[0])),
        "height_smooth": _Feature(lambda source: _high(source.heights[1])),
        "intensity": _Feature(_intensity, 1, ("intensity",)),
        "returns": _Feature(_returns, 2, ("num_returns", "return_number")),
        "echoes": _Feature(_echoes, 1, ("num_returns", "return_number")),
        "shape": _Feature(_shapes, 4),
        "spacing": _Feature(_spacing),
        "rgb": _Feature(lambda source: source.cloud.field("rgb") / 255.0, 3, ("rgb",)),
        "normal": _Feature(_normal, 2, ("normal",)),
        "relative": _Feature(_relative, 3),
    }
)
"""Channels by name: `height_low` (fine near the ground), `height` and `height_smooth` (logarithms, above the fine and the
smooth ground), `intensity`, `returns` (2), `echoes` and `shape` (4) of the surroundings, `spacing` of the cloud, `rgb` (3),
`normal` (2), `relative` place in the cloud (3)."""
