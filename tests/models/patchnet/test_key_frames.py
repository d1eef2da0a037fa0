"""Detections given to a session: who they are found to be, what is new, and who is given up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from effvision import Detections, PatchNet, Session, Tracks
from effvision.errors import DetectorError

NOTHING = np.zeros((0, 4))


def near(boxes: Any, by: float = 3.0) -> list[list[float]]:
    """The same boxes, a little aside."""
    return (np.asarray(boxes, float) + by).tolist()  # type: ignore[no-any-return]


def started(model: PatchNet, clips: Any, **options: Any) -> Session:
    """A session after one frame with two objects, 1 and 2, of no known class."""
    session = model.session(boxes=clips.truth(0), **options)
    session.update(clips.clip(1)[0])
    return session


def test_what_is_found_again_keeps_its_number_and_starts_anew_in_the_detector_s_box(
    model: PatchNet, clips: Any
) -> None:
    session = started(model, clips)
    boxes = near(clips.truth(1))
    found = Detections(
        np.array(boxes[::-1], np.float32), np.array([0.6, 0.9], np.float32), np.array([1, 0]), ("red", "violet")
    )
    result = session.update(clips.clip(2)[1], detections=found)
    assert result.key and result.ids.tolist() == [1, 2] and result.classes.tolist() == [0, 1]
    assert result.labels == ("red", "violet") and not result.lost.any()
    np.testing.assert_allclose(result.boxes, boxes, atol=1e-4)
    np.testing.assert_allclose(result.scores, [0.9, 0.6])
    following = session.update(clips.clip(3)[2])
    assert not following.key and following.ids.tolist() == [1, 2] and following.labels == ("red", "violet")


def test_what_nobody_is_becomes_a_new_object_after_those_there_are(model: PatchNet, clips: Any) -> None:
    session = started(model, clips, ids=[4, 7])
    boxes = [[200, 10, 240, 60], *near(clips.truth(1))[:1], [260, 150, 300, 200]]
    result = session.update(clips.clip(2)[1], detections=[[*box, 0.5, 3] for box in boxes])
    assert result.ids.tolist() == [4, 7, 8, 9] and result.classes.tolist() == [3, -1, 3, 3]
    np.testing.assert_allclose(result.boxes[[0, 2, 3]], [boxes[1], boxes[0], boxes[2]], atol=1e-4)
    assert session.update(clips.clip(3)[2]).ids.tolist() == [4, 7, 8, 9]


def test_a_detector_alone_fills_an_empty_session(model: PatchNet, clips: Any) -> None:
    session = model.session()
    result = session.update(clips.clip(1)[0], detections=clips.truth(0))
    assert result.ids.tolist() == [1, 2] and result.key
    result = session.update(clips.clip(2)[1])
    assert result.ids.tolist() == [1, 2] and min(clips.overlaps(result.boxes, clips.truth(1))) > 0.6


def test_boxes_and_detections_of_one_frame_are_both_taken_up(model: PatchNet, clips: Any) -> None:
    session = started(model, clips)
    elsewhere = [[200, 20, 250, 70]]
    result = session.update(clips.clip(2)[1], boxes=elsewhere, detections=near(clips.truth(1)), remove=2)
    assert result.ids.tolist() == [1, 3, 4]
    np.testing.assert_allclose(result.boxes[1:], [elsewhere[0], near(clips.truth(1))[1]], atol=1e-4)


def test_a_box_and_a_detection_of_one_thing_start_one_object(model: PatchNet, clips: Any) -> None:
    session, boxes = model.session(), clips.truth(0)
    found = Detections(np.float32(near(boxes)), np.float32([0.9, 0.6]), np.array([3, 1]), ("", "red", "", "violet"))
    result = session.update(clips.clip(1)[0], boxes=boxes[1:], ids=[7], detections=found)
    assert result.ids.tolist() == [7, 8] and result.classes.tolist() == [1, 3] and result.labels == ("red", "violet")
    np.testing.assert_allclose(result.boxes, [boxes[1], near(boxes)[0]], atol=1e-4)  # in the box that was asked for
    np.testing.assert_allclose(result.scores, [0.6, 0.9])
    assert session.update(clips.clip(2)[1]).ids.tolist() == [7, 8]


@pytest.mark.parametrize("least", [0.05, 0.9])
def test_a_box_is_a_detection_s_thing_if_they_overlap_as_much_as_was_said(
    model: PatchNet, clips: Any, least: float
) -> None:
    session, box = model.session(least_overlap=least), clips.truth(0)[0]
    result = session.update(clips.clip(1)[0], boxes=box, detections=[box + np.array([20, 0, 20, 0])])
    assert result.ids.tolist() == ([1] if least < 0.5 else [1, 2])


def test_an_object_that_starts_anew_in_a_key_frame_is_not_found_to_be_of_another_class(
    model: PatchNet, clips: Any
) -> None:
    session, box = model.session(), clips.truth(0)[0]
    session.update(clips.clip(1)[0], detections=[[*box, 0.9, 2]])
    again = session.update(clips.clip(2)[1], boxes=box, ids=[1], detections=[[*near([box])[0], 0.8, 5]])
    assert again.ids.tolist() == [1, 2] and again.classes.tolist() == [2, 5]
    again = session.update(clips.clip(2)[1], boxes=box, ids=[1], detections=[[*near([box])[0], 0.8, 2]])
    assert again.ids.tolist() == [2, 1] and again.classes.tolist() == [5, 2]


def test_of_an_object_and_a_new_box_the_nearer_is_the_detection_s(model: PatchNet, clips: Any) -> None:
    session, box = model.session(max_missed=0), clips.truth(0)[0]
    session.update(clips.clip(1)[0], boxes=box)
    result = session.update(clips.clip(1)[0], boxes=box + 9, detections=[box + 10])
    assert result.ids.tolist() == [2] and result.ended == (1,)
    np.testing.assert_allclose(result.boxes[0], box + 9, atol=1e-4)


def test_names_that_a_detector_told_once_stay_known(model: PatchNet, clips: Any) -> None:
    """A supervision answer names only the classes that are in it."""
    session, boxes = model.session(), np.float32(clips.truth(0))
    both = Detections(boxes, np.float32([0.9, 0.8]), np.array([0, 3]), ("red", "", "", "violet"))
    session.update(clips.clip(1)[0], detections=both)
    one = Detections(boxes[:1], np.float32([0.9]), np.array([0]), ("RED",))
    result = session.update(clips.clip(1)[0], detections=one)
    assert result.ids.tolist() == [1, 2] and result.labels == ("RED", "violet")


@pytest.mark.parametrize(("own", "told", "same"), [(2, 2, True), (2, 5, False), (2, -1, True), (-1, 5, True)])
def test_an_object_is_not_found_to_be_of_another_class(
    model: PatchNet, clips: Any, own: int, told: int, same: bool
) -> None:
    session, box = model.session(), clips.truth(0)[0]
    session.update(clips.clip(1)[0], detections=[[*box, 0.9, own]])
    result = session.update(clips.clip(2)[1], detections=[[*near([box])[0], 0.8, told]])
    assert result.ids.tolist() == ([1] if same else [1, 2])
    assert result.classes.tolist() == ([max(own, told)] if same else [own, told])


@pytest.mark.parametrize(("least", "same"), [(0.05, True), (0.9, False), (1.0, False)])
def test_how_much_must_overlap_can_be_said(model: PatchNet, clips: Any, least: float, same: bool) -> None:
    session = started(model, clips, least_overlap=least)
    session.update(clips.clip(1)[0], remove=2)
    shifted = clips.truth(0)[0] + np.array([20, 0, 20, 0])
    result = session.update(clips.clip(1)[0], detections=[shifted])
    assert result.ids.tolist() == ([1] if same else [1, 3])


def test_of_two_objects_each_gets_a_detection_where_it_can(model: PatchNet, clips: Any) -> None:
    """The second object overlaps the first detection far more than the first object does, but is also near the other one."""
    session, shift = model.session(), np.array([1.0, 0, 1, 0])
    box = np.array([100.0, 60, 160, 130])
    session.update(clips.clip(1)[0], boxes=[box, box + 12 * shift])
    result = session.update(clips.clip(1)[0], detections=[box + 13 * shift, box + 38 * shift])
    assert result.ids.tolist() == [1, 2]
    np.testing.assert_allclose(result.boxes[:, 0], [113, 138], atol=1e-4)


# -- given up ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0, 1, 3])
def test_an_object_that_is_followed_may_be_missed_so_often_in_a_row(model: PatchNet, clips: Any, most: int) -> None:
    session, frame = started(model, clips, max_missed=most), clips.clip(1)[0]
    for missed in range(most):
        result = session.update(frame, detections=NOTHING)
        assert result.ids.tolist() == [1, 2] and result.key and result.ended == (), missed
        assert session.update(frame).ids.tolist() == [1, 2]  # a frame without a detector says nothing of it
    last = session.update(frame, detections=clips.truth(0)[:1])
    assert last.ids.tolist() == [1] and last.ended == (2,)
    assert session.update(frame).ids.tolist() == [1]
    assert session.update(frame).ended == ()  # told once
    for _ in range(most):  # 1 was seen in between, so it is counted from there
        assert session.update(frame, detections=NOTHING).ids.tolist() == [1]
    assert session.update(frame, detections=NOTHING).ended == (1,)


def lost(session: Session, clips: Any) -> tuple[float, Tracks]:
    """Show plain frames until the only object is lost; the clock then, and the answer."""
    for step in range(1, 30):
        result = session.update(clips.plain(), timestamp=step / 10)
        if len(result) == 0 or result.lost.all():
            return step / 10, result  # type: ignore[return-value]
    raise AssertionError("an object is not lost where there is nothing")


def test_an_object_that_is_lost_and_missed_is_given_up_at_once(model: PatchNet, clips: Any) -> None:
    session = model.session(boxes=clips.truth(0)[:1], max_missed=5)
    session.update(clips.clip(1)[0], timestamp=0.0)
    _, result = lost(session, clips)
    assert result.ids.tolist() == [1] and "LOST" in result.event
    result = session.update(clips.plain(), detections=[[10, 10, 50, 50]])
    assert result.ended == (1,) and result.ids.tolist() == [2]


def test_a_lost_object_is_found_again_by_a_detection_over_its_box(model: PatchNet, clips: Any) -> None:
    session = model.session(boxes=clips.truth(0)[:1], least_overlap=1e-3)
    session.update(clips.clip(1)[0], timestamp=0.0)
    lost(session, clips)
    result = session.update(clips.clip(1)[0], detections=[[1, 1, 319, 279]])  # over it wherever it is believed to be
    assert result.ids.tolist() == [1] and not result.lost.any() and result.scores.tolist() == [1]


def test_a_lost_object_is_kept_for_good_unless_it_is_said_for_how_long(model: PatchNet, clips: Any) -> None:
    session = model.session(boxes=clips.truth(0)[:1])
    session.update(clips.clip(1)[0], timestamp=0.0)
    since, _ = lost(session, clips)
    assert session.update(clips.plain(), timestamp=since + 1e4).ids.tolist() == [1]


def test_a_lost_object_is_given_up_after_so_many_seconds(model: PatchNet, clips: Any) -> None:
    session = model.session(boxes=clips.truth(0)[:1], max_lost_s=1.0)
    session.update(clips.clip(1)[0], timestamp=0.0)
    since, _ = lost(session, clips)
    assert session.update(clips.plain(), timestamp=since + 0.99).ids.tolist() == [1]
    last = session.update(clips.plain(), timestamp=since + 1.01)
    assert last.ended == (1,) and len(last) == 0
    assert session.update(clips.plain(), timestamp=since + 1.1).ended == ()
    assert session.update(clips.plain(), boxes=[[9, 9, 60, 60]]).ids.tolist() == [2]


def test_without_a_clock_seconds_are_counted_in_frames(model: PatchNet, clips: Any) -> None:
    session = model.session(boxes=clips.truth(0)[:1], max_lost_s=0.5, fps=10.0)
    result = session.update(clips.clip(1)[0])
    shown, missing = 0, 0
    while len(result):
        result = session.update(clips.plain())
        shown, missing = shown + 1, missing + bool(len(result) and result.lost.all())
        assert shown < 40
    assert missing == 5 and result.ended == (1,)


# -- what detections may be ----------------------------------------------------------------------------------------------


def test_no_detector_is_not_a_detector_that_finds_nothing(model: PatchNet, clips: Any) -> None:
    session = started(model, clips, max_missed=0)
    result = session.update(clips.clip(2)[1], detections=None)
    assert not result.key and result.ids.tolist() == [1, 2]
    for nothing in ([], NOTHING, Detections.empty(), {"boxes": []}):
        other = started(model, clips, max_missed=0).update(clips.clip(2)[1], detections=nothing)
        assert other.key and other.ids.tolist() == [] and other.ended == (1, 2)


def test_detections_are_cut_at_the_border_and_what_is_nothing_is_left_out(model: PatchNet, clips: Any) -> None:
    boxes = [[-20.0, -10, 40, 50], [300, 240, 400, 300], [500, 500, 600, 600], [np.nan, 0, 10, 10]]
    result = model.session().update(clips.clip(1)[0], detections=boxes)
    assert result.boxes.tolist() == [[0, 0, 40, 50], [300, 240, 320, 280]] and result.ids.tolist() == [1, 2]


def test_an_answer_that_is_none_leaves_the_session_as_it_was(model: PatchNet, clips: Any) -> None:
    session, untouched = started(model, clips), started(model, clips)
    frame = clips.clip(2)[1]
    for bad in (5, "boxes", [[1, 2, 3]], {"scores": [1]}, [[0.1, 0.1, 0.5, 0.5]], [[10, 10, 50, 50, 7.0]], object()):
        with pytest.raises(DetectorError, match="hint:"):
            session.update(frame, detections=bad, boxes=[[1, 1, 30, 30]], remove=1, timestamp=50.0)
    assert clips.said(session.update(frame)) == clips.said(untouched.update(frame))
