"""How `sige-scenes` is made, in one command.

    python -m effvision.models.sige.recipe_scenes train --out runs/scenes
    python -m effvision.models.sige.recipe_scenes evaluate runs/scenes/weights.safetensors
    python -m effvision.models.sige.recipe_scenes sheet runs/scenes/weights.safetensors --save sheet.png  # or .jpg

`train` is seeded, draws its scenes while it trains, keeps a checkpoint in `--out` and goes on from it after a kill. `evaluate`
measures on scenes of the split `test`, on which nothing is chosen (`--split validation` is for that).
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
from effvision.models.sige.recipe_scenes_evaluate import contact_sheet, measure
from effvision.models.sige.recipe_scenes_train import Settings, train
from effvision.models.sige.scenes import SPLITS
from effvision.models.sige.scenes_network import SceneGenerator
from effvision.training import load_weights

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, see the module's text; return its exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        if options.command == "train":
            names = (
                "out",
                "steps",
                "seed",
                "rate",
                "pictures",
                "crop",
                "painted",
                "judged",
                "workers",
                "device",
                "stop",
            )
            written = train(Settings(**{name: getattr(options, name) for name in names}))
            print(written or f"stopped; the same command goes on from {options.out / 'checkpoint.pt'}")
        elif options.command == "evaluate":
            _evaluate(options)
        else:
            network = load_weights(options.weights, SceneGenerator())
            print(contact_sheet(network, options.save, split=options.split, scenes=options.scenes))
    except EffvisionError as error:
        print(f"effvision: {error}", file=sys.stderr)
        return 1
    return 0


def _evaluate(options: argparse.Namespace) -> None:
    """Measure on held-out scenes, as laid out and painted on."""
    network = load_weights(options.weights, SceneGenerator())
    found = {}
    for name, painted in (("as laid out", 0.0), ("painted on", 1.0)):
        scores = measure(network, split=options.split, scenes=options.scenes, painted=painted)
        found[name] = scores.to_dict()
        print(f"{options.split}, {name}: {scores}", flush=True)
    if options.json:
        write_text(options.json, json.dumps(found, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m effvision.models.sige.recipe_scenes", description="Make and measure the generator of scenes."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train, or go on")
    defaults = Settings(Path())
    training.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the weights")
    for name, text in (
        ("steps", "optimiser steps"), ("seed", "of everything random"), ("rate", "highest learning rate"),
        ("pictures", "crops of a batch"), ("crop", "side of the crops in pixels"),
        ("painted", "share of scenes that have been painted on"), ("judged", "weight of the judge, 0 for none"),
        ("workers", "processes that draw scenes"), ("device", "cpu, cuda, ..."),
        ("stop", "stop after so many steps, to go on later"),
    ):  # fmt: skip
        value = getattr(defaults, name)
        training.add_argument(f"--{name}", type=type(value), default=value, help=f"{text} (default: {value})")
    for name, text in (("evaluate", "measure a weights file"), ("sheet", "draw a contact sheet")):
        command = commands.add_parser(name, help=text)
        command.add_argument("weights", type=Path)
        command.add_argument("--split", choices=SPLITS[1:], default="test")
        command.add_argument("--scenes", type=int, default=64 if name == "evaluate" else 8)
        if name == "evaluate":
            command.add_argument("--json", type=Path, help="also write the numbers here")
        else:
            command.add_argument("--save", type=Path, required=True, help="the .png or .jpg")
    for command in commands.choices.values():
        command.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
