"""Scores of one followed object, against loops, and against numbers noted when the published code was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from effvision.errors import DTypeError, RangeError, ShapeError
from effvision.metrics import (
    TrackingScores,
    paired_iou,
    precision,
    precision_curve,
    success_auc,
    success_curve,
    tracking_scores,
)

NONE = [np.nan] * 4
TRUTH = np.array([[10.0, 10.0, 20.0, 20.0]] * 6)
# The same; half beside it (1/3); 8 of 10 columns (2/3); far off; no box; 1 of 19 columns
BOXES = np.array(
    [
        [10.0, 10, 20, 20],
        [15, 10, 25, 20],
        [12, 10, 22, 20],
        [70, 90, 80, 100],
        NONE,
        [19, 10, 29, 20],
    ]
)
IOU = [1, 1 / 3, 2 / 3, 0, 0, 1 / 19]


def random_track(seed: int, frames: int = 60) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Boxes that drift off a moving object, which is out of view at times; flags."""
    rng = np.random.default_rng(seed)
    corner = rng.normal(0, 3, (frames, 2)).cumsum(axis=0) + 100
    truth = np.concatenate([corner, corner + rng.integers(10, 40, (frames, 2))], axis=1)
    boxes = truth + rng.normal(0, 1, (frames, 4)).cumsum(axis=0)
    truth[rng.random(frames) < 0.1] = np.nan
    boxes[rng.random(frames) < 0.1] = np.nan
    return boxes, truth, rng.random(frames) < 0.3


def slow(boxes: NDArray[Any], truth: NDArray[Any], lost: NDArray[Any]) -> dict[str, Any]:
    """The same numbers frame by frame."""
    ious, errors, wrong, unsaid, right, false = [], [], 0, 0, 0, 0
    for box, true, flag in zip(boxes.tolist(), truth.tolist(), lost.tolist(), strict=True):
        if np.isnan(true[0]):
            continue
        iou, error = 0.0, float("inf")
        if not np.isnan(box[0]):
            width = min(box[2], true[2]) - max(box[0], true[0])
            height = min(box[3], true[3]) - max(box[1], true[1])
            common = width * height if width > 0 and height > 0 else 0.0
            areas = [(x2 - x1) * (y2 - y1) if x2 > x1 and y2 > y1 else 0.0 for x1, y1, x2, y2 in (box, true)]
            iou = common / (sum(areas) - common)
            error = sum(((box[i] + box[i + 2]) / 2 - (true[i] + true[i + 2]) / 2) ** 2 for i in (0, 1)) ** 0.5
        said = flag or np.isnan(box[0])
        ious.append(iou)
        errors.append(error)
        wrong += iou < 0.2
        unsaid += iou < 0.2 and not said
        right += iou >= 0.5
        false += iou >= 0.5 and said
    curve = [sum(iou > step / 20 for iou in ious) / len(ious) for step in range(21)]
    return {
        "frames": len(ious),
        "mean_iou": sum(ious) / len(ious),
        "auc": sum(curve) / 21,
        "precision": sum(error <= 20 for error in errors) / len(errors),
        "wrong_frames": wrong,
        "wrong_unsaid": unsaid / len(ious),
        "wrong_unsaid_of_wrong": unsaid / wrong if wrong else None,
        "right_frames": right,
        "false_lost": false / len(ious),
        "false_lost_of_right": false / right if right else None,
    }


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_a_loop_over_the_frames(seed: int) -> None:
    boxes, truth, lost = random_track(seed)
    expected = slow(boxes, truth, lost)
    found = tracking_scores(boxes, truth, lost=lost).to_dict()
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_scores_worked_out_by_hand() -> None:
    lost = np.array([True, False, False, False, False, True])
    scores = tracking_scores(BOXES, TRUTH, lost=lost)
    np.testing.assert_allclose(scores.iou, IOU)
    np.testing.assert_allclose(scores.centre_errors_px, [0, 5, 2, 100, np.inf, 9])
    assert scores.lost.tolist() == [True, False, False, False, True, True]  # a frame without a box is said to be lost
    # IoU 1 passes 0, 0.05 .. 0.95; 1/3 passes 0 .. 0.3; 2/3 passes 0 .. 0.65; 1/19 passes 0 and 0.05
    assert scores.auc == pytest.approx((20 + 7 + 14 + 0 + 0 + 2) / 21 / 6)
    assert scores.precision == pytest.approx(4 / 6)
    assert scores.mean_iou == pytest.approx(sum(IOU) / 6)
    assert (scores.wrong_frames, scores.wrong_unsaid_frames) == (3, 1)  # the far one; the others were said
    assert (scores.right_frames, scores.false_lost_frames) == (2, 1)
    assert scores.wrong_unsaid == pytest.approx(1 / 6) and scores.wrong_unsaid_of_wrong == pytest.approx(1 / 3)
    assert scores.false_lost == pytest.approx(1 / 6) and scores.false_lost_of_right == pytest.approx(1 / 2)
    said = str(scores)
    assert "wrong and unsaid 1 of 3 wrong frames, said lost 1 of 2 right frames" in said
    assert "without truth" not in said


def test_a_box_exactly_at_a_threshold_does_not_pass_it() -> None:
    curve = success_curve(np.array([0.0, 0.25, 0.5, 1.0]))
    assert curve[0] == 3 / 4  # more than nothing
    assert curve[5] == 2 / 4  # of 0.25, not 0.25 itself
    assert curve[10] == 1 / 4
    assert curve[20] == 0  # no box, however good
    assert precision(np.array([19.9, 20.0, 20.1])) == pytest.approx(2 / 3)  # here the threshold is included


def test_perfect_boxes_have_the_best_scores_there_are() -> None:
    scores = tracking_scores(TRUTH, TRUTH)
    assert scores.mean_iou == scores.precision == 1
    assert scores.auc == pytest.approx(20 / 21)
    assert scores.wrong_unsaid == scores.false_lost == 0


def test_frames_without_truth_count_apart() -> None:
    truth = TRUTH.copy()
    truth[[1, 3]] = np.nan
    lost = np.array([False, True, False, False, False, False])
    scores = tracking_scores(BOXES, truth, lost=lost)
    rest = tracking_scores(BOXES[[0, 2, 4, 5]], TRUTH[[0, 2, 4, 5]])
    assert (scores.frames, scores.absent, scores.absent_unsaid_frames) == (4, 2, 1)
    for name in ("auc", "precision", "mean_iou", "wrong_unsaid", "false_lost"):
        assert getattr(scores, name) == getattr(rest, name)
    assert "2 frames without truth, not said lost in 1 of them" in str(scores)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_frames_is_of_no_account(seed: int) -> None:
    boxes, truth, lost = random_track(seed)
    order = np.random.default_rng(seed).permutation(len(boxes))
    mixed = tracking_scores(boxes[order], truth[order], lost=lost[order]).to_dict()
    assert mixed == pytest.approx(tracking_scores(boxes, truth, lost=lost).to_dict())


def test_better_overlap_never_scores_less() -> None:
    rng = np.random.default_rng(0)
    iou = rng.random(50)
    better = np.minimum(iou + rng.random(50) * 0.3, 1)
    assert (success_curve(better) >= success_curve(iou)).all()
    assert (np.diff(success_curve(iou)) <= 0).all()
    errors = rng.random(50) * 60
    assert (precision_curve(errors * 0.7) >= precision_curve(errors)).all()
    assert (np.diff(precision_curve(errors)) >= 0).all()
    assert precision_curve(errors)[20] == precision(errors)


def test_flagging_more_frames_trades_unsaid_for_false() -> None:
    boxes, truth, lost = random_track(1)
    scores = [tracking_scores(boxes, truth, lost=flags) for flags in (np.zeros_like(lost), lost, np.ones_like(lost))]
    assert [s.wrong_unsaid for s in scores] == sorted((s.wrong_unsaid for s in scores), reverse=True)
    assert [s.false_lost for s in scores] == sorted(s.false_lost for s in scores)
    assert scores[2].wrong_unsaid == 0 and scores[0].false_lost == 0
    assert tracking_scores(boxes, truth).to_dict() == scores[0].to_dict()


def test_nothing_to_score_gives_nothing() -> None:
    for frames in (0, 3):
        scores = tracking_scores(np.zeros((frames, 4)), np.full((frames, 4), np.nan))
        assert scores.frames == 0 and scores.absent == frames
        assert all(np.isnan(value) for value in (scores.auc, scores.precision, scores.mean_iou, scores.wrong_unsaid))
        assert scores.to_dict()["auc"] is None
        assert "0 frames" in str(scores)
    assert np.isnan(success_auc(np.zeros(0))) and success_curve(np.zeros(0)).shape == (21,)
    assert np.isnan(precision(np.zeros(0))) and precision_curve(np.zeros(0)).shape == (51,)


def test_an_answer_may_be_inverted_and_overlaps_nothing() -> None:
    scores = tracking_scores(TRUTH[:1, [2, 3, 0, 1]], TRUTH[:1])
    assert scores.iou.tolist() == [0.0] and scores.wrong_unsaid == 1


@pytest.mark.parametrize(
    ("boxes", "truth", "lost", "kind", "said"),
    [
        (BOXES[:5], TRUTH, None, ShapeError, "a row for each frame; got 5 and 6"),
        (BOXES[:, :3], TRUTH, None, ShapeError, r"`boxes` must be \(N, 4\)"),
        (BOXES, TRUTH.tolist(), None, DTypeError, "`truth` must be a NumPy array"),
        (BOXES, TRUTH * [1, 1, np.nan, 1], None, RangeError, r"`truth` must be finite(?s:.*)hint: four NaN"),
        (BOXES, TRUTH * [1, 1, 0, 1], None, RangeError, r"empty or inverted\nhint: .*four NaN where it cannot be seen"),
        (BOXES, TRUTH, np.zeros(6), DTypeError, "`lost` must be True or False; got float64"),
        (BOXES, TRUTH, np.zeros(5, bool), ShapeError, "`lost`"),
    ],
)
def test_what_does_not_fit_is_refused(boxes: Any, truth: Any, lost: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        tracking_scores(boxes, truth, lost=lost)


def test_overlaps_and_errors_have_their_range() -> None:
    with pytest.raises(RangeError, match=r"0\.\.1; got 1.5"):
        success_auc(np.array([1.5]))
    with pytest.raises(RangeError, match=r"`iou` must not be negative; got -0\.5"):
        success_curve(np.array([-0.5]))
    with pytest.raises(RangeError, match="`centre_errors_px` must not be negative"):
        precision(np.array([-1.0]))
    with pytest.raises(ShapeError, match=r"\(N,\); got \(1, 2\)"):
        precision_curve(np.zeros((1, 2)))
    with pytest.raises(ShapeError, match="for each of 2 frames"):
        TrackingScores(np.zeros(2), np.zeros(2), np.zeros(3, bool))


@pytest.mark.shared
@pytest.mark.parametrize(("every", "noted"), [(5, 0.636), (10, 0.450)])
def test_holding_the_key_box_scores_what_was_noted(shared: Path, every: int, noted: float) -> None:
    """Truth of every fifth or tenth frame kept until the next, the frames between scored; `>=` would give 0.637 for five."""
    rows = np.loadtxt(shared / "data" / "patchnet" / "Crossing" / "groundtruth_rect.txt")
    truth = np.concatenate([rows[:, :2] - 1, rows[:, :2] - 1 + rows[:, 2:]], axis=1)
    frames = np.arange(len(truth))
    between = frames % every > 0
    held = truth[frames - frames % every]
    assert round(tracking_scores(held[between], truth[between]).auc, 3) == noted
    if every == 5:
        iou = paired_iou(held[between], truth[between])
        assert round(float((iou[:, None] >= np.linspace(0, 1, 21)).mean()), 3) == 0.637
