"""Sums of products by tables: sparse convolution in the form that can be exported, as operators that a trace takes as one.

The tables are those of `effvision.host.sparse_graph`. An operator for each convolution keeps the trace of a network of fifty
small: traced down to gathers and products it takes three times as long. `onnx_forms` says what is written in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["onnx_forms", "picked_products", "row_sums", "summed_products"]


def _products(x: Tensor, weight: Tensor, source: Tensor, offset: Tensor) -> Tensor:
    """Rows (V, C) and weights (K, C, O) by chunks (n, B) -> (n * B, O); those of the last chunk are zero."""
    taps = torch.cat([weight, weight.new_zeros(1, *weight.shape[1:])])
    found = torch.matmul(F.embedding(source, x), taps.index_select(0, offset))
    return found.reshape(-1, weight.shape[2])


def _summed(summands: Tensor, tables: list[Tensor], crowd: Tensor | None, rows: Tensor) -> Tensor:
    nothing = summands.new_zeros(1, summands.shape[1])
    stack = torch.cat([nothing, *(F.embedding(table, summands).sum(1) for table in tables)])
    if crowd is not None:
        stack = torch.cat([stack, F.embedding(crowd, stack).sum(1)])
    return F.embedding(rows, stack)


@torch.library.custom_op("effvision::summed_products", mutates_args=())
def summed_products(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    source: Tensor,
    offset: Tensor,
    tables: list[Tensor],
    rows: Tensor,
    centre: int,
) -> Tensor:
    """Convolve: for each output row the sum of its products.

    Args:
        x: (V, C) float.
        weight: (K, C, O).
        bias: (O,), or None.
        source: (n, B) int64, rows of `x`.
        offset: (n,) int64 in 0..K, K for the last: weights of zero.
        tables: (n_w, w) int64 each, numbers of products.
        rows: (V_out,) int64, places in a stack of a row of zeros and the sums of the tables.
        centre: The offset under which every row meets itself, which is in no chunk; -1: none.

    Returns:
        (V_out, O).
    """
    out = _summed(_products(x, weight, source, offset), tables, None, rows)
    if centre >= 0:
        out += x @ weight[centre]
    return out if bias is None else out + bias


@summed_products.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    source: Tensor,
    offset: Tensor,
    tables: list[Tensor],
    rows: Tensor,
    centre: int,
) -> Tensor:
    return x.new_empty(rows.shape[0], weight.shape[2])


@torch.library.custom_op("effvision::picked_products", mutates_args=())
def picked_products(x: Tensor, weight: Tensor, source: Tensor, offset: Tensor, rows: Tensor) -> Tensor:
    """Convolve where each output row is one product: arguments as above, but `rows` (V_out,) are numbers of products."""
    return F.embedding(rows, _products(x, weight, source, offset))


@picked_products.register_fake
def _(x: Tensor, weight: Tensor, source: Tensor, offset: Tensor, rows: Tensor) -> Tensor:
    return x.new_empty(rows.shape[0], weight.shape[2])


@torch.library.custom_op("effvision::row_sums", mutates_args=())
def row_sums(x: Tensor, tables: list[Tensor], crowd: Tensor, rows: Tensor) -> Tensor:
    """Sum rows.

    Args:
        x: (N, C) float.
        tables: (n_w, w) int64 each, rows of `x`; N stands for one that is zero.
        crowd: (m, J) int64, places in the stack, to be summed again and put after it.
        rows: (R,) int64, places in that.

    Returns:
        (R, C).
    """
    return _summed(torch.cat([x, x.new_zeros(1, x.shape[1])]), tables, crowd, rows)


@row_sums.register_fake
def _(x: Tensor, tables: list[Tensor], crowd: Tensor, rows: Tensor) -> Tensor:
    return x.new_empty(rows.shape[0], x.shape[1])


def onnx_forms() -> Mapping[Any, Callable[..., Any]]:
    """Return how each operator is written in ONNX: what `torch.onnx.export` takes as `custom_translation_table`."""
    from onnxscript import opset18

    op: Any = opset18

    def zeros(shape: list[int]) -> Any:
        return op.Constant(value=_zeros(shape))

    def padded(weight: Any) -> Any:
        return op.Pad(weight, op.Constant(value_ints=[0, 0, 0, 1, 0, 0]))  # zeros as a constant would be in the file

    def products(x: Any, weight: Any, taps: Any, source: Any, offset: Any) -> Any:
        found = op.MatMul(op.Gather(x, source, axis=0), op.Gather(taps, offset, axis=0))
        return op.Reshape(found, op.Constant(value_ints=[-1, int(weight.shape[2])]))

    def stacked(first: Any, summands: Any, tables: Any) -> Any:
        axes = op.Constant(value_ints=[1])
        sums = [op.ReduceSum(op.Gather(summands, table, axis=0), axes, keepdims=0) for table in tables]
        return op.Concat(first, *sums, axis=0)

    def summed(x: Any, weight: Any, bias: Any, source: Any, offset: Any, tables: Any, rows: Any, centre: int) -> Any:
        taps = padded(weight)
        stack = stacked(zeros([1, weight.shape[2]]), products(x, weight, taps, source, offset), tables)
        found = op.Gather(stack, rows, axis=0)
        if centre < 0:
            return found if bias is None else op.Add(found, bias)
        # of the padded weights: of the weights themselves it would be a constant of its own in the file
        tap = op.Gather(taps, op.Constant(value_int=centre), axis=0)
        return op.Add(op.MatMul(x, tap) if bias is None else op.Gemm(x, tap, bias), found)

    def picked(x: Any, weight: Any, source: Any, offset: Any, rows: Any) -> Any:
        return op.Gather(products(x, weight, padded(weight), source, offset), rows, axis=0)

    def sums(x: Any, tables: Any, crowd: Any, rows: Any) -> Any:
        nothing = zeros([1, x.shape[1]])
        stack = stacked(nothing, op.Concat(x, nothing, axis=0), tables)
        return op.Gather(stacked(stack, stack, [crowd]), rows, axis=0)

    ops = torch.ops.effvision
    return {
        ops.summed_products.default: summed,
        ops.picked_products.default: picked,
        ops.row_sums.default: sums,
    }


def _zeros(shape: list[int]) -> Any:
    import onnx

    return onnx.numpy_helper.from_array(torch.zeros([int(size) for size in shape]).numpy())
