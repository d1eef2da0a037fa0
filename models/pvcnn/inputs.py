"""How a cloud becomes chunks of input channels: of a scene, of a room, of an object. NumPy only: exported files need it.

kind = parse_input({"kind": "scene", "block_m": 25, "points": 2048, "features": ["height", ...]})
arrays = kind.arrays(cloud)                       # what does not depend on the chunk, points first
for chunk in kind.chunks(arrays["xyz"], seed=0):
    channels = kind.cut(arrays, chunk)            # (C, n) float32
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from effvision.clouds import Cloud, bounds
from effvision.errors import InputError, RangeError
from effvision.host.blocks import Blocks, Chunk, Rule
from effvision.models.pvcnn.preparation import Scene, Spec, prepare
from effvision.models.pvcnn.unit_cloud import unit_cloud

__all__ = ["KINDS", "Chunks", "Input", "ObjectInput", "RoomInput", "SceneInput", "parse_input"]

Arrays = Mapping[str, NDArray[Any]]
_MOST_POINTS = 1_000_000
_MANY, _FEWEST = 2000, 4  # chunks, and points in each of them on average: fewer in more are no scene


class Chunks(Protocol):
    """The chunks of a cloud."""

    def __len__(self) -> int:
        """How many there are."""

    def __iter__(self) -> Iterator[Chunk]:
        """In their order."""


class Input(Protocol):
    """What a network takes, and how the answers for a point that was seen several times are joined."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields that a cloud must have."""

    @property
    def channels(self) -> int:
        """C of the network's input."""

    @property
    def rule(self) -> Rule:
        """Of `effvision.host.blocks.Votes`."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, which `parse_input` takes back."""

    def arrays(self, cloud: Cloud) -> dict[str, NDArray[Any]]:
        """Return what does not depend on the chunk; `xyz` (P, 3) is among it."""

    def chunks(self, xyz: NDArray[Any], *, seed: int) -> Chunks:
        """Part the points."""

    def cut(self, arrays: Arrays, chunk: Chunk) -> NDArray[np.float32]:
        """Return the channels (C, n) of a chunk."""


@dataclass(frozen=True)
class SceneInput:
    """Open scenes of any size in columns: heights above the ground and `FEATURES` of `effvision.host.scene_features`.

    Attributes:
        spec: Columns and channels.
        merge_below: Points below which a column is given to a neighbour.
    """

    spec: Spec
    merge_below: int = 48
    rule: ClassVar[Rule] = "mean"

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields that a cloud must have."""
        return self.spec.fields

    @property
    def channels(self) -> int:
        """C of the network's input."""
        return self.spec.channels

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, which `parse_input` takes back."""
        return {"kind": "scene", "merge_below": self.merge_below, **self.spec.to_dict()}

    def arrays(self, cloud: Cloud) -> dict[str, NDArray[Any]]:
        """Return `xyz` (P, 3), `places` (P, 3) and `features` (P, F)."""
        scene = prepare(cloud, self.spec)
        return {"xyz": cloud.xyz, "places": scene.places, "features": scene.features}

    def chunks(self, xyz: NDArray[Any], *, seed: int) -> Chunks:
        """Part the points into columns, and crowded columns evenly; every point twice, in columns half a side apart."""
        block_m, points = self.spec.block_m, self.spec.points
        blocks = Blocks(xyz, block_m=block_m, points=points, merge_below=self.merge_below, repeat=False, seed=seed)
        return _crowded(blocks, len(xyz), block_m)

    def cut(self, arrays: Arrays, chunk: Chunk) -> NDArray[np.float32]:
        """Return the channels (C, n) of a chunk."""
        return Scene(arrays["places"], arrays["features"], float(self.spec.block_m)).channels(chunk.index)


@dataclass(frozen=True)
class RoomInput:
    """Rooms as the networks of the S3DIS table take them: nine channels, 1.5 m columns, `points` points in each chunk.

    Channels: x and y from the middle of the column's square and z from the room's floor, metres; r, g, b in 0..1; x, y, z as
    shares of the room. The authors also thin and repeat points on a 3 cm grid before; that is left out.

    Attributes:
        points: Of a chunk; those of a column are repeated to a whole number of chunks.
        block_m: Side of a column.
        merge_below: Points below which a column is given to a neighbour.
    """

    points: int = 4096
    block_m: float = 1.5
    merge_below: int = 819
    rule: ClassVar[Rule] = "confidence"
    fields: ClassVar[tuple[str, ...]] = ("rgb",)
    channels: ClassVar[int] = 9

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, which `parse_input` takes back."""
        return {"kind": "room", "points": self.points, "block_m": self.block_m, "merge_below": self.merge_below}

    def arrays(self, cloud: Cloud) -> dict[str, NDArray[Any]]:
        """Return `xyz` (P, 3) from the room's corner, `rgb` (P, 3) and the room's `size` (1, 3)."""
        low, high = bounds(cloud.xyz)
        return {"xyz": cloud.xyz - low, "rgb": cloud.field("rgb"), "size": (high - low)[None]}

    def chunks(self, xyz: NDArray[Any], *, seed: int) -> Chunks:
        """Part the points into columns, twice."""
        blocks = Blocks(xyz, block_m=self.block_m, points=self.points, merge_below=self.merge_below, seed=seed)
        return _crowded(blocks, len(xyz), self.block_m)

    def cut(self, arrays: Arrays, chunk: Chunk) -> NDArray[np.float32]:
        """Return the channels (9, n) of a chunk."""
        xyz = arrays["xyz"]
        size = arrays["size"][0]
        own = xyz[chunk.index]
        place = own - np.append(chunk.low[:2] + self.block_m / 2, 0.0).astype(np.float32)
        colour = arrays["rgb"][chunk.index].astype(np.float32) / np.float32(255)
        return np.concatenate([place, colour, own / np.where(size > 0, size, 1)], axis=1).T.astype(np.float32)


@dataclass(frozen=True)
class ObjectInput:
    """One object at a time: its coordinates alone, moved and scaled by `unit_cloud`.

    Attributes:
        points: Most points of a chunk; an object of more is parted evenly at random.
        votes: How often such an object is parted anew; the mean of the answers counts.
    """

    points: int = 2048
    votes: int = 1
    rule: ClassVar[Rule] = "mean"
    fields: ClassVar[tuple[str, ...]] = ()
    channels: ClassVar[int] = 3

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, which `parse_input` takes back."""
        return {"kind": "object", "points": self.points, "votes": self.votes}

    def arrays(self, cloud: Cloud) -> dict[str, NDArray[Any]]:
        """Return `xyz` (P, 3) in the unit ball."""
        return {"xyz": unit_cloud(cloud.xyz)}

    def chunks(self, xyz: NDArray[Any], *, seed: int) -> Chunks:
        """Part the points at random; a small object is one chunk."""
        return _Parts(len(xyz), self.points, self.votes, seed)

    def cut(self, arrays: Arrays, chunk: Chunk) -> NDArray[np.float32]:
        """Return the channels (3, n) of a chunk."""
        return np.ascontiguousarray(arrays["xyz"][chunk.index].T)


def _crowded(blocks: Blocks, points: int, block_m: float) -> Blocks:
    """Refuse a scene of thousands of all but empty columns, each of which would cost a call of the network."""
    if len(blocks) > _MANY and 2 * points < _FEWEST * len(blocks):
        raise RangeError(
            f"{points:,} points lie in {len(blocks) // 2:,} columns of {block_m:g} m, hardly more than one in each\n"
            "hint: coordinates must be metres; points far away from all others can be left out with `cloud.select`"
        )
    return blocks


class _Parts:
    """Random parts of one object, all points in each pass."""

    def __init__(self, total: int, points: int, votes: int, seed: int) -> None:
        self.total, self.seed = total, seed
        self.count = -(-total // points)
        self.passes = votes if self.count > 1 else 1

    def __len__(self) -> int:
        return self.count * self.passes

    def __iter__(self) -> Iterator[Chunk]:
        rng, low = np.random.default_rng(self.seed), np.zeros(3)
        for number in range(self.passes):
            order = np.arange(self.total) if self.count == 1 else rng.permutation(self.total)
            for index in np.array_split(order, self.count):
                yield Chunk(index, low, number)


KINDS: Mapping[str, tuple[str, ...]] = {
    "scene": ("block_m", "points", "features", "merge_below"),
    "room": ("points", "block_m", "merge_below"),
    "object": ("points", "votes"),
}
"""Kinds of input and their settings."""


def parse_input(data: Mapping[str, Any]) -> Input:
    """Read what a network takes from a card or an exported file.

    Args:
        data: `kind`, one of `KINDS`, and its settings; `merge_below`, `votes` and all of a room's may be left out.

    Raises:
        InputError: settings that are unknown, missing or out of range.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("kind"), str) or data["kind"] not in KINDS:
        raise InputError(f"an input's `kind` must be one of {', '.join(KINDS)}; got {data!r:.120}")
    kind = data["kind"]
    given = {name: value for name, value in data.items() if name != "kind"}
    if unknown := [str(name) for name in given if name not in KINDS[kind]]:
        raise InputError(f"a {kind} has {', '.join(KINDS[kind])}; got {', '.join(unknown)}")
    for name, least in (("points", 1), ("votes", 1), ("merge_below", 0)):
        value = given.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_POINTS:
            raise InputError(f"`{name}` must be a whole number, {least} to {_MOST_POINTS:,}; got {value!r:.60}")
    if kind == "scene":
        merge_below = int(given.pop("merge_below", SceneInput.merge_below))
        return SceneInput(Spec.parse(given), merge_below)
    if kind == "object":
        return ObjectInput(**given)
    side = given.get("block_m", RoomInput.block_m)
    if isinstance(side, bool) or not isinstance(side, (int, float)) or not 0 < side < 1e6:
        raise InputError(f"`block_m` must be metres above 0; got {side!r:.60}")
    return RoomInput(**given)
