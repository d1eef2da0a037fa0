"""Convolution over a kernel map: for each offset of the kernel the input rows that meet an output row, times a matrix.

Graham, Engelcke, van der Maaten, CVPR 2018, section 3. The work is one product for each offset, of which the machine's limit is
its matrix rate; everything else is moving rows. On a CPU the outputs are therefore made part by part, each small enough for its
rows to stay in the cache between being gathered, multiplied and added up; threads share the parts. The offset under which every
row meets itself is a plain product without a gather, and bias, residual and activation are applied while a part is still in the
cache.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from effvision.errors import DTypeError, InputError, ShapeError
from effvision.host.sparse import Pairs
from effvision.ops.crew import crew_size, share_out
from effvision.ops.rows import precise
from effvision.ops.sparse_backends import Carrier, carrier_for

__all__ = ["KernelMap", "convolve", "pool"]

_PART = 16384  # pairs: their rows of 64 channels take 4 MB. Fastest of 2^13 to 2^17 on the whole network
_MASK = (1 << 31) - 1


@dataclass(frozen=True)
class _Part:
    """Some output rows, and the pairs that make them.

    Attributes:
        rows: First output row, and the one after the last.
        taps: (offset, first pair, one after the last) for each offset that has pairs here.
        pairs: How many in all.
        order: (pairs,) which of their products belong to each output row, one row after the other.
        starts: (rows + 1,) where those of each row begin in `order`; None if each row has exactly one.
    """

    rows: tuple[int, int]
    taps: tuple[tuple[int, int, int], ...]
    pairs: int
    order: Tensor
    starts: Tensor | None


@dataclass(frozen=True, eq=False)
class KernelMap:
    """`effvision.host.sparse.Pairs` as tensors on the device where the convolution runs.

    Attributes:
        source: (P,) int64 rows of the inputs, offset by offset, ascending within each.
        target: (P,) int64 rows of the outputs, likewise.
        bounds: K + 1 numbers: the pairs of offset k are those from bounds[k] to bounds[k + 1].
        inputs: Number of input rows.
        outputs: Number of output rows.
        identity: The offset under which every row meets itself, and whose pairs are not listed; -1: none.
    """

    source: Tensor
    target: Tensor
    bounds: tuple[int, ...]
    inputs: int
    outputs: int
    identity: int = -1

    @classmethod
    def of(cls, pairs: Pairs, device: torch.device | str = "cpu") -> KernelMap:
        """Take a map made on the host."""
        source, target = (torch.from_numpy(rows).to(device) for rows in (pairs.source, pairs.target))
        return cls(source, target, tuple(pairs.bounds.tolist()), pairs.inputs, pairs.outputs, pairs.identity)

    @property
    def kernel_volume(self) -> int:
        """K."""
        return len(self.bounds) - 1

    @property
    def count(self) -> int:
        """Pairs in all, those of the identity included."""
        return self.bounds[-1] + (self.inputs if self.identity >= 0 else 0)

    @property
    def turned(self) -> KernelMap:
        """The map of the transposed convolution, whose outputs are this one's inputs."""
        origin = self.__dict__.get("_origin")
        back: KernelMap | None = None if origin is None else origin()
        return self._other if back is None else back

    @cached_property
    def _other(self) -> KernelMap:
        other = KernelMap(self.target, self.source, self.bounds, self.outputs, self.inputs, self.identity)
        # weak: maps that held each other would stay until Python looks for garbage, scan after scan
        other.__dict__["_origin"] = weakref.ref(self)
        return other

    def pairs(self, offset: int) -> tuple[Tensor, Tensor]:
        """Source and target rows of one offset."""
        own = slice(self.bounds[offset], self.bounds[offset + 1])
        return self.source[own], self.target[own]

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
        """`convolve` with this map."""
        return convolve(x, weight, self, bias=bias, residual=residual, relu=relu)

    @cached_property
    def parts(self) -> tuple[_Part, ...]:
        """How a CPU goes through the outputs; made once, shared by all layers of the map."""
        return tuple(_cut(self))

    @cached_property
    def table(self) -> Tensor:
        """(K, V_out) int32, the input row that each output sees under each offset; -1: none. For the Triton kernel.

        Offsets stand first, so that the neighbours of a block of outputs lie side by side.
        """
        table = torch.full((self.kernel_volume, self.outputs), -1, dtype=torch.int32, device=self.source.device)
        for offset in range(self.kernel_volume):
            source, target = self.pairs(offset)
            table[offset, target] = source.int()
        if self.identity >= 0:
            table[self.identity] = torch.arange(self.inputs, dtype=torch.int32, device=table.device)
        return table

    @cached_property
    def padded(self) -> tuple[Tensor, Tensor]:
        """(2, K, most) int32 input and output rows, and (K,) int32 how many there are; the identity's too. For spconv."""
        lists = [self.pairs(offset) for offset in range(self.kernel_volume)]
        if self.identity >= 0:
            lists[self.identity] = (torch.arange(self.inputs, device=self.source.device),) * 2
        counts = [len(source) for source, _ in lists]
        padded = torch.full((2, len(lists), max(counts)), -1, dtype=torch.int32, device=self.source.device)
        for offset, (source, target) in enumerate(lists):
            padded[0, offset, : len(source)], padded[1, offset, : len(source)] = source.int(), target.int()
        return padded, torch.tensor(counts, dtype=torch.int32, device=padded.device)


def convolve(
    x: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Convolve: out[t] = bias + residual[t] + sum over the pairs (s, t) of each offset k of x[s] weight[k].

    Sums of half types are float32 on a CPU and in the Triton kernel, which runs on a GPU where it can; `sparse_backend` of
    `effvision.ops.sparse_backends` chooses otherwise. Gradients flow to all tensors, once.

    Args:
        x: (V_in, C_in) floating.
        weight: (K, C_in, C_out), dtype and device of `x`.
        kernel_map: Of V_in inputs, V_out outputs and K offsets.
        bias: (C_out,), or None.
        residual: (V_out, C_out), or None.
        relu: Cut the result at zero.

    Returns:
        (V_out, C_out), dtype of `x`. A row that no pair leads to is bias + residual.

    Raises:
        ShapeError: sizes that do not fit each other.
        DTypeError: dtypes that differ or are no floating ones.
        InputError: tensors on different devices.
    """
    _check(x, weight, kernel_map, bias, residual)
    wanted = [x, weight, *(one for one in (bias, residual) if one is not None)]
    if torch.is_grad_enabled() and any(one.requires_grad for one in wanted):
        out = cast(Tensor, _Convolution.apply(x, weight, bias, kernel_map))  # type: ignore[no-untyped-call]
        out = out if residual is None else out + residual
        return out.relu() if relu else out
    return _convolve(x, weight, kernel_map, bias, residual, relu=relu, carrier=carrier_for(x))


def pool(x: Tensor, kernel_map: KernelMap, mode: str) -> Tensor:
    """Take the maximum or the mean over the inputs that each output row sees; half types in float32.

    Inputs that share a maximum share its gradient.

    Args:
        x: (V_in, C) floating.
        kernel_map: Of V_in inputs; every output must see one, as those of `coarser` do.
        mode: `max` or `mean`; the mean is over the voxels that are there.

    Returns:
        (V_out, C).

    Raises:
        ShapeError: not the rows the map was made for.
        DTypeError: not of a floating dtype.
        InputError: another mode, or tensors on different devices.
    """
    if mode not in ("max", "mean"):
        raise InputError(f"`mode` must be max or mean; got {mode!r:.60}")
    if x.ndim != 2 or x.shape[0] != kernel_map.inputs:
        raise ShapeError(f"`x` must be ({kernel_map.inputs}, C), as the map was made for; got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise DTypeError(f"`x` must be of a floating dtype; got {x.dtype}\nhint: `x.float()`")
    source, target = kernel_map.source, kernel_map.target
    if source.device != x.device:
        raise InputError(f"`x` is on {x.device} and the kernel map on {source.device}: move one of them")
    if kernel_map.identity >= 0:
        own = torch.arange(kernel_map.inputs, device=x.device)
        source, target = torch.cat([source, own]), torch.cat([target, own])
    rows = precise(x.index_select(0, source))
    if mode == "max":
        place = target[:, None].expand_as(rows)
        out = rows.new_zeros(kernel_map.outputs, x.shape[1]).scatter_reduce(0, place, rows, "amax", include_self=False)
    else:
        counts = torch.bincount(target, minlength=kernel_map.outputs).clamp(min=1).to(rows.dtype)
        out = rows.new_zeros(kernel_map.outputs, x.shape[1]).index_add(0, target, rows) / counts[:, None]
    return out.to(x.dtype)


# -- checks ----------------------------------------------------------------------------------------------------------------


def _check(x: Tensor, weight: Tensor, kernel_map: KernelMap, bias: Tensor | None, residual: Tensor | None) -> None:
    if x.ndim != 2 or x.shape[0] != kernel_map.inputs:
        raise ShapeError(f"`x` must be ({kernel_map.inputs}, C), a row for each voxel of the map; got {tuple(x.shape)}")
    if weight.ndim != 3 or weight.shape[:2] != (kernel_map.kernel_volume, x.shape[1]):
        raise ShapeError(
            f"`weight` must be (K, C_in, C_out) with K={kernel_map.kernel_volume} offsets and C_in={x.shape[1]} channels; "
            f"got {tuple(weight.shape)}"
        )
    if not x.is_floating_point():
        raise DTypeError(f"`x` must be of a floating dtype; got {x.dtype}\nhint: `x.float()`")
    shapes = {"bias": (weight.shape[2],), "residual": (kernel_map.outputs, weight.shape[2])}
    for name, value in (("weight", weight), ("bias", bias), ("residual", residual)):
        if value is None:
            continue
        if name in shapes and tuple(value.shape) != shapes[name]:
            raise ShapeError(f"`{name}` must be {shapes[name]}; got {tuple(value.shape)}")
        if value.dtype != x.dtype:
            raise DTypeError(f"`x` is {x.dtype} and `{name}` {value.dtype}: make them one dtype")
        if value.device != x.device:
            raise InputError(f"`x` is on {x.device} and `{name}` on {value.device}: move them to one device")
    if kernel_map.source.device != x.device:
        raise InputError(f"`x` is on {x.device} and the kernel map on {kernel_map.source.device}: move one of them")


# -- forward ---------------------------------------------------------------------------------------------------------------


def _convolve(
    x: Tensor, weight: Tensor, kernel_map: KernelMap, bias: Tensor | None, residual: Tensor | None, *, relu: bool,
    carrier: Carrier | None,
) -> Tensor:  # fmt: skip
    """Do the work of `convolve` without a gradient."""
    if carrier is not None:
        return carrier(x, weight, kernel_map, bias, residual, relu=relu)
    if x.device.type != "cpu":
        return _by_offset(x, weight, kernel_map, bias, residual, relu=relu)
    if x.dtype in (torch.float16, torch.bfloat16):
        wide = [None if one is None else one.float() for one in (bias, residual)]
        return _by_part(x.float(), weight.float(), kernel_map, *wide, relu=relu).to(x.dtype)
    return _by_part(x, weight, kernel_map, bias, residual, relu=relu)


def _by_offset(
    x: Tensor, weight: Tensor, kernel_map: KernelMap, bias: Tensor | None, residual: Tensor | None, *, relu: bool
) -> Tensor:
    """Offset by offset over the whole level: fewest launches on a GPU, and the form that the others are tested against."""
    whole = kernel_map.identity >= 0
    out = x @ weight[kernel_map.identity] if whole else x.new_zeros(kernel_map.outputs, weight.shape[2])
    for offset in range(kernel_map.kernel_volume):
        source, target = kernel_map.pairs(offset)
        if len(source):
            out.index_add_(0, target, x.index_select(0, source) @ weight[offset])
    for more in (bias, residual):
        if more is not None:
            out += more
    return out.relu_() if relu else out


def _by_part(
    x: Tensor, weight: Tensor, kernel_map: KernelMap, bias: Tensor | None, residual: Tensor | None, *, relu: bool
) -> Tensor:
    """Part by part of the outputs, whose rows stay in a CPU's cache; parts side by side, one thread each."""
    parts, taps = kernel_map.parts, weight.unbind(0)
    out = x.new_empty(kernel_map.outputs, weight.shape[2])
    most = max((part.pairs for part in parts), default=0)
    widest = max((last - first for part in parts for _, first, last in part.taps), default=0)
    crew = crew_size(len(parts))
    products, gathered = x.new_empty(crew, most, weight.shape[2]), x.new_empty(crew, widest, x.shape[1])

    def make(worker: int, part: _Part) -> None:
        first, last = part.rows
        own, found = out[first:last], _products(x, taps, kernel_map.source, part, products[worker], gathered[worker])
        if kernel_map.identity >= 0:
            middle = x[first:last]
            if bias is None:
                torch.mm(middle, taps[kernel_map.identity], out=own)
            else:
                torch.addmm(bias, middle, taps[kernel_map.identity], out=own)
            if part.pairs:
                own += _summed(found, part)
        else:
            if part.starts is None:
                torch.index_select(found, 0, part.order, out=own)
            else:
                own.copy_(_summed(found, part))
            if bias is not None:
                own += bias
        if residual is not None:
            own += residual[first:last]
        if relu:
            own.relu_()

    share_out(parts, make)
    return out


def _products(
    x: Tensor, taps: Sequence[Tensor], source: Tensor, part: _Part, products: Tensor, gathered: Tensor
) -> Tensor:
    """The product of each pair of a part, (pairs, C_out), in `products`; `gathered` has room for the rows of one offset."""
    at = 0
    for offset, begin, end in part.taps:
        rows = torch.index_select(x, 0, source[begin:end], out=gathered[: end - begin])
        torch.mm(rows, taps[offset], out=products[at : at + end - begin])
        at += end - begin
    return products[:at]


def _summed(products: Tensor, part: _Part) -> Tensor:
    """Add up the products (pairs, C) of each output row of a part."""
    if part.starts is None:
        return products.index_select(0, part.order)
    return F.embedding_bag(part.order, products, part.starts, mode="sum", include_last_offset=True)


def _cut(kernel_map: KernelMap) -> list[_Part]:
    """Cut the outputs into parts of about `_PART` pairs, and list for each row which of its part's products it sums."""
    target, outputs = kernel_map.target.numpy(), kernel_map.outputs
    bounds = np.array(kernel_map.bounds)
    pieces = max(1, -(-int(bounds[-1]) // _PART))
    pieces += pieces % 2 if pieces > 1 else 0  # two threads should end together
    edges = np.linspace(0, outputs, pieces + 1).astype(np.int64)
    # (K, pieces + 1): where the targets of each offset pass the edges
    cuts = np.stack(
        [
            begin + np.searchsorted(target[begin:end], edges)
            for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        ]
    )
    lengths = np.diff(cuts, axis=1)
    starts = np.zeros(outputs + 1, np.int64)
    np.cumsum(np.bincount(target, minlength=outputs), out=starts[1:])
    once = bool((np.diff(starts) == 1).all())
    # the place of each pair's product within its part: pairs stand offset by offset, so only the offset's first place moves
    moved = np.cumsum(lengths, axis=0) - lengths - cuts[:, :-1]
    places = np.arange(len(target)) + np.repeat(moved.ravel(), lengths.ravel())
    order = np.sort((target << 31) | places) & _MASK
    parts = []
    for piece in range(pieces):
        first, last = int(edges[piece]), int(edges[piece + 1])
        taps = tuple(
            (offset, int(cuts[offset, piece]), int(cuts[offset, piece + 1]))
            for offset in range(len(cuts))
            if lengths[offset, piece]
        )
        low, high = int(starts[first]), int(starts[last])
        parts.append(
            _Part(
                (first, last),
                taps,
                high - low,
                torch.from_numpy(order[low:high]),
                None if once else torch.from_numpy(starts[first : last + 1] - low),
            )
        )
    return parts


# -- backward --------------------------------------------------------------------------------------------------------------


class _Convolution(torch.autograd.Function):
    """Keeps the input alone, not what was gathered from it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kernel_map, ctx.biased, ctx.carrier = kernel_map, bias is not None, carrier_for(x)
        return _convolve(x, weight, kernel_map, bias, None, relu=False, carrier=ctx.carrier)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        kernel_map: KernelMap = ctx.kernel_map
        grad = grad.contiguous()
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            taps = weight.transpose(1, 2).contiguous()
            to_x = _convolve(grad, taps, kernel_map.turned, None, None, relu=False, carrier=ctx.carrier)
        if ctx.needs_input_grad[1]:
            to_weight = torch.zeros_like(weight)
            for offset in range(kernel_map.kernel_volume):
                source, target = kernel_map.pairs(offset)
                if offset == kernel_map.identity:
                    to_weight[offset] = x.t() @ grad
                elif len(source):
                    to_weight[offset] = x.index_select(0, source).t() @ grad.index_select(0, target)
        return to_x, to_weight, grad.sum(0) if ctx.biased and ctx.needs_input_grad[2] else None, None
