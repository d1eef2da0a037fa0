"""Draws the README's picture from the generated sample: `python -m effvision.models.tsm.pictures`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast

import numpy as np

from effvision.models.tsm.predictor import TSM
from effvision.results import Classification
from effvision.viz import save_image

__all__ = ["draw"]

_COLUMNS = 4
_SHOWN = ("left", "right", "up", "down", "closer", "clockwise", "shake", "still")
_GAP = 8


def draw(path: Path) -> None:
    """Write eight frames of the sample, each drawn with the label the model gives it at that moment."""
    model = TSM.from_pretrained(runtime="onnx")
    best: dict[str, Classification] = {}
    with tempfile.TemporaryDirectory() as folder:
        for result in model.stream(TSM.write_sample(Path(folder) / "sample.mp4", card=model.metadata.card)):
            answer = cast(Classification, result)
            if answer.fresh and answer.settled and answer.score > getattr(best.get(answer.label), "score", 0.0):
                best[answer.label] = answer
    tiles = [best[label].plot() for label in _SHOWN]
    height, width, _ = tiles[0].shape
    rows = len(tiles) // _COLUMNS
    size = (rows * (height + _GAP) - _GAP, _COLUMNS * (width + _GAP) - _GAP, 3)
    sheet = np.full(size, 255, np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, _COLUMNS)
        top, left = row * (height + _GAP), column * (width + _GAP)
        sheet[top : top + height, left : left + width] = tile
    save_image(path, np.ascontiguousarray(sheet[::2, ::2]) if width > 320 else sheet)


if __name__ == "__main__":
    draw(Path(__file__).with_name("stream.png"))
