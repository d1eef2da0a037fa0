"""What several converters need of an ONNX graph."""

from __future__ import annotations

from onnx import ModelProto

from effvision.errors import ExportError

__all__ = ["sort_nodes"]


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
