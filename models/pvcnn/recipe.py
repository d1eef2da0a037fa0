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
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from effvision._files import write_text
from effvision.errors import EffvisionError
from effvision.models.pvcnn.recipe_lidar import Settings, crossvalidate, train
from effvision.models.pvcnn.recipe_lidar_data import read_tiles, thinned
from effvision.models.pvcnn.recipe_lidar_evaluate import load_lidar, score_scene
from effvision.models.pvcnn.recipe_lidar_network import SPEC
from effvision.models.pvcnn.recipe_parts import add_parts, run_parts

__all__ = ["lidar_folder", "main"]


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


def lidar_folder() -> Path:
    """Return the folder of the lidar tiles."""
    shared = os.environ.get("EFFVISION_SHARED")
    root = Path(shared) if shared else Path(__file__).resolve().parents[2].parent / "shared"
    return root / "data" / "pointclouds" / "lidarhd"


def _lidar(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    data: Path = options.data or lidar_folder()
    if options.command == "evaluate":
        network, found = load_lidar(options.weights, SPEC), {}
        for name, whole in read_tiles(data / options.split).items():
            cloud = thinned(whole, options.density) if options.density else whole
            scores = score_scene(network, cloud, SPEC)
            print(f"{name}: {scores}", flush=True)
            found[name] = scores.to_dict()
        if options.json:
            write_text(options.json, json.dumps(found, indent=1) + "\n")
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
    commands = lidar.add_subparsers(dest="command", required=True)
    for name, text, steps in (
        ("train", "train on all training tiles", Settings(Path()).steps),
        ("crossvalidate", "leave out each training tile in turn", 500),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--out", type=Path, required=True, help="folder of checkpoints, weights and reports")
        command.add_argument("--steps", type=int, default=steps)
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
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
