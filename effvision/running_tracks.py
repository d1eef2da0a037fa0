"""The part of `effvision run` that follows objects: boxes on the command line, or a detector on key frames."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from effvision.errors import InputError
from effvision.host.boxes import xywh_to_xyxy

__all__ = ["following", "refuse_tracking"]

_NAMES = {
    "box": "--box",
    "box_xywh": "--box-xywh",
    "detector": "--detector",
    "every": "--every",
    "budget_ms": "--budget-ms",
    "confidence": "--confidence",
    "max_lost": "--max-lost",
}


def refuse_tracking(options: argparse.Namespace) -> None:
    """Refuse options of models that follow objects for one that does not.

    Raises:
        InputError: one of them was given.
    """
    given = [flag for name, flag in _NAMES.items() if getattr(options, name) is not None]
    if given:
        raise InputError(f"only models that follow objects, such as patchnet, take {', '.join(given)}: leave that out")


@contextmanager
def following(model: Any, options: argparse.Namespace) -> Iterator[Any]:
    """Give what has `stream(source)` for the command line's boxes or detector, and tell the detector's share at the end.

    Raises:
        InputError: nothing says what to follow, or options that do not go together.
    """
    boxes = [list(box) for box in options.box or []]
    if options.box_xywh:
        boxes += xywh_to_xyxy(options.box_xywh).tolist()
    _check(options, boxes)
    kept = {} if options.max_lost is None else {"max_lost_s": options.max_lost}
    if options.detector is None:
        yield _WithBoxes(model, boxes, kept)
        return
    fast = model.accelerate(
        options.detector, every=options.every, budget_ms=options.budget_ms, confidence=options.confidence, **kept
    )
    try:
        yield fast
    finally:
        share = fast.share
        if share.keys:
            print(
                f"detector: {share.keys} of {share.frames} frames ({share.of_frames:.0%}), {share.early} of them early; "
                f"{share.of_time:.0%} of the time; {share.speedup:.1f} times as fast as the detector on every frame",
                file=sys.stderr,
            )


class _WithBoxes:
    """A model and the boxes its streams begin with."""

    def __init__(self, model: Any, boxes: list[list[float]], options: dict[str, Any]) -> None:
        self._model = model
        self._options = {"boxes": boxes, **options}

    def __repr__(self) -> str:
        return repr(self._model)

    def stream(self, source: Any) -> Iterator[Any]:
        return self._model.stream(source, **self._options)  # type: ignore[no-any-return]


def _check(options: argparse.Namespace, boxes: list[list[float]]) -> None:
    if options.smooth or options.every_frame:
        raise InputError("--smooth and --every-frame are for models that name what they see: leave them out")
    if len(options.source) > 1:
        raise InputError("boxes and detections belong to one picture: give one source")
    if options.detector is None:
        late = [_NAMES[name] for name in ("every", "budget_ms", "confidence") if getattr(options, name) is not None]
        if late:
            raise InputError(f"{', '.join(late)} say when a detector runs: give --detector FILE.onnx too")
        if not boxes:
            raise InputError(
                "say what to follow: --box X1 Y1 X2 Y2 in pixels of the first frame, or --detector FILE.onnx"
            )
    elif boxes:
        raise InputError("give --box or --detector, not both: the detector says what to follow")
