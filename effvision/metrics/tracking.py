"""How well one object was followed: the scores of the Object Tracking Benchmark, and whether a loss was said.

Wu, Lim and Yang, "Online Object Tracking: A Benchmark", CVPR 2013, section 4: success and precision plots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import RangeError, ShapeError
from effvision.metrics.boxes import checked, checked_boxes, paired_iou, refuse_uncovered

__all__ = ["TrackingScores", "precision", "precision_curve", "success_auc", "success_curve", "tracking_scores"]

_SUCCESS_THRESHOLDS = np.linspace(0.0, 1.0, 21)
_PRECISION_THRESHOLDS_PX = np.arange(51.0)
_WRONG_BELOW = 0.2  # IoU under which a box is on something else
_RIGHT_FROM = 0.5  # IoU from which on it is on the object
_REPORTED = (
    "frames",
    "auc",
    "precision",
    "mean_iou",
    "wrong_unsaid",
    "false_lost",
    "wrong_unsaid_of_wrong",
    "false_lost_of_right",
    "wrong_frames",
    "wrong_unsaid_frames",
    "right_frames",
    "false_lost_frames",
    "absent",
    "absent_unsaid_frames",
)


def success_curve(iou: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of frames whose IoU is greater than 0, 0.05 .. 1.

    Greater, as the benchmark's toolkit counts: a box beside the object succeeds at no threshold, and no box at 1.

    Args:
        iou: (T,) 0..1; NaN for a frame without truth, which is left out.

    Returns:
        (21,); NaN if no frame is left.

    Raises:
        ShapeError, DTypeError, RangeError: not (T,) numbers within 0..1.
    """
    kept = _known("iou", iou)
    if len(kept) and kept.max() > 1:
        raise RangeError(f"`iou` must lie within 0..1; got {kept.max()}")
    return _shares(kept[:, None] > _SUCCESS_THRESHOLDS)


def success_auc(iou: NDArray[Any]) -> float:
    """Return the area under the success plot: the mean of `success_curve`, at most 20/21; NaN if no frame is left.

    Raises:
        ShapeError, DTypeError, RangeError: as `success_curve`.
    """
    return float(success_curve(iou).mean())


def precision_curve(centre_errors_px: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of frames whose centre is at most 0, 1 .. 50 pixels off.

    Args:
        centre_errors_px: (T,) from 0; infinite for a frame in which no box was answered, NaN for one without truth, which is
            left out.

    Returns:
        (51,); NaN if no frame is left.

    Raises:
        ShapeError, DTypeError, RangeError: not (T,) numbers from 0.
    """
    return _shares(_known("centre_errors_px", centre_errors_px)[:, None] <= _PRECISION_THRESHOLDS_PX)


def precision(centre_errors_px: NDArray[Any], threshold_px: float = 20.0) -> float:
    """Return the share of frames whose centre is at most `threshold_px` off; NaN if no frame is left.

    Raises:
        ShapeError, DTypeError, RangeError: as `precision_curve`.
    """
    return float(_shares(_known("centre_errors_px", centre_errors_px)[:, None] <= threshold_px)[0])


def _known(name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    kept = checked(name, values, "fiu").astype(np.float64)
    kept = kept[~np.isnan(kept)]
    if len(kept) and kept.min() < 0:
        raise RangeError(f"`{name}` must not be negative; got {kept.min()}")
    return kept


def _shares(true: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of rows in which each column is true; NaN without rows."""
    return true.mean(axis=0) if len(true) else np.full(true.shape[1], np.nan)


@dataclass(frozen=True, eq=False)
class TrackingScores:
    """How well one object was followed through T frames; `tracking_scores` makes it.

    A frame is wrong if its IoU is below 0.2 and right if it is at least 0.5. Both shares below are of all frames with truth;
    their counts are given besides, and `wrong_unsaid_of_wrong` and `false_lost_of_right` are of the frames concerned.

    Attributes:
        iou: (T,) 0..1; 0 where no box was answered, NaN where there is no truth.
        centre_errors_px: (T,) pixels between the centres; infinite where no box was answered, NaN where there is no truth.
        lost: (T,) bool, whether the tracker said that it lost the object. A frame without a box counts as such.

    Raises:
        ShapeError, DTypeError: parts that do not fit each other.
    """

    iou: NDArray[np.float64]
    centre_errors_px: NDArray[np.float64]
    lost: NDArray[np.bool_]

    def __post_init__(self) -> None:
        for name, kinds in (("iou", "fiu"), ("centre_errors_px", "fiu"), ("lost", "b")):
            if checked(name, getattr(self, name), kinds).shape != self.iou.shape:
                raise ShapeError(f"`{name}` must have a number for each of {len(self.iou)} frames")

    @property
    def frames(self) -> int:
        """How many frames have truth; the others count nowhere but in `absent`."""
        return int((~np.isnan(self.iou)).sum())

    @property
    def absent(self) -> int:
        """How many frames have no truth: the object cannot be seen."""
        return len(self.iou) - self.frames

    @property
    def mean_iou(self) -> float:
        """Mean IoU; NaN without frames."""
        return float(np.nanmean(self.iou)) if self.frames else float("nan")

    @property
    def auc(self) -> float:
        """Area under the success plot, 0..20/21; NaN without frames."""
        return success_auc(self.iou)

    @property
    def precision(self) -> float:
        """Share of frames whose centre is at most 20 pixels off; NaN without frames."""
        return precision(self.centre_errors_px)

    @property
    def wrong_frames(self) -> int:
        """How many frames have an IoU below 0.2."""
        return int((self.iou < _WRONG_BELOW).sum())

    @property
    def wrong_unsaid_frames(self) -> int:
        """How many of the wrong frames were not said to be lost."""
        return int(((self.iou < _WRONG_BELOW) & ~self.lost).sum())

    @property
    def right_frames(self) -> int:
        """How many frames have an IoU of at least 0.5."""
        return int((self.iou >= _RIGHT_FROM).sum())

    @property
    def false_lost_frames(self) -> int:
        """How many of the right frames were said to be lost."""
        return int(((self.iou >= _RIGHT_FROM) & self.lost).sum())

    @property
    def absent_unsaid_frames(self) -> int:
        """In how many frames without truth the tracker said that it had the object."""
        return int((np.isnan(self.iou) & ~self.lost).sum())

    @property
    def wrong_unsaid(self) -> float:
        """Share of all frames with truth that are wrong and were not said to be lost; NaN without frames."""
        return _ratio(self.wrong_unsaid_frames, self.frames)

    @property
    def wrong_unsaid_of_wrong(self) -> float:
        """Share of the wrong frames that were not said to be lost; NaN if none is wrong."""
        return _ratio(self.wrong_unsaid_frames, self.wrong_frames)

    @property
    def false_lost(self) -> float:
        """Share of all frames with truth that are right and were said to be lost; NaN without frames."""
        return _ratio(self.false_lost_frames, self.frames)

    @property
    def false_lost_of_right(self) -> float:
        """Share of the right frames that were said to be lost; NaN if none is right."""
        return _ratio(self.false_lost_frames, self.right_frames)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; what is undefined is None."""
        values = {name: getattr(self, name) for name in _REPORTED}
        return {name: None if np.isnan(value) else value for name, value in values.items()}

    def __str__(self) -> str:
        lines = [
            f"{self.frames} frames, AUC {self.auc:.4f}, precision at 20 px {self.precision:.4f}, mIoU {self.mean_iou:.4f}",
            f"  wrong and unsaid {self.wrong_unsaid_frames} of {self.wrong_frames} wrong frames, "
            f"said lost {self.false_lost_frames} of {self.right_frames} right frames",
        ]
        if self.absent:
            lines.append(f"  {self.absent} frames without truth, not said lost in {self.absent_unsaid_frames} of them")
        return "\n".join(lines)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def tracking_scores(boxes: NDArray[Any], truth: NDArray[Any], *, lost: NDArray[Any] | None = None) -> TrackingScores:
    """Score one object followed through T frames.

    Args:
        boxes: (T, 4) answered; four NaN for a frame without an answer, which counts as said to be lost.
        truth: (T, 4); four NaN for a frame in which the object cannot be seen.
        lost: (T,) bool, whether the tracker said that it lost the object. Default: in no frame with a box.

    Raises:
        ShapeError, DTypeError, RangeError: arrays that do not fit each other, or a true box that is empty or inverted.
    """
    given, true = checked_boxes("boxes", boxes, absent=True), checked_boxes("truth", truth, absent=True)
    if len(given) != len(true):
        raise ShapeError(f"`boxes` and `truth` must have a row for each frame; got {len(given)} and {len(true)}")
    refuse_uncovered(
        "truth", true, hint="boxes are x1 y1 x2 y2, not x y width height; four NaN where it cannot be seen"
    )
    said = np.zeros(len(given), bool) if lost is None else checked("lost", lost, "b", len(given))
    missing, absent = np.isnan(given[:, 0]), np.isnan(true[:, 0])
    both = ~missing & ~absent
    iou = np.where(absent, np.nan, 0.0)
    iou[both] = paired_iou(given[both], true[both])
    errors = np.where(absent, np.nan, np.inf)
    apart = (given[both, :2] + given[both, 2:] - true[both, :2] - true[both, 2:]) / 2
    errors[both] = np.hypot(apart[:, 0], apart[:, 1])
    return TrackingScores(iou, errors, said | missing)
