"""How well many objects were followed: MOTA and IDF1.

Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics", 2008; Ristani et al.,
"Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", ECCV 2016 workshops. The numbers are those of
Roboflow's library `trackers` (the extra `metrics`), which counts as TrackEval does; here its arguments are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import require
from effvision.errors import RangeError
from effvision.metrics.boxes import FrameBoxes, box_iou, checked_tracks, checked_truth, frame_by_frame

__all__ = ["MotScores", "mot_scores"]


@dataclass(frozen=True)
class MotScores:
    """What was counted when answered tracks were laid on the true ones; `mot_scores` makes it.

    Attributes:
        truths: True boxes.
        hits: True boxes that an answer was laid on.
        misses: The others.
        false_alarms: Answers laid on none.
        switches: Times a true track was laid on by another answered track than before.
        overlap: Sum of the IoU of all hits.
        identified: Hits that remain if each true track may keep but one answered track all along, chosen for the most.
    """

    truths: int
    hits: int
    misses: int
    false_alarms: int
    switches: int
    overlap: float
    identified: int

    @property
    def mota(self) -> float:
        """1 - (misses + false alarms + switches) / truths, at most 1 and often below 0; NaN without truth."""
        wrong = self.misses + self.false_alarms + self.switches
        return 1 - wrong / self.truths if self.truths else float("nan")

    @property
    def motp(self) -> float:
        """Mean IoU of the hits; NaN without hits."""
        return self.overlap / self.hits if self.hits else float("nan")

    @property
    def idf1(self) -> float:
        """2 identified / (truths + answers), 0..1; NaN if there are neither."""
        boxes = self.truths + self.hits + self.false_alarms
        return 2 * self.identified / boxes if boxes else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; what is undefined is None."""
        values = {"mota": self.mota, "idf1": self.idf1, "motp": self.motp}
        return {**{name: None if np.isnan(value) else value for name, value in values.items()}, **vars(self)}

    def __str__(self) -> str:
        return (
            f"{self.truths} true boxes, MOTA {self.mota:.4f}, IDF1 {self.idf1:.4f}, MOTP {self.motp:.4f}\n"
            f"  {self.misses} misses, {self.false_alarms} false alarms, {self.switches} switches"
        )


def mot_scores(answers: FrameBoxes, truth: FrameBoxes, *, iou: float = 0.5) -> MotScores:
    """Score the tracks of many objects. Needs the extra `metrics`.

    Classes and sequences are counted together: a box is laid on a true one of its own class and sequence only, and a track that
    changes its class is two.

    Args:
        answers: With `tracks`. Scores are not looked at: leave out with `where` what is not to be counted.
        truth: With `tracks`.
        iou: From which IoU on a box may be laid on another.

    Raises:
        ShapeError: no `tracks`.
        RangeError: boxes or tracks that cannot be, truth with boxes marked `ignore`, or `iou` outside 0..1.
        MissingDependencyError: `trackers` is not installed.
    """
    if not 0 < iou <= 1:
        raise RangeError(f"`iou` must lie within 0..1, 0 left out; got {iou}")
    checked_truth(truth)
    tables = (answers, truth)
    names = [checked_tracks(name, table) for name, table in zip(("answers", "truth"), tables, strict=True)]
    if truth.ignore.any():
        raise RangeError("MOTA and IDF1 know no boxes to ignore\nhint: truth.where(~truth.ignore) leaves them out")
    given, true = (_numbered(table, tracks) for table, tracks in zip(tables, names, strict=True))
    frames: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    for mine, its in frame_by_frame(answers, truth, by_class=False):
        overlap = box_iou(truth.boxes[its], answers.boxes[mine])
        overlap[truth.classes[its][:, None] != answers.classes[mine][None]] = 0.0
        frames.append((true[its], given[mine], overlap))
    library = require("trackers.eval", extra="metrics")
    arguments = [list(part) for part in zip(*frames, strict=True)] or [[], [], []]
    clear = library.compute_clear_metrics(*arguments, threshold=iou)
    identity = library.compute_identity_metrics(*arguments, threshold=iou)
    return MotScores(
        truths=len(truth),
        hits=int(clear["CLR_TP"]),
        misses=int(clear["CLR_FN"]),
        false_alarms=int(clear["CLR_FP"]),
        switches=int(clear["IDSW"]),
        overlap=float(clear["MOTP_sum"]),
        identified=int(identity["IDTP"]),
    )


def _numbered(table: FrameBoxes, tracks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the tracks of all sequences and classes together, from 0."""
    keys = np.stack([table.sequences, table.classes, tracks], axis=1)
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
