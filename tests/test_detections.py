"""What people's detectors return becomes boxes of this frame, or an error that says what came back."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision import Detections
from effvision.detections import as_detections
from effvision.errors import (
    DetectorError,
    DTypeError,
    EffvisionError,
    InputError,
    MissingDependencyError,
    RangeError,
    ShapeError,
)

BOXES = [[10.0, 20.0, 30.0, 60.0], [100.0, 0.0, 200.0, 50.0]]
SCORES = [0.9, 0.25]
CLASSES = [2, 0]
NAMES = {0: "person", 1: "bicycle", 2: "car"}


def read(value: object, *, height: int = 480, width: int = 640) -> Detections:
    return as_detections(value, height=height, width=width)


def made(boxes: list[list[float]] = BOXES, names: tuple[str, ...] = ("person", "bicycle", "car")) -> Detections:
    count = len(boxes)
    scores = np.array([*SCORES, *[0.5] * count][:count], np.float32)
    classes = np.array([*CLASSES, *[1] * count][:count], np.int64)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), scores, classes, names)


class Results:
    """Looks like a result of ultralytics."""

    def __init__(self, boxes: Any, names: Any = NAMES, obb: Any = None) -> None:
        self.boxes, self.names, self.obb = boxes, names, obb


class Supervised:
    """Looks like `supervision.Detections`."""

    def __init__(self, xyxy: Any, confidence: Any = None, class_id: Any = None, data: Any = None) -> None:
        self.xyxy, self.confidence, self.class_id, self.data = xyxy, confidence, class_id, data or {}


def ultralytics_boxes(kind: Any = torch.tensor) -> SimpleNamespace:
    return SimpleNamespace(xyxy=kind(BOXES), conf=kind(SCORES), cls=kind([float(number) for number in CLASSES]))


FULL = [[*box, score, number] for box, score, number in zip(BOXES, SCORES, CLASSES, strict=True)]
NAMED = np.array(["car", "person"])

FORMS = {
    "ours": (made(), True),
    "array": (np.array(FULL), False),
    "float16 array": (np.array(FULL, np.float16), False),
    "list": (FULL, False),
    "list of arrays": ([np.array(row) for row in FULL], False),
    "tuples": (tuple(map(tuple, FULL)), False),
    "tensor": (torch.tensor(FULL), False),
    "tensor with a gradient": (torch.tensor(FULL, requires_grad=True), False),
    "tensor of bfloat16": (torch.tensor(FULL, dtype=torch.bfloat16), False),
    "list of tensors": ([torch.tensor(row, requires_grad=True) for row in FULL], False),
    "batch of one": (np.array([FULL]), False),
    "list of one tensor": ([torch.tensor(FULL)], False),
    "torchvision": (
        {"boxes": torch.tensor(BOXES), "scores": torch.tensor(SCORES), "labels": torch.tensor(CLASSES)},
        False,
    ),
    "list of one dict": ([{"boxes": BOXES, "scores": SCORES, "labels": CLASSES}], False),
    "ultralytics": (Results(ultralytics_boxes()), True),
    "ultralytics, list of one": ([Results(ultralytics_boxes())], True),
    "ultralytics, arrays and a list of names": (
        Results(ultralytics_boxes(np.array), ["person", "bicycle", "car"]),
        True,
    ),
    "ultralytics, only boxes": (ultralytics_boxes(), False),
    "supervision": (Supervised(np.array(BOXES), np.array(SCORES), np.array(CLASSES), {"class_name": NAMED}), True),
    "supervision, list of one": ([Supervised(np.array(BOXES), np.array(SCORES), np.array(CLASSES))], False),
    "supervision without names": (Supervised(np.array(BOXES), np.array(SCORES), np.array(CLASSES)), False),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_boxes(form: str) -> None:
    value, named = FORMS[form]
    found = read(value)
    assert found.boxes.tolist() == BOXES
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.classes.dtype == np.int64
    np.testing.assert_allclose(found.scores, SCORES, atol=2e-3)  # half precision
    assert found.classes.tolist() == CLASSES
    assert found.labels == (("car", "person") if named else ("2", "0"))
    assert found.dropped == 0


@pytest.mark.parametrize(
    "value", [BOXES, np.array(BOXES, np.int32), {"boxes": BOXES}, Supervised(np.array(BOXES)), torch.tensor(BOXES)]
)
def test_boxes_alone_have_score_one_and_no_class(value: object) -> None:
    found = read(value)
    assert found.boxes.tolist() == BOXES
    assert found.scores.tolist() == [1.0, 1.0]
    assert found.classes.tolist() == [-1, -1]
    assert found.labels == ("", "")


def test_a_fifth_column_is_the_score() -> None:
    found = read([[*box, score] for box, score in zip(BOXES, SCORES, strict=True)])
    assert found.scores.tolist() == [np.float32(0.9), 0.25]
    assert found.classes.tolist() == [-1, -1]


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        (),
        [[]],
        np.empty((0, 6)),
        np.empty((1, 0, 6)),
        torch.empty(0, 4),
        {"boxes": torch.empty(0, 4), "scores": torch.empty(0), "labels": torch.empty(0)},
        {"boxes": []},
        Results(None),
        Results(SimpleNamespace(xyxy=torch.empty(0, 4), conf=torch.empty(0), cls=torch.empty(0))),
        [Results(None)],
        Supervised(np.empty((0, 4)), np.empty(0), np.empty(0)),
        Detections.empty(("car",)),
        [None],
    ],
)
def test_nothing_is_no_detection(value: object) -> None:
    found = read(value)
    assert (len(found), found.dropped) == (0, 0)
    assert found.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ([np.nan, 0, 5, 5, 0.5, 0], "NaN"),
        ([0, 0, np.inf, 5, 0.5, 0], "infinity"),
        ([0, 0, 5, 5, np.nan, 0], "a score that is NaN"),
        ([0, 0, 5, 5, 0.5, np.nan], "a class that is NaN"),
        ([9, 9, 3, 20, 0.5, 0], "inverted"),
        ([3, 3, 3, 20, 0.5, 0], "no width"),
        ([0, 0, 0, 0, 0, 0], "padding"),
        ([640, 10, 700, 20, 0.5, 0], "right of the frame"),
        ([10, -50, 20, 0, 0.5, 0], "above the frame"),
        ([1e-50, 5, 2e-50, 9, 0.5, 0], "no width in float32"),
    ],
)
def test_a_bad_box_is_dropped_and_counted(bad: list[float], why: str) -> None:
    found = read([FULL[0], bad, FULL[1], bad])
    assert found.boxes.tolist() == BOXES, why
    assert found.classes.tolist() == CLASSES
    assert found.dropped == 2


def test_a_frame_of_padding_only_is_no_detection() -> None:
    found = read(np.zeros((1, 300, 6)))
    assert (len(found), found.dropped) == (0, 300)


def test_boxes_over_the_border_are_cut() -> None:
    found = read([[-5, -7.5, 700, 500], [600.5, 470.5, 1e300, 480]])
    assert found.boxes.tolist() == [[0, 0, 640, 480], [600.5, 470.5, 640, 480]]
    assert found.dropped == 0


def test_what_was_dropped_before_is_still_counted() -> None:
    first = read([FULL[0], [np.nan] * 6])
    assert read(first).dropped == 1
    assert read(first, height=10, width=10).dropped == 2


def test_a_score_above_one_by_a_hair_becomes_one() -> None:
    assert read([[0, 0, 5, 5, 1.0005], [0, 0, 5, 5, -0.0005]]).scores.tolist() == [1.0, 0.0]


def test_nothing_of_the_caller_is_kept_by_reference() -> None:
    mine = np.array(BOXES, np.float32)
    found = read(mine)
    mine[:] = 7
    assert found.boxes.tolist() == BOXES


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("a string", "an answer of type str of <U8, not numbers"),
        (7, r"numbers of shape \(\)"),
        (object(), "an answer of type object, not numbers"),
        ([10, 20, 30, 40], r"shape \(4,\).*\n?.*two pairs of brackets"),
        (np.zeros((2, 3)), r"shape \(2, 3\)"),
        (np.zeros((2, 84)), r"shape \(2, 84\)"),
        (np.zeros((2, 5, 6)), r"shape \(2, 5, 6\)"),
        ([[1, 2, 3, 4], [1, 2, 3]], "cannot become an array"),
        ([["a", "b", "c", "d"]], "not numbers"),
        (np.array([[1, 2, 3, 4j]]), "of complex128, not numbers"),
        (np.ones((1, 4), bool), "of bool, not numbers"),
        (np.array([[None] * 4]), "not numbers"),
        (iter(FULL), "list_iterator, not numbers"),
        ({"scores": [1.0]}, "a dict without `boxes`; it has 'scores'"),
        ({}, "a dict without `boxes`; it has nothing"),
        ({"boxes": BOXES, "scores": [1.0]}, r"scores of shape \(1,\) with 2 boxes"),
        ({"boxes": BOXES, "labels": ["car", "person"]}, "classes of type list of <U6, not numbers"),
        ({"boxes": [[1, 2, 3]]}, r"boxes of shape \(1, 3\), not \(M, 4\)"),
        (Supervised(np.array(BOXES), np.array(SCORES), np.array([1])), r"classes of shape \(1,\)"),
        ([Results(None), Results(None)], "2 results instead of the one for this frame"),
        ([made(), made()], "2 results instead of the one"),
        (Results(None, obb=object()), "rotated boxes"),
        (Results(object()), "whose `boxes` have no `xyxy`"),
        ([[0, 0, 9, 9, 88.0, 1]], "scores from 88 to 88; they must lie within 0..1"),
        ([[0, 0, 9, 9, -4.0, 1]], "scores from -4"),
        ([[0, 0, 9, 9, 0.5, 0.7]], "the class 0.7; classes are whole numbers"),
        ([[0, 0, 9, 9, 0.5, -2]], "the class -2"),
        ([[0, 0, 9, 9, 0.5, 1e30]], r"the class 1e\+30"),
        ([[300, 200, 50, 60], [310, 220, 40, 40]], "all end before they begin(.|\n)*xywh_to_xyxy"),
        ([[0.1, 0.2, 0.4, 0.5]], "all lie within the first pixel(.|\n)*shares"),
    ],
)
def test_nonsense_is_refused_with_what_came_back(value: object, says: str) -> None:
    with pytest.raises(DetectorError, match=says) as caught:
        as_detections(value, height=48, width=640, where="my detector")
    assert "my detector returned" in str(caught.value)
    assert "the frame had 48 rows and 640 columns" in str(caught.value)
    assert "\nhint: " in str(caught.value)
    assert isinstance(caught.value, EffvisionError) and isinstance(caught.value, ValueError)


def test_one_inverted_box_is_only_dropped_and_tiny_frames_may_have_tiny_boxes() -> None:
    assert read([[300, 200, 50, 60]]).dropped == 1
    assert len(read([[0, 0, 1, 1]], height=1, width=1)) == 1


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, -1), (5.0, 5), (True, 5), ("5", 5)])
def test_a_frame_has_pixels(height: Any, width: Any) -> None:
    with pytest.raises(InputError, match="of the frame must be a whole number"):
        as_detections(None, height=height, width=width)
    with pytest.raises(InputError, match="of the frame must be a whole number"):
        made().clipped(height, width)


@given(
    st.lists(
        st.lists(
            st.one_of(st.floats(-1e6, 1e6), st.sampled_from([np.nan, np.inf, 0.0, 64.0, 48.0])), min_size=4, max_size=4
        ),
        max_size=6,
    )
)
def test_whatever_the_numbers_what_is_kept_lies_in_the_frame(boxes: list[list[float]]) -> None:
    try:
        found = read(boxes, height=48, width=64)
    except DetectorError:  # all inverted, or all within the first pixel
        return
    assert len(found) + found.dropped == len(boxes)
    corners = found.boxes
    assert (corners >= 0).all() and (corners <= [64, 48, 64, 48]).all()
    assert (corners[:, :2] < corners[:, 2:]).all()


def test_some_of_them_are_chosen_with_their_names() -> None:
    three = made([*BOXES, [1, 2, 3, 4]])
    for which in (np.array([True, False, True]), np.array([0, 2]), [0, 2], slice(None, None, 2)):
        some = three[which]
        assert some.boxes.tolist() == [BOXES[0], [1, 2, 3, 4]]
        assert some.labels == ("car", "bicycle")
    assert three[1].boxes.tolist() == [BOXES[1]]
    assert [len(one) for one in three] == [1, 1, 1]  # type: ignore[attr-defined]
    assert len(three[np.zeros(3, bool)]) == 0


def test_clipping_drops_what_is_outside() -> None:
    found = made([[-5, 5, 20, 15], [12, 0, 20, 5], [3, 3, 5, 5]]).clipped(10, 12)
    assert found.boxes.tolist() == [[0, 5, 12, 10], [3, 3, 5, 5]]
    assert found.classes.tolist() == [2, 1]
    assert found.dropped == 1


def test_plain_data_can_be_written_as_json() -> None:
    plain = json.loads(json.dumps(made().to_dict()))
    assert plain["dropped"] == 0
    assert plain["detections"] == [
        {"box": BOXES[0], "score": pytest.approx(0.9), "class": 2, "label": "car"},
        {"box": BOXES[1], "score": 0.25, "class": 0, "label": "person"},
    ]


def test_a_class_beyond_the_names_shows_its_number() -> None:
    assert made(names=("person", "")).labels == ("2", "person")
    assert made([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]], names=("person", "")).labels == ("2", "person", "1")


def test_supervision_gets_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("supervision")

    class Kept:
        def __init__(self, **given: NDArray[Any]) -> None:
            self.__dict__.update(given)

    fake.Detections = Kept  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", fake)
    theirs = made().to_supervision()
    assert theirs.data["class_name"].tolist() == ["car", "person"]
    again = read(theirs)
    assert again.to_dict() == made().to_dict()


def test_without_supervision_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match="pip install supervision"):
        made().to_supervision()


F32, I64 = np.float32, np.int64


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"boxes": [[0, 0, 1, 1]]}, DTypeError),
        ({"boxes": np.zeros((1, 4))}, DTypeError),
        ({"classes": np.zeros(1, F32)}, DTypeError),
        ({"boxes": np.ones(4, F32)}, ShapeError),
        ({"boxes": np.ones((1, 5), F32)}, ShapeError),
        ({"scores": np.ones(2, F32)}, ShapeError),
        ({"classes": np.ones((1, 1), I64)}, ShapeError),
        ({"boxes": np.array([[0, 0, np.nan, 1]], F32)}, RangeError),
        ({"boxes": np.array([[0, 0, 0, 1]], F32)}, RangeError),
        ({"boxes": np.array([[5, 5, 1, 9]], F32)}, RangeError),
        ({"scores": np.array([1.5], F32)}, RangeError),
        ({"scores": np.array([np.nan], F32)}, RangeError),
        ({"classes": np.array([-2])}, RangeError),
        ({"names": "car"}, DTypeError),
        ({"names": (1,)}, DTypeError),
    ],
)
def test_detections_are_checked_when_made(change: dict[str, Any], error: type[Exception]) -> None:
    good: dict[str, Any] = {
        "boxes": np.array([[0, 0, 1, 1]], F32),
        "scores": np.ones(1, F32),
        "classes": np.zeros(1, I64),
    }
    assert len(Detections(**good)) == 1
    with pytest.raises(error):
        Detections(**{**good, **change})
