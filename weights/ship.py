"""Put trained weights into the package: `python -m effvision.weights.ship CARD FILE`.

Writes the weights with the card's name in their header, exports and checks the ONNX file beside them, and renews `index.toml`.
Run from a checkout; users never need it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from effvision._files import appearing, sha256, write_text
from effvision.cards import Card, get_card, list_cards
from effvision.checkpoints import read_checkpoint
from effvision.errors import CheckpointError, EffvisionError
from effvision.predictor import Predictor

__all__ = ["main", "ship", "write_index"]

FOLDER = Path(__file__).resolve().parent


def ship(card: Card, file: Path) -> None:
    """Install `file` as the bundled weights of `card`, with its exported file, or leave everything as it was.

    Raises:
        CheckpointError: the file does not fit the card's network.
        ExportError: the exported file differs from PyTorch.
    """
    from safetensors.torch import save_file

    tensors = dict(read_checkpoint(file))
    if not tensors:
        raise CheckpointError(f"{file} holds no tensor")
    target = FOLDER / card.weights
    with appearing(target) as temporary:
        save_file(
            {name: tensors[name].contiguous() for name in sorted(tensors)}, temporary, metadata={"card": card.name}
        )
        Predictor.from_pretrained(temporary, runtime="torch").export(FOLDER / card.onnx, batch="dynamic")
    write_index()


def write_index() -> None:
    """Renew `index.toml`: every bundled file with its SHA-256, size, licence and origin."""
    lines = ["# Written by `python -m effvision.weights.ship`; `effvision doctor` compares it with the files.", ""]
    for card in list_cards():
        for name in (card.weights, card.onnx) if card.bundled else ():
            path = FOLDER / name
            lines += [
                f'["{name}"]',
                f'card = "{card.name}"',
                f'sha256 = "{sha256(path)}"',
                f"bytes = {path.stat().st_size}",
                f'licence = "{card.licence}"',
                f'data = "{card.data}"',
                f'made_by = "{card.made_by}"',
                "",
            ]
    write_text(FOLDER / "index.toml", "\n".join(lines))


def main() -> int:
    """Ship one file; see the module's description."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("card")
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    try:
        ship(get_card(options.card), options.file)
    except EffvisionError as error:
        sys.stderr.write(f"effvision: {error}\n")
        return 1
    for path in sorted(FOLDER.glob(f"{options.card}.*")):
        sys.stdout.write(f"{path.name}  {path.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
