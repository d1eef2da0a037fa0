"""A detector on key frames: when it runs, what it costs, and what is left when it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from detector_files import finds_square
from effvision import Detections, PatchNet, accelerate
from effvision.errors import DetectorError, DTypeError, InputError, RangeError, ShapeError
from effvision.models.patchnet import accelerate as module
from effvision.models.patchnet.accelerate import Share


class Detector:
    """Answers what it is told, and counts."""

    def __init__(self, *answers: Any) -> None:
        self.answers = answers
        self.frames: list[np.ndarray] = []

    def __call__(self, frame: np.ndarray) -> Any:
        self.frames.append(frame)
        answer = self.answers[min(len(self.frames), len(self.answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer


@pytest.fixture
def clock(model: PatchNet, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that goes on by what it is called with, in ms; an update takes 2 of them besides the detector."""
    now = SimpleNamespace(s=0.0)

    def pass_by(ms: float) -> None:
        now.s += ms / 1e3

    program = model.program

    def slowed(*given: Any) -> Any:
        pass_by(2.0)
        return program(*given)

    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now.s))
    monkeypatch.setattr(model, "program", slowed)
    return pass_by


def keys(fast: Any, frame: np.ndarray, count: int) -> list[int]:
    return [at for at in range(count) if fast.update(frame).key]


# -- when it runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 5])
def test_every_so_many_frames_are_key_frames(model: PatchNet, clips: Any, every: int) -> None:
    detector = Detector([])
    fast = accelerate(detector, every=every, model=model)
    assert keys(fast, clips.plain(), 12) == list(range(0, 12, every))
    assert len(detector.frames) == fast.share.keys == len(range(0, 12, every))


def test_without_a_word_every_eighth_frame_is_one(model: PatchNet, clips: Any) -> None:
    fast = accelerate(Detector([]), model=model)
    assert keys(fast, clips.plain(), 20) == [0, 8, 16] and fast.every == 8
    assert "every=8" in repr(fast)


def test_objects_keep_their_numbers_from_key_frame_to_key_frame(model: PatchNet, clips: Any) -> None:
    answers = [
        Detections(np.float32(clips.truth(at)), np.float32([0.9, 0.8]), np.array([0, 1]), ("red", "violet"))
        for at in (0, 3, 6)
    ]
    fast = accelerate(Detector(*answers), every=3, model=model)
    for at, frame in enumerate(clips.clip(8)):
        result = fast.update(frame)
        assert result.ids.tolist() == [1, 2] and result.labels == ("red", "violet")
        assert min(clips.overlaps(result.boxes, clips.truth(at))) > 0.6
        assert result.key is (at % 3 == 0) and (result.detector_ms > 0) is result.key
    assert fast.share.to_dict()["frames"] == 8 and fast.share.keys == 3


def test_the_answers_are_those_of_a_session_that_is_given_the_detections(model: PatchNet, clips: Any) -> None:
    fast, session = accelerate(Detector(clips.truth(0)), every=2, model=model), model.session()
    for at, frame in enumerate(clips.clip(5)):
        more: dict[str, Any] = {"detections": clips.truth(0)} if at % 2 == 0 else {}
        given = {"timestamp": at / 10, "source": "cam"}
        assert clips.said(fast.update(frame, **given)) == clips.said(session.update(frame, **given, **more))


@pytest.mark.parametrize(("budget", "cost"), [(20.0, 100.0), (53.0, 100.0), (12.3, 30.0), (150.0, 100.0)])
def test_a_budget_is_kept_on_average_and_is_used(
    model: PatchNet, clips: Any, clock: Any, budget: float, cost: float
) -> None:
    fast = accelerate(Detector(lambda: clock(cost) or []), budget_ms=budget, model=model)
    found = keys(fast, clips.plain(), 120)
    spent = fast.share.detector_ms + fast.share.tracker_ms
    assert spent == pytest.approx(120 * 2 + len(found) * cost)
    assert spent <= budget * 120 + cost + 1e-6  # the detector on the first frame is outside the budget
    share = min(1.0, (budget - 2) / cost)
    assert len(found) == pytest.approx(120 * share, abs=3)
    gaps = np.diff(found).tolist()
    assert max(gaps) - min(gaps) <= 1  # evenly, from the first on
    assert fast.every is None and f"budget_ms={budget:g}" in repr(fast)


def test_a_budget_that_pays_for_nothing_still_gives_a_key_frame_now_and_then(
    model: PatchNet, clips: Any, clock: Any
) -> None:
    fast = accelerate(Detector(lambda: clock(100) or []), budget_ms=1, model=model)
    found = keys(fast, clips.plain(), 130)
    assert found == [0, 60, 120]


def test_a_budget_follows_a_detector_that_becomes_slower(model: PatchNet, clips: Any, clock: Any) -> None:
    cost = SimpleNamespace(ms=20.0)
    fast = accelerate(Detector(lambda: clock(cost.ms) or []), budget_ms=12, model=model)
    assert len(keys(fast, clips.plain(), 60)) == pytest.approx(30, abs=2)
    cost.ms = 100.0
    keys(fast, clips.plain(), 40)
    assert len(keys(fast, clips.plain(), 60)) == pytest.approx(6, abs=1)


def test_a_first_frame_that_is_slow_does_not_cost_the_next_key_frames(model: PatchNet, clips: Any, clock: Any) -> None:
    costs = iter([3000.0])  # many detectors get ready in their first call
    fast = accelerate(Detector(lambda: clock(next(costs, 20.0)) or []), budget_ms=12, model=model)
    assert max(np.diff(keys(fast, clips.plain(), 130))[-20:]) == 2 and fast.share.detector_ms > 3000


def test_a_reset_is_paid_for_by_the_budget(model: PatchNet, clips: Any, clock: Any) -> None:
    fast = accelerate(Detector(lambda: clock(100) or []), budget_ms=22.5, model=model)
    keys(fast, clips.plain(), 3)
    fast.reset()
    assert keys(fast, clips.plain(), 12) == [0, 7]


# -- early ---------------------------------------------------------------------------------------------------------------


def shown(fast: Any, frames: list[np.ndarray]) -> list[Any]:
    return [fast.update(frame, timestamp=at / 10) for at, frame in enumerate(frames)]


def test_an_object_that_is_lost_asks_for_the_detector_early(model: PatchNet, clips: Any) -> None:
    box = clips.truth(0)[:1]
    frames = [clips.clip(1)[0]] + [clips.plain()] * 12
    detector = Detector(box, [])
    fast = accelerate(detector, every=1000, confidence=0.0, model=model)
    results = shown(fast, frames)
    early = [at for at, result in enumerate(results) if result.key][1:]
    assert len(early) == 1 and fast.share.early == 1 and fast.share.keys == 2  # nobody is left to be doubted then
    assert results[early[0]].ended == (1,)
    session = model.session()  # what the frame had changed before the detector was asked is undone
    for at, frame in enumerate(frames):
        more: dict[str, Any] = {"detections": box} if at == 0 else {"detections": []} if at == early[0] else {}
        assert clips.said(session.update(frame, timestamp=at / 10, **more)) == clips.said(results[at])
    patient = accelerate(Detector(box), every=1000, model=model)
    assert sum(result.key for result in shown(patient, frames)) == 1 and patient.share.early == 0


def test_a_score_that_falls_asks_for_the_detector_early(model: PatchNet, clips: Any, monkeypatch: Any) -> None:
    scores = iter([0.9, 0.5, 0.9, 0.4])
    program = model.program

    def told(*given: Any) -> Any:
        outputs, state = program(*given)
        if "found" not in given[1]:
            outputs = {**outputs, "scores": np.full_like(outputs["scores"], next(scores))}
        return outputs, state

    monkeypatch.setattr(model, "program", told)
    fast = accelerate(Detector(clips.truth(0)), every=100, confidence=0.5, model=model)
    assert [fast.update(clips.clip(1)[0]).key for _ in range(5)] == [True, False, False, False, True]
    assert (fast.share.keys, fast.share.early) == (2, 1)


def test_an_early_key_frame_that_cannot_be_afforded_waits(model: PatchNet, clips: Any, clock: Any) -> None:
    box = clips.truth(0)[:1]
    fast = accelerate(Detector(lambda: clock(100) or box), budget_ms=22.5, confidence=1.0, max_missed=9, model=model)
    frames = [clips.clip(1)[0], *[clips.plain()] * 7]
    # the first is outside the budget, the one after it is borrowed for, and the next waits until that was paid back
    assert [at for at, result in enumerate(shown(fast, frames)) if result.key] == [0, 1, 5]


# -- what it cost --------------------------------------------------------------------------------------------------------


def test_the_share_counts_frames_and_milliseconds(model: PatchNet, clips: Any, clock: Any) -> None:
    fast = accelerate(Detector(lambda: clock(40) or []), every=4, model=model)
    assert (fast.share, fast.share.of_frames, fast.share.of_time, fast.share.speedup) == (Share(), 0.0, 0.0, 0.0)
    results = [fast.update(clips.plain()) for _ in range(10)]
    assert [round(result.detector_ms, 6) for result in results] == [40, 0, 0, 0] * 2 + [40, 0]
    share = fast.share
    assert (share.frames, share.keys, share.early) == (10, 3, 0)
    assert share.detector_ms == pytest.approx(120) and share.tracker_ms == pytest.approx(20)
    assert share.of_frames == pytest.approx(0.3) and share.of_time == pytest.approx(120 / 140)
    assert share.speedup == pytest.approx(400 / 140)  # the detector alone would have taken 400
    told = share.to_dict()
    assert told["speedup"] == 2.86 and told["of_frames"] == 0.3 and told["detector_ms"] == 120


def test_a_detector_that_takes_no_time_is_counted_all_the_same(model: PatchNet, clips: Any, clock: Any) -> None:
    fast = accelerate(Detector([]), every=3, model=model)
    assert keys(fast, clips.plain(), 7) == [0, 3, 6]
    assert fast.share.keys == 3


def test_a_reset_forgets_the_objects_and_looks_at_once_but_counts_on(model: PatchNet, clips: Any) -> None:
    fast = accelerate(Detector(clips.truth(0)), every=5, model=model)
    frame = clips.clip(1)[0]
    keys(fast, frame, 2)
    fast.reset("cut")
    result = fast.update(frame)
    assert result.key and result.reset_reason == "cut" and result.ids.tolist() == [1, 2]
    assert fast.share.frames == 3 and keys(fast, frame, 6) == [4]


def test_a_reset_of_the_session_itself_looks_at_once_too(model: PatchNet, clips: Any) -> None:
    fast = accelerate(Detector(clips.truth(0)), every=5, model=model)
    frame = clips.clip(1)[0]
    keys(fast, frame, 2)
    fast.session.reset("cut")
    result = fast.update(frame)
    assert result.key and result.reset_reason == "cut" and result.ids.tolist() == [1, 2]


# -- what goes through ---------------------------------------------------------------------------------------------------


def test_another_source_and_a_step_back_are_key_frames(model: PatchNet, clips: Any) -> None:
    fast = accelerate(Detector(clips.truth(0)), every=100, model=model)
    frame = clips.clip(1)[0]
    steps = [(0.0, "a"), (0.1, "a"), (0.2, "b"), (0.3, "b"), (0.1, "b"), (0.2, "b")]
    results = [fast.update(frame, timestamp=at, source=source) for at, source in steps]
    assert [result.key for result in results] == [True, False, True, False, True, False]
    assert [result.reset_reason for result in results] == [None, None, "source", None, "seek", None]
    assert all(result.ids.tolist() == [1, 2] for result in results)


def test_an_object_can_be_removed_and_is_a_new_one_when_it_is_found_again(model: PatchNet, clips: Any) -> None:
    fast = accelerate(Detector(clips.truth(0)), every=3, model=model)
    frame = clips.clip(1)[0]
    assert fast.update(frame).ids.tolist() == [1, 2]
    assert fast.update(frame, remove=[1]).ids.tolist() == [2]
    assert fast.update(frame).ids.tolist() == [2]
    assert fast.update(frame).ids.tolist() == [2, 3]


def test_a_whole_source_is_streamed(model: PatchNet, clips: Any) -> None:
    frames = np.stack(clips.clip(5))
    fast = accelerate(Detector(clips.truth(0), clips.truth(3)), every=3, model=model)
    results = list(fast.stream(frames))
    assert [result.key for result in results] == [True, False, False, True, False]
    assert [result.index for result in results] == list(range(5))
    assert all(np.array_equal(result.image, frame) for result, frame in zip(results, frames, strict=True))
    assert all(result.image is None for result in fast.stream(frames, images=False))


def test_options_of_the_session_are_taken(model: PatchNet, clips: Any) -> None:
    fast = accelerate(Detector(clips.truth(0), []), every=1, max_missed=0, model=model)
    assert keys(fast, clips.clip(1)[0], 2) == [0, 1] and fast.session.memory.objects[0].missed == 1
    assert fast.session.memory.gone == (1, 2)


def test_a_detector_that_draws_on_its_frame_does_not_change_what_is_followed(model: PatchNet, clips: Any) -> None:
    frame = clips.clip(1)[0]
    given = frame.copy()

    def draws(picture: np.ndarray) -> Any:
        picture[:] = 0
        return clips.truth(0)

    fast, session = accelerate(draws, every=3, model=model), model.session()
    assert clips.said(fast.update(given)) == clips.said(session.update(frame, detections=clips.truth(0)))
    assert np.array_equal(given, frame)
    assert clips.said(fast.update(clips.clip(2)[1])) == clips.said(session.update(clips.clip(2)[1]))


def squares(count: int) -> list[np.ndarray]:
    """A white square that goes to the right over a dark pattern, four pixels a frame."""
    frames = []
    for at in range(count):
        frame = np.random.default_rng(0).integers(0, 90, (96, 144, 3), dtype=np.uint8)
        frame[30:60, 20 + 4 * at : 50 + 4 * at] = 255
        frames.append(frame)
    return frames


@pytest.mark.parametrize("as_text", [False, True])
def test_a_detector_s_file_is_opened(model: PatchNet, clips: Any, tmp_path: Path, as_text: bool) -> None:
    pytest.importorskip("onnxruntime")
    path: Any = finds_square(tmp_path / "square.onnx")
    fast = accelerate(str(path) if as_text else path, every=3, model=model)
    for at, frame in enumerate(squares(5)):
        result = fast.update(frame)
        assert result.labels == ("circle",) and result.ids.tolist() == [1]
        assert clips.overlaps(result.boxes, [[20 + 4 * at, 30, 50 + 4 * at, 60]])[0] > (0.9 if result.key else 0.5)
    assert "square.onnx" in repr(fast)


# -- when it fails -------------------------------------------------------------------------------------------------------


FAULTS: list[tuple[Any, type, str]] = [
    (ValueError("out of memory"), DetectorError, r"(?s)frame of 320x280 pixels: ValueError: out of memory\nhint:"),
    (RuntimeError(), DetectorError, "RuntimeError"),
    ("boxes", DetectorError, "hint:"),
    (5, DetectorError, "hint:"),
    ([[1, 2, 3]], DetectorError, "hint:"),
    ([[0.1, 0.1, 0.6, 0.7]], DetectorError, "pixels"),
    ({"scores": []}, DetectorError, "without `boxes`"),
    (InputError("ours stays ours"), InputError, "ours stays ours"),
    (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
]


@pytest.mark.parametrize(("fault", "kind", "words"), FAULTS)
def test_a_detector_that_fails_leaves_everything_as_it_was(
    model: PatchNet, clips: Any, fault: Any, kind: type, words: str
) -> None:
    box = clips.truth(0)[:1]
    fast = accelerate(Detector(box, fault, box), every=2, model=model)
    untouched = accelerate(Detector(box), every=2, model=model)
    for at, frame in enumerate(clips.clip(4)):
        if at == 2:
            with pytest.raises(kind, match=words):
                fast.update(frame, timestamp=at / 10)
        found, wanted = (one.update(frame, timestamp=at / 10) for one in (fast, untouched))
        assert clips.said(found) == clips.said(wanted)  # the same frame again
    assert (fast.share.keys, fast.share.frames) == (untouched.share.keys, untouched.share.frames) == (2, 4)


@pytest.mark.parametrize(("fault", "kind", "words"), [FAULTS[0], FAULTS[2]])
def test_a_detector_that_is_asked_early_and_fails_leaves_everything_as_it_was(
    model: PatchNet, clips: Any, fault: Any, kind: type, words: str
) -> None:
    box, options = clips.truth(0)[:1], {"every": 100, "confidence": 0.0, "model": model}
    fast, untouched = accelerate(Detector(box, fault, []), **options), accelerate(Detector(box, []), **options)
    failed = False
    for at, frame in enumerate([clips.clip(1)[0], *[clips.plain()] * 12]):
        wanted = untouched.update(frame, timestamp=at / 10)
        if untouched.share.early and not failed:
            with pytest.raises(kind, match=words):
                fast.update(frame, timestamp=at / 10)
            failed = True
        assert clips.said(fast.update(frame, timestamp=at / 10)) == clips.said(wanted)
    assert failed and fast.share.early == untouched.share.early == 1


def test_after_a_failure_the_next_frame_is_a_key_frame(model: PatchNet, clips: Any) -> None:
    fast = accelerate(Detector(ValueError(), clips.truth(1)), every=3, model=model)
    first, second, third = clips.clip(3)
    with pytest.raises(DetectorError):
        fast.update(first)
    assert fast.share == Share()
    result = fast.update(second)
    assert result.key and result.ids.tolist() == [1, 2] and result.index == 0
    assert not fast.update(third).key


def test_a_detector_that_answers_nothing_found_nothing(model: PatchNet, clips: Any) -> None:
    fast = accelerate(Detector(None), every=2, model=model)
    result = fast.update(clips.clip(1)[0])
    assert result.key and len(result) == 0


@pytest.mark.parametrize(
    ("frame", "given", "kind"),
    [
        (np.zeros((9, 9), np.uint8), {}, ShapeError),
        (None, {}, DTypeError),
        (..., {"timestamp": "now"}, DTypeError),
        (..., {"timestamp": np.nan}, RangeError),
        (..., {"source": 5}, DTypeError),
        (..., {"remove": [99]}, InputError),
        (..., {"typo": 1}, InputError),
        (..., {"detections": [[1, 2, 30, 40]]}, InputError),
        (..., {"boxes": [[1, 2, 30, 40]]}, InputError),
        (np.zeros((50, 60, 3), np.uint8), {}, ShapeError),
    ],
)
@pytest.mark.parametrize("key", [False, True])
def test_an_error_in_the_frame_leaves_everything_as_it_was(
    model: PatchNet, clips: Any, frame: Any, given: dict[str, Any], kind: type, key: bool
) -> None:
    box = clips.truth(0)[:1]
    fast, untouched = (accelerate(Detector(box), every=1 if key else 9, model=model) for _ in range(2))
    first, second = clips.clip(2)
    for one in (fast, untouched):
        one.update(first, timestamp=0.0)
    share = fast.share
    with pytest.raises(kind):
        fast.update(second if frame is ... else frame, **{"timestamp": 0.1, **given})
    assert fast.share == share
    assert clips.said(fast.update(second, timestamp=0.1)) == clips.said(untouched.update(second, timestamp=0.1))
