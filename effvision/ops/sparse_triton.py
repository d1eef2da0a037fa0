"""A sparse convolution as one kernel for GPUs: gather, product, sum, bias, residual and ReLU. Written in Triton, which comes
with torch's CUDA builds; its launcher needs a C compiler, but no nvcc.

Each program makes a block of output rows and writes it once, so nothing is scattered and no two programs meet. Of every offset
it gathers the input rows that its outputs see, by a table of neighbours, and skips an offset that none of them has: the
implicit GEMM of spconv 2 and of Tang et al., "TorchSparse++", MICRO 2023, without their sorting of rows. Sums are float32.

This project has run the kernel in Triton's interpreter and compiled it for compute capabilities 8.0 and 9.0. It has not run it
on a GPU, and nothing is known of its speed.
"""

from __future__ import annotations

import functools
import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from effvision.ops.sparse_conv import KernelMap

__all__ = ["DTYPES", "ROWS", "block_sizes", "by_triton", "works"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

ROWS = 64
"""Output rows of a program."""

_log = logging.getLogger(__name__)


def _block(
    x: tl.tensor, weight: tl.tensor, table: tl.tensor, bias: tl.tensor, residual: tl.tensor, out: tl.tensor,
    outputs: tl.tensor, channels_in: tl.tensor, channels_out: tl.tensor, volume: tl.tensor,
    RELU: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:  # fmt: skip
    """Make ROWS x COLUMNS of the output; pointers to contiguous arrays, shapes as in `by_triton`.

    INNER is how many input channels one product takes; WIDE widens factors to float32 before it.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for _ in range(volume):
        source = tl.load(table + rows, mask=rows < outputs, other=-1)
        if tl.max(source, axis=0) >= 0:
            first = source.to(tl.int64) * channels_in  # rows times channels may pass 2^31
            for start in range(0, channels_in, INNER):
                channels = start + tl.arange(0, INNER)
                there = channels < channels_in
                left = tl.load(x + first[:, None] + channels, mask=(source >= 0)[:, None] & there, other=0.0)
                taps = weight + channels[:, None] * channels_out + columns
                right = tl.load(taps, mask=there[:, None] & (columns < channels_out), other=0.0)
                if WIDE:
                    left, right = left.to(tl.float32), right.to(tl.float32)
                sums = tl.dot(left, right, sums, input_precision=PRECISION)
        table += outputs
        weight += channels_in * channels_out
    inside = (rows < outputs)[:, None] & (columns < channels_out)
    places = rows.to(tl.int64)[:, None] * channels_out + columns
    if bias is not None:
        sums += tl.load(bias + columns, mask=columns < channels_out, other=0.0).to(tl.float32)
    if residual is not None:
        sums += tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        sums = tl.where(sums < 0, 0.0, sums)  # not `maximum`, which would make zeros of NaN
    tl.store(out + places, sums.to(out.dtype.element_ty), mask=inside)


_kernel = triton.jit(_block)


def by_triton(
    x: Tensor, weight: Tensor, kernel_map: KernelMap, bias: Tensor | None, residual: Tensor | None, *, relu: bool
) -> Tensor:
    """Convolve as `effvision.ops.sparse_conv.convolve`, of whose arguments this expects that they were checked.

    float32 is multiplied in full precision, or in TF32 where `torch.set_float32_matmul_precision` allows it.

    Args:
        x: (V_in, C_in) of one of `DTYPES`, on a GPU; on a CPU in Triton's interpreter.
        weight: (K, C_in, C_out).
        kernel_map: Of V_in inputs, V_out outputs and K offsets.
        bias: (C_out,), or None.
        residual: (V_out, C_out), or None.
        relu: Cut the result at zero.

    Returns:
        (V_out, C_out).
    """
    volume, channels_in, channels_out = weight.shape
    out = x.new_empty(kernel_map.outputs, channels_out)
    if not out.numel():
        return out
    sizes = block_sizes(channels_in, channels_out, x.dtype)
    grid = (triton.cdiv(kernel_map.outputs, sizes["ROWS"]), triton.cdiv(channels_out, sizes["COLUMNS"]))
    dense = [None if one is None else one.contiguous() for one in (x, weight, kernel_map.table, bias, residual)]
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    # the interpreter multiplies bfloat16 by its bits, as if they were whole numbers
    wide = x.device.type == "cpu" and x.dtype == torch.bfloat16
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        _kernel[grid](
            *dense, out, kernel_map.outputs, channels_in, channels_out, volume,
            **sizes, RELU=relu, PRECISION=precision, WIDE=wide,
            enable_fp_fusion=True,  # Triton 3.9 warns where it is left open
        )  # fmt: skip
    return out


def block_sizes(channels_in: int, channels_out: int, dtype: torch.dtype) -> dict[str, int]:
    """What a program makes, and how many input channels it takes at a time: powers of two, 16 at least for tensor cores.

    The greatest for which the compiler of compute capability 8.0 keeps all sums in registers.
    """
    inner, columns = (max(triton.next_power_of_2(channels), 16) for channels in (channels_in, channels_out))
    return {"ROWS": ROWS, "INNER": min(inner, 16 if dtype == torch.float32 else 64), "COLUMNS": min(columns, 64)}


@functools.cache
def works(device: torch.device, dtype: torch.dtype) -> bool:
    """Try the kernel once: False, with a warning in the log, where it fails or gives other numbers than torch.

    It may fail for want of a C compiler, or on a GPU that Triton or the dtype is too new for.
    """
    from effvision.ops.sparse_conv import KernelMap

    x, weight = torch.ones(1, 16, dtype=dtype, device=device), torch.ones(1, 16, 16, dtype=dtype, device=device)
    none = torch.zeros(0, dtype=torch.int64, device=device)
    try:
        right = bool((by_triton(x, weight, KernelMap(none, none, (0, 0), 1, 1, 0), None, None, relu=False) == 16).all())
    except Exception as error:
        _log.warning("sparse convolutions of %s on %s go without Triton, which failed: %s", dtype, device, error)
        return False
    if not right:
        _log.warning("sparse convolutions of %s on %s go without Triton, which gave wrong numbers", dtype, device)
    return right
