"""Training of the motion network: start, loop, checkpoints, export."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from effvision.errors import CheckpointError, InputError
from effvision.models.tsm.clips import IGNORED, LABELS
from effvision.models.tsm.network import Direction, TemporalNetwork, build
from effvision.models.tsm.recipe_data import SIZE, Stage, Stream, batches
from effvision.training import advance, decay_groups, follow, keep, kept, save_weights

__all__ = [
    "BUILD",
    "CURRICULUM",
    "Settings",
    "motion_network",
    "normalised",
    "start_from_differences",
    "train",
]

BUILD: dict[str, Any] = {"backbone": "mobilenetv2", "width": 0.5, "fold": 4, "every_block": True, "frames": 8}
"""Arguments of `network.build` for these weights, besides the ten classes and the direction."""

CURRICULUM = (
    Stage(until=300 / 3900, clips=48, frames=8, easy=0.9, changing=0.0, size=64),
    Stage(until=840 / 3900, clips=48, frames=8, easy=0.35, changing=0.2, size=64),
    Stage(until=2400 / 3900, clips=32, frames=12, easy=0.15, changing=0.6, size=64),
    Stage(until=3200 / 3900, clips=32, frames=12, easy=0.1, changing=0.4, size=64),
    # slow turning and scaling moves edges by less than a pixel a frame at 64: the last cycle sees the full size
    Stage(until=1.0, clips=24, frames=12, easy=0.1, changing=0.4),
)
CYCLES = ((2400 / 3900, 1.0), (3200 / 3900, 0.5), (1.0, 0.4))
"""Where each cycle of the learning rate ends, as a share of the steps, and the share of the highest rate it starts from."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Settings:
    """One training.

    Attributes:
        out: Folder of the checkpoint and the weights.
        steps: Optimiser steps.
        seed: Everything random.
        shift: `causal`, or `none` for the single-frame control.
        rate: Highest learning rate.
        decay: Weight decay.
        smoothing: Label smoothing.
        average: Decay of the moving average of the weights, which is what is exported.
        workers: Processes that render clips; 0 renders in this one.
        device: torch device.
        root: Data folder, or None for procedural pictures only.
        size: Height and width of a frame in pixels.
        stages: The curriculum.
        every: Steps between checkpoints.
        build: Changes of `BUILD`.
    """

    out: Path
    steps: int = 3900
    seed: int = 0
    shift: Direction = "causal"
    rate: float = 3e-3
    decay: float = 0.02
    smoothing: float = 0.05
    average: float = 0.998
    workers: int = 1
    device: str = "cpu"
    root: Path | None = None
    size: int = SIZE
    stages: tuple[Stage, ...] = CURRICULUM
    every: int = 150
    build: Mapping[str, Any] = field(default_factory=dict)

    def stream(self) -> Stream:
        """The training batches."""
        return Stream(self.seed, self.steps, self.stages, self.root, self.size)

    def fixed(self) -> dict[str, Any]:
        """What must not change when a run goes on from a checkpoint."""
        names = ("steps", "seed", "shift", "rate", "decay", "smoothing", "average", "size")
        return {**{name: getattr(self, name) for name in names}, "stages": repr(self.stages), "build": dict(self.build)}


def motion_network(shift: Direction = "causal", **changes: Any) -> TemporalNetwork:
    """Build the network of these weights, untrained."""
    return build(len(LABELS), shift=shift, **{**BUILD, **changes})


def start_from_differences(network: TemporalNetwork) -> None:
    """Start the first shift site as a temporal difference; everything stays trainable.

    From a plain start the network spends thousands of steps finding out that the shifted channels belong to another time.
    Here the first fold of the stem's channels copies the next one, so that after the shift the two hold the same feature of
    two frames, and the first pointwise convolution weighs them with opposite signs.
    """
    stem, first = network.network.get_submodule("features.0"), network.network.get_submodule("features.1.conv")
    depthwise, pointwise = first.get_submodule("0.net"), first.get_submodule("3")
    fold = network.sites()[0].fold
    fold = _weight(stem.get_submodule("0")).shape[0] // fold
    now, past = slice(fold, 2 * fold), slice(0, fold)
    with torch.no_grad():
        for convolution in (stem.get_submodule("0"), depthwise):
            weight = _weight(convolution)
            weight[past] = weight[now]
        weight = _weight(pointwise)
        weight[:, past] = -weight[:, now]
        for norm in (stem.get_submodule("1"), first.get_submodule("1")):
            assert isinstance(norm, nn.BatchNorm2d)
            norm.bias[: 2 * fold] = 2.0  # away from both ends of ReLU6: the difference starts linear


def normalised(pictures: Tensor) -> Tensor:
    """(N, T, H, W, 3) uint8 RGB -> (N, T, 3, H, W) float, ImageNet mean 0 and deviation 1, channels last in memory."""
    mean, std = (torch.tensor(values, device=pictures.device) for values in (_MEAN, _STD))
    return ((pictures.float() / 255 - mean) / std).permute(0, 1, 4, 2, 3)


def learning_rate(step: int, settings: Settings) -> float:
    """Cycles of a cosine to zero; the first begins with a linear warm-up and stays flat for its first half."""
    warm, share = min(100, settings.steps // 10 + 1), step / settings.steps
    now = next((index for index, (end, _) in enumerate(CYCLES) if share < end), len(CYCLES) - 1)
    begin = CYCLES[now - 1][0] if now else 0.0
    end, height = CYCLES[now]
    done = min(1.0, (share - begin) / (end - begin))
    if now == 0:
        done = max(0.0, done - 0.5) / 0.5
        height *= min(1.0, (step + 1) / warm)
    return settings.rate * height * (0.5 + 0.5 * math.cos(math.pi * done))


def train(settings: Settings) -> Path:
    """Train, going on from the checkpoint in `settings.out` if there is one, and write the averaged weights.

    Returns:
        The weights, fp16 safetensors.

    Raises:
        CheckpointError: the checkpoint there is of another run.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    network = motion_network(settings.shift, **settings.build)
    _kaiming(network)
    if settings.shift != "none":
        start_from_differences(network)
    network.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(decay_groups(network, settings.decay), lr=settings.rate, betas=(0.9, 0.99))
    start, losses = _resume(settings, network, average, optimiser)
    network.train()
    bar = tqdm(total=settings.steps, initial=start, desc=f"train {settings.shift}", mininterval=5, smoothing=0.02)
    for step, batch in enumerate(batches(settings.stream(), start=start, workers=settings.workers), start=start):
        pictures, labels = (torch.from_numpy(part).to(settings.device) for part in batch)
        logits = network.frame_logits(normalised(pictures))  # (N, T, K)
        loss = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=settings.smoothing
        )
        losses.append(round(advance(network, optimiser, loss, rate=learning_rate(step, settings)), 4))
        follow(average, network, min(settings.average, (1 + step) / (10 + step)))
        bar.set_postfix_str(f"loss {sum(losses[-50:]) / len(losses[-50:]):.3f}", refresh=False)
        bar.update()
        if (step + 1) % settings.every == 0 or step + 1 == settings.steps:
            keep(
                settings.out, network, average, optimiser, settings=settings.fixed(), step=step + 1,
                random=torch.get_rng_state(), losses=losses,
            )  # fmt: skip
    bar.close()
    return save_weights(average, settings.out / "weights.safetensors")


def _kaiming(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _resume(
    settings: Settings, network: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> tuple[int, list[float]]:
    path = settings.out / "checkpoint.pt"
    if not path.exists():
        return 0, []
    content = torch.load(path, map_location=settings.device, weights_only=True)
    if content["settings"] != settings.fixed():
        raise CheckpointError(
            f"{path} belongs to a run with {content['settings']}, this one has {settings.fixed()}\n"
            "hint: give the same options to go on with it, or another --out"
        )
    kept(content, network, average, optimiser)
    torch.set_rng_state(content["random"].cpu())
    return int(content["step"]), list(content["losses"])


def check_device(name: str) -> str:
    """Return `name` if torch can use it.

    Raises:
        InputError: it cannot.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"`--device {name}` was asked for, but this torch sees no CUDA device\n"
            "hint: leave `--device` out to compute on the CPU"
        )
    return name
