"""What OpenCV opens live: cameras, addresses, GStreamer pipelines, and Jetson's CSI cameras. One way in, errors in words."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from effvision._optional import import_cv2
from effvision.errors import InputError, MissingDependencyError, RangeError, SourceError
from effvision.sources.network import SCHEMES, check_host, masked, parse_address, why_refused

__all__ = ["Capture", "Device", "find_device", "is_live"]

_LINUX: bool = sys.platform == "linux"
_DEV = Path("/dev")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_CAMERA_NODE = re.compile(r"/dev/(video\d+|v4l/\S+)")
_BUFFERS = 2
"""Pictures a camera's driver queues: one that is decoded, one that is being filled. With a single one the driver skips every
second picture; more of them are old pictures."""

_CSI = (
    "nvarguscamerasrc sensor-id={sensor} ! "
    "video/x-raw(memory:NVMM), width={width}, height={height}, framerate={rate} ! "
    "nvvidconv flip-method={flip} ! video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR ! "
    "appsink drop=true max-buffers=1 sync=false"
)


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that a live source uses; pictures are (H, W, 3) uint8 BGR, as OpenCV gives them."""

    def isOpened(self) -> bool:
        """Whether there is something to read from."""

    def read(self) -> tuple[bool, Any]:
        """Wait for the next picture; (False, None) if none came."""

    def release(self) -> None:
        """Let go of the device."""

    def get(self, prop: int, /) -> float:
        """Return a property, 0 or -1 if unknown."""

    def set(self, prop: int, value: float, /) -> bool:
        """Set a property; False if that is not possible."""


@dataclass(frozen=True)
class Device:
    """Something that can be opened, and opened again.

    Attributes:
        name: What to call it; passwords are masked.
        kind: What it is, which decides the hints.
        open: Opens it, or raises SourceError that says what to check. Takes seconds, and `timeout_s` at most.
        timeout_s: Seconds without a frame after which it is taken to have stalled.
        may_end: An HTTP address: it may be a file, which ends and gives every frame.
    """

    name: str
    kind: Literal["camera", "address", "pipeline"]
    open: Callable[[], Capture]
    timeout_s: float
    may_end: bool = False


def is_live(x: object) -> bool:
    """Whether `x` names a live source: a camera's number or `/dev/video*`, an address, or a GStreamer pipeline.

    A string of digits does not: it is the name of a file.
    """
    if isinstance(x, (int, np.integer)):
        return not isinstance(x, bool)
    if isinstance(x, Path):
        x = str(x)
    if not isinstance(x, str):
        return False
    return bool(_ADDRESS.match(x) or (_LINUX and _CAMERA_NODE.fullmatch(x)) or _is_pipeline(x))


def find_device(x: int | str | Path, *, timeout_s: float | None = None, threads: int = 2) -> Device:
    """Return the device `x` names, without opening it.

    Args:
        x: What `is_live` accepts.
        timeout_s: Seconds without a frame that are a stall. Default: 5 for cameras, 10 for what may come over a network.
        threads: Of FFmpeg's decoder.

    Raises:
        SourceError: an address that cannot be right, or of a scheme that carries no live video.
        InputError: a pipeline without `appsink`, an option of `csi://` that is unknown.
        RangeError: a camera number below 0.
    """
    if isinstance(x, (int, np.integer)):
        if x < 0:
            raise RangeError(f"cameras are numbered from 0; got {x}")
        node = _DEV / f"video{x}"
        return Device(f"camera {x}", "camera", lambda: _open_camera(int(x), node), timeout_s or 5.0)
    text = str(x)
    if _CAMERA_NODE.fullmatch(text):
        return Device(f"camera {text}", "camera", lambda: _open_camera(text, Path(text)), timeout_s or 5.0)
    match = _ADDRESS.match(text)
    if match is None:
        return _pipeline_device(text, timeout_s or 10.0)
    scheme = match[1].lower()
    if scheme == "csi":
        pipeline = _csi_pipeline(text)
        return Device(text, "pipeline", lambda: _open_pipeline(pipeline, text), timeout_s or 5.0)
    if scheme not in SCHEMES:
        hint = "give the path alone" if scheme == "file" else f"live video comes from {', '.join(SCHEMES)}, csi"
        raise SourceError(f"{masked(text)!r:.300} cannot be read: addresses of {scheme}:// are not known\nhint: {hint}")
    parse_address(text)
    patience = timeout_s or 10.0
    name = masked(text)
    return Device(name, "address", lambda: _open_address(text, patience, threads), patience, scheme.startswith("http"))


def _pipeline_device(text: str, patience: float) -> Device:
    name = masked(text)
    if not re.search(r"!\s*appsink\b", text):
        raise InputError(
            f"the GStreamer pipeline {name!r:.300} has no `appsink`, so its pictures go elsewhere\n"
            "hint: end it with `! videoconvert ! video/x-raw, format=BGR ! appsink drop=true max-buffers=1`"
        )
    return Device(name, "pipeline", lambda: _open_pipeline(text, name), patience)


def _is_pipeline(text: str) -> bool:
    try:
        return " ! " in text and not os.path.exists(text)
    except ValueError:  # a NUL inside
        return False


def _open_camera(number: int | str, node: Path) -> Capture:
    name = f"camera {number}"
    if _LINUX:
        _check_node(name, node)
    cv2 = import_cv2()
    capture = _open(cv2, number, cv2.CAP_V4L2 if _LINUX else cv2.CAP_ANY)
    if not capture.isOpened():
        hint = (
            f"`fuser -v {node}` names the program; " if _LINUX else "close other programs, allow this one the camera; "
        )
        raise SourceError(
            f"{name} is there, but could not be opened: another program may be using it, or it gives no pictures\n"
            f"hint: {hint}a webcam may have two numbers, of which one is no picture: try the next"
        )
    capture.set(cv2.CAP_PROP_BUFFERSIZE, _BUFFERS)  # False where that is not possible, which does no harm
    return capture


def _check_node(name: str, node: Path) -> None:
    """Say what OpenCV would not: that there is no such camera, or that this user may not open it."""
    if not node.exists():
        present = ", ".join(map(str, sorted(_DEV.glob("video*")))) or "no camera (/dev/video*)"
        raise SourceError(
            f"{name}: there is no {node}; this machine has {present}\n"
            "hint: check the plug; a container needs `--device /dev/video0`, a Jetson's CSI camera is csi://0"
        )
    if not os.access(node, os.R_OK | os.W_OK):
        raise SourceError(
            f"{name}: this user may not open {node}\nhint: `sudo usermod -aG video $USER`, then log in again"
        )


def _open_address(address: str, timeout_s: float, threads: int) -> Capture:
    """Open through FFmpeg, which asks for RTSP over TCP unless OPENCV_FFMPEG_CAPTURE_OPTIONS says otherwise."""
    check_host(address)
    cv2 = import_cv2()
    milliseconds = int(timeout_s * 1000)
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
    # FFmpeg's default, a thread per core, holds one frame back for each: half a second on a machine with 16
    options += [cv2.CAP_PROP_N_THREADS, threads]
    capture = _open(cv2, address, cv2.CAP_FFMPEG, options)
    if not capture.isOpened():
        raise SourceError(f"{masked(address)} {why_refused(address)}")
    return capture


def _open_pipeline(pipeline: str, name: str) -> Capture:
    cv2 = import_cv2()
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise MissingDependencyError(
            f"{name!r:.300} is read through GStreamer, and this OpenCV ({cv2.__version__}, {cv2.__file__}) was built without "
            "it, as all wheels of opencv-python are\n"
            "hint: on a Jetson use the system's OpenCV: `sudo apt-get install nvidia-opencv` (elsewhere python3-opencv) and a "
            "virtual environment made with `--system-site-packages` that has no opencv-python of its own"
        )
    capture = _open(cv2, pipeline, cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        command = f"gst-launch-1.0 {pipeline.rpartition('!')[0]} ! fakesink"
        raise SourceError(
            f"{name!r:.300} could not be opened: an element is missing, or its device is absent or in use\n"
            f"hint: GStreamer itself says more: {masked(command)}"
        )
    return capture


def _csi_pipeline(text: str) -> str:
    """Return the pipeline for `csi://SENSOR?width=1280&height=720&fps=30&flip=0`, a camera on a Jetson's CSI connector."""
    parts = urlsplit(text)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(given) - {"width", "height", "fps", "flip"})
    wrong = f"{text!r:.200} is no CSI camera"
    example = "\nhint: it should look like csi://0?width=1280&height=720&fps=30&flip=0"
    if unknown:
        raise InputError(f"{wrong}: unknown {', '.join(unknown)}{example}")
    try:
        sensor, flip = int(parts.netloc), int(given.get("flip", "0"))
        width, height = int(given.get("width", "1280")), int(given.get("height", "720"))
        rate = Fraction(given.get("fps", "30")).limit_denominator(1001)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{wrong}: a number is missing or none{example}") from error
    if not (sensor >= 0 and 0 <= flip <= 7 and 1 <= width <= 16384 and 1 <= height <= 16384 and 0 < rate <= 1000):
        raise RangeError(f"{wrong}: a number is out of range{example}")
    return _CSI.format(
        sensor=sensor, flip=flip, width=width, height=height, rate=f"{rate.numerator}/{rate.denominator}"
    )


def _open(cv2: ModuleType, what: int | str, backend: int, options: list[int] | None = None) -> Capture:
    if not cv2.videoio_registry.hasBackend(backend):  # an OpenCV of the user's own
        backend, options = cv2.CAP_ANY, None
    with _quiet(cv2):
        capture: Capture = cv2.VideoCapture(what, backend, options) if options else cv2.VideoCapture(what, backend)
        return capture


_quiet_lock = threading.Lock()
_quiet_levels: list[int] = []  # first the log level to go back to; one entry per call under way


@contextmanager
def _quiet(cv2: ModuleType) -> Iterator[None]:
    """Keep OpenCV from printing a paragraph for each back end that declines; its log level is set back afterwards.

    FFmpeg's own lines are not touched: its level can be set only once in a process, by OPENCV_FFMPEG_LOGLEVEL.
    """
    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    if logging is None:
        yield
        return
    with _quiet_lock:
        _quiet_levels.append(logging.getLogLevel())
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        with _quiet_lock:
            level = _quiet_levels.pop()
            if not _quiet_levels:
                logging.setLogLevel(level)
