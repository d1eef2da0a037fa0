"""From a cloud to the channels that a network for whole scenes was trained on. NumPy only: it travels with exported files.

    spec = Spec.parse(card.options)          # {"block_m": 25, "points": 2048, "features": ["height", ...]}
    scene = prepare(cloud, spec)             # what does not depend on the column: (P, F), once a scene
    for chunk in Blocks(cloud.xyz, block_m=spec.block_m, points=spec.points, repeat=False):
        channels = scene.channels(chunk.index)      # (3 + F, n) float32

The first three channels are the coordinates in the column: x and y from the middle of its points, and the height above the
ground, in units in which the column reaches from -0.9 to 0.9, so that a voxel has one size in metres everywhere. Slopes are
level in it. The others are `FEATURES`, each bounded, and none tells where the scene lies or how bright its sensor is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.clouds import Cloud
from effvision.errors import InputError, RangeError
from effvision.host.ground import heights_above_ground, spacing_of
from effvision.host.surroundings import mean_around, shapes_around

__all__ = ["FEATURES", "Scene", "Spec", "prepare"]

Array = NDArray[np.float32]

REACH = 0.9
"""Where a column's sides lie in the first channels. The rest up to 1 is room for a middle that is not its own."""


@dataclass(frozen=True)
class Spec:
    """What a network for scenes takes. Plain data: `to_dict` stands in the card and in an exported file.

    Attributes:
        block_m: Side of a column in metres.
        points: Most points of a chunk.
        features: Names of `FEATURES`, the channels after the first three, in order.
    """

    block_m: float
    points: int
    features: tuple[str, ...]

    def __post_init__(self) -> None:
        numbers = (self.block_m, self.points)
        if any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in numbers):
            raise InputError(f"`block_m` and `points` must be numbers; got {numbers!r:.80}")
        if not (0 < self.block_m < 1e6 and self.points >= 1 and self.points == int(self.points)):
            raise InputError(f"`block_m` must be metres above 0, `points` whole and 1 or more; got {numbers!r:.80}")
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or len(set(self.features)) < len(self.features):
            raise InputError(
                f"`features` must be different names out of {', '.join(FEATURES)}; got {list(self.features)!r:.200}"
            )

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Spec:
        """Read it from a card or an exported file.

        Raises:
            InputError: keys that are missing, unknown or of another kind.
        """
        names = ("block_m", "points", "features")
        if set(options) != set(names):
            raise InputError(f"a preparation has {', '.join(names)}; got {', '.join(map(str, options)) or 'nothing'}")
        features = options["features"]
        if isinstance(features, str) or not isinstance(features, Sequence):
            raise InputError(f"`features` must be a list of names; got {features!r:.80}")
        return cls(options["block_m"], options["points"], tuple(map(str, features)))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "features": list(self.features)}

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields a cloud must have."""
        return tuple(sorted({name for feature in self.features for name in FEATURES[feature].fields}))

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return 3 + sum(FEATURES[name].width for name in self.features)


@dataclass(frozen=True, eq=False)
class Scene:
    """A cloud made ready.

    Attributes:
        places: (P, 3) float32: x and y from the scene's middle, and the height above the ground; metres.
        features: (P, F) float32.
        block_m: Side of a column in metres.
    """

    places: Array
    features: Array
    block_m: float

    def channels(self, index: NDArray[np.int64]) -> Array:
        """Return the input channels (C, n) of the points `index` (n,), which lie in one column."""
        places = self.places[index].astype(np.float64)
        low, high = places.min(axis=0), places.max(axis=0)
        places[:, :2] -= (low + high)[:2] / 2
        places *= 2 * REACH / self.block_m
        return np.concatenate([places.astype(np.float32), self.features[index]], axis=1).T.copy()


def prepare(cloud: Cloud, spec: Spec) -> Scene:
    """Compute everything that does not depend on the column: O(P log P) time, some hundred bytes a point.

    The result does not depend on the order of the points, nor (but for rounding) on where the scene lies. Nothing is random.

    Raises:
        InputError: the cloud lacks a field that a feature is made of.
        RangeError: a field holds NaN, infinity or an impossible value.
    """
    cloud.need(spec.fields)
    source = _Source(cloud)
    columns = [FEATURES[name].make(source).reshape(len(cloud), -1) for name in spec.features]
    features = np.concatenate([np.zeros((len(cloud), 0)), *columns], axis=1).astype(np.float32)
    places = np.empty((len(cloud), 3), np.float32)
    low, high = cloud.xyz.min(axis=0).astype(np.float64), cloud.xyz.max(axis=0).astype(np.float64)
    places[:, :2] = cloud.xyz[:, :2] - (low + high)[:2] / 2
    places[:, 2] = np.clip(source.heights[0], -2, 40)  # a bird must not move the middle of a column
    return Scene(places, features, float(spec.block_m))


class _Source:
    """A cloud and what several features share, computed when first asked for."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._heights: list[NDArray[np.float64]] = []

    @property
    def heights(self) -> list[NDArray[np.float64]]:
        """Above the fine and the smooth ground, metres."""
        if not self._heights:
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
