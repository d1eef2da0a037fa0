"""A cloud of points: where they are, and what is known of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from effvision.errors import DTypeError, InputError, RangeError, ShapeError

__all__ = ["CANONICAL", "FAR_M", "Cloud", "as_local", "bounds"]

CANONICAL: Mapping[str, str] = MappingProxyType(
    {
        "rgb": "(P, 3) uint8, 0..255",
        "normal": "(P, 3) float32, as the source gives them: usually of length 1",
        "intensity": "(P,) in the sensor's own unit, such as uint16 of a LAS file",
        "remission": "(P,) float32, 0..1: the intensity of a KITTI scan",
        "return_number": "(P,) whole, from 1: which echo of its pulse a point is",
        "num_returns": "(P,) whole, from 1: how many echoes its pulse had",
        "label": "(P,) whole: a class number, in the numbering of its source",
    }
)
"""Fields that have one name whatever the file calls them. Every other field keeps its own name, shape (P,) or (P, C)."""

FAR_M = 4096.0
"""From here on neighbouring float32 numbers lie half a millimetre apart: such coordinates are kept relative to an origin."""

_FURTHEST_M = 1e9
_WIDTHS = {"rgb": 3, "normal": 3}


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points in metres with their fields. A point's place in the world is `origin + xyz`.

    Coordinates are float32, because that is what networks compute in and half the memory; those of a survey, such as
    770550.25, would lose centimetres in it. So they are kept relative to `origin`, which is float64 and zero where nothing
    would be lost. Tiles are compared in world coordinates: `cloud.world()`.

    Attributes:
        xyz: (P, 3) float32 metres, finite, P at least 1.
        fields: What is known of each point: name -> (P,) or (P, C). `CANONICAL` lists the names that files are brought to.
        origin: (3,) float64 metres.
        name: What to call it on screen: a path, "array", "Open3D cloud".
        rows: (P,) int64, which points of the source these are, where some were dropped; None where all were kept.

    Raises:
        ShapeError, DTypeError, RangeError: arrays that do not fit each other or the above.
    """

    xyz: NDArray[np.float32]
    fields: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    origin: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    name: str = "array"
    rows: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.xyz, np.ndarray) or self.xyz.dtype != np.float32:
            given = self.xyz.dtype if isinstance(self.xyz, np.ndarray) else type(self.xyz).__name__
            raise DTypeError(
                f"`xyz` of a Cloud must be float32; got {given}\n"
                "hint: `effvision.sources.open_cloud(array)` makes a cloud of any array and keeps its precision"
            )
        if self.xyz.ndim != 2 or self.xyz.shape[1] != 3 or len(self.xyz) == 0:
            raise ShapeError(f"`xyz` must be (P, 3) with at least one point; got {self.xyz.shape}")
        if not np.isfinite(self.xyz).all():
            bad = int(np.count_nonzero(~np.isfinite(self.xyz).all(axis=1)))
            raise RangeError(f"`xyz` must be finite; {bad} of {len(self.xyz)} points hold NaN or infinity")
        origin = np.asarray(self.origin)
        if origin.shape != (3,) or origin.dtype.kind not in "fiu" or not np.isfinite(origin).all():
            raise InputError(f"`origin` must be three finite numbers, metres; got {self.origin!r:.120}")
        object.__setattr__(self, "origin", origin.astype(np.float64))
        object.__setattr__(self, "fields", MappingProxyType(dict(self.fields)))
        for name, values in self.fields.items():
            _check_field(name, values, len(self.xyz))
        if self.rows is not None and self.rows.shape != (len(self.xyz),):
            raise ShapeError(f"`rows` must be ({len(self.xyz)},); got {self.rows.shape}")

    def __len__(self) -> int:
        return len(self.xyz)

    def __repr__(self) -> str:
        fields = ", ".join(self.fields) or "none"
        size = " x ".join(f"{side:.3g}" for side in self.extent_m)
        return f"Cloud({self.name!r}, {len(self)} points, {size} m, fields: {fields})"

    @property
    def extent_m(self) -> tuple[float, float, float]:
        """Size of its bounding box along x, y, z."""
        low, high = bounds(self.xyz)
        x, y, z = (float(side) for side in high - low)
        return x, y, z

    def world(self) -> NDArray[np.float64]:
        """Return the coordinates (P, 3) float64 in metres, the origin added."""
        return self.xyz + self.origin

    def field(self, name: str) -> NDArray[Any]:
        """Return one field, (P,) or (P, C).

        Raises:
            InputError: the cloud has no such field, or it holds NaN or infinity (RangeError).
        """
        self.need([name])
        values = self.fields[name]
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int(np.count_nonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1)))
            raise RangeError(
                f"{self.name}: `{name}` holds NaN or infinity at {bad} of {len(self)} points\n"
                f"hint: `cloud.select(np.isfinite(cloud.fields[{name!r}]))` keeps the good points"
            )
        return values

    def need(self, names: Sequence[str]) -> None:
        """Check that the cloud has these fields.

        Raises:
            InputError: some are missing; the message names them and those that are there.
        """
        missing = [name for name in names if name not in self.fields]
        if missing:
            there = ", ".join(self.fields) or "none besides xyz"
            raise InputError(
                f"{self.name} lacks {', '.join(f'`{name}`' for name in missing)}; its fields: {there}\n"
                "hint: a dict or .npz with `xyz` and these names holds them; for columns without names give "
                f"`columns=('x', 'y', 'z', {', '.join(map(repr, missing))})`"
            )

    def select(self, which: NDArray[Any]) -> Cloud:
        """Return the points `which`, a mask (P,) of bool or indices, with their fields.

        Raises:
            InputError: no point is left, or `which` does not fit.
        """
        which = np.asarray(which)
        try:
            rows = np.arange(len(self), dtype=np.int64)[which]
        except IndexError as error:
            raise InputError(f"`which` must be a mask ({len(self)},) or indices of points; {error}") from error
        if rows.ndim != 1 or len(rows) == 0:
            raise InputError(f"`which` must choose at least one of the {len(self)} points; it chose {rows.shape}")
        fields = {name: values[rows] for name, values in self.fields.items()}
        return Cloud(
            self.xyz[rows], fields, self.origin, self.name, rows=rows if self.rows is None else self.rows[rows]
        )


def as_local(xyz: NDArray[Any], origin: ArrayLike | None = None) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Split coordinates into float32 and an origin, so that nothing that matters is lost.

    float32 stays as it is: what it lost is lost. An axis of other numbers that reaches `FAR_M` gets its least value, rounded
    down to whole metres, as its origin; other axes get none.

    Args:
        xyz: (P, 3) finite numbers, metres.
        origin: (3,) metres, of which `xyz` is already relative.

    Returns:
        xyz (P, 3) float32, and the origin (3,) float64 to add.

    Raises:
        RangeError: a coordinate is 1e9 m or more: no metres, or no coordinates at all.
    """
    base = np.zeros(3) if origin is None else np.asarray(origin, np.float64)
    low, high = bounds(xyz)
    reach = float(np.maximum(np.abs(low), np.abs(high)).max())
    if not reach < _FURTHEST_M:
        raise RangeError(
            f"coordinates reach {reach:.3g}; points are metres, and less than {_FURTHEST_M:g} of them\n"
            "hint: convert other units first; a raw file of another layout or byte order looks like this too"
        )
    if xyz.dtype == np.float32:
        return np.ascontiguousarray(xyz), base
    far = np.maximum(np.abs(low), np.abs(high)) >= FAR_M
    shift = np.where(far, np.floor(low), 0.0)
    local = np.empty(xyz.shape, np.float32)
    for axis in range(3):
        local[:, axis] = xyz[:, axis] - shift[axis] if far[axis] else xyz[:, axis]
    return local, base + shift


def bounds(xyz: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the greatest coordinates of points (P, 3), each (3,) float64."""
    axes = [xyz[:, axis] for axis in range(3)]  # several times faster than along the first axis at once
    return np.array([axis.min() for axis in axes], np.float64), np.array([axis.max() for axis in axes], np.float64)


def _check_field(name: object, values: object, points: int) -> None:
    if not isinstance(name, str) or not name or name in ("xyz", "origin"):
        raise InputError(f"a field's name must be text, and neither 'xyz' nor 'origin'; got {name!r:.60}")
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        given = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise DTypeError(f"field `{name:.60}` must be an array of numbers; got {given}")
    if values.ndim not in (1, 2) or len(values) != points:
        raise ShapeError(
            f"field `{name:.60}` must have one row for each of the {points} points, ({points},) or ({points}, C); "
            f"got {values.shape}"
        )
    width = _WIDTHS.get(name)
    if (width and values.shape != (points, width)) or (not width and name in CANONICAL and values.ndim != 1):
        raise ShapeError(f"field `{name}` must be {CANONICAL[name]}; got {values.shape}")
    if name == "rgb" and values.dtype != np.uint8:
        raise DTypeError(f"field `rgb` must be {CANONICAL[name]}; got {values.dtype}")
    if name == "label" and values.dtype.kind not in "iu":
        raise DTypeError(f"field `label` must be {CANONICAL[name]}; got {values.dtype}")
