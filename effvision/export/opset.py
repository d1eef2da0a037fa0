"""Rewrites an opset 18 graph for an older opset.

PyTorch's exporter writes opset 18 whatever is asked when its own converter fails, without an error, and ONNX's version
converter has no rule for the same nodes. The differences that matter are few, so they are written out here; an operator
whose meaning changed in another way is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper

from effvision.errors import ExportError

__all__ = ["IR_OF_OPSET", "obtained_opset", "to_opset"]

IR_OF_OPSET = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9}
"""The IR version ONNX published each opset with; a reader of that opset reads it."""

_WIDER_TYPES = {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Relu",
    "Identity",
    "LeakyRelu",
    "PRelu",
    "Where",
    "GreaterOrEqual",
    "LessOrEqual",
    "Pow",
}
"""Operators whose newer versions only admit more types than this package uses (float32, int64, bool)."""


def obtained_opset(model: ModelProto) -> int:
    """Return the opset of ONNX's own domain, as the file says.

    Raises:
        ExportError: the graph uses another domain, which other runtimes do not know.
    """
    foreign = sorted({node.domain for node in model.graph.node if node.domain not in ("", "ai.onnx")})
    if foreign or model.functions:
        raise ExportError(
            f"the graph uses operators outside ONNX: domains {', '.join(foreign) or 'of local functions'}"
        )
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def to_opset(model: ModelProto, opset: int) -> None:
    """Rewrite `model` in place so that it means the same under `opset`.

    Raises:
        ExportError: an operator has no equal there; the message names it.
    """
    have = obtained_opset(model)
    if opset > have:
        raise ExportError(f"asked for opset {opset} but PyTorch wrote {have}\nhint: ask for {have} or below")
    if opset < have:
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            _rewrite(node, have, opset, constants)
        _drop_unused(model)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = IR_OF_OPSET[opset]


def _rewrite(node: NodeProto, have: int, opset: int, constants: dict[str, TensorProto]) -> None:
    if any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute):
        raise ExportError(
            f"node `{node.name}` ({node.op_type}) holds a graph of its own, which is not rewritten to opset {opset}"
        )
    try:
        old = defs.get_schema(node.op_type, opset)
    except defs.SchemaError:
        raise ExportError(
            f"{node.op_type} (node `{node.name}`) does not exist in opset {opset}\nhint: export with a newer opset"
        ) from None
    if old.since_version == defs.get_schema(node.op_type, have).since_version or node.op_type in _WIDER_TYPES:
        return
    rule = _RULES.get("Reduce" if node.op_type.startswith("Reduce") else node.op_type)
    rewritten = rule is not None and rule(node, constants)
    if not rewritten or {attribute.name for attribute in node.attribute} - set(old.attributes):
        raise ExportError(
            f"{node.op_type} (node `{node.name}`) means something else in opset {opset} than in {have} and has no rewrite\n"
            "hint: export with a newer opset"
        )


def _reduce(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Move `axes` from an input (18) to an attribute (13)."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    noop = attributes.pop("noop_with_empty_axes", None)
    axes: list[int] = []
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in constants:
            return False
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
    if not axes and noop is not None and noop.i:
        return False  # "do nothing" has no form there
    del node.input[1:]
    kept = list(attributes.values())
    del node.attribute[:]
    node.attribute.extend(kept)
    if axes:
        node.attribute.append(helper.make_attribute("axes", axes))
    return True


def _absent(*names: str, inputs: int | None = None) -> Callable[[NodeProto, dict[str, TensorProto]], bool]:
    """Accept a node that uses none of the newer attributes (or sets them to zero), nor a newer input."""

    def rule(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
        new = [attribute for attribute in node.attribute if attribute.name in names]
        if any(attribute.i or attribute.ints or attribute.s not in (b"", b"stretch") for attribute in new):
            return False
        for attribute in new:
            node.attribute.remove(attribute)
        return inputs is None or len([name for name in node.input if name]) <= inputs

    return rule


def _reshape(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Drop `allowzero` (new in 14) where no zero is in the shape: without one it means nothing."""
    stated = [attribute for attribute in node.attribute if attribute.name == "allowzero"]
    if any(attribute.i for attribute in stated):
        shape = constants.get(node.input[1])
        if shape is None or 0 in numpy_helper.to_array(shape):
            return False
    for attribute in stated:
        node.attribute.remove(attribute)
    return True


def _scatter(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Drop a `reduction` that says what is so without it; opset 16 has `add` and `mul` (the attribute itself is new there)."""
    stated = [attribute for attribute in node.attribute if attribute.name == "reduction"]
    for attribute in stated:
        if attribute.s == b"none":
            node.attribute.remove(attribute)
    return all(attribute.s in (b"none", b"add", b"mul") for attribute in stated)


def _split(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Drop `num_outputs` (new in 18): a node without sizes has as many equal parts as outputs anyway; unequal ones are refused
    when shapes are checked.
    """
    stated = [attribute for attribute in node.attribute if attribute.name == "num_outputs"]
    if any(attribute.i != len(node.output) for attribute in stated):
        return False
    for attribute in stated:
        node.attribute.remove(attribute)
    return True


_RULES: dict[str, Callable[[NodeProto, dict[str, TensorProto]], bool]] = {
    "Reduce": _reduce,
    "Reshape": _reshape,
    "Shape": _absent("start", "end"),
    "Pad": _absent(inputs=3),
    "Split": _split,
    "Resize": _absent("antialias", "axes", "keep_aspect_ratio_policy"),
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
}


def _drop_unused(model: ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input} | {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
