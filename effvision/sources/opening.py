"""`open_source`: one door for everything frames can come from. Each kind has a file of its own beside this one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from effvision.errors import DTypeError, InputError, SourceError
from effvision.sources.arrays import (
    ArraySource,
    Color,
    IterableSource,
    check_color,
    is_picture_like,
    refuse_color_of_file,
)
from effvision.sources.base import Source, check_fps
from effvision.sources.files import open_path, open_paths

__all__ = ["open_source"]

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def open_source(x: object, *, fps: float | None = None, color: Color = "rgb") -> Source:
    """Return the frames of `x` as a `Source`: (H, W, 3) uint8 RGB pictures with index, timestamp and identity.

    Args:
        x: One of
            - path of a video file: timestamps are the container's own while they rise, index / fps otherwise;
            - path of an image file; of a folder of images (one sequence, sorted naturally) or of videos (each a stream
              of its own); a glob pattern (`clips/*.mp4`, `**` looks into folders); a list of paths;
            - numpy array (H, W, 3), or clip (T, H, W, 3), uint8 or float 0..1; PIL image;
              torch tensor (3, H, W), (H, W, 3), (T, 3, H, W) or (T, H, W, 3);
            - iterable or iterator of such pictures, of pairs (picture, seconds), or of `Frame`.
        fps: Frames per second. For arrays, iterables and images: their clock, 30 when not given. For a video file it
            replaces the times stored in it.
        color: Channel order of arrays and iterables, "bgr" for what OpenCV reads, "grey" for one channel. Files always
            come out as RGB; a `color` for them is refused.

    Raises:
        SourceError: a file, folder or address that cannot be read. A video that is cut short raises it at its end.
        InputError: something that is no source, or pictures that cannot be used (ShapeError, DTypeError, RangeError).
            Those of an iterable are raised while iterating.
    """
    check_color(color)
    rate = None if fps is None else check_fps(fps)
    if isinstance(x, Source):
        if rate is not None or color != "rgb":
            raise InputError("this source is open already: give `fps` and `color` where it was opened")
        return x
    if isinstance(x, str) and _ADDRESS.match(x):
        raise SourceError(_live(f"the address {x}"))
    if isinstance(x, (int, np.integer)) and not isinstance(x, bool):
        raise SourceError(_live(f"camera {x}"))
    if isinstance(x, (str, Path)):
        refuse_color_of_file(color)
        return open_path(x, fps=rate)
    if is_picture_like(x):
        return ArraySource(x, fps=rate, color=color)
    if isinstance(x, (list, tuple)) and x and all(isinstance(item, (str, Path)) for item in x):
        refuse_color_of_file(color)
        return open_paths(x, fps=rate)
    if isinstance(x, Iterable) and not isinstance(x, (bytes, bytearray, memoryview, dict, set, frozenset)):
        return IterableSource(x, fps=rate, color=color)
    raise DTypeError(
        f"frames cannot be read from {type(x).__name__}\n"
        "hint: give a path, an array (H, W, 3) or (T, H, W, 3), a PIL image, a tensor, or an iterable of pictures"
    )


def _live(what: str) -> str:
    return (
        f"{what}: live sources arrive with the next version\n"
        "hint: read the frames yourself and hand each to a session:\n"
        "    while True:\n"
        "        result = session.update(frame)   # frame: (H, W, 3) uint8 RGB"
    )
