"""Streams of frames in, labels out: rate, resets, smoothing, many streams, whole clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effvision import TSM
from effvision.errors import DTypeError, InputError, RangeError, StateError, StreamingError
from effvision.models.tsm.assemble import assemble
from effvision.models.tsm.network import build, randomise
from effvision.models.tsm.sampling import uniform_indices
from effvision.models.tsm.smoothing import Smoothing
from effvision.runtime.base import Runtime

LABELS = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def model() -> TSM:
    torch.manual_seed(0)
    network = randomise(build(4, backbone="mobilenetv2", width=0.25, shift="causal")).eval()
    return TSM.from_network(network, labels=LABELS, size=(32, 32), short_side=36, fps=10.0)


@pytest.fixture(scope="module")
def clip_model() -> TSM:
    torch.manual_seed(0)
    network = randomise(build(4, backbone="mobilenetv2", width=0.25, shift="bidirectional")).eval()
    return TSM.from_network(network, labels=LABELS, size=(32, 32), short_side=36)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)


def logits(results: Any) -> np.ndarray:
    return np.stack([result.logits for result in results])


def test_a_stream_equals_the_networks_own_causal_clip(model: TSM) -> None:
    frames = pictures(20)
    session = model.session(smoothing=None)
    got = logits([session.update(frame) for frame in frames])
    step = model.runtime.modules["step"]  # type: ignore[attr-defined]
    pixels = torch.from_numpy(np.concatenate([model._pixels(frame) for frame in frames]))
    with torch.inference_mode():
        wanted = step.network.frame_logits(step.normalise(pixels)[None])[0].numpy()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_normalisation_is_that_of_the_reference(model: TSM) -> None:
    step = model.runtime.modules["step"]  # type: ignore[attr-defined]
    pixels = torch.arange(256.0).repeat(1, 3, 1, 1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(step.normalise(pixels), (pixels / 255 - mean) / std, rtol=0, atol=1e-6)


def test_frames_between_two_steps_repeat_the_last_answer_with_their_own_time(model: TSM) -> None:
    session = model.session()
    results = [session.update(frame, timestamp=index / 30) for index, frame in enumerate(pictures(9))]
    assert [result.fresh for result in results] == [True, False, False] * 3
    assert results[1].timestamp == pytest.approx(1 / 30) and results[1].index == 1
    assert results[1].label == results[0].label
    np.testing.assert_array_equal(results[2].logits, results[0].logits)
    assert not np.array_equal(results[3].logits, results[0].logits)


def test_the_rate_can_be_chosen_or_switched_off(model: TSM) -> None:
    for rate, wanted in ((None, 9), (30.0, 9), (15.0, 5), (5.0, 2)):
        session = model.session(fps=rate)
        fresh = [session.update(frame, timestamp=index / 30).fresh for index, frame in enumerate(pictures(9))]
        assert sum(fresh) == wanted


def test_without_timestamps_every_frame_is_a_step(model: TSM) -> None:
    session = model.session()
    assert all(session.update(frame).fresh for frame in pictures(5))


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        ({"timestamp": 0.05, "source": "cam"}, "seek"),
        ({"timestamp": 9.0, "source": "cam"}, "gap"),
        ({"timestamp": 0.3, "source": "other"}, "source"),
    ],
)
def test_an_interrupted_stream_starts_anew_and_says_why(model: TSM, later: dict[str, Any], reason: str) -> None:
    frames = pictures(4)
    session = model.session()
    for index, frame in enumerate(frames[:3]):
        session.update(frame, timestamp=index / 10, source="cam")
    result = session.update(frames[3], **later)
    assert result.reset_reason == reason and result.index == 0 and result.fresh
    np.testing.assert_array_equal(result.logits, model.session().update(frames[3]).logits)
    assert session.update(frames[0], timestamp=later["timestamp"] + 0.1, source=later["source"]).reset_reason is None


def test_a_short_pause_or_a_longer_allowed_gap_is_no_interruption(model: TSM) -> None:
    frames = pictures(2)
    for options, pause in (({}, 0.9), ({"max_gap_s": 60.0}, 30.0)):
        session = model.session(**options)
        session.update(frames[0], timestamp=0.0)
        assert session.update(frames[1], timestamp=pause).reset_reason is None


def test_two_videos_in_one_folder_do_not_mix(model: TSM, tmp_path: Path) -> None:
    from effvision.sources import VideoWriter

    for name in ("one.avi", "two.avi"):
        with VideoWriter(tmp_path / name, fps=10, size=(48, 64)) as video:
            for frame in pictures(4):
                video.write(frame)
    results = list(model.stream(tmp_path))
    assert [result.reset_reason for result in results] == [None] * 4 + ["source"] + [None] * 3
    np.testing.assert_array_equal(logits(results[:4]), logits(results[4:]))


def test_many_streams_in_one_call_equal_single_streams_joining_and_leaving(model: TSM) -> None:
    inputs = [pictures(8, seed) for seed in range(3)]
    alone = []
    for frames in inputs:
        session = model.session()
        alone.append(logits([session.update(frame) for frame in frames]))
    sessions = [model.session() for _ in inputs]
    got: list[list[np.ndarray]] = [[], [], []]
    for now in range(8):
        present = [index for index in range(3) if (now >= 3 if index == 1 else now < 6 if index == 2 else True)]
        frames = [inputs[index][len(got[index])] for index in present]
        for index, result in zip(present, model.update_many([sessions[i] for i in present], frames), strict=True):
            got[index].append(result.logits)
    for index, given in enumerate(got):
        np.testing.assert_allclose(np.stack(given), alone[index][: len(given)], rtol=0, atol=1e-4 * np.abs(alone).max())


def test_in_one_call_only_the_streams_that_are_due_step(model: TSM) -> None:
    sessions = [model.session(), model.session()]
    frames = pictures(2)
    model.update_many(sessions, frames, [{"timestamp": 0.0}, {"timestamp": 0.0}])
    results = model.update_many(sessions, frames, [{"timestamp": 0.02}, {"timestamp": 0.1}])
    assert [result.fresh for result in results] == [False, True]


def test_one_bad_picture_in_a_call_costs_no_stream_anything(model: TSM) -> None:
    sessions = [model.session(), model.session()]
    frames = pictures(4)
    model.update_many(sessions, frames[:2])
    with pytest.raises(InputError):
        model.update_many(sessions, [frames[2], np.zeros((4, 4))])
    again = [model.session(), model.session()]
    model.update_many(again, frames[:2])
    for session, other in zip(sessions, again, strict=True):
        assert session.memory == other.memory
        np.testing.assert_array_equal(session.update(frames[3]).logits, other.update(frames[3]).logits)


def test_calls_for_many_streams_are_checked(model: TSM, clip_model: TSM) -> None:
    session, frame = model.session(), pictures(1)[0]
    with pytest.raises(InputError, match="1 sessions, 2 inputs"):
        model.update_many([session], [frame, frame])
    with pytest.raises(InputError, match="twice"):
        model.update_many([session, session], [frame, frame])
    with pytest.raises(InputError, match="this predictor"):
        clip_model.update_many([session], [frame])


def test_bidirectional_weights_predict_and_refuse_to_stream(clip_model: TSM) -> None:
    assert clip_model.predict(pictures(10)).label in LABELS
    for start in (clip_model.session, lambda: next(iter(clip_model.stream(pictures(10))))):
        with pytest.raises(StreamingError, match="trained to see later ones"):
            start()


def test_a_whole_clip_is_sampled_as_the_reference_does(clip_model: TSM) -> None:
    frames = pictures(37)
    chosen = np.concatenate([clip_model._pixels(frames[index]) for index in uniform_indices(37, 8)])[None]
    wanted = clip_model.runtime.run("clip", {"clip": chosen})["logits"][0]
    np.testing.assert_allclose(clip_model.predict(frames).logits, wanted, rtol=0, atol=1e-6)


def test_a_causal_prediction_is_the_mean_over_the_stream_at_the_trained_rate(model: TSM) -> None:
    frames = pictures(12)
    session = model.session(smoothing=None)
    wanted = logits([session.update(frame) for frame in frames[::3]]).mean(0)
    from effvision.sources import open_source

    np.testing.assert_allclose(model.predict(open_source(frames, fps=30)).logits, wanted, rtol=0, atol=1e-5)


def test_frames_before_the_network_has_settled_do_not_count_in_a_prediction() -> None:
    torch.manual_seed(1)
    network = randomise(build(4, backbone="mobilenetv2", width=0.25, shift="causal")).eval()
    parts = assemble(network, LABELS, {"short_side": None, "size": [32, 32]}, {"fps": None, "settle": 2}, device="cpu")
    settled = TSM(*parts)
    frames = pictures(6)
    session = settled.session()
    results = [session.update(frame) for frame in frames]
    assert [result.settled for result in results] == [False, False, True, True, True, True]
    np.testing.assert_allclose(settled.predict(frames).logits, logits(results[2:]).mean(0), rtol=0, atol=1e-5)
    short = settled.predict(frames[:1])
    assert not short.settled and np.isfinite(short.logits).all()


def test_smoothing_changes_the_label_and_leaves_the_logits(model: TSM) -> None:
    frames = pictures(6)
    raw, smooth = model.session(smoothing=None), model.session(smoothing=Smoothing(window=4))
    for frame in frames:
        one, other = raw.update(frame), smooth.update(frame)
        np.testing.assert_array_equal(one.logits, other.logits)
    assert not np.allclose(one.scores, other.scores)
    with pytest.raises(InputError, match="class 9"):
        model.session(smoothing=Smoothing(masked=(9,)))


def test_a_saved_session_keeps_its_clock_and_smoothing(model: TSM, tmp_path: Path) -> None:
    frames = pictures(10)
    session = model.session(fps=15.0, smoothing=Smoothing(window=3, merged={1: 0}))
    for index, frame in enumerate(frames[:5]):
        session.update(frame, timestamp=index / 30, source="cam")
    session.save(tmp_path / "s.npz")
    restored = model.session(path=tmp_path / "s.npz")
    for index, frame in enumerate(frames[5:], 5):
        one, other = (s.update(frame, timestamp=index / 30, source="cam") for s in (session, restored))
        assert {**one.to_dict(), "timing": 0} == {**other.to_dict(), "timing": 0}
    restored.reset()
    assert restored.memory.smoothing == Smoothing(window=3, merged={1: 0})  # type: ignore[attr-defined]


def test_a_session_of_another_model_is_refused(model: TSM, tmp_path: Path) -> None:
    saved = model.session().save(tmp_path / "s.npz")
    other = TSM.from_network(
        build(4, backbone="mobilenetv2", width=0.5, shift="causal").eval(), labels=LABELS, size=(32, 32)
    )
    with pytest.raises(StateError, match="was saved by"):
        other.session(path=saved)
    network = model.runtime.modules["step"].network  # type: ignore[attr-defined]
    larger = TSM.from_network(network, labels=LABELS, size=(64, 64))
    with pytest.raises(StateError, match="this model's state"):
        larger.session(path=saved)
    (tmp_path / "t.npz").write_bytes(saved.read_bytes()[:200])
    with pytest.raises(StateError, match="no saved session or is damaged"):
        model.session(path=tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"timestamp": float("nan")}, RangeError, "finite"),
        ({"timestamp": "now"}, DTypeError, "seconds"),
        ({"timestamp": True}, DTypeError, "seconds"),
        ({"timestamp": 10**400}, RangeError, "finite"),
        ({"source": 3}, DTypeError, "text"),
        ({"frame": 3}, InputError, "takes: source, timestamp"),
    ],
)
def test_bad_options_of_an_update_are_named(model: TSM, given: dict[str, Any], error: type, message: str) -> None:
    session = model.session()
    with pytest.raises(error, match=message):
        session.update(pictures(1)[0], **given)


@pytest.mark.parametrize(
    "options",
    [{"fps": 0}, {"fps": "fast"}, {"fps": []}, {"max_gap_s": -1}, {"smoothing": "some"}, {"speed": 2}],
    ids=str,
)
def test_bad_options_of_a_session_are_named(model: TSM, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        model.session(**options)


def test_the_predictor_never_asks_which_runtime_it_has(model: TSM) -> None:
    class Constant(Runtime):
        name, device = "constant", "nowhere"

        def __init__(self) -> None:
            self.graphs = model.runtime.graphs

        def run(self, graph: str, arrays: Any) -> dict[str, Any]:
            kept = {spec.output: arrays[spec.input] for spec in self.graphs[graph].states}
            return {"logits": np.array([[0, 0, 5, 0]], np.float32), **kept}

        def multiply_adds(self, graph: str, batch: int) -> int:
            return 0

    assert TSM(Constant(), model.metadata).predict(pictures(3)).label == "c"


def test_frames_without_a_clock_are_taken_at_the_networks_own_rate(model: TSM) -> None:
    """Not at an assumed 30 a second, which would drop two of three and make every motion three times as fast."""
    frames = pictures(9)
    session = model.session(smoothing=None)
    wanted = logits([session.update(frame) for frame in frames])
    np.testing.assert_allclose(model.predict(frames).logits, wanted.mean(0), rtol=0, atol=1e-5)
    for source in (frames, list(frames), iter(frames)):
        results = list(model.stream(source, smoothing=None))
        assert all(result.fresh and result.timestamp is None for result in results)
        np.testing.assert_array_equal(logits(results), wanted)


def test_a_network_without_shift_predicts_from_sampled_frames_as_the_reference_does() -> None:
    torch.manual_seed(0)
    network = randomise(build(4, backbone="mobilenetv2", width=0.25, shift="none")).eval()
    frame_only = TSM.from_network(network, labels=LABELS, size=(32, 32))
    frames = pictures(37)
    sampled = [frame_only.session(smoothing=None).update(frames[index]).logits for index in uniform_indices(37, 8)]
    np.testing.assert_allclose(frame_only.predict(frames).logits, np.mean(sampled, 0), rtol=0, atol=1e-5)
    assert len(list(frame_only.stream(frames))) == 37


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["a", "b", "c"]}, "has 4 outputs, but 3 labels"),
        ({"size": (32,)}, "size"),
        ({"short_side": 16}, "short_side"),
        ({"std": (0.0, 1.0, 1.0)}, "std"),
        ({"fps": -1}, "fps"),
    ],
)
def test_what_a_user_says_of_his_own_network_is_checked(settings: dict[str, Any], message: str) -> None:
    network = build(4, backbone="mobilenetv2", width=0.25, shift="causal")
    with pytest.raises(InputError, match=message):
        TSM.from_network(network, **{"labels": LABELS, "size": (32, 32), **settings})
