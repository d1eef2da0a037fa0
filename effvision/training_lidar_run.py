"""How any network is trained on airborne lidar tiles, and the cross-validation that everything about it is chosen by."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from effvision._files import write_text
from effvision.clouds import Cloud
from effvision.errors import CheckpointError, InputError
from effvision.metrics import SegmentationScores
from effvision.training import advance, decay_groups, follow, keep, kept, save_weights
from effvision.training_lidar import Label, score_scene, thinned

__all__ = ["LidarSettings", "add_commands", "crossvalidate_tiles", "evaluate_tiles", "learning_rate", "train_network"]

THIN = 1.0
"""Points a square metre at which left-out tiles are scored a second time."""


@dataclass(frozen=True)
class LidarSettings:
    """One training, as far as it does not depend on the network.

    Attributes:
        out: Folder of the checkpoint and the weights.
        steps: Optimiser steps.
        seed: Everything random.
        rate: Highest learning rate; it rises over the first tenth and falls to zero as a cosine.
        decay: Weight decay of the matrices.
        smoothing: Label smoothing.
        average: Decay of the moving average of the weights, which is what is written.
        weights: How much an error counts in each class.
        every: Steps between checkpoints.
    """

    out: Path
    steps: int = 2400
    seed: int = 0
    rate: float = 6e-3
    decay: float = 0.01
    smoothing: float = 0.02
    average: float = 0.99
    weights: tuple[float, ...] = (1.0, 4.0, 1.0, 1.2)
    every: int = 50

    def fixed(self) -> dict[str, Any]:
        """What must not change when a run goes on from a checkpoint."""
        names = ("steps", "seed", "rate", "decay", "smoothing", "average")
        return {**{name: getattr(self, name) for name in names}, "weights": list(self.weights)}


def learning_rate(step: int, settings: LidarSettings) -> float:
    """Return the rate of one step."""
    warm = max(1, settings.steps // 10)
    done = max(0.0, (step - warm) / max(1, settings.steps - warm))
    return settings.rate * min(1.0, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * done))


def train_network(
    make: Callable[[], nn.Module],
    loss: Callable[[nn.Module, int], Tensor],
    settings: LidarSettings,
    *,
    tiles: Iterable[str],
    title: str = "train",
) -> Path:
    """Train, going on from the checkpoint in `settings.out` if there is one.

    Args:
        make: Builds the network, from torch's seed.
        loss: What to lessen, of the network and the number of the step; all its randomness comes from that number, the
            settings' seed and torch's, which is set before every step.
        settings: Of the training.
        tiles: Names of what is trained on; a checkpoint of others is refused.
        title: Of the bar.

    Returns:
        The averaged weights, fp16 safetensors.

    Raises:
        CheckpointError: the checkpoint there is of another run.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    names = sorted(tiles)
    torch.manual_seed(settings.seed)
    network = make()
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(decay_groups(network, settings.decay), lr=settings.rate, betas=(0.9, 0.99))
    start, losses = _resume(settings, names, network, average, optimiser)
    network.train()
    began = time.process_time()
    bar = tqdm(total=settings.steps, initial=start, desc=title, mininterval=10, smoothing=0.05)
    for step in range(start, settings.steps):
        torch.manual_seed(settings.seed * 1_000_003 + step)  # of the dropout
        lost = advance(network, optimiser, loss(network, step), rate=learning_rate(step, settings))
        follow(average, network, min(settings.average, (1 + step) / (10 + step)))
        losses.append(round(lost, 4))
        bar.set_postfix_str(f"loss {sum(losses[-50:]) / len(losses[-50:]):.3f}", refresh=False)
        bar.update()
        if (step + 1) % settings.every == 0 or step + 1 == settings.steps:
            keep(
                settings.out, network, average, optimiser,
                settings=settings.fixed(), tiles=names, step=step + 1, losses=losses,
            )  # fmt: skip
    bar.close()
    print(f"{title}: {settings.steps - start} steps, {(time.process_time() - began) / 60:.1f} CPU minutes in this run")
    return save_weights(average, settings.out / "weights.safetensors")


def crossvalidate_tiles(
    tiles: Mapping[str, Cloud],
    settings: LidarSettings,
    train: Callable[[Mapping[str, Cloud], Path, str], Label],
    *,
    only: str | None = None,
) -> SegmentationScores:
    """Leave out each tile in turn, or `only` this one, train on the others, score it; folds that are done are read again.

    Args:
        tiles: By name.
        settings: Of every fold; `out` is the folder of the folds.
        train: Of the other tiles, the fold's folder and its title: trains there, or goes on, and returns what labels clouds.
        only: A tile.

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
        label = train(others, settings.out / f"without-{name}", f"without {name}")
        scores = score_scene(label, tiles[name])
        print(f"{name}: {scores}", flush=True)
        report["folds"][name] = scores.to_dict()
        total = scores if total is None else total + scores
        few = thinned(tiles[name], THIN)
        if len(few) < len(tiles[name]):
            scores = score_scene(label, few)
            print(f"{name}, {THIN:g} a square metre: {scores}", flush=True)
            report["thinned"][name] = scores.to_dict()
    assert total is not None
    folds = [fold["mean_iou"] for fold in report["folds"].values()]
    report |= {"all": total.to_dict(), "mean_of_folds": sum(folds) / len(folds)}
    print(f"all folds, mean of their mIoU {report['mean_of_folds']:.4f}; pooled {total}")
    write_text(settings.out / "crossvalidation.json", json.dumps(report, indent=1) + "\n")
    return total


def evaluate_tiles(
    tiles: Mapping[str, Cloud], label: Label, *, density: float | None = None, json_file: Path | None = None
) -> dict[str, SegmentationScores]:
    """Score whole tiles and print what was found.

    Args:
        tiles: By name.
        label: What is scored.
        density: Thin tiles to so many points a square metre first.
        json_file: Write the numbers here as well.
    """
    found = {}
    for name, whole in tiles.items():
        found[name] = score_scene(label, thinned(whole, density) if density else whole)
        print(f"{name}: {found[name]}", flush=True)
    if json_file:
        plain = {name: scores.to_dict() for name, scores in found.items()}
        write_text(json_file, json.dumps(plain, indent=1) + "\n")
    return found


def add_commands(parser: argparse.ArgumentParser, *, steps: int) -> None:
    """Add the commands `train`, `crossvalidate` and `evaluate` of a recipe; `steps` is how many `train` takes by default."""
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text, many in (
        ("train", "train on all training tiles", steps),
        ("crossvalidate", "leave out each training tile in turn", 500),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--out", type=Path, required=True, help="folder of checkpoints, weights and reports")
        command.add_argument("--steps", type=int, default=many)
        command.add_argument("--seed", type=int, default=0)
    commands.choices["crossvalidate"].add_argument("--only", metavar="TILE", help="leave out this one alone")
    test = commands.add_parser("evaluate", help="measure a weights file on whole tiles")
    test.add_argument("weights", type=Path)
    test.add_argument("--split", choices=("train", "val"), default="val")
    test.add_argument("--density", type=float, metavar="D", help="thin tiles to so many points a square metre first")
    test.add_argument("--json", type=Path, help="also write the numbers here")
    for command in commands.choices.values():
        command.add_argument("--data", type=Path, metavar="DIR", help="folder with `train` and `val`")
        command.add_argument("--threads", type=int, default=1)


def _resume(
    settings: LidarSettings, tiles: list[str], network: nn.Module, average: dict[str, Tensor],
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
