"""A PVCNN for inference: batch normalisation folded, and its 3-D convolutions as the products they are run as."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from effvision.models.pvcnn.layers import VolumeConv
from effvision.ops import folding

__all__ = ["fuse"]

N = TypeVar("N", bound=nn.Module)


def fuse(network: N) -> N:
    """Return a copy for inference; see `effvision.ops.folding.fuse`."""
    fused = folding.fuse(network)
    for layer in fused.modules():
        if isinstance(layer, VolumeConv):
            layer.keep_taps()
    return fused
