"""Scores of a segmentation, against a loop over the points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from effvision.errors import DTypeError, RangeError, ShapeError
from effvision.metrics import SegmentationScores, confusion_matrix

NAMES = ("a", "b", "c", "d")


def slow(
    truth: NDArray[Any], answers: NDArray[Any], classes: int, ignore: int | None
) -> tuple[Any, list[float], float]:
    pairs = [(t, a) for t, a in zip(truth.ravel().tolist(), answers.ravel().tolist(), strict=True) if t != ignore]
    counts = [[sum(pair == (t, a) for pair in pairs) for a in range(classes)] for t in range(classes)]
    ious = []
    for k in range(classes):
        both = sum(t == k and a == k for t, a in pairs)
        either = sum(t == k or a == k for t, a in pairs)
        ious.append(both / either if either else float("nan"))
    return counts, ious, sum(t == a for t, a in pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_a_loop_over_the_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, answers = rng.integers(-1, 3, 200), rng.integers(0, 3 + seed % 2, 200)
    counts, ious, accuracy = slow(truth, answers, 4, -1)
    scores = SegmentationScores(confusion_matrix(truth, answers, 4, ignore=-1), NAMES)
    assert scores.confusion.tolist() == counts
    np.testing.assert_allclose(scores.iou, ious)
    assert scores.accuracy == pytest.approx(accuracy)
    assert scores.mean_iou == pytest.approx(np.nanmean(ious))


def test_a_class_absent_from_both_is_left_out_and_said() -> None:
    scores = SegmentationScores(confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 4), NAMES)
    assert scores.absent == ("c", "d")
    assert scores.mean_iou == pytest.approx(0.5)
    assert scores.to_dict()["iou"]["c"] is None
    assert "without c, d, which are absent" in str(scores)


def test_a_class_that_is_only_answered_counts_as_zero() -> None:
    scores = SegmentationScores(confusion_matrix(np.array([0, 0]), np.array([0, 1]), 4), NAMES)
    assert scores.iou[1] == 0
    assert scores.mean_iou == pytest.approx(0.25)


def test_the_majority_is_the_best_constant_answer() -> None:
    truth = np.array([2, 2, 1, 0, 2])
    best = max(float(np.mean(truth == k)) for k in range(4))
    assert SegmentationScores(confusion_matrix(truth, truth, 4), NAMES).majority == pytest.approx(best)


def test_scores_add_up_as_their_points_do() -> None:
    rng = np.random.default_rng(0)
    truth, answers = rng.integers(0, 4, (2, 50)), rng.integers(0, 4, (2, 50))
    parts = [SegmentationScores(confusion_matrix(t, a, 4), NAMES) for t, a in zip(truth, answers, strict=True)]
    whole = confusion_matrix(truth, answers, 4)
    assert (parts[0] + parts[1]).confusion.tolist() == whole.tolist()
    with pytest.raises(ShapeError, match="other classes"):
        parts[0] + SegmentationScores(whole, ("a", "b", "c", "e"))


def test_nothing_to_count_gives_nothing() -> None:
    none = np.zeros(0, np.int64)
    scores = SegmentationScores(confusion_matrix(none, none, 4), NAMES)
    assert np.isnan(scores.accuracy) and np.isnan(scores.mean_iou) and np.isnan(scores.majority)
    assert scores.to_dict()["mean_iou"] is None


def test_what_does_not_fit_is_refused() -> None:
    right = np.array([0, 1])
    with pytest.raises(ShapeError, match="one shape"):
        confusion_matrix(right, np.array([0]), 2)
    with pytest.raises(DTypeError, match="whole numbers"):
        confusion_matrix(right, np.array([0.0, 1.0]), 2)
    with pytest.raises(RangeError, match=r"`truth`.*0\.\.1"):
        confusion_matrix(np.array([0, 2]), right, 2)
    with pytest.raises(RangeError, match="`answers`"):
        confusion_matrix(right, np.array([0, -1]), 2)
    with pytest.raises(ShapeError, match="square"):
        SegmentationScores(np.zeros((2, 3), np.int64), ("a", "b"))
