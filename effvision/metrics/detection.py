"""How good detections are: average precision as COCO computes it, and the overlap of boxes carried on from a key frame.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, and the rules of its evaluation code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import RangeError, ShapeError
from effvision.metrics.boxes import FrameBoxes, box_iou, checked, checked_truth, frame_by_frame, sides

__all__ = ["COCO_THRESHOLDS", "DetectionScores", "detection_scores", "mean_iou_by_offset"]

COCO_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""The thresholds of IoU over which COCO takes the mean."""

_RECALLS = np.linspace(
    0.0, 1.0, 101
)  # bit for bit those of COCO's code: 7 of 10 found do not reach its 0.7000000000000001


@dataclass(frozen=True, eq=False)
class DetectionScores:
    """Average precision of each class at each threshold of IoU; `detection_scores` makes it.

    Attributes:
        names: K class names.
        thresholds: The thresholds, rising.
        ap: (thresholds, K) 0..1; NaN for a class without truth.
        truths: (K,) how many true boxes were asked for, ignored ones not counted.
        answers: (K,) how many answers were judged.

    Raises:
        ShapeError: parts that do not fit each other.
    """

    names: Sequence[str]
    thresholds: Sequence[float]
    ap: NDArray[np.float64]
    truths: NDArray[np.int64]
    answers: NDArray[np.int64]

    def __post_init__(self) -> None:
        many = len(self.names)
        if self.ap.shape != (len(self.thresholds), many) or not self.truths.shape == self.answers.shape == (many,):
            raise ShapeError(
                f"{many} classes at {len(self.thresholds)} thresholds need `ap` of {(len(self.thresholds), many)}, "
                f"`truths` and `answers` of {(many,)}; got {self.ap.shape}, {self.truths.shape} and {self.answers.shape}"
            )

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without truth: no mean takes them in, and answers of them count nowhere."""
        return tuple(name for name, many in zip(self.names, self.truths, strict=True) if not many)

    @property
    def mean_ap(self) -> float:
        """Mean over all thresholds and the classes that are not `absent`; NaN if all are."""
        return _mean(self.ap)

    @property
    def map_50(self) -> float:
        """Mean over the classes at an IoU of 0.5."""
        return self.map_at(0.5)

    @property
    def map_75(self) -> float:
        """Mean over the classes at an IoU of 0.75."""
        return self.map_at(0.75)

    @property
    def map_50_95(self) -> float:
        """Mean over the classes and COCO's ten thresholds.

        Raises:
            RangeError: it was computed at other thresholds.
        """
        if tuple(self.thresholds) != COCO_THRESHOLDS:
            raise RangeError(
                f"mAP 0.5:0.95 is of COCO's ten thresholds; these scores are at {list(self.thresholds)}\n"
                "hint: detection_scores without `thresholds`, or `mean_ap`, which is of the thresholds there are"
            )
        return self.mean_ap

    def map_at(self, iou: float) -> float:
        """Return the mean over the classes that are not `absent`; NaN if all are.

        Raises:
            RangeError: it was not computed at this threshold.
        """
        return _mean(self.ap_at(iou))

    def ap_at(self, iou: float) -> NDArray[np.float64]:
        """Return the average precision (K,) at one threshold.

        Raises:
            RangeError: it was not computed at this threshold.
        """
        if iou not in self.thresholds:
            raise RangeError(
                f"there is no average precision at an IoU of {iou}, only at {list(self.thresholds)}\n"
                f"hint: detection_scores(..., thresholds=({iou},))"
            )
        row: NDArray[np.float64] = self.ap[list(self.thresholds).index(iou)]
        return row

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; what is undefined is None."""
        classes = {
            name: {
                "truths": int(self.truths[k]),
                "answers": int(self.answers[k]),
                "mean_ap": _plain(_mean(self.ap[:, k])),
                "ap": {f"{iou:g}": _plain(value) for iou, value in zip(self.thresholds, self.ap[:, k], strict=True)},
            }
            for k, name in enumerate(self.names)
        }
        return {
            "truths": int(self.truths.sum()),
            "answers": int(self.answers.sum()),
            "mean_ap": _plain(self.mean_ap),
            "map": {f"{iou:g}": _plain(self.map_at(iou)) for iou in self.thresholds},
            "classes": classes,
            "absent": list(self.absent),
        }

    def __str__(self) -> str:
        several = len(self.thresholds) > 1
        first, last = (f"{self.thresholds[end]:g}" for end in (0, -1))
        head = f"{self.truths.sum()} true boxes, {self.answers.sum()} answers, mAP {first} {_mean(self.ap[0]):.4f}"
        head += f", mean to {last} {self.mean_ap:.4f}" if several else ""
        head += f" without {', '.join(self.absent)}, which are absent" if self.absent else ""
        width = max((len(name) for name in self.names), default=0)
        lines = [head]
        for k, name in enumerate(self.names):
            tail = f", mean to {last} {_mean(self.ap[:, k]):6.4f}" if several else ""
            lines.append(
                f"  {name:{width}} AP {first} {self.ap[0, k]:6.4f}{tail}  {self.truths[k]:8d} {self.answers[k]:8d}"
            )
        return "\n".join(lines)


def _mean(values: NDArray[np.float64]) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def detection_scores(
    answers: FrameBoxes,
    truth: FrameBoxes,
    *,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    names: Mapping[int, str] | None = None,
    per_frame: int = 100,
) -> DetectionScores:
    """Average precision over 101 recalls, as COCO's evaluation code computes it.

    In each frame the answers of a class are gone through from the surest on. Each takes, of the true boxes of its class that
    are still free, the one it overlaps most, if by the threshold at least. An answer that gets none and overlaps a box marked
    `ignore` counts neither as right nor as wrong; as with COCO's crowds, that overlap is the share of the answer's own area,
    and any number of answers may lie there. Of equal scores the earlier frame goes first, within a frame the earlier row.

    Args:
        answers: With `scores`. A box that is empty or inverted is a wrong answer.
        truth: Classes, frames and sequences in the same numbers; `ignore` is used.
        thresholds: IoU above 0, to 1, rising.
        names: Class numbers and their names, in the order of the result. Default: the numbers there are, by themselves.
        per_frame: In a frame the surest so many answers of a class are judged.

    Raises:
        ShapeError: no `scores`.
        RangeError: thresholds, names or true boxes that cannot be.
    """
    if answers.scores is None:
        raise ShapeError("`answers` needs `scores`, how sure each box is\nhint: FrameBoxes(..., scores=...)")
    checked_truth(truth)
    limits = np.asarray(thresholds, np.float64)
    if not len(limits) or not (limits[0] > 0 and limits[-1] <= 1 and (np.diff(limits) > 0).all()):
        raise RangeError(f"`thresholds` must rise within 0..1, 0 left out; got {list(thresholds)}")
    if per_frame < 1:
        raise RangeError(f"`per_frame` must be at least 1; got {per_frame}")
    known = _class_names(answers, truth, names)
    judged: dict[int, list[tuple[NDArray[Any], ...]]] = {number: [] for number in known}
    for given, true in frame_by_frame(answers, truth, by_class=True):
        if len(given):
            given = given[np.argsort(-answers.scores[given], kind="stable")][:per_frame]
            ignored = truth.ignore[true]
            overlap = _overlap(answers.boxes[given], truth.boxes[true], ignored)
            judged[int(answers.classes[given[0]])].append((answers.scores[given], *_judge(overlap, ignored, limits)))
    truths = np.array([(~truth.ignore & (truth.classes == number)).sum() for number in known], np.int64)
    many = np.array([sum(len(part[0]) for part in judged[number]) for number in known], np.int64)
    ap = np.full((len(limits), len(known)), np.nan)
    for k, number in enumerate(known):
        if truths[k]:
            ap[:, k] = _average_precision(judged[number], int(truths[k]), len(limits))
    return DetectionScores(tuple(known.values()), tuple(limits.tolist()), ap, truths, many)


def _class_names(answers: FrameBoxes, truth: FrameBoxes, names: Mapping[int, str] | None) -> dict[int, str]:
    there = np.union1d(answers.classes, truth.classes).tolist()
    if names is None:
        return {number: str(number) for number in there}
    unknown = sorted(set(there) - set(names))
    if unknown:
        raise RangeError(f"`names` must name every class; got boxes of {unknown}, and names for {list(names)}")
    return dict(names)


def _overlap(
    answers: NDArray[np.float64], truth: NDArray[np.float64], ignored: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the IoU (D, G); for a true box that is ignored, the share of the answer that lies in it."""
    overlap = box_iou(answers, truth)
    if ignored.any():
        crowds = truth[ignored]
        low = np.maximum(answers[:, None, :2], crowds[None, :, :2])
        high = np.minimum(answers[:, None, 2:], crowds[None, :, 2:])
        common = sides(np.concatenate([low, high], axis=-1)).prod(axis=-1)
        area = np.broadcast_to(sides(answers).prod(axis=-1)[:, None], common.shape)
        overlap[:, ignored] = np.divide(common, area, out=np.zeros(common.shape), where=area > 0)
    return overlap


def _judge(
    overlap: NDArray[np.float64], ignored: NDArray[np.bool_], limits: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say which answers of a frame, the surest first, are right at each threshold, and which count nowhere if they are not.

    Args:
        overlap: (D, G).
        ignored: (G,).
        limits: (thresholds,).

    Returns:
        right, nowhere: (thresholds, D) each.
    """
    right = np.zeros((len(limits), len(overlap)), bool)
    nowhere = np.zeros_like(right)
    enough = overlap[None] >= np.minimum(limits, 1 - 1e-10)[:, None, None]  # (thresholds, D, G)
    free = np.broadcast_to(~ignored, (len(limits), len(ignored))).copy()
    for answer in np.flatnonzero(enough[0].any(axis=1)):  # the others are wrong at the lowest threshold already
        fits = np.where(free & enough[:, answer], overlap[answer], -1.0)
        best = fits.shape[1] - 1 - fits[:, ::-1].argmax(axis=1)  # of equals the last, as COCO's code
        taken = np.flatnonzero(fits.max(axis=1) >= 0)
        right[taken, answer] = True
        free[taken, best[taken]] = False
        nowhere[:, answer] = enough[:, answer, ignored].any(axis=1)
    return right, nowhere


def _average_precision(judged: list[tuple[NDArray[Any], ...]], truths: int, thresholds: int) -> NDArray[np.float64]:
    """Return (thresholds,) from the scores (D,), right and nowhere (thresholds, D) of every frame."""
    if not judged:
        return np.zeros(thresholds)
    scores, right, nowhere = (np.concatenate([part[i] for part in judged], axis=-1) for i in range(3))
    order = np.argsort(-scores, kind="stable")
    hits = right[:, order].cumsum(axis=1)
    counted = hits + (~right & ~nowhere)[:, order].cumsum(axis=1)
    precise = hits / np.maximum(counted, 1)
    precise = np.maximum.accumulate(precise[:, ::-1], axis=1)[:, ::-1]
    found = np.empty(thresholds)
    for row in range(thresholds):
        first = np.searchsorted(hits[row] / truths, _RECALLS)  # the first answer that reaches each recall
        reached = first < len(order)
        found[row] = precise[row, first[reached]].sum() / len(_RECALLS)
    return found


def mean_iou_by_offset(answers: FrameBoxes, truth: FrameBoxes, since_key: NDArray[Any]) -> dict[int, float]:
    """Overlap boxes carried on from a key frame with the truth, by how long ago the key frame was.

    Each answer is overlapped with the true box of its class it overlaps most in its frame, with nothing (0) where there is
    none. It says how well boxes are carried, and nothing of true boxes that no answer covers.

    Args:
        answers: What was carried. Scores are not looked at: leave out with `where` what is not to be counted.
        truth: Boxes marked `ignore` are left out.
        since_key: (N,) frames since the key frame for each answer; `answers.frames % 6` for one frame in six.

    Returns:
        The mean IoU for each number in `since_key`, rising.

    Raises:
        ShapeError, DTypeError, RangeError: arrays that do not fit each other, or a true box that is empty or inverted.
    """
    offsets = checked("since_key", since_key, "iu", len(answers))
    if len(offsets) and offsets.min() < 0:
        raise RangeError(f"`since_key` must count from 0; got {offsets.min()}")
    checked_truth(truth)
    asked = truth.where(~truth.ignore)
    best = np.zeros(len(answers))
    for given, true in frame_by_frame(answers, asked, by_class=True):
        if len(given) and len(true):
            best[given] = box_iou(answers.boxes[given], asked.boxes[true]).max(axis=1)
    return {int(offset): float(best[offsets == offset].mean()) for offset in np.unique(offsets)}
