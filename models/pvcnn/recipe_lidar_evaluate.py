"""What the lidar network says of whole tiles, through the same columns and votes as when it is shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from effvision.clouds import Cloud
from effvision.host.blocks import Blocks, Votes
from effvision.models.pvcnn.network import PVCNN
from effvision.models.pvcnn.preparation import Spec, prepare
from effvision.models.pvcnn.recipe_lidar_network import lidar_network
from effvision.training import load_weights
from effvision.training_lidar import CLASSES

__all__ = ["load_lidar", "predict_scene"]

MERGE_BELOW = 48
"""Points below which a column is given to a neighbour."""


def load_lidar(path: Path, spec: Spec) -> PVCNN:
    """Load weights in eval mode, computing in fp32 with the fp16 numbers of the file.

    Raises:
        CheckpointError: no such file, not safetensors, or weights of another network.
    """
    return load_weights(path, lidar_network(spec))


def predict_scene(network: nn.Module, cloud: Cloud, spec: Spec) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the class (P,) and its score (P,) of every point."""
    scene = prepare(cloud, spec)
    blocks = Blocks(cloud.xyz, block_m=spec.block_m, points=spec.points, merge_below=MERGE_BELOW, repeat=False)
    votes = Votes(len(cloud), len(CLASSES), rule="mean")
    with torch.inference_mode():
        for chunk in blocks:
            logits = network(torch.from_numpy(scene.channels(chunk.index))[None])[0]  # (K, n)
            votes.add(chunk.index, logits.softmax(0).T.numpy())
    return votes.result()
