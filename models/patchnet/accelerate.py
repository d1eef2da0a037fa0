"""Run a detector on key frames only, and follow what it found in the frames between.

Mao et al., "PatchNet", 2021, section 4: a detector every few frames, PatchNet in between, and an earlier key frame when its
score falls.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from effvision.detections import Detections, as_detections
from effvision.errors import DetectorError, DTypeError, EffvisionError, InputError
from effvision.models.patchnet.memory import is_whole, number
from effvision.models.patchnet.predictor import PatchNet
from effvision.sources import as_frame, open_source
from effvision.tracks import Tracks

__all__ = ["Accelerated", "Share", "accelerate"]

_RECENT = 0.2  # weight of the newest time in the running mean
_MOST_FRAMES = 10_000
_LONGEST_PAUSE = 60  # frames without a key frame, however small the budget
_AT_ONCE = 2  # key frames that a budget left unused may pay for together
_PASSED_ON = ("remove", "source", "timestamp")  # of a session's options: the others come from the detector

Detector = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Share:
    """How much of a stream the detector took.

    Attributes:
        frames: Frames so far.
        keys: Those the detector saw.
        early: Those of them that came early, because a score fell or an object was lost.
        detector_ms: Milliseconds the detector took, all together.
        tracker_ms: Milliseconds everything else took, all together.
    """

    frames: int = 0
    keys: int = 0
    early: int = 0
    detector_ms: float = 0.0
    tracker_ms: float = 0.0

    @property
    def of_frames(self) -> float:
        """Share of the frames the detector saw, 0..1."""
        return self.keys / self.frames if self.frames else 0.0

    @property
    def of_time(self) -> float:
        """Share of the time the detector took, 0..1."""
        whole = self.detector_ms + self.tracker_ms
        return self.detector_ms / whole if whole else 0.0

    @property
    def speedup(self) -> float:
        """How many times as long the detector would have taken for every frame; 0 before it ran."""
        whole = self.detector_ms + self.tracker_ms
        return self.detector_ms / self.keys * self.frames / whole if self.keys and whole else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "frames": self.frames,
            "keys": self.keys,
            "early": self.early,
            "detector_ms": round(self.detector_ms, 3),
            "tracker_ms": round(self.tracker_ms, 3),
            "of_frames": round(self.of_frames, 4),
            "of_time": round(self.of_time, 4),
            "speedup": round(self.speedup, 2),
        }


def accelerate(
    detector: Detector | str | os.PathLike[str],
    *,
    every: int | None = None,
    budget_ms: float | None = None,
    confidence: float | None = None,
    model: PatchNet | None = None,
    **options: Any,
) -> Accelerated:
    """Wrap a detector so that every frame gets boxes, though it sees only some of them.

        fast = accelerate(my_detector, every=8)
        for result in fast.stream(0):
            print(result.ids, result.boxes, result.labels)

    Args:
        detector: Called with a frame (H, W, 3) uint8 RGB; returns its detections in any of the forms that
            `effvision.detections.as_detections` reads. Or the path of a YOLO-style ONNX file (`effvision.OnnxDetector`).
        every: Frames from one key frame to the next. Default: 8, unless there is a budget.
        budget_ms: Instead of `every`: milliseconds a frame may take on average; key frames come as often as that pays for,
            and every 60 frames where it pays for none. The detector on the very first frame is not counted: nothing could be
            saved for it, and many detectors get ready in their first call.
        confidence: An object's score below which the frame becomes a key frame too, 0..1; an object that is lost does the same.
            With `budget_ms` not sooner than earlier key frames are paid for. Default: only by the count or the budget.
        model: A PatchNet; default: that of `PatchNet.from_pretrained()`.
        **options: Of the session: `least_overlap`, `max_missed`, `max_lost_s`, `fps`, `score`, `templates`. With another
            `score` than `likeness`, `confidence` is compared with that one.

    Raises:
        DTypeError: `detector` can neither be called nor is it a path.
        ModelFileError, InputError: the ONNX file is no detector, or an option is out of range.
    """
    if isinstance(detector, (str, os.PathLike)):
        from effvision.detectors import OnnxDetector

        detector = cast(Detector, OnnxDetector(detector))
    if not callable(detector):
        raise DTypeError(
            f"`detector` must be callable with a frame, or the path of an ONNX file; got {type(detector).__name__}"
        )
    if model is not None and not isinstance(model, PatchNet):
        raise DTypeError(
            f"`model` must be a PatchNet, such as `PatchNet.from_pretrained()`; got {type(model).__name__}"
        )
    return Accelerated(
        detector,
        model or PatchNet.from_pretrained(),
        every=every,
        budget_ms=budget_ms,
        confidence=confidence,
        **options,
    )


class Accelerated:
    """One stream: `update` per frame; see `accelerate`.

    If the detector fails, its error is raised as a `DetectorError`, and the session is as it was before that frame: go on with
    the next one, or give the same one again.

    Attributes:
        session: The tracking session; `reset`, `save` and its state are there.
        share: What the detector took so far.
        every: Frames between key frames at most; None with a budget.
    """

    def __init__(
        self,
        detector: Detector,
        model: PatchNet,
        *,
        every: int | None = None,
        budget_ms: float | None = None,
        confidence: float | None = None,
        **options: Any,
    ) -> None:
        if every is not None and budget_ms is not None:
            raise InputError("give `every` or `budget_ms`, not both: each says when key frames come")
        if every is not None and not (is_whole(every) and 1 <= every <= _MOST_FRAMES):
            raise InputError(f"`every` must be a whole number of frames, 1 to {_MOST_FRAMES}; got {every!r:.80}")
        self.every = None if budget_ms is not None else int(every or 8)
        self._budget_ms = None if budget_ms is None else number("budget_ms", budget_ms, open_low=True)
        self._confidence = None if confidence is None else number("confidence", confidence, most=1.0)
        if "boxes" in options or "ids" in options:
            raise InputError("`boxes` and `ids` come from the detector here: leave them out")
        self._detector = detector
        self._options = options
        self.session = model.session(**options)
        self._since = math.inf
        self._credit_ms = 0.0
        self._cost_ms = 0.0  # of the detector, running mean
        self.share = Share()

    def __repr__(self) -> str:
        when = f"every={self.every}" if self.every else f"budget_ms={self._budget_ms:g}"
        return f"Accelerated({self._detector!r}, {when}, {self.session.predictor!r})"

    def reset(self, reason: str = "reset") -> None:
        """Forget the objects; the next frame is a key frame. The share goes on counting."""
        self.session.reset(reason)
        self._since = math.inf

    def update(self, frame: Any, **given: Any) -> Tracks:
        """Take one frame and answer for it.

        Args:
            frame: (H, W, 3) uint8 RGB, a PIL image, a tensor or a picture file.
            **given: `timestamp`, `source` and `remove` of the session.

        Raises:
            DetectorError: the detector raised, or returned what is no detections; the session is unchanged.
            InputError: the frame or an option cannot be used; likewise.
        """
        if unknown := sorted(set(given) - set(_PASSED_ON)):
            raise InputError(
                f"`update` takes no option {', '.join(unknown)} here; it takes: {', '.join(_PASSED_ON)}\n"
                "hint: objects come from the detector; a session of PatchNet takes `boxes` and `detections`"
            )
        image = as_frame(frame)
        began = time.perf_counter()
        before, since = self.session._snapshot(), self._since
        spent_ms, key, early = 0.0, False, False
        try:
            predictor, memory = self.session.predictor, self.session.memory
            due = self._due() or predictor.interrupted({"x": image, **given}, memory) is not None
            if due:
                found, spent_ms = self._detect(image)
                result, key = self.session.update(image, detections=found, **given), True
            else:
                result = self.session.update(image, **given)
                if self._doubtful(cast(Tracks, result)):
                    found, spent_ms = self._detect(image)
                    self.session.state, self.session.memory = before
                    before = self.session._snapshot()
                    result, key, early = self.session.update(image, detections=found, **given), True, True
        except BaseException:
            self.session.state, self.session.memory = before
            self._since = since
            raise
        whole_ms = (time.perf_counter() - began) * 1e3
        self._count(whole_ms - spent_ms, spent_ms, key, early)
        return cast(Tracks, result).replace(detector_ms=spent_ms)

    def stream(self, source: Any, *, images: bool = True) -> Iterator[Tracks]:
        """Return an iterator with one result per frame of a source; see `Predictor.stream`."""
        frames = open_source(source)

        def results() -> Iterator[Tracks]:
            with frames:
                for frame in frames:
                    result = self.update(frame.image, **self.session.predictor.frame_options(frame))
                    yield result.replace(dropped=frame.dropped, image=frame.image if images else None)

        return results()

    def _due(self) -> bool:
        """Whether the count or the budget asks for a key frame now, or nothing was seen since the start or a reset."""
        if self._since == math.inf or self.session.memory.updates == 0:
            return True
        if self.every is not None:
            return self._since + 1 >= self.every
        return self._credit_ms >= self._cost_ms or self._since + 1 >= _LONGEST_PAUSE

    def _doubtful(self, result: Tracks) -> bool:
        """Whether a score fell so far that the detector should look, not sooner than it can be afforded."""
        if self._confidence is None or not len(result):
            return False
        if self._budget_ms is not None and self._credit_ms < 0:
            return False
        return bool((result.lost | (result.scores < self._confidence)).any())

    def _detect(self, image: np.ndarray) -> tuple[Detections, float]:
        began = time.perf_counter()
        try:
            answer = self._detector(image.copy())  # some draw on it
        except EffvisionError:
            raise
        except Exception as error:
            raise DetectorError(
                f"the detector failed on a frame of {image.shape[1]}x{image.shape[0]} pixels: {type(error).__name__}: {error}\n"
                "hint: it is called with (H, W, 3) uint8 RGB"
            ) from error
        found = as_detections(answer, height=image.shape[0], width=image.shape[1])
        return found, (time.perf_counter() - began) * 1e3

    def _count(self, tracker_ms: float, detector_ms: float, key: bool, early: bool) -> None:
        old = self.share
        self.share = Share(
            old.frames + 1,
            old.keys + key,
            old.early + early,
            old.detector_ms + detector_ms,
            old.tracker_ms + tracker_ms,
        )
        self._since = 0 if key else self._since + 1
        if detector_ms:  # the first call says little of the others
            known = old.keys > 1
            self._cost_ms = self._cost_ms + _RECENT * (detector_ms - self._cost_ms) if known else detector_ms
        if self._budget_ms is not None:
            charged_ms = tracker_ms + (detector_ms if old.frames else 0.0)
            self._credit_ms = min(_AT_ONCE * self._cost_ms, self._credit_ms + self._budget_ms - charged_ms)
