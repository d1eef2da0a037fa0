"""Where the voxels of a sparse grid meet: kernel maps of sparse convolutions, made on the host. NumPy only.

A sparse tensor holds features of the occupied voxels alone. A convolution over it is a list of pairs for each offset of its
kernel: which input voxel an output voxel sees there (Graham, Engelcke, van der Maaten, "3D Semantic Segmentation with
Submanifold Sparse Convolutional Networks", CVPR 2018, section 3; Choy, Gwak, Savarese, "4D Spatio-Temporal ConvNets", CVPR
2019, section 3).

A voxel's batch and coordinates are packed into one 64-bit key, and keys are kept sorted. Then the voxels that lie above each
other in z stand side by side, so that one binary search finds all offsets of a kernel that differ in z only, every search goes
through the keys in order, and of a kernel that is symmetric only one half is searched: the other half are the same pairs
turned round.

Offsets stand in the order of the published weights: x fastest and z slowest for a kernel of odd volume, x slowest for one of
even volume; -1, 0, 1 for size 3, and 0, 1 for size 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import DTypeError, InputError, RangeError, ShapeError

__all__ = [
    "FARTHEST",
    "KEY_STEPS",
    "MOST_BATCHES",
    "Kernel",
    "Pairs",
    "check_coords",
    "check_range",
    "coarser",
    "kernel_offsets",
    "neighbours",
    "nothing_left",
    "pack",
    "rows_of",
    "sort_keys",
    "standing_twice",
    "triple",
    "unpack",
]

Keys = NDArray[np.int64]
Index = NDArray[np.int64]
Kernel = int | tuple[int, int, int]

_BITS = 18  # of each coordinate
_ZERO = 1 << (_BITS - 1)
_MASK = (1 << _BITS) - 1
_MARGIN = 512  # room around the grid, so that a neighbour's coordinates never run into the next field of a key

KEY_STEPS = (1 << (2 * _BITS), 1 << _BITS, 1)
"""What one step along x, y and z adds to a key."""

FARTHEST = _ZERO - _MARGIN
"""Coordinates lie in -FARTHEST..FARTHEST - 1: 13 km of voxels of 5 cm."""

MOST_BATCHES = 1 << (63 - 3 * _BITS)
"""Clouds of one call."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """The kernel map of a convolution: for each of K offsets, which input row meets which output row.

    Attributes:
        source: (P,) int64 rows of the inputs, offset by offset; ascending within each.
        target: (P,) int64 rows of the outputs, likewise ascending; no row stands twice within one offset.
        bounds: (K + 1,) int64: the pairs of offset k are those from bounds[k] to bounds[k + 1].
        inputs: Number of input rows.
        outputs: Number of output rows.
        identity: The offset under which every row meets itself, and whose pairs are therefore not listed; -1: none.
    """

    source: Index
    target: Index
    bounds: Index
    inputs: int
    outputs: int
    identity: int = -1

    @property
    def turned(self) -> Pairs:
        """The map of the transposed convolution: inputs and outputs exchanged, the same offsets."""
        return Pairs(self.target, self.source, self.bounds, self.outputs, self.inputs, self.identity)

    @property
    def count(self) -> int:
        """Pairs in all, those of the identity included: a multiply-add for each of them and each weight of an offset."""
        return len(self.source) + (self.inputs if self.identity >= 0 else 0)


# -- checks, which `effvision.ops.sparse_maps` shares -------------------------------------------------------------------------


def check_coords(shape: Sequence[int], dtype: object, *, whole: bool) -> None:
    """Refuse what are no coordinates of voxels, by the shape and dtype of an array or tensor; `whole`: an integer dtype.

    Raises:
        ShapeError: not (V, 4), or no voxel.
        DTypeError: not of a whole-number dtype.
    """
    if len(shape) != 2 or shape[1] != 4:
        raise ShapeError(f"`coords` must be (V, 4): x, y, z, batch; got {tuple(shape)}")
    if not whole:
        raise DTypeError(
            f"`coords` must be whole numbers of voxels; got {dtype}\n"
            "hint: divide metres by the side of a voxel and round them down"
        )
    if not shape[0]:
        raise ShapeError("`coords` holds no voxel: there is nothing to convolve")


def check_range(low: Sequence[float], high: Sequence[float]) -> None:
    """Refuse coordinates that do not fit into a key.

    Args:
        low: Least x, y, z and batch.
        high: Greatest.

    Raises:
        RangeError: beyond `FARTHEST`, or a batch outside 0..`MOST_BATCHES` - 1; NaN too.
    """
    if not all(a >= -FARTHEST and b < FARTHEST for a, b in zip(low[:3], high[:3], strict=True)):
        raise RangeError(
            f"coordinates reach from {[*low[:3]]} to {[*high[:3]]} voxels; they must lie in {-FARTHEST}..{FARTHEST - 1}\n"
            "hint: subtract the least coordinates, or take larger voxels"
        )
    if low[3] < 0 or high[3] >= MOST_BATCHES:
        raise RangeError(
            f"the batches in `coords` must lie in 0..{MOST_BATCHES - 1}; got {low[3]}..{high[3]}\n"
            "hint: columns are x, y, z, batch; where the batch stands first: `coords[:, [1, 2, 3, 0]]`"
        )


def standing_twice(count: int, voxel: Sequence[int], rows: tuple[int, int]) -> InputError:
    """The error about `count` voxels that are given twice, the first of them in two rows."""
    return InputError(
        f"`coords` holds {count} voxels twice, first {[*voxel]} (x, y, z, batch) in rows {rows[0]} and {rows[1]}\n"
        "hint: average the points of a voxel first: `SparseTensor.from_points`"
    )


def nothing_left(kernel: Kernel, stride: Kernel) -> InputError:
    """The error about a strided kernel that sees no voxel."""
    return InputError(
        f"no voxel falls under a kernel of {kernel} with stride {stride}: the result would be empty\n"
        "hint: a kernel at least as wide as the stride sees every voxel"
    )


# -- keys ------------------------------------------------------------------------------------------------------------------


def pack(coords: NDArray[Any]) -> Keys:
    """Return the key of each voxel; keys are ordered like (batch, x, y, z).

    Args:
        coords: (V, 4) whole numbers x, y, z, batch, in any order; V at least 1.

    Returns:
        (V,) int64.

    Raises:
        ShapeError: not (V, 4), or no voxel.
        DTypeError: not of a whole-number dtype.
        RangeError: a coordinate beyond `FARTHEST`, or a batch outside 0..`MOST_BATCHES` - 1.
    """
    check_coords(coords.shape, coords.dtype, whole=coords.dtype.kind in "iu")
    check_range(coords.min(axis=0).tolist(), coords.max(axis=0).tolist())
    x, y, z, batch = (coords[:, axis].astype(np.int64) for axis in range(4))
    return _packed(batch, x, y, z)


def unpack(keys: Keys) -> NDArray[np.int32]:
    """Return (V, 4) int32 x, y, z, batch."""
    batch, x, y, z = _fields(keys)
    return np.stack([x, y, z, batch], axis=1).astype(np.int32)


def sort_keys(keys: Keys) -> tuple[Keys, Index]:
    """Sort keys that are all different.

    Returns:
        (V,) sorted keys, and (V,) the row of each given key among them.

    Raises:
        InputError: a voxel stands twice.
    """
    if len(keys) < 2 or bool((keys[1:] > keys[:-1]).all()):
        return keys, np.arange(len(keys))
    order = np.argsort(keys, kind="stable")
    found = keys[order]
    twice = np.flatnonzero(found[1:] == found[:-1])
    if len(twice):
        first, second = order[twice[0] : twice[0] + 2].tolist()
        raise standing_twice(len(twice), unpack(found[twice[:1]])[0].tolist(), (first, second))
    rows = np.empty(len(keys), np.int64)
    rows[order] = np.arange(len(keys))
    return found, rows


def rows_of(keys: Keys, wanted: Keys) -> Index:
    """Return the row of each wanted key among the sorted `keys`; -1 where it is not there."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def _packed(batch: Index, x: Index, y: Index, z: Index) -> Keys:
    high = (batch << (3 * _BITS)) + ((x + _ZERO) << (2 * _BITS))
    return np.asarray(high + ((y + _ZERO) << _BITS) + (z + _ZERO))


def _fields(keys: Keys) -> tuple[Index, Index, Index, Index]:
    batch = keys >> (3 * _BITS)
    x, y = ((keys >> (2 * _BITS)) & _MASK) - _ZERO, ((keys >> _BITS) & _MASK) - _ZERO
    return batch, x, y, (keys & _MASK) - _ZERO


# -- kernels ---------------------------------------------------------------------------------------------------------------


def triple(value: Kernel, name: str) -> tuple[int, int, int]:
    """Return a size along x, y and z.

    Raises:
        InputError: not one or three whole numbers of 1 or more.
    """
    sizes = value if isinstance(value, tuple) else (value,) * 3
    whole = all(isinstance(size, (int, np.integer)) and not isinstance(size, bool) for size in sizes)
    if len(sizes) != 3 or not whole or min(sizes) < 1:
        raise InputError(f"`{name}` must be a whole number, 1 or more, or three of them for x, y, z; got {value!r:.80}")
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def kernel_offsets(kernel: Kernel, dilation: Kernel = 1) -> NDArray[np.int64]:
    """Return the offsets (K, 3) x, y, z of a kernel in the order of published weights.

    Raises:
        InputError: sizes that are none, or a kernel that reaches farther than 512 voxels.
    """
    sizes, steps = triple(kernel, "kernel"), triple(dilation, "dilation")
    if max(size * step for size, step in zip(sizes, steps, strict=True)) > _MARGIN:
        raise InputError(f"a kernel of {sizes} with dilation {steps} reaches farther than {_MARGIN} voxels")
    axes = [
        [step * (at - (size // 2 if size % 2 else 0)) for at in range(size)]
        for size, step in zip(sizes, steps, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.int64)  # (x, y, z, 3)
    return (grid.transpose(2, 1, 0, 3) if np.prod(sizes) % 2 else grid).reshape(-1, 3)


def neighbours(keys: Keys, kernel: Kernel = 3, dilation: Kernel = 1) -> Pairs:
    """Return the map of a submanifold convolution: its outputs are the voxels of its inputs.

    CVPR 2018, section 3: out[v] = sum over k of in[v + offset k] W_k, over the voxels that are there.

    Args:
        keys: (V,) sorted.
        kernel: Its size, or three.
        dilation: Voxels between its taps.

    Raises:
        InputError: as `kernel_offsets`.
    """
    offsets = kernel_offsets(kernel, dilation)
    symmetric = all(size % 2 for size in triple(kernel, "kernel"))
    number = {tuple(offset): k for k, offset in enumerate(offsets.tolist())}
    lists: list[tuple[Index, Index]] = [(np.zeros(0, np.int64),) * 2] * len(offsets)
    padded = np.concatenate([keys, np.full(len({z for *_, z in number}) + 1, np.iinfo(np.int64).max)])
    for x, y in sorted({(x, y) for x, y, _ in number}):
        if symmetric and (x, y) < (0, 0):
            continue
        heights = sorted(z for *column, z in number if tuple(column) == (x, y))
        if symmetric and (x, y) == (0, 0):
            heights = [z for z in heights if z > 0]
        for z, source, target in _column(keys, padded, x * KEY_STEPS[0] + y * KEY_STEPS[1], heights):
            if (x, y, z) == (0, 0, 0):
                continue
            lists[number[x, y, z]] = source, target
            if symmetric:
                lists[number[-x, -y, -z]] = target, source
    return _joined(lists, len(keys), len(keys), number[0, 0, 0])


def _column(keys: Keys, padded: Keys, shift: int, heights: list[int]) -> Iterator[tuple[int, Index, Index]]:
    """Yield z, and the rows that meet, for offsets of one column of a kernel: one search for all of them.

    The voxels sought lie within a short stretch of z, so at most so many keys follow the place of the lowest.
    """
    if not heights:
        return
    lowest, reach = heights[0], heights[-1] - heights[0]
    wanted = keys + (shift + lowest)
    place = np.searchsorted(keys, wanted)
    ahead = [padded[np.minimum(place + step, len(padded) - 1)] - wanted for step in range(min(reach, len(keys)) + 1)]
    for z in heights:
        rise = z - lowest
        hits = [gap == rise for gap in ahead[: rise + 1]]
        target = np.flatnonzero(np.logical_or.reduce(hits))
        source = place[target]
        for step, hit in enumerate(hits[1:], start=1):
            source = source + step * hit[target]
        yield z, source, target


def coarser(keys: Keys, kernel: Kernel = 2, stride: Kernel = 2, dilation: Kernel = 1) -> tuple[Keys, Pairs]:
    """Return the voxels that a strided convolution makes, and its map.

    An output voxel o sees the inputs o * stride + offset k. It is there if it sees at least one; for a kernel as wide as the
    stride those are the voxels o = floor(v / stride), each v belonging to one.

    Args:
        keys: (V,) sorted.
        kernel: Its size, or three.
        stride: Likewise.
        dilation: Likewise.

    Returns:
        The sorted keys of the outputs, whose coordinates count in steps of `stride`, and the map.

    Raises:
        InputError: as `kernel_offsets`; or no input falls under the kernel.
        RangeError: with a stride of 1 voxels spread: beyond `FARTHEST`.
    """
    offsets, steps = kernel_offsets(kernel, dilation), triple(stride, "stride")
    batch, *axes = _fields(keys)
    if triple(kernel, "kernel") == steps and triple(dilation, "dilation") == (1, 1, 1):
        first = offsets.min(axis=0).tolist()
        parts = [np.divmod(axis - low, step) for axis, low, step in zip(axes, first, steps, strict=True)]
        order = {tuple(offset): k for k, offset in enumerate((offsets - first).tolist())}
        table = np.array([order[at] for at in product(*(range(step) for step in steps))])
        slot = table[(parts[0][1] * steps[1] + parts[1][1]) * steps[2] + parts[2][1]]
        rows = [np.flatnonzero(slot == k) for k in range(len(offsets))]
        made = _packed(batch, parts[0][0], parts[1][0], parts[2][0])
        out, inverse = np.unique(made, return_inverse=True)
        return out, _joined([(own, inverse[own]) for own in rows], len(keys), len(out))
    rows, found = [], []
    for offset in offsets.tolist():
        moved = [axis - by for axis, by in zip(axes, offset, strict=True)]
        fits = np.logical_and.reduce([axis % step == 0 for axis, step in zip(moved, steps, strict=True)])
        own = np.flatnonzero(fits)
        rows.append(own)
        found.append(_packed(batch[own], *(axis[own] // step for axis, step in zip(moved, steps, strict=True))))
    out, inverse = np.unique(np.concatenate(found), return_inverse=True)
    if not len(out):
        raise nothing_left(kernel, stride)
    reached = unpack(out)  # with a stride of 1 voxels spread
    check_range(reached.min(axis=0).tolist(), reached.max(axis=0).tolist())
    ends = np.cumsum([len(own) for own in rows])
    return out, _joined(list(zip(rows, np.split(inverse, ends[:-1]), strict=True)), len(keys), len(out))


def _joined(lists: list[tuple[Index, Index]], inputs: int, outputs: int, identity: int = -1) -> Pairs:
    source, target = (np.concatenate([pair[side] for pair in lists]).astype(np.int64, copy=False) for side in (0, 1))
    bounds = np.cumsum([0, *(len(pair[0]) for pair in lists)])
    return Pairs(source, target, bounds, inputs, outputs, identity)
