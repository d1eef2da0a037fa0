"""Puts quantise and dequantise nodes (QDQ) into a graph. ONNX Runtime's own quantiser places them; here is decided where.

Two forms, for two kinds of machine, which must not be mixed up:

    cpu       activations uint8 with a zero point, weights int8 per output channel, biases int32: ONNX Runtime's integer kernels
    tensorrt  activations and weights int8 around zero (TensorRT takes no other zero point), pairs before convolutions and
              matrix products only, weights and biases kept in float: TensorRT folds the pairs when it builds the engine
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from effvision._optional import require
from effvision.errors import ExportError, MissingDependencyError
from effvision.export._graphs import copy_of, float_tensors, tidy
from effvision.export._quiet import quiet
from effvision.export.int8_ranges import Range
from effvision.export.precision import Form

__all__ = ["check_form", "find_form", "int8_layers", "quantise", "ranged_tensors"]

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_BETWEEN = ("Add", "Concat", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Mul")
"""Computed on integers too where integers come in and integers are wanted, so that nothing is converted there and back."""


def int8_layers(model: ModelProto) -> list[str]:
    """Return the names of the nodes that int8 can speed up: convolutions and matrix products with constant weights.

    Nodes without a name get one.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    taken = {node.name for node in model.graph.node}
    found = []
    for index, node in enumerate(model.graph.node):
        if not node.name:
            node.name = next(name for name in _numbered(f"{node.op_type}_{index}") if name not in taken)
            taken.add(node.name)
        weight = weights.get(node.input[1]) if node.op_type in _WEIGHTED and len(node.input) > 1 else None
        if weight is not None and weight.data_type == TensorProto.FLOAT:
            found.append(node.name)
    return found


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in itertools.count())


def ranged_tensors(model: ModelProto) -> list[str]:
    """Return the tensors whose range a quantised graph may need: float in- and outputs of every node that can be quantised."""
    numbers = float_tensors(model)
    chosen = [node for node in model.graph.node if node.op_type in (*_WEIGHTED, *_BETWEEN)]
    return list(dict.fromkeys(name for node in chosen for name in (*node.input, *node.output) if name in numbers))


def quantise(model: ModelProto, ranges: Mapping[str, Range], layers: Sequence[str], form: Form) -> ModelProto:
    """Return a copy in which `layers` compute on int8.

    Args:
        model: Float graph of opset 13 or newer; nodes named by `int8_layers`.
        ranges: Of every tensor in `ranged_tensors`.
        layers: Names of nodes.
        form: `cpu` or `tensorrt`.

    Raises:
        ExportError: ONNX Runtime's quantiser fails, or gives another form.
        MissingDependencyError: the installed ONNX Runtime has no quantiser this code knows.
    """
    require("onnxruntime", extra="onnx")
    copy = copy_of(model)
    if not layers:  # the library would take none for all
        return copy
    nodes = [*layers, *(_between(model, set(layers)) if form == "cpu" else [])]
    _part(copy, set(layers))
    with quiet():  # its advice is about its own command
        try:
            quantised = _library(copy, ranges, nodes, form)
        except MissingDependencyError:
            raise
        except Exception as error:  # the library raises kinds of its own
            raise ExportError(f"ONNX Runtime's quantiser cannot quantise this graph: {error}") from error
    tidy(quantised, like=model)
    check_form(quantised, form)
    return quantised


def _part(model: ModelProto, layers: set[str]) -> None:
    """Give the nodes that stay in float constants of their own where they share them with layers that do not."""
    given = {name for node in model.graph.node if node.name in layers for name in node.input[1:]}
    shared = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in given}
    copies: dict[str, str] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in shared and node.name not in layers:
                copies.setdefault(name, f"{name}_float")
                node.input[place] = copies[name]
    for name, other in copies.items():
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(shared[name])
        tensor.name = other


def _library(model: ModelProto, ranges: Mapping[str, Range], nodes: Sequence[str], form: Form) -> ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    if (
        "tensors_range" not in inspect.signature(QDQQuantizer).parameters
        or "mode" in inspect.signature(QDQQuantizer).parameters
    ):
        import onnxruntime

        raise MissingDependencyError(
            f"onnxruntime {onnxruntime.__version__} has no quantiser this code can drive\nhint: pip install -U onnxruntime"
        )
    options: dict[str, Any] = {"EnableSubgraph": False}
    if form == "tensorrt":
        options |= {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            "DedicatedQDQPair": True,
            "QDQKeepRemovableActivations": True,
            "OpTypesToExcludeOutputQuantization": list(_WEIGHTED),
        }
    pairs: dict[str, Any] = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        model,
        True,  # weights per output channel
        False,
        QuantType.QInt8,
        QuantType.QUInt8 if form == "cpu" else QuantType.QInt8,
        TensorsData(CalibrationMethod.MinMax, pairs),
        list(nodes),
        [],
        [*_WEIGHTED, *_BETWEEN],
        options,
    )
    quantizer.quantize_model()
    return quantizer.model.model  # type: ignore[no-any-return]


def _between(model: ModelProto, layers: set[str]) -> list[str]:
    """Return the nodes of `_BETWEEN` that lie between two quantised layers, whatever else lies there too."""
    producers = {output: node for node in model.graph.node for output in node.output}
    numbers = float_tensors(model)
    constant = {tensor.name for tensor in model.graph.initializer}
    after: set[str] = set()  # nodes that a quantised layer's output reaches without passing another layer
    for node in model.graph.node:  # sorted as the ONNX format demands
        before = [producers[name] for name in node.input if name in producers]
        reached = any(one.name in layers or (one.name in after and one.op_type not in _WEIGHTED) for one in before)
        if reached:
            after.add(node.name)
    wanted: set[str] = set()  # nodes whose output reaches a quantised layer likewise
    for node in reversed(model.graph.node):
        if node.name not in layers and not (node.name in wanted and node.op_type not in _WEIGHTED):
            continue
        wanted.update(producers[name].name for name in node.input if name in producers)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in _BETWEEN
        and node.name in after
        and node.name in wanted
        and node.output[0] in numbers
        and not _constant_operand(node, constant)
    ]


def _constant_operand(node: NodeProto, constant: set[str]) -> bool:
    return node.op_type in ("Add", "Mul") and any(name in constant for name in node.input)


def find_form(model: ModelProto) -> Form | None:
    """Return the form a graph has, judged by its own nodes; None if it is not quantised.

    Raises:
        ExportError: it is neither, or a mixture.
    """
    if not any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        return None
    kinds = {(data_type, zeros) for _, data_type, zeros in _zero_points(model)}
    given = {data_type for node, data_type, _ in _zero_points(model) if node.op_type == "QuantizeLinear"}
    if given == {TensorProto.INT8} and kinds == {(TensorProto.INT8, True)}:
        return "tensorrt"
    if given == {TensorProto.UINT8}:
        return "cpu"
    raise ExportError("the graph mixes quantised forms: it is neither for a CPU nor for TensorRT")


def check_form(model: ModelProto, form: Form) -> None:
    """Make sure that every pair has the form asked for.

    Raises:
        ExportError: it has not; the message names the node.
    """
    for node, data_type, zeros in _zero_points(model):
        name = TensorProto.DataType.Name(data_type).lower()
        if form == "tensorrt" and (data_type != TensorProto.INT8 or not zeros):
            raise ExportError(
                f"`{node.name}` quantises to {name}{'' if zeros else ' with a zero point'}; TensorRT takes int8 around zero "
                "only\nhint: pip install -U onnxruntime"
            )
        if form == "cpu" and node.op_type == "QuantizeLinear" and data_type != TensorProto.UINT8:
            raise ExportError(f"`{node.name}` quantises an activation to {name} instead of uint8")
    if form == "cpu" and find_form(model) not in ("cpu", None):
        raise ExportError("the graph has no activation in uint8")


def _zero_points(model: ModelProto) -> Iterator[tuple[NodeProto, int, bool]]:
    """Yield each quantise and dequantise node, the type of its zero point, and whether that is zero everywhere."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = tensors.get(node.input[2]) if len(node.input) > 2 else None
        held = tensors.get(node.input[0])
        if zero is None and held is not None and node.op_type == "DequantizeLinear":  # of the type of what it takes
            yield node, held.data_type, True
        elif zero is None:  # the format's default is uint8
            yield node, TensorProto.UINT8, True
        else:
            yield node, zero.data_type, not bool(numpy_helper.to_array(zero).any())
