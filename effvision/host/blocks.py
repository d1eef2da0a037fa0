"""Whole scenes for a network that takes a few thousand points at a time: overlapping columns, and votes that join the answers.

The protocol is the one of the S3DIS evaluation of PointCNN and PVCNN: upright columns without a cut in z, twice with half a
column's offset, small columns given to a neighbour, each column's points repeated to a whole number of chunks and shuffled, and
for every point the answer with the greatest confidence. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from effvision.errors import InputError, RangeError, ShapeError, StateError

__all__ = ["Blocks", "Chunk", "Rule", "Votes", "column_groups"]

Rule = Literal["confidence", "mean"]

_NEIGHBOURS = tuple((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if (dx, dy) != (0, 0))
_MOST_CELLS = 2**31  # along an axis: two of them fit into one 64-bit number


@dataclass(frozen=True, eq=False)
class Chunk:
    """What goes through the network at once.

    Attributes:
        index: (n,) int64, points of the scene; some may stand there twice.
        low: (3,) float64 metres, the least coordinates of the whole column, by which its points are centred.
        block: Number of the column, from 0; the chunks of a column follow each other.
    """

    index: NDArray[np.int64]
    low: NDArray[np.float64]
    block: int


class Blocks:
    """The chunks of a scene; iterate over it. Every point lies in at least one chunk for each offset.

    Which points share a column depends on their places alone, not on their order: a point on a border belongs to the column
    above it. Takes a few numbers a point, however many chunks there are, and O(P log P) time.

    Args:
        xyz: (P, 3) finite metres.
        block_m: Side of a column.
        points: Points of a chunk.
        offsets: Metres by which the grid is moved, in x and y alike, one pass each. Default: none and half a column.
        merge_below: A column of fewer points is given to the nearest of its eight neighbours that has as many or more; where
            none has, it stays.
        repeat: Whether every chunk has exactly `points` points, some repeated; otherwise a column is parted evenly into chunks
            of at most so many, and no point stands in two of them. That is less work for networks that take any number.
        seed: Of the shuffling; the same seed gives the same chunks.

    Raises:
        ShapeError, RangeError, InputError: no such scene or no such columns.
    """

    def __init__(
        self,
        xyz: NDArray[Any],
        *,
        block_m: float,
        points: int,
        offsets: Sequence[float] | None = None,
        merge_below: int = 0,
        repeat: bool = True,
        seed: int = 0,
    ) -> None:
        _check_scene(xyz)
        self.block_m = _positive(block_m, "block_m")
        self.offsets = tuple(float(offset) for offset in ((0.0, self.block_m / 2) if offsets is None else offsets))
        if not self.offsets or not all(np.isfinite(offset) for offset in self.offsets):
            raise InputError(f"`offsets` must be finite numbers of metres, at least one; got {offsets!r:.80}")
        if isinstance(points, bool) or points < 1 or merge_below < 0:
            raise InputError(
                f"`points` must be 1 or more and `merge_below` 0 or more; got {points!r:.40} and {merge_below!r:.40}"
            )
        self.points, self.merge_below, self.repeat, self.seed = int(points), int(merge_below), repeat, seed
        self._xyz = xyz
        self._sizes: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        """How many chunks there are; the columns are counted at the first call."""
        if not self._sizes:
            self._sizes = [np.diff(self._groups(offset)[1]) for offset in self.offsets]
        return int(sum((-(-sizes // self.points)).sum() for sizes in self._sizes))

    def __iter__(self) -> Iterator[Chunk]:
        rng = np.random.default_rng(self.seed)
        block = 0
        for offset in self.offsets:
            order, bounds = self._groups(offset)
            for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                members = order[begin:end]
                low = np.array([self._xyz[members, axis].min() for axis in range(3)], np.float64)
                for index in self._chunks(members, rng):
                    yield Chunk(index, low, block)
                block += 1

    def _groups(self, offset: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return column_groups(self._xyz, block_m=self.block_m, offset=offset, merge_below=self.merge_below)

    def _chunks(self, members: NDArray[np.int64], rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        count = -(-len(members) // self.points)
        if not self.repeat:
            yield from np.array_split(rng.permutation(members), count)
            return
        tiled = rng.permutation(np.resize(members, count * self.points))  # again and again from the front
        yield from tiled.reshape(count, self.points)


def column_groups(
    xyz: NDArray[Any], *, block_m: float, offset: float = 0.0, merge_below: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort the points of a scene by the column they lie in.

    Columns are squares of x and y: from low - offset + i * block_m, which belongs to them, to the next, which does not, where
    `low` is the scene's least x or y; so without an offset the first column begins at the scene's corner.

    Args:
        xyz: (P, 3) finite metres.
        block_m: Side of a column.
        offset: Metres by which the grid is moved.
        merge_below: As for `Blocks`.

    Returns:
        order: (P,) int64, the points, column after column, in each as they come in `xyz`.
        bounds: (B + 1,) int64: column b holds `order[bounds[b]:bounds[b + 1]]`.
    """
    cells, corner = np.empty((len(xyz), 2), np.int64), np.empty(2)
    for axis in range(2):
        values = np.asarray(xyz[:, axis], np.float64)
        corner[axis] = values.min() - offset
        place = (values - values.min() + offset) / block_m
        if not (np.ptp(values) / block_m < _MOST_CELLS and abs(offset) / block_m < _MOST_CELLS):
            raise RangeError(
                f"a scene {np.ptp(values):.3g} m wide has too many columns of {block_m:g} m\nhint: give a larger `block_m`"
            )
        cells[:, axis] = np.floor(place)
    first = cells.min(axis=0)
    cells -= first
    key = cells[:, 0] * (cells[:, 1].max() + 1) + cells[:, 1]
    order = np.argsort(key, kind="stable")
    bounds = _bounds(key[order])
    if merge_below < 2 or len(bounds) < 3:
        return order, bounds
    middles = corner + (first + cells[order[bounds[:-1]]] + 0.5) * block_m
    owner = _owners(xyz, cells[order[bounds[:-1]]], middles, order, bounds, merge_below)
    owners = np.repeat(owner, np.diff(bounds))
    again = np.argsort(owners, kind="stable")
    return order[again], _bounds(owners[again])


def _owners(
    xyz: NDArray[Any],
    cells: NDArray[np.int64],
    middles: NDArray[np.float64],
    order: NDArray[np.int64],
    bounds: NDArray[np.int64],
    merge_below: int,
) -> NDArray[np.int64]:
    """Return for each column the one its points go to: itself, or of its large neighbours the one nearest to their mean."""
    sizes = np.diff(bounds)
    owner = np.arange(len(sizes))
    number = {cell: index for index, cell in enumerate(map(tuple, cells.tolist()))}
    for small in np.flatnonzero(sizes < merge_below).tolist():
        x, y = cells[small].tolist()
        near = [number.get((x + dx, y + dy), -1) for dx, dy in _NEIGHBOURS]
        large = [index for index in near if index >= 0 and sizes[index] >= merge_below]
        if large:
            members = xyz[order[bounds[small] : bounds[small + 1]], :2].astype(np.float64)
            mean = np.sort(members, axis=0).mean(axis=0)  # sorted: the sum does not depend on the order of the points
            owner[small] = large[int(np.argmin(np.square(middles[large] - mean).sum(axis=1)))]
    return owner


def _bounds(key: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where stretches of equal keys begin, and the end."""
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    return np.append(starts, len(key)).astype(np.int64)


class Votes:
    """Joins what the network says of points that it saw several times.

    Args:
        points: P, of the scene.
        classes: K.
        rule: "confidence": the answer with the greatest probability counts, the first of equals (S3DIS protocol; 8 bytes a
            point). "mean": the class with the greatest mean probability (4 K + 4 bytes a point).

    Raises:
        InputError: no points, no classes, or another rule.
    """

    def __init__(self, points: int, classes: int, *, rule: Rule = "confidence") -> None:
        if points < 1 or classes < 1 or rule not in ("confidence", "mean"):
            raise InputError(
                "votes need points, classes and a rule, 'confidence' or 'mean'; "
                f"got {points!r:.40}, {classes!r:.40}, {rule!r:.40}"
            )
        self.points, self.classes, self.rule = int(points), int(classes), rule
        self._best = np.full(points if rule == "confidence" else 0, -1.0, np.float32)
        self._labels = np.zeros(points if rule == "confidence" else 0, np.int32)
        self._sums = np.zeros((points, classes) if rule == "mean" else (0, classes), np.float32)
        self._votes = np.zeros(points if rule == "mean" else 0, np.int32)

    @property
    def missing(self) -> int:
        """Points without a vote."""
        seen = self._best >= 0 if self.rule == "confidence" else self._votes > 0
        return self.points - int(np.count_nonzero(seen))

    def add(self, index: NDArray[np.int64], probabilities: NDArray[Any]) -> None:
        """Count the answers for points `index` (n,), in which a point may stand several times.

        Args:
            index: (n,) whole, 0..P-1.
            probabilities: (n, K), 0..1: softmax of the network's answers.

        Raises:
            ShapeError, RangeError: arrays that do not fit, NaN, numbers that are no probabilities, or unknown points.
        """
        self._check(index, probabilities)
        if self.rule == "mean":
            np.add.at(self._sums, index, probabilities.astype(np.float32))
            np.add.at(self._votes, index, 1)
            return
        label = probabilities.argmax(axis=1)
        confidence = probabilities[np.arange(len(label)), label].astype(np.float32)
        # Of several answers for one point in this chunk the greatest, of equals the first, is to be written: so it comes last.
        order = np.lexsort((-np.arange(len(label)), confidence, index))
        last = order[np.append(np.diff(index[order]) != 0, True)] if len(order) else order
        better = last[confidence[last] > self._best[index[last]]]
        self._best[index[better]] = confidence[better]
        self._labels[index[better]] = label[better]

    def result(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the class (P,) int32 and its score (P,) float32 of every point.

        Raises:
            StateError: some point got no vote.
        """
        if self.missing:
            raise StateError(
                f"{self.missing} of {self.points} points got no vote\nhint: add the answers for every chunk of `Blocks`"
            )
        if self.rule == "confidence":
            return self._labels.copy(), self._best.copy()
        labels = self._sums.argmax(axis=1).astype(np.int32)
        return labels, self._sums[np.arange(self.points), labels] / self._votes.astype(np.float32)

    def _check(self, index: NDArray[np.int64], probabilities: NDArray[Any]) -> None:
        if index.ndim != 1 or index.dtype.kind not in "iu" or probabilities.shape != (len(index), self.classes):
            raise ShapeError(
                f"`index` must be (n,) whole numbers and `probabilities` (n, {self.classes}); got {index.shape} "
                f"{index.dtype} and {probabilities.shape}"
            )
        if len(index) and not (index.min() >= 0 and index.max() < self.points):
            raise RangeError(f"`index` must lie within 0..{self.points - 1}; got {index.min()}..{index.max()}")
        if probabilities.size and not (probabilities.min() >= 0 and probabilities.max() <= 1.001):
            raise RangeError(
                f"`probabilities` must lie within 0..1; got {probabilities.min():g}..{probabilities.max():g}\n"
                "hint: take the softmax of logits first"
            )


def _check_scene(xyz: NDArray[Any]) -> None:
    if xyz.ndim != 2 or xyz.shape[1] != 3 or len(xyz) == 0 or xyz.dtype.kind not in "fiu":
        raise ShapeError(f"`xyz` must be (P, 3) numbers with at least one point; got {xyz.shape} {xyz.dtype}")
    if not np.isfinite(xyz).all():
        raise RangeError("`xyz` must be finite; it holds NaN or infinity")


def _positive(value: float, name: str) -> float:
    if isinstance(value, bool) or not 0 < value < 1e9:
        raise InputError(f"`{name}` must be a number of metres above 0; got {value!r:.40}")
    return float(value)
