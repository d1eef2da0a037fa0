"""Sessions of objects: who is in them, what they share and what they do not, and where they go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effvision import PatchNet, Session, State, Tracks
from effvision.errors import InputError, ShapeError
from effvision.sources import VideoWriter


def followed(model: PatchNet, clips: Any, count: int, **options: Any) -> tuple[Session, list[Tracks]]:
    """A session that has seen the first frames of the sample, and its answers."""
    session = model.session(**{"boxes": clips.truth(0), **options})
    return session, [session.update(frame, timestamp=at / 25) for at, frame in enumerate(clips.clip(count))]


@pytest.fixture
def calls(model: PatchNet, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Objects in each call of the network."""
    counted: list[int] = []
    step = model.runtime.step

    def count(arrays: Any, state: State, **options: Any) -> Any:
        counted.append(len(arrays["refresh"]))
        return step(arrays, state, **options)

    monkeypatch.setattr(model.runtime, "step", count)
    return counted


# -- following -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_balloons_are_followed_from_their_first_boxes(model: PatchNet, clips: Any, seed: int) -> None:
    session = model.session(boxes=clips.truth(0, seed=seed))
    for at, frame in enumerate(clips.clip(8, seed=seed)):
        result = session.update(frame)
        assert result.ids.tolist() == [1, 2] and result.index == at and not result.key and result.ended == ()
        assert min(clips.overlaps(result.boxes, clips.truth(at, seed=seed))) > 0.6
        assert not result.lost.any() and ((result.scores > 0) & (result.scores <= 1)).all()


def test_the_first_answer_is_the_boxes_that_were_given(model: PatchNet, clips: Any) -> None:
    boxes = clips.truth(0)
    result = model.session().update(clips.clip(1)[0], boxes=boxes)
    np.testing.assert_allclose(result.boxes, boxes, atol=1e-4)
    assert result.scores.tolist() == [1, 1] and result.classes.tolist() == [-1, -1] and len(result) == 2
    assert result.boxes.dtype == result.scores.dtype == np.float32 and result.ids.dtype == np.int64


@pytest.mark.parametrize("form", [list, tuple, np.array, lambda box: np.array(box, np.float32)])
def test_one_box_alone_needs_no_second_pair_of_brackets(model: PatchNet, clips: Any, form: Any) -> None:
    wanted = clips.truth(0)[0]
    result = model.session().update(clips.clip(1)[0], boxes=form(wanted.tolist()))
    np.testing.assert_allclose(result.boxes, wanted[None], atol=1e-4)


def test_without_objects_there_is_nothing_to_say_and_nothing_to_run(
    model: PatchNet, clips: Any, calls: list[int]
) -> None:
    session = model.session()
    for frame in clips.clip(2):
        result = session.update(frame)
        assert len(result) == 0 and result.boxes.shape == (0, 4) and result.event == "no object"
    assert calls == []


def test_all_objects_go_through_the_network_in_one_call(model: PatchNet, clips: Any, calls: list[int]) -> None:
    session = model.session(boxes=[*clips.truth(0), *clips.truth(0)])
    first, second, _ = clips.clip(3)
    session.update(first)
    assert calls == [4]  # new objects are looked at in their own frame
    session.update(second)
    assert calls == [4, 4]


def test_hundreds_of_objects_are_followed_in_a_few_calls(model: PatchNet, clips: Any, calls: list[int]) -> None:
    first, second = clips.clip(2)
    boxes = clips.scattered(130)
    session = model.session(boxes=boxes, ids=range(1000, 1130))
    session.update(first)
    result = session.update(second)
    assert result.ids.tolist() == list(range(1000, 1130)) and sum(calls) >= 130 and len(calls) <= 6
    alone = model.session(boxes=boxes[[0, 77, 129]])
    alone.update(first)
    np.testing.assert_allclose(alone.update(second).boxes, result.boxes[[0, 77, 129]], atol=1e-4)


def test_a_box_may_reach_over_the_border(model: PatchNet, clips: Any) -> None:
    boxes = [[-20, 40, 60, 120], [280, 240, 340, 300], [-10, -10, 330, 290]]
    session = model.session(boxes=boxes)
    for frame in clips.clip(3):
        result = session.update(frame)
        assert np.isfinite(result.boxes).all() and len(result) == 3
    again = session.update(clips.clip(1)[0], boxes=boxes[0])
    np.testing.assert_allclose(again.boxes[3], boxes[0])


# -- who is there --------------------------------------------------------------------------------------------------------


def test_objects_come_go_and_start_anew_at_any_time(model: PatchNet, clips: Any) -> None:
    one, other = clips.truth(0)
    frames = clips.clip(6)
    session = model.session()
    assert session.update(frames[0], boxes=[one]).ids.tolist() == [1]
    assert session.update(frames[1], boxes=[other]).ids.tolist() == [1, 2]
    assert session.update(frames[2], boxes=[[10, 10, 50, 50]], ids=[9]).ids.tolist() == [1, 2, 9]
    assert session.update(frames[3], remove=[2, 9], boxes=clips.truth(3)[1]).ids.tolist() == [1, 10]
    again = session.update(frames[4], boxes=[[20, 20, 60, 70]], ids=[1])
    assert again.ids.tolist() == [10, 1]  # in the order of their starts
    np.testing.assert_allclose(again.boxes[1], [20, 20, 60, 70])
    assert again.scores[1] == 1 and not again.lost[1]
    last = session.update(frames[5], remove=10)
    assert last.ids.tolist() == [1]
    assert session.update(frames[5], remove=np.array([1])).ids.tolist() == []
    assert session.update(frames[5], boxes=one).ids.tolist() == [11]  # a number is not given twice


def test_an_object_that_is_removed_and_started_in_one_update_is_there_once(model: PatchNet, clips: Any) -> None:
    session, _ = followed(model, clips, 2)
    result = session.update(clips.clip(3)[2], remove=[2], boxes=[[5, 5, 40, 40]], ids=[2])
    assert result.ids.tolist() == [1, 2]
    np.testing.assert_allclose(result.boxes[1], [5, 5, 40, 40])


def test_numbers_that_are_given_push_the_next_ones_up(model: PatchNet, clips: Any) -> None:
    frame, box = clips.clip(1)[0], [10, 10, 60, 60]
    session = model.session(boxes=[box, box], ids=[7, 0])
    assert session.update(frame).ids.tolist() == [7, 0]
    assert session.update(frame, boxes=[box]).ids.tolist() == [7, 0, 8]
    assert session.update(frame, boxes=[box], ids=np.array([3])).ids.tolist() == [7, 0, 8, 3]
    assert session.update(frame, boxes=[box, box]).ids.tolist() == [7, 0, 8, 3, 9, 10]
    assert session.update(frame, boxes=torch.tensor([box]), ids=torch.tensor([12])).ids.tolist()[-1] == 12
    assert session.update(frame, remove=torch.tensor([0, 12])).ids.tolist() == [7, 8, 3, 9, 10]


def test_boxes_of_the_first_frame_take_the_place_of_those_of_the_session(model: PatchNet, clips: Any) -> None:
    session = model.session(boxes=clips.truth(0), ids=[4, 5])
    result = session.update(clips.clip(1)[0], boxes=[[1, 2, 30, 40]])
    assert result.ids.tolist() == [1]
    assert session.update(clips.clip(2)[1]).ids.tolist() == [1]


def test_what_is_told_of_an_object_does_not_depend_on_the_others(model: PatchNet, clips: Any) -> None:
    crowd = [clips.truth(0)[0], *clips.scattered(6), clips.truth(0)[1]]
    together, alone = model.session(boxes=crowd), model.session(boxes=crowd[-1:], ids=[8])
    for at, frame in enumerate(clips.clip(6)):
        given: dict[str, Any] = (
            {"remove": [3, 4]} if at == 3 else {"boxes": clips.scattered(2, seed=1)} if at == 4 else {}
        )
        result, wanted = together.update(frame, **given), alone.update(frame)
        row = result.ids.tolist().index(8)
        np.testing.assert_allclose(result.boxes[row], wanted.boxes[0], atol=1e-4)
        assert result.scores[row] == pytest.approx(wanted.scores[0], abs=1e-4)
        assert result.lost[row] == wanted.lost[0]


# -- several sessions ----------------------------------------------------------------------------------------------------


def test_many_sessions_in_one_call_get_what_each_gets_alone(model: PatchNet, clips: Any, calls: list[int]) -> None:
    starts = [clips.truth(0, seed=0), np.zeros((0, 4)), clips.scattered(3), clips.truth(0, seed=1)[:1]]
    sessions, alone = ([model.session(boxes=boxes) for boxes in starts] for _ in range(2))
    streams = [clips.clip(5, seed=seed) for seed in (0, 0, 1, 1)]
    for at in range(5):
        frames = [stream[at] for stream in streams]
        given: list[dict[str, Any]] = [{} for _ in frames]
        if at == 2:
            given[0], given[1] = {"remove": [1]}, {"boxes": [[20, 30, 80, 90]], "timestamp": 7.0}
        if at == 3:
            given[3] = {"detections": [[200.0, 100, 250, 150]]}
        calls.clear()
        found = model.update_many(sessions, frames, given)
        assert len(calls) <= (1 if at in (1, 4) else 2)  # they fit into one, and what starts into another
        for result, session, frame, options in zip(found, alone, frames, given, strict=True):
            assert clips.apart(result, session.update(frame, **options)) < 1e-4


def test_streams_together_give_what_each_gives(model: PatchNet, clips: Any) -> None:
    sources = [np.stack(clips.clip(4)), np.stack(clips.clip(3, seed=1))]
    boxes = clips.truth(0)
    found: list[list[Any]] = [[], []]
    for place, result in model.stream_many(sources, boxes=boxes):
        found[place].append(result)
    for results, source in zip(found, sources, strict=True):
        wanted = list(model.stream(source, boxes=boxes))
        assert len(results) == len(wanted) == len(source)
        assert max(clips.apart(*pair) for pair in zip(results, wanted, strict=True)) < 1e-4
        assert all(np.array_equal(result.image, frame) for result, frame in zip(results, source, strict=True))


@pytest.fixture(scope="module")
def fixed(model: PatchNet, tmp_path_factory: pytest.TempPathFactory) -> PatchNet:
    """The same model as a file for exactly three objects a call."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    return PatchNet.from_pretrained(
        model.export(tmp_path_factory.mktemp("file") / "three.onnx", batch=3).path, threads=1
    )


def test_a_file_for_a_fixed_number_of_objects_follows_any_number(model: PatchNet, clips: Any, fixed: PatchNet) -> None:
    for count in range(1, 10):
        boxes = clips.scattered(count, seed=count)
        one, other = model.session(boxes=boxes), fixed.session(boxes=boxes)
        for frame in clips.clip(3 if count == 5 else 2):
            assert clips.apart(one.update(frame), other.update(frame)) < 2e-3


# -- going on ------------------------------------------------------------------------------------------------------------


def test_a_saved_session_goes_on_as_if_it_had_not_been_interrupted(model: PatchNet, clips: Any, tmp_path: Path) -> None:
    frames = clips.clip(7)
    session, _ = followed(model, clips, 2)
    updates: list[dict[str, Any]] = [
        {"boxes": [[20, 20, 70, 80]]},  # a template that the network has not seen yet is saved
        {"detections": [[*clips.truth(3)[0], 0.7, 2]]},
        {"remove": [3]},
        {},
        {"timestamp": 9.0, "source": "camera"},
    ]
    for frame, given in zip(frames[2:], updates, strict=True):
        session = model.session(path=session.save(tmp_path / "s.npz"))
        kept = model.session(path=session.save(tmp_path / "other.npz"))
        one, other = kept.update(frame, **given), session.update(frame, **given)
        assert clips.said(one) == clips.said(other)
    unbroken, _ = followed(model, clips, 2)
    for frame, given in zip(frames[2:], updates, strict=True):
        last = unbroken.update(frame, **given)
    assert clips.said(last) == clips.said(other)


def test_a_reset_forgets_the_objects_and_begins_again_with_those_of_the_session(model: PatchNet, clips: Any) -> None:
    session, results = followed(model, clips, 3, ids=[5, 8])
    session.update(clips.clip(4)[3], boxes=[[1, 1, 40, 40]], timestamp=0.5)
    session.reset()
    again = session.update(clips.clip(1)[0], timestamp=0.0)
    assert again.reset_reason == "reset" and again.index == 0
    assert clips.said(again) == {**clips.said(results[0]), "reset_reason": "reset"}
    empty = model.session()
    empty.update(clips.clip(1)[0], boxes=[[1, 1, 40, 40]])
    empty.reset("cut")
    result = empty.update(clips.clip(1)[0])
    assert len(result) == 0 and result.reset_reason == "cut"
    assert empty.update(clips.clip(1)[0], boxes=[[1, 1, 40, 40]]).ids.tolist() == [1]


def test_another_source_or_a_step_back_in_time_begins_again(model: PatchNet, clips: Any) -> None:
    frames, box = clips.clip(6), [[10, 10, 60, 60]]
    session = model.session()
    session.update(frames[0], boxes=box, timestamp=1.0, source="a")
    assert len(session.update(frames[1], timestamp=1.0, source="a")) == 1  # a clock may stand still
    assert len(session.update(frames[2])) == 1  # nothing told, nothing changed
    other = session.update(frames[3], timestamp=2.0, source="b", boxes=[*box, *box])
    assert other.reset_reason == "source" and other.ids.tolist() == [1, 2]
    back = session.update(frames[4], timestamp=1.9, source="b")
    assert back.reset_reason == "seek" and len(back) == 0
    assert session.update(frames[5], timestamp=1.95, source="b").reset_reason is None


def test_frames_of_another_size_are_refused_until_a_reset(model: PatchNet, clips: Any) -> None:
    session, _ = followed(model, clips, 2)
    untouched, _ = followed(model, clips, 2)
    frame = clips.clip(3)[2]
    with pytest.raises(ShapeError, match=r"(?s)so far 320x280 pixels, now 300x280\nhint: .*reset"):
        session.update(frame[:, :300], timestamp=9.0)
    assert clips.said(session.update(frame, timestamp=0.1)) == clips.said(untouched.update(frame, timestamp=0.1))
    session.reset()
    assert len(session.update(frame[:, :300])) == 2


def test_an_update_that_is_interrupted_at_its_end_leaves_the_session_as_it_was(
    model: PatchNet, clips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = followed(model, clips, 2)
    untouched, _ = followed(model, clips, 2)
    frame, finish = clips.clip(3)[2], model.finish

    def interrupted(*given: Any) -> Any:
        finish(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.update(frame, boxes=[[1, 1, 40, 40]], remove=1)
    assert clips.said(session.update(frame)) == clips.said(untouched.update(frame))


# -- whole files ---------------------------------------------------------------------------------------------------------


def test_a_whole_clip_is_answered_with_its_last_frame(model: PatchNet, clips: Any, tmp_path: Path) -> None:
    frames, boxes = clips.clip(5), clips.truth(0)
    with VideoWriter(tmp_path / "clip.mp4", fps=25.0, size=clips.SIZE) as video:
        for frame in frames:
            video.write(frame)
    last = list(model.stream(tmp_path / "clip.mp4", boxes=boxes))[-1]
    found = model.predict(tmp_path / "clip.mp4", boxes=boxes)
    assert clips.said(found) == clips.said(last) and found.index == 4 and found.timestamp == pytest.approx(0.16)
    assert min(clips.overlaps(found.boxes, clips.truth(4))) > 0.6
    assert found.plot().shape == frames[0].shape
    of_array = model.predict(np.stack(frames), boxes=boxes)
    assert of_array.index == 4 and min(clips.overlaps(of_array.boxes, clips.truth(4))) > 0.6
    assert model.predict(iter(frames), boxes=boxes, ids=[3, 4]).ids.tolist() == [3, 4]


def test_one_picture_is_a_clip_of_one_frame(model: PatchNet, clips: Any) -> None:
    found = model.predict(clips.clip(1)[0], boxes=clips.truth(0))
    np.testing.assert_allclose(found.boxes, clips.truth(0), atol=1e-4)
    assert len(model.predict(clips.clip(1)[0])) == 0
    with pytest.raises(InputError, match="no frame"):
        model.predict(iter([]))
