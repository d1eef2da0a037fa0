"""Part segmentation measured on clouds that no training batch comes from: what ships is what is measured (the fp16 file)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from effvision.errors import CheckpointError
from effvision.metrics import SegmentationScores, confusion_matrix
from effvision.models.pvcnn.network import PVCNN, PointNet
from effvision.models.pvcnn.recipe_parts_train import NETWORKS, part_network
from effvision.models.pvcnn.shapes import CATEGORIES, IGNORED, LABELS, make_cloud, parts_of
from effvision.models.pvcnn.unit_cloud import unit_cloud

__all__ = ["TEST_SEED", "PartReport", "load_parts", "measure_parts"]

TEST_SEED = 20_000
"""Seed of development and held-out clouds. Nothing is chosen on the held-out ones."""


@dataclass(frozen=True)
class PartReport:
    """What was answered for each true part, over all points but outliers.

    Attributes:
        free: All parts of all categories were allowed: what the model says of an unknown object.
        told: Only those of the true category were allowed.
        shapes: For each category the mean over its clouds of the mean over its parts of IoU, parts of the true category
            allowed, a part neither there nor answered counting as 1: the measure of the ShapeNet part benchmark.
        halves: `free` of the whole and of the one-sided clouds alone.
        clouds: How many.
    """

    free: SegmentationScores
    told: SegmentationScores
    shapes: dict[str, float]
    halves: dict[str, SegmentationScores]
    clouds: int

    def categories(self) -> dict[str, float]:
        """Mean of `free` IoU over the parts of each category."""
        return {name: float(np.nanmean(self.free.iou[list(parts_of(name))])) for name in CATEGORIES}

    def baselines(self) -> dict[str, float]:
        """Mean IoU of answering without looking: evenly at random, and the most frequent part of all or of the category."""
        counts = self.free.confusion.sum(axis=1).astype(np.float64)
        total, classes = counts.sum(), len(counts)
        chance = (counts / classes) / np.maximum(counts + total / classes - counts / classes, 1)
        best = np.zeros(classes)
        for name in CATEGORIES:
            own = list(parts_of(name))
            first = own[int(counts[own].argmax())]
            best[first] = counts[first] / max(counts[own].sum(), 1)
        return {
            "chance": float(chance.mean()),
            "most frequent part": float(counts.max() / total / classes),
            "most frequent part of the true category": float(best.mean()),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "clouds": self.clouds, "free": self.free.to_dict(), "told_mean_iou": self.told.mean_iou,
            "categories": self.categories(), "shapes": self.shapes,
            "halves": {name: half.mean_iou for name, half in self.halves.items()}, "baselines": self.baselines(),
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [
            f"{self.clouds} clouds, {self.free.points} points: mIoU {self.free.mean_iou:.4f} over {len(LABELS)} parts, "
            f"accuracy {self.free.accuracy:.4f}",
            f"category told: mIoU {self.told.mean_iou:.4f}, ShapeNet's measure {np.mean(list(self.shapes.values())):.4f}",
            *(f"{name}: mIoU {half.mean_iou:.4f}" for name, half in self.halves.items()),
            *(f"without looking, {name}: mIoU {value:.4f}" for name, value in self.baselines().items()),
        ]
        for name, value in self.categories().items():
            parts = ", ".join(f"{LABELS[part].split('/')[1]} {self.free.iou[part]:.3f}" for part in parts_of(name))
            lines.append(f"  {name:9} {value:.4f}  ({parts})")
        return "\n".join(lines)


def load_parts(path: Path, name: str | None = None) -> PVCNN | PointNet:
    """Load weights in eval mode, computing in fp32 with the fp16 numbers of the file.

    Args:
        path: safetensors, or a training's `checkpoint.pt` for a look at what has been averaged so far.
        name: One of `NETWORKS`. Default: whichever the file fits.

    Raises:
        CheckpointError: no such file, not safetensors, or weights of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = torch.load(path, weights_only=True)["average"] if path.suffix == ".pt" else load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the weights {path}: {error}") from error
    tensors = {key: value.half().float() for key, value in found.items() if not key.endswith("num_batches_tracked")}
    for candidate in NETWORKS if name is None else (name,):
        network = part_network(candidate)
        known = {key: tuple(value.shape) for key, value in network.state_dict().items() if key.split(".")[-1] !=
                 "num_batches_tracked"}  # fmt: skip
        if known == {key: tuple(value.shape) for key, value in tensors.items()}:
            network.load_state_dict(tensors, strict=False)
            return network.eval()
    raise CheckpointError(f"{path} holds another network than {' or '.join(NETWORKS if name is None else (name,))}")


def measure_parts(
    network: nn.Module | Callable[[torch.Tensor], torch.Tensor],
    *,
    split: str = "held-out",
    clouds: int = 1000,
    points: int = 2048,
    seed: int = TEST_SEED,
) -> PartReport:
    """Segment clouds of a split and compare.

    Args:
        network: (N, 3, P) -> (N, 32, P), in eval mode.
        split: `held-out`, or `development` for anything that is chosen.
        clouds: How many, categories in turn.
        points: P.
        seed: Of the clouds.
    """
    size = len(LABELS)
    free, told, halves = (np.zeros((*shape, size, size), np.int64) for shape in ((), (), (2,)))
    shapes: dict[str, list[float]] = {name: [] for name in CATEGORIES}
    for index in tqdm(range(clouds), desc=f"evaluate {split}", mininterval=10, leave=False):
        cloud = make_cloud(split, index, points=points, seed=seed)
        with torch.inference_mode():
            logits = network(torch.from_numpy(unit_cloud(cloud.xyz).T[None].copy()))[0].numpy()
        own = np.array(parts_of(cloud.category))
        counts = confusion_matrix(cloud.labels, logits.argmax(axis=0), size, ignore=IGNORED)
        free += counts
        halves[int(cloud.partial)] += counts
        counts = confusion_matrix(cloud.labels, own[logits[own].argmax(axis=0)], size, ignore=IGNORED)
        told += counts
        shapes[cloud.category].append(_shape_iou(counts[np.ix_(own, own)]))
    return PartReport(
        SegmentationScores(free, LABELS),
        SegmentationScores(told, LABELS),
        {name: float(np.mean(values)) if values else float("nan") for name, values in shapes.items()},
        {name: SegmentationScores(half, LABELS) for name, half in zip(("whole", "one-sided"), halves, strict=True)},
        clouds,
    )


def _shape_iou(counts: NDArray[np.int64]) -> float:
    right = np.diagonal(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - right
    return float(np.where(union > 0, right / np.maximum(union, 1), 1.0).mean())
