"""What every source of frames gives: `Frame` values in order, with a clock and an identity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from effvision.errors import InputError, SourceError

__all__ = ["DEFAULT_FPS", "Frame", "Source", "check_fps"]

DEFAULT_FPS = 30.0
"""Frames per second assumed for pictures that come without a clock."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a stream.

    Attributes:
        image: (H, W, 3) uint8 RGB, contiguous. Belongs to the reader: nothing else writes to it.
        index: Place in its source, from 0.
        timestamp: Seconds since the first frame of its source.
        clocked: Whether that is known. False for arrays, iterables and images opened without `fps`: their timestamps assume
            30 frames a second, and a session takes each frame as the next one at its network's own rate.
        source: Identity of the stream it belongs to. When it changes, so has the scene: a session starts afresh.
        dropped: Frames of a live source that came between the last one given and this, and were skipped to keep up.
    """

    image: NDArray[np.uint8]
    index: int
    timestamp: float
    source: str
    clocked: bool = True
    dropped: int = 0

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"Frame({height}x{width}, index={self.index}, timestamp={self.timestamp:.3f}, source={self.source!r})"


class Source(ABC):
    """Frames in order; iterate over it, and close it or use it in a `with` block.

    Every `iter()` starts from the first frame again, except for iterators, which can be read once, and live sources, which go
    on with their newest frame.

    Attributes:
        name: What to call it on screen: a path, a pattern, "array", "camera 0", an address without its password.
        fps: Frames per second, None when unknown. For live sources it is what the device states.
        count: Frames it will give, None when unknown. For video files it is what the container states.
        live: Whether frames come as they happen, without an end.
    """

    live: bool = False

    def __init__(self, name: str, *, fps: float | None, count: int | None) -> None:
        self.name = name
        self.fps = fps
        self.count = count
        self._closed = False

    @abstractmethod
    def _frames(self) -> Iterator[Frame]:
        """Yield the frames from the first one on."""

    def __iter__(self) -> Iterator[Frame]:
        if self._closed:
            raise SourceError(f"{self.name} is closed\nhint: open it again with `open_source`")
        return self._frames()

    def close(self) -> None:
        """Let go of files and devices. A loop that is running ends after its current frame. May be called twice."""
        self._closed = True

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        fps = "unknown" if self.fps is None else f"{self.fps:g}"
        count = "unknown" if self.count is None else self.count
        return f"{type(self).__name__}({self.name!r}, fps={fps}, count={count})"


def check_fps(fps: object) -> float:
    """Return `fps` as a float; refuse what is no positive finite number."""
    try:
        value = float(fps)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if isinstance(fps, (str, bytes, bool)) or not 0 < value <= 100_000:
        raise InputError(f"`fps` must be a number of frames per second above 0; got {fps!r:.80}")
    return value
