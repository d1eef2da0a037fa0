"""Label smoothing: the reference demo's rule exactly, and what each setting does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effvision.cards import get_card
from effvision.errors import InputError
from effvision.models.tsm.smoothing import JESTER_DEMO, Smoothing, SmoothingMemory, softmax


def test_golden_demo_labels_one_by_one(shared: Path) -> None:
    golden = np.load(shared / "golden/tsm/demo_postprocess.npz")
    memory = JESTER_DEMO.begin()
    assert [JESTER_DEMO.decide(int(index), memory) for index in golden["index_in"]] == golden["index_out"].tolist()


def test_golden_demo_chain_from_logits(shared: Path) -> None:
    golden = np.load(shared / "golden/tsm/demo_postprocess.npz")
    memory = JESTER_DEMO.begin()
    chosen, best = [], []
    for logits in golden["chain_logits"]:
        index, mean = JESTER_DEMO.update(logits, memory)
        chosen.append(index)
        best.append(int(mean.argmax()))
    assert best == golden["chain_argmax"].tolist()
    assert chosen == golden["chain_out"].tolist()


def one_hot(index: int, classes: int = 4) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[index]


def labels(rule: Smoothing, given: list[int]) -> list[int]:
    memory = rule.begin()
    return [rule.update(one_hot(index), memory)[0] for index in given]


def test_no_smoothing_answers_each_frame_by_itself() -> None:
    assert labels(Smoothing(), [0, 3, 1, 1]) == [0, 3, 1, 1]


def test_a_window_outvotes_a_single_frame() -> None:
    assert labels(Smoothing(window=3), [0, 0, 3, 0]) == [0, 0, 0, 0]


def test_confirmation_holds_a_label_for_two_frames() -> None:
    rule = Smoothing(confirm=True, start=0)
    memory = rule.begin()
    assert [rule.decide(index, memory) for index in (1, 2, 2)] == [1, 1, 2]


def test_masked_classes_keep_the_label_before_and_merged_ones_change_name() -> None:
    assert labels(Smoothing(masked=(2,), merged={3: 0}), [1, 2, 3, 2]) == [1, 1, 0, 0]


@pytest.mark.parametrize("window", [1, 3])
def test_before_any_label_the_best_class_that_is_not_masked_is_answered(window: int) -> None:
    rule = Smoothing(window=window, masked=(0, 3))
    memory = rule.begin()
    assert rule.update(np.array([9, 1, 2, 8], np.float32), memory)[0] == 2
    assert rule.update(np.array([9, 9, 2, 99], np.float32), memory)[0] == 2  # from here on, the label before stays


def test_before_any_label_the_class_in_place_of_a_masked_one_is_merged_too() -> None:
    rule = Smoothing(masked=(0,), merged={2: 1})
    assert rule.update(np.array([9, 1, 2, 0], np.float32), rule.begin())[0] == 1


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Smoothing(masked=(0, 1, 2)), "all 3 classes"),
        (Smoothing(masked=(1,), merged={0: 1}), "class 1 is in `masked`"),
        (Smoothing(masked=(1,), start=1), "class 1 is in `masked`"),
    ],
)
def test_a_rule_that_could_only_answer_masked_classes_is_refused(rule: Smoothing, said: str) -> None:
    with pytest.raises(InputError, match=said):
        rule.check_classes(3)


def test_memory_does_not_grow_and_is_plain_data() -> None:
    rule = Smoothing(window=5, confirm=True)
    memory = rule.begin()
    for index in range(1000):
        rule.update(one_hot(index % 4), memory)
    assert len(memory.logits) == 5 and len(memory.labels) <= 2
    assert SmoothingMemory(**json.loads(json.dumps(vars(memory)))) == memory


def test_a_rule_survives_json() -> None:
    assert Smoothing.from_dict(json.loads(json.dumps(JESTER_DEMO.to_dict()))) == JESTER_DEMO


def test_the_jester_card_smooths_as_the_demo_does() -> None:
    assert Smoothing.from_dict(get_card("tsm-mobilenetv2-jester").options["smoothing"]) == JESTER_DEMO


def test_a_window_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="got 0"):
        Smoothing(window=0)


# --- a score to be reached --------------------------------------------------------------------------------------------


def test_a_class_below_the_threshold_gives_way_to_the_resting_class() -> None:
    rule = Smoothing(threshold=0.6, rest=3)
    memory = rule.begin()
    sure, unsure = np.array([0, 5, 0, 0], np.float32), np.array([0, 0.5, 0, 0], np.float32)
    assert [rule.update(logits, memory)[0] for logits in (sure, unsure, sure)] == [1, 3, 1]


def test_without_a_resting_class_the_label_before_stays() -> None:
    rule = Smoothing(threshold=0.6)
    memory = rule.begin()
    rows = [np.array(row, np.float32) for row in ([0, 0.5, 0, 0], [5, 0, 0, 0], [0, 0.5, 0, 0])]
    assert [rule.update(row, memory)[0] for row in rows] == [1, 0, 0]  # the first has to answer something


def test_a_threshold_is_asked_of_a_full_window() -> None:
    assert labels(Smoothing(window=3), [1, 1, 1, 1]) == [1, 1, 1, 1]
    assert labels(Smoothing(window=3, threshold=0.4, rest=0), [1, 1, 1, 1]) == [0, 0, 1, 1]


def test_the_threshold_is_of_the_averaged_score_and_the_logits_stay_what_they_are() -> None:
    rule = Smoothing(window=2, threshold=0.7, rest=0)
    memory = rule.begin()
    rule.update(np.array([0, 4, 0], np.float32), memory)
    index, mean = rule.update(np.array([0, 0, 0], np.float32), memory)
    np.testing.assert_array_equal(mean, np.array([0, 2, 0], np.float32))
    assert softmax(mean)[1] == pytest.approx(np.exp(2) / (np.exp(2) + 2)) and index == 1


@given(
    st.lists(st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4), min_size=1, max_size=12),
    st.integers(1, 4),
    st.floats(0.01, 1),
)
def test_whatever_is_shown_besides_rest_has_reached_the_threshold(
    rows: list[list[float]], window: int, threshold: float
) -> None:
    rule, plain = Smoothing(window=window, threshold=threshold, rest=2), Smoothing(window=window)
    memory, other = rule.begin(), plain.begin()
    for count, row in enumerate(rows, start=1):
        index, mean = rule.update(np.array(row, np.float32), memory)
        best, same = plain.update(np.array(row, np.float32), other)
        np.testing.assert_array_equal(mean, same)
        if index != 2:
            assert index == best and softmax(mean)[index] >= threshold and count >= window
        elif best != 2:
            assert softmax(mean)[best] < threshold or count < window


@given(
    st.lists(st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=3), min_size=1, max_size=12), st.integers(1, 4)
)
def test_no_threshold_is_the_rule_without_one_whatever_rests(rows: list[list[float]], window: int) -> None:
    rule, plain = Smoothing(window=window, rest=1), Smoothing(window=window)
    memory, other = rule.begin(), plain.begin()
    for row in rows:
        assert rule.update(np.array(row, np.float32), memory)[0] == plain.update(np.array(row, np.float32), other)[0]


@given(st.lists(st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4), min_size=1, max_size=12))
def test_a_higher_threshold_never_shows_more_frames_of_a_gesture(rows: list[list[float]]) -> None:
    shown = []
    for threshold in (0.3, 0.6, 0.9):
        rule = Smoothing(window=2, threshold=threshold, rest=0)
        memory = rule.begin()
        shown.append({at for at, row in enumerate(rows) if rule.update(np.array(row, np.float32), memory)[0] != 0})
    assert shown[2] <= shown[1] <= shown[0]


def test_what_is_shown_stays_until_its_score_falls_below_hold() -> None:
    rule = Smoothing(threshold=0.8, rest=3, hold=0.5)
    memory = rule.begin()
    rows = {score: np.log(np.array([0.01, score, 0.01, 0.98 - score], np.float32)) for score in (0.3, 0.6, 0.9)}
    assert [rule.update(rows[score], memory)[0] for score in (0.6, 0.9, 0.6, 0.6, 0.3, 0.6)] == [3, 1, 1, 1, 3, 3]


@given(
    st.lists(st.lists(st.floats(-6, 6, width=32), min_size=4, max_size=4), min_size=1, max_size=12),
    st.floats(0.1, 0.9),
)
def test_hold_begins_no_gesture_and_only_makes_those_there_are_longer(rows: list[list[float]], hold: float) -> None:
    rule = Smoothing(window=2, threshold=0.9, rest=0, hold=hold)
    strict = Smoothing(window=2, threshold=0.9, rest=0)
    memory, other, before = rule.begin(), strict.begin(), 0
    for row in rows:
        index, mean = rule.update(np.array(row, np.float32), memory)
        sure, _ = strict.update(np.array(row, np.float32), other)
        if sure != 0:
            assert index == sure
        elif index != 0:
            assert index == before and softmax(mean)[index] >= hold
        before = index


@pytest.mark.parametrize("hold", [-0.1, 0.9, float("nan"), True, "low", 1])
def test_a_hold_above_the_threshold_is_refused(hold: object) -> None:
    with pytest.raises(InputError, match="`hold` must be a score"):
        Smoothing(threshold=0.8, hold=hold)  # type: ignore[arg-type]


def test_logits_that_are_no_numbers_show_the_resting_class() -> None:
    rule = Smoothing(threshold=0.5, rest=2)
    assert rule.update(np.full(4, np.nan, np.float32), rule.begin())[0] == 2


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), True, "high", None])
def test_a_threshold_that_is_no_score_is_refused(threshold: object) -> None:
    with pytest.raises(InputError, match="`threshold` must be a score"):
        Smoothing(threshold=threshold)  # type: ignore[arg-type]


def test_a_resting_class_has_to_exist_and_may_not_be_masked() -> None:
    with pytest.raises(InputError, match="names class 4"):
        Smoothing(threshold=0.5, rest=4).check_classes(4)
    with pytest.raises(InputError, match="class 1 is in `masked`"):
        Smoothing(masked=(1,), threshold=0.5, rest=1).check_classes(4)


def test_a_rule_with_a_threshold_survives_json() -> None:
    rule = Smoothing(window=5, threshold=0.85, rest=9)
    assert Smoothing.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
