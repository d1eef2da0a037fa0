"""Types and ranks of tensors, carried through a graph node by node as far as they are certain.

ONNX's own shape inference is not used on purpose: it loops for ever on some damaged files (an Einsum whose equation is no
equation), and a check of unknown files has to come to an end. Sizes are not needed here, and what stays unknown only keeps
a rule from speaking.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from onnx import AttributeProto, NodeProto, TensorProto, defs, numpy_helper

__all__ = ["UNKNOWN", "Value", "constant_of", "elements", "infer"]

_SMALL = 4096  # numbers of a constant worth reading: shapes, axes, scales per channel


class Value(NamedTuple):
    """What is known of a tensor: element type (0 unknown) and rank (None unknown)."""

    type: int
    rank: int | None


UNKNOWN = Value(0, None)

_NAMES = {
    "float": "FLOAT",
    "double": "DOUBLE",
    "float16": "FLOAT16",
    "bfloat16": "BFLOAT16",
    **{name: name.upper() for name in ("bool", "string", "int8", "int16", "int32", "int64", "uint8", "uint16")},
}
_CONCRETE = {f"tensor({name})": int(TensorProto.DataType.Value(kind)) for name, kind in _NAMES.items()}

_BROADCAST_NAMES = """
    Add Sub Mul Div Pow Mod And Or Xor Equal Less Greater LessOrEqual GreaterOrEqual Where Min Max Mean Sum PRelu
"""
_SAME_NAMES = """
    Abs Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Concat Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Dropout Elu Erf Exp EyeLike Floor Gelu GlobalAveragePool
    GlobalMaxPool GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN
    LRN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool MaxPool Mish Neg Not Pad QuantizeLinear
    RandomNormalLike RandomUniformLike Reciprocal Relu Resize ReverseSequence Round ScatterElements ScatterND Selu Shrink
    Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Tan Tanh ThresholdedRelu Tile TopK
    Transpose Trilu Upsample
"""
_BROADCAST = frozenset(_BROADCAST_NAMES.split())
_SAME = frozenset(_SAME_NAMES.split())  # results have as many axes as the first input
_SAME_FOR_ALL = frozenset(("MaxPool", "Split", "TopK"))  # whose other outputs are like the first
_FIXED = {
    "Shape": 1,
    "Size": 0,
    "NonZero": 2,
    "Flatten": 2,
    "Gemm": 2,
    "Range": 1,
    "RoiAlign": 4,
    "NonMaxSuppression": 2,
}
_CONTROL = frozenset(("If", "Loop", "Scan"))  # whose outputs have types of their own each


def infer(
    node: NodeProto,
    attributes: Mapping[str, AttributeProto],
    opset: int,
    values: Mapping[str, Value],
    constants: Mapping[str, TensorProto],
) -> list[Value]:
    """Return what is known of each output of a node of ONNX's own domain."""
    types = _types(node, attributes, opset, values)
    rank = _rank(node, attributes, values, constants)
    ranks = [rank if index == 0 or node.op_type in _SAME_FOR_ALL else None for index in range(len(node.output))]
    return [Value(kind, rank) for kind, rank in zip(types, ranks, strict=True)]


# -- types -------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _signature(operator: str, opset: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of an operator's input and output types, such as "T" or "tensor(int64)"."""
    try:
        schema = defs.get_schema(operator, opset)
    except (defs.SchemaError, TypeError):  # no such operator; a number that is no opset
        return (), ()
    return tuple(item.type_str for item in schema.inputs), tuple(item.type_str for item in schema.outputs)


def _types(
    node: NodeProto, attributes: Mapping[str, AttributeProto], opset: int, values: Mapping[str, Value]
) -> list[int]:
    inputs, outputs = _signature(node.op_type, opset)
    if not outputs or node.op_type in _CONTROL:
        return [0] * len(node.output)
    bound: dict[str, int] = {}
    for index, name in enumerate(node.input if inputs else ()):
        kind = values.get(name, UNKNOWN).type
        if kind:
            bound.setdefault(inputs[min(index, len(inputs) - 1)], kind)
    names = [outputs[min(index, len(outputs) - 1)] for index in range(len(node.output))]
    types = [_CONCRETE.get(name) or bound.get(name, 0) for name in names]
    stated = _stated(node, attributes, values)
    return types if stated is None else [stated, *types[1:]]


def _stated(node: NodeProto, attributes: Mapping[str, AttributeProto], values: Mapping[str, Value]) -> int | None:
    """Return the type of the first output where an attribute says it."""
    if node.op_type == "Cast":
        return int(attributes["to"].i) if "to" in attributes else 0
    if node.op_type == "ConstantOfShape":
        return int(attributes["value"].t.data_type) if "value" in attributes else int(TensorProto.FLOAT)
    if node.op_type == "QuantizeLinear":
        stated = int(attributes["output_dtype"].i) if "output_dtype" in attributes else 0
        zero = values.get(node.input[2], UNKNOWN).type if len(node.input) > 2 else 0
        return stated or zero or int(TensorProto.UINT8)
    if "dtype" in attributes and (node.op_type == "EyeLike" or node.op_type.startswith("Random")):
        return int(attributes["dtype"].i)
    return None


# -- ranks -------------------------------------------------------------------------------------------------------------


def _rank(
    node: NodeProto,
    attributes: Mapping[str, AttributeProto],
    values: Mapping[str, Value],
    constants: Mapping[str, TensorProto],
) -> int | None:
    operator, ranks = node.op_type, [values.get(name, UNKNOWN).rank for name in node.input]
    first = ranks[0] if ranks else None
    if operator in _FIXED:
        return _FIXED[operator]
    if operator in _SAME:
        return first
    if operator in _BROADCAST or operator == "MatMul":
        known = [rank for rank in ranks if rank is not None]
        return max(known, default=None) if len(known) == len(ranks) and min(known, default=2) > 0 else None
    if operator in ("Reshape", "ConstantOfShape"):
        shape = constants.get(node.input[-1]) if node.input else None
        return int(shape.dims[0]) if shape is not None and len(shape.dims) == 1 else None
    if first is None:
        return None
    if operator == "Gather":
        return None if len(ranks) < 2 or ranks[1] is None else first + ranks[1] - 1
    if operator in ("Squeeze", "Unsqueeze") or operator.startswith("Reduce"):
        return _with_axes(node, attributes, first, constants)
    return None


def _with_axes(
    node: NodeProto, attributes: Mapping[str, AttributeProto], first: int, constants: Mapping[str, TensorProto]
) -> int | None:
    if node.op_type.startswith("Reduce") and ("keepdims" not in attributes or attributes["keepdims"].i):
        return first
    count: int | None = len(attributes["axes"].ints) if "axes" in attributes else None
    if count is None and len(node.input) > 1 and node.input[1] in constants:
        dims = constants[node.input[1]].dims
        count = int(dims[0]) if len(dims) == 1 else None
    if count is None:
        return None
    return first + count if node.op_type == "Unsqueeze" else first - count


# -- constants ---------------------------------------------------------------------------------------------------------


def constant_of(attributes: Mapping[str, AttributeProto]) -> TensorProto | None:
    """Return the tensor a Constant node holds; None where it is sparse or text."""
    if "value" in attributes:
        return attributes["value"].t
    for name in ("value_int", "value_ints"):
        if name in attributes:
            numbers = list(attributes[name].ints) if name == "value_ints" else [attributes[name].i]
            dims = [len(numbers)] if name == "value_ints" else []
            return TensorProto(dims=dims, data_type=TensorProto.INT64, int64_data=numbers)
    for name in ("value_float", "value_floats"):
        if name in attributes:
            floats = list(attributes[name].floats) if name == "value_floats" else [attributes[name].f]
            dims = [len(floats)] if name == "value_floats" else []
            return TensorProto(dims=dims, data_type=TensorProto.FLOAT, float_data=floats)
    return None


def elements(tensor: TensorProto) -> list[float] | None:
    """Return the numbers of a small tensor, flat; None where they are many, lie in another file, or are no numbers."""
    count = 1
    for length in tensor.dims:
        count = min(count * max(int(length), 0), _SMALL + 1)
    if count > _SMALL or tensor.data_location == TensorProto.EXTERNAL:
        return None
    try:
        return [float(value) for value in numpy_helper.to_array(tensor).ravel().tolist()]
    except (KeyError, TypeError, ValueError):  # damaged, or text
        return None
