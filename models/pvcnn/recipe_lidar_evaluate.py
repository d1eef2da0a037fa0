"""What the lidar network says of whole tiles, through the same columns and votes as when it is shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from effvision.clouds import Cloud
from effvision.errors import CheckpointError
from effvision.host.blocks import Blocks, Votes
from effvision.metrics import SegmentationScores, confusion_matrix
from effvision.models.pvcnn.network import PVCNN
from effvision.models.pvcnn.preparation import Spec, prepare
from effvision.models.pvcnn.recipe_lidar_data import CLASSES, IGNORED, targets
from effvision.models.pvcnn.recipe_lidar_network import lidar_network

__all__ = ["load_lidar", "predict_scene", "score_scene"]

MERGE_BELOW = 48
"""Points below which a column is given to a neighbour."""


def load_lidar(path: Path, spec: Spec) -> PVCNN:
    """Load weights in eval mode, computing in fp32 with the fp16 numbers of the file.

    Raises:
        CheckpointError: no such file, not safetensors, or weights of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = lidar_network(spec)
    try:
        tensors = {name: value.float() for name, value in load_file(path).items()}
        missing = network.load_state_dict(tensors, strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"cannot read the weights {path}: {error}") from error
    lacking = [name for name in missing.missing_keys if not name.endswith("num_batches_tracked")]
    if lacking or missing.unexpected_keys:
        raise CheckpointError(
            f"{path} holds another network: {lacking[:3]} missing, {missing.unexpected_keys[:3]} unknown"
        )
    return network.eval()


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


def score_scene(network: nn.Module, cloud: Cloud, spec: Spec) -> SegmentationScores:
    """Compare with the labels of the tile; points of label 0 are left out."""
    labels, _ = predict_scene(network, cloud, spec)
    return SegmentationScores(confusion_matrix(targets(cloud), labels, len(CLASSES), ignore=IGNORED), CLASSES)
