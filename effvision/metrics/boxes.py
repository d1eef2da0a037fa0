"""Boxes: how far they overlap, and tables of them for many frames.

A box is `x1 y1 x2 y2` in pixels, half-open: its width is `x2 - x1`. One with `x2 <= x1` or `y2 <= y1` covers nothing and
overlaps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import DTypeError, RangeError, ShapeError

__all__ = [
    "FrameBoxes",
    "box_iou",
    "checked",
    "checked_boxes",
    "checked_tracks",
    "checked_truth",
    "frame_by_frame",
    "paired_iou",
    "refuse_uncovered",
    "sides",
]

_KINDS = {"fiu": "numbers", "iu": "whole numbers", "b": "True or False"}


def box_iou(a: NDArray[Any], b: NDArray[Any], *, inclusive: bool = False) -> NDArray[np.float64]:
    """Overlap every box of `a` with every box of `b`: intersection over union.

    Args:
        a: (M, 4) boxes.
        b: (N, 4) boxes.
        inclusive: `x2 y2` belong to the box, which makes it a pixel wider and higher, as old evaluation code has it.

    Returns:
        (M, N) 0..1.

    Raises:
        ShapeError, DTypeError, RangeError: what is no box, or not finite.
    """
    return _iou(checked_boxes("a", a)[:, None], checked_boxes("b", b)[None], inclusive=inclusive)


def paired_iou(a: NDArray[Any], b: NDArray[Any], *, inclusive: bool = False) -> NDArray[np.float64]:
    """Overlap each box of `a` with the box in the same row of `b`; otherwise as `box_iou`.

    Returns:
        (N,) 0..1.

    Raises:
        ShapeError, DTypeError, RangeError: what is no box, or not finite, or not as many in `a` as in `b`.
    """
    a, b = checked_boxes("a", a), checked_boxes("b", b)
    if len(a) != len(b):
        raise ShapeError(
            f"`a` and `b` must have a row for each other; got {len(a)} and {len(b)} boxes\n"
            "hint: box_iou overlaps every box with every other"
        )
    return _iou(a, b, inclusive=inclusive)


def sides(boxes: NDArray[np.float64], *, inclusive: bool = False) -> NDArray[np.float64]:
    """Return width and height (..., 2) of boxes (..., 4); 0 for what is inverted."""
    wide: NDArray[np.float64] = np.maximum(boxes[..., 2:] - boxes[..., :2] + inclusive, 0.0)
    return wide


def _iou(a: NDArray[np.float64], b: NDArray[np.float64], *, inclusive: bool) -> NDArray[np.float64]:
    common = np.concatenate(
        np.broadcast_arrays(np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])), axis=-1
    )
    both, first, second = (sides(boxes, inclusive=inclusive).prod(axis=-1) for boxes in (common, a, b))
    # An inverted box has no area, but where it lies in another the intersection has none either.
    either = first + second - both
    iou: NDArray[np.float64] = np.divide(both, either, out=np.zeros(both.shape), where=either > 0)
    return iou


@dataclass(frozen=True, eq=False, init=False)
class FrameBoxes:
    """Boxes of many frames, a row each, in any order: what was answered or what is true.

    Attributes:
        frames: (N,) int64 from 0, the frame each box is of.
        boxes: (N, 4) float64.
        classes: (N,) int64; zeros if not given.
        sequences: (N,) int64, which video each box is of; zeros if not given.
        ignore: (N,) bool, truth that is not asked for, such as a crowd; False if not given.
        scores: (N,) float64, the higher the surer, or None.
        tracks: (N,) int64, which object of its sequence it is, or None.

    Raises:
        ShapeError, DTypeError, RangeError: parts that do not fit each other, or numbers that are not finite.
    """

    frames: NDArray[np.int64]
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    sequences: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    scores: NDArray[np.float64] | None
    tracks: NDArray[np.int64] | None

    def __init__(
        self,
        frames: NDArray[Any],
        boxes: NDArray[Any],
        *,
        classes: NDArray[Any] | None = None,
        scores: NDArray[Any] | None = None,
        tracks: NDArray[Any] | None = None,
        ignore: NDArray[Any] | None = None,
        sequences: NDArray[Any] | None = None,
    ) -> None:
        rows = checked_boxes("boxes", boxes)
        many = len(rows)
        whole = {
            name: np.zeros(many, np.int64) if values is None else checked(name, values, "iu", many).astype(np.int64)
            for name, values in (("frames", frames), ("classes", classes), ("sequences", sequences))
        }
        if many and whole["frames"].min() < 0:
            raise RangeError(f"`frames` must count from 0; got {whole['frames'].min()}")
        sure = None if scores is None else checked("scores", scores, "fiu", many).astype(np.float64)
        if sure is not None and not np.isfinite(sure).all():
            row = int(np.flatnonzero(~np.isfinite(sure))[0])
            raise RangeError(f"`scores` must be finite; got {sure[row]} in row {row}\nhint: leave such answers out")
        parts = {
            **whole,
            "boxes": rows,
            "ignore": np.zeros(many, bool) if ignore is None else checked("ignore", ignore, "b", many).copy(),
            "scores": sure,
            "tracks": None if tracks is None else checked("tracks", tracks, "iu", many).astype(np.int64),
        }
        for name, value in parts.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.boxes)

    def where(self, kept: NDArray[Any]) -> FrameBoxes:
        """Return the rows that `kept`, (N,) bool, says."""
        rows = checked("kept", kept, "b", len(self))
        return FrameBoxes(
            self.frames[rows],
            self.boxes[rows],
            classes=self.classes[rows],
            scores=None if self.scores is None else self.scores[rows],
            tracks=None if self.tracks is None else self.tracks[rows],
            ignore=self.ignore[rows],
            sequences=self.sequences[rows],
        )


def frame_by_frame(
    answers: FrameBoxes, truth: FrameBoxes, *, by_class: bool
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield the rows of `answers` and of `truth` that lie in one frame, as they stand; in the order of the frames.

    Args:
        answers: What was answered.
        truth: What is true.
        by_class: A pair for each class of a frame instead, all frames of a class one after the other.
    """
    columns = [
        np.stack([*((part.classes,) if by_class else ()), part.sequences, part.frames], axis=1)
        for part in (answers, truth)
    ]
    keys, group = np.unique(np.concatenate(columns), axis=0, return_inverse=True)
    group = group.reshape(-1)
    rows = []
    for part in (group[: len(answers)], group[len(answers) :]):
        order = np.argsort(part, kind="stable")
        rows.append(np.split(order, np.searchsorted(part[order], np.arange(1, len(keys)))))
    if len(keys):
        yield from zip(*rows, strict=True)


def checked(name: str, values: NDArray[Any], kinds: str, many: int | None = None) -> NDArray[Any]:
    """Return `values` if it is (`many`,) of a NumPy kind in `kinds`, of any length for None."""
    if not isinstance(values, np.ndarray):
        raise DTypeError(f"`{name}` must be a NumPy array; got {type(values).__name__}\nhint: numpy.asarray({name})")
    if values.ndim != 1 or many not in (None, len(values)):
        wanted = "(N,)" if many is None else f"({many},), one for each box"
        raise ShapeError(f"`{name}` must be {wanted}; got {values.shape}")
    if values.dtype.kind not in kinds:
        raise DTypeError(f"`{name}` must be {_KINDS[kinds]}; got {values.dtype}")
    return values


def checked_boxes(name: str, boxes: NDArray[Any], *, absent: bool = False) -> NDArray[np.float64]:
    """Return boxes (N, 4) as a float64 copy; with `absent`, four NaN stand for no box."""
    if not isinstance(boxes, np.ndarray):
        raise DTypeError(f"`{name}` must be a NumPy array; got {type(boxes).__name__}\nhint: numpy.asarray({name})")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ShapeError(f"`{name}` must be (N, 4), `x1 y1 x2 y2` each; got {boxes.shape}")
    if boxes.dtype.kind not in "fiu":
        raise DTypeError(f"`{name}` must be numbers; got {boxes.dtype}")
    rows = boxes.astype(np.float64)
    wrong = ~np.isfinite(rows).all(axis=1)
    if absent:
        wrong &= ~np.isnan(rows).all(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        hint = "four NaN stand for no box" if absent else "leave out rows without a box"
        raise RangeError(f"`{name}` must be finite; row {row} is {rows[row].tolist()}\nhint: {hint}")
    return rows


def refuse_uncovered(name: str, boxes: NDArray[np.float64], *, hint: str) -> None:
    """Refuse true boxes that cover nothing; NaN passes."""
    wrong = ((boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])).nonzero()[0]
    if len(wrong):
        row = int(wrong[0])
        raise RangeError(
            f"`{name}` must be boxes with x1 < x2 and y1 < y2; row {row} is {boxes[row].tolist()}, "
            f"which is empty or inverted\nhint: {hint}"
        )


def checked_truth(truth: FrameBoxes) -> None:
    """Refuse true boxes that cover nothing."""
    hint = "true boxes are x1 y1 x2 y2, not x y width height; leave out what cannot be seen"
    refuse_uncovered("truth.boxes", truth.boxes, hint=hint)


def checked_tracks(name: str, boxes: FrameBoxes) -> NDArray[np.int64]:
    """Return the tracks of a table; refuse one without them, or with a track twice in a frame."""
    if boxes.tracks is None:
        raise ShapeError(f"`{name}` needs `tracks`, which object each box is of\nhint: FrameBoxes(..., tracks=...)")
    keys = np.stack([boxes.sequences, boxes.frames, boxes.tracks], axis=1)
    found, times = np.unique(keys, axis=0, return_counts=True)
    if len(times) and times.max() > 1:
        sequence, frame, track = found[times.argmax()].tolist()
        raise RangeError(
            f"`{name}` has track {track} {times.max()} times in frame {frame} of sequence {sequence}\n"
            "hint: number the objects of a sequence differently; tell videos apart by `sequences`"
        )
    return boxes.tracks
