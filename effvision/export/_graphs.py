"""What several converters need of an ONNX graph."""

from __future__ import annotations

from collections.abc import Collection

import onnx.shape_inference
from onnx import ModelProto, TensorProto, helper

from effvision.errors import ExportError

__all__ = ["copy_of", "float_tensors", "showing", "sort_nodes", "tidy"]


def copy_of(model: ModelProto) -> ModelProto:
    """Return a copy that may be changed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def float_tensors(model: ModelProto) -> set[str]:
    """Return the names of what is float32 and not constant; shapes, which are computed with Concat and Mul too, are not."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    constant = {tensor.name for tensor in graph.initializer}
    return {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT} - constant


def showing(model: ModelProto, names: Collection[str]) -> ModelProto:
    """Return a copy that gives these float32 tensors as outputs too, those left out that come in or go out already."""
    shown = copy_of(model)
    there = {value.name for value in (*shown.graph.input, *shown.graph.output)}
    shown.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in names if name not in there)
    return shown


def tidy(converted: ModelProto, like: ModelProto) -> None:
    """Bring what a library made of `like` into the form of our files: sorted, without remarks, of the same version."""
    sort_nodes(converted)
    for node in converted.graph.node:
        node.doc_string = ""
    del converted.graph.value_info[:]
    used = {node.domain for node in converted.graph.node}
    kept = [entry for entry in converted.opset_import if entry.domain in ("", "ai.onnx") or entry.domain in used]
    del converted.opset_import[:]
    converted.opset_import.extend(kept)
    converted.ir_version = like.ir_version
    converted.producer_name, converted.producer_version = like.producer_name, like.producer_version


def sort_nodes(model: ModelProto) -> None:
    """Order the nodes so that each comes after those it takes from, as the format demands; otherwise as they are.

    Raises:
        ExportError: a node takes what nothing gives.
    """
    known = {value.name for value in model.graph.input} | {tensor.name for tensor in model.graph.initializer} | {""}
    waiting = list(model.graph.node)
    ordered = []
    while waiting:
        ready, later = [], []
        for node in waiting:  # one counts at once for those after it: one pass is enough where they are sorted already
            if all(name in known for name in node.input):
                known.update(node.output)
                ready.append(node)
            else:
                later.append(node)
        if not ready:
            raise ExportError(f"node `{later[0].name}` of the converted graph takes what no other gives")
        ordered += ready
        waiting = later
    copies = []
    for node in ordered:
        copy = type(node)()
        copy.CopyFrom(node)
        copies.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(copies)
