"""The kept maps as tensors; see `effvision.host.edit_journal`."""

from __future__ import annotations

import torch
from torch import Tensor

from effvision.host import edit_journal

__all__ = ["Maps"]


class Maps(edit_journal.Maps):
    """Maps of tensors, channels-last as convolutions like them."""

    def copied(self, part: Tensor) -> Tensor:
        """A part of a map in memory of its own."""
        return part.clone(memory_format=torch.channels_last)

    def put(self, part: Tensor, pixels: Tensor) -> None:
        """Overwrite a part of a map."""
        part.copy_(pixels)
