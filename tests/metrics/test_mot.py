"""MOTA and IDF1: what the library is asked, what it answers, and what is said without it."""

from __future__ import annotations

import sys
from itertools import permutations
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from effvision.errors import MissingDependencyError, RangeError, ShapeError
from effvision.metrics import FrameBoxes, MotScores, box_iou, mot_scores


@pytest.fixture
def library() -> None:
    """Skip where `trackers` is not installed; it is not among what `make test` installs."""
    pytest.importorskip("trackers.eval", reason="needs the extra `metrics`: pip install 'effvision[metrics]'")


def at(frames: list[int], places: list[float], tracks: list[int], **columns: Any) -> FrameBoxes:
    """Boxes of 10 x 10 pixels whose left edge is at each place."""
    boxes = np.array([[x, 0.0, x + 10, 10.0] for x in places]).reshape(-1, 4)
    given = {name: np.array(values) for name, values in columns.items()}
    return FrameBoxes(np.array(frames, int), boxes, tracks=np.array(tracks, int), **given)


def random_tables(seed: int) -> tuple[FrameBoxes, FrameBoxes]:
    """Up to four objects that pass each other, in two videos; answers that miss, jitter and change their number."""
    rng = np.random.default_rng(seed)
    true, given = [], []
    for sequence in range(2):
        many = int(rng.integers(1, 5))
        place, speed, names = rng.uniform(0, 60, (many, 2)), rng.normal(0, 3, (many, 2)), np.arange(many)
        for frame in range(12):
            place = place + speed
            names = rng.permutation(names) if rng.random() < 0.2 else names
            for k in range(many):
                box = [*place[k], *(place[k] + 20)]
                if rng.random() < 0.9:
                    true.append([sequence, frame, k, *box])
                if rng.random() < 0.8:
                    given.append([sequence, frame, names[k], *(np.array(box) + rng.normal(0, 2, 4))])
    tables = [np.array(rows, float) for rows in (given, true)]
    answers, truth = (
        FrameBoxes(t[:, 1].astype(int), t[:, 3:], tracks=t[:, 2].astype(int), sequences=t[:, 0].astype(int))
        for t in tables
    )
    return answers, truth


def slow(answers: FrameBoxes, truth: FrameBoxes) -> dict[str, int]:
    """Every way to lay answers on true boxes is tried, in each frame for MOTA and over a whole video for IDF1."""
    assert answers.tracks is not None and truth.tracks is not None
    counts = {"hits": 0, "switches": 0, "identified": 0}
    for sequence in range(2):
        last: dict[int, int] = {}
        before: dict[int, int] = {}
        together: dict[tuple[int, int], int] = {}
        for frame in range(12):
            given = np.flatnonzero((answers.sequences == sequence) & (answers.frames == frame))
            true = np.flatnonzero((truth.sequences == sequence) & (truth.frames == frame))
            if not len(given) or not len(true):
                continue
            iou = box_iou(truth.boxes[true], answers.boxes[given])
            names = answers.tracks[given].tolist() + [-1] * len(true)
            best: tuple[float, list[tuple[int, int]]] = (-1.0, [])
            for order in permutations(range(len(names)), len(true)):
                pairs = [(int(truth.tracks[row]), names[k]) for row, k in zip(true, order, strict=True)]
                worth = 0.0
                kept = []
                for i, (k, pair) in enumerate(zip(order, pairs, strict=True)):
                    if k < len(given) and iou[i, k] >= 0.5:
                        worth += iou[i, k] + 1000 * (before.get(pair[0]) == pair[1])
                        kept.append(pair)
                if worth > best[0]:
                    best = (worth, kept)
            counts["hits"] += len(best[1])
            counts["switches"] += sum(last.get(own, name) != name for own, name in best[1])
            before = dict(best[1])
            last |= before
            for i, k in zip(*np.nonzero(iou >= 0.5), strict=True):
                pair = (int(truth.tracks[true[i]]), names[k])
                together[pair] = together.get(pair, 0) + 1
        own = sorted({pair[0] for pair in together})
        others = sorted({pair[1] for pair in together}) + [-1] * len(own)
        counts["identified"] += max(
            sum(together.get(pair, 0) for pair in zip(own, chosen, strict=True))
            for chosen in permutations(others, len(own))
        )
    return counts


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("seed", range(12))
def test_counts_equal_those_of_trying_every_way(seed: int) -> None:
    answers, truth = random_tables(seed)
    scores = mot_scores(answers, truth)
    assert {name: getattr(scores, name) for name in ("hits", "switches", "identified")} == slow(answers, truth)
    assert scores.misses == len(truth) - scores.hits and scores.false_alarms == len(answers) - scores.hits


@pytest.mark.usefixtures("library")
def test_scores_worked_out_by_hand() -> None:
    # Two objects in four frames. The first is answered as 7, then 8: a switch. The second as 9, shifted by 2 of 10 pixels
    # (IoU 2/3), not in the third frame, and far off in the fourth.
    truth = at([0, 1, 2, 3] * 2, [0.0] * 4 + [50.0] * 4, [1] * 4 + [2] * 4)
    answers = at([0, 1, 2, 3, 0, 1, 3], [0, 0, 0, 0, 52, 52, 90], [7, 7, 8, 8, 9, 9, 9])
    scores = mot_scores(answers, truth)
    assert (scores.hits, scores.misses, scores.false_alarms, scores.switches) == (6, 2, 1, 1)
    assert scores.mota == pytest.approx(1 - (2 + 1 + 1) / 8)
    assert scores.motp == pytest.approx((4 + 2 * 2 / 3) / 6)
    assert scores.identified == 2 + 2  # 7 or 8 for the first, 9 for the second
    assert scores.idf1 == pytest.approx(2 * 4 / (8 + 7))
    assert mot_scores(answers, truth, iou=0.7).hits == 4


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("seed", range(4))
def test_perfect_tracks_score_one_whatever_they_are_called(seed: int) -> None:
    _, truth = random_tables(seed)
    assert truth.tracks is not None
    scores = mot_scores(
        FrameBoxes(truth.frames, truth.boxes, sequences=truth.sequences, tracks=90 - truth.tracks), truth
    )
    assert scores.mota == scores.idf1 == scores.motp == pytest.approx(1)


@pytest.mark.usefixtures("library")
def test_nothing_on_either_side_is_counted_so() -> None:
    none = at([], [], [])
    some = at([0, 1], [0, 0], [1, 1])
    assert np.isnan(mot_scores(none, none).mota) and np.isnan(mot_scores(none, none).idf1)
    missed = mot_scores(none, some)
    assert (missed.misses, missed.mota, missed.idf1) == (2, 0.0, 0.0)
    wrong = mot_scores(some, none)
    assert wrong.false_alarms == 2 and np.isnan(wrong.mota) and wrong.idf1 == 0
    assert wrong.to_dict()["mota"] is None


# --- without the library ----------------------------------------------------------------------------------------------


def test_scores_follow_from_what_is_counted() -> None:
    scores = MotScores(truths=8, hits=6, misses=2, false_alarms=1, switches=1, overlap=5.0, identified=4)
    assert scores.mota == 0.5 and scores.motp == pytest.approx(5 / 6) and scores.idf1 == pytest.approx(8 / 15)
    assert scores.to_dict()["switches"] == 1
    assert "8 true boxes, MOTA 0.5000, IDF1 0.5333" in str(scores)


def test_the_library_is_asked_frame_by_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracks of other sequences and classes have other numbers, and boxes of other classes do not overlap."""
    asked: dict[str, Any] = {}

    def clear(true: Any, given: Any, overlap: Any, *, threshold: float) -> dict[str, float]:
        asked.update(true=true, given=given, overlap=overlap, threshold=threshold)
        return {"CLR_TP": 1, "CLR_FN": 2, "CLR_FP": 3, "IDSW": 4, "MOTP_sum": 0.5}

    stand_in = ModuleType("trackers.eval")
    stand_in.compute_clear_metrics = clear  # type: ignore[attr-defined]
    stand_in.compute_identity_metrics = lambda *_, **__: {"IDTP": 5}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackers", ModuleType("trackers"))
    monkeypatch.setitem(sys.modules, "trackers.eval", stand_in)
    truth = at([3, 3, 3], [0, 0, 50], [1, 2, 1], classes=[0, 1, 0], sequences=[0, 0, 1])
    answers = at([3, 4], [0, 0], [1, 1], classes=[1, 1])
    scores = mot_scores(answers, truth, iou=0.4)
    assert (scores.hits, scores.misses, scores.false_alarms, scores.switches, scores.identified) == (1, 2, 3, 4, 5)
    assert asked["threshold"] == 0.4
    assert [ids.tolist() for ids in asked["true"]] == [[0, 1], [], [2]]
    assert [ids.tolist() for ids in asked["given"]] == [[0], [0], []]
    assert [part.tolist() for part in asked["overlap"]] == [[[0.0], [1.0]], [], [[]]]


def test_without_the_library_the_line_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trackers", "trackers.eval"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"`trackers\.eval`(?s:.*)pip install 'effvision\[metrics\]'"):
        mot_scores(at([0], [0], [1]), at([0], [0], [1]))


def test_what_cannot_be_scored_is_refused() -> None:
    good = at([0], [0], [1])
    bare = FrameBoxes(good.frames, good.boxes)
    with pytest.raises(ShapeError, match="`answers` needs `tracks`"):
        mot_scores(bare, good)
    with pytest.raises(ShapeError, match="`truth` needs `tracks`"):
        mot_scores(good, bare)
    with pytest.raises(RangeError, match="`answers` has track 1 2 times in frame 0"):
        mot_scores(at([0, 0], [0, 9], [1, 1]), good)
    with pytest.raises(RangeError, match="no boxes to ignore"):
        mot_scores(good, at([0], [0], [1], ignore=[True]))
    with pytest.raises(RangeError, match=r"`iou` must lie within 0\.\.1"):
        mot_scores(good, good, iou=0)
