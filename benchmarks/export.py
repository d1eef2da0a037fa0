"""What an exported file costs and whether it can be made again byte for byte, for the default card of every family.

Each card is exported twice by `effvision export CARD --out FILE.onnx`, each time in a process of its own.

    size_over_weights  bytes of the file over those of the network's parameters in fp32: weights and biases of every layer, and
                       gains and biases of batch normalisation (not its running statistics), before anything is folded
    export_s           seconds of the whole command, import of PyTorch and check against it included; the slower of the two
    identical          the two files are equal byte for byte

Keys hold one value per family. The table of int8 accuracy and size arrives with quantisation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _machine import Figure, main

from effvision.cards import Card, list_cards
from effvision.predictor import Predictor

EXPORT_LIMITS_S = {"tsm": 20.0}


def parameter_bytes(card: Card) -> int:
    """Bytes of the parameters of a card's networks in fp32."""
    model = Predictor.untrained(card.name)
    modules = model.runtime.modules.values()  # type: ignore[attr-defined]
    return sum(4 * parameter.numel() for module in modules for parameter in module.parameters())


def export(card: Card, path: Path) -> tuple[dict[str, Any], float]:
    """Run the command; return what it reports and its seconds."""
    command = [sys.executable, "-m", "effvision", "export", card.name, "--out", str(path), "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - started


def measure_card(card: Card, folder: Path) -> tuple[list[Figure], dict[str, Any]]:
    """Export one card twice."""
    files = [folder / f"{card.name}-{number}.onnx" for number in (1, 2)]
    made = [export(card, path) for path in files]
    (report, _), seconds = made[0], [taken for _, taken in made]
    weights = parameter_bytes(card)
    limit_s = EXPORT_LIMITS_S.get(card.family)
    figures = [
        Figure("size_over_weights", report["size"] / weights, ("<=", 1.02), "file over fp32 parameters", card.family),
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


def measure(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """Export the default card of every family; `--quick` and the full run do the same."""
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for card in (card for card in list_cards() if card.default):
            print(f"exporting {card.name} twice", file=sys.stderr, flush=True)
            found, details[card.family] = measure_card(card, Path(folder))
            figures += found
    details["int8"] = "arrives with quantisation"
    return figures, details


if __name__ == "__main__":
    sys.exit(main(measure, __doc__ or ""))
