"""`open_source`: one door for everything frames can come from. Each kind has a file of its own beside this one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
from effvision.sources.devices import is_live
from effvision.sources.files import open_path, open_paths
from effvision.sources.live import LiveSource
from effvision.sources.network import masked

__all__ = ["open_source"]


def open_source(x: object, *, fps: float | None = None, color: Color = "rgb") -> Source:
    """Return the frames of `x` as a `Source`: (H, W, 3) uint8 RGB pictures with index, timestamp and identity.

    Args:
        x: One of
            - path of a video file: timestamps are the container's own while they rise, index / fps otherwise;
            - path of an image file; of a folder of images (one sequence, sorted naturally) or of videos (each a stream
              of its own); a glob pattern (`clips/*.mp4`, `**` looks into folders); a list of paths;
            - numpy array (H, W, 3), or clip (T, H, W, 3), uint8 or float 0..1; PIL image;
              torch tensor (3, H, W), (H, W, 3), (T, 3, H, W) or (T, H, W, 3);
            - iterable or iterator of such pictures, of pairs (picture, seconds), or of `Frame`;
            - number of a camera (0) or, on Linux, its "/dev/video0"; address ("rtsp://", "http://", "rtmp://", "udp://", ...);
              "csi://0" (Jetson); GStreamer pipeline, known by its " ! ". See `LiveSource`, which has options besides. A string
              of digits is the name of a file.
        fps: Frames per second. For arrays, iterables and images: their clock, 30 when not given. For a video file it
            replaces the times stored in it. Live sources have a clock of their own; `fps` is refused.
        color: Channel order of arrays and iterables, "bgr" for what OpenCV reads, "grey" for one channel. Files and live
            sources always come out as RGB; a `color` for them is refused.

    Raises:
        SourceError: a file, folder, camera or address that cannot be read. A video that is cut short raises it at its end, a
            live source that is lost for good while iterating.
        MissingDependencyError: a GStreamer pipeline, and this OpenCV was built without GStreamer.
        InputError: something that is no source, or pictures that cannot be used (ShapeError, DTypeError, RangeError).
            Those of an iterable are raised while iterating.
    """
    check_color(color)
    rate = None if fps is None else check_fps(fps)
    if isinstance(x, Source):
        if rate is not None or color != "rgb":
            raise InputError("this source is open already: give `fps` and `color` where it was opened")
        return x
    if is_live(x):
        return _open_live(x, rate, color)
    if isinstance(x, (str, Path)):
        refuse_color_of_file(color)
        _hint_at_camera(x)
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
        "hint: give a path, an array (H, W, 3) or (T, H, W, 3), a PIL image, a tensor, an iterable of pictures, "
        "a camera number or an address"
    )


def _open_live(x: Any, fps: float | None, color: Color) -> Source:
    if fps is not None:
        raise InputError(f"{_shown(x)} is live: its frames come when they come\nhint: leave `fps` out")
    if color != "rgb":
        raise InputError(
            f"`color={color!r}` is for arrays; a live source gives RGB whatever it sends\nhint: leave `color` out"
        )
    return LiveSource(x)


def _shown(x: Any) -> str:
    return masked(str(x)) if isinstance(x, (str, Path)) else f"camera {x}"


def _hint_at_camera(x: str | Path) -> None:
    """Say how cameras are named to whom "0" comes from a command line or a form."""
    text = str(x)
    if text.isascii() and text.isdecimal() and len(text) < 4 and not Path(text).exists():
        raise SourceError(
            f"{text} does not exist: a string is the name of a file\nhint: camera {text} is the number {text}"
        )
