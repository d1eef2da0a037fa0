"""What a kit's runner asks of a family: labels of a cloud, and the first call of the network to compare. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from effvision.models.pvcnn.inputs import Input
from effvision.models.pvcnn.labelling import fed, label

__all__ = ["answer", "first_call"]

Feed = Mapping[str, np.ndarray]


def answer(
    described: Mapping[str, Any], inputs: Input, arrays: Feed, step: Callable[[Feed], np.ndarray], *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Label a cloud.

    Args:
        described: The model's description, as plain data.
        inputs: What the network takes.
        arrays: Of the cloud, as `inputs` makes them.
        step: The network: its inputs by name -> logits.
        seed: Of the order in which points meet each other.

    Returns:
        Labels (P,) int32 and scores (P,) float32.
    """
    tensors = described["graphs"]["step"]["inputs"]
    names = [tensor["name"] for tensor in tensors]
    return label(
        arrays,
        inputs,
        lambda points: step(fed(points, names, described["options"])),
        classes=len(described["labels"]),
        seed=seed,
        axis=tensors[0]["shape"][0],
    )


def first_call(described: Mapping[str, Any], inputs: Input, arrays: Feed) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the channels (C, n) of the first chunk of a cloud, and what the network is fed for it."""
    chunk = next(iter(inputs.chunks(arrays["xyz"], seed=0)))
    channels = inputs.cut(arrays, chunk)
    tensors = described["graphs"]["step"]["inputs"]
    clouds = tensors[0]["shape"][0]
    points = np.repeat(channels[None], clouds if isinstance(clouds, int) else 1, axis=0)
    return channels, fed(points, [tensor["name"] for tensor in tensors], described["options"])
