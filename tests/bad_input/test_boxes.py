"""Boxes, numbers, detections and options of a tracker that are none; a refused one leaves the session as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effvision import PatchNet, Session, accelerate
from effvision.errors import DetectorError, DTypeError, InputError, RangeError, ShapeError, StateError
from refusals import FUZZ, GARBAGE, NUMBERS, answers_or_refuses, damaged, refused, some_frame

SIZE = {"height": 60, "width": 80}
BOXES = [[10.0, 10, 40, 40], [30, 20, 70, 50]]


@pytest.fixture(scope="session")
def tracker() -> PatchNet:
    return PatchNet.from_pretrained("patchnet", runtime="torch")


def named(part: Any) -> str:
    """Of the parts of a case, the words its message must have name it."""
    words = isinstance(part, list) and all(isinstance(word, str) for word in part)
    return "-".join(part) if words else ""


def opened(tracker: PatchNet) -> Session:
    """A session after one frame with the objects 1 and 2."""
    session = tracker.session(boxes=BOXES)
    session.update(some_frame(0, **SIZE), timestamp=1.0, source="cam")
    return session


def plain(result: Any) -> dict[str, Any]:
    return {**result.to_dict(), "timing": None}


BAD_BOXES: list[tuple[Any, type, list[str]]] = [
    ("10 10 40 40", DTypeError, ["(M, 4)"]),
    ([["a", "b", "c", "d"]], DTypeError, ["(M, 4)"]),
    ([[1, 2, 3, None]], DTypeError, ["(M, 4)"]),
    ([[1, 2, 3, 4], [1, 2, 3]], DTypeError, ["(M, 4)"]),
    (np.ones((1, 4), bool), DTypeError, ["(M, 4)"]),
    (np.ones((1, 4), complex), DTypeError, ["(M, 4)"]),
    ({"boxes": BOXES}, DTypeError, ["(M, 4)"]),
    ([[10**400] * 4], DTypeError, ["(M, 4)"]),
    (iter(BOXES), DTypeError, ["(M, 4)"]),
    (torch.ones(1, 4, dtype=torch.bool), DTypeError, ["(M, 4)"]),
    (5, ShapeError, ["(M, 4)", "()"]),
    ([1, 2, 3], ShapeError, ["(1, 3)"]),
    (np.zeros((2, 5)), ShapeError, ["(2, 5)"]),
    (np.zeros((1, 1, 4)), ShapeError, ["(1, 1, 4)"]),
    (np.zeros((0, 5)), ShapeError, ["(0, 5)"]),
    (np.tile([1.0, 2, 30, 40], (4097, 1)), RangeError, ["4097", "4096"]),
    ([[10, 10, np.nan, 40]], RangeError, ["must be finite", "nan"]),
    ([BOXES[0], [10, 10, np.inf, 40]], RangeError, ["must be finite", "inf"]),
    (np.array([[1, 2, np.longdouble("1e4000"), 40]]), RangeError, ["must be finite"]),
    ([[40, 10, 10, 40]], RangeError, ["40 10 10 40", "x1 < x2", "xywh_to_xyxy", "--box-xywh"]),
    ([[10, 40, 40, 10]], RangeError, ["x1 < x2"]),
    ([[10, 10, 10, 40]], RangeError, ["x1 < x2"]),
    ([[30, 20, 12, 8]], RangeError, ["30 20 12 8", "xywh_to_xyxy"]),  # x y width height
]
OUTSIDE: list[tuple[Any, type, list[str]]] = [
    ([[100, 10, 140, 40]], RangeError, ["100 10 140 40", "outside the frame of 80x60", "hint:"]),
    ([BOXES[0], [10, -50, 40, -1]], RangeError, ["outside"]),
    ([[76, 10, 156, 40]], RangeError, ["or nearly so"]),  # a twentieth of it is left
    ([[0.1, 0.2, 0.6, 0.8]], RangeError, ["0.1 0.2 0.6 0.8", "shares"]),
]
BAD_IDS: list[tuple[Any, list[str]]] = [
    ([1], ["2 different numbers"]),
    ([3, 3], ["2 different numbers"]),
    ([1, 2, 3], ["2 different numbers"]),
    (5, ["2 different numbers"]),
    ([1, -2], ["0 or more", "-2"]),
    ([1, 2.0], ["whole numbers"]),
    ([True, 2], ["whole numbers"]),
    (["1", "2"], ["whole numbers"]),
    ("12", ["whole numbers"]),
    ([None, 2], ["whole numbers"]),
    (np.array([1.0, 2.0]), ["whole numbers"]),
    (1.5, ["whole numbers"]),
    ([10**400, 1], ["whole numbers"]),
    ([2**63, 1], ["whole numbers"]),
    (np.array([1, 2], "timedelta64[s]"), ["whole numbers"]),
    (torch.tensor([1.0, 2.0]), ["whole numbers"]),
]
BAD_REMOVALS: list[tuple[Any, list[str]]] = [
    ([3], ["`remove`", "3", "not followed", "there are: 1, 2"]),
    (7, ["`remove`", "not followed"]),
    ([1, 1], ["`remove`", "different"]),
    ([1.0], ["`remove`", "whole numbers"]),
    (1.5, ["`remove`", "whole numbers"]),
    ("1", ["`remove`", "whole numbers"]),
    (True, ["`remove`", "whole numbers"]),
    ([-1], ["`remove`", "0 or more"]),
    (object(), ["`remove`", "whole numbers"]),
]
BAD_UPDATES: list[tuple[dict[str, Any], type, list[str]]] = [
    *(({"boxes": bad}, kind, words) for bad, kind, words in [*BAD_BOXES, *OUTSIDE]),
    *(({"boxes": BOXES, "ids": bad}, InputError, ["`ids`", *words]) for bad, words in BAD_IDS),
    ({"ids": [1]}, InputError, ["`ids` are the numbers of `boxes`"]),
    *(({"remove": bad}, InputError, words) for bad, words in BAD_REMOVALS),
    *(
        ({"detections": bad}, DetectorError, ["hint:"])
        for bad in ("boxes", 5, [[1, 2, 3]], {"scores": []}, [[0.1, 0.1, 0.9, 0.9]], [[1, 2, 30, 40, 50.0]], object())
    ),
    ({"detections": np.tile([1.0, 2, 30, 40], (4097, 1))}, DetectorError, ["4097", "4096", "hint:"]),
    *(
        ({"timestamp": bad}, InputError, ["`timestamp`"])
        for bad in (np.nan, np.inf, -np.inf, "0.2", True, [0.2], 1j, 10**400, np.timedelta64(1, "s"), object())
    ),
    *(({"source": bad}, DTypeError, ["`source`"]) for bad in (5, b"cam", ["cam"])),
    ({"typo": 1}, InputError, ["typo", "boxes, detections, ids, remove, source, timestamp"]),
]


@pytest.mark.parametrize(("bad", "kind", "words"), BAD_UPDATES, ids=named)
def test_a_refused_update_leaves_the_session_as_it_was(
    tracker: PatchNet, bad: dict[str, Any], kind: type, words: list[str]
) -> None:
    session, untouched = opened(tracker), opened(tracker)
    more: dict[str, Any] = {"boxes": [[1, 1, 20, 20]], "remove": [2], "timestamp": 50.0}
    more = {} if "typo" in bad else {name: value for name, value in more.items() if "ids" not in bad or name != "boxes"}
    refused(lambda: session.update(some_frame(1, **SIZE), **{**more, **bad}), *words, kind=kind)
    frame = some_frame(2, **SIZE)
    assert plain(session.update(frame)) == plain(untouched.update(frame))


@pytest.mark.parametrize("frame", [None, np.zeros((60, 80), np.uint8), np.zeros((60, 81, 3), np.uint8)])
def test_a_frame_that_is_none_leaves_the_session_as_it_was(tracker: PatchNet, frame: Any) -> None:
    session, untouched = opened(tracker), opened(tracker)
    refused(lambda: session.update(frame, boxes=[[1, 1, 20, 20]], remove=1, timestamp=9.0), kind=InputError)
    good = some_frame(2, **SIZE)
    assert plain(session.update(good)) == plain(untouched.update(good))


def test_one_refused_update_of_many_leaves_every_session_as_it_was(tracker: PatchNet) -> None:
    sessions, untouched = [opened(tracker), opened(tracker)], opened(tracker)
    frames = [some_frame(1, **SIZE)] * 2
    refused(lambda: tracker.update_many(sessions, frames, [{"boxes": BOXES[:1]}, {"boxes": "none"}]), kind=DTypeError)
    wanted = plain(untouched.update(some_frame(2, **SIZE)))
    for result in tracker.update_many(sessions, [some_frame(2, **SIZE)] * 2):
        assert plain(result) == wanted


def test_an_object_that_was_given_up_cannot_be_removed(tracker: PatchNet) -> None:
    session = tracker.session(boxes=BOXES, max_missed=0)
    session.update(some_frame(0, **SIZE))
    assert session.update(some_frame(0, **SIZE), detections=BOXES[:1]).ended == (2,)
    refused(lambda: session.update(some_frame(0, **SIZE), remove=2), "not followed", "there are: 1", kind=InputError)


# -- options of a session ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "kind", "words"), BAD_BOXES, ids=named)
def test_boxes_of_a_session_are_refused_when_it_is_opened(
    tracker: PatchNet, bad: Any, kind: type, words: list[str]
) -> None:
    refused(lambda: tracker.session(boxes=bad), *words, kind=kind)
    refused(lambda: tracker.stream([some_frame()], boxes=bad), *words, kind=kind)


@pytest.mark.parametrize(("bad", "kind", "words"), OUTSIDE, ids=named)
def test_boxes_of_a_session_that_lie_outside_are_refused_with_the_first_frame(
    tracker: PatchNet, bad: Any, kind: type, words: list[str]
) -> None:
    session = tracker.session(boxes=bad)
    refused(lambda: session.update(some_frame(0, **SIZE)), *words, kind=kind)
    assert session.update(some_frame(0, height=160, width=160), boxes=BOXES).ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ids": [1, 2]}, ["`ids` are the numbers of `boxes`"]),
        *(({"boxes": BOXES, "ids": bad}, ["`ids`", *words]) for bad, words in BAD_IDS),
        *(({"max_lost_s": bad}, ["`max_lost_s`"]) for bad in (-1, np.nan, np.inf, "1", True, [1], 10**400)),
        *(({"least_overlap": bad}, ["`least_overlap`"]) for bad in (0, -0.1, 1.01, np.nan, None, "half", True)),
        *(({"max_missed": bad}, ["`max_missed`"]) for bad in (-1, 1.0, True, None, "1", np.nan, np.timedelta64("NaT"))),
        *(({"fps": bad}, ["`fps`"]) for bad in (0, -5, np.nan, np.inf, None, "30", True, 10**400)),
        ({"max_lost": 1}, ["max_lost", "it takes: boxes, ids, max_lost_s"]),
    ],
    ids=str,
)
def test_an_option_out_of_range_is_refused(tracker: PatchNet, options: dict[str, Any], words: list[str]) -> None:
    refused(lambda: tracker.session(**options), *words, kind=InputError)


# -- accelerate ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *(
            ({"every": bad}, ["`every`", "1 to 10000"])
            for bad in (0, -1, 1.5, True, "8", 10_001, np.timedelta64(5, "s"))
        ),
        *(({"budget_ms": bad}, ["`budget_ms`"]) for bad in (0, -1, np.nan, np.inf, "30", True, 10**400)),
        *(({"confidence": bad}, ["`confidence`"]) for bad in (-0.1, 1.1, np.nan, "0.5", True)),
        ({"every": 4, "budget_ms": 30.0}, ["`every`", "`budget_ms`", "not both"]),
        ({"boxes": BOXES}, ["come from the detector"]),
        ({"ids": [1]}, ["come from the detector"]),
        ({"max_missed": -1}, ["`max_missed`"]),
        ({"max_lost": 3}, ["max_lost", "it takes:"]),
        ({"model": 5}, ["`model`", "int"]),
    ],
    ids=str,
)
def test_an_option_of_accelerate_out_of_range_is_refused(
    tracker: PatchNet, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        accelerate(lambda frame: [], **{"model": tracker, **options})
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("bad", [None, 5, [], {"boxes": []}], ids=repr)
def test_what_is_no_detector_is_refused(tracker: PatchNet, bad: Any) -> None:
    refused(lambda: accelerate(bad, model=tracker), "`detector`", "ONNX", kind=DTypeError)


@pytest.mark.parametrize("given", [{"boxes": BOXES}, {"detections": BOXES}, {"ids": [1]}, {"typo": 1}], ids=str)
def test_what_only_the_detector_says_is_refused_in_an_update(tracker: PatchNet, given: dict[str, Any]) -> None:
    fast = accelerate(lambda frame: BOXES, model=tracker)
    for _ in range(2):
        refused(
            lambda: fast.update(some_frame(0, **SIZE), **given), next(iter(given)), "it takes: remove", kind=InputError
        )
        fast.update(some_frame(0, **SIZE))


# -- anything ------------------------------------------------------------------------------------------------------------


@settings(FUZZ, max_examples=40)
@given(boxes=GARBAGE, ids=GARBAGE, remove=GARBAGE, detections=GARBAGE)
def test_any_garbage_gives_an_answer_or_our_error(
    tracker: PatchNet, boxes: Any, ids: Any, remove: Any, detections: Any
) -> None:
    session = opened(tracker)
    frame = some_frame(1, **SIZE)
    for options in (
        {"boxes": boxes},
        {"boxes": BOXES[:1], "ids": ids},
        {"remove": remove},
        {"detections": detections},
        {"boxes": boxes, "ids": ids, "remove": remove, "detections": detections},
    ):
        answers_or_refuses(lambda options=options: session.update(frame, **options))
    assert len(session.update(frame, boxes=BOXES)) >= 2


@settings(FUZZ, max_examples=30)
@given(number=NUMBERS, boxes=GARBAGE)
def test_any_option_gives_a_session_that_works_or_our_error(
    tracker: PatchNet, folder: Path, number: Any, boxes: Any
) -> None:
    for options in ({name: number} for name in ("max_lost_s", "least_overlap", "max_missed", "fps")):

        def use(options: dict[str, Any] = options) -> Session:
            session = tracker.session(boxes=BOXES, **options)
            session.update(some_frame(0, **SIZE), timestamp=0.0)
            session.update(some_frame(1, **SIZE), detections=BOXES[:1])
            session.save(folder / "any.npz")
            return tracker.session(path=folder / "any.npz")

        answers_or_refuses(use)
    answers_or_refuses(lambda: tracker.session(boxes=boxes, ids=boxes).update(some_frame(0, **SIZE)))


# -- saved sessions ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tracker: PatchNet, folder: Path) -> Path:
    session = tracker.session(boxes=BOXES, ids=[3, 5], max_lost_s=2.0)
    session.update(some_frame(0, **SIZE), timestamp=0.0, source="cam")
    session.update(some_frame(0, **SIZE), detections=[[*BOXES[0], 0.9, 1], [1, 1, 20, 20, 0.8, 0]])
    return session.save(folder / "tracks.npz")


SETTINGS = {"boxes": [], "ids": [], "max_lost_s": None, "least_overlap": 0.3, "max_missed": 1, "fps": 30.0}


def with_header(saved: Path, path: Path, change: Any, **arrays: Any) -> Path:
    with np.load(saved, allow_pickle=False) as file:
        held = {name: file[name] for name in file.files}
    header = change(json.loads(bytes(held["effvision"])))
    np.savez(path, **{**held, **arrays, "effvision": np.frombuffer(json.dumps(header).encode(), np.uint8)})
    return path


def use_saved(tracker: PatchNet, path: Path) -> Any:
    session = tracker.session(path=path)
    results = [session.update(some_frame(seed, **SIZE), timestamp=0.1 * seed) for seed in (1, 2)]
    session.update(some_frame(3, **SIZE), detections=BOXES, boxes=BOXES[:1], remove=results[-1].ids[:1])
    session.reset()
    results.append(session.update(some_frame(4, **SIZE)))
    session.save(path)
    return results


@settings(FUZZ, max_examples=80)
@given(draw=st.data())
def test_a_saved_session_whose_memory_is_damaged_is_refused_or_works(
    tracker: PatchNet, saved: Path, folder: Path, draw: st.DataObject
) -> None:
    path = with_header(saved, folder / "odd.npz", lambda header: damaged(header, draw))
    answers_or_refuses(lambda: use_saved(tracker, path))


@pytest.mark.parametrize(
    "change",
    [
        {"objects": [{"id": 1, "kind": -1, "lost_since_s": None, "missed": 0}] * 3},
        {"objects": [{"id": 2**70 + n, "kind": -1, "lost_since_s": None, "missed": 0} for n in range(3)]},
        {"next_id": 2**70},
        {"next_id": 1},
        {"size": [60]},
        {"size": [60.0, 80.0]},
        {"clock_s": "now"},
        {"names": [5]},
        {"settings": {"fps": 30}},
        {"settings": {**SETTINGS, "max_lost_s": []}},
        {"settings": {**SETTINGS, "fps": 0}},
        {"settings": {**SETTINGS, "boxes": [[4, 3, 2, 1]]}},
        {"settings": {**SETTINGS, "more": 1}},
        {"gone": [17]},
        {"source": 5},
        {"updates": "two"},
    ],
    ids=str,
)
def test_a_saved_memory_that_no_session_has_is_refused_when_it_is_opened(
    tracker: PatchNet, saved: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    def changed(header: dict[str, Any]) -> dict[str, Any]:
        return {**header, "memory": {**header["memory"], **change}}

    path = with_header(saved, tmp_path / "odd.npz", changed)
    with pytest.raises(StateError, match=r"odd\.npz"):
        tracker.session(path=path)


def with_rows(saved: Path, path: Path, change: Any) -> Path:
    with np.load(saved, allow_pickle=False) as file:
        held = {name: file[name] for name in file.files}
    header = held.pop("effvision")
    np.savez(path, **change(held), effvision=header)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda held: {name: array[:1] for name, array in held.items()},
        lambda held: {name: np.concatenate([array, array[:1]]) for name, array in held.items()},
        lambda held: {name: array[:0] for name, array in held.items()},
        lambda held: {**held, "center": held["center"] * np.nan},
        lambda held: {**held, "filters": np.full_like(held["filters"], np.inf)},
        lambda held: {**held, "height": held["height"] * np.nan},
        lambda held: {**held, "height": held["height"] * 0},
        lambda held: {**held, "size": -held["size"]},
        lambda held: {**held, "first_size": held["first_size"] * 0},
        lambda held: {**held, "lost": ~held["lost"]},
    ],
    ids=["fewer", "more", "none", "places", "filters", "heights", "no-height", "sizes", "first-sizes", "lost"],
)
def test_saved_objects_that_do_not_fit_the_saved_memory_are_refused_when_opened(
    tracker: PatchNet, saved: Path, tmp_path: Path, change: Any
) -> None:
    path = with_rows(saved, tmp_path / "odd.npz", change)
    with pytest.raises(StateError, match=r"(?s)odd\.npz.*\nhint: .*begin a new session"):
        tracker.session(path=path)


def test_a_saved_session_of_which_objects_are_left_out_of_the_memory_is_refused(
    tracker: PatchNet, saved: Path, tmp_path: Path
) -> None:
    def changed(header: dict[str, Any]) -> dict[str, Any]:
        memory = header["memory"]
        return {**header, "memory": {**memory, "objects": memory["objects"][:-1]}}

    path = with_header(saved, tmp_path / "odd.npz", changed)
    with pytest.raises(StateError, match=r"(?s)odd\.npz.*2 objects.*3\b.*\nhint:"):
        tracker.session(path=path)
