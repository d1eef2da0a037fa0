"""How good a segmentation is: confusion matrix, intersection over union, accuracy. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import DTypeError, RangeError, ShapeError

__all__ = ["SegmentationScores", "confusion_matrix"]


def confusion_matrix(
    truth: NDArray[Any], answers: NDArray[Any], classes: int, *, ignore: int | None = None
) -> NDArray[np.int64]:
    """Count how often each class was answered for each class.

    Args:
        truth: Whole numbers of any shape, 0..K-1, or `ignore`.
        answers: The same shape, 0..K-1.
        classes: K.
        ignore: Where the truth is this number, nothing is counted. The answer there may be anything.

    Returns:
        (K, K) int64, a row for each true class.

    Raises:
        ShapeError, DTypeError, RangeError: arrays that do not fit each other or the classes.
    """
    if truth.shape != answers.shape:
        raise ShapeError(f"`truth` and `answers` must have one shape; got {truth.shape} and {answers.shape}")
    if truth.dtype.kind not in "iu" or answers.dtype.kind not in "iu":
        raise DTypeError(f"`truth` and `answers` must be whole numbers; got {truth.dtype} and {answers.dtype}")
    true, given = truth.ravel().astype(np.int64), answers.ravel().astype(np.int64)
    if ignore is not None:
        counted = true != ignore
        true, given = true[counted], given[counted]
    for name, values in (("truth", true), ("answers", given)):
        if len(values) and not (values.min() >= 0 and values.max() < classes):
            raise RangeError(f"`{name}` must lie within 0..{classes - 1}; got {values.min()}..{values.max()}")
    return np.bincount(true * classes + given, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """What a confusion matrix says. Add two of the same classes to pool their points.

    Attributes:
        confusion: (K, K) counts, a row for each true class.
        names: K class names.

    Raises:
        ShapeError: parts that do not fit each other.
    """

    confusion: NDArray[np.int64]
    names: Sequence[str]

    def __post_init__(self) -> None:
        if self.confusion.shape != (len(self.names), len(self.names)):
            raise ShapeError(f"{len(self.names)} classes need a square of that side; got {self.confusion.shape}")

    def __add__(self, other: SegmentationScores) -> SegmentationScores:
        if tuple(self.names) != tuple(other.names):
            raise ShapeError(f"scores of other classes cannot be added: {list(self.names)} and {list(other.names)}")
        return SegmentationScores(self.confusion + other.confusion, self.names)

    @property
    def points(self) -> int:
        """How many points were counted."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of the points with the right answer; NaN without points."""
        return float(np.trace(self.confusion)) / self.points if self.points else float("nan")

    @property
    def majority(self) -> float:
        """Accuracy of always answering the most frequent true class; NaN without points."""
        return float(self.confusion.sum(axis=1).max()) / self.points if self.points else float("nan")

    @property
    def iou(self) -> NDArray[np.float64]:
        """(K,): right / (right + missed + wrongly answered); NaN for a class neither true nor answered anywhere."""
        right = np.diagonal(self.confusion).astype(np.float64)
        union = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - np.diagonal(self.confusion)
        shares: NDArray[np.float64] = np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)
        return shares

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes neither true nor answered anywhere: the mean leaves them out."""
        return tuple(name for name, value in zip(self.names, self.iou, strict=True) if np.isnan(value))

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that are not `absent`; NaN if all are."""
        there = self.iou[~np.isnan(self.iou)]
        return float(there.mean()) if len(there) else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; what is undefined is None."""
        iou = {
            name: None if np.isnan(value) else float(value) for name, value in zip(self.names, self.iou, strict=True)
        }
        numbers = {"accuracy": self.accuracy, "mean_iou": self.mean_iou, "majority": self.majority}
        return {
            "points": self.points,
            **{name: None if np.isnan(value) else value for name, value in numbers.items()},
            "iou": iou,
            "absent": list(self.absent),
            "confusion": self.confusion.tolist(),
        }

    def __str__(self) -> str:
        width = max(len(name) for name in self.names)
        lines = [
            f"{self.points} points, accuracy {self.accuracy:.4f} (majority {self.majority:.4f}), mIoU {self.mean_iou:.4f}"
            + (f" without {', '.join(self.absent)}, which are absent" if self.absent else "")
        ]
        for name, value, row in zip(self.names, self.iou, self.confusion, strict=True):
            lines.append(f"  {name:{width}} IoU {value:6.4f}  " + " ".join(f"{number:8d}" for number in row))
        return "\n".join(lines)
