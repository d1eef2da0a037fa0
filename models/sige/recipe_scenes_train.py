"""Training of `sige-scenes`: scenes drawn while it trains, no data kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from effvision.errors import CheckpointError, InputError, RangeError
from effvision.models.sige.recipe_scenes_losses import (
    PatchJudge,
    altered,
    feature_distance,
    judge_loss,
    maker_loss,
    picture_distance,
)  # fmt: skip
from effvision.models.sige.scenes import PALETTE, SIZE, guide, scene
from effvision.models.sige.scenes_network import CHANNELS, SceneGenerator
from effvision.training import advance, follow, keep, kept, save_weights

__all__ = ["Batch", "Settings", "Shown", "learning_rate", "settle", "train"]

_AFTERWARDS = ("out", "every", "workers", "device", "stop")  # what the steps do not depend on
_WARM = 100  # steps in which the rate rises
_DAMPING = 0.25  # the judge's rate against the generator's


@dataclass(frozen=True)
class Settings:
    """One training.

    Attributes:
        out: Folder of the checkpoint and the weights.
        steps: Optimiser steps.
        seed: Everything random.
        rate: Highest learning rate.
        average: Decay of the moving average of the weights, which is what is written.
        pictures: Crops of a batch.
        crop: Side of the crops, a multiple of 8 up to 256.
        whole: Share of the steps, the last ones, that see whole scenes, as many pixels a step as before.
        painted: Share of scenes that have been painted on.
        gradients: Weight of slopes in the distance of pictures.
        judged: Weight of the judge; 0 trains without.
        judged_from: Share of the steps before the judge begins.
        settled: Batches after the last step that give the averaged weights their own statistics.
        every: Steps between checkpoints.
        workers: Processes that draw scenes; 0 draws between the steps.
        device: Where it trains.
        stop: Stop after this many steps of this call, to be gone on with; 0 never.
    """

    out: Path
    steps: int = 5000
    seed: int = 0
    rate: float = 1e-3
    average: float = 0.999
    pictures: int = 8
    crop: int = 128
    whole: float = 0.2
    painted: float = 0.5
    gradients: float = 1.0
    judged: float = 0.02
    judged_from: float = 0.5
    settled: int = 40
    every: int = 500
    workers: int = 0
    device: str = "cpu"
    stop: int = 0

    def fixed(self) -> dict[str, Any]:
        """What must not change when a run goes on from a checkpoint."""
        return {name: value for name, value in vars(self).items() if name not in _AFTERWARDS}

    def side(self, step: int) -> int:
        """Side in pixels of what a step sees."""
        return SIZE if step >= self.steps * (1 - self.whole) else self.crop


class Batch(NamedTuple):
    """What a step sees: labels (N, h, w) uint8, guides (N, P, h, w) float16, pictures (N, h, w, 3) uint8."""

    labels: Tensor
    guides: Tensor
    pictures: Tensor

    def shown(self, device: str) -> tuple[Tensor, Tensor]:
        """The network's input (N, C, h, w) and the wanted pictures (N, 3, h, w) in -1..1."""
        one_hot = F.one_hot(self.labels.to(device).long(), len(PALETTE)).permute(0, 3, 1, 2).float()
        pictures = self.pictures.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return torch.cat([one_hot, self.guides.to(device).float()], dim=1), pictures


class Shown(Dataset[Batch]):
    """Batches by step; each is drawn from the seed and its step alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __len__(self) -> int:
        return self.settings.steps + self.settings.settled

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, or of one of the settling steps after the last."""
        settings, side = self.settings, self.settings.side(step)
        count = max(1, round(settings.pictures * (settings.crop / side) ** 2))
        rng = np.random.default_rng((settings.seed, 5, step))
        parts = []
        for _ in range((count + 1) // 2):  # two crops of a scene: drawing takes its time
            one = scene(int(rng.integers(2**40)), painted=settings.painted)
            planes = guide(SIZE, SIZE, one.guide_seed).astype(np.float16)
            for _ in range(2 if side < SIZE else 1):
                row, column = (int(at) * 8 for at in rng.integers(0, (SIZE - side) // 8 + 1, 2))
                here = (slice(row, row + side), slice(column, column + side))
                parts.append((one.labels[here], planes[(slice(None), *here)], one.picture[here]))
        chosen = parts[:count]
        return Batch(*(torch.from_numpy(np.stack([part[place] for part in chosen])) for place in range(3)))


def learning_rate(step: int, settings: Settings) -> float:
    """Rate of a step: it rises over the first hundred and falls to a hundredth as a cosine."""
    rise = min(1.0, (step + 1) / max(1, min(_WARM, settings.steps // 4)))
    return settings.rate * rise * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * step / settings.steps)))


def train(settings: Settings) -> Path | None:
    """Train, going on from the checkpoint in `settings.out` if there is one.

    Returns:
        The averaged weights, fp16 safetensors; None if it stopped before.

    Raises:
        CheckpointError: the checkpoint there is of another run.
        InputError: settings that cannot be.
    """
    _check(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    network, judge = SceneGenerator().to(settings.device), PatchJudge(CHANNELS).to(settings.device)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimisers = tuple(
        torch.optim.Adam(one.parameters(), lr=settings.rate, betas=betas)
        for one, betas in ((network, (0.9, 0.99)), (judge, (0.5, 0.99)))
    )
    start, losses = _resume(settings, network, judge, average, optimisers)
    end = min(settings.steps, start + settings.stop) if settings.stop else settings.steps
    batches = _batches(settings, range(start, end))
    bar = tqdm(total=settings.steps, initial=start, desc="steps", mininterval=5, smoothing=0.05)
    began = time.monotonic()
    for step, batch in zip(range(start, end), batches, strict=True):
        losses.append(_step(settings, step, batch, network, judge, optimisers))
        follow(average, network, min(settings.average, (1 + step) / (10 + step)))
        bar.set_postfix_str(f"loss {sum(losses[-50:]) / len(losses[-50:]):.4f}", refresh=False)
        bar.update()
        if (step + 1) % settings.every == 0 or step + 1 == end:
            keep(
                settings.out, network, average, optimisers[0], settings=settings.fixed(), step=step + 1, losses=losses,
                judge=judge.state_dict(), judge_optimiser=optimisers[1].state_dict(),
            )  # fmt: skip
    bar.close()
    print(f"{end - start} steps in {(time.monotonic() - began) / 60:.1f} min")
    if end < settings.steps:
        return None
    network.load_state_dict(average)
    settle(network, _batches(settings, range(settings.steps, settings.steps + settings.settled)), settings.device)
    return save_weights(network.state_dict(), settings.out / "weights.safetensors")


@torch.no_grad()
def settle(network: nn.Module, batches: Iterator[Batch], device: str) -> None:
    """Give the batch norms, in place, the mean statistics of these batches: averaged weights need statistics of their own."""
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    begun = False
    for batch in batches:
        if not begun:
            begun = True
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean of all batches
            network.train()
        network(batch.shown(device)[0])
    for norm in norms:
        norm.momentum = 0.1
    network.eval()


def _step(
    settings: Settings, step: int, batch: Batch, network: SceneGenerator, judge: PatchJudge,
    optimisers: tuple[torch.optim.Optimizer, ...],
) -> float:  # fmt: skip
    """One step of the generator and, once it has begun, of the judge; the distance of the pictures."""
    rate = learning_rate(step, settings)
    labels, wanted = batch.shown(settings.device)
    network.train()
    given = network(labels)
    distance = picture_distance(given, wanted, gradients=settings.gradients)
    loss = distance
    if settings.judged and step >= settings.steps * settings.judged_from:
        random = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        (real, made), where = altered((wanted, given), labels, random)
        verdicts = judge(real, where)[0], judge(made.detach(), where)[0]
        advance(judge, optimisers[1], judge_loss(*verdicts), rate=_DAMPING * rate)
        verdict, features = judge(made, where)
        with torch.no_grad():
            known = judge(real, where)[1]
        loss = loss + settings.judged * (maker_loss(verdict) + 10 * feature_distance(features, known))
    advance(network, optimisers[0], loss, rate=rate)
    return float(distance.detach())


def _batches(settings: Settings, steps: range) -> Iterator[Batch]:
    """The batches of these steps, in order, drawn beside the training where there are workers."""
    loader = DataLoader(
        Shown(settings), batch_size=None, sampler=steps, num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None, worker_init_fn=_alone,
    )  # fmt: skip
    return iter(loader)


def _alone(_: int) -> None:
    """A process that draws uses one thread of OpenCV: there is one for every core."""
    from effvision._optional import import_cv2

    cv2: Any = import_cv2()
    cv2.setNumThreads(0)


def _check(settings: Settings) -> None:
    if settings.steps < 1 or settings.pictures < 2 or settings.every < 1:
        raise RangeError(
            f"a training needs steps, at least two pictures a batch, and steps between checkpoints; got {settings.steps}, "
            f"{settings.pictures} and {settings.every}\nhint: leave them out for the usual ones"
        )
    if settings.crop % 8 or not 32 <= settings.crop <= SIZE:
        raise InputError(f"`crop` must be a multiple of 8 from 32 to {SIZE}; got {settings.crop}\nhint: 128")


def _resume(
    settings: Settings, network: nn.Module, judge: nn.Module, average: dict[str, Tensor],
    optimisers: tuple[torch.optim.Optimizer, ...],
) -> tuple[int, list[float]]:  # fmt: skip
    path = settings.out / "checkpoint.pt"
    if not path.exists():
        return 0, []
    content = torch.load(path, weights_only=True, map_location=settings.device)
    if content["settings"] != settings.fixed():
        raise CheckpointError(
            f"{path} belongs to a run with {content['settings']}; this one has {settings.fixed()}\n"
            "hint: give the same options to go on with it, or another --out"
        )
    kept(content, network, average, optimisers[0])
    judge.load_state_dict(content["judge"])
    optimisers[1].load_state_dict(content["judge_optimiser"])
    return int(content["step"]), list(content["losses"])
