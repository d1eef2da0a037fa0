"""Graphs that pass every checker and still give wrong numbers on some target: found by looking, before the file is written.

Facts: TensorRT 8.2 to 8.6 never read the `reduction` of a scatter (NVIDIA/TensorRT#3750), ScatterND's is not supported up to
10.1; opset 20 renamed GridSample's modes, and importers 8.5 to 10.1 take an unknown name for `nearest`.
"""

from __future__ import annotations

from onnx import ModelProto

from effvision.errors import ExportError

__all__ = ["find_traps"]


def find_traps(model: ModelProto, *, opset: int) -> list[str]:
    """Return warnings about nodes that some target computes wrongly in silence.

    Raises:
        ExportError: a node that is wrong on every target but ONNX Runtime and has an equal form at another opset.
    """
    found: dict[tuple[str, str], list[str]] = {}  # operator and what is said of it -> nodes
    for node in model.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type in ("ScatterElements", "ScatterND"):
            reduction = attributes["reduction"].s.decode() if "reduction" in attributes else "none"
            if reduction != "none":
                to = "10.1" if node.op_type == "ScatterND" else "8.6"
                said = (
                    f"with reduction={reduction}: TensorRT 8.2 to {to} overwrites instead of combining, in silence; "
                    "do this part on the host for those targets"
                )
                found.setdefault((node.op_type, said), []).append(node.name)
        if node.op_type == "GridSample":
            mode = attributes["mode"].s.decode() if "mode" in attributes else "linear"
            if opset >= 20 and mode != "nearest":
                raise ExportError(
                    f"{_where(node.op_type, [node.name])} at opset {opset} is called mode={mode!r}, which TensorRT up to "
                    "10.1 takes for 'nearest' in silence\n"
                    "hint: export with an opset from 16 to 19"
                )
            if _rank(model, node.input[0]) == 5:
                said = "samples volumes (5-D), which TensorRT does not have"
                found.setdefault((node.op_type, said), []).append(node.name)
    return [f"{_where(operator, names)} {said}" for (operator, said), names in found.items()]


def _where(operator: str, names: list[str]) -> str:
    return f"{operator} (node `{names[0]}`{f' and {len(names) - 1} more' if len(names) > 1 else ''})"


def _rank(model: ModelProto, name: str) -> int | None:
    for value in [*model.graph.input, *model.graph.value_info]:
        if value.name == name:
            return len(value.type.tensor_type.shape.dim)
    return None
