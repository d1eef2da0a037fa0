"""Average delay, against the authors' rules written as loops, and cases worked out by hand."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from effvision.errors import RangeError, ShapeError
from effvision.metrics import DelayScores, FrameBoxes, delay_scores

RATES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


def at(frames: list[int], places: list[float], *, side: float = 50, **columns: Any) -> FrameBoxes:
    """Square boxes whose left edge is at each place."""
    boxes = np.array([[x, 0.0, x + side, side] for x in places]).reshape(-1, 4)
    return FrameBoxes(np.array(frames, int), boxes, **{name: np.array(values) for name, values in columns.items()})


def random_tables(seed: int) -> tuple[FrameBoxes, FrameBoxes]:
    """Tracks that come and go in three videos; answers near them from some frame on, doubled and false ones."""
    rng = np.random.default_rng(seed)
    true, given = [], []
    for sequence in range(3):
        for track in range(rng.integers(1, 5)):
            kind, first, length = rng.integers(1, 3), rng.integers(0, 8), rng.integers(1, 50)
            corner, size = rng.integers(0, 200, 2), rng.integers(10, 150, 2)
            for frame in range(first, first + length):
                corner = corner + rng.integers(-2, 3, 2)
                if rng.random() < 0.9:
                    true.append([sequence, frame, kind, track, *corner, *(corner + size)])
                for _ in range(rng.integers(0, 3) if frame - first > rng.integers(0, 40) else 0):
                    near = np.array([*corner, *(corner + size)]) + rng.integers(-8, 9, 4)
                    given.append([sequence, frame, kind if rng.random() < 0.9 else 3, rng.random(), *near])
        for _ in range(rng.integers(0, 60)):
            corner = rng.integers(0, 200, 2)
            given.append(
                [sequence, rng.integers(0, 60), rng.integers(1, 4), rng.random() * 0.7, *corner, *(corner + 40)]
            )
    t, g = np.array(true, float), np.array(given, float)
    truth = FrameBoxes(
        t[:, 1].astype(int),
        t[:, 4:],
        classes=t[:, 2].astype(int),
        tracks=t[:, 3].astype(int),
        sequences=t[:, 0].astype(int),
    )
    answers = FrameBoxes(
        g[:, 1].astype(int), g[:, 4:], classes=g[:, 2].astype(int), scores=g[:, 3], sequences=g[:, 0].astype(int)
    )
    return answers, truth


def overlap(a: list[float], b: list[float], more: int = 0) -> float:
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + more for i in (0, 1))
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + more) * (box[3] - box[1] + more) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow(answers: FrameBoxes, truth: FrameBoxes, *, skip_last: bool, inclusive: bool) -> dict[str, Any]:
    """Each rule of the authors' code as a loop over rows."""
    assert answers.scores is not None and truth.tracks is not None
    by_place: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in range(len(truth)):
        by_place[int(truth.sequences[row]), int(truth.frames[row])].append(row)

    def best_of(answer: int, more: int) -> tuple[float, int]:
        best = (0.0, -1)
        for row in by_place[int(answers.sequences[answer]), int(answers.frames[answer])]:
            if truth.classes[row] == answers.classes[answer]:
                iou = overlap(answers.boxes[answer].tolist(), truth.boxes[row].tolist(), more)
                if iou > best[0]:
                    best = (iou, row)
        return best

    used: set[int] = set()
    alarms, rates = 0, []
    order = np.argsort(-answers.scores, kind="stable").tolist()
    for answer in order:
        iou, row = best_of(answer, int(inclusive))
        if iou >= 0.5 and row not in used:
            used.add(row)
        else:
            alarms += 1
        rates.append(alarms / len(truth))
    lasts = [
        max(int(part.frames[row]) for part in (answers, truth) for row in np.flatnonzero(part.sequences == sequence))
        for sequence in range(3)
    ]
    result: dict[str, Any] = {"thresholds": [], "delays": [], "small": [], "medium": [], "large": []}
    for target in RATES:
        beyond = [answers.scores[answer] for answer, rate in zip(order, rates, strict=True) if rate > target]
        threshold = beyond[0] if beyond else 0.0
        lives: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
        seen: dict[tuple[int, int], int] = {}
        for sequence in range(3):
            for frame in range(lasts[sequence] + (0 if skip_last else 1)):
                for row in by_place[sequence, frame]:
                    x1, y1, x2, y2 = truth.boxes[row].tolist()
                    lives[sequence, int(truth.tracks[row])].append((frame, min(x2 - x1, y2 - y1)))
                for answer in np.flatnonzero((answers.sequences == sequence) & (answers.frames == frame)).tolist():
                    iou, row = best_of(answer, 0)
                    if answers.scores[answer] >= threshold and iou > 0.5:
                        seen.setdefault((sequence, int(truth.tracks[row])), frame)
        delays, sizes = [], []
        for track, life in sorted(lives.items()):
            delays.append(min(seen.get(track, life[-1][0]) - life[0][0], 30))
            sizes.append(np.mean([side for _, side in life[:30]]))
        result["thresholds"].append(threshold)
        result["delays"].append(np.mean(delays))
        for name, low, high in (("small", 0, 40), ("medium", 40, 100), ("large", 100, np.inf)):
            chosen = [delay for delay, size in zip(delays, sizes, strict=True) if low <= size < high]
            result[name].append(np.mean(chosen) if chosen else np.nan)
    for name, part in (("ad", "delays"), ("small", "small"), ("medium", "medium"), ("large", "large")):
        result[name] = 1 / np.mean([1 / (delay + 1) for delay in result[part]]) - 1
    return result


@pytest.mark.parametrize(("skip_last", "inclusive"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("seed", range(6))
def test_delay_equals_the_authors_rules_as_loops(seed: int, skip_last: bool, inclusive: bool) -> None:
    answers, truth = random_tables(seed)
    expected = slow(answers, truth, skip_last=skip_last, inclusive=inclusive)
    scores = delay_scores(answers, truth, skip_last=skip_last, inclusive=inclusive)
    assert scores.rates == RATES
    np.testing.assert_array_equal(scores.score_thresholds, expected["thresholds"])
    np.testing.assert_allclose(scores.mean_delays, expected["delays"])
    assert scores.average_delay == pytest.approx(expected["ad"])
    for name in ("small", "medium", "large"):
        assert getattr(scores, name) == pytest.approx(expected[name], nan_ok=True)


def test_delay_worked_out_by_hand() -> None:
    # Ten true boxes: one object in frames 2 .. 11. Answers find it in frame 9 (0.9), 5 (0.5), 4 (0.3) and 3 (0.1). Two false
    # alarms in frame 2: 0.7 and 0.3. Alarms for a true box are 0.1 from 0.7 on and 0.2 from 0.3 on, never more than 0.2. A rate
    # of 0.1 is exceeded at 0.3, so answers from 0.3 on are kept, that of frame 4 included; for the other rates every one is.
    truth = at(list(range(2, 12)), [0.0] * 10, tracks=[4] * 10)
    answers = at([9, 2, 5, 2, 4, 3], [0, 500, 0, 500, 0, 0], scores=[0.9, 0.7, 0.5, 0.3, 0.3, 0.1])
    scores = delay_scores(answers, truth)
    assert scores.score_thresholds == (0.3, 0, 0, 0, 0, 0)
    assert scores.delays.tolist() == [[2], [1], [1], [1], [1], [1]]
    assert scores.average_delay == pytest.approx(6 / (1 / 3 + 5 / 2) - 1)
    assert scores.medium == scores.average_delay and np.isnan(scores.small) and np.isnan(scores.large)
    assert scores.tracks.tolist() == [4] and scores.sizes_px.tolist() == [50]
    plain = scores.to_dict()
    assert plain["small"] is None and plain["tracks"] == 1 and plain["mean_delays"] == [2, 1, 1, 1, 1, 1]
    assert "1 tracks, average delay 1.118 frames" in str(scores)


def test_what_is_never_found_waits_as_long_as_it_lasts_but_thirty_frames_at_most() -> None:
    truth = at([*range(11), *range(61)], [0.0] * 11 + [100.0] * 61, tracks=[0] * 11 + [1] * 61)
    scores = delay_scores(at([], [], scores=np.zeros(0)), truth, skip_last=False)
    assert scores.delays[0].tolist() == [10, 60]
    assert scores.mean_delays[0] == (10 + 30) / 2 == pytest.approx(scores.average_delay)


def test_the_last_frame_of_a_sequence_is_skipped_as_by_the_authors() -> None:
    # The object is found in the last frame only, and another is there in no other.
    truth = at([0, 1, 2, 2], [0, 0, 0, 200], tracks=[0, 0, 0, 1])
    answers = at([2], [0], scores=[0.9])
    whole = delay_scores(answers, truth, skip_last=False)
    assert whole.tracks.tolist() == [0, 1] and whole.delays[0].tolist() == [2, 0]
    short = delay_scores(answers, truth)
    assert short.tracks.tolist() == [0] and short.delays[0].tolist() == [1]
    # An answer further on moves the last frame.
    later = at([2, 3], [0, 900], scores=[0.9, 0.01])
    assert delay_scores(later, truth).delays[0].tolist() == [2, 0]


def test_sequences_end_each_for_itself() -> None:
    truth = at([0, 1, 0, 1, 2, 3], [0.0] * 6, tracks=[0] * 6, sequences=[0, 0, 1, 1, 1, 1])
    scores = delay_scores(at([], [], scores=np.zeros(0)), truth)
    assert scores.sequences.tolist() == [0, 1] and scores.delays[0].tolist() == [0, 2]


def test_a_wider_pixel_lets_small_boxes_count_as_right() -> None:
    # 4 x 4 pixels. The first answer is half the box. The second has 10.4 pixels of it and an IoU of 10.4/21.6; with a pixel
    # more each way it has 18 of 5 x 5, and 18/32.
    truth = at([0, 1, 2], [0, 0, 0], side=4, tracks=[0, 0, 0])
    answers = FrameBoxes(np.array([0]), np.array([[0.0, 0, 4, 2]]), scores=np.array([0.5]))
    nearly = FrameBoxes(np.array([0]), np.array([[1.4, 0.0, 5.4, 4]]), scores=np.array([0.5]))
    assert delay_scores(answers, truth, inclusive=False).score_thresholds == (0,) * 6  # 0.5 is enough here
    assert delay_scores(nearly, truth, inclusive=False).score_thresholds == (
        0.5,
        0.5,
        0,
        0,
        0,
        0,
    )  # one alarm for 3 boxes
    assert delay_scores(nearly, truth).score_thresholds == (0,) * 6
    for found in (answers, nearly):  # but an object is found by more than 0.5, and without the pixel
        assert delay_scores(found, truth, skip_last=False).delays[0].tolist() == [2]


def test_an_answer_finds_only_the_object_it_overlaps_most() -> None:
    truth = at([0, 0, 1, 1], [0, 10, 0, 10], tracks=[0, 1, 0, 1])
    answers = at([0, 1], [1, 9], scores=[0.9, 0.8])
    assert delay_scores(answers, truth, skip_last=False).delays[0].tolist() == [0, 1]
    other = at([0, 1], [1, 9], scores=[0.9, 0.8], classes=[1, 1])
    assert delay_scores(other, truth, skip_last=False).delays[0].tolist() == [1, 1]


def test_the_size_is_that_of_the_first_thirty_boxes() -> None:
    small, large = at(list(range(30)), [0.0] * 30, side=30), at(list(range(30, 60)), [0.0] * 30, side=300)
    frames = np.concatenate([large.frames, small.frames])  # the rows in whatever order
    truth = FrameBoxes(frames, np.concatenate([large.boxes, small.boxes]), tracks=np.zeros(60, int))
    scores = delay_scores(at([], [], scores=np.zeros(0)), truth)
    assert scores.sizes_px.tolist() == [30]
    assert scores.small == scores.average_delay


def test_objects_found_at_once_have_no_delay() -> None:
    _, truth = random_tables(0)
    answers = FrameBoxes(
        truth.frames, truth.boxes, classes=truth.classes, sequences=truth.sequences, scores=np.ones(len(truth))
    )
    assert delay_scores(answers, truth).average_delay == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_rows_is_of_no_account(seed: int) -> None:
    answers, truth = random_tables(seed)
    rng = np.random.default_rng(seed)
    a, t = rng.permutation(len(answers)), rng.permutation(len(truth))
    assert answers.scores is not None and truth.tracks is not None
    mixed = (
        FrameBoxes(
            answers.frames[a],
            answers.boxes[a],
            classes=answers.classes[a],
            sequences=answers.sequences[a],
            scores=answers.scores[a],
        ),
        FrameBoxes(
            truth.frames[t],
            truth.boxes[t],
            classes=truth.classes[t],
            sequences=truth.sequences[t],
            tracks=truth.tracks[t],
        ),
    )
    assert delay_scores(*mixed).to_dict() == delay_scores(answers, truth).to_dict()


@pytest.mark.parametrize("seed", range(4))
def test_more_false_alarms_allowed_never_delay(seed: int) -> None:
    scores = delay_scores(*random_tables(seed))
    assert (np.diff(scores.delays, axis=0) <= 0).all()
    assert (np.diff(scores.score_thresholds) <= 0).all()


def test_without_objects_there_is_no_delay() -> None:
    none = FrameBoxes(np.zeros(0, int), np.zeros((0, 4)), tracks=np.zeros(0, int), scores=np.zeros(0))
    for answers in (none, at([0], [0], scores=[0.5])):
        scores = delay_scores(answers, none)
        assert len(scores.tracks) == 0 and np.isnan(scores.average_delay) and np.isnan(scores.small)
        assert scores.to_dict()["average_delay"] is None
        assert "0 tracks" in str(scores)


def test_what_cannot_be_scored_is_refused() -> None:
    truth, answers = at([0, 1], [0, 0], tracks=[0, 0]), at([0], [0], scores=[0.5])
    with pytest.raises(ShapeError, match="`answers` needs `scores`"):
        delay_scores(at([0], [0]), truth)
    with pytest.raises(RangeError, match=r"from 0, which keeps every answer; got -0\.5"):
        delay_scores(at([0], [0], scores=[-0.5]), truth)
    with pytest.raises(ShapeError, match="`truth` needs `tracks`"):
        delay_scores(answers, at([0], [0]))
    with pytest.raises(RangeError, match="track 0 2 times in frame 0"):
        delay_scores(answers, at([0, 0], [0, 9], tracks=[0, 0]))
    with pytest.raises(RangeError, match="track 0 of sequence 0 has boxes of several classes"):
        delay_scores(answers, at([0, 1], [0, 0], tracks=[0, 0], classes=[1, 2]))
    with pytest.raises(RangeError, match=r"hint: truth\.where"):
        delay_scores(answers, at([0], [0], tracks=[0], ignore=[True]))
    with pytest.raises(RangeError, match="empty or inverted"):
        delay_scores(answers, at([0], [0], side=0, tracks=[0]))
    for rates in ((), (0.0,), (0.2, 0.1)):
        with pytest.raises(RangeError, match="`rates` must rise"):
            delay_scores(answers, truth, rates=rates)
    with pytest.raises(ShapeError, match="1 rates and 2 tracks"):
        DelayScores(
            (0.1,), (0.5,), np.zeros((1, 3), np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64), np.ones(2)
        )
