"""How `pvcnn-parts` is made, and the PointNet it is compared with.

    python -m effvision.models.pvcnn.recipe parts train --out runs/parts
    python -m effvision.models.pvcnn.recipe parts train --network pointnet --out runs/parts-pointnet
    python -m effvision.models.pvcnn.recipe parts evaluate runs/parts/weights.safetensors

`train` is seeded, needs no data, writes a checkpoint every minute or so and goes on from it after a kill. `evaluate` measures
on the held-out split, on which nothing is chosen; `--split development` is for that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from effvision._files import write_text
from effvision.errors import EffvisionError
from effvision.models.pvcnn.recipe_parts_evaluate import TEST_SEED, load_parts, measure_parts
from effvision.models.pvcnn.recipe_parts_train import NETWORKS, PartSettings, train_parts
from effvision.models.pvcnn.shapes_draw import SPLITS

__all__ = ["add_parts", "main", "run_parts"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `train` or `evaluate`, see the module's text; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m effvision.models.pvcnn.recipe parts")
    add_parts(parser)
    options = parser.parse_args(arguments)
    try:
        run_parts(options)
    except EffvisionError as error:
        print(f"effvision: {error}", file=sys.stderr)
        return 1
    return 0


def run_parts(options: argparse.Namespace) -> None:
    """Do what the options of `add_parts` say."""
    torch.set_num_threads(options.threads)
    if options.command == "train":
        print(train_parts(PartSettings(options.out, network=options.network, steps=options.steps, seed=options.seed)))
        return
    network = load_parts(options.weights)
    report = measure_parts(
        network, split=options.split, clouds=options.clouds, points=options.points, seed=options.cloud_seed
    )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"{type(network).__name__}, {parameters} parameters, {options.split}, {options.points} points\n{report}")
    if options.json:
        write_text(options.json, json.dumps({"split": options.split, **report.to_dict()}, indent=1) + "\n")


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Give a parser the commands `train` and `evaluate`."""
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train on procedural clouds")
    train.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the weights")
    train.add_argument("--network", choices=NETWORKS, default="pvcnn")
    train.add_argument("--steps", type=int, default=PartSettings(Path()).steps)
    train.add_argument("--seed", type=int, default=0)
    test = commands.add_parser("evaluate", help="measure a weights file")
    test.add_argument("weights", type=Path)
    test.add_argument("--split", choices=SPLITS[1:], default="held-out")
    test.add_argument("--clouds", type=int, default=1000)
    test.add_argument("--points", type=int, default=2048)
    test.add_argument("--cloud-seed", type=int, default=TEST_SEED)
    test.add_argument("--json", type=Path, help="also write the numbers here")
    for command in (train, test):
        command.add_argument("--threads", type=int, default=1)


if __name__ == "__main__":
    raise SystemExit(main())
