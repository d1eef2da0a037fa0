"""What a kit's runner asks of a family: labels of a cloud, and the first call of the network to compare. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from effvision.models.minkunet.inputs import Input
from effvision.models.minkunet.labelling import cells_of, columns, fed, label

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
        seed: Nothing is random here.

    Returns:
        Labels (P,) int32 and scores (P,) float32.
    """
    return label(arrays, lambda coords, feats: step(fed(coords, feats, described["options"])), cells=cells_of(inputs))


def first_call(described: Mapping[str, Any], inputs: Input, arrays: Feed) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the features (C, n) of what goes through the network first, and what it is fed for it."""
    _, seen = next(columns(arrays["coords"], cells=cells_of(inputs)))
    feats = arrays["feats"][seen]
    return np.ascontiguousarray(feats.T), fed(arrays["coords"][seen], feats, described["options"])
