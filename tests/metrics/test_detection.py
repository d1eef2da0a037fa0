"""Average precision, against a loop that follows COCO's rules; and boxes carried on from key frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effvision.errors import RangeError, ShapeError
from effvision.metrics import DetectionScores, FrameBoxes, box_iou, detection_scores, mean_iou_by_offset
from effvision.metrics.detection import COCO_THRESHOLDS

NO_BOXES = FrameBoxes(np.zeros(0, int), np.zeros((0, 4)), scores=np.zeros(0))


def at(*places: float) -> Any:
    """Boxes of 10 x 10 pixels whose left edge is at each place."""
    return np.array([[x, 0.0, x + 10, 10.0] for x in places]).reshape(-1, 4)


def found(frames: list[int], places: list[float], scores: list[float], **columns: Any) -> FrameBoxes:
    return FrameBoxes(np.array(frames, int), at(*places), scores=np.array(scores, float), **columns)


def true(frames: list[int], places: list[float], **columns: Any) -> FrameBoxes:
    return FrameBoxes(np.array(frames, int), at(*places), **columns)


def random_tables(seed: int, *, crowds: bool = False) -> tuple[FrameBoxes, FrameBoxes]:
    """A few crowded frames, answers near the true boxes, some doubled, missed or of another class; whole pixels."""
    rng = np.random.default_rng(seed)
    many = int(rng.integers(1, 40))
    corner = rng.integers(0, 60, (many, 2))
    boxes = np.concatenate([corner, corner + rng.integers(3, 30, (many, 2))], axis=1)
    truth = FrameBoxes(
        rng.integers(0, 4, many),
        boxes,
        classes=rng.integers(0, 3, many),
        sequences=rng.integers(0, 2, many),
        ignore=rng.random(many) < 0.3 * crowds,
    )
    of = rng.integers(0, many, 2 * many)
    answers = FrameBoxes(
        truth.frames[of],
        truth.boxes[of] + rng.integers(-3, 4, (2 * many, 4)),
        classes=np.where(rng.random(2 * many) < 0.8, truth.classes[of], 3),
        sequences=truth.sequences[of],
        scores=rng.permutation(2 * many) / (2 * many),
    )
    return answers, truth


def slow(answers: FrameBoxes, truth: FrameBoxes, number: int, iou: float) -> float:
    """AP of one class at one threshold: answer by answer, then for each recall the best precision from there on."""
    assert answers.scores is not None
    taken: set[int] = set()
    hits = alarms = 0
    points = []
    asked = int((~truth.ignore & (truth.classes == number)).sum())
    for row in np.argsort(-answers.scores):
        if answers.classes[row] != number:
            continue
        best, overlap, forgiven = -1, iou, False
        for other in range(len(truth)):
            same = all(
                getattr(answers, name)[row] == getattr(truth, name)[other]
                for name in ("classes", "frames", "sequences")
            )
            if not same or other in taken:
                continue
            x1, y1, x2, y2 = answers.boxes[row].tolist()
            u1, v1, u2, v2 = truth.boxes[other].tolist()
            common = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
            own = max(x2 - x1, 0) * max(y2 - y1, 0)
            if truth.ignore[other]:
                forgiven |= own > 0 and common / own >= iou
            elif common / (own + (u2 - u1) * (v2 - v1) - common) >= overlap:
                best, overlap = other, common / (own + (u2 - u1) * (v2 - v1) - common)
        if best >= 0:
            taken.add(best)
            hits += 1
        elif forgiven:
            continue
        else:
            alarms += 1
        points.append((hits / asked, hits / (hits + alarms)))
    recalls = np.linspace(0, 1, 101)
    return sum(max([p for r, p in points if r >= recall], default=0.0) for recall in recalls) / 101


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_average_precision_equals_a_loop_over_the_answers(seed: int, crowds: bool) -> None:
    answers, truth = random_tables(seed, crowds=crowds)
    scores = detection_scores(answers, truth, thresholds=(0.5, 0.75))
    for k, name in enumerate(scores.names):
        if scores.truths[k]:
            expected = [slow(answers, truth, int(name), iou) for iou in (0.5, 0.75)]
            np.testing.assert_allclose(scores.ap[:, k], expected, atol=1e-12)


# Each expectation also is what pycocotools 2.0.11 gives.
@pytest.mark.parametrize(
    ("answers", "truth", "expected"),
    [
        # right, wrong, right: recall 1/2 at precision 1, recall 1 at 2/3; recalls 0 .. 0.5 are 51 of 101
        (found([0, 0, 1], [0, 50, 0], [0.9, 0.8, 0.7]), true([0, 1], [0, 0]), (51 + 50 * 2 / 3) / 101),
        # the wrong one first: precision 1/2 and 2/3, and 2/3 is the best for every recall
        (found([0, 0, 1], [50, 0, 0], [0.9, 0.8, 0.7]), true([0, 1], [0, 0]), 2 / 3),
        # one of three is never found: recalls to 1/3 at 1, to 2/3 at 1, none above: 67 of 101
        (found([0, 1], [0, 0], [0.9, 0.8]), true([0, 1, 2], [0, 0, 0]), 67 / 101),
        # the same object twice: the second is wrong
        (found([0, 0, 1], [0, 1, 0], [0.9, 0.8, 0.7]), true([0, 1], [0, 0]), (51 + 50 * 2 / 3) / 101),
        # the surer answer fits worse and takes the box all the same
        (found([0, 0], [3, 0], [0.9, 0.8]), true([0], [0]), 1.0),
        # two true boxes, both answers overlap the left one most: the second takes what is free
        (found([0, 0], [1, 2], [0.9, 0.8]), true([0, 0], [0, 4]), 1.0),
        # in another frame
        (found([1], [0], [0.9]), true([0], [0]), 0.0),
        # an IoU of 1/2 exactly is enough
        (FrameBoxes(np.array([0]), np.array([[0, 0, 5.0, 10]]), scores=np.ones(1)), true([0], [0]), 1.0),
        # nothing answered
        (NO_BOXES, true([0], [0]), 0.0),
        # a right one, and two in a crowd that count nowhere
        (
            found([0, 0, 0], [50, 52, 0], [0.9, 0.8, 0.7]),
            true([0, 0], [0, 50], ignore=np.array([False, True])),
            1.0,
        ),
        # in a crowd by 4/10 of its area only: wrong
        (
            found([0, 0], [56, 0], [0.9, 0.7]),
            true([0, 0], [0, 50], ignore=np.array([False, True])),
            1 / 2,
        ),
    ],
)
def test_average_precision_worked_out_by_hand(answers: FrameBoxes, truth: FrameBoxes, expected: float) -> None:
    assert detection_scores(answers, truth).map_50 == pytest.approx(expected, abs=1e-12)


def test_each_threshold_judges_anew() -> None:
    # shifted by 1 and 2 of 10 pixels: IoU 9/11 = 0.818 and 8/12 = 0.667
    scores = detection_scores(found([0, 1], [1, 2], [0.9, 0.8]), true([0, 1], [0, 0]))
    expected = [1.0] * 4 + [51 / 101] * 3 + [0.0] * 3  # to 0.65 both, to 0.8 the first, above none
    np.testing.assert_allclose(scores.ap[:, 0], expected)
    assert scores.map_50_95 == scores.mean_ap == pytest.approx(sum(expected) / 10)
    assert scores.map_75 == pytest.approx(51 / 101)
    assert scores.thresholds == COCO_THRESHOLDS


def test_of_boxes_that_fit_equally_the_last_is_taken_as_by_coco() -> None:
    # Both true boxes overlap the first answer equally; only the right-hand one suits the second.
    answers = found([0, 0], [2, 5], [0.9, 0.8])
    assert detection_scores(answers, true([0, 0], [0, 4]), thresholds=(0.6,)).mean_ap == pytest.approx(51 / 101)
    assert detection_scores(answers, true([0, 0], [4, 0]), thresholds=(0.6,)).mean_ap == 1


def test_recalls_are_the_floating_point_numbers_of_coco() -> None:
    # Seven of ten are found. 0.7 is 0.7000000000000001 in COCO's list, so recalls to 0.69 are reached, 70 of 101.
    answers = found(list(range(7)), [0.0] * 7, np.linspace(0.9, 0.3, 7).tolist())
    assert detection_scores(answers, true(list(range(10)), [0.0] * 10)).map_50 == pytest.approx(70 / 101)


def test_an_overlap_of_one_may_miss_a_little_by_rounding() -> None:
    answers = FrameBoxes(np.array([0]), at(0) + np.array([0, 0, 0, 1e-10]), scores=np.ones(1))
    assert detection_scores(answers, true([0], [0]), thresholds=(1.0,)).mean_ap == 1


def test_only_the_surest_answers_of_a_frame_are_judged() -> None:
    answers = found([0, 0, 0, 1], [50, 60, 0, 0], [0.9, 0.8, 0.7, 0.1])
    assert detection_scores(answers, true([0, 1], [0, 0])).map_50 == pytest.approx(1 / 2)
    kept = detection_scores(answers, true([0, 1], [0, 0]), per_frame=2)
    assert kept.answers.tolist() == [3]
    assert kept.map_50 == pytest.approx(51 / 101 / 3)


def test_classes_without_truth_are_left_out_and_named() -> None:
    answers = found([0, 0, 0], [0, 20, 40], [0.9, 0.8, 0.7], classes=np.array([1, 2, 3]))
    truth = true([0, 0, 0], [0, 20, 60], classes=np.array([1, 2, 4]), ignore=np.array([False, False, True]))
    scores = detection_scores(answers, truth, names={1: "cat", 2: "dog", 3: "fox", 4: "cow", 7: "owl"})
    assert scores.absent == ("fox", "cow", "owl")
    assert scores.map_50 == 1 and np.isnan(scores.ap_at(0.5)[2:]).all()
    assert scores.truths.tolist() == [1, 1, 0, 0, 0] and scores.answers.tolist() == [1, 1, 1, 0, 0]
    plain = scores.to_dict()
    assert plain["absent"] == ["fox", "cow", "owl"] and plain["classes"]["fox"]["mean_ap"] is None
    assert plain["map"]["0.5"] == 1 and plain["classes"]["cat"]["ap"]["0.95"] == 1
    assert "without fox, cow, owl, which are absent" in str(scores)


@pytest.mark.parametrize("seed", range(4))
def test_perfect_answers_have_a_precision_of_one(seed: int) -> None:
    _, truth = random_tables(seed)
    scores = np.random.default_rng(seed).random(len(truth))
    answers = FrameBoxes(truth.frames, truth.boxes, classes=truth.classes, sequences=truth.sequences, scores=scores)
    assert detection_scores(answers, truth).map_50_95 == 1


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_rows_is_of_no_account(seed: int) -> None:
    answers, truth = random_tables(seed, crowds=True)
    order = np.random.default_rng(seed).permutation(len(answers))
    assert answers.scores is not None
    mixed = FrameBoxes(
        answers.frames[order],
        answers.boxes[order],
        classes=answers.classes[order],
        sequences=answers.sequences[order],
        scores=answers.scores[order],
    )
    np.testing.assert_array_equal(detection_scores(mixed, truth).ap, detection_scores(answers, truth).ap)


@pytest.mark.parametrize("seed", range(4))
def test_only_the_order_of_the_scores_matters(seed: int) -> None:
    answers, truth = random_tables(seed)
    assert answers.scores is not None
    other = FrameBoxes(
        answers.frames,
        answers.boxes,
        classes=answers.classes,
        sequences=answers.sequences,
        scores=np.exp(3 * answers.scores) - 7,
    )
    np.testing.assert_array_equal(detection_scores(other, truth).ap, detection_scores(answers, truth).ap)


@pytest.mark.parametrize("seed", range(4))
def test_a_stricter_threshold_never_scores_more_where_boxes_are_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = true(list(range(30)), [0.0] * 30)
    answers = found(list(range(30)), rng.uniform(0, 8, 30).tolist(), rng.random(30).tolist())
    assert (np.diff(detection_scores(answers, truth).ap[:, 0]) <= 0).all()


def test_nothing_to_find_gives_nothing() -> None:
    for answers in (NO_BOXES, found([0], [0], [0.5])):
        scores = detection_scores(answers, NO_BOXES)
        assert np.isnan(scores.mean_ap) and scores.to_dict()["mean_ap"] is None
        assert scores.absent == (("0",) if len(answers) else ())
        assert "mAP 0.5" in str(scores)


def test_an_empty_or_inverted_answer_is_wrong() -> None:
    boxes = np.array([[0, 0, 0, 10.0], [10, 10, 0, 0], [0, 0, 10, 10]])
    answers = FrameBoxes(np.zeros(3, int), boxes, scores=np.array([0.9, 0.8, 0.7]))
    crowd = np.array([False, True])
    assert detection_scores(answers, true([0, 0], [0, 0], ignore=crowd)).map_50 == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"thresholds": ()}, "`thresholds` must rise"),
        ({"thresholds": (0.0, 0.5)}, "`thresholds`"),
        ({"thresholds": (0.5, 0.5)}, "`thresholds`"),
        ({"thresholds": (0.5, 1.5)}, "`thresholds`"),
        ({"per_frame": 0}, "`per_frame` must be at least 1; got 0"),
        ({"names": {1: "cat"}}, r"boxes of \[0\], and names for \[1\]"),
    ],
)
def test_options_that_cannot_be_are_refused(options: Any, said: str) -> None:
    with pytest.raises(RangeError, match=said):
        detection_scores(found([0], [0], [0.5]), true([0], [0]), **options)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"`answers` needs `scores`(?s:.*)hint: FrameBoxes"):
        detection_scores(true([0], [0]), true([0], [0]))
    with pytest.raises(RangeError, match="empty or inverted"):
        detection_scores(NO_BOXES, FrameBoxes(np.array([0]), np.array([[5, 5, 5, 9]])))
    scores = detection_scores(found([0], [0], [0.5]), true([0], [0]), thresholds=(0.3, 0.5))
    assert scores.map_at(0.3) == 1
    with pytest.raises(RangeError, match=r"at an IoU of 0\.75, only at \[0\.3, 0\.5\]"):
        _ = scores.map_75
    with pytest.raises(RangeError, match="COCO's ten thresholds"):
        _ = scores.map_50_95
    with pytest.raises(ShapeError, match=r"1 classes at 1 thresholds need `ap` of \(1, 1\)"):
        DetectionScores(("a",), (0.5,), np.zeros((2, 1)), np.zeros(1, np.int64), np.zeros(1, np.int64))


# --- boxes carried on from a key frame --------------------------------------------------------------------------------


def test_overlap_by_offset_worked_out_by_hand() -> None:
    answers = found([0, 1, 1, 2, 2], [0, 1, 30, 2, 30], [1.0] * 5, classes=np.array([1, 1, 2, 1, 2]))
    truth = true([0, 1, 1, 2, 2], [0, 0, 1, 0, 34], classes=np.array([1, 1, 1, 1, 2]))
    # frame 1: the better of two true boxes fits exactly; the box of class 2 has none of its own, 0
    # frame 2: 8 of 12 pixels, and 6 of 14
    by_offset = mean_iou_by_offset(answers, truth, answers.frames)
    assert by_offset == pytest.approx({0: 1.0, 1: (1 + 0) / 2, 2: (8 / 12 + 6 / 14) / 2})
    assert list(by_offset) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(4))
def test_overlap_by_offset_equals_a_loop_over_the_answers(seed: int) -> None:
    answers, truth = random_tables(seed, crowds=True)
    since = np.random.default_rng(seed).integers(0, 5, len(answers))
    sums: dict[int, list[float]] = {}
    for row in range(len(answers)):
        ious = [
            float(box_iou(answers.boxes[[row]], truth.boxes[[other]])[0, 0])
            for other in range(len(truth))
            if not truth.ignore[other]
            and answers.classes[row] == truth.classes[other]
            and answers.frames[row] == truth.frames[other]
            and answers.sequences[row] == truth.sequences[other]
        ]
        sums.setdefault(int(since[row]), []).append(max(ious, default=0.0))
    expected = {offset: sum(values) / len(values) for offset, values in sums.items()}
    assert mean_iou_by_offset(answers, truth, since) == pytest.approx(expected)


def test_offsets_that_do_not_fit_are_refused() -> None:
    answers, truth = found([0], [0], [0.5]), true([0], [0])
    with pytest.raises(ShapeError, match="`since_key`"):
        mean_iou_by_offset(answers, truth, np.zeros(2, int))
    with pytest.raises(RangeError, match="count from 0; got -1"):
        mean_iou_by_offset(answers, truth, np.array([-1]))
    assert mean_iou_by_offset(NO_BOXES, truth, np.zeros(0, int)) == {}


@pytest.mark.shared
@pytest.mark.parametrize(
    ("every", "noted"),
    [
        (3, {1: 0.849, 2: 0.798}),
        (6, {1: 0.840, 2: 0.815, 3: 0.755, 4: 0.745, 5: 0.707}),
    ],
)
def test_holding_the_key_boxes_overlaps_as_was_noted(shared: Path, every: int, noted: dict[int, float]) -> None:
    """Detections of each third or sixth frame kept until the next, against those of the frames between."""
    rows = np.loadtxt(shared / "data" / "patchnet" / "VID" / "rfcn_res101_val_00142000.txt")
    rows = rows[rows[:, 2] >= 0.5]
    frames, classes = rows[:, 0].astype(int), rows[:, 1].astype(int)
    of = [(row, frame) for frame in range(187) for row in np.flatnonzero(frames == frame - frame % every)]
    row, frame = np.array(of).T
    held = FrameBoxes(frame, rows[row, 3:], classes=classes[row])
    between = held.where(frame % every > 0)
    truth = FrameBoxes(frames, rows[:, 3:], classes=classes)
    by_offset = mean_iou_by_offset(between, truth, between.frames % every)
    assert {offset: round(value, 3) for offset, value in by_offset.items()} == noted
