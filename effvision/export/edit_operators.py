"""From an operation of a traced network to ONNX nodes that take maps of any size.

PyTorch's exporter would write the sizes of the example into the graph. Here every operation is written so that it does with a
crop what it does with the picture: by factors instead of sizes, and with its own padding around whatever it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from effvision.host.edit_axes import Axis, Pad, Picked, Spread, Window
from effvision.host.edits import norm_names
from effvision.incremental.trace import Slot, Value

__all__ = ["Body", "Unwritable", "write_value"]

_FAR = np.iinfo(np.int64).max


class Unwritable(Exception):
    """An operation has no form for maps of any size; says why."""


@dataclass
class Body:
    """What a block's graph holds, while it is written.

    Attributes:
        values: Of the network.
        names: Of every value that is known so far: its name in the graph.
        numbers: The number in the file of every value.
        prefix: Of the names of constants, and of what lies inside an operation.
        nodes, constants: Of the graph.
        shown: Values that norms normalise.
    """

    values: Sequence[Value]
    names: dict[int, str]
    numbers: Mapping[int, int]
    prefix: str
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    shown: set[int] = field(default_factory=set)
    _held: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def node(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        output = output or f"{self.prefix}t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant, once; return its name."""
        if isinstance(value, Tensor):
            key: tuple[Any, ...] = (value.data_ptr(), tuple(value.shape), value.stride())
            value = value.detach().cpu().contiguous().numpy()
            if value.dtype != np.float32:
                raise Unwritable(f"a constant of it is {value.dtype}; float32 is exported")
        else:
            value = np.asarray(value, dtype)
            key = (value.tobytes(), value.shape, str(value.dtype))
        if key not in self._held:
            self._held[key] = f"{self.prefix}c{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(value, self._held[key]))
        return self._held[key]


class Written:
    """One value, about to be written: its inputs by name, its arguments, its result's name."""

    def __init__(self, body: Body, value: Value) -> None:
        self.body, self.value, self.given = body, value, value.given
        self.inputs = [body.names[source] for source in value.inputs]
        self.name = f"v{body.numbers[value.index]}"
        self.channels = body.values[value.inputs[0]].shape[1]

    def put(self, operator: str, *inputs: str, **attributes: Any) -> None:
        """Write the node that gives the result."""
        self.body.node(operator, inputs, self.name, **attributes)

    def operand(self, argument: str) -> str:
        """An argument that is an input, a constant tensor or a number."""
        given = self.given[argument]
        return self.inputs[given.number] if isinstance(given, Slot) else self.body.constant(given)

    def number(self, argument: str, default: float | None = None) -> float:
        """An argument that has to be a number."""
        given = self.given.get(argument, default)
        given = default if given is None else given
        if isinstance(given, bool) or not isinstance(given, (int, float)):
            raise Unwritable(f"its argument `{argument}` is no number")
        return float(given)

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Rows and columns of its first input."""
        found = self.value.axes[0]
        if found is None:
            raise Unwritable("its input is no picture")
        return found


def _window(w: Written) -> dict[str, Any]:
    """Attributes of a window: where it goes and what lies around the map."""
    rows, columns = w.axes
    if not (isinstance(rows, Window) and isinstance(columns, Window)):
        raise Unwritable("it has no window")
    for axis in (rows, columns):
        if axis.length(axis.n) != axis.m:
            raise Unwritable("its last window reaches over the border (ceil_mode)")
    pads = [rows.padding, columns.padding, rows.after, columns.after]
    return {"pads": pads, "strides": [rows.stride, columns.stride]}


def _kernel(argument: Any) -> list[int]:
    return [int(size) for size in (argument if len(argument) == 2 else [argument[0]] * 2)]


def _convolution(w: Written) -> None:
    weight, bias = w.given["weight"], w.given.get("bias")
    inputs = [w.inputs[0], w.body.constant(weight)] + ([] if bias is None else [w.body.constant(bias)])
    dilation = _kernel(w.given["dilation"])
    w.put("Conv", *inputs, group=int(w.given["groups"]), dilations=dilation, **_window(w))


def _transposed(w: Written) -> None:
    weight, bias = w.given["weight"], w.given.get("bias")
    rows, columns = w.axes
    assert isinstance(rows, Spread) and isinstance(columns, Spread)
    inputs = [w.inputs[0], w.body.constant(weight)] + ([] if bias is None else [w.body.constant(bias)])
    more = [axis.m - ((axis.n - 1) * axis.stride - 2 * axis.padding + axis.reach + 1) for axis in (rows, columns)]
    w.put(
        "ConvTranspose",
        *inputs,
        group=int(w.given["groups"]),
        dilations=_kernel(w.given["dilation"]),
        strides=[rows.stride, columns.stride],
        pads=[rows.padding, columns.padding] * 2,
        output_padding=more,
    )


def _max_pool(w: Written) -> None:
    dilation = w.given.get("dilation", [1, 1])
    w.put(
        "MaxPool", w.inputs[0], kernel_shape=_kernel(w.given["kernel_size"]), dilations=_kernel(dilation), **_window(w)
    )


def _average_pool(w: Written) -> None:
    if w.given.get("divisor_override") is not None:
        raise Unwritable("it divides by a number of its own")
    counts = int(bool(w.given["count_include_pad"]))
    w.put(
        "AveragePool", w.inputs[0], kernel_shape=_kernel(w.given["kernel_size"]), count_include_pad=counts, **_window(w)
    )


def _adaptive(w: Written) -> None:
    rows, columns = w.axes
    assert isinstance(rows, Window) and isinstance(columns, Window)
    operator = "MaxPool" if w.value.operation == "adaptive_max_pool2d" else "AveragePool"
    w.put(
        operator, w.inputs[0], kernel_shape=[rows.reach + 1, columns.reach + 1], strides=[rows.stride, columns.stride]
    )


def _nearest(w: Written) -> None:
    rows, columns = w.axes
    assert isinstance(rows, Picked) and isinstance(columns, Picked)
    if not (rows.pace and columns.pace):
        raise Unwritable(f"{rows.n}x{columns.n} to {rows.m}x{columns.m} pixels is not by a whole number")
    fewer, more = (rows.every or 1, columns.every or 1), (rows.factor or 1, columns.factor or 1)
    name = w.inputs[0]
    if fewer != (1, 1):  # a division by a scale of 1/3 could be rounded to another pixel
        numbers = [w.body.constant(each, np.int64) for each in ([0, 0], [_FAR, _FAR], [2, 3], fewer)]
        if more == (1, 1):
            w.put("Slice", name, *numbers)
            return
        name = w.body.node("Slice", [name, *numbers])
    _resize(w, name, more, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric")


def _bilinear(w: Written) -> None:
    rows, columns = w.axes
    if not (rows.pace and columns.pace) or w.given.get("align_corners"):
        raise Unwritable(
            f"{rows.n}x{columns.n} to {rows.m}x{columns.m} pixels is not by a whole number, corners left alone"
        )
    by = (rows.m // rows.n, columns.m // columns.n)
    _resize(w, w.inputs[0], by, mode="linear", coordinate_transformation_mode="half_pixel")


def _resize(w: Written, name: str, by: tuple[int, int], **attributes: Any) -> None:
    w.put("Resize", name, "", w.body.constant([1.0, 1.0, float(by[0]), float(by[1])]), **attributes)


def _pad(w: Written) -> None:
    rows, columns = w.axes
    assert isinstance(rows, Pad) and isinstance(columns, Pad)
    if rows.mode == "circular":
        raise Unwritable("mode circular")
    top, bottom, left, right = (
        amount for axis in (rows, columns) for amount in (axis.before, axis.m - axis.n - axis.before)
    )
    amounts = w.body.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}[rows.mode]
    value = [w.body.constant(w.number("value", 0.0))] if mode == "constant" else []
    w.put("Pad", w.inputs[0], amounts, *value, mode=mode)


def _slice(w: Written) -> None:
    if int(w.given["dim"]) % 4 == 1:
        start, end, step = slice(w.given.get("start"), w.given.get("end"), w.given.get("step")).indices(w.channels)
        _cut(w, [start], [end], [1], [step])
        return
    starts, ends = [], []
    for axis in w.axes:
        assert isinstance(axis, Pad)
        starts.append(-axis.before)
        ends.append(
            min(axis.m - axis.n - axis.before, 0) or _FAR
        )  # counted from the end, which a crop has or need not have
    _cut(w, starts, ends, [2, 3], [1, 1])


def _cut(w: Written, starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> None:
    w.put("Slice", w.inputs[0], *(w.body.constant(each, np.int64) for each in (starts, ends, axes, steps)))


def _part(w: Written) -> None:
    """One of several pieces along the channels."""
    number, count = w.value.part, w.channels
    if number is None:
        raise Unwritable("it has several results")
    name = w.value.operation
    if name == "split_with_sizes":
        ends = np.cumsum(w.given["split_sizes"])
        start = int(ends[number - 1]) if number else 0
        end = int(ends[number])
    else:
        if name == "chunk":
            size = -(-count // int(w.given["chunks"]))
        else:
            given = w.given["split_size"]
            if not isinstance(given, int):
                raise Unwritable("its sizes are no number")
            size = given
        start, end = number * size, min((number + 1) * size, count)
    _cut(w, [start], [end], [1], [1])


def _batch_norm(w: Written) -> None:
    channels = w.channels
    plain = {"weight": torch.ones, "bias": torch.zeros}
    numbers = [w.given.get(key) for key in ("weight", "bias", "running_mean", "running_var")]
    tensors = [
        plain[key](channels) if tensor is None else tensor
        for key, tensor in zip(("weight", "bias", "running_mean", "running_var"), numbers, strict=True)
    ]
    held = [w.body.constant(tensor.numpy(force=True) if isinstance(tensor, Tensor) else tensor) for tensor in tensors]
    w.put("BatchNormalization", w.inputs[0], *held, epsilon=w.number("eps"))


def _statistics(w: Written) -> None:
    """An instance or group norm: scale and shift are inputs of the graph; weight and bias change those, not the map."""
    scale, shift = norm_names(w.body.numbers[w.value.index])
    weight, bias = w.given.get("weight"), w.given.get("bias")
    w.body.shown.add(w.value.inputs[0])
    if weight is not None:
        held = w.body.constant(weight.numpy(force=True).reshape(-1, 1, 1))
        scale, shift = w.body.node("Mul", [scale, held]), w.body.node("Mul", [shift, held])
    if bias is not None:
        shift = w.body.node("Add", [shift, w.body.constant(bias.numpy(force=True).reshape(-1, 1, 1))])
    w.put("Add", w.body.node("Mul", [w.inputs[0], scale]), shift)


def _sum(w: Written) -> None:
    if w.number("alpha", 1.0) != 1.0:
        raise Unwritable("its argument `alpha` is not 1")
    operator = {"add": "Add", "sub": "Sub", "rsub": "Sub"}[w.value.operation]
    operands = [w.operand("self"), w.operand("other")]
    w.put(operator, *(reversed(operands) if w.value.operation == "rsub" else operands))


def _two(operator: str) -> Callable[[Written], None]:
    def write(w: Written) -> None:
        if w.given.get("rounding_mode") is not None:
            raise Unwritable("it rounds")
        w.put(operator, w.operand("self"), w.operand("other"))

    return write


def _one(operator: str, **arguments: str) -> Callable[[Written], None]:
    """An activation: ONNX attributes by the names of PyTorch's arguments."""

    def write(w: Written) -> None:
        w.put(operator, w.inputs[0], **{name: w.number(argument) for name, argument in arguments.items()})

    return write


def _elu(w: Written) -> None:
    if w.number("scale", 1.0) != 1.0 or w.number("input_scale", 1.0) != 1.0:
        raise Unwritable("its scales are not 1")
    w.put("Elu", w.inputs[0], alpha=w.number("alpha"))


def _silu(w: Written) -> None:
    w.put("Mul", w.inputs[0], w.body.node("Sigmoid", [w.inputs[0]]))


def _gelu(w: Written) -> None:
    if w.given.get("approximate", "none") != "none":
        raise Unwritable("it is approximated by tanh")
    x = w.inputs[0]
    inner = w.body.node("Erf", [w.body.node("Mul", [x, w.body.constant(math.sqrt(0.5))])])
    half = w.body.node("Mul", [x, w.body.constant(0.5)])
    w.put("Mul", half, w.body.node("Add", [inner, w.body.constant(1.0)]))


def _softplus(w: Written) -> None:
    if w.number("beta", 1.0) != 1.0:
        raise Unwritable("its argument `beta` is not 1")
    w.put("Softplus", w.inputs[0])


def _clip(w: Written) -> None:
    low, high = ("min_val", "max_val") if w.value.operation == "hardtanh" else ("min", "max")
    bounds = ["" if w.given.get(key) is None else w.body.constant(w.number(key)) for key in (low, high)]
    w.put("Clip", w.inputs[0], *bounds)


def _relu6(w: Written) -> None:
    w.put("Clip", w.inputs[0], w.body.constant(0.0), w.body.constant(6.0))


def _prelu(w: Written) -> None:
    weight = w.given["weight"]
    if isinstance(weight, Slot):
        raise Unwritable("its slopes are computed from the inputs")
    w.put("PRelu", w.inputs[0], w.body.constant(weight.numpy(force=True).reshape(-1, 1, 1)))


def _concatenation(w: Written) -> None:
    names = [w.inputs[item.number] if isinstance(item, Slot) else None for item in w.given["tensors"]]
    if None in names:
        raise Unwritable("it takes a constant map")
    w.put("Concat", *(name for name in names if name), axis=1)


def _softmax(w: Written) -> None:
    w.put("Softmax", w.inputs[0], axis=1)


def _shuffle(w: Written) -> None:
    w.put("DepthToSpace", w.inputs[0], blocksize=int(w.given["upscale_factor"]), mode="CRD")


def _same(w: Written) -> None:
    w.put("Identity", w.inputs[0])


_FORMS: dict[str, Callable[[Written], None]] = {
    "conv2d": _convolution,
    "conv_transpose2d": _transposed,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive,
    "adaptive_max_pool2d": _adaptive,
    "upsample_nearest2d": _nearest,
    "_upsample_nearest_exact2d": _nearest,
    "upsample_bilinear2d": _bilinear,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "reflection_pad2d": _pad,
    "replication_pad2d": _pad,
    "slice": _slice,
    "chunk": _part,
    "split": _part,
    "split_with_sizes": _part,
    "batch_norm": _batch_norm,
    "instance_norm": _statistics,
    "group_norm": _statistics,
    "add": _sum,
    "sub": _sum,
    "rsub": _sum,
    "mul": _two("Mul"),
    "div": _two("Div"),
    "maximum": _two("Max"),
    "minimum": _two("Min"),
    "relu": _one("Relu"),
    "leaky_relu": _one("LeakyRelu", alpha="negative_slope"),
    "tanh": _one("Tanh"),
    "sigmoid": _one("Sigmoid"),
    "neg": _one("Neg"),
    "abs": _one("Abs"),
    "exp": _one("Exp"),
    "sqrt": _one("Sqrt"),
    "elu": _elu,
    "silu": _silu,
    "gelu": _gelu,
    "softplus": _softplus,
    "hardtanh": _clip,
    "relu6": _relu6,
    "clamp": _clip,
    "prelu": _prelu,
    "cat": _concatenation,
    "concat": _concatenation,
    "softmax": _softmax,
    "pixel_shuffle": _shuffle,
    **dict.fromkeys(("_to_copy", "alias", "clone", "contiguous", "detach", "dropout", "feature_dropout", "to"), _same),
}


def write_value(body: Body, value: Value) -> None:
    """Write the nodes of one operation.

    Raises:
        Unwritable: it has no form for maps of any size.
    """
    if value.rule is None:
        raise Unwritable(value.reason)
    form = _FORMS.get(value.operation)
    if form is None:
        raise Unwritable("it is not among those that are exported")
    if value.dtype != torch.float32:
        raise Unwritable(f"it gives {value.dtype}; float32 is exported")
    written = Written(body, value)
    form(written)
    body.names[value.index] = written.name
