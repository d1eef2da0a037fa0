"""Training and cross-validation of the lidar network: columns of altered tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from effvision.clouds import Cloud
from effvision.metrics import SegmentationScores
from effvision.models.pvcnn.preparation import Spec
from effvision.models.pvcnn.recipe_lidar_data import Columns
from effvision.models.pvcnn.recipe_lidar_evaluate import load_lidar, predict_scene
from effvision.models.pvcnn.recipe_lidar_network import SPEC, lidar_network
from effvision.training_lidar import CLASSES, IGNORED, Label
from effvision.training_lidar_run import LidarSettings, crossvalidate_tiles, train_network

__all__ = ["Settings", "crossvalidate", "train"]


@dataclass(frozen=True)
class Settings(LidarSettings):
    """One training.

    Attributes:
        columns: Columns of a batch.
        spec: How clouds are prepared.
    """

    columns: int = 10
    spec: Spec = field(default=SPEC)

    def fixed(self) -> dict[str, Any]:
        """What must not change when a run goes on from a checkpoint."""
        return {**super().fixed(), "columns": self.columns, "spec": self.spec.to_dict()}


def train(tiles: Mapping[str, Cloud], settings: Settings, *, title: str = "train") -> Path:
    """Train on `tiles`, going on from the checkpoint in `settings.out` if there is one.

    Returns:
        The averaged weights, fp16 safetensors.

    Raises:
        CheckpointError: the checkpoint there is of another run.
    """
    columns = Columns(tiles, settings.spec, settings.seed, settings.columns)

    def loss(network: nn.Module, step: int) -> Tensor:
        return _loss(network, columns, step, settings)

    return train_network(partial(lidar_network, settings.spec), loss, settings, tiles=tiles, title=title)


def crossvalidate(tiles: Mapping[str, Cloud], settings: Settings, *, only: str | None = None) -> SegmentationScores:
    """Leave out each tile in turn, or `only` this one, train on the others, score it; folds that are done are read again.

    Returns:
        The points of all left-out tiles together; `crossvalidation.json` in `settings.out` holds every fold.

    Raises:
        InputError: there is no such tile.
    """

    def fold(others: Mapping[str, Cloud], out: Path, title: str) -> Label:
        weights = train(others, replace(settings, out=out), title=title)
        return partial(predict_scene, load_lidar(weights, settings.spec), spec=settings.spec)

    return crossvalidate_tiles(tiles, settings, fold, only=only)


def _loss(network: nn.Module, columns: Columns, step: int, settings: Settings) -> Tensor:
    channels, classes = (torch.from_numpy(part) for part in columns.batch(step))
    return functional.cross_entropy(
        network(channels),
        classes,
        weight=torch.tensor(settings.weights[: len(CLASSES)]),
        ignore_index=IGNORED,
        label_smoothing=settings.smoothing,
    )
