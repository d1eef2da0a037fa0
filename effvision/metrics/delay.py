"""How late objects are found in a video: average delay (AD).

Mao, Yang and Dally, "A Delay Metric for Video Object Detection: What Average Precision Fails to Tell", ICCV 2019; where the
paper leaves something open, as the authors' code (RalphMao/VMetrics) has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import RangeError, ShapeError
from effvision.metrics.boxes import FrameBoxes, box_iou, checked_tracks, checked_truth, frame_by_frame, sides

__all__ = ["FALSE_ALARM_RATES", "DelayScores", "delay_scores"]

FALSE_ALARM_RATES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""False alarms for each true box at which the delay is taken."""

_LONGEST = 30  # frames: a longer delay counts as this
_SIZED_BY = 30  # first boxes of a track that say its size
_SMALL_PX, _LARGE_PX = 40.0, 100.0
_IOU = 0.5


@dataclass(frozen=True, eq=False)
class DelayScores:
    """After how many frames each object was found, at several rates of false alarms; `delay_scores` makes it.

    Attributes:
        rates: False alarms for each true box.
        score_thresholds: Score from which on answers are kept to have each rate; 0 keeps all, where they never make so many.
        delays: (rates, tracks) frames from the first of a track to that of its first kept answer; its whole length if none.
        sequences: (tracks,) which video.
        tracks: (tracks,) which object of the video.
        sizes_px: (tracks,) shorter side, mean over the first 30 boxes.

    Raises:
        ShapeError: parts that do not fit each other.
    """

    rates: Sequence[float]
    score_thresholds: Sequence[float]
    delays: NDArray[np.int64]
    sequences: NDArray[np.int64]
    tracks: NDArray[np.int64]
    sizes_px: NDArray[np.float64]

    def __post_init__(self) -> None:
        many = (len(self.tracks),)
        if (
            self.delays.shape != (len(self.rates), *many)
            or len(self.score_thresholds) != len(self.rates)
            or not self.sequences.shape == self.sizes_px.shape == many
        ):
            raise ShapeError(
                f"{len(self.rates)} rates and {many[0]} tracks need `delays` of {(len(self.rates), *many)}; "
                f"got {self.delays.shape}, and {len(self.score_thresholds)} thresholds, {len(self.sequences)} sequences, "
                f"{len(self.sizes_px)} sizes"
            )

    @property
    def mean_delays(self) -> NDArray[np.float64]:
        """(rates,): mean over the tracks, a delay over 30 frames counted as 30; NaN without tracks."""
        return _mean_delays(self.delays)

    @property
    def average_delay(self) -> float:
        """AD in frames: the harmonic mean of `mean_delays` + 1, less 1; NaN without tracks."""
        return _average(self.delays)

    @property
    def small(self) -> float:
        """AD of the tracks under 40 pixels; NaN if there is none."""
        return _average(self.delays[:, self.sizes_px < _SMALL_PX])

    @property
    def medium(self) -> float:
        """AD of the tracks from 40 to under 100 pixels; NaN if there is none."""
        return _average(self.delays[:, (self.sizes_px >= _SMALL_PX) & (self.sizes_px < _LARGE_PX)])

    @property
    def large(self) -> float:
        """AD of the tracks from 100 pixels; NaN if there is none."""
        return _average(self.delays[:, self.sizes_px >= _LARGE_PX])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; what is undefined is None."""
        values = {name: getattr(self, name) for name in ("average_delay", "small", "medium", "large")}
        return {
            "tracks": len(self.tracks),
            **{name: None if np.isnan(value) else value for name, value in values.items()},
            "rates": [float(rate) for rate in self.rates],
            "score_thresholds": [float(score) for score in self.score_thresholds],
            "mean_delays": [None if np.isnan(value) else value for value in self.mean_delays.tolist()],
        }

    def __str__(self) -> str:
        lines = [
            f"{len(self.tracks)} tracks, average delay {self.average_delay:.3f} frames "
            f"(small {self.small:.3f}, medium {self.medium:.3f}, large {self.large:.3f})"
        ]
        for rate, score, delay in zip(self.rates, self.score_thresholds, self.mean_delays, strict=True):
            lines.append(f"  {rate:4g} false alarms a true box, scores from {score:.4f}: {delay:7.3f} frames")
        return "\n".join(lines)


def _mean_delays(delays: NDArray[np.int64]) -> NDArray[np.float64]:
    clipped = np.minimum(delays, _LONGEST)
    return clipped.mean(axis=1) if clipped.shape[1] else np.full(len(clipped), np.nan)


def _average(delays: NDArray[np.int64]) -> float:
    return float(1 / (1 / (_mean_delays(delays) + 1)).mean() - 1)


def delay_scores(
    answers: FrameBoxes,
    truth: FrameBoxes,
    *,
    rates: Sequence[float] = FALSE_ALARM_RATES,
    skip_last: bool = True,
    inclusive: bool = True,
) -> DelayScores:
    """Measure how late each true track is found, at scores chosen to have several rates of false alarms.

    1. Over all classes and sequences, from the surest answer on: it is right if the true box of its class it overlaps most does
       so by an IoU of at least 0.5 and was not taken by a surer one, else a false alarm. Answers of a class without truth are
       false alarms too.
    2. For each rate the threshold is the score of the first answer at which there are more false alarms for each true box.
    3. A track is found in the first frame in which a kept answer overlaps it more than any other true box of that class, and by
       an IoU greater than 0.5.

    Args:
        answers: With `scores` from 0.
        truth: With `tracks`; a track has one class. `ignore` has no part here.
        rates: False alarms for each true box, rising.
        skip_last: In step 3, leave out the last frame of each sequence, of those with a box in `truth` or `answers`, with the
            tracks that are in no other frame. The authors' code does, by a range that ends early, so their numbers are of it.
        inclusive: Boxes are a pixel wider and higher in step 1, as the authors' code has it; in step 3 they never are.

    Raises:
        ShapeError: no `scores`, or no `tracks`.
        RangeError: scores, rates, boxes or tracks that cannot be; truth with boxes marked `ignore`.
    """
    if answers.scores is None:
        raise ShapeError("`answers` needs `scores`, how sure each box is\nhint: FrameBoxes(..., scores=...)")
    if len(answers) and answers.scores.min() < 0:
        raise RangeError(f"`scores` must be from 0, which keeps every answer; got {answers.scores.min()}")
    wanted = np.asarray(rates, np.float64)
    if not len(wanted) or not (wanted[0] > 0 and (np.diff(wanted) > 0).all()):
        raise RangeError(f"`rates` must rise from above 0; got {list(rates)}")
    tracks = _checked_tracks(truth)
    scores = answers.scores
    thresholds = _thresholds(answers, scores, truth, wanted, inclusive=inclusive)
    if skip_last:
        early, there = (~last for last in _in_last_frame(answers, truth))
        answers, scores = answers.where(early), scores[early]
        truth, tracks = truth.where(there), tracks[there]
    known, track_of = np.unique(np.stack([truth.sequences, tracks], axis=1), axis=0, return_inverse=True)
    track_of = track_of.reshape(-1)
    first, end, sizes = _lives(truth, track_of, len(known))
    found = _found(answers, truth, track_of)
    delays = np.empty((len(wanted), len(known)), np.int64)
    for row, threshold in enumerate(thresholds):
        kept = (found >= 0) & (scores >= threshold)
        when = end.copy()  # never found: as long as the track lasts
        np.minimum.at(when, found[kept], answers.frames[kept])
        delays[row] = when - first
    return DelayScores(tuple(wanted.tolist()), tuple(thresholds), delays, known[:, 0], known[:, 1], sizes)


def _checked_tracks(truth: FrameBoxes) -> NDArray[np.int64]:
    """Return the tracks of truth that can be scored."""
    checked_truth(truth)
    tracks = checked_tracks("truth", truth)
    if truth.ignore.any():
        raise RangeError("average delay knows no boxes to ignore\nhint: truth.where(~truth.ignore) leaves them out")
    kinds = np.unique(np.stack([truth.sequences, tracks, truth.classes], axis=1), axis=0)
    same = (kinds[1:, :2] == kinds[:-1, :2]).all(axis=1)
    if same.any():
        sequence, track, _ = kinds[:-1][same][0].tolist()
        raise RangeError(
            f"track {track} of sequence {sequence} has boxes of several classes\n"
            "hint: an object has one class; number the objects of all classes together"
        )
    return tracks


def _thresholds(
    answers: FrameBoxes,
    scores: NDArray[np.float64],
    truth: FrameBoxes,
    rates: NDArray[np.float64],
    *,
    inclusive: bool,
) -> list[float]:
    """Return the score of the first answer at which there are more false alarms for a true box than each rate, else 0."""
    order = np.argsort(-scores, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    right = np.zeros(len(answers), bool)
    for given, true in frame_by_frame(answers, truth, by_class=True):
        if len(given) and len(true):
            given = given[np.argsort(rank[given])]
            overlap = box_iou(answers.boxes[given], truth.boxes[true], inclusive=inclusive)
            good = overlap.max(axis=1) >= _IOU
            _, surest = np.unique(overlap.argmax(axis=1)[good], return_index=True)
            right[given[good][surest]] = True
    alarms = (~right[order]).cumsum() / max(len(truth), 1)
    beyond = np.searchsorted(alarms, rates, side="right")
    return [float(scores[order[first]]) if first < len(order) else 0.0 for first in beyond]


def _in_last_frame(*tables: FrameBoxes) -> list[NDArray[np.bool_]]:
    """Say for each table which rows lie in the last frame of their sequence."""
    sequences, group = np.unique(np.concatenate([table.sequences for table in tables]), return_inverse=True)
    frames = np.concatenate([table.frames for table in tables])
    last = np.zeros(len(sequences), np.int64)
    np.maximum.at(last, group, frames)
    ends = np.cumsum([len(table) for table in tables])[:-1]
    return np.split(frames == last[group], ends)


def _lives(
    truth: FrameBoxes, track_of: NDArray[np.intp], many: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return first and last frame and the size of each track, (tracks,) each."""
    order = np.lexsort((truth.frames, track_of))
    starts = np.searchsorted(track_of[order], np.arange(many))
    shorter = sides(truth.boxes).min(axis=1)[order]
    lives = np.split(np.arange(len(order)), starts[1:])
    sizes = np.array([shorter[rows[:_SIZED_BY]].mean() for rows in lives if len(rows)])
    ends = np.array([rows[-1] for rows in lives if len(rows)], np.int64)
    return truth.frames[order[starts]], truth.frames[order[ends]], sizes


def _found(answers: FrameBoxes, truth: FrameBoxes, track_of: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the track each answer finds, -1 for none."""
    found = np.full(len(answers), -1, np.intp)
    for given, true in frame_by_frame(answers, truth, by_class=True):
        if len(given) and len(true):
            overlap = box_iou(answers.boxes[given], truth.boxes[true])
            found[given] = np.where(overlap.max(axis=1) > _IOU, track_of[true[overlap.argmax(axis=1)]], -1)
    return found
