"""From a cloud to the channels that a network for whole scenes was trained on. NumPy only: it travels with exported files.

    spec = Spec.parse(card.options)          # {"block_m": 25, "points": 2048, "features": ["height", ...]}
    scene = prepare(cloud, spec)             # what does not depend on the column: (P, F), once a scene
    for chunk in Blocks(cloud.xyz, block_m=spec.block_m, points=spec.points, repeat=False):
        channels = scene.channels(chunk.index)      # (3 + F, n) float32

The first three channels are the coordinates in the column: x and y from the middle of its points, and the height above the
ground, in units in which the column reaches from -0.9 to 0.9, so that a voxel has one size in metres everywhere. Slopes are
level in it. The others are those of `effvision.host.scene_features`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.clouds import Cloud
from effvision.errors import InputError
from effvision.host.ground import heights_above_ground
from effvision.host.scene_features import feature_fields, feature_width, parse_features, scene_features, scene_places

__all__ = ["Scene", "Spec", "prepare"]

Array = NDArray[np.float32]

REACH = 0.9
"""Where a column's sides lie in the first channels. The rest up to 1 is room for a middle that is not its own."""


@dataclass(frozen=True)
class Spec:
    """What a network for scenes takes. Plain data: `to_dict` stands in the card and in an exported file.

    Attributes:
        block_m: Side of a column in metres.
        points: Most points of a chunk.
        features: Names of `effvision.host.scene_features.FEATURES`, the channels after the first three, in order.
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
        parse_features(self.features)

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Spec:
        """Read it from a card or an exported file.

        Raises:
            InputError: keys that are missing, unknown or of another kind.
        """
        names = ("block_m", "points", "features")
        if set(options) != set(names):
            raise InputError(f"a preparation has {', '.join(names)}; got {', '.join(map(str, options)) or 'nothing'}")
        return cls(options["block_m"], options["points"], parse_features(options["features"]))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "features": list(self.features)}

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields a cloud must have."""
        return feature_fields(self.features)

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return 3 + feature_width(self.features)


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
    heights = heights_above_ground(cloud.xyz)
    features = scene_features(cloud, spec.features, heights=heights)
    return Scene(scene_places(cloud.xyz, heights[0]), features, float(spec.block_m))
