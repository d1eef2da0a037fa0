"""Sample media of this family, generated: nothing is downloaded and nobody's picture is shipped."""

from __future__ import annotations

import os
from pathlib import Path

from effvision._files import as_path
from effvision.models.tsm.clips import render_segments
from effvision.sources import VideoWriter

__all__ = ["write_sample"]

_FPS = 24.0
_SIZE = (360, 480)
_FIRST = 15  # the seed of the default sample: one whose colours a person reads at once
_SEGMENTS = (
    ("still", 1.0),
    ("left", 1.2),
    ("right", 1.2),
    ("up", 1.2),
    ("down", 1.2),
    ("closer", 1.2),
    ("away", 1.2),
    ("clockwise", 1.2),
    ("counter-clockwise", 1.2),
    ("shake", 1.5),
    ("still", 1.0),
)


def write_sample(path: str | os.PathLike[str], *, seed: int = 0) -> Path:
    """Write a video of a drawn hand that goes through every motion once; 480x360, 24 frames a second.

    Raises:
        InputError: the suffix is no video's.
        SourceError: the folder does not exist or cannot be written.
    """
    # the writer first: it refuses a wrong name before seconds of drawing
    with VideoWriter(as_path(path), fps=_FPS, size=_SIZE) as video:
        frames, _ = render_segments(_SEGMENTS, size=_SIZE, fps=_FPS, seed=_FIRST + seed)
        for frame in frames:
            video.write(frame)
    return Path(path)
