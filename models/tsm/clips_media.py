"""Real pictures to render clips with, and which of them training may see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.errors import InputError, SourceError

cv2: Any = import_cv2()

__all__ = ["Media", "video_names"]

Array = NDArray[Any]

_PICTURE_WIDTH = 240  # media are kept at about this width

# whole clips and folders; see the README of this family for who and what is in them
_SPLITS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "films": ("bottle-detection", "store-aisle-detection", "head-pose-face-detection-female",
                  "head-pose-face-detection-female-and-male"),
        "stills": ("car-detection", "fruit-and-vegetable-detection"),
        "poses": tuple(f"hand/{name}" for name in (
            "closer", "down", "emergency", "follow", "further", "land", "palm", "photo", "take_off", "up", "video",
            "video_pause")),
    },
    "validation": {
        "films": ("classroom",),
        "stills": ("bolt-multi-size-detection", "people-detection", "face-demographics-walking",
                   "face-demographics-walking-and-pause"),
        "poses": ("hand/no_class", "body/no_class"),
    },
}  # fmt: skip


def video_names(split: str) -> tuple[str, ...]:
    """Names, without suffix, of the clips of `video/intel` that `Media.load` reads for `train` or `validation`."""
    return (*_SPLITS[split]["films"], *_SPLITS[split]["stills"])


@dataclass(frozen=True)
class Media:
    """Real pictures to render with.

    Attributes:
        stills: Pictures (H, W, 3), uint8 RGB, of any size: backgrounds, and textures of the object.
        films: Clips (T, H, W, 3), uint8 RGB, T >= 2: backgrounds that move a little by themselves.
    """

    stills: tuple[Array, ...]
    films: tuple[Array, ...] = ()

    @classmethod
    def load(cls, root: Path | str, split: str) -> Media:
        """Read one side of the split from a folder with `video/intel` and `gestures/poses`.

        Args:
            root: The data folder.
            split: `train` or `validation`; no clip, room or folder is in both.

        Raises:
            InputError: `split` is neither.
            SourceError: a file is missing or cannot be read.
        """
        if split not in _SPLITS:
            raise InputError(f"`split` must be one of {', '.join(_SPLITS)}; got {split!r}")
        names, root = _SPLITS[split], Path(root)
        films = [_read_film(root / "video" / "intel" / f"{name}.mp4") for name in names["films"]]
        others = [_read_film(root / "video" / "intel" / f"{name}.mp4") for name in names["stills"]]
        stills = [frame for film in others for frame in film[:: max(1, len(film) // 40)]]
        for name in names["poses"]:
            paths = sorted((root / "gestures" / "poses" / name).glob("*.jpg"))
            if not paths:
                raise SourceError(f"no pictures in {root / 'gestures' / 'poses' / name}\nhint: set EFFVISION_SHARED")
            stills += [_read_still(path) for path in paths]
        return cls(tuple(stills), tuple(films))


def _read_still(path: Path) -> Array:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise SourceError(f"cannot read the picture {path}")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)  # type: ignore[no-any-return]


def _read_film(path: Path) -> Array:
    capture = cv2.VideoCapture(str(path))
    frames = []
    every = 2 if capture.get(cv2.CAP_PROP_FPS) > 20 else 1  # near 12..15 a second, as the training clips
    for index in range(100_000):
        read, frame = capture.read()
        if not read:
            break
        if index % every == 0:
            height = round(frame.shape[0] * _PICTURE_WIDTH / frame.shape[1])
            small = cv2.resize(frame, (_PICTURE_WIDTH, height), interpolation=cv2.INTER_AREA)
            frames.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
    capture.release()
    if len(frames) < 2:
        raise SourceError(f"cannot read the clip {path}\nhint: the shared data folder is EFFVISION_SHARED")
    return np.stack(frames)
