"""The kept maps as tensors; see `effvision.host.edit_journal`."""

from __future__ import annotations

import torch
from torch import Tensor

from effvision.host import edit_journal

__all__ = ["Maps"]

_TURNED = 1 << 18  # elements: 1 MB of float32, twice


def fill(part: Tensor, pixels: Tensor) -> None:
    """Copy pixels (N, C, h, w) of any layout into a part of a channels-last map.

    PyTorch's copy from planes of channels into pixels walks through one of the two in large steps. Some rows at a time, turned
    by its blockwise transposition while they lie in the cache, it takes a third of the time on one thread; several threads
    share the plain copy and not this one.
    """
    channels, height, width = pixels.shape[1:]
    small = channels < 32 or channels * height * width < 1 << 15 or torch.get_num_threads() > 1
    if small or pixels.device.type != "cpu" or pixels.stride(1) == 1 or pixels.stride(3) != 1:
        part.copy_(pixels)
        return
    rows = max(1, _TURNED // (channels * width))
    for source, target in zip(pixels, part, strict=True):
        for top in range(0, height, rows):
            some = source[:, top : top + rows].reshape(channels, -1)
            turned = some.new_empty(some.shape[1], channels).copy_(some.t())
            target[:, top : top + rows].copy_(turned.view(-1, width, channels).permute(2, 0, 1))


class Maps(edit_journal.Maps):
    """Maps of tensors, channels-last as convolutions like them."""

    def copied(self, part: Tensor) -> Tensor:
        """A part of a map in memory of its own."""
        return part.clone(memory_format=torch.channels_last)

    def put(self, part: Tensor, pixels: Tensor) -> None:
        """Overwrite a part of a map."""
        fill(part, pixels)
