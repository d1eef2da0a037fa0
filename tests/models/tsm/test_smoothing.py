"""Label smoothing: the reference demo's rule exactly, and what each setting does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from effvision.cards import get_card
from effvision.errors import InputError
from effvision.models.tsm.smoothing import JESTER_DEMO, Smoothing, SmoothingMemory


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
