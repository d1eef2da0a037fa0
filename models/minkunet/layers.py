"""Sparse convolutions with batch normalisation, named as in the published checkpoints."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from effvision.models.minkunet.maps import Convolves

__all__ = ["ConvBlock", "Residual", "SparseConv"]


class SparseConv(nn.Module):
    """A sparse convolution without a map of its own.

    `kernel` is (K, C_in, C_out) in the order of `effvision.host.sparse.kernel_offsets`, or (C_in, C_out) for size 1.
    """

    bias: nn.Parameter | None
    outputs_axis = -1  # of `weight`: see `effvision.ops.folding`

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        shape = (inputs, outputs) if size == 1 else (size**3, inputs, outputs)
        reach = (inputs * size**3) ** -0.5
        self.kernel = nn.Parameter(torch.empty(shape).uniform_(-reach, reach))
        self.register_parameter("bias", None)

    @property
    def weight(self) -> nn.Parameter:
        """`kernel`, as other layers call it."""
        return self.kernel

    def forward(
        self, x: Tensor, kernel_map: Convolves | None, residual: Tensor | None = None, *, relu: bool = False
    ) -> Tensor:
        """Rows (V_in, C_in) -> (V_out, C_out): convolution, bias, residual, ReLU."""
        if self.kernel.ndim == 3:
            return cast(Convolves, kernel_map).convolve(x, self.kernel, self.bias, residual, relu)
        out = x @ self.kernel if self.bias is None else torch.addmm(self.bias, x, self.kernel)
        out = out if residual is None else out + residual
        return out.relu() if relu else out


def convolved(
    conv: nn.Module, norm: nn.Module, x: Tensor, kernel_map: Convolves | None, residual: Tensor | None = None,
    *, relu: bool = True,
) -> Tensor:  # fmt: skip
    """Convolve, normalise, add, ReLU; one pass where the norm was folded into the convolution."""
    if isinstance(norm, nn.Identity):
        return cast(Tensor, conv(x, kernel_map, residual, relu=relu))
    out = norm(conv(x, kernel_map))
    out = out if residual is None else out + residual
    return cast(Tensor, out.relu() if relu else out)


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, ReLU; with `turned` the transposed convolution of the same map."""

    def __init__(self, inputs: int, outputs: int, size: int, *, turned: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(SparseConv(inputs, outputs, size), nn.BatchNorm1d(outputs), nn.ReLU())
        self.turned = turned

    def forward(self, x: Tensor, kernel_map: Convolves) -> Tensor:
        """(V_in, C_in) -> (V_out, C_out)."""
        return convolved(self.net[0], self.net[1], x, kernel_map.turned if self.turned else kernel_map)


class Residual(nn.Module):
    """Two submanifold 3x3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            SparseConv(inputs, outputs, 3),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
            SparseConv(outputs, outputs, 3),
            nn.BatchNorm1d(outputs),
        )
        self.downsample = nn.Sequential()
        if inputs != outputs:
            self.downsample = nn.Sequential(SparseConv(inputs, outputs, 1), nn.BatchNorm1d(outputs))

    def forward(self, x: Tensor, near: Convolves) -> Tensor:
        """(V, C_in) -> (V, C_out)."""
        shortcut = x
        if len(self.downsample):
            shortcut = convolved(self.downsample[0], self.downsample[1], x, None, relu=False)
        out = convolved(self.net[0], self.net[1], x, near)
        return convolved(self.net[3], self.net[4], out, near, shortcut)
