"""Draws the README's picture from the generated sample: `python -m effvision.models.tsm.pictures`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast

import numpy as np

from effvision.host.image import resize_crop
from effvision.models.tsm.predictor import TSM
from effvision.results import Classification, Timing
from effvision.viz import save_image

__all__ = ["draw"]

_COLUMNS = 4
_SHOWN = ("left", "right", "up", "down", "away", "clockwise", "shake", "still")
_GAP = 8


def draw(path: Path) -> None:
    """Write eight frames of the sample, each drawn with the label the model gives it at that moment."""
    model = TSM.from_pretrained(runtime="onnx")
    seen: dict[str, list[Classification]] = {label: [] for label in _SHOWN}
    with tempfile.TemporaryDirectory() as folder:
        for result in model.stream(TSM.write_sample(Path(folder) / "sample.mp4", card=model.metadata.card)):
            answer = cast(Classification, result)
            if answer.fresh and answer.score > 0.6 and answer.label in seen:
                seen[answer.label].append(answer)
    tiles = [_tile(seen[label][len(seen[label]) // 2]) for label in _SHOWN]
    height, width, _ = tiles[0].shape
    rows = len(tiles) // _COLUMNS
    size = (rows * (height + _GAP) - _GAP, _COLUMNS * (width + _GAP) - _GAP, 3)
    sheet = np.full(size, 255, np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, _COLUMNS)
        top, left = row * (height + _GAP), column * (width + _GAP)
        sheet[top : top + height, left : left + width] = tile
    save_image(path, sheet)


def _tile(answer: Classification) -> np.ndarray:
    """The frame at 320x240 with its label, timing left out: it says nothing about the reader's machine."""
    assert answer.image is not None
    small = resize_crop(answer.image, short_side=None, size=(240, 320), mode="stretch")
    return answer.replace(timing=Timing()).plot(small)


if __name__ == "__main__":
    draw(Path(__file__).with_name("stream.png"))
