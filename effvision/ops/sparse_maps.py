"""The voxels of a level where its tensors lie, and the kernel maps over them.

On a CPU maps are made by `effvision.host.sparse`. Elsewhere the same steps are taken in torch, so that no coordinate leaves the
device: keys are packed and sorted, all offsets of a kernel are searched at once, and of a symmetric one a half. Both give the
same maps, pair by pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from effvision.errors import DTypeError, InputError, RangeError, ShapeError
from effvision.host import sparse as host
from effvision.host import sparse_levels as host_levels
from effvision.host.sparse import KEY_STEPS, Kernel, kernel_offsets, triple
from effvision.ops.rows import precise
from effvision.ops.sparse_conv import KernelMap
from effvision.ops.sparse_points import PointMap

__all__ = ["Voxels", "coarser", "neighbours", "pack", "point_map", "rows_of", "sort_keys", "unpack"]

_SIDE = KEY_STEPS[1]  # cells along each axis of a key
_ZERO = _SIDE // 2
_AT_ONCE = 1 << 24  # searches: 128 MB


class Voxels:
    """The occupied voxels of one level, and every map over them, each made once and shared by all tensors that lie on them.

    Attributes:
        keys: (V,) int64, sorted; see `effvision.host.sparse.pack`.
        stride: How many voxels of the finest level one of this level spans along x, y and z.
        batch_size: N, clouds in this call; some may have no voxel here.
        rows: (M,) int64, the row of each coordinate that was given, in its order; None: none were given.
    """

    def __init__(
        self, keys: Tensor, *, stride: Kernel = 1, batch_size: int | None = None, rows: Tensor | None = None
    ) -> None:
        """Take keys that are sorted and all different; arguments as the attributes.

        With `batch_size` None it is one more than the greatest batch.

        Raises:
            RangeError: a voxel's batch beyond `batch_size`.
            DTypeError: `batch_size` is no whole number.
        """
        if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer))):
            raise DTypeError(f"`batch_size` must be a whole number or None; got {batch_size!r:.60}")
        found = int(keys[-1] // _SIDE**3) + 1
        if batch_size is not None and not found <= batch_size <= host.MOST_BATCHES:
            raise RangeError(
                f"`batch_size` must be at least {found}, since there is a voxel of cloud {found - 1}, and at most "
                f"{host.MOST_BATCHES}; got {batch_size}"
            )
        self.keys, self.stride, self.rows = keys, triple(stride, "stride"), rows
        self.batch_size = found if batch_size is None else int(batch_size)
        self._near: dict[tuple[Kernel, Kernel], KernelMap] = {}
        self._down: dict[tuple[Kernel, Kernel, Kernel], tuple[Voxels, KernelMap]] = {}
        self._between: list[tuple[Voxels, Kernel, Kernel, KernelMap]] = []

    @classmethod
    def of(cls, coords: Tensor, *, stride: Kernel = 1, batch_size: int | None = None) -> Voxels:
        """Pack and sort coordinates.

        Args:
            coords: (V, 4) whole numbers x, y, z, batch in voxels of this level, in any order, none twice.
            stride: As the attribute.
            batch_size: N; None: one more than the greatest batch.

        Raises:
            ShapeError: not so, or no voxel.
            DTypeError: not whole numbers.
            RangeError: coordinates that cannot be packed, or a batch beyond `batch_size`.
            InputError: a voxel that stands twice.
        """
        keys, rows = sort_keys(pack(coords))
        return cls(keys, stride=stride, batch_size=batch_size, rows=rows)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Voxels({len(self)}, stride={self.stride}, batch_size={self.batch_size}, device='{self.keys.device}')"

    @property
    def coords(self) -> Tensor:
        """(V, 4) int32 x, y, z, batch in voxels of this level, sorted by batch, x, y, z."""
        return unpack(self.keys)

    def equals(self, other: Voxels) -> bool:
        """Whether both are the same voxels of the same level, so that their rows belong together."""
        if self is other:
            return True
        same = self.stride == other.stride and self.keys.device == other.keys.device
        return same and torch.equal(self.keys, other.keys)

    def near(self, kernel: Kernel = 3, dilation: Kernel = 1) -> KernelMap:
        """The map of a submanifold convolution.

        Raises:
            InputError: sizes that are none.
        """
        sizes = triple(kernel, "kernel"), triple(dilation, "dilation")
        if sizes not in self._near:
            if self.keys.device.type == "cpu":
                self._near[sizes] = KernelMap.of(host.neighbours(self.keys.numpy(), *sizes))
            else:
                self._near[sizes] = neighbours(self.keys, *sizes)
        return self._near[sizes]

    def down(self, kernel: Kernel = 2, stride: Kernel = 2, dilation: Kernel = 1) -> tuple[Voxels, KernelMap]:
        """The voxels that a strided convolution makes of these, and its map.

        Raises:
            InputError: sizes that are none, or a kernel that sees no voxel.
            RangeError: voxels spread beyond what can be packed.
        """
        sizes = triple(kernel, "kernel"), triple(stride, "stride"), triple(dilation, "dilation")
        if sizes not in self._down:
            if self.keys.device.type == "cpu":
                found, pairs = host.coarser(self.keys.numpy(), *sizes)
                keys, made = torch.from_numpy(found), KernelMap.of(pairs)
            else:
                keys, made = coarser(self.keys, *sizes)
            x, y, z = (old * new for old, new in zip(self.stride, sizes[1], strict=True))
            self._down[sizes] = Voxels(keys, batch_size=self.batch_size, stride=(x, y, z)), made
        return self._down[sizes]

    def between(self, coarse: Voxels, kernel: Kernel = 2, dilation: Kernel = 1) -> KernelMap:
        """The map of a strided convolution from these voxels to coarser ones that are given; turned, that of the way back.

        Where `coarse` came of `down` it is that one's map. Voxels of `coarse` that see none of these are left without pairs.

        Raises:
            InputError: sizes that are none; levels whose strides are no multiples; voxels none of which meet.
        """
        if coarse.keys.device != self.keys.device:
            raise InputError(f"voxels lie on {self.keys.device} and on {coarse.keys.device}: move one of them")
        x, y, z = (big // small for big, small in zip(coarse.stride, self.stride, strict=True))
        if (x * self.stride[0], y * self.stride[1], z * self.stride[2]) != coarse.stride or min(x, y, z) < 1:
            raise InputError(
                f"from stride {coarse.stride} to stride {self.stride} is no whole number of voxels: give the finer level last"
            )
        sizes = triple(kernel, "kernel"), triple(dilation, "dilation")
        made, kernel_map = self.down(sizes[0], (x, y, z), sizes[1])
        if made is coarse:
            return kernel_map
        for known, *known_sizes, found in self._between:
            if known is coarse and tuple(known_sizes) == sizes:
                return found
        found = kernel_map if made.equals(coarse) else _onto(kernel_map, rows_of(coarse.keys, made.keys), len(coarse))
        if not found.bounds[-1]:
            raise InputError("no voxel of the finer level lies under one of the coarser: they are of different clouds")
        self._between.append((coarse, *sizes, found))
        return found

    def points(self, places: Tensor, batch: Tensor) -> PointMap:
        """Where points lie among these voxels.

        Args:
            places: (P, 3) x, y, z in voxels of this level, whole or not; no gradient flows to them.
            batch: (P,) whole numbers.

        Raises:
            ShapeError: not so, or no point.
            DTypeError: batches that are not whole numbers.
            RangeError: a place beyond what can be packed, NaN and infinity included.
            InputError: a point outside all voxels, or tensors on different devices.
        """
        if places.ndim != 2 or places.shape[1] != 3 or batch.shape != places.shape[:1]:
            given = f"{tuple(places.shape)} and {tuple(batch.shape)}"
            raise ShapeError(f"`places` must be (P, 3) and `batch` (P,); got {given}")
        if batch.is_floating_point() or batch.is_complex() or batch.dtype == torch.bool:
            raise DTypeError(f"`batch` must be whole numbers; got {batch.dtype}\nhint: `batch.long()`")
        if not self.keys.device == places.device == batch.device:
            given = f"{places.device} and {batch.device}"
            raise InputError(f"the voxels are on {self.keys.device}, `places` and `batch` on {given}: move them")
        exact = precise(places.detach())
        if self.keys.device.type == "cpu":
            return PointMap.of(host_levels.point_table(self.keys.numpy(), exact.numpy(), batch.numpy()))
        return point_map(self.keys, exact, batch)


# -- keys ------------------------------------------------------------------------------------------------------------------


def pack(coords: Tensor) -> Tensor:
    """`effvision.host.sparse.pack` of tensors: (V, 4) whole numbers x, y, z, batch -> (V,) int64.

    Raises:
        ShapeError, DTypeError, RangeError: as there.
        InputError: a tensor on the meta device, which has no values.
    """
    whole = not (coords.is_floating_point() or coords.is_complex() or coords.dtype == torch.bool)
    host.check_coords(coords.shape, coords.dtype, whole=whole)
    if coords.is_meta:
        raise InputError("`coords` is on the meta device, where tensors have no values\nhint: `coords.to('cpu')`")
    coords = coords.long()
    low, high = torch.stack(coords.aminmax(dim=0)).tolist()
    host.check_range(low, high)
    return _packed(coords[:, 3], *coords[:, :3].unbind(1))


def unpack(keys: Tensor) -> Tensor:
    """(V,) keys -> (V, 4) int32 x, y, z, batch."""
    batch, x, y, z = _fields(keys)
    return torch.stack([x, y, z, batch], dim=1).int()


def sort_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """`effvision.host.sparse.sort_keys`: (V,) sorted, and (V,) the row of each given key among them.

    Raises:
        InputError: a voxel stands twice.
    """
    if len(keys) < 2 or bool((keys[1:] > keys[:-1]).all()):
        return keys, torch.arange(len(keys), device=keys.device)
    found, order = torch.sort(keys, stable=True)
    twice = (found[1:] == found[:-1]).nonzero()[:, 0]
    if len(twice):
        at = int(twice[0])
        first, second = order[at : at + 2].tolist()
        raise host.standing_twice(len(twice), unpack(found[at : at + 1])[0].tolist(), (first, second))
    return found, torch.empty_like(order).index_copy_(0, order, torch.arange(len(keys), device=keys.device))


def rows_of(keys: Tensor, wanted: Tensor) -> Tensor:
    """The row of each wanted key among the sorted `keys`; -1 where it is not there."""
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, place, -1)


def _packed(batch: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return (((batch * _SIDE + (x + _ZERO)) * _SIDE) + (y + _ZERO)) * _SIDE + (z + _ZERO)


def _fields(keys: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z, rest = keys % _SIDE - _ZERO, keys // _SIDE
    y, rest = rest % _SIDE - _ZERO, rest // _SIDE
    return rest // _SIDE, rest % _SIDE - _ZERO, y, z


# -- maps, in torch --------------------------------------------------------------------------------------------------------


def neighbours(keys: Tensor, kernel: Kernel = 3, dilation: Kernel = 1) -> KernelMap:
    """`effvision.host.sparse.neighbours` in torch, on the device of the keys (V,)."""
    offsets = kernel_offsets(kernel, dilation)
    count = len(offsets)
    identity = int((offsets == 0).all(axis=1).nonzero()[0][0])
    symmetric = bool(count % 2)  # odd along every axis: offset k is the opposite of offset K - 1 - k
    shifts = torch.from_numpy(offsets @ np.array(KEY_STEPS)).to(keys.device)
    first = count // 2 + 1 if symmetric else 0
    empty = keys.new_empty(0)
    lists = [(empty, empty)] * count
    for begin, part in _portions(shifts[first:], len(keys)):
        wanted = keys + part[:, None]
        place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        which, target = (keys[place] == wanted).nonzero(as_tuple=True)
        sizes = torch.bincount(which, minlength=len(part)).tolist()
        for k, pair in enumerate(
            zip(torch.split(place[which, target], sizes), torch.split(target, sizes), strict=True), start=first + begin
        ):
            if k != identity:
                lists[k] = pair
                if symmetric:
                    lists[count - 1 - k] = pair[::-1]
    return _joined(lists, len(keys), len(keys), identity)


def coarser(keys: Tensor, kernel: Kernel = 2, stride: Kernel = 2, dilation: Kernel = 1) -> tuple[Tensor, KernelMap]:
    """`effvision.host.sparse.coarser` in torch, on the device of the keys (V,)."""
    offsets, steps = kernel_offsets(kernel, dilation), triple(stride, "stride")
    batch, *axes = _fields(keys)
    per_axis = torch.from_numpy(offsets).to(keys.device).t()  # (3, K)
    counts, rows, found = [], [], []
    for begin, part in _portions(per_axis[0], len(keys)):
        own = slice(begin, begin + len(part))
        moved = [axis - by[own, None] for axis, by in zip(axes, per_axis, strict=True)]  # (k, V) each
        fits = (moved[0] % steps[0] == 0) & (moved[1] % steps[1] == 0) & (moved[2] % steps[2] == 0)
        which, row = fits.nonzero(as_tuple=True)
        counts += torch.bincount(which, minlength=len(part)).tolist()
        rows.append(row)
        x, y, z = (axis[which, row] // step for axis, step in zip(moved, steps, strict=True))
        found.append(_packed(batch[row], x, y, z))
    out, inverse = torch.unique(torch.cat(found), return_inverse=True)
    if not len(out):
        raise host.nothing_left(kernel, stride)
    low, high = torch.stack(unpack(out).aminmax(dim=0)).tolist()
    host.check_range(low, high)
    lists = list(zip(torch.split(torch.cat(rows), counts), torch.split(inverse, counts), strict=True))
    return out, _joined(lists, len(keys), len(out))


def point_map(keys: Tensor, places: Tensor, batch: Tensor) -> PointMap:
    """`effvision.host.sparse_levels.point_table` in torch, on the device of the keys (V,).

    Args:
        keys: (V,) sorted.
        places: (P, 3) x, y, z in voxels, whole or not.
        batch: (P,) whole numbers.

    Raises:
        ShapeError, RangeError, InputError: as there.
    """
    exact = places if places.is_floating_point() else places.float()  # exact up to 2^24
    if len(exact):
        low, high = torch.stack(exact.aminmax(dim=0)).tolist()  # NaN if one is among them
        host.check_range([*low, 0], [*high, 0])
    base = exact.floor()
    fraction = (exact - base).float().clamp_(max=host_levels.BELOW_ONE)
    packed = pack(torch.column_stack([base.long(), batch.long()]))
    voxel = rows_of(keys, packed)
    if bool((voxel < 0).any()):
        outside = (voxel < 0).nonzero()[:, 0]
        first = int(outside[0])
        raise host_levels.in_no_voxel(len(outside), len(places), first, places[first].tolist())
    counts = torch.bincount(voxel, minlength=len(keys))
    shares = torch.where(counts > 0, 1 / counts.float(), 0)[:, None]
    if not bool(fraction.any()):
        return PointMap(voxel, shares, voxel[:, None], fraction.new_ones(len(voxel), 1))
    corners, weights = [], []
    at_x, at_y, at_z = (torch.stack([1 - axis, axis]) for axis in fraction.unbind(1))
    for x, y, z in ((x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)):
        row = rows_of(keys, packed + (x * KEY_STEPS[0] + y * KEY_STEPS[1] + z))
        corners.append(row.clamp(min=0))
        weights.append(at_x[x] * at_y[y] * at_z[z] * (row >= 0))
    shown = torch.stack(weights, dim=1)
    total = shown
    for _ in range(3):
        total = total[:, ::2] + total[:, 1::2]
    return PointMap(voxel, shares, torch.stack(corners, dim=1), shown / total)


def _portions(offsets: Tensor, voxels: int) -> Iterator[tuple[int, Tensor]]:
    """Yield offsets some at a time, with the number of the first: as many as a table of all voxels has room for."""
    begin = 0
    for part in torch.split(offsets, max(1, _AT_ONCE // voxels)):
        if len(part):
            yield begin, part
        begin += len(part)


def _joined(lists: Sequence[tuple[Tensor, ...]], inputs: int, outputs: int, identity: int = -1) -> KernelMap:
    bounds = [0]
    for pair in lists:
        bounds.append(bounds[-1] + len(pair[0]))
    source, target = (torch.cat([pair[side] for pair in lists]) for side in (0, 1))
    return KernelMap(source, target, tuple(bounds), inputs, outputs, identity)


def _onto(kernel_map: KernelMap, place: Tensor, outputs: int) -> KernelMap:
    """A map whose outputs are moved to the rows `place` (V_out,); pairs of those at -1 are left out."""
    target = place[kernel_map.target]
    kept = target >= 0
    ends = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
    bounds = ends[torch.tensor(kernel_map.bounds, device=ends.device)].tolist()
    return KernelMap(kernel_map.source[kept], target[kept], tuple(bounds), kernel_map.inputs, outputs)
