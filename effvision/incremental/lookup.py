"""From an operation of PyTorch to its rule, or to the reason why it has none.

`torch.export` writes a network as ATen operations with fixed shapes, whatever Python the network uses. Here is what each of
them means for a part of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from effvision.host.edit_axes import Axis, Pad, Picked, Same, Shuffle, Spread, Unshuffle, Weighted, Whole, Window
from effvision.incremental.rules import (
    Affine,
    AveragePool,
    AverageWindow,
    Convolution,
    MaxPool,
    Nearest,
    Padding,
    PixelShuffle,
    Pointwise,
    Rule,
    Smooth,
    TransposedConvolution,
)

__all__ = ["Call", "find_rule"]


@dataclass(frozen=True)
class Call:
    """One operation of the graph, its weights already in place.

    Attributes:
        name: The operation's name without `aten.` and overload: `conv2d`.
        given: Its arguments by name, defaults filled in. A tensor that depends on the inputs is one on the `meta` device.
        inputs: Those tensors (meta), in order.
        pictures: Which of them are pictures: maps with rows and columns.
        output: The result (meta).
        pointwise: Whether PyTorch says that it works element by element.
        run: Computes it, given the inputs.
        frozen: Whether norms keep the statistics of the first pass.
    """

    name: str
    given: dict[str, Any]
    inputs: tuple[Tensor, ...]
    pictures: tuple[bool, ...]
    output: Tensor
    pointwise: bool
    run: Callable[[Sequence[Tensor]], Tensor]
    frozen: bool


def pair(value: Any) -> tuple[Any, Any]:
    """Turn one number, or a list of one or two, into two."""
    if isinstance(value, (list, tuple)):
        return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])
    return value, value


def sizes(call: Call) -> tuple[tuple[int, int], tuple[int, int]]:
    """(rows in, rows out), (columns in, columns out) of an operation on one picture."""
    before, after = call.inputs[0].shape, call.output.shape
    return (int(before[2]), int(after[2])), (int(before[3]), int(after[3]))


def constant_weights(call: Call) -> bool:
    """Whether everything but the first picture is a constant."""
    return len(call.inputs) == 1 and call.given.get("input", call.given.get("self")) is call.inputs[0]


def convolution(call: Call) -> Rule | str:
    """`conv2d`, also with padding "same" and "valid"."""
    if not constant_weights(call) or call.output.ndim != 4:
        return "its weights are computed from the inputs"
    weight = call.given["weight"]
    stride, dilation = pair(call.given.get("stride", 1)), pair(call.given.get("dilation", 1))
    padding = call.given.get("padding", 0)
    kernel = tuple(weight.shape[2:])
    if padding == "same":
        padding = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]  # torch puts the odd one behind
        after = [d * (k - 1) - before for d, k, before in zip(dilation, kernel, padding, strict=True)]
    else:
        padding = (0, 0) if padding == "valid" else pair(padding)
        after = list(padding)
    (n, m), (v, u) = sizes(call)
    axes = (
        Window(n, m, kernel[0], stride[0], padding[0], dilation[0], after[0]),
        Window(v, u, kernel[1], stride[1], padding[1], dilation[1], after[1]),
    )
    batch, groups = int(call.output.shape[0]), call.given.get("groups", 1)
    bias = call.given.get("bias")
    return Convolution(weight, bias, axes, stride=stride, dilation=dilation, groups=groups, batch=batch)


def transposed(call: Call) -> Rule | str:
    """`conv_transpose2d`."""
    if not constant_weights(call) or call.output.ndim != 4:
        return "its weights are computed from the inputs"
    weight = call.given["weight"]
    stride, dilation = pair(call.given.get("stride", 1)), pair(call.given.get("dilation", 1))
    padding = pair(call.given.get("padding", 0))
    (n, m), (v, u) = sizes(call)
    axes = (
        Spread(n, m, int(weight.shape[2]), stride[0], padding[0], dilation[0]),
        Spread(v, u, int(weight.shape[3]), stride[1], padding[1], dilation[1]),
    )
    batch, groups = int(call.output.shape[0]), call.given.get("groups", 1)
    bias = call.given.get("bias")
    return TransposedConvolution(weight, bias, axes, stride=stride, dilation=dilation, groups=groups, batch=batch)


def max_pool(call: Call) -> Rule | str:
    """`max_pool2d`."""
    kernel, dilation = pair(call.given["kernel_size"]), pair(call.given.get("dilation", 1))
    stride, padding = pair(call.given.get("stride") or kernel), pair(call.given.get("padding", 0))
    (n, m), (v, u) = sizes(call)
    axes = (
        Window(n, m, kernel[0], stride[0], padding[0], dilation[0]),
        Window(v, u, kernel[1], stride[1], padding[1], dilation[1]),
    )
    return MaxPool(axes, kernel, stride, dilation)


def average_pool(call: Call) -> Rule | str:
    """`avg_pool2d`."""
    kernel = pair(call.given["kernel_size"])
    stride, padding = pair(call.given.get("stride") or kernel), pair(call.given.get("padding", 0))
    counts_padding = bool(call.given.get("count_include_pad", True))
    divisor = call.given.get("divisor_override")
    (n, m), (v, u) = sizes(call)
    rows = AverageWindow(n, m, kernel[0], stride[0], padding[0], counts_padding=counts_padding, divisor=divisor)
    columns = AverageWindow(
        v, u, kernel[1], stride[1], padding[1], counts_padding=counts_padding, divisor=None if divisor is None else 1
    )
    return AveragePool((rows, columns), kernel, stride)


def adaptive_pool(call: Call) -> Rule | str:
    """`adaptive_avg_pool2d` and `adaptive_max_pool2d`, which are plain pooling where the sizes divide."""
    (n, m), (v, u) = sizes(call)
    if m == u == 1:
        return "global pooling: it needs the whole map"
    if n % m or v % u:
        return f"pooling of {n}x{v} to {m}x{u} has windows of several sizes"
    kernel = (n // m, v // u)
    if call.name == "adaptive_max_pool2d":
        axes = (Window(n, m, kernel[0], kernel[0], 0), Window(v, u, kernel[1], kernel[1], 0))
        return MaxPool(axes, kernel, kernel, (1, 1))
    rows, columns = (
        AverageWindow(size, out, step, step, 0, counts_padding=True, divisor=None)
        for size, out, step in ((n, m, kernel[0]), (v, u, kernel[1]))
    )
    return AveragePool((rows, columns), kernel, kernel)


def nearest(call: Call) -> Rule | str:
    """`upsample_nearest2d`: which pixel is picked is asked of the operation itself, once."""
    (n, _), (v, _) = sizes(call)
    exact = torch.float64 if call.inputs[0].dtype == torch.float64 else torch.float32
    rows = call.run([torch.arange(n, dtype=exact).view(1, 1, n, 1).repeat(1, 1, 1, v)])
    columns = call.run([torch.arange(v, dtype=exact).view(1, 1, 1, v).repeat(1, 1, n, 1)])
    return Nearest((Picked(n, [int(i) for i in rows[0, 0, :, 0]]), Picked(v, [int(i) for i in columns[0, 0, 0, :]])))


def linear_axis(n: int, m: int, align: bool, scale: float | None, dtype: torch.dtype) -> Weighted:
    """The pixels and weights of linear interpolation, in the arithmetic of torch."""
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    at = torch.arange(m, dtype=exact)
    if align:
        step = torch.tensor((n - 1) / (m - 1) if m > 1 else 0.0, dtype=exact)
        source = at * step
    else:
        step = torch.tensor(1.0 / scale if scale is not None and scale > 0 else n / m, dtype=exact)
        source = (step * (at + 0.5) - 0.5).clamp_min(0)
    below = source.floor().long().clamp_max(n - 1)
    above = (below + 1).clamp_max(n - 1)
    weight = (source - below).clamp(0, 1)
    return Weighted(n, below.tolist(), above.tolist(), weight.tolist())


def bilinear(call: Call) -> Rule | str:
    """`upsample_bilinear2d`."""
    (n, m), (v, u) = sizes(call)
    factors = call.given.get("scale_factors") or (call.given.get("scales_h"), call.given.get("scales_w"))
    align, dtype = bool(call.given.get("align_corners", False)), call.inputs[0].dtype
    return Smooth((linear_axis(n, m, align, factors[0], dtype), linear_axis(v, u, align, factors[1], dtype)))


def padding(call: Call) -> Rule | str:
    """`pad`, `constant_pad_nd`, `reflection_pad2d`, `replication_pad2d`."""
    amounts = list(call.given.get("pad", call.given.get("padding")) or [])
    named = {"reflection_pad2d": "reflect", "replication_pad2d": "replicate", "constant_pad_nd": "constant"}
    mode = named.get(call.name) or call.given.get("mode", "constant")
    amounts += [0] * (4 - len(amounts))
    if any(amounts[4:]):
        return "it pads channels or the batch"
    if mode != "constant" and min(amounts) < 0:
        return f"it crops in mode {mode}"
    (n, m), (v, u) = sizes(call)
    value = call.given.get("value")
    return Padding(
        (Pad(n, m, amounts[2], mode), Pad(v, u, amounts[0], mode)), mode, 0.0 if value is None else float(value)
    )


def sliced(call: Call) -> Rule | str:
    """`slice`: of channels pixel by pixel, of rows and columns a padding with negative numbers."""
    dim, step = call.given.get("dim", 0) % 4, call.given.get("step", 1)
    if dim == 1:
        return pointwise(call)
    if dim == 0 or step != 1:
        return "it takes a part of the batch" if dim == 0 else "it takes every so many pixels"
    size = int(call.inputs[0].shape[dim])
    start = call.given.get("start") or 0
    start = min(max(start + size if start < 0 else start, 0), size)
    (n, m), (v, u) = sizes(call)
    before = (-start, 0) if dim == 2 else (0, -start)
    return Padding((Pad(n, m, before[0], "constant"), Pad(v, u, before[1], "constant")), "constant", 0.0)


def shuffled(call: Call) -> Rule | str:
    """`pixel_shuffle` and `pixel_unshuffle`."""
    (n, _), (v, _) = sizes(call)
    if call.name == "pixel_shuffle":
        factor = int(call.given["upscale_factor"])
        return PixelShuffle((Shuffle(n, factor), Shuffle(v, factor)), factor)
    factor = int(call.given["downscale_factor"])
    return PixelShuffle((Unshuffle(n, factor), Unshuffle(v, factor)), -factor)


def pointwise(call: Call) -> Rule | str:
    """Anything that maps pixels to the same pixels; inputs of one pixel are needed by all of them."""
    h, w = (int(size) for size in call.output.shape[2:])
    axes: list[tuple[Axis, Axis] | None] = []
    for value, is_picture in zip(call.inputs, call.pictures, strict=True):
        if is_picture:
            rows, columns = (int(size) for size in value.shape[2:])
            if rows not in (1, h) or columns not in (1, w):
                return "its inputs differ in size"
            axes.append(
                (Same(h, h) if rows == h else Whole(rows, h), Same(w, w) if columns == w else Whole(columns, w))
            )
        elif value.ndim == 0 or (value.ndim >= 1 and all(size == 1 for size in value.shape[-2:])):
            axes.append(None)
        else:
            return "one of its inputs is no picture"
    return Pointwise(call.name, call.run, axes)


def over_channels(call: Call) -> Rule | str:
    """Sums, means, extrema and softmax over channels only."""
    dim = call.given.get("dim")
    over = [d % 4 for d in dim] if isinstance(dim, (list, tuple)) else [dim % 4] if isinstance(dim, int) else []
    if over != [1] or call.output.ndim != 4:
        return "it works over the whole map" if set(over) & {2, 3} or not over else "its result is no picture"
    return pointwise(call)


def channels_cut(call: Call) -> Rule | str:
    """`cat`, `split` and `chunk` of channels."""
    return pointwise(call) if call.given.get("dim", 0) % 4 == 1 else "it works along another axis than channels"


def statistics_norm(call: Call) -> Rule | str:
    """`instance_norm`, `group_norm`: their statistics are those of the picture itself; `batch_norm`: mostly running ones."""
    given = call.given
    own = bool(given.get("use_input_stats", given.get("training", True)))
    if not own:
        return pointwise(call)
    if call.name == "batch_norm":
        return "a batch norm without running statistics: it needs the whole batch"
    if not call.frozen:
        return "its statistics are those of the whole map"
    if not constant_weights(call):
        return "its weights are computed from the inputs"
    (h, _), (w, _) = sizes(call)
    groups = int(given["num_groups"]) if call.name == "group_norm" else None
    return Affine(h, w, groups, given.get("weight"), given.get("bias"), float(given["eps"]))


_RULES: dict[str, Callable[[Call], Rule | str]] = {
    "conv2d": convolution,
    "conv_transpose2d": transposed,
    "max_pool2d": max_pool,
    "avg_pool2d": average_pool,
    "adaptive_avg_pool2d": adaptive_pool,
    "adaptive_max_pool2d": adaptive_pool,
    "upsample_nearest2d": nearest,
    "_upsample_nearest_exact2d": nearest,
    "upsample_bilinear2d": bilinear,
    "pad": padding,
    "constant_pad_nd": padding,
    "reflection_pad2d": padding,
    "replication_pad2d": padding,
    "slice": sliced,
    "pixel_shuffle": shuffled,
    "pixel_unshuffle": shuffled,
    "instance_norm": statistics_norm,
    "group_norm": statistics_norm,
    "batch_norm": statistics_norm,
    "cat": channels_cut,
    "concat": channels_cut,
    "chunk": channels_cut,
    "split": channels_cut,
    "split_with_sizes": channels_cut,
    "glu": channels_cut,
    "softmax": over_channels,
    "log_softmax": over_channels,
    "mean": over_channels,
    "sum": over_channels,
    "amax": over_channels,
    "amin": over_channels,
}
# Element by element too, though PyTorch does not say so of them.
_PLAIN = frozenset(
    {
        "_to_copy",
        "alias",
        "alpha_dropout",
        "contiguous",
        "detach",
        "dropout",
        "expand_as",
        "feature_dropout",
        "hardswish",
        "lift_fresh_copy",
        "prelu",
        "to",
        "type_as",
        "where",
    }
)


def find_rule(call: Call) -> Rule | str:
    """Return the rule of an operation, or the reason why it is computed dense."""
    pictures = [value for value, is_picture in zip(call.inputs, call.pictures, strict=True) if is_picture]
    if call.output.ndim != 4 or not pictures:
        return "its inputs or its result are no pictures"
    if any(int(value.shape[0]) not in (1, int(call.output.shape[0])) for value in pictures):
        return "it mixes batches of different sizes"
    if call.name in _RULES:
        return _RULES[call.name](call)
    if call.pointwise or call.name in _PLAIN:
        return pointwise(call)
    return "no rule for this operation"
