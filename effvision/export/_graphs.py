"""What several converters need of an ONNX graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx.defs
import onnx.shape_inference
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from effvision.errors import ExportError

__all__ = ["copy_of", "drop_defaults", "float_tensors", "join_slices", "name_shortly", "showing", "sort_nodes", "tidy"]


_SPELLED = ("GridSample", "Resize")  # importers disagree about their modes: said in full


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


def drop_defaults(model: ModelProto) -> None:
    """Leave out attributes that have their default value, in place: in a small network they are a hundredth of the file."""
    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type in _SPELLED:
            continue
        known = onnx.defs.get_schema(node.op_type, version).attributes
        kept = [each for each in node.attribute if not _is_default(node.op_type, each, known)]
        del node.attribute[:]
        node.attribute.extend(kept)


def _is_default(operator: str, attribute: AttributeProto, known: Mapping[str, Any]) -> bool:
    if operator == "Conv" and attribute.name in ("dilations", "strides"):  # the format says so in words only
        return set(attribute.ints) == {1}
    if attribute.name not in known or not known[attribute.name].default_value.name:
        return False
    default = known[attribute.name].default_value
    return bool(helper.get_attribute_value(attribute) == helper.get_attribute_value(default))


def join_slices(model: ModelProto) -> None:
    """Cut along several axes at once, in place: PyTorch's exporter writes a Slice for each, and each copies what it gives."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node if node.op_type == "Slice"}
    for number, node in enumerate(graph.node):
        before = makers.get(node.input[0]) if node.op_type == "Slice" else None
        if before is None:
            continue
        first, second = _cut(before, constants), _cut(node, constants)
        if first is None or second is None or set(first) & set(second) or min([*first, *second]) < 0:
            continue
        both = {**first, **second}
        columns = [*zip(*both.values(), strict=True)]
        names = [f"slice_{number}_{what}" for what in ("starts", "ends", "axes", "steps")]
        values = [columns[0], columns[1], tuple(both), columns[2]]
        graph.initializer.extend(
            numpy_helper.from_array(np.array(value, np.int64), name) for name, value in zip(names, values, strict=True)
        )
        constants.update({tensor.name: tensor for tensor in graph.initializer[-4:]})
        del node.input[:]
        node.input.extend([before.input[0], *names])
    _drop_idle(model)


def _cut(node: NodeProto, constants: Mapping[str, TensorProto]) -> dict[int, tuple[int, int, int]] | None:
    """Return what a Slice takes, axis by axis: start, end, step; None where that is not known now or not said."""
    given = [constants.get(name) for name in node.input[1:]]
    if len(given) < 3 or None in given:
        return None
    starts, ends, axes, *more = [numpy_helper.to_array(one).tolist() for one in given if one is not None]
    steps = more[0] if more else [1] * len(axes)
    return dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))


def _drop_idle(model: ModelProto) -> None:
    """Leave out, in place, Slices and constants that nobody takes."""
    graph = model.graph
    taken = {output.name for output in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if node.op_type != "Slice" or set(node.output) & taken:
            kept.append(NodeProto.FromString(node.SerializeToString()))
            taken.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    tensors = [TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in taken]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def name_shortly(model: ModelProto) -> None:
    """Name nodes by operator and number, and what is no parameter, input or output by a number, in place.

    The names of the trace say no more, and in a small network they are a hundredth of the file.
    """
    graph = model.graph
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return  # names inside a branch may come from outside it
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    kept |= {tensor.name for tensor in graph.initializer if "." in tensor.name}  # parameters have their module's path
    given = [tensor.name for tensor in graph.initializer] + [name for node in graph.node for name in node.output]
    short = {name: f"t{number}" for number, name in enumerate(name for name in given if name not in kept)}
    if kept & set(short.values()):
        return  # an input called like one of ours
    for tensor in graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)
    for value in graph.value_info:
        value.name = short.get(value.name, value.name)
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        for names in (node.input, node.output):
            renamed = [short.get(name, name) for name in names]
            del names[:]
            names.extend(renamed)


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
