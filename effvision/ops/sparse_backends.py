"""Who carries out a sparse convolution: torch alone, a Triton kernel, or spconv; the same weights and the same maps for all.

    with sparse_backend("spconv"):
        logits = network(coords, feats)

Unasked it is torch on a CPU, and Triton on a GPU where it is installed and works.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from effvision._optional import require
from effvision.errors import DTypeError, InputError, ShapeError
from effvision.host.sparse import Kernel, triple

if TYPE_CHECKING:
    from effvision.ops.sparse_conv import KernelMap

__all__ = ["BACKENDS", "Carrier", "carrier_for", "from_spconv_weight", "sparse_backend", "to_spconv_weight"]

BACKENDS = ("auto", "torch", "triton", "spconv")

_log = logging.getLogger(__name__)
_SPCONV_DTYPES = (torch.float16, torch.float32)
_asked: ContextVar[str] = ContextVar("sparse_backend", default="auto")


class Carrier(Protocol):
    """Carries out `effvision.ops.sparse_conv.convolve` on arguments that were checked, without a gradient."""

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        kernel_map: KernelMap,
        bias: Tensor | None,
        residual: Tensor | None,
        *,
        relu: bool,
    ) -> Tensor:
        """(V_in, C_in) -> (V_out, C_out)."""


@contextmanager
def sparse_backend(name: str) -> Iterator[None]:
    """Choose who carries out the convolutions inside the `with`, of this thread (and their gradients).

    Args:
        name: `auto`: as unasked. `torch`: plain torch everywhere. `triton`: the kernel of `sparse_triton`, on a GPU, in
            float16, bfloat16 or float32. `spconv`: its products over pairs of rows (`ConvAlgo.Native`), in float16 or float32;
            run by this project with spconv 2.3.8 on a CPU, not on a GPU. A gradient of weights is torch's in any case.

    Raises:
        InputError: another name.
        MissingDependencyError: what was asked for is not installed.
    """
    if name not in BACKENDS:
        raise InputError(f"the back end must be one of {', '.join(BACKENDS)}; got {name!r:.60}")
    if name == "triton":
        require("triton")
    elif name == "spconv":
        require("spconv.pytorch.ops", package="spconv")
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


def carrier_for(x: Tensor) -> Carrier | None:
    """Return what convolves features like `x` here; None: plain torch.

    Raises:
        DTypeError: the back end that was asked for does not know the dtype.
        InputError: it does not work on the device.
    """
    asked = _asked.get()
    if asked == "torch" or (asked == "auto" and x.device.type != "cuda"):
        return None
    if asked == "spconv":
        if x.dtype not in _SPCONV_DTYPES:
            raise DTypeError(f"spconv takes float16 and float32; got {x.dtype}\nhint: sparse_backend('torch')")
        return _by_spconv
    kernel = _triton_module()
    if kernel is not None and x.dtype in kernel.DTYPES and kernel.works(x.device, x.dtype):
        return cast(Carrier, kernel.by_triton)
    if asked == "auto":
        return None
    if kernel is not None and x.dtype not in kernel.DTYPES:
        raise DTypeError(f"the Triton kernel takes float16, bfloat16 and float32; got {x.dtype}\nhint: `x.float()`")
    raise InputError(
        f"the Triton kernel does not work on {x.device} in {x.dtype}; the log says why\n"
        "hint: it needs a GPU and a C compiler; sparse_backend('auto') falls back to torch"
    )


@functools.cache
def _triton_module() -> Any:
    """`sparse_triton`, or None where there is no Triton."""
    try:
        return importlib.import_module("effvision.ops.sparse_triton")
    except (ImportError, OSError) as error:
        _log.info("sparse convolutions on GPUs go without Triton: %s", error)
        return None


# -- spconv ----------------------------------------------------------------------------------------------------------------


def to_spconv_weight(weight: Tensor, kernel: Kernel) -> Tensor:
    """Turn a weight of ours into one of spconv 2's layers, SubMConv3d, SparseConv3d and SparseInverseConv3d.

    Their coordinates are batch, x, y, z here; who puts z first has the three axes in that order. A stride of 1 or an odd kernel
    takes `padding=size // 2`, so that taps lie where ours do; 2x2x2 with stride 2 takes none.

    Args:
        weight: (K, C_in, C_out) in the order of `effvision.host.sparse.kernel_offsets`; or (C_in, C_out) for size 1.
        kernel: Its size, or three along x, y, z.

    Returns:
        (C_out, X, Y, Z, C_in), contiguous.

    Raises:
        ShapeError: another shape.
        InputError: sizes that are none.
    """
    x, y, z = triple(kernel, "kernel")
    weight = weight[None] if weight.ndim == 2 else weight
    if weight.ndim != 3 or len(weight) != x * y * z:
        raise ShapeError(
            f"`weight` must be ({x * y * z}, C_in, C_out) for a kernel of {(x, y, z)}; got {tuple(weight.shape)}"
        )
    if len(weight) % 2:
        return weight.reshape(z, y, x, *weight.shape[1:]).permute(4, 2, 1, 0, 3).contiguous()
    return weight.reshape(x, y, z, *weight.shape[1:]).permute(4, 0, 1, 2, 3).contiguous()


def from_spconv_weight(weight: Tensor) -> Tensor:
    """Turn a weight of spconv 2, (C_out, X, Y, Z, C_in), into one of ours, (K, C_in, C_out).

    Raises:
        ShapeError: another shape.
    """
    if weight.ndim != 5:
        raise ShapeError(f"a weight of spconv must be (C_out, X, Y, Z, C_in); got {tuple(weight.shape)}")
    odd = math.prod(weight.shape[1:4]) % 2
    return weight.permute(3, 2, 1, 4, 0).flatten(0, 2) if odd else weight.permute(1, 2, 3, 4, 0).flatten(0, 2)


def _by_spconv(
    x: Tensor, weight: Tensor, kernel_map: KernelMap, bias: Tensor | None, residual: Tensor | None, *, relu: bool
) -> Tensor:
    """A `Carrier`: spconv's gather, product and scatter over the pairs of our map."""
    ops = require("spconv.pytorch.ops", package="spconv")
    if x.dtype == torch.float16 and x.device.type == "cpu":
        wide = [None if one is None else one.float() for one in (bias, residual)]
        return _by_spconv(x.float(), weight.float(), kernel_map, *wide, relu=relu).to(x.dtype)
    if kernel_map.count:
        pairs, counts = kernel_map.padded
        # (C_out, K, C_in) with two axes more: spconv takes whatever shape a kernel has, in the order of the pairs
        taps = weight.permute(2, 0, 1)[:, :, None, None].contiguous()
        out = cast(Tensor, ops.indice_conv(x.contiguous(), taps, pairs, counts, kernel_map.outputs))
    else:
        out = x.new_zeros(kernel_map.outputs, weight.shape[2])
    for more in (bias, residual):
        if more is not None:
            out += more
    return out.relu_() if relu else out
