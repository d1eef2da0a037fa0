"""Overlap of boxes, against counted pixels, and tables of boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision.errors import DTypeError, RangeError, ShapeError
from effvision.metrics import FrameBoxes, box_iou, paired_iou
from effvision.metrics.boxes import checked_tracks, checked_truth, frame_by_frame

BOX = np.array([[2.0, 3.0, 6.0, 9.0]])  # 4 wide, 6 high


def random_boxes(seed: int, many: int) -> NDArray[Any]:
    """Whole numbers 0..12; some are empty or inverted."""
    return np.random.default_rng(seed).integers(0, 13, (many, 4)).astype(float)


def counted(a: list[float], b: list[float], more: int) -> float:
    """Intersection over union of the pixels that lie in each box."""

    def pixels(box: list[float]) -> set[tuple[int, int]]:
        x1, y1, x2, y2 = (int(value) for value in box)
        return {(x, y) for x in range(x1, x2 + more) for y in range(y1, y2 + more)}

    first, second = pixels(a), pixels(b)
    return len(first & second) / len(first | second) if first | second else 0.0


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_overlap_is_that_of_counted_pixels(seed: int, inclusive: bool) -> None:
    a, b = random_boxes(seed, 30), random_boxes(seed + 100, 20)
    expected = [[counted(one, other, int(inclusive)) for other in b.tolist()] for one in a.tolist()]
    np.testing.assert_allclose(box_iou(a, b, inclusive=inclusive), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([2, 3, 6, 9], 1.0),
        ([4, 3, 8, 9], 12 / 36),  # half of each
        ([2, 3, 4, 6], 6 / 24),  # a quarter of it
        ([6, 3, 9, 9], 0.0),  # beside it: half-open boxes do not share the edge
        ([3, 5, 3, 7], 0.0),  # empty
        ([6, 9, 2, 3], 0.0),  # inverted both ways, whose area would be positive
    ],
)
def test_overlap_of_one_box_with_another(other: list[float], expected: float) -> None:
    assert box_iou(BOX, np.array([other]))[0, 0] == pytest.approx(expected)
    assert paired_iou(BOX, np.array([other]))[0] == pytest.approx(expected)


def test_an_edge_that_belongs_to_the_box_makes_it_a_pixel_larger() -> None:
    # 5 x 7 pixels each, one column of 7 shared
    assert box_iou(BOX, BOX + np.array([4, 0, 4, 0]), inclusive=True)[0, 0] == pytest.approx(7 / (35 + 35 - 7))


def test_pairs_are_the_diagonal() -> None:
    a, b = random_boxes(0, 40), random_boxes(1, 40)
    np.testing.assert_array_equal(paired_iou(a, b), np.diagonal(box_iou(a, b)))


def test_no_boxes_overlap_with_nothing() -> None:
    none = np.zeros((0, 4))
    assert box_iou(none, BOX).shape == (0, 1)
    assert box_iou(BOX, none).shape == (1, 0)
    assert paired_iou(none, none).shape == (0,)


@given(
    st.lists(st.floats(-1e4, 1e4), min_size=8, max_size=8),
    st.floats(0.1, 100),
    st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000)),
)
def test_overlap_is_symmetric_bounded_and_moves_with_the_picture(
    numbers: list[float], scale: float, shift: tuple[int, int]
) -> None:
    a, b = np.array([numbers[:4]]), np.array([numbers[4:]])
    iou = box_iou(a, b)[0, 0]
    assert 0 <= iou <= 1
    assert box_iou(b, a)[0, 0] == iou
    wide = np.sort(np.round(np.concatenate([a, b]) * 16).reshape(2, 2, 2), axis=1).reshape(2, 4)  # upright, exact
    moved = wide + np.array([*shift, *shift])
    np.testing.assert_allclose(paired_iou(moved[:1], moved[1:]), paired_iou(wide[:1], wide[1:]))
    np.testing.assert_allclose(
        paired_iou(wide[:1] * scale, wide[1:] * scale), paired_iou(wide[:1], wide[1:]), atol=1e-9
    )


@pytest.mark.parametrize(
    ("boxes", "kind", "said"),
    [
        (np.zeros(4), ShapeError, r"\(N, 4\).*got \(4,\)"),
        (np.zeros((2, 5)), ShapeError, r"got \(2, 5\)"),
        (np.array([["a"] * 4]), DTypeError, "numbers"),
        (np.zeros((1, 4), bool), DTypeError, "numbers; got bool"),
        ([[0, 0, 1, 1]], DTypeError, r"got list\nhint: numpy.asarray"),
        (np.array([[0, 0, 1, 1], [0, 0, np.nan, 1]]), RangeError, r"row 1 is \[0.0, 0.0, nan, 1.0\]"),
        (np.array([[0, 0, np.inf, 1]]), RangeError, "finite"),
    ],
)
def test_what_is_no_box_is_refused(boxes: Any, kind: type[Exception], said: str) -> None:
    for call in (lambda: box_iou(boxes, BOX), lambda: box_iou(BOX, boxes), lambda: paired_iou(boxes, BOX)):
        with pytest.raises(kind, match=said):
            call()


def test_pairs_need_as_many_boxes_on_either_side() -> None:
    with pytest.raises(ShapeError, match=r"got 2 and 1 boxes\nhint: box_iou"):
        paired_iou(np.zeros((2, 4)), BOX)


# --- tables -----------------------------------------------------------------------------------------------------------


def table(**columns: Any) -> FrameBoxes:
    return FrameBoxes(np.array([0, 0, 1]), np.tile(BOX, (3, 1)), **columns)


def test_a_table_has_zeros_for_what_is_not_given() -> None:
    boxes = table()
    assert len(boxes) == 3
    assert boxes.classes.tolist() == boxes.sequences.tolist() == [0, 0, 0]
    assert not boxes.ignore.any()
    assert boxes.scores is None and boxes.tracks is None


def test_a_table_keeps_numbers_of_its_own() -> None:
    rows = np.tile(BOX, (1, 1))
    boxes = FrameBoxes(np.array([0]), rows)
    rows[:] = -1
    np.testing.assert_array_equal(boxes.boxes, BOX)


def test_rows_can_be_chosen() -> None:
    whole = table(
        classes=np.array([1, 2, 3]),
        scores=np.array([0.1, 0.2, 0.3]),
        tracks=np.array([7, 8, 9]),
        ignore=np.array([True, False, True]),
        sequences=np.array([4, 5, 6]),
    )
    part = whole.where(np.array([True, False, True]))
    assert part.frames.tolist() == [0, 1] and part.classes.tolist() == [1, 3] and part.sequences.tolist() == [4, 6]
    assert part.scores is not None and part.scores.tolist() == [0.1, 0.3]
    assert part.tracks is not None and part.tracks.tolist() == [7, 9] and part.ignore.tolist() == [True, True]
    assert table().where(np.zeros(3, bool)).scores is None
    with pytest.raises(DTypeError, match="`kept` must be True or False; got int64"):
        whole.where(np.array([0, 1, 2]))


@pytest.mark.parametrize(
    ("columns", "kind", "said"),
    [
        ({"classes": np.zeros(2, int)}, ShapeError, r"`classes` must be \(3,\), one for each box; got \(2,\)"),
        ({"classes": np.zeros(3)}, DTypeError, "`classes` must be whole numbers; got float64"),
        ({"scores": np.zeros((3, 1))}, ShapeError, "`scores`"),
        ({"scores": np.array([0, np.nan, 1])}, RangeError, r"`scores` must be finite; got nan in row 1"),
        ({"scores": [0, 1, 2]}, DTypeError, "`scores` must be a NumPy array; got list"),
        ({"tracks": np.zeros(3)}, DTypeError, "`tracks` must be whole numbers"),
        ({"ignore": np.zeros(3, int)}, DTypeError, "`ignore` must be True or False"),
        ({"sequences": np.zeros(4, int)}, ShapeError, "`sequences`"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        table(**columns)


def test_frames_count_from_zero() -> None:
    with pytest.raises(RangeError, match="count from 0; got -1"):
        FrameBoxes(np.array([-1]), BOX)
    with pytest.raises(ShapeError, match="`frames`"):
        FrameBoxes(np.array([0, 1]), BOX)


def test_truth_that_covers_nothing_is_refused() -> None:
    with pytest.raises(RangeError, match=r"(?s)row 0 is \[6.0, 9.0, 2.0, 3.0\].*hint: .*not x y width height"):
        checked_truth(FrameBoxes(np.array([0]), BOX[:, [2, 3, 0, 1]]))


def test_a_track_is_in_a_frame_once() -> None:
    with pytest.raises(ShapeError, match="`truth` needs `tracks`"):
        checked_tracks("truth", table())
    with pytest.raises(RangeError, match="track 5 2 times in frame 0 of sequence 0"):
        checked_tracks("truth", table(tracks=np.array([5, 5, 5])))
    twice = table(tracks=np.array([5, 5, 5]), sequences=np.array([0, 1, 1]))
    assert checked_tracks("truth", twice).tolist() == [5, 5, 5]


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_rows_of_one_frame_come_together(seed: int, by_class: bool) -> None:
    rng = np.random.default_rng(seed)
    tables = [
        FrameBoxes(
            rng.integers(0, 4, many),
            np.tile(BOX, (many, 1)),
            classes=rng.integers(0, 3, many),
            sequences=rng.integers(0, 2, many),
        )
        for many in (25, int(rng.integers(0, 9)))
    ]
    found = {}
    keys = []
    for rows in frame_by_frame(*tables, by_class=by_class):
        (key,) = {
            (int(part.classes[row]) if by_class else 0, int(part.sequences[row]), int(part.frames[row]))
            for part, chosen in zip(tables, rows, strict=True)
            for row in chosen
        }
        keys.append(key)
        for part, chosen in enumerate(rows):
            assert chosen.tolist() == sorted(chosen.tolist())
            found |= {(part, int(row)): key for row in chosen}
    assert len(found) == sum(len(part) for part in tables)
    assert keys == sorted(set(keys))


def test_empty_tables_have_no_frames() -> None:
    none = FrameBoxes(np.zeros(0, int), np.zeros((0, 4)))
    assert list(frame_by_frame(none, none, by_class=True)) == []
