"""How the weights of this family are made, in one command each.

    python -m effvision.models.pvcnn.recipe lidar train --out runs/lidar
    python -m effvision.models.pvcnn.recipe lidar crossvalidate --out runs/lidar-folds --steps 500
    python -m effvision.models.pvcnn.recipe lidar evaluate runs/lidar/weights.safetensors --split val
    python -m effvision.models.pvcnn.recipe parts train --out runs/parts
    python -m effvision.models.pvcnn.recipe parts evaluate runs/parts/weights.safetensors

Everything is seeded, writes a checkpoint every minute or so and goes on from it after a kill. `parts` needs no data (see
`recipe_parts`); that of `lidar` is `pointclouds/lidarhd` in `data` under EFFVISION_SHARED (default: `shared` beside the
repository), or `--data`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from effvision.errors import EffvisionError
from effvision.models.pvcnn.recipe_lidar import Settings, crossvalidate, train
from effvision.models.pvcnn.recipe_lidar_evaluate import load_lidar, predict_scene
from effvision.models.pvcnn.recipe_lidar_network import SPEC
from effvision.models.pvcnn.recipe_parts import add_parts, run_parts
from effvision.training_lidar import lidar_folder, read_tiles
from effvision.training_lidar_run import add_commands, evaluate_tiles

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, see the module's text; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        run = run_parts if options.weights_of == "parts" else _lidar
        run(options)
    except EffvisionError as error:
        print(f"effvision: {error}", file=sys.stderr)
        return 1
    return 0


def _lidar(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    data: Path = options.data or lidar_folder()
    if options.command == "evaluate":
        label = partial(predict_scene, load_lidar(options.weights, SPEC), spec=SPEC)
        evaluate_tiles(read_tiles(data / options.split), label, density=options.density, json_file=options.json)
        return
    tiles = read_tiles(data / "train")
    settings = Settings(options.out, steps=options.steps, seed=options.seed)
    if options.command == "crossvalidate":
        settings.out.mkdir(parents=True, exist_ok=True)
        crossvalidate(tiles, settings, only=options.only)
    else:
        print(train(tiles, settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m effvision.models.pvcnn.recipe", description="Make the weights.")
    weights = parser.add_subparsers(dest="weights_of", required=True)
    add_parts(weights.add_parser("parts", help="pvcnn-parts: parts of furniture and objects"))
    lidar = weights.add_parser("lidar", help="pvcnn-lidarhd: ground, low vegetation, trees and buildings")
    add_commands(lidar, steps=Settings(Path()).steps)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
