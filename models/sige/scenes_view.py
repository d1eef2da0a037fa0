"""What the painters of the classes look at: the labels with ragged borders, how materials bulge, shadows, distances; all local.

Every operation here has a bounded reach, and none sums along the picture in floating point (a running sum would carry rounding
from far away), so that an edit leaves what is far from it equal to the last bit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.models.sige.scenes_guide import CELL, PLANES, guide
from effvision.models.sige.scenes_palette import NAMES, PALETTE

__all__ = ["Pixels", "View", "smooth"]

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_CASTERS = ("tree", "bush", "rock", "wall", "roof")
_STRAIGHT = ("wall", "roof", "road")
_RAGGED = {
    "cloud": 2.0, "mountain": 0.8, "snow": 1.6, "hill": 1.0, "grass": 1.6, "field": 0.7, "sand": 1.6, "water": 1.0,
    "tree": 2.6, "bush": 2.6, "rock": 1.2,
}  # fmt: skip
"""How far, in pixels, the border of a class is frayed."""
_BULGE_REACH = 2.4  # standard deviations after which a blur is cut off


def smooth(low: float, high: float, value: NDArray[Any]) -> Array:
    """0 below `low`, 1 above `high`, and a smooth step between."""
    share = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), dtype=np.float32)


@lru_cache(maxsize=16)
def _guide_of(height: int, width: int, seed: int) -> Array:
    planes = guide(height, width, seed)
    planes.flags.writeable = False
    return planes


def _moved(plane: NDArray[Any], by: int, axis: int) -> NDArray[Any]:
    """A plane moved along one axis, its edge repeated."""
    found = np.empty_like(plane)
    source, target = (plane, found) if axis == 0 else (plane.T, found.T)
    if by > 0:
        target[by:], target[:by] = source[:-by], source[:1]
    else:
        target[:by], target[by:] = source[-by:], source[-1:]
    return found


@lru_cache(maxsize=4)
def _fan(reach: int) -> Bytes:
    """Kernel of a maximum that draws what it meets to the right and a little down, by `reach` pixels."""
    down = reach // 4
    kernel = np.zeros((2 * down + 1, 2 * reach + 1), np.uint8)
    for step in range(reach + 1):
        drop = step // 4
        kernel[max(0, down - drop - 1 - reach // 9) : down + 1 - drop // 2, reach - step] = 1
    return kernel


class View:
    """One label map and its guide.

    Args:
        labels: (H, W) uint8, checked.
        seed: Of the guide, checked.

    Attributes:
        planes: The guide by name, each (H, W) float32.
        labels: (H, W) uint8, the borders of natural classes frayed.
        near: (H, W) float32, 0 at the horizon and above, 1 in the last row.
    """

    def __init__(self, labels: Bytes, seed: int) -> None:
        self._cv2: Any = import_cv2()
        self.planes: dict[str, Array] = dict(zip(PLANES, _guide_of(*labels.shape, seed), strict=True))
        self.near: Array = np.clip((self.planes["height"] + 0.26) / 1.26, 0, 1)
        self.labels: Bytes = labels
        self.labels = self._frayed(labels)
        self._kept: dict[tuple[Any, ...], Any] = {}

    def mask(self, *names: str) -> Bytes:
        """1 where a pixel has one of these classes, (H, W) uint8."""
        key = ("mask", *names)
        if key not in self._kept:
            table = np.zeros(256, dtype=np.uint8)
            table[[NAMES.index(name) for name in names]] = 1
            self._kept[key] = self._cv2.LUT(self.labels, table)
        return self._kept[key]  # type: ignore[no-any-return]

    def soft(self, sigma: float, *names: str) -> Array:
        """Blurred mask of these classes, (H, W) in 0..1."""
        key = ("soft", sigma, *names)
        if key not in self._kept:
            self._kept[key] = self._blurred(self.mask(*names).astype(np.float32), sigma)
        return self._kept[key]  # type: ignore[no-any-return]

    def stems(self) -> Bytes:
        """1 where a tree is only a few pixels wide below something wider, its crown; (H, W) uint8."""
        cv2, tree = self._cv2, self.mask("tree")
        core = cv2.erode(tree, np.ones((6, 6), np.uint8), borderType=cv2.BORDER_REPLICATE)
        down = np.zeros((61, 9), np.uint8)
        down[:31] = 1  # of the rows above
        under = cv2.dilate(core, down) & (1 - cv2.dilate(core, np.ones((12, 12), np.uint8)))
        return np.asarray(tree & under, dtype=np.uint8)

    def bulge(self, sigma: float, *names: str) -> Array:
        """Light on these classes as if they bulged: about 1 on upper left sides, -1 on lower right ones; (H, W)."""
        key = ("bulge", sigma, *names)
        if key not in self._kept:
            relief = self.soft(sigma, *names)
            slope = 1.25 * sigma * np.array([[0, -0.75, 0], [-0.65, 0, 0.65], [0, 0.75, 0]], dtype=np.float32)
            self._kept[key] = self._cv2.filter2D(relief, -1, slope, borderType=self._cv2.BORDER_REPLICATE)
        return self._kept[key]  # type: ignore[no-any-return]

    def moved(self, plane: NDArray[Any], right: int, down: int) -> NDArray[Any]:
        """A plane (H, W) moved, its edge repeated."""
        found = plane
        for axis, by in ((0, down), (1, right)):
            if by:
                found = _moved(found, by, axis)
        return found

    def distance(self, limit: float, *names: str) -> Array:
        """Pixels to the nearest pixel of these classes, cut off at a limit, (H, W) float32."""
        key = ("distance", limit, *names)
        if key not in self._kept:
            other = 1 - self.mask(*names)
            if other.all():
                found = np.full(other.shape, limit, dtype=np.float32)
            else:
                found = self._cv2.distanceTransform(other, self._cv2.DIST_L2, 3)
            self._kept[key] = np.minimum(found, limit)
        return self._kept[key]  # type: ignore[no-any-return]

    def shadow(self) -> Array:
        """How much of the light is taken away by what stands to the left, (H, W) in 0..1; longer for what is near."""
        key = ("shadow",)
        if key not in self._kept:
            caster = self.mask(*_CASTERS)
            foot = (self.moved(caster, 0, 1) & (1 - caster)).astype(np.uint8)
            # A maximum is exact and reaches no further than its kernel.
            long, short = (self._cv2.dilate(foot, _fan(reach)).astype(np.float32) for reach in (18, 7))
            cast = (short + (long - short) * smooth(0.1, 0.6, self.near)) * (1 - caster)
            self._kept[key] = self._cv2.GaussianBlur(cast, (7, 7), 1.6, borderType=self._cv2.BORDER_REPLICATE)
        return self._kept[key]  # type: ignore[no-any-return]

    def windows(self) -> Bytes:
        """1 where a wall has a window, 2 where it has a door, else 0; (H, W) uint8. A window is whole or is not there."""
        wall = self.mask("wall")
        height = wall.shape[0]
        inside = self._cv2.erode(wall, np.ones((11, 9), np.uint8), borderType=self._cv2.BORDER_CONSTANT, borderValue=0)
        centres = np.zeros_like(wall)
        half = CELL // 2
        centres[half::CELL, half::CELL] = inside[half::CELL, half::CELL]
        found = np.asarray(self._cv2.dilate(centres, np.ones((9, 7), np.uint8)), dtype=np.uint8)
        door = self.planes["panes"] < 0
        ground = (self.moved(wall, 0, -1) == 0) & (wall == 1) & (np.arange(height) < height - 1)[:, None]
        wide = self._cv2.erode(wall, np.ones((1, 15), np.uint8), borderType=self._cv2.BORDER_CONSTANT, borderValue=0)
        foot = (ground & door & (wide == 1)).astype(np.uint8)
        up = np.zeros((23, 1), np.uint8)
        up[11:] = 1  # looks down: a pixel is of a door if its foot is at most 11 below
        high = np.asarray(self._cv2.dilate(foot, up), dtype=np.uint8) & wall
        return np.where(high.astype(bool) & door, np.uint8(2), found)

    def above(self, reach: int, *names: str) -> NDArray[np.int32]:
        """For pixels of these classes the rows up to the first pixel above that is of another, else `reach + 1`; (H, W)."""
        mask = self.mask(*names)
        rows = np.arange(mask.shape[0], dtype=np.int32)[:, None]
        last = np.maximum.accumulate(np.where(mask == 0, rows, np.int32(-10 * reach)), axis=0)
        return np.asarray(np.where(mask == 1, np.minimum(rows - last, reach + 1), reach + 1), dtype=np.int32)

    def _blurred(self, plane: Array, sigma: float) -> Array:
        """Gaussian blur cut off at `_BULGE_REACH`; a wide one is computed at half the size."""
        cv2, size, half = self._cv2, plane.shape[::-1], sigma >= 4
        if half:
            plane = cv2.resize(plane, ((size[0] + 1) // 2, (size[1] + 1) // 2), interpolation=cv2.INTER_AREA)
            sigma = sigma / 2
        side = 2 * int(sigma * _BULGE_REACH) + 1
        plane = cv2.GaussianBlur(plane, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
        return cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) if half else plane

    def _frayed(self, labels: Bytes) -> Bytes:
        """Read each label a little beside its pixel where natural classes meet; what people build stays straight."""
        cv2 = self._cv2
        amount = np.array([_RAGGED.get(name, 0.0) for name in NAMES], dtype=np.float32)[labels]
        amount = cv2.dilate(amount, np.ones((5, 5), np.uint8))
        straight = np.array([name in _STRAIGHT for name in NAMES], dtype=np.uint8)[labels]
        amount[cv2.dilate(straight, np.ones((7, 7), np.uint8)) == 1] = 0
        height, width = labels.shape
        down = np.rint(amount * (1.6 * self.planes["clump"] + 0.8 * self.planes["fine"])).astype(np.int32)
        right = np.rint(amount * (1.6 * self.planes["leaves"] - 0.8 * self.planes["fine"])).astype(np.int32)
        rows = np.clip(np.arange(height)[:, None] + down, 0, height - 1)
        columns = np.clip(np.arange(width)[None] + right, 0, width - 1)
        return np.asarray(labels[rows, columns])


class Pixels:
    """The pixels of one class: everything about them as (P,) vectors, so that a class costs what it covers.

    Args:
        view: The whole picture.
        label: The class.
    """

    def __init__(self, view: View, label: int) -> None:
        self.view, self.name = view, PALETTE[label].name
        self.places = np.flatnonzero(view.labels == label)

    def take(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Values of a plane (H, W) at these pixels, (P,)."""
        return plane.ravel()[self.places]

    def plane(self, name: str) -> Array:
        """Values of a plane of the guide, (P,)."""
        return self.take(self.view.planes[name])

    @property
    def near(self) -> Array:
        """(P,), see `View`."""
        return self.take(self.view.near)
