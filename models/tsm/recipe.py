"""How `tsm-mobilenetv2-motion` is made, in one command.

    python -m effvision.models.tsm.recipe train --out runs/motion
    python -m effvision.models.tsm.recipe evaluate weights/tsm-mobilenetv2-motion.safetensors
    python -m effvision.models.tsm.recipe control --out runs/motion-control
    python -m effvision.models.tsm.recipe rule
    python -m effvision.models.tsm.recipe real

`train` is seeded, writes a checkpoint every few minutes and goes on from it after a kill. `control` trains the same network
without shift, which sees single frames only. `rule` chooses the card's smoothing on the training side; `real` then measures the
weights on footage that training has not seen, and chooses nothing. Pictures: frames of `video/intel` (CC BY 4.0) and
`gestures/poses` (MIT) under EFFVISION_SHARED (default: `shared` beside the repository). `--dry-run` needs no data and takes
seconds.

On Linux, large pages and no mmap for tensors make training on the CPU up to twice as fast:
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from effvision.cards import get_card
from effvision.checkpoints import find_weights
from effvision.errors import EffvisionError
from effvision.models.tsm.network import Direction
from effvision.models.tsm.recipe_data import Stage, data_root
from effvision.models.tsm.recipe_evaluate import VALIDATION_SEED, Report, evaluate, load_motion
from effvision.models.tsm.recipe_real import measure_real, measure_rule
from effvision.models.tsm.recipe_train import Settings, check_device, train

__all__ = ["dry_settings", "main"]

CONTROL_STEPS = 400  # its loss is flat long before


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
    if options.command in ("real", "rule"):
        data = options.data or data_root()
        weights = options.weights or find_weights(get_card("tsm-mobilenetv2-motion"))
        if options.command == "rule":
            measure_rule(weights, data, seed=options.seed, as_json=options.json)
        else:
            measure_real(weights, data, clips=options.clips, seed=options.seed, as_json=options.json)
        return
    root = None if options.dry_run else data_root()
    clips = 20 if options.dry_run else options.clips
    if options.command == "evaluate":
        network = load_motion(options.weights, options.shift).to(check_device(options.device))
        for frames, warm in ((options.frames, 0), (options.frames, 6)):
            report = evaluate(
                network, root=root, split=options.split, clips=clips, seed=options.clip_seed, frames=frames, warm=warm
            )
            _say(
                report, f"{options.split}, {clips} clips, {frames} frames after {warm} of another motion", options.json
            )
        return
    shift: Direction = "none" if options.command == "control" else "causal"
    settings = Settings(
        out=options.out, steps=options.steps, seed=options.seed, shift=shift, workers=options.workers,
        device=check_device(options.device), root=root,
    )  # fmt: skip
    if options.dry_run:
        settings = dry_settings(settings)
    began = time.monotonic()
    weights = train(settings)
    print(f"{weights}: {settings.steps} steps, {(time.monotonic() - began) / 60:.1f} min in this run")
    network = load_motion(weights, shift)
    _say(evaluate(network, root=root, clips=clips), f"validation, {clips} clips", settings.out / "report.json")


def dry_settings(settings: Settings) -> Settings:
    """The same training, tiny: a few steps of a few small procedural clips, rendered in this process."""
    stages = (
        Stage(until=0.5, clips=4, frames=6, easy=1.0, changing=0.0),
        Stage(until=1.0, clips=4, frames=8, easy=0.5, changing=0.5),
    )
    return replace(settings, steps=min(settings.steps, 6), stages=stages, root=None, workers=0, every=2, size=32)


def _say(report: Report, title: str, path: Path | None) -> None:
    print(f"\n{title}\n{report}")
    if path is not None:
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, title: report.facts()}, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m effvision.models.tsm.recipe", description="Train the motion weights."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train_parser = commands.add_parser("train", help="train the causal network")
    control = commands.add_parser("control", help="train the same network without shift")
    test = commands.add_parser("evaluate", help="measure a weights file on held-out clips")
    for command, steps in ((train_parser, Settings(Path()).steps), (control, CONTROL_STEPS)):
        command.add_argument(
            "--out", type=Path, required=True, help="folder of the checkpoint, the weights and the report"
        )
        command.add_argument("--steps", type=int, default=steps)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--workers", type=int, default=1, help="processes that render clips")
    test.add_argument("weights", type=Path)
    test.add_argument("--shift", choices=("causal", "none"), default="causal", help="none: the control's weights")
    test.add_argument("--split", choices=("validation", "train"), default="validation")
    test.add_argument("--frames", type=int, default=10)
    test.add_argument("--clip-seed", type=int, default=VALIDATION_SEED)
    test.add_argument("--json", type=Path, help="also write the numbers here")
    for command in (train_parser, control, test):
        command.add_argument("--clips", type=int, default=2000, help="held-out clips to measure on")
        command.add_argument("--threads", type=int, default=os.cpu_count() or 1)
        command.add_argument("--device", default="cpu")
        command.add_argument("--dry-run", action="store_true", help="a few tiny steps without any data")
    for name, text in (
        ("rule", "choose the smoothing of the card on the training side"),
        ("real", "measure a weights file on real footage that training has not seen"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("weights", type=Path, nargs="?", help="default: the bundled file")
        command.add_argument("--data", type=Path, metavar="DIR", help="folder with `gestures` and `video`")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--threads", type=int, default=os.cpu_count() or 1)
        command.add_argument("--json", action="store_true", help="print one JSON object last")
    command.add_argument("--clips", type=int, default=1000, help="rendered held-out clips of each length; 0 for none")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
