"""Results: frozen values that name their best classes, draw themselves and turn into plain data."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effvision import Classification, Result, Timing
from effvision.errors import EffvisionError, InputError, SourceError

LABELS = ("left", "right", "up", "auf")
FUZZ = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def _result(scores: Any = (0.1, 0.6, 0.25, 0.05), chosen: int | None = None, **more: Any) -> Classification:
    values = np.asarray(scores, np.float32)
    best = int(values.argmax()) if chosen is None else chosen
    return Classification(
        labels=LABELS[: len(values)] if len(values) <= 4 else tuple(f"class {i}" for i in range(len(values))),
        scores=values,
        logits=np.log(np.maximum(values, 1e-9)),
        chosen=best,
        **more,
    )


def _picture() -> np.ndarray:
    return np.full((120, 160, 3), 90, np.uint8)


def test_label_and_score_are_those_of_the_chosen_class() -> None:
    assert (_result().label, _result().score) == ("right", pytest.approx(0.6))
    held = _result(chosen=2)  # smoothing may hold a label that is not this frame's best
    assert (held.label, held.score) == ("up", pytest.approx(0.25))


def test_a_result_cannot_be_changed_but_replaced() -> None:
    result = _result(timestamp=1.0)
    with pytest.raises(FrozenInstanceError):
        result.chosen = 0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        result.timing.run_ms = 0.0  # type: ignore[misc]
    later = result.replace(timestamp=2.0)
    assert type(later) is Classification and (later.timestamp, result.timestamp) == (2.0, 1.0)
    assert later.label == result.label


@pytest.mark.parametrize(
    ("labels", "scores", "logits", "chosen"),
    [(3, 4, 4, 0), (4, 3, 4, 0), (4, 4, 3, 0), (4, 4, 4, 4), (4, 4, 4, -1), (0, 0, 0, 0)],
)
def test_parts_that_do_not_fit_each_other_are_refused(labels: int, scores: int, logits: int, chosen: int) -> None:
    with pytest.raises(InputError, match=rf"{labels}, {scores}, {logits} and {chosen}"):
        Classification(labels=LABELS[:labels], scores=np.ones(scores), logits=np.ones(logits), chosen=chosen)


def test_topk_is_sorted_and_gives_no_more_than_there_is() -> None:
    assert [label for label, _ in _result().topk(3)] == ["right", "up", "left"]
    assert len(_result().topk(1)) == 1
    assert len(_result().topk()) == len(_result().topk(10**6)) == 4


def test_equal_scores_keep_the_order_of_the_labels() -> None:
    assert [label for label, _ in _result([0.25] * 4).topk(4)] == list(LABELS)


@FUZZ
@given(raw=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12), k=st.integers(1, 15))
def test_topk_is_the_head_of_a_plain_sort(raw: list[float], k: int) -> None:
    result = _result(raw)
    plain = sorted(zip(result.labels, result.scores.tolist(), strict=True), key=lambda pair: -pair[1])[:k]
    assert result.topk(k) == plain
    json.dumps(result.topk(k))


@pytest.mark.parametrize("k", [0, -1, "three", 1.5, None, [], np.zeros(3)])
def test_a_k_that_is_no_count_is_refused(k: Any) -> None:
    with pytest.raises(InputError, match="`k` must be"):
        _result().topk(k)


def test_plain_data_is_json_whatever_numbers_came_in() -> None:
    timing = Timing(np.float32(1.5), np.float64(2), 3)  # type: ignore[arg-type]
    result = _result(timing=timing, index=7, timestamp=np.float64(0.25), reset_reason="gap", image=_picture())
    data = json.loads(result.to_json())
    assert data == json.loads(json.dumps(result.to_dict()))
    assert (data["label"], data["index"], data["timestamp"], data["reset_reason"]) == ("right", 7, 0.25, "gap")
    assert data["fresh"] is True and data["settled"] is True
    assert data["timing"] == {"prepare_ms": 1.5, "run_ms": 2.0, "finish_ms": 3.0, "total_ms": 6.5}
    assert [entry["label"] for entry in data["topk"]] == ["right", "up", "left", "auf"]
    assert "image" not in data and "\n" not in result.to_json()


def test_letters_beyond_ascii_stay_readable() -> None:
    result = Classification(labels=("größer", "左"), scores=np.array([0.2, 0.8]), logits=np.zeros(2), chosen=1)
    assert "左" in result.to_json() and json.loads(result.to_json())["label"] == "左"


def test_results_can_be_compared_and_put_into_a_set() -> None:
    result = _result()
    assert result == result
    assert isinstance(result == _result(), bool)
    assert (result == _result([0.9, 0.1, 0.0, 0.0])) is False
    assert (result == "right") is False
    assert len({result, result}) == 1


def test_repr_is_short_and_shows_no_picture() -> None:
    assert "image" not in repr(_result(image=_picture()))


# --- drawing and saving -------------------------------------------------------------------------------------------------


def test_plot_draws_on_a_copy_of_the_given_or_kept_frame() -> None:
    picture = _picture()
    drawn = _result().plot(picture)
    assert drawn.shape == picture.shape and drawn.dtype == np.uint8
    assert (picture == 90).all() and (drawn != 90).any()
    np.testing.assert_array_equal(_result(image=picture).plot(), drawn)
    np.testing.assert_array_equal(_result(image=np.zeros_like(picture)).plot(picture), drawn)


def test_the_held_label_is_drawn_first_even_if_another_scores_higher() -> None:
    assert (_result(chosen=2).plot(_picture()) != _result().plot(_picture())).any()


def test_nothing_to_draw_on_is_said() -> None:
    for call in (_result().plot, lambda: _result().save("never.png")):
        with pytest.raises(InputError, match=r"kept no frame.*result\.plot\(frame\)"):
            call()
    assert not Path("never.png").exists()


@pytest.mark.parametrize("bad", [5, "frame", np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_cannot_be_drawn_on_is_refused(bad: Any) -> None:
    with pytest.raises(EffvisionError):
        _result().plot(bad)


def test_a_result_without_a_drawing_says_so() -> None:
    with pytest.raises(InputError, match="no drawing"):
        Result().plot(_picture())


def test_save_writes_what_plot_shows(tmp_path: Path) -> None:
    result = _result(image=_picture())
    assert result.save(tmp_path / "r.png") == tmp_path / "r.png"
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "r.png"))[..., ::-1], result.plot())
    result.save(str(tmp_path / "r.JPG"))
    assert cv2.imread(str(tmp_path / "r.JPG")).shape == (120, 160, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.JPG", "r.png"]


def test_save_writes_plain_data_without_a_frame(tmp_path: Path) -> None:
    _result().save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text("utf-8")) == json.loads(_result().to_json())


@pytest.mark.parametrize(("name", "kind"), [("r.gif", InputError), ("r", InputError), ("no/r.png", SourceError)])
@pytest.mark.parametrize("image", [None, _picture()])
def test_a_place_it_cannot_be_saved_to_is_refused_and_nothing_is_left(
    tmp_path: Path, name: str, kind: type[Exception], image: np.ndarray | None
) -> None:
    with pytest.raises(kind if image is not None else InputError):
        _result(image=image).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_json_into_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"does not exist\nhint: "):
        _result().save(tmp_path / "no" / "r.json")


def test_a_file_that_is_replaced_appears_whole(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("old")
    _result().save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["label"] == "right"
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
