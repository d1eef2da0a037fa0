"""Overlap and suppression against slow loops written from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision.errors import RangeError, ShapeError
from effvision.host import boxes as module
from effvision.host.boxes import box_iou, nms, xywh_to_xyxy

Box = list[float]


def slow_iou(one: Box, other: Box) -> float:
    def area(box: Box) -> float:
        return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)

    wide = max(min(one[2], other[2]) - max(one[0], other[0]), 0.0)
    high = max(min(one[3], other[3]) - max(one[1], other[1]), 0.0)
    union = area(one) + area(other) - wide * high
    return wide * high / union if union > 0 else 0.0


def slow_nms(boxes: list[Box], scores: list[float], classes: list[int] | None, iou: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):  # sorted is stable
        for other in kept:
            if (classes is None or classes[index] == classes[other]) and slow_iou(boxes[other], boxes[index]) > iou:
                break
        else:
            kept.append(index)
    return kept


side = st.integers(-2, 12).map(lambda value: value / 2)  # halves, so that ties and touching boxes are common
box = st.tuples(side, side, side, side).map(list)


@given(st.lists(box, max_size=8), st.lists(box, max_size=8))
def test_overlap_is_that_of_the_definition(first: list[Box], second: list[Box]) -> None:
    found = box_iou(first, second)
    assert found.shape == (len(first), len(second))
    assert found.tolist() == [[slow_iou(one, other) for other in second] for one in first]


def test_overlap_of_known_boxes() -> None:
    square = [[0, 0, 2, 2]]
    others = [[1, 0, 3, 2], [0, 0, 2, 2], [2, 0, 4, 2], [0, 0, 2, 0], [2, 2, 0, 0], [0.5, 0.5, 1.5, 1.5]]
    assert box_iou(square, others).tolist() == [[1 / 3, 1.0, 0.0, 0.0, 0.0, 0.25]]
    assert box_iou([[3, 3, 3, 3]], [[3, 3, 3, 3]]).tolist() == [[0.0]]  # no area, no overlap, no division by zero


@given(
    st.lists(st.tuples(box, st.sampled_from([0.1, 0.5, 0.5, 0.9]), st.integers(0, 2)), max_size=30),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from([1, 3, 128]),
    st.one_of(st.none(), st.integers(0, 6)),
)
def test_suppression_is_that_of_the_slow_loop(
    found: list[tuple[Box, float, int]], iou: float, block: int, limit: int | None
) -> None:
    boxes, scores, classes = ([row[column] for row in found] for column in range(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)  # small blocks, so that few boxes cross their borders
        apart = nms(boxes, scores, classes, iou, limit=limit)
        together = nms(boxes, scores, None, iou, limit=limit)
    assert apart.dtype == np.int64
    assert apart.tolist() == slow_nms(boxes, scores, classes, iou)[:limit]  # type: ignore[arg-type]
    assert together.tolist() == slow_nms(boxes, scores, None, iou)[:limit]  # type: ignore[arg-type]


def crowd(count: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Boxes around 20 places, as a network without suppression gives them."""
    rng = np.random.default_rng(0)
    place = rng.integers(0, 20, count)
    middle = rng.uniform(0, 640, (20, 2))[place] + rng.normal(0, 3, (count, 2))
    size = rng.uniform(20, 200, (20, 2))[place]
    boxes = np.concatenate([middle - size / 2, middle + size / 2], axis=1)
    return boxes.astype(np.float32), rng.uniform(0, 1, count).astype(np.float32), place % 3


def test_many_boxes_are_suppressed_as_by_the_slow_loop() -> None:
    boxes, scores, classes = crowd(700)
    found = nms(boxes, scores, classes, 0.45)
    assert found.tolist() == slow_nms(boxes.tolist(), scores.tolist(), classes.tolist(), 0.45)
    assert 20 <= len(found) < 200


def test_equal_scores_keep_the_earlier_box() -> None:
    assert nms([[0, 0, 4, 4]] * 3, [0.5, 0.5, 0.5], None).tolist() == [0]


def test_without_boxes_nothing_is_kept() -> None:
    assert nms(np.empty((0, 4)), [], []).tolist() == []
    assert box_iou([], [[0, 0, 1, 1]]).shape == (0, 1)


def test_width_and_height_become_corners() -> None:
    given = np.array([[10, 20, 4, 6]], np.float32)
    assert xywh_to_xyxy(given).tolist() == [[10, 20, 14, 26]]
    assert xywh_to_xyxy(given, center=True).tolist() == [[8, 17, 12, 23]]
    assert given.tolist() == [[10, 20, 4, 6]]  # the caller's stays
    assert xywh_to_xyxy(given).dtype == np.float32
    assert xywh_to_xyxy([10, 20, 3, 5], center=True).tolist() == [8.5, 17.5, 11.5, 22.5]  # whole numbers are not cut


@pytest.mark.parametrize("shape", [(4,), (2, 5), (0, 5), (1, 2, 4)])
def test_overlap_needs_rows_of_four(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"`second` must be \(any number, 4\)"):
        box_iou([[0, 0, 1, 1]], np.zeros(shape))


@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_corners_need_four_columns(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="x y width height"):
        xywh_to_xyxy(np.zeros(shape))


def test_suppression_refuses_what_does_not_fit() -> None:
    boxes = [[0, 0, 1, 1], [0, 0, 2, 2]]
    with pytest.raises(ShapeError, match=r"got \(1,\) for 2 boxes"):
        nms(boxes, [0.5], None)
    with pytest.raises(ShapeError, match=r"got \(2,\) and \(3,\) for 2 boxes"):
        nms(boxes, [0.5, 0.4], [0, 0, 0])
    for iou in (-0.1, 1.1, float("nan")):
        with pytest.raises(RangeError, match="`iou` must lie within"):
            nms(boxes, [0.5, 0.4], None, iou)
    with pytest.raises(RangeError, match="`limit` must be 0"):
        nms(boxes, [0.5, 0.4], None, limit=-1)
