"""Detectors of the tracking tab: a simple one that finds patches of strong colour, and a visitor's own ONNX file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.detections import Detections
from effvision.detectors import OnnxDetector
from effvision.errors import DetectorError, InputError

__all__ = ["ColourDetector", "OwnDetector", "strongly_coloured"]

Found = TypeVar("Found")

_WIDEST = 480  # pixels; larger pictures are made smaller first
_LEAST_SHARE = 0.0015  # of the picture that a patch covers
_JOIN = 9  # pixels between stripes of one patch
_STUCK = 4  # calls that never came back, of all visitors, before own detectors are refused
_stuck: set[threading.Thread] = set()


class ColourDetector:
    """Finds patches of strong colour, such as balloons before a landscape, in a few milliseconds.

    Attributes:
        wait_ms: Milliseconds it waits besides, to stand for a heavier detector.
    """

    def __init__(self, wait_ms: float = 0.0) -> None:
        self.wait_ms = wait_ms

    def __call__(self, image: NDArray[np.uint8]) -> Detections:
        """Return the patches of (H, W, 3) uint8 RGB, the largest first; the score is the coloured share of its box."""
        time.sleep(self.wait_ms / 1e3)
        cv2 = import_cv2()
        scale = max(1.0, image.shape[1] / _WIDEST)
        if scale > 1:
            size = (_WIDEST, max(1, round(image.shape[0] / scale)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        mask = strongly_coloured(image).astype(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((_JOIN, _JOIN), np.uint8))
        _, _, patches, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        patches = patches[1:]  # the first is what lies around them
        patches = patches[patches[:, cv2.CC_STAT_AREA] >= _LEAST_SHARE * mask.size]
        patches = patches[np.argsort(-patches[:, cv2.CC_STAT_AREA], kind="stable")]
        corner, sides, area = patches[:, :2], patches[:, 2:4], patches[:, 4]
        boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32) * np.float32(scale)
        scores = (area / np.maximum(sides.prod(axis=1), 1)).astype(np.float32)
        return Detections(boxes, scores, np.zeros(len(boxes), np.int64), ("patch",))


def strongly_coloured(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pixels of (H, W, 3) uint8 RGB are strongly coloured: warm colours and violet, or a deep blue; no green."""
    cv2 = import_cv2()
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))  # hue 0..179
    warm = (hue < 32) | (hue >= 125)
    rosy = warm & (saturation > 95) & (value > 160)
    violet = (hue >= 125) & (saturation > 95) & (value > 70)
    blue = (hue >= 95) & (hue < 125) & (saturation > 150) & (value > 80)
    strong: NDArray[np.bool_] = rosy | violet | blue
    return strong


class OwnDetector:
    """A visitor's own ONNX file, which may take only so long: it is a stranger's program.

    Args:
        path: The file; it is not needed any more afterwards.
        limit_s: Seconds it may take to open, and for each frame. One that takes longer is never called again.

    Raises:
        ModelFileError: it is no detector that can be read.
        DetectorError: it takes too long.
        InputError: too many files that took too long still keep the server busy.
    """

    def __init__(self, path: Path, *, limit_s: float) -> None:
        self._limit_s = limit_s
        self._detector: Callable[[Any], Detections] = self._in_time(lambda: OnnxDetector(path, threads=1), "to open")

    def __call__(self, image: NDArray[np.uint8]) -> Detections:
        """Return what it finds.

        Raises:
            DetectorError: it fails or takes too long.
        """
        return self._in_time(lambda: self._detector(image), "for one frame")

    def _in_time(self, work: Callable[[], Found], what: str) -> Found:
        """Run it in a thread of its own: a call into a stranger's graph cannot be stopped, only left behind."""
        _stuck.intersection_update([thread for thread in _stuck if thread.is_alive()])
        if len(_stuck) >= _STUCK:
            raise InputError("several detectors that took too long still keep this server busy; try again later")
        answers: list[Found] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                answers.append(work())
            except BaseException as error:  # raised again where it is waited for
                failures.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self._limit_s)
        if thread.is_alive():
            _stuck.add(thread)
            raise DetectorError(
                f"this detector takes more than {self._limit_s:g} s {what} here\nhint: a smaller one, or a smaller input"
            )
        if failures and isinstance(failures[0], MemoryError):
            raise DetectorError(f"this detector takes more memory {what} than there is here") from failures[0]
        if failures:
            raise failures[0]
        return answers[0]
