"""Batch normalisation folded into the layer before it: the same function in eval mode, with fewer passes over memory."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from effvision.errors import InputError

__all__ = ["fuse"]

N = TypeVar("N", bound=nn.Module)


def fuse(network: N) -> N:
    """Return a copy of a network for inference, its batch normalisations folded into convolutions and linear layers.

    Folded is a BatchNorm1d or BatchNorm3d that follows a layer in a Sequential; an Identity takes its place. A layer's outputs
    are the first axis of its `weight`, or the one it names in `outputs_axis`. The copy takes no gradients and its `state_dict`
    is another one, which loads no checkpoint; the network given stays as it is.

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
                if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm3d)):
                    _fold(block[index], norm)
                    block[index + 1] = nn.Identity()
    return fused.requires_grad_(False)


@torch.no_grad()
def _fold(layer: nn.Module, norm: nn.BatchNorm1d | nn.BatchNorm3d) -> None:
    """Fold y = g (w x + b - m) / s + a into one weight and bias; in float64, so that folding itself rounds once."""
    mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    scale = norm.weight.double() / (variance + norm.eps).sqrt()
    weight, bias = cast(nn.Parameter, layer.weight), cast("nn.Parameter | None", layer.bias)
    shape = [1] * weight.ndim
    shape[getattr(layer, "outputs_axis", 0)] = -1
    weight.copy_(weight.double() * scale.view(shape))
    shift = -mean if bias is None else bias.double() - mean
    layer.bias = nn.Parameter((shift * scale + norm.bias.double()).to(weight.dtype))
