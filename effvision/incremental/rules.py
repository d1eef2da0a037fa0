"""What an operation of a network does to a part of a picture: the rules, one class a kind of operation.

A rule knows how intervals travel (`effvision.host.edit_axes`) and computes exactly the pixels asked for, given exactly the
inputs they need. Maps are (N, C, H, W). What has no rule is computed dense, with the reason.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from effvision.host.edit_axes import Axis, Pad, Picked, Same, Weighted, Window

__all__ = [
    "Affine",
    "AveragePool",
    "AverageWindow",
    "Convolution",
    "MaxPool",
    "Nearest",
    "Padding",
    "PixelShuffle",
    "Pointwise",
    "Rule",
    "Smooth",
    "TransposedConvolution",
    "Ways",
]

# For each picture that goes in: the recipe of its rows and of its columns.
Ways = Sequence[tuple[Any, Any]]


class Rule(ABC):
    """One operation on parts of maps.

    Attributes:
        kind: What it is, in a word.
        axes: For each picture that goes in, in order: its rows and its columns. None: not a picture, needed as a whole.
        macs: Multiply-adds for one output pixel, all channels and the whole batch.
        heavy: Whether it is worth a cache now and then: convolutions.
    """

    kind = "operation"
    heavy = False
    macs = 0.0

    def __init__(self, axes: Sequence[tuple[Axis, Axis] | None]) -> None:
        self.axes = tuple(axes)

    @abstractmethod
    def run(self, crops: Sequence[Tensor], ways: Ways) -> Tensor:
        """Compute the output of the recipes `ways` from the inputs they name."""


class Pointwise(Rule):
    """Every output pixel depends on the same pixel of each input: activations, sums, cat, norms with known statistics."""

    def __init__(
        self, kind: str, call: Callable[[Sequence[Tensor]], Tensor], axes: Sequence[tuple[Axis, Axis] | None]
    ) -> None:
        super().__init__(axes)
        self.kind = kind
        self._call = call

    def run(self, crops: Sequence[Tensor], ways: Ways) -> Tensor:
        """Call the operation itself."""
        return self._call(crops)


class Affine(Rule):
    """An instance or group norm whose statistics are those of the first pass: x * scale + shift.

    Attributes:
        scale, shift: (N, C, 1, 1), set by `observe`.
    """

    kind = "norm, statistics of the first pass"

    def __init__(
        self, h: int, w: int, groups: int | None, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> None:
        """Take a norm over `groups` groups of channels (None: each channel alone) of maps of h x w pixels."""
        super().__init__([(Same(h, h), Same(w, w))])
        self.groups, self._weight, self._bias, self._eps = groups, weight, bias, eps
        self.scale: Tensor | None = None
        self.shift: Tensor | None = None

    def observe(self, x: Tensor) -> None:
        """Take the statistics of x (N, C, H, W)."""
        batch, channels = x.shape[:2]
        groups = self.groups or channels
        rows = x.contiguous().reshape(batch, groups, -1)
        variance, mean = torch.var_mean(rows, dim=2, correction=0)
        factor = torch.rsqrt(variance + self._eps)
        factor, mean = (
            value.repeat_interleave(channels // groups, 1).view(batch, channels, 1, 1) for value in (factor, mean)
        )
        weight = 1.0 if self._weight is None else self._weight.view(1, -1, 1, 1)
        bias = 0.0 if self._bias is None else self._bias.view(1, -1, 1, 1)
        self.scale = factor * weight
        self.shift = bias - mean * self.scale

    def run(self, crops: Sequence[Tensor], ways: Ways) -> Tensor:
        """Scale and shift."""
        return torch.addcmul(cast(Tensor, self.shift), crops[0], cast(Tensor, self.scale))


def bordered(x: Tensor, rows: tuple[int, int], columns: tuple[int, int], value: float = 0.0) -> Tensor:
    """Add pixels of `value` before and after; negative numbers drop some, even all that there are."""
    if rows == (0, 0) and columns == (0, 0):
        return x
    if min(*rows, *columns) < 0:  # `F.pad` refuses to drop everything and then add
        h, w = x.shape[2], x.shape[3]
        x = x[:, :, min(max(-rows[0], 0), h) : max(h - max(-rows[1], 0), 0)]
        x = x[:, :, :, min(max(-columns[0], 0), w) : max(w - max(-columns[1], 0), 0)]
        lost = [min(before, 0) + min(after, 0) for before, after in (rows, columns)]
        short = [max(-size - drop, 0) for size, drop in zip((h, w), lost, strict=True)]
        rows, columns = (
            (max(before, 0) - (less if after < 0 else 0), max(after, 0) - (less if before < 0 and after >= 0 else 0))
            for (before, after), less in zip((rows, columns), short, strict=True)
        )
    return F.pad(x, (*columns, *rows), value=value)


class Convolution(Rule):
    """A convolution with zeros around the map."""

    kind = "convolution"
    heavy = True

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        axes: tuple[Axis, Axis],
        *,
        stride: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        batch: int,
    ) -> None:
        """Take the weight (C_out, C_in / groups, kernel rows, kernel columns)."""
        super().__init__([axes])
        self._weight, self._bias = weight, bias
        self.stride, self._dilation, self._groups = tuple(stride), tuple(dilation), groups
        self.kernel = tuple(int(size) for size in weight.shape[2:])
        self.macs = float(batch * weight.numel())

    def run(self, crops: Sequence[Tensor], ways: Ways) -> Tensor:
        """Convolve; zeros only where the map ends."""
        x = crops[0]
        rows, columns = ways[0]
        padding = (0, 0)
        if rows[0] == rows[1] >= 0 and columns[0] == columns[1] >= 0:
            padding = (rows[0], columns[0])
        else:
            x = bordered(x, rows, columns)
        return F.conv2d(x, self._weight, self._bias, self.stride, padding, self._dilation, self._groups)


class TransposedConvolution(Rule):
    """A transposed convolution."""

    kind = "transposed convolution"
    heavy = True

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        axes: tuple[Axis, Axis],
        *,
        stride: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        batch: int,
    ) -> None:
        """Take the weight (C_in, C_out / groups, kernel rows, kernel columns)."""
        super().__init__([axes])
        self._weight, self._bias = weight, bias
        self.stride, self._dilation, self._groups = tuple(stride), tuple(dilation), groups
        self.kernel = tuple(int(size) for size in weight.shape[2:])
        self.macs = batch * weight.numel() / (stride[0] * stride[1])

    def run(self, crops: Sequence[Tensor], ways: Ways) -> Tensor:
        """Spread the inputs, then cut out what was asked for."""
        (top, height), (left, width) = ways[0]
        spread = F.conv_transpose2d(crops[0], self._weight, None, self.stride, 0, 0, self._groups, self._dilation)
        rows = (min(-top, 0), height + top - spread.shape[2])
        columns = (min(-left, 0), width + left - spread.shape[3])
        found = bordered(spread, rows, columns)
        return found if self._bias is None else found + self._bias.view(1, -1, 1, 1)


class MaxPool(Rule):
    """The largest of a window."""

    kind = "max pooling"

    def __init__(
        self, axes: tuple[Axis, Axis], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
    ) -> None:
        super().__init__([axes])
        self._kernel, self._stride, self._dilation = list(kernel), list(stride), list(dilation)

    def run(self, crops: Sequence[Tensor], ways: Ways) -> Tensor:
        """Pool, with minus infinity around the map."""
        x = bordered(crops[0], *ways[0], value=float("-inf"))
        return F.max_pool2d(x, self._kernel, self._stride, 0, self._dilation)


class AverageWindow(Window):
    """A window of an average, which counts its pixels."""

    def __init__(
        self, n: int, m: int, kernel: int, stride: int, padding: int, *, counts_padding: bool, divisor: int | None
    ) -> None:
        super().__init__(n, m, kernel, stride, padding)
        starts = [o * stride - padding for o in range(m)]
        if divisor is not None:
            self._counts = [divisor] * m
        elif counts_padding:
            self._counts = [min(start + kernel, n + padding) - start for start in starts]
        else:
            self._counts = [min(start + kernel, n) - max(start, 0) for start in starts]

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """`how`: the padding missing before and after, and the count of every window, one number if all agree."""
        a, b, how = super().needs(lo, hi)
        counts = self._counts[lo:hi]
        same = counts[0] if min(counts) == max(counts) else tuple(counts)
        return a, b, (how, same)


class AveragePool(Rule):
    """The mean of a window."""

    kind = "average pooling"

    def __init__(self, axes: tuple[Axis, Axis], kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__([axes])
        self._kernel, self._stride = list(kernel), list(stride)

    def run(self, crops: Sequence[Tensor], ways: Ways) -> Tensor:
        """Sum with zeros around the map, then divide by what each window holds."""
        (rows, high), (columns, wide) = ways[0]
        x = bordered(crops[0], rows, columns)
        if isinstance(high, int) and isinstance(wide, int):
            return F.avg_pool2d(x, self._kernel, self._stride, divisor_override=high * wide)
        total = F.avg_pool2d(x, self._kernel, self._stride, divisor_override=1)
        high, wide = (torch.tensor(count, dtype=x.dtype, device=x.device) for count in (high, wide))
        return total / (high.view(-1, 1) * wide.view(1, -1))


class Padding(Rule):
    """Borders added or cut off, and slices."""

    kind = "padding"

    def __init__(self, axes: tuple[Pad, Pad], mode: str, value: float) -> None:
        super().__init__([axes])
        self._mode, self._value = mode, value

    def run(self, crops: Sequence[Tensor], ways: Ways) -> Tensor:
        """Add the borders that lie inside what was asked for."""
        x = crops[0]
        (top, bottom, row, height), (left, right, column, width) = ways[0]
        if top or bottom or left or right:
            value = self._value if self._mode == "constant" else None
            x = F.pad(x, (left, right, top, bottom), mode=self._mode, value=value)
        return x[:, :, row : row + height, column : column + width]


def picked(x: Tensor, dim: int, how: tuple[Any, ...]) -> Tensor:
    """Pick positions along an axis (2 or 3) by the recipe of `Picked`."""
    if how[0] == 1:
        return x.narrow(dim, how[1], how[2])
    if how[0]:
        return x.repeat_interleave(how[0], dim).narrow(dim, how[1], how[2])
    return x.index_select(dim, torch.tensor(how[1], device=x.device))


class Nearest(Rule):
    """Interpolation to the nearest pixel."""

    kind = "nearest interpolation"

    def __init__(self, axes: tuple[Picked, Picked]) -> None:
        super().__init__([axes])

    def run(self, crops: Sequence[Tensor], ways: Ways) -> Tensor:
        """Repeat by the kernel of torch where the factor is a whole number, else pick."""
        x = crops[0]
        rows, columns = ways[0]
        if rows[0] > 1 and columns[0] > 1:
            x = F.interpolate(x, scale_factor=(float(rows[0]), float(columns[0])), mode="nearest")
            return x[:, :, rows[1] : rows[1] + rows[2], columns[1] : columns[1] + columns[2]]
        return picked(picked(x, 2, rows), 3, columns)


class Smooth(Rule):
    """Bilinear interpolation."""

    kind = "bilinear interpolation"

    def __init__(self, axes: tuple[Weighted, Weighted]) -> None:
        super().__init__([axes])

    def run(self, crops: Sequence[Tensor], ways: Ways) -> Tensor:
        """Mix the rows, then the columns."""
        x = crops[0]
        for dim, (below, above, weight) in zip((2, 3), ways[0], strict=True):
            index = torch.tensor([below, above], device=x.device)
            shape = (-1, 1) if dim == 2 else (-1,)
            factor = torch.tensor(weight, dtype=x.dtype, device=x.device).view(shape)
            x = torch.lerp(x.index_select(dim, index[0]), x.index_select(dim, index[1]), factor)
        return x


class PixelShuffle(Rule):
    """Channels become pixels (`factor` > 0) or pixels channels (`factor` < 0)."""

    kind = "pixel shuffle"

    def __init__(self, axes: tuple[Axis, Axis], factor: int) -> None:
        super().__init__([axes])
        self._factor = factor

    def run(self, crops: Sequence[Tensor], ways: Ways) -> Tensor:
        """Shuffle, then cut out what was asked for."""
        if self._factor < 0:
            return F.pixel_unshuffle(crops[0], -self._factor)
        (row, height), (column, width) = ways[0]
        x = F.pixel_shuffle(crops[0], self._factor)
        return x[:, :, row : row + height, column : column + width]
