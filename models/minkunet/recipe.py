"""How the weights of this family are made, in one command each.

    python -m effvision.models.minkunet.recipe spvcnn train --out runs/spvcnn
    python -m effvision.models.minkunet.recipe spvcnn crossvalidate --out runs/spvcnn-folds --steps 300
    python -m effvision.models.minkunet.recipe spvcnn evaluate runs/spvcnn/weights.safetensors --split val

Likewise `minkunet`. Everything is seeded, writes a checkpoint every minute or so and goes on from it after a kill. The data are
`pointclouds/lidarhd` in `data` under EFFVISION_SHARED (default: `shared` beside the repository), or `--data`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from effvision.clouds import Cloud
from effvision.errors import EffvisionError
from effvision.metrics import SegmentationScores
from effvision.models.minkunet.convert import NETWORKS
from effvision.models.minkunet.inputs import SceneInput
from effvision.models.minkunet.recipe_data import Pieces
from effvision.models.minkunet.recipe_network import CHANNELS, INPUTS, lidar_network
from effvision.ops.folding import fuse
from effvision.training import load_weights
from effvision.training_lidar import CLASSES, IGNORED, Label, lidar_folder, read_tiles
from effvision.training_lidar_run import LidarSettings, add_commands, crossvalidate_tiles, evaluate_tiles, train_network

__all__ = ["Settings", "crossvalidate", "load_lidar", "main", "predict_scene", "train"]


@dataclass(frozen=True)
class Settings(LidarSettings):
    """One training.

    Attributes:
        network: `minkunet` or `spvcnn`.
        pieces: Pieces of tiles in a batch.
        points: Of a piece, at most.
    """

    steps: int = 1500
    network: str = "spvcnn"
    pieces: int = 3
    points: int = 9000

    @property
    def kind(self) -> SceneInput:
        """How clouds are prepared."""
        return INPUTS[self.network]

    def fixed(self) -> dict[str, Any]:
        """What must not change when a run goes on from a checkpoint."""
        more = {"network": self.network, "pieces": self.pieces, "points": self.points, "channels": list(CHANNELS)}
        return {**super().fixed(), **more, "input": self.kind.to_dict()}


def train(tiles: Mapping[str, Cloud], settings: Settings, *, title: str = "train") -> Path:
    """Train on `tiles`, going on from the checkpoint in `settings.out` if there is one.

    Returns:
        The averaged weights, fp16 safetensors.

    Raises:
        CheckpointError: the checkpoint there is of another run.
    """
    pieces = Pieces(tiles, settings.kind, settings.seed, settings.pieces, settings.points)

    def loss(network: nn.Module, step: int) -> Tensor:
        return _loss(network, pieces, step, settings)

    return train_network(partial(lidar_network, settings.network), loss, settings, tiles=tiles, title=title)


def crossvalidate(tiles: Mapping[str, Cloud], settings: Settings, *, only: str | None = None) -> SegmentationScores:
    """Leave out each tile in turn, or `only` this one, train on the others, score it; folds that are done are read again.

    Returns:
        The points of all left-out tiles together; `crossvalidation.json` in `settings.out` holds every fold.

    Raises:
        InputError: there is no such tile.
    """

    def fold(others: Mapping[str, Cloud], out: Path, title: str) -> Label:
        weights = train(others, replace(settings, out=out), title=title)
        return partial(predict_scene, load_lidar(weights, settings.network), kind=settings.kind)

    return crossvalidate_tiles(tiles, settings, fold, only=only)


def load_lidar(path: Path, name: str) -> nn.Module:
    """Load weights for inference, normalisations folded, computing in fp32 with the fp16 numbers of the file.

    Raises:
        CheckpointError: no such file, not safetensors, or weights of another network.
    """
    return fuse(load_weights(path, lidar_network(name)))


def predict_scene(network: nn.Module, cloud: Cloud, kind: SceneInput) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the class (P,) and its score (P,) of every point: one call for a whole tile."""
    arrays = kind.arrays(cloud)
    with torch.inference_mode():
        logits = network(torch.from_numpy(arrays["coords"]), torch.from_numpy(arrays["feats"]))
        scores, labels = logits.softmax(1).max(1)
    return labels.numpy().astype(np.int32)[arrays["inverse"]], scores.numpy()[arrays["inverse"]]


def _loss(network: nn.Module, pieces: Pieces, step: int, settings: Settings) -> Tensor:
    """Every point counts, also where several share a row: that is what the scores count."""
    batch = pieces.batch(step)
    logits = network(torch.from_numpy(batch.coords), torch.from_numpy(batch.feats))
    return functional.cross_entropy(
        logits.index_select(0, torch.from_numpy(batch.inverse)),
        torch.from_numpy(batch.classes),
        weight=torch.tensor(settings.weights[: len(CLASSES)]),
        ignore_index=IGNORED,
        label_smoothing=settings.smoothing,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, see the module's text; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except EffvisionError as error:
        print(f"effvision: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    data: Path = options.data or lidar_folder()
    if options.command == "evaluate":
        label = partial(predict_scene, load_lidar(options.weights, options.network), kind=INPUTS[options.network])
        evaluate_tiles(read_tiles(data / options.split), label, density=options.density, json_file=options.json)
        return
    tiles = read_tiles(data / "train")
    settings = Settings(options.out, steps=options.steps, seed=options.seed, network=options.network)
    if options.command == "crossvalidate":
        settings.out.mkdir(parents=True, exist_ok=True)
        crossvalidate(tiles, settings, only=options.only)
    else:
        print(train(tiles, settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m effvision.models.minkunet.recipe", description="Make the weights.")
    networks = parser.add_subparsers(dest="network", required=True)
    for name in NETWORKS:
        add_commands(networks.add_parser(name, help=f"{name}-lidarhd"), steps=Settings(Path()).steps)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
