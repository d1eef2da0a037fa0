"""How a cloud becomes rows of a sparse network: of one turn of a lidar, or of a scene from the air. NumPy only.

kind = parse_input({"kind": "scene", "voxel_m": 0.25, "features": ["height", ...]})
arrays = kind.arrays(cloud)                          # coords (R, 4), feats (R, C), inverse (P,)
labels = network(coords, feats).argmax(1)[inverse]   # a label for every point

Exported files need it, so it knows nothing of torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from effvision.clouds import Cloud
from effvision.errors import InputError, RangeError
from effvision.host.ground import heights_above_ground
from effvision.host.scene_features import feature_fields, feature_width, parse_features, scene_features, scene_places
from effvision.host.sparse import FARTHEST, pack, unpack

__all__ = ["KINDS", "Input", "ScanInput", "Scene", "SceneInput", "parse_input"]

_LARGEST_M = 1e3  # side of a voxel
_RATIOS = (1, 2, 4, 8, 16)
_FLOOR_M = 2.0  # below the ground, where `scene_places` cuts heights
_COARSEST = 16  # stride of the deepest level: the ground keeps its place in the voxels of every level


class Input(Protocol):
    """What a network takes.

    Attributes:
        kind: One of `KINDS`.
        voxel_m: Side of a voxel in metres.
        point_m: Side of the cells that `coords` count in, where points are finer than voxels; None: the voxels' own.
    """

    @property
    def kind(self) -> str:
        """One of `KINDS`."""

    @property
    def voxel_m(self) -> float:
        """Side of a voxel in metres."""

    @property
    def point_m(self) -> float | None:
        """Side of the cells of `coords`, if they are not voxels."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields that a cloud must have."""

    @property
    def channels(self) -> int:
        """C of the network's input."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, which `parse_input` takes back."""

    def arrays(self, cloud: Cloud) -> dict[str, NDArray[Any]]:
        """Prepare a cloud of P points.

        Returns:
            `coords` (R, 4) int32 x, y, z and batch 0, none twice, in the order of x, y, z, the least x and y 0; `feats`
            (R, C) float32; `inverse` (P,) int64, the row of each point.

        Raises:
            InputError: the cloud lacks a field.
            RangeError: a field holds NaN, infinity or an impossible value; or the cloud reaches too far for its voxels.
        """


@dataclass(frozen=True)
class ScanInput:
    """One turn of a lidar on a car, exactly as the authors of SPVCNN prepare SemanticKITTI.

    Coordinates are rounded, half to even, in float32; a voxel's features are those of its first point in the order of the file:
    x, y, z in metres from the sensor, and remission. That order therefore matters, and a scan that was moved is another input.

    Attributes:
        voxel_m: Side of a voxel.
    """

    voxel_m: float = 0.05
    kind: ClassVar[str] = "scan"
    point_m: ClassVar[float | None] = None
    fields: ClassVar[tuple[str, ...]] = ("remission",)
    channels: ClassVar[int] = 4

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, which `parse_input` takes back."""
        return {"kind": "scan", "voxel_m": self.voxel_m}

    def arrays(self, cloud: Cloud) -> dict[str, NDArray[Any]]:
        """See `Input.arrays`; the least z is 0 as well."""
        remission = cloud.field("remission")
        places = np.rint(cloud.xyz / np.float32(self.voxel_m)).astype(np.float64)
        cells = _cells(places - places.min(axis=0), self.voxel_m, cloud.name)
        coords, first, inverse = _grouped(cells)
        feats = np.column_stack([cloud.xyz[first], remission[first].astype(np.float32)])
        return {"coords": coords, "feats": feats, "inverse": inverse}


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene from the air before it is cut into voxels.

    Attributes:
        places: (P, 3) float32: x and y from the scene's middle, and the height above the ground; metres.
        features: (P, F) float32.
    """

    places: NDArray[np.float32]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class SceneInput:
    """Open scenes of any size: heights above the ground in place of z, so that slopes are level.

    Features are the mean over the points of a row, first those of `effvision.host.scene_features`, then the mean place of its
    points from the middle of the voxel (x, y, z; in voxels, -0.5..0.5). The middle of a voxel lies at the ground's height.
    Nothing depends on the order of the points.

    Attributes:
        voxel_m: Side of a voxel.
        features: Names of `effvision.host.scene_features.FEATURES`, in order.
        point_m: Rows are points merged in cells of this side, 1/1 to 1/16 of a voxel, for a network with a branch of points;
            None: rows are voxels.
    """

    voxel_m: float
    features: tuple[str, ...]
    point_m: float | None = None
    kind: ClassVar[str] = "scene"

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields that a cloud must have."""
        return feature_fields(self.features)

    @property
    def channels(self) -> int:
        """C of the network's input."""
        return feature_width(self.features) + 3

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, which `parse_input` takes back."""
        points = {} if self.point_m is None else {"point_m": self.point_m}
        return {"kind": "scene", "voxel_m": self.voxel_m, **points, "features": list(self.features)}

    def arrays(self, cloud: Cloud) -> dict[str, NDArray[Any]]:
        """See `Input.arrays`; z counts from a multiple of 16 voxels below the ground."""
        return self.rows(self.prepare(cloud), cloud.name)

    def prepare(self, cloud: Cloud) -> Scene:
        """Compute what does not depend on the voxels.

        Raises:
            As `Input.arrays`.
        """
        cloud.need(self.fields)
        heights = heights_above_ground(cloud.xyz)
        features = scene_features(cloud, self.features, heights=heights)
        return Scene(scene_places(cloud.xyz, heights[0]), features)

    def rows(self, scene: Scene, name: str = "scene") -> dict[str, NDArray[Any]]:
        """Cut a scene into rows, see `Input.arrays`; `name` is for errors.

        Raises:
            RangeError: the scene reaches too far for its voxels.
        """
        side = self.voxel_m if self.point_m is None else self.point_m
        share = round(self.voxel_m / side)  # cells of a row along a voxel
        places = scene.places.astype(np.float64)
        places[:, :2] -= places[:, :2].min(axis=0)
        below = _COARSEST * math.ceil(_FLOOR_M / (_COARSEST * self.voxel_m))
        places[:, 2] += (below + 0.5) * self.voxel_m
        cells = _cells(places / side, side, name)
        coords, _, inverse = _grouped(cells)
        counts = np.bincount(inverse, minlength=len(coords))
        middles = (np.floor_divide(cells, share) + 0.5) * self.voxel_m
        columns = [*scene.features.T, *((places - middles) / self.voxel_m).T]
        feats = np.empty((len(coords), len(columns)), np.float32)
        for channel, column in enumerate(columns):
            feats[:, channel] = np.bincount(inverse, weights=column, minlength=len(coords)) / counts
        return {"coords": coords, "feats": feats, "inverse": inverse}


def _cells(places: NDArray[np.float64], side: float, name: str) -> NDArray[np.int64]:
    """Round places (P, 3), in cells and not negative, down to whole cells.

    Raises:
        RangeError: they lie too far apart.
    """
    most = float(places.max())
    if not most < FARTHEST:
        raise RangeError(
            f"{name} reaches {most * side:.4g} m from end to end; in cells of {side:g} m that must be less than "
            f"{FARTHEST * side:.4g}\nhint: coordinates must be metres; `cloud.select` cuts a part out, or leaves out points "
            "far from all others"
        )
    return np.floor(places).astype(np.int64)


def _grouped(cells: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Return the different cells (R, 4) in order, the first point of each (R,), and the row of each point (P,)."""
    keys = pack(np.column_stack([cells, np.zeros(len(cells), np.int64)]))
    found, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return unpack(found), first, inverse.reshape(-1)


KINDS: Mapping[str, tuple[str, ...]] = {"scan": ("voxel_m",), "scene": ("voxel_m", "point_m", "features")}
"""Kinds of input and their settings."""


def parse_input(data: Mapping[str, Any]) -> ScanInput | SceneInput:
    """Read what a network takes from a card or an exported file.

    Args:
        data: `kind`, one of `KINDS`, and its settings; `point_m` may be left out.

    Raises:
        InputError: settings that are unknown, missing or out of range.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("kind"), str) or data["kind"] not in KINDS:
        raise InputError(f"an input's `kind` must be one of {', '.join(KINDS)}; got {data!r:.120}")
    kind = data["kind"]
    given = {name: value for name, value in data.items() if name != "kind"}
    missing = [name for name in KINDS[kind] if name not in given and name != "point_m"]
    unknown = [str(name) for name in given if name not in KINDS[kind]]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"has no {', '.join(unknown)}"
        raise InputError(f"a {kind} has {', '.join(KINDS[kind])}; this one {what}"[:300])
    voxel_m = _side(given["voxel_m"], "voxel_m")
    if kind == "scan":
        return ScanInput(voxel_m)
    features = parse_features(given["features"])
    if given.get("point_m") is None:
        return SceneInput(voxel_m, features)
    point_m = _side(given["point_m"], "point_m")
    if voxel_m / point_m not in _RATIOS or point_m * 2**20 % 1:
        raise InputError(
            f"`point_m` must be 1/1, 1/2, 1/4, 1/8 or 1/16 of `voxel_m`, and a binary fraction of a metre, so that float32 "
            f"holds a point's place among the voxels exactly; got {point_m:g} and {voxel_m:g}\nhint: 0.125 and 0.5, say"
        )
    return SceneInput(voxel_m, features, point_m)


def _side(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _LARGEST_M:
        raise InputError(f"`{name}` must be metres above 0, at most {_LARGEST_M:g}; got {value!r:.60}")
    return float(value)
