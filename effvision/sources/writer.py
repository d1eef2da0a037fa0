"""Write a video file from RGB frames; it appears under its name only when it is whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._files import as_path
from effvision._optional import import_cv2
from effvision.errors import InputError, ShapeError, SourceError
from effvision.sources.arrays import as_frame
from effvision.sources.base import check_fps

__all__ = ["VideoWriter"]

_CODECS = {".mp4": ("avc1", "mp4v"), ".avi": ("MJPG",)}
"""Four-letter codecs by suffix, the best first."""


class VideoWriter:
    """A video file in the making; use it in a `with` block, or call `close`.

    `.mp4` holds H.264 where this OpenCV can encode it (browsers play it) and MPEG-4 part 2 otherwise; `.avi` holds
    motion JPEG. The frames go to a hidden file beside `path`, which `close` moves into place; an existing file is
    replaced. An exception inside the `with` block removes it, except KeyboardInterrupt: what was written until then is kept.

    Args:
        path: File to write, `.mp4` or `.avi`, in a folder that exists.
        fps: Frames per second.
        size: (height, width) of the frames in pixels. Codecs need even sizes: an odd one grows by one row or column,
            which repeats the last.

    Raises:
        DTypeError: `path` is neither text nor a path.
        InputError: another suffix, or an `fps` or `size` that is not possible.
        SourceError: the folder is missing or cannot be written to, or OpenCV cannot write such a file.
    """

    def __init__(self, path: str | os.PathLike[str], *, fps: float, size: tuple[int, int]) -> None:
        self.path = as_path(path)
        self.count = 0
        """Frames written so far."""
        self.fps = check_fps(fps)
        self.size = _check_size(size)
        codecs = _check_path(self.path)
        self._part = self.path.with_name(f".{self.path.stem[:100]}.{secrets.token_hex(4)}.part{self.path.suffix}")
        self._writer: Any = _open_writer(self._part, codecs, self.fps, self.size, asked=self.path)

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append one frame (H, W, 3) uint8 RGB.

        Raises:
            ShapeError: its size is not the one the writer was made for.
            InputError: the writer is closed, or `image` is no picture.
        """
        if self._writer is None:
            raise InputError(f"{self.path} is closed; no more frames can be written to it")
        picture = as_frame(image)
        if picture.shape[:2] != self.size:
            raise ShapeError(
                f"every frame of {self.path} must be {self.size[0]}x{self.size[1]} (height x width); "
                f"frame {self.count} is {picture.shape[0]}x{picture.shape[1]}"
            )
        cv2 = import_cv2()
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        odd_h, odd_w = self.size[0] % 2, self.size[1] % 2
        if odd_h or odd_w:
            bgr = cv2.copyMakeBorder(bgr, 0, odd_h, 0, odd_w, cv2.BORDER_REPLICATE)
        self._writer.write(bgr)
        self.count += 1

    def close(self) -> None:
        """Finish the file and move it into place. May be called twice.

        Raises:
            InputError: no frame was written, so there is no file.
            SourceError: the file could not be finished, for want of space perhaps.
        """
        if self._writer is None:
            return
        if self.count == 0:
            self.discard()
            raise InputError(f"no frame was written to {self.path}, so no file was made")
        self._writer.release()
        self._writer = None
        try:
            if self._part.stat().st_size == 0:
                raise OSError("OpenCV wrote nothing")
            os.replace(self._part, self.path)
        except OSError as error:
            self._remove_part()
            raise SourceError(f"{self.path} could not be finished: {error}") from error

    def discard(self) -> None:
        """Drop what was written; `path` stays as it was before."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            self._remove_part()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        if kind is None or (stopped and self.count):
            self.close()
        else:
            self.discard()

    def _remove_part(self) -> None:
        with contextlib.suppress(OSError):
            self._part.unlink()


def _check_path(path: Path) -> tuple[str, ...]:
    """Refuse before work starts what would fail at its end; return the codecs to try."""
    codecs = _CODECS.get(path.suffix.lower())
    if codecs is None:
        raise InputError(f"a video is written as {' or '.join(_CODECS)}; got {path.name!r}")
    if not path.parent.is_dir():
        raise SourceError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise SourceError(f"{path} cannot be written: it is a folder")
    if not os.access(path.parent, os.W_OK):
        raise SourceError(f"{path} cannot be written: no permission to write in {path.parent}")
    return codecs


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError) as error:
        raise InputError(f"`size` must be (height, width) in pixels; got {size!r:.80}") from error
    if not (1 <= height <= 16384 and 1 <= width <= 16384):
        raise InputError(f"`size` must be (height, width), 1 to 16384 pixels each; got {size!r:.80}")
    return height, width


def _open_writer(part: Path, codecs: tuple[str, ...], fps: float, size: tuple[int, int], *, asked: Path) -> Any:
    cv2 = import_cv2()
    even = (size[1] + size[1] % 2, size[0] + size[0] % 2)
    for codec in codecs:
        if codec == "avc1" and not _encodes_h264():
            continue
        writer = cv2.VideoWriter(str(part), cv2.VideoWriter_fourcc(*codec), fps, even)
        if writer.isOpened():
            return writer
        writer.release()
        with contextlib.suppress(OSError):
            part.unlink()
    raise SourceError(
        f"{asked} cannot be written: this OpenCV ({cv2.__version__}) opens no {' or '.join(codecs)} encoder for "
        f"{size[0]}x{size[1]} at {fps:g} frames per second"
    )


_PROBE = """
import os, sys, tempfile, cv2
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "probe.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"avc1"), 25, (64, 64))
    good = writer.isOpened()
    writer.release()
sys.exit(0 if good else 1)
"""


@lru_cache(maxsize=1)
def _encodes_h264() -> bool:
    """Whether OpenCV has an H.264 encoder. Asked in a process of its own: where it has none, FFmpeg fills stderr."""
    if getattr(sys, "frozen", False) or not sys.executable:  # the executable is an application, not Python
        return False
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
