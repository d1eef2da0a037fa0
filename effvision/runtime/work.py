"""Multiply-adds of one step, counted from the graph: what a time can be compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effvision.errors import ModelFileError

__all__ = ["onnx_multiply_adds", "torch_multiply_adds"]


def onnx_multiply_adds(path: Path, *, batch: int = 1) -> int:
    """Count the multiply-adds of convolutions and matrix products in an ONNX file, one call at `batch`.

    Raises:
        ModelFileError: a weighted node's shapes cannot be found out.
        ImportError: the package onnx is not installed.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    for value in model.graph.input:
        for place, axis in enumerate(value.type.tensor_type.shape.dim):
            if axis.dim_param and place:
                raise ModelFileError(f"the work depends on `{axis.dim_param}`, an open axis of `{value.name}`")
            if axis.dim_param:
                axis.dim_value = batch  # dim_param and dim_value exclude each other: this replaces the name
    for value in model.graph.output:
        value.type.tensor_type.shape.ClearField("dim")
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        shapes.setdefault(value.name, tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim))
    return sum(_node_work(node, shapes, batch) for node in graph.node)


def _node_work(node: Any, shapes: Mapping[str, tuple[int, ...]], batch: int) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    first, second, out = (shapes.get(name, ()) for name in (node.input[0], node.input[1], node.output[0]))
    if (
        node.op_type == "Gemm" and len(second) == 2
    ):  # the shape before a classifier is often not inferred; its rows are streams
        return (out[0] if out and out[0] else batch) * math.prod(second)
    if not (first and second and out) or 0 in (*first, *second, *out):
        raise ModelFileError(f"the shapes around the {node.op_type} node {node.name!r} are not known")
    if node.op_type == "Conv":  # weights (out, in / groups, kernel...)
        return math.prod(out) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":  # weights (in, out / groups, kernel...)
        return math.prod(first) * math.prod(second[1:])
    return math.prod(out) * first[-1]


def torch_multiply_adds(module: Any, tensors: tuple[Any, ...]) -> int:
    """Count the multiply-adds of convolutions and linear layers in one call of a PyTorch module."""
    import torch
    from torch import nn

    total = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            total += inputs[0].numel() * math.prod(weight.shape[1:])
        else:
            total += output.numel() * math.prod(weight.shape[1:])

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
    hooks = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, kinds)]
    try:
        with torch.inference_mode():
            module(*tensors)
    finally:
        for hook in hooks:
            hook.remove()
    return total
