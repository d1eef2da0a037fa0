"""What an exported file costs and whether it can be made again byte for byte, for the default card of every family.

Each card is exported twice by `effvision export CARD --out FILE.onnx`, each time in a process of its own.

    size_over_weights  bytes of the file over those of the network's parameters in fp32: weights and biases of every layer, and
                       gains and biases of batch normalisation (not its running statistics), before anything is folded
    export_s           seconds of the whole command, import of PyTorch and check against it included; the slower of the two
    identical          the two files are equal byte for byte

Then each whose family has int8 is quantised as `effvision export --int8` does, refused or not:

    int8_time          time of a step on int8 (`--int8 cpu`) over float32's, in turns; above 0.97 the export is refused
    int8_size          bytes of that file over the float32 one's
    int8_lost          points of accuracy lost on rendered labelled clips (`--int8 cpu`); above 1 the export is refused
    int8_trt_lost      likewise for `--int8 tensorrt`; its speed only TensorRT shows

Keys hold one value per family. Without `--quick` larger networks with random weights follow: their size and time mean
something, their answers do not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
import torch
from _machine import Figure, main

from effvision import cli
from effvision.cards import Card, list_cards
from effvision.checkpoints import find_weights, read_checkpoint
from effvision.export import Int8
from effvision.export.int8 import make_int8
from effvision.export.int8_report import Int8Report
from effvision.predictor import Predictor

SMALL_BYTES = 100_000
EXPORT_LIMITS_S = {"tsm": 20.0}


def parameter_bytes(card: Card) -> int:
    """Bytes of the parameters in a card's weights file in fp32: before anything is folded, running statistics left out."""
    tensors = read_checkpoint(find_weights(card))
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return sum(4 * tensor.numel() for name, tensor in tensors.items() if not name.endswith(statistics))


def export(card: Card, path: Path, *, smoke: bool) -> tuple[dict[str, Any], float]:
    """Run the command; return what it reports and its seconds. A smoke run spares itself the start of a process."""
    words = ["export", card.name, "--out", str(path), "--json"]
    started = time.perf_counter()
    if smoke:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert cli.main(words) == 0
        printed = said.getvalue()
    else:
        command = [sys.executable, "-m", "effvision", *words]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1]), time.perf_counter() - started


def measure_card(card: Card, folder: Path, *, smoke: bool) -> tuple[list[Figure], dict[str, Any]]:
    """Export one card twice."""
    files = [folder / f"{card.name}-{number}.onnx" for number in (1, 2)]
    made = [export(card, path, smoke=smoke) for path in files]
    (report, _), seconds = made[0], [taken for _, taken in made]
    weights = parameter_bytes(card)
    limit_s = EXPORT_LIMITS_S.get(card.family)
    limit = (
        ("<=", 1.02) if weights > SMALL_BYTES else None
    )  # the graph of a network of 358 numbers is larger than these
    figures = [
        Figure("size_over_weights", report["size"] / weights, limit, "file over fp32 parameters", card.family),
        Figure("export_s", max(seconds), ("<", limit_s) if limit_s else None, "the whole command", card.family),
        Figure("identical", files[0].read_bytes() == files[1].read_bytes(), ("is", True), "two processes", card.family),
    ]
    details = {
        "card": card.name,
        "file_bytes": report["size"],
        "parameter_bytes": weights,
        "nodes": report["nodes"],
        "opset": report["opset"],
        "command_s": [round(taken, 2) for taken in seconds],
        "without_start_s": [told["seconds"] for told, _ in made],
        "check": report["check"],
    }
    return figures, details


def quantised(model: Predictor, file: Path, how: Int8) -> Int8Report:
    """Quantise an exported float32 graph, as `export` does before it writes; return what that measured."""
    graph = onnx.load(file)
    del graph.metadata_props[:]  # not there yet when it is measured
    (spec,) = Predictor.from_pretrained(file).metadata.graphs.values()
    return make_int8(model, graph, spec, how)[1]


def measure_int8(card: Card, file: Path, *, smoke: bool) -> tuple[list[Figure], dict[str, Any]]:
    """Quantise one card's file in both forms, where the family has int8: it brings labelled examples to judge by there."""
    model = Predictor.from_pretrained(card.name, runtime="torch")
    if model.rendered_examples("judge") is None:
        return [], {"refused": "this family has no int8"}
    few: dict[str, Any] = {}
    if smoke:
        clips = [clip for clip, _ in islice(model.rendered_examples("calibrate") or (), 12)]
        few = {
            "calibration": clips,
            "labelled": list(islice(model.rendered_examples("judge") or (), 4)),
            "rule": "minmax",
        }
    found = {form: quantised(model, file, Int8(form, force=True, **few)) for form in ("cpu", "tensorrt")}
    lost = {form: (one.right_float - one.right_int8) / max(1, one.labelled) * 100 for form, one in found.items()}
    cpu = found["cpu"]
    figures = [
        Figure("int8_time", cpu.time_ratio or math.nan, None, "int8 step over float32 step, in turns", card.family),
        Figure("int8_size", cpu.size / cpu.float_size, None, "int8 file over float32 file", card.family),
        Figure("int8_lost", lost["cpu"], ("<=", 1.0), "points of accuracy lost, for processors", card.family),
        Figure("int8_trt_lost", lost["tensorrt"], ("<=", 1.0), "points of accuracy lost, for TensorRT", card.family),
    ]
    return figures, {form: one.to_dict() | {"layers": len(one.layers)} for form, one in found.items()}


def measure_large(folder: Path) -> dict[str, Any]:
    """Quantise streaming networks of usual sizes with random weights, for processors."""
    from effvision import TSM
    from effvision.models.tsm.clips import LABELS, render_clip
    from effvision.models.tsm.network import build, randomise

    clips = [render_clip(LABELS[n % 10], frames=16, size=(224, 224), fps=12.0, seed=n) for n in range(12)]
    table = {}
    for backbone in ("mobilenetv2", "resnet18", "resnet50"):
        print(f"quantising {backbone} at 224x224", file=sys.stderr, flush=True)
        torch.manual_seed(0)
        network = randomise(build(10, backbone=backbone, shift="causal")).eval()
        model = TSM.from_network(network, labels=LABELS, size=(224, 224), fps=12.0)
        how = Int8("cpu", calibration=clips, rule="mse", force=True)
        report = quantised(model, model.export(folder / f"{backbone}.onnx").path, how)
        table[f"{backbone} 224x224, random weights"] = {
            "float_mb": report.float_size / 1e6,
            "int8_mb": report.size / 1e6,
            "float_ms": report.float_ms,
            "int8_ms": report.int8_ms,
            "time_ratio": report.time_ratio,
            "relative_rms": report.relative_rms,
        }
    return table


def measure(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """Export and quantise the default card of every family; the full run quantises larger networks too."""
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for card in (card for card in list_cards() if card.default):
            print(f"exporting {card.name} twice", file=sys.stderr, flush=True)
            found, details[card.family] = measure_card(card, Path(folder), smoke=options.smoke)
            print(f"quantising {card.name}", file=sys.stderr, flush=True)
            file = Path(folder) / f"{card.name}-1.onnx"
            more, details[f"{card.family}, int8"] = measure_int8(card, file, smoke=options.smoke)
            figures += found + more
        if not (options.quick or options.smoke):
            details["larger networks, int8"] = measure_large(Path(folder))
    return figures, details


if __name__ == "__main__":
    sys.exit(main(measure, __doc__ or ""))
