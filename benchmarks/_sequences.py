"""Sequences to track on: those of the data folder, and generated ones where it is absent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from _machine import DataFile
from numpy.typing import NDArray

from effvision.models.patchnet.sample import render

__all__ = [
    "CROSSING",
    "DRAGONBABY",
    "SNIPPET",
    "WEIGHTS",
    "Sequence",
    "Snippet",
    "generated",
    "read_sequence",
    "read_snippet",
]

_REPOSITORY = "https://github.com/RalphMao/PatchNet"
CROSSING = DataFile(
    "patchnet/Crossing/groundtruth_rect.txt",
    f"{_REPOSITORY}, data/OTB/Crossing",
    "517efde603176e40e9c6b50520900d9dbfa1e18bcb4c2b1ea66c9fe141057b90",
)
DRAGONBABY = DataFile(
    "patchnet/DragonBaby/groundtruth_rect.txt",
    "https://github.com/hyeonseobnam/py-MDNet, datasets/OTB/DragonBaby",
    "f4402d9c0752467fcc5aec36561143b9cfd54023d50e5769b6dca2160b3b8db1",
)
SNIPPET = DataFile(
    "patchnet/VID/rfcn_res101_val_00142000.txt",
    f"{_REPOSITORY}, data/VID",
    "9d2914f8c172452180b806df2dd7acfaf3916441122d0ca9a886c5621f46795f",
)
WEIGHTS = DataFile(
    "patchnet/patchnet.pth",
    f"{_REPOSITORY}, pretrained/patchnet.pth",
    "7023ec1b18c4bf116daec222551a3bbc8405cb64767a1dffc0931ca8e1774ec8",
)


@dataclass(frozen=True)
class Sequence:
    """One object through a film.

    Attributes:
        frames: (H, W, 3) uint8 RGB.
        truth: (T, 4) `x1 y1 x2 y2`, from 0.
        folder: Of the pictures; None if generated.
    """

    frames: list[NDArray[np.uint8]]
    truth: NDArray[np.float64]
    folder: Path | None = None


@dataclass(frozen=True)
class Snippet:
    """A film and what a detector found in each of its frames: frame, class, score and box of each detection."""

    frames: list[NDArray[np.uint8]]
    index: NDArray[np.int64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]


def _picture(path: Path) -> NDArray[np.uint8]:
    return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])


def read_sequence(data: DataFile, folder: Path) -> Sequence | None:
    """Read a sequence of OTB, whose boxes are x y width height counted from 1."""
    found = data.find(folder)
    if found is None:
        return None
    rows = np.array([line.replace(",", " ").split() for line in found.read_text().split("\n") if line], float)
    pictures = sorted((found.parent / "img").iterdir())[: len(rows)]
    corner = rows[:, :2] - 1
    return Sequence(
        [_picture(path) for path in pictures], np.hstack([corner, corner + rows[:, 2:]]), found.parent / "img"
    )


def read_snippet(folder: Path, least: float) -> Snippet | None:
    """Read a snippet of ImageNet VID with the detections that are sure enough."""
    found = SNIPPET.find(folder)
    if found is None:
        return None
    rows = np.loadtxt(found)
    rows = rows[rows[:, 2] >= least]
    pictures = sorted((found.parent / "ILSVRC2015_val_00142000").iterdir())
    return Snippet(
        [_picture(path) for path in pictures],
        rows[:, 0].astype(np.int64),
        rows[:, 1].astype(np.int64),
        rows[:, 2],
        rows[:, 3:],
    )


def generated(frames: int) -> Sequence:
    """A balloon of the sample."""
    shown = list(render(frames))
    return Sequence([image for image, _ in shown], np.array([boxes[0] for _, boxes in shown]))
