"""Batch normalisation folded into the layer before it: the same function in eval mode, with fewer passes over memory."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from effvision.errors import InputError
from effvision.models.minkunet.layers import SparseConv

__all__ = ["fuse"]

N = TypeVar("N", bound=nn.Module)


def fuse(network: N) -> N:
    """Return a copy of a network for inference, its batch normalisations folded into convolutions and linear layers.

    The copy's `state_dict` is another one and loads no checkpoint; the network given stays as it is.

    Args:
        network: In eval mode.

    Returns:
        A copy whose outputs equal the original's to rounding.

    Raises:
        InputError: the network is in training mode, where the statistics of each batch are used.
    """
    if network.training:
        raise InputError("a network in training mode cannot be fused\nhint: `fuse(network.eval())`")
    fused = copy.deepcopy(network)
    for block in fused.modules():
        if isinstance(block, nn.Sequential):
            for index in range(len(block) - 1):
                norm = block[index + 1]
                if isinstance(norm, nn.BatchNorm1d):
                    _fold(block[index], norm)
                    block[index + 1] = nn.Identity()
    return fused.requires_grad_(False)


@torch.no_grad()
def _fold(layer: nn.Module, norm: nn.BatchNorm1d) -> None:
    """Fold y = g (w x + b - m) / s + a into one weight and bias; in float64, so that folding itself rounds once."""
    mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    scale = norm.weight.double() / (variance + norm.eps).sqrt()
    sparse = isinstance(layer, SparseConv)
    weight = cast(nn.Parameter, layer.kernel if sparse else layer.weight)
    weight.copy_(weight.double() * (scale if sparse else scale[:, None]))  # outputs stand last, or first
    bias = cast("nn.Parameter | None", layer.bias)
    shift = -mean if bias is None else bias.double() - mean
    layer.bias = nn.Parameter((shift * scale + norm.bias.double()).to(weight.dtype))
