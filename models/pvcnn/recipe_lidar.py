"""Training of the lidar network, and the cross-validation that everything about it was chosen by."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from effvision._files import write_text
from effvision.clouds import Cloud
from effvision.errors import CheckpointError, InputError
from effvision.metrics import SegmentationScores
from effvision.models.pvcnn.network import PVCNN
from effvision.models.pvcnn.preparation import Spec
from effvision.models.pvcnn.recipe_lidar_data import CLASSES, IGNORED, Columns, thinned
from effvision.models.pvcnn.recipe_lidar_evaluate import load_lidar, score_scene
from effvision.models.pvcnn.recipe_lidar_network import SPEC, lidar_network
from effvision.training import advance, decay_groups, follow, keep, kept, save_weights

__all__ = ["Settings", "crossvalidate", "train"]

THIN = 1.0
"""Points a square metre at which left-out tiles are scored a second time."""


@dataclass(frozen=True)
class Settings:
    """One training.

    Attributes:
        out: Folder of the checkpoint and the weights.
        steps: Optimiser steps.
        seed: Everything random.
        rate: Highest learning rate; it rises over the first tenth and falls to zero as a cosine.
        decay: Weight decay of the matrices.
        smoothing: Label smoothing.
        average: Decay of the moving average of the weights, which is what is written.
        columns: Columns of a batch.
        weights: How much an error counts in each class.
        every: Steps between checkpoints.
        spec: How clouds are prepared.
    """

    out: Path
    steps: int = 2400
    seed: int = 0
    rate: float = 6e-3
    decay: float = 0.01
    smoothing: float = 0.02
    average: float = 0.99
    columns: int = 10
    weights: tuple[float, ...] = (1.0, 4.0, 1.0, 1.2)
    every: int = 50
    spec: Spec = field(default=SPEC)

    def fixed(self) -> dict[str, Any]:
        """What must not change when a run goes on from a checkpoint."""
        names = ("steps", "seed", "rate", "decay", "smoothing", "average", "columns")
        plain = {name: getattr(self, name) for name in names}
        return {**plain, "weights": list(self.weights), "spec": self.spec.to_dict()}


def learning_rate(step: int, settings: Settings) -> float:
    """Return the rate of one step."""
    warm = max(1, settings.steps // 10)
    done = max(0.0, (step - warm) / max(1, settings.steps - warm))
    return settings.rate * min(1.0, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * done))


def train(tiles: Mapping[str, Cloud], settings: Settings, *, title: str = "train") -> Path:
    """Train on `tiles`, going on from the checkpoint in `settings.out` if there is one.

    Returns:
        The averaged weights, fp16 safetensors.

    Raises:
        CheckpointError: the checkpoint there is of another run.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    network = lidar_network(settings.spec)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(decay_groups(network, settings.decay), lr=settings.rate, betas=(0.9, 0.99))
    start, losses = _resume(settings, sorted(tiles), network, average, optimiser)
    columns = Columns(tiles, settings.spec, settings.seed, settings.columns)
    network.train()
    began = time.process_time()
    bar = tqdm(total=settings.steps, initial=start, desc=title, mininterval=10, smoothing=0.05)
    for step in range(start, settings.steps):
        torch.manual_seed(settings.seed * 1_000_003 + step)  # of the dropout
        loss = _step(network, optimiser, columns, step, settings)
        follow(average, network, min(settings.average, (1 + step) / (10 + step)))
        losses.append(round(loss, 4))
        bar.set_postfix_str(f"loss {sum(losses[-50:]) / len(losses[-50:]):.3f}", refresh=False)
        bar.update()
        if (step + 1) % settings.every == 0 or step + 1 == settings.steps:
            keep(
                settings.out, network, average, optimiser,
                settings=settings.fixed(), tiles=sorted(tiles), step=step + 1, losses=losses,
            )  # fmt: skip
    bar.close()
    print(f"{title}: {settings.steps - start} steps, {(time.process_time() - began) / 60:.1f} CPU minutes in this run")
    return save_weights(average, settings.out / "weights.safetensors")


def crossvalidate(tiles: Mapping[str, Cloud], settings: Settings, *, only: str | None = None) -> SegmentationScores:
    """Leave out each tile in turn, or `only` this one, train on the others, score it; folds that are done are read again.

    Returns:
        The points of all left-out tiles together; `crossvalidation.json` in `settings.out` holds every fold.

    Raises:
        InputError: there is no such tile.
    """
    if only is not None and only not in tiles:
        raise InputError(f"there is no tile {only!r:.80}; there are {', '.join(sorted(tiles))}")
    total: SegmentationScores | None = None
    report: dict[str, Any] = {"settings": settings.fixed(), "folds": {}, "thinned": {}}
    for name in sorted(tiles, reverse=True) if only is None else (only,):
        others = {other: cloud for other, cloud in tiles.items() if other != name}
        out = settings.out / f"without-{name}"
        weights = train(others, replace(settings, out=out), title=f"without {name}")
        scores = score_scene(load_lidar(weights, settings.spec), tiles[name], settings.spec)
        print(f"{name}: {scores}", flush=True)
        report["folds"][name] = scores.to_dict()
        total = scores if total is None else total + scores
        few = thinned(tiles[name], THIN)
        if len(few) < len(tiles[name]):
            scores = score_scene(load_lidar(weights, settings.spec), few, settings.spec)
            print(f"{name}, {THIN:g} a square metre: {scores}", flush=True)
            report["thinned"][name] = scores.to_dict()
    assert total is not None
    folds = [fold["mean_iou"] for fold in report["folds"].values()]
    report |= {"all": total.to_dict(), "mean_of_folds": sum(folds) / len(folds)}
    print(f"all folds, mean of their mIoU {report['mean_of_folds']:.4f}; pooled {total}")
    write_text(settings.out / "crossvalidation.json", json.dumps(report, indent=1) + "\n")
    return total


def _step(network: PVCNN, optimiser: torch.optim.Optimizer, columns: Columns, step: int, settings: Settings) -> float:
    channels, classes = (torch.from_numpy(part) for part in columns.batch(step))
    loss = functional.cross_entropy(
        network(channels),
        classes,
        weight=torch.tensor(settings.weights[: len(CLASSES)]),
        ignore_index=IGNORED,
        label_smoothing=settings.smoothing,
    )
    return advance(network, optimiser, loss, rate=learning_rate(step, settings))


def _resume(
    settings: Settings, tiles: list[str], network: nn.Module, average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> tuple[int, list[float]]:  # fmt: skip
    path = settings.out / "checkpoint.pt"
    if not path.exists():
        return 0, []
    content = torch.load(path, weights_only=True)
    if content["settings"] != settings.fixed() or content["tiles"] != tiles:
        raise CheckpointError(
            f"{path} belongs to a run on {content['tiles']} with {content['settings']}; this one is on {tiles} with "
            f"{settings.fixed()}\nhint: give the same options to go on with it, or another --out"
        )
    kept(content, network, average, optimiser)
    return int(content["step"]), list(content["losses"])
