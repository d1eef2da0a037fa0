"""What a detector found in one frame, and how the answers of other people's detectors are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effvision.errors import DetectorError, DTypeError, InputError, RangeError, ShapeError

__all__ = ["Detections", "as_detections", "names_by_number"]

_SCORE_SLACK = 1e-3  # half precision and sums of softmax exceed 1 by a hair
_MOST_NAMES = 100_000
_LARGEST_CLASS = 2**53  # whole numbers up to here are exact in float64
_Refuse = Callable[..., DetectorError]
_SUPPORTED = (
    "hint: a detector returns an array (M, 4) `x1 y1 x2 y2`, (M, 5) with the score or (M, 6) with score and class; or "
    "`effvision.Detections`, `supervision.Detections`, an ultralytics result, a dict with boxes, scores and labels, or None"
)


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of one frame with their scores and classes.

    `detections[mask]`, `detections[indices]`, `detections[2:5]` and `detections[0]` give fewer of them, with the same names.

    Attributes:
        boxes: (M, 4) float32, `x1 y1 x2 y2` in pixels, half-open, finite, x1 < x2 and y1 < y2. They may reach over the border
            of the frame; `clipped` cuts them.
        scores: (M,) float32, 0..1.
        classes: (M,) int64: a class number, or -1 where the detector told none.
        names: Class names by number; shorter than the numbers, or empty, where they are not known.
        dropped: Boxes of the detector's answer that could not be used, such as those with NaN.

    Raises:
        ShapeError, DTypeError, RangeError: arrays that do not fit each other or the above.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    names: tuple[str, ...] = ()
    dropped: int = 0

    def __post_init__(self) -> None:
        kinds = {"boxes": np.float32, "scores": np.float32, "classes": np.int64}
        for name, kind in kinds.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != kind:
                given = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                raise DTypeError(f"`{name}` of Detections must be an array of {kind.__name__}; got {given}")
        count = len(self.boxes) if self.boxes.ndim == 2 else -1
        if self.boxes.shape != (count, 4) or self.scores.shape != (count,) or self.classes.shape != (count,):
            raise ShapeError(
                "Detections are `boxes` (M, 4), `scores` (M,) and `classes` (M,); "
                f"got {self.boxes.shape}, {self.scores.shape} and {self.classes.shape}"
            )
        if not isinstance(self.names, tuple) or not all(isinstance(name, str) for name in self.names):
            raise DTypeError(f"`names` must be a tuple of class names; got {self.names!r:.120}")
        if not (np.isfinite(self.boxes).all() and (self.boxes[:, :2] < self.boxes[:, 2:]).all()):
            raise RangeError("`boxes` must be finite `x1 y1 x2 y2` with x1 < x2 and y1 < y2")
        if not ((self.scores >= 0) & (self.scores <= 1)).all() or (self.classes < -1).any():
            raise RangeError("`scores` must lie within 0..1, and `classes` be -1 or more")

    @classmethod
    def empty(cls, names: Sequence[str] = (), *, dropped: int = 0) -> Detections:
        """Return no detection."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), tuple(names), dropped)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, which: Any) -> Detections:
        """Return those that a mask, indices, a slice or one index choose."""
        boxes, scores, classes = self.boxes[which], self.scores[which], self.classes[which]
        if scores.ndim == 0:
            boxes, scores, classes = boxes[None], scores[None], classes[None]
        return Detections(boxes, scores, classes, self.names, self.dropped)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class name of each box; its number where the name is not known, nothing where the class is not."""
        return tuple(self._label(number) for number in self.classes.tolist())

    def clipped(self, height: int, width: int) -> Detections:
        """Return them cut at the border of a frame; boxes of which nothing is left are dropped and counted.

        Raises:
            InputError: the frame has no pixels.
        """
        _check_frame(height, width)
        limits = np.array([width, height, width, height], np.float32)
        boxes = np.clip(self.boxes, np.float32(0), limits)
        left = (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
        dropped = self.dropped + int(np.count_nonzero(~left))
        return Detections(boxes[left], self.scores[left], self.classes[left], self.names, dropped)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: text, numbers, lists; coordinates rounded to a hundredth of a pixel."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.classes.tolist(), self.labels, strict=True)
        found = [
            {"box": [round(x, 2) for x in box], "score": round(score, 6), "class": number, "label": label}
            for box, score, number, label in rows
        ]
        return {"detections": found, "dropped": self.dropped}

    def to_supervision(self) -> Any:
        """Return a `supervision.Detections`, with the class names in its `data["class_name"]`.

        Raises:
            MissingDependencyError: supervision is not installed; the message has the line that installs it.
        """
        from effvision._optional import require

        supervision = require("supervision")
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.classes.copy(),
            data={"class_name": np.array(self.labels, dtype=str)},
        )

    def _label(self, number: int) -> str:
        if number < 0:
            return ""
        return (self.names[number] if number < len(self.names) else "") or str(number)


class _Answer(NamedTuple):
    """What a detector returned, taken apart but not looked at yet."""

    boxes: Any
    scores: Any = None
    classes: Any = None
    names: tuple[str, ...] = ()
    dropped: int = 0


def as_detections(value: object, *, height: int, width: int, where: str = "the detector") -> Detections:
    """Read what a detector returned for one frame.

    Accepted:
        - None or anything empty: no detection.
        - `Detections`.
        - An array, tensor or list (M, 4) `x1 y1 x2 y2`, (M, 5) with the score, (M, 6) with score and class, as NMS leaves them;
          a first axis of 1, or a list of one such array, is a batch of one frame.
        - `supervision.Detections`, whose `confidence` and `class_id` may be None.
        - An ultralytics result, or a list of one.
        - A dict with `boxes` and perhaps `scores` and `labels`, or a list of one, as torchvision and transformers return it.

    Without scores every score is 1; without classes every class is -1. Boxes that reach over the border are cut. A box is
    dropped, and counted in `dropped`, if it or its score holds NaN or infinity, if it is inverted or has no area, or if it lies
    outside the frame. A detector whose whole answer makes no sense is an error, because every frame would be wrong: scores
    outside 0..1, classes that are no whole numbers, several boxes that are all inverted (`x y width height`?), boxes that all
    lie within the first pixel (0..1 of the frame?).

    Args:
        value: What the detector returned.
        height: Rows of the frame it was given.
        width: Columns of that frame.
        where: Who returned it, for messages.

    Returns:
        New arrays, in the order given; every box lies within the frame.

    Raises:
        DetectorError: what came back is none of these.
        InputError: the frame has no pixels.
    """
    _check_frame(height, width)
    refuse = partial(_refusal, where, height, width)
    answer = _take_apart(value, refuse)
    if answer is None:
        return Detections.empty()
    boxes = _numbers(answer.boxes, "boxes", refuse)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise refuse(f"boxes of shape {boxes.shape}, not (M, 4)")
    scores = np.ones(len(boxes)) if answer.scores is None else _numbers(answer.scores, "scores", refuse)
    classes = np.full(len(boxes), -1.0) if answer.classes is None else _numbers(answer.classes, "classes", refuse)
    for name, array in (("scores", scores), ("classes", classes)):
        if array.shape != (len(boxes),):
            raise refuse(f"{name} of shape {array.shape} with {len(boxes)} boxes")
    whole = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & np.isfinite(classes)
    _refuse_nonsense(boxes[whole], scores[whole], classes[whole], min(height, width), refuse)
    limits = np.array([width, height, width, height], np.float64)
    cut = np.clip(np.where(whole[:, None], boxes, 0.0), 0.0, limits).astype(np.float32)
    good = whole & (cut[:, :2] < cut[:, 2:]).all(axis=1)
    return Detections(
        cut[good],
        np.clip(scores[good], 0.0, 1.0).astype(np.float32),
        classes[good].astype(np.int64),
        answer.names,
        answer.dropped + int(np.count_nonzero(~good)),
    )


def names_by_number(names: object) -> tuple[str, ...]:
    """Return class names that are given as a list, or as a dict with the number as key; anything else is no names."""
    if isinstance(names, (list, tuple)):
        return tuple(map(str, names))
    if not isinstance(names, Mapping) or not all(isinstance(key, int) and 0 <= key < _MOST_NAMES for key in names):
        return ()
    return tuple(str(names.get(number, "")) for number in range(max(names, default=-1) + 1))


def _take_apart(value: Any, refuse: _Refuse) -> _Answer | None:
    """Tell which of the accepted forms it is; None is no detection."""
    if value is None:
        return None
    if isinstance(value, Detections):
        return _Answer(value.boxes, value.scores, value.classes, value.names, value.dropped)
    if isinstance(value, (list, tuple)):
        if not any(_is_whole_answer(item) for item in value):
            return _table(value, refuse)
        if len(value) != 1:
            raise refuse(f"{len(value)} results instead of the one for this frame")
        return _take_apart(value[0], refuse)
    if isinstance(value, Mapping):
        if "boxes" not in value:
            keys = ", ".join(map(repr, value)) or "nothing"
            raise refuse(f"a dict without `boxes`; it has {keys:.120}")
        return _unless_empty(value["boxes"], value.get("scores"), value.get("labels"), (), refuse)
    if hasattr(value, "xyxy") and hasattr(value, "confidence"):  # supervision.Detections
        classes = getattr(value, "class_id", None)
        return _unless_empty(value.xyxy, value.confidence, classes, _supervision_names(value), refuse)
    if hasattr(value, "xyxy") and hasattr(value, "conf"):  # the `boxes` of an ultralytics result
        return _unless_empty(value.xyxy, value.conf, getattr(value, "cls", None), (), refuse)
    if hasattr(value, "boxes"):  # an ultralytics result
        return _ultralytics(value, refuse)
    return _table(value, refuse)


def _is_whole_answer(item: Any) -> bool:
    """Whether an item of a list is what was found in a frame; else the list holds boxes or numbers."""
    return item is None or isinstance(item, (Detections, Mapping)) or hasattr(item, "boxes") or hasattr(item, "xyxy")


def _ultralytics(value: Any, refuse: _Refuse) -> _Answer | None:
    boxes = value.boxes
    if boxes is None:
        if getattr(value, "obb", None) is not None:
            raise refuse("rotated boxes (`obb`); only upright ones can be used")
        return None
    if not hasattr(boxes, "xyxy"):
        raise refuse(f"a {type(value).__name__} whose `boxes` have no `xyxy`")
    names = names_by_number(getattr(value, "names", None))
    return _unless_empty(boxes.xyxy, getattr(boxes, "conf", None), getattr(boxes, "cls", None), names, refuse)


def _table(value: Any, refuse: _Refuse) -> _Answer | None:
    """Take columns apart: a box, perhaps its score, perhaps its class."""
    table = _numbers(value, "an answer", refuse)
    if table.size == 0 and table.ndim > 0:
        return None
    if table.ndim == 3 and table.shape[0] == 1:
        table = table[0]
    if table.ndim == 1:
        raise refuse(
            f"numbers of shape {table.shape}", "hint: one box is [[x1, y1, x2, y2]], with two pairs of brackets"
        )
    if table.ndim != 2 or table.shape[1] not in (4, 5, 6):
        raise refuse(f"numbers of shape {table.shape}")
    columns = table.shape[1]
    return _Answer(table[:, :4], table[:, 4] if columns > 4 else None, table[:, 5] if columns > 5 else None)


def _unless_empty(boxes: Any, scores: Any, classes: Any, names: tuple[str, ...], refuse: _Refuse) -> _Answer | None:
    found = _numbers(boxes, "boxes", refuse)
    return _Answer(found, scores, classes, names) if found.size else None


def _numbers(value: Any, what: str, refuse: _Refuse) -> NDArray[np.float64]:
    """Return an array, a tensor of any device, or nested lists of them as float64."""
    try:
        array = np.asarray(_on_host(value))
    except Exception as error:  # whatever the conversion of somebody else's type raises
        raise refuse(f"{what} of type {type(value).__name__} that cannot become an array ({error})") from error
    if array.dtype.kind not in "fiu":
        given = type(value).__name__ if array.dtype == object else f"{type(value).__name__} of {array.dtype}"
        raise refuse(f"{what} of type {given}, not numbers")
    return array.astype(np.float64)


def _on_host(value: Any) -> Any:
    """Bring tensors inside `value` to NumPy; half precision that NumPy lacks, such as bfloat16, included."""
    if isinstance(value, (list, tuple)):
        return [_on_host(item) for item in value]
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        return value.detach().cpu().double().numpy()
    return value


def _refuse_nonsense(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    classes: NDArray[np.float64],
    side: int,
    refuse: _Refuse,
) -> None:
    """Refuse an answer that is wrong as a whole and not in one box; see `as_detections`."""
    if len(scores) and not (scores.min() >= -_SCORE_SLACK and scores.max() <= 1 + _SCORE_SLACK):
        raise refuse(
            f"scores from {scores.min():g} to {scores.max():g}; they must lie within 0..1",
            "hint: columns are x1 y1 x2 y2 score class; logits need a sigmoid, and percentages a division by 100",
        )
    if (classes != np.rint(classes)).any() or (classes < -1).any() or (classes > _LARGEST_CLASS).any():
        odd = classes[(classes != np.rint(classes)) | (classes < -1) | (classes > _LARGEST_CLASS)][0]
        raise refuse(
            f"the class {odd:g}; classes are whole numbers from 0, or -1 for unknown",
            "hint: columns are x1 y1 x2 y2 score class",
        )
    if len(boxes) > 1 and (boxes[:, 2:] < boxes[:, :2]).any(axis=1).all():
        raise refuse(
            f"{len(boxes)} boxes that all end before they begin, such as {boxes[0].tolist()}",
            "hint: boxes are x1 y1 x2 y2; `effvision.host.boxes.xywh_to_xyxy` makes them of x y width height",
        )
    real = boxes[(boxes[:, :2] < boxes[:, 2:]).all(axis=1)]  # rows of zeros are only padding
    if len(real) and side > 8 and real.min() >= 0 and real.max() <= 1:
        raise refuse(
            f"boxes that all lie within the first pixel, such as {real[0].tolist()}",
            "hint: boxes are in pixels of the frame; multiply shares of it by [width, height, width, height]",
        )


def _supervision_names(value: Any) -> tuple[str, ...]:
    """Class names of the classes that are there; the others are not told."""
    data, classes = getattr(value, "data", None), getattr(value, "class_id", None)
    told = data.get("class_name") if isinstance(data, Mapping) else None
    if told is None or classes is None or len(told) != len(classes):
        return ()
    return names_by_number({int(number): str(name) for number, name in zip(classes, told, strict=True)})


def _refusal(where: str, height: int, width: int, what: str, hint: str = _SUPPORTED) -> DetectorError:
    return DetectorError(f"{where} returned {what}; the frame had {height} rows and {width} columns\n{hint}")


def _check_frame(height: int, width: int) -> None:
    for name, value in (("height", height), ("width", width)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise InputError(f"`{name}` of the frame must be a whole number, 1 or more; got {value!r}")
