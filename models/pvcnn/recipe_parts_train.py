"""Training of `pvcnn-parts`, and of the PointNet beside it: one loop, the same clouds in the same order."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from effvision.errors import CheckpointError, InputError
from effvision.models.pvcnn.network import PVCNN, PointNet
from effvision.models.pvcnn.recipe_parts_data import Batches
from effvision.models.pvcnn.shapes import IGNORED, LABELS
from effvision.models.pvcnn.stages import Stage
from effvision.training import advance, decay_groups, follow, keep, kept, save_weights

__all__ = ["NETWORKS", "STAGES", "PartSettings", "part_network", "train_parts"]

STAGES = (Stage(64, 1, 24), Stage(128, 2, 12), Stage(512, 1, None), Stage(1024, 1, None))
"""The ShapeNet layout of the paper with three quarters of the voxels a side and half of the last channels."""
NETWORKS = ("pvcnn", "pointnet")
_WARM = 120  # steps in which the rate rises


@dataclass(frozen=True)
class PartSettings:
    """One training.

    Attributes:
        out: Folder of the checkpoint and the weights.
        network: One of `NETWORKS`.
        steps: Optimiser steps.
        seed: Everything random.
        rate: Highest learning rate, see `learning_rate`.
        decay: Weight decay of the matrices.
        average: Decay of the moving average of the weights, which is what is written.
        clouds: Clouds of a batch.
        every: Steps between checkpoints.
    """

    out: Path
    network: str = "pvcnn"
    steps: int = 5000
    seed: int = 0
    rate: float = 4e-3
    decay: float = 0.01
    average: float = 0.995
    clouds: int = 16
    every: int = 50

    def fixed(self) -> dict[str, Any]:
        """What must not change when a run goes on from a checkpoint."""
        names = ("network", "steps", "seed", "rate", "decay", "average", "clouds")
        return {name: getattr(self, name) for name in names}


def part_network(name: str = "pvcnn") -> PVCNN | PointNet:
    """Build one of the two networks, untrained: coordinates (N, 3, P) -> logits (N, 32, P).

    Coordinates alone, since real clouds seldom come with normals and estimated ones differ from exact ones most where parts
    meet; no category, so that any object may be given. PVCNN has a quarter of the paper's width, PointNet half of it, which
    makes it the larger one.

    Raises:
        InputError: no such network.
    """
    if name == "pvcnn":
        return PVCNN(
            len(LABELS), channels=3, stages=STAGES, cloud=(), head=(256, 0.2, 256, 0.2, 128), unit_ball=False,
            width=0.25,
        )  # fmt: skip
    if name == "pointnet":
        return PointNet(len(LABELS), channels=3, width=0.5)
    raise InputError(f"`network` must be one of {', '.join(NETWORKS)}; got {name!r:.60}")


def learning_rate(step: int, settings: PartSettings) -> float:
    """Return the rate of a step: it rises over the first 120, stays, and falls to 0 as a cosine from the middle on."""
    share = step / settings.steps
    rise = min(1.0, (step + 1) / max(1, min(_WARM, settings.steps // 4)))
    return settings.rate * rise * (0.5 + 0.5 * math.cos(math.pi * max(0.0, 2 * share - 1)))


def train_parts(settings: PartSettings) -> Path:
    """Train, going on from the checkpoint in `settings.out` if there is one.

    A run may be given another length while its rate has not begun to fall; it ends as if begun so.

    Returns:
        The averaged weights, fp16 safetensors.

    Raises:
        CheckpointError: the checkpoint there is of another run.
        InputError: no such network.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    network = part_network(settings.network)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(decay_groups(network, settings.decay), lr=settings.rate, betas=(0.9, 0.99))
    start, seconds, losses = _resume(settings, network, average, optimiser)
    batches = Batches(settings.seed, settings.clouds)
    network.train()
    began = time.process_time() - seconds
    bar = tqdm(total=settings.steps, initial=start, desc=settings.network, mininterval=10, smoothing=0.05)
    for step in range(start, settings.steps):
        torch.manual_seed(settings.seed * 1_000_003 + step)  # of the dropout
        losses.append(round(_step(network, optimiser, batches, step, settings), 4))
        follow(average, network, min(settings.average, (1 + step) / (10 + step)))
        bar.set_postfix_str(f"loss {sum(losses[-50:]) / len(losses[-50:]):.3f}", refresh=False)
        bar.update()
        if (step + 1) % settings.every == 0 or step + 1 == settings.steps:
            keep(
                settings.out, network, average, optimiser, settings=settings.fixed(), step=step + 1,
                seconds=time.process_time() - began, losses=losses,
            )  # fmt: skip
    bar.close()
    print(f"{settings.network}: {settings.steps} steps, {(time.process_time() - began) / 60:.1f} CPU minutes in all")
    return save_weights(average, settings.out / "weights.safetensors")


def _step(
    network: nn.Module, optimiser: torch.optim.Optimizer, batches: Batches, step: int, settings: PartSettings
) -> float:
    points, labels = (torch.from_numpy(part) for part in batches.batch(step))
    loss = functional.cross_entropy(network(points), labels, ignore_index=IGNORED, label_smoothing=0.02)
    return advance(network, optimiser, loss, rate=learning_rate(step, settings))


def _resume(
    settings: PartSettings, network: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> tuple[int, float, list[float]]:
    path = settings.out / "checkpoint.pt"
    if not path.exists():
        return 0, 0.0, []
    content = torch.load(path, weights_only=True)
    known, half = content["settings"], min(content["settings"]["steps"], settings.steps) // 2
    if content["step"] <= half and half >= 2 * _WARM:  # the rate has not begun to fall: so far both would be one run
        known = {**known, "steps": settings.steps}
    if known != settings.fixed():
        raise CheckpointError(
            f"{path} belongs to a run with {content['settings']}; this one has {settings.fixed()}\n"
            "hint: give the same options to go on with it, or another --out"
        )
    kept(content, network, average, optimiser)
    return int(content["step"]), float(content["seconds"]), list(content["losses"])
