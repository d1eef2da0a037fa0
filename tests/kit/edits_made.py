"""A small generator whose pixels see a few others, a predictor over it, and label maps for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from effvision import SIGE

NAMES = ("sky", "water", "sand", "tree")
COLOURS = [[120, 180, 230], [20, 90, 160], [240, 220, 150], [30, 100, 40]]
SIZE = (40, 56)
Labels = NDArray[np.uint8]


class Painter(nn.Module):
    """Three convolutions: a pixel sees three others each way."""

    def __init__(self, channels: int = 4, *, instance: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm: nn.Module = nn.InstanceNorm2d(8) if instance else nn.BatchNorm2d(8)
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 3, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, labels: Tensor) -> Tensor:
        """(N, K, H, W) -> (N, 3, H, W)."""
        found: Tensor = self.body(labels)
        return found


def painter(**options: Any) -> SIGE:
    """A predictor over a network of its own."""
    return SIGE.from_network(Painter(**options), labels=NAMES, size=SIZE, colors=COLOURS)


def some_labels() -> Labels:
    """Sky, water below it, and a beach."""
    made = np.zeros(SIZE, np.uint8)
    made[20:] = 1
    made[30:, 10:30] = 2
    return made


def painted(labels: Labels, top: int, left: int, label: int, size: int = 4) -> Labels:
    """A square of another class."""
    found = labels.copy()
    found[top : top + size, left : left + size] = label
    return found


def whole(model: SIGE, labels: Labels) -> Labels:
    """The oracle: the network itself on all of a label map, and its values as pixels."""
    one_hot = np.stack([labels == label for label in range(len(NAMES))]).astype(np.float32)
    with torch.no_grad():
        made = model.runtime.modules["step"](torch.from_numpy(one_hot)[None])[0]  # type: ignore[attr-defined]
    return np.asarray(((made + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy())
