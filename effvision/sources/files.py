"""Frames from image files, video files, folders and patterns. OpenCV decodes; everything leaves here as RGB."""

from __future__ import annotations

import difflib
import glob
import math
import os
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.errors import SourceError
from effvision.sources.base import DEFAULT_FPS, Frame, Source
from effvision.sources.sniff import IMAGE_SUFFIXES, VIDEO_SUFFIXES, looks_like_image, why_no_video

__all__ = [
    "ContainerClock",
    "ImageFiles",
    "VideoFile",
    "VideoFiles",
    "labelled_folder",
    "missing",
    "natural_order",
    "open_path",
    "open_paths",
    "read_image",
]

_ENOUGH = 0.9  # of the frames a container states; fewer means the file is cut short or damaged
_PLAUSIBLE_FPS = 1000.0
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Return an image file as (H, W, 3) uint8 RGB, upright as its EXIF data says; alpha is dropped, 16 bits become 8.

    Raises:
        SourceError: the file is missing, empty, cut short, or no image OpenCV reads.
    """
    path = Path(path)
    data = _read_bytes(path)
    if data[:2] == b"\xff\xd8" and data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN):
        raise SourceError(f"{path} is a JPEG file that is cut short: its end marker is missing ({len(data)} bytes)")
    cv2 = import_cv2()
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError) as error:
        raise SourceError(f"{path} could not be decoded as an image: {error}") from error
    if bgr is None:
        raise SourceError(f"{path} is not an image OpenCV can read ({len(data)} bytes): damaged, or of another kind")
    rgb: NDArray[np.uint8] = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb


def open_path(text: str | Path, *, fps: float | None = None) -> Source:
    """Open a file, a folder or a glob pattern.

    Raises:
        SourceError: nothing is there, or it holds neither images nor videos.
    """
    name = os.path.expanduser(str(text))
    if not name:
        raise SourceError("the path is empty")
    try:
        path = Path(name)
        if path.is_dir():
            return _open_files(str(path), sorted(_visible(path), key=natural_order), fps=fps, described="the folder")
        if path.exists():
            return _open_file(path, fps=fps)
        if glob.has_magic(name):
            found = [Path(item) for item in glob.glob(name, recursive=True) if os.path.isfile(item)]
            return _open_files(name, sorted(found, key=natural_order), fps=fps, described="the pattern")
    except (ValueError, OSError) as error:  # a NUL inside, a name too long, a folder one may not read
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{name!r:.300} cannot be opened: {error}") from error
    raise SourceError(missing(path))


def open_paths(paths: Iterable[str | Path], *, fps: float | None = None) -> Source:
    """Open a list of files, in the order given: images become one sequence, videos one stream each."""
    files = [Path(os.path.expanduser(str(path))) for path in paths]
    for file in files:
        try:
            here = file.is_file()
        except (ValueError, OSError) as error:  # as in `open_path`
            raise SourceError(f"{str(file)!r:.300} cannot be opened: {error}") from error
        if not here:
            raise SourceError(missing(file))
    return _open_files("list of files", files, fps=fps, described="the list")


def labelled_folder(path: str | Path) -> list[tuple[str, str]]:
    """Return (recording, label) pairs of a folder that has one folder a label; what is in those is one recording each.

    Raises:
        SourceError: it is no folder, or holds no such folders, or one of them is empty.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise SourceError(
            f"{folder} is no folder\nhint: one folder a label, with recordings in each: {folder}/LABEL/clip.mp4"
        )
    found = []
    inside = [item for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")]
    for inner in sorted(inside, key=natural_order):
        recordings = sorted((item for item in inner.iterdir() if not item.name.startswith(".")), key=natural_order)
        if not recordings:
            raise SourceError(f"{inner} is empty: the label {inner.name!r} has no recording")
        found += [(str(recording), inner.name) for recording in recordings]
    if not found:
        raise SourceError(
            f"{folder} has no folder inside\nhint: one folder a label, with recordings in each: {folder}/LABEL/clip.mp4"
        )
    return found


class ContainerClock:
    """Seconds since the first frame: the container's own times while they rise, steps of 1 / fps from then on.

    Attributes:
        regular: Steps so far that were within 10 % of 1 / fps.
        elapsed: The last time given.
    """

    def __init__(self, fps: float | None) -> None:
        self._step = 1.0 / (fps or DEFAULT_FPS)
        self._first: float | None = None
        self._trust = True
        self.regular = 0
        self.elapsed = 0.0

    def tick(self, container_s: float) -> float:
        """Return the time of the next frame, whose time in the container is `container_s`."""
        if self._first is None:
            self._first = container_s
            return 0.0
        now = container_s - self._first
        self._trust = self._trust and math.isfinite(now) and now > self.elapsed
        if not self._trust:
            now = self.elapsed + self._step
        self.regular += abs(now - self.elapsed - self._step) < 0.1 * self._step
        self.elapsed = now
        return now


class VideoFile(Source):
    """A video file, decoded frame by frame; `fps`, when given, replaces the times stored in the file.

    Frames are turned upright as the file says. After the last frame that decodes, a file that gave fewer than 90 % of
    the frames it states raises SourceError.
    """

    def __init__(self, path: Path, *, fps: float | None = None) -> None:
        self._path = path
        self._captures: list[Any] = []
        self._lock = threading.Lock()  # a capture that is released while another thread decodes aborts the process
        self._fresh: Any = self._open()
        cv2 = import_cv2()
        stated = float(self._fresh.get(cv2.CAP_PROP_FPS))
        count = float(self._fresh.get(cv2.CAP_PROP_FRAME_COUNT))
        self._given_fps = fps
        self._stated_fps = stated if 0 < stated <= _PLAUSIBLE_FPS else None
        super().__init__(str(path), fps=fps or self._stated_fps, count=int(count) if 0 < count < 2**40 else None)

    def close(self) -> None:
        """Let go of the file, from any thread. A loop that is running ends after its current frame."""
        super().close()
        for capture in list(self._captures):
            self._release(capture)

    def _frames(self) -> Iterator[Frame]:
        cv2 = import_cv2()
        capture, self._fresh = self._fresh or self._open(), None
        clock = ContainerClock(self._stated_fps)
        index = 0
        try:
            while not self._closed:
                bgr, container_s = self._read(capture, index)
                if bgr is None:
                    break
                own_time = clock.tick(container_s)
                timestamp = index / self._given_fps if self._given_fps else own_time
                yield Frame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), index, timestamp, self.name)
                index += 1
        finally:
            self._release(capture)
        if not self._closed:
            self._check_complete(index, clock)

    def _open(self) -> Any:
        reason = why_no_video(self._path)
        if reason:
            raise SourceError(f"{self._path} {reason}")
        cv2 = import_cv2()
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise SourceError(
                f"{self._path} is not a video OpenCV can read ({self._path.stat().st_size} bytes): damaged, of another "
                "kind, or of a codec this OpenCV lacks"
            )
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        self._captures.append(capture)
        return capture

    def _read(self, capture: Any, index: int) -> tuple[NDArray[np.uint8] | None, float]:
        """Return the next frame, BGR, and its time in the container; None at the end, or once the source is closed."""
        cv2 = import_cv2()
        try:
            with self._lock:
                ok, bgr = capture.read()
                container_s = float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        except cv2.error as error:
            raise SourceError(f"{self.name}: frame {index} could not be decoded: {error}") from error
        return (bgr if ok and bgr is not None and bgr.size else None), container_s

    def _release(self, capture: Any) -> None:
        with self._lock:
            capture.release()
            if capture in self._captures:
                self._captures.remove(capture)

    def _check_complete(self, frames: int, clock: ContainerClock) -> None:
        if frames == 0:
            stated = "" if self.count is None else f"; it states {self.count}"
            raise SourceError(f"{self.name} gave no frame that decodes{stated}")
        if self.count is None or frames >= _ENOUGH * self.count:
            return
        # Containers without an index state duration * fps, which says nothing when frames come irregularly.
        step = 1.0 / (self._stated_fps or DEFAULT_FPS)
        if clock.regular < frames / 2 and clock.elapsed + step >= _ENOUGH * self.count * step:
            return
        raise SourceError(
            f"{self.name} states {self.count} frames, but only {frames} could be decoded: it is cut short or damaged\n"
            "hint: the frames that came are good; catch SourceError around the loop to keep going"
        )


class VideoFiles(Source):
    """Several video files one after another; each is a stream of its own, with its own index, clock and identity."""

    def __init__(self, name: str, paths: list[Path], *, fps: float | None = None) -> None:
        super().__init__(name, fps=fps, count=None)
        self._paths = paths

    def _frames(self) -> Iterator[Frame]:
        for path in self._paths:
            with VideoFile(path, fps=self.fps) as video:
                for frame in video:
                    if self._closed:
                        return
                    yield frame


class ImageFiles(Source):
    """Image files as one sequence, in the order given; frame i is at i / fps seconds."""

    def __init__(self, name: str, paths: list[Path], *, fps: float | None = None) -> None:
        rate = fps if fps is not None else (DEFAULT_FPS if len(paths) > 1 else None)
        super().__init__(name, fps=rate, count=len(paths))
        self._paths = paths
        self._clocked = fps is not None

    def _frames(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            if self._closed:
                return
            seconds = index / (self.fps or DEFAULT_FPS)
            yield Frame(read_image(path), index, seconds, self.name, clocked=self._clocked)


def _open_file(path: Path, *, fps: float | None) -> Source:
    if not path.is_file():
        raise SourceError(f"{path} is neither a file nor a folder")
    if path.stat().st_size == 0:
        raise SourceError(f"{path} is empty (0 bytes)")
    if looks_like_image(path):
        read_image(path)
        return ImageFiles(str(path), [path], fps=fps)
    return VideoFile(path, fps=fps)


def _open_files(name: str, files: list[Path], *, fps: float | None, described: str) -> Source:
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    if images and videos:
        raise SourceError(
            f"{described} {name} holds {len(images)} images and {len(videos)} videos; only one kind can be a source\n"
            f"hint: a pattern such as '*{videos[0].suffix}' chooses"
        )
    if images:
        return ImageFiles(name, images, fps=fps)
    if len(videos) == 1:
        return VideoFile(videos[0], fps=fps)
    if videos:
        return VideoFiles(name, videos, fps=fps)
    found = f"{len(files)} files, none of a known image or video type" if files else "no file"
    hint = "\nhint: a pattern such as 'FOLDER/**/*.mp4' looks into folders" if described == "the folder" else ""
    raise SourceError(f"{described} {name} holds {found}{hint}")


def _visible(folder: Path) -> list[Path]:
    return [item for item in folder.iterdir() if item.is_file() and not item.name.startswith(".")]


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Order `frame2` before `frame10`."""
    parts = re.split(r"([0-9]+)", str(path).casefold())
    return [(0, int(part), part) if index % 2 else (1, 0, part) for index, part in enumerate(parts)]


def missing(path: Path) -> str:
    """Say that a file is not there, and which of similar names are."""
    folder = path.parent
    if not folder.is_dir():
        return f"{path} does not exist: there is no folder {folder}"
    try:
        names = [item.name for item, _ in zip(folder.iterdir(), range(5000), strict=False)]
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    hint = f"\nhint: {folder} holds {', '.join(near)}" if near else ""
    return f"{path} does not exist{hint}"


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except IsADirectoryError as error:
        raise SourceError(f"{path} is a folder; one image file is needed here") from error
    except FileNotFoundError as error:
        raise SourceError(missing(path)) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL inside the name
        raise SourceError(f"{str(path)!r:.300} cannot be read: {error}") from error
    if not data:
        raise SourceError(f"{path} is empty (0 bytes)")
    return data
