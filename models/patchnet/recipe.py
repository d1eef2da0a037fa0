"""How `patchnet-synthetic` is made, in one command.

    python -m effvision.models.patchnet.recipe train --out runs/patchnet
    python -m effvision.models.patchnet.recipe evaluate runs/patchnet/weights.safetensors
    python -m effvision.models.patchnet.recipe control

`train` is seeded, keeps the pairs it renders and a checkpoint in `--out` and goes on from both after a kill. `evaluate`
measures on held-out media, on which nothing is chosen (`--split validation` is for that), and on real sequences that no
training sees; `control` does the same with the structural start. Pictures: frames of `video/intel` (CC BY 4.0) and
`gestures/poses` (MIT) under EFFVISION_SHARED (default: `shared` beside the repository); to test, also `textures/photos`,
`video/sam2` and `patchnet`.

On Linux, keeping freed memory makes a step on a busy CPU up to twice as fast:
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456
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
from effvision.models.patchnet.recipe_data import SPLITS, cached_pairs, data_root
from effvision.models.patchnet.recipe_evaluate import load_matcher, measure_sequences, score_pairs
from effvision.models.patchnet.recipe_train import LOSSES, Settings, train

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, see the module's text; return its exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        if options.command == "train":
            _train(options)
        else:
            _evaluate(options)
    except EffvisionError as error:
        print(f"effvision: {error}", file=sys.stderr)
        return 1
    return 0


def _train(options: argparse.Namespace) -> None:
    settings = Settings(
        options.out, options.data or data_root(), zero_mean=options.zero_mean, loss=options.loss, steps=options.steps,
        seed=options.seed, rendered=options.rendered, real=options.real, calibrated=options.calibrated, share=options.share,
        photos=options.photos,
    )  # fmt: skip
    print(train(settings))


def _evaluate(options: argparse.Namespace) -> None:
    """Measure on pairs of a split, rendered and real, and on the sequences."""
    root: Path = options.data or data_root()
    network = load_matcher(options.weights, zero_mean=options.zero_mean)
    found: dict[str, object] = {"zero_mean": options.zero_mean}
    for kind, counts in (("rendered", (options.pairs, 0)), ("real", (0, options.pairs))):
        pairs = cached_pairs(options.cache, root, options.split, rendered=counts[0], real=counts[1], seed=0)
        scores = score_pairs(network, pairs)
        found[f"{options.split} {kind}"] = scores.to_dict()
        print(f"{options.split}, {kind}: {scores}", flush=True)
    if options.split == "test":
        for name, value in measure_sequences(network, root / "patchnet").items():
            found[name] = value
            print(f"{name}: {value}", flush=True)
    if options.json:
        write_text(options.json, json.dumps(found, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m effvision.models.patchnet.recipe", description="Make and measure weights of PatchNet."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train from the structural start")
    defaults = Settings(Path(), Path())
    training.add_argument("--out", type=Path, required=True, help="folder of the pairs, the checkpoint and the weights")
    training.add_argument("--steps", type=int, default=defaults.steps)
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--loss", choices=LOSSES, default=defaults.loss)
    training.add_argument("--rendered", type=int, default=defaults.rendered, help="rendered pairs to train on")
    training.add_argument("--real", type=int, default=defaults.real, help="pairs of real motion to train on")
    training.add_argument(
        "--calibrated",
        type=int,
        default=defaults.calibrated,
        help="held-out pairs that edges are scaled by; 0 for none",
    )
    training.add_argument(
        "--share",
        type=float,
        default=defaults.share,
        help="how far to go from the structural start to the trained weights",
    )
    training.add_argument("--photos", action="store_true", help="also photos of unclear origin: not to be shared")
    test = commands.add_parser("evaluate", help="measure a weights file, ours or the authors'")
    test.add_argument("weights", type=Path)
    control = commands.add_parser("control", help="measure the structural start")
    control.set_defaults(weights=None)
    for command in (test, control):
        command.add_argument("--split", choices=SPLITS[1:], default="test")
        command.add_argument("--pairs", type=int, default=1000, help="of each kind")
        command.add_argument("--cache", type=Path, default=Path("runs/patchnet-pairs"), help="folder of rendered pairs")
        command.add_argument("--json", type=Path, help="also write the numbers here")
    for command in (training, test, control):
        command.add_argument(
            "--zero-mean", action=argparse.BooleanOptionalAction, default=True, help="templates less their mean colour"
        )
        command.add_argument("--data", type=Path, metavar="DIR", help="the data folder")
        command.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
