"""Sample media of this family, generated: nothing is downloaded and nobody's picture is shipped."""

from __future__ import annotations

import os
from pathlib import Path

from effvision.models.tsm.clips import render_segments
from effvision.sources import VideoWriter

__all__ = ["write_sample"]

_FPS = 24.0
_SIZE = (240, 320)
_SEGMENTS = (("still", 1.0), ("left", 1.5), ("right", 1.5), ("up", 1.5), ("down", 1.5), ("shake", 1.5), ("still", 1.0))


def write_sample(path: str | os.PathLike[str], *, seed: int = 0) -> Path:
    """Write a video of a textured thing that moves left, right, up, down and shakes; 320x240, 24 frames a second.

    Raises:
        InputError: the suffix is no video's.
        SourceError: the folder does not exist or cannot be written.
    """
    frames, _ = render_segments(_SEGMENTS, size=_SIZE, fps=_FPS, seed=seed)
    with VideoWriter(Path(path), fps=_FPS, size=_SIZE) as video:
        for frame in frames:
            video.write(frame)
    return Path(path)
