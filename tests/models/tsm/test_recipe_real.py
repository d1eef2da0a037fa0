"""Real footage: what the numbers of `recipe real` and `recipe rule` are made of."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effvision.cards import get_card
from effvision.errors import SourceError
from effvision.models.tsm import recipe_hands, recipe_real, recipe_rule
from effvision.models.tsm.clips import LABELS, render_segments
from effvision.models.tsm.clips_media import video_names
from effvision.models.tsm.network import TemporalNetwork
from effvision.models.tsm.predictor import TSM
from effvision.models.tsm.recipe import main
from effvision.models.tsm.recipe_evaluate import load_motion
from effvision.models.tsm.recipe_hands import FRAMES, Answer, Eye, Hands, Span, folds, measure_hands, read_spans, twins
from effvision.models.tsm.recipe_rule import (
    REST,
    Amount,
    Gesture,
    Material,
    answers,
    choose,
    frame_logits,
    gestures,
    judge,
    noisy,
    seen,
    told,
    training_material,
)
from effvision.models.tsm.recipe_streams import PLAIN, QUIET, held_out_videos, measure_price, watch, watch_noise
from effvision.models.tsm.smoothing import Smoothing
from effvision.sources import VideoWriter

SHIPPED = Path(__file__).parents[3] / "weights" / "tsm-mobilenetv2-motion.safetensors"
UP = LABELS.index("up")

pytestmark = pytest.mark.skipif(not SHIPPED.exists(), reason="the weights are not in this checkout")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network() -> TemporalNetwork:
    return load_motion(SHIPPED)


@pytest.fixture(scope="module")
def blind() -> TemporalNetwork:
    return load_motion(SHIPPED, "none")


def rendered(label: str, seed: int, signer: str) -> Span:
    film, _ = render_segments([("still", 0.5), (label, 1.0)], size=(96, 96), fps=12.0, seed=seed, joined=True)
    return Span(f"{seed}.mp4 {label}", signer, label == "up", film, 6, 17)


@pytest.fixture(scope="module")
def spans() -> list[Span]:
    """Strokes of three invented signers."""
    pairs = [(("up", "down")[k % 2], signer) for k, signer in enumerate("ABCABC")]
    return [rendered(label, seed, signer) for seed, (label, signer) in enumerate(pairs)]


# --- hands ------------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_the_marked_strokes_are_read_as_the_table_has_them(shared: Path) -> None:
    folder = shared / "data" / "gestures" / "asl"
    spans = read_spans(folder)
    rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))
    marked = [(f"{row['file']} {kind}", row["signer"], int(row[f"{kind}_start"]), int(row[f"{kind}_end"]))
              for row in rows for kind in ("raise", "lower") if row[f"{kind}_start"] != "-1"]  # fmt: skip
    assert [(one.name, one.signer, one.start, one.end) for one in spans] == marked
    assert len(spans) == 32 and {one.signer for one in spans} == set("ABCE")
    assert all(one.raises == one.name.endswith("raise") and one.film.shape[1:] == (96, 96, 3) for one in spans)


@pytest.mark.shared
def test_the_shipped_weights_tell_raised_from_lowered_hands_and_the_control_cannot(
    shared: Path, network: TemporalNetwork, blind: TemporalNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe_hands, "_VARIANTS", recipe_hands._VARIANTS[:1])  # nothing is fitted here
    monkeypatch.setattr(recipe_hands, "folds", lambda spans: iter(()))
    made = measure_hands({"ours": network, "control": blind}, read_spans(shared / "data" / "gestures" / "asl"))
    facts = {one.method: one.facts() for one in made if one.given}
    assert facts["ours: up against down, nothing fitted"]["mean_of_signers"] >= 0.9  # 100 % when it was written
    assert all(share == 0.5 for share in facts["control: up against down, nothing fitted"]["by_signer"].values())


def test_twins_hold_the_same_frames_in_the_other_order(spans: list[Span]) -> None:
    for span in spans:
        one, other = twins(span.clip())
        assert one.shape == (FRAMES, 96, 96, 3)
        np.testing.assert_array_equal(one, other[::-1])
        assert not np.array_equal(one, other)


def test_a_stroke_is_sampled_from_its_first_to_its_last_frame_and_stays_inside_the_film() -> None:
    film = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    span = Span("x", "A", True, film, 3, 17)
    assert span.clip()[:, 0, 0, 0].tolist() == [3, 5, 7, 9, 11, 13, 15, 17]
    assert span.clip(before=-9, after=9)[[0, -1], 0, 0, 0].tolist() == [0, 19]


def test_folds_never_share_a_signer(spans: list[Span]) -> None:
    pairs = list(folds(spans))
    assert [{one.signer for one in held} for _, held in pairs] == [{"A"}, {"B"}, {"C"}]
    for inside, held in pairs:
        assert {one.signer for one in inside}.isdisjoint({one.signer for one in held})
        assert len(inside) + len(held) == len(spans)


def test_the_control_gives_a_clip_and_its_twin_the_same_numbers_so_it_is_at_one_half(
    spans: list[Span], blind: TemporalNetwork
) -> None:
    eye = Eye(blind)
    for span in spans:
        pairs = zip(*(eye(clip) for clip in twins(span.clip())), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)
        # the frames really are independent of one another: the whole clip at once says the same
        np.testing.assert_allclose(eye(span.clip())[0], frame_logits(blind, span.clip()).mean(axis=0), atol=1e-4)
    made = measure_hands({"control": blind}, spans)
    assert [one.method.partition(": ")[2].split()[0] for one in made] == ["up", "ridge"]
    for one in made:
        assert one.right() == (len(spans), 2 * len(spans))
        assert all(share == 0.5 for share in one.facts()["by_signer"].values())


def test_the_network_with_shift_tells_twins_apart_and_the_penalty_is_chosen_without_the_signer_left_out(
    spans: list[Span], network: TemporalNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen_from: list[set[str]] = []
    strength = recipe_hands._strength

    def watched(clips: Any) -> float:
        chosen_from.append({clip.span.signer for clip in clips})
        return strength(clips)

    monkeypatch.setattr(recipe_hands, "_strength", watched)
    plain, fitted = measure_hands({"ours": network}, spans)
    assert plain.right()[0] >= 11 and fitted.right()[0] >= 9
    assert chosen_from == [{"B", "C"}, {"A", "C"}, {"A", "B"}]


def test_two_signers_are_too_few_to_fit_anything(spans: list[Span], blind: TemporalNetwork) -> None:
    assert len(measure_hands({"x": blind}, [span for span in spans if span.signer != "C"])) == 1


def test_the_interval_counts_a_stroke_once(spans: list[Span]) -> None:
    given = [Answer(span, truth, truth) for span in spans for truth in (True, False)]
    facts = Hands("all right", given).facts()
    assert (facts["right"], facts["clips"], facts["spans"]) == (12, 12, 6)
    assert facts["interval_95_by_spans"][0] == pytest.approx(0.6097, abs=1e-3)  # Wilson, 6 of 6


@pytest.mark.parametrize(
    "text", ["file,signer\nx.mp4,A\n", "file,signer,raise_start,raise_end,lower_start,lower_end\nx"]
)
def test_a_table_without_frame_numbers_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(SourceError, match="without file, signer or frame numbers"):
        read_spans(tmp_path)


# --- the rule ---------------------------------------------------------------------------------------------------------


def one_hots(labels: list[int]) -> np.ndarray:
    return 20 * np.eye(len(LABELS), dtype=np.float32)[labels]


def test_answers_are_those_of_a_session(network: TemporalNetwork) -> None:
    clip, _ = render_segments([("still", 0.5), ("left", 1.0)], size=(96, 96), fps=12.0, seed=3, joined=True)
    model = TSM.from_pretrained(SHIPPED, runtime="torch")
    for rule in (PLAIN, Smoothing(window=4, threshold=0.8, rest=REST), Smoothing(window=2, confirm=True)):
        session = model.session(smoothing=rule)
        results: list[Any] = [session.update(frame) for frame in clip]
        assert answers(rule, np.stack([one.logits for one in results])) == [one.chosen for one in results]


def test_a_gesture_begins_where_the_label_changes_to_another_than_still() -> None:
    assert gestures([REST, 1, 1, REST, 2, 3, REST]) == [1, 4, 5]
    assert gestures([4, 4]) == [0]
    assert gestures([REST]) == []


def test_a_gesture_is_seen_from_its_first_frame_to_half_a_second_after_its_last() -> None:
    frames = [REST] * 4 + [UP] * 4 + [REST] * 12
    rule = Smoothing(rest=REST)
    assert seen(rule, Gesture(UP, 4, 4, one_hots(frames))) == 1
    assert seen(rule, Gesture(UP, 2, 2, one_hots(frames))) == 3
    assert seen(rule, Gesture(UP, 12, 2, one_hots(frames))) is None


def test_the_rule_with_the_best_recall_within_the_limit_is_chosen() -> None:
    rng = np.random.default_rng(0)
    flicker = one_hots([int(index) for index in rng.integers(0, len(LABELS), 600)]) / 10  # no class is sure
    lasting = one_hots([REST] * 12 + [UP] * 12 + [REST] * 6)
    material = Material({"flicker": [flicker]}, [Gesture(UP, 12, 12, lasting)])
    assert judge(PLAIN, material).false["flicker"] > 60
    chosen, judged = choose(material)
    assert chosen.allowed and chosen.mean_recall == 1.0
    assert told(chosen, judged, judge(PLAIN, material)).count("<- chosen") == 1


def test_the_rule_can_be_chosen_without_any_data(network: TemporalNetwork) -> None:
    small = Amount(crops=1, stills=2, rendered=1, gestures=2)
    one, other = (training_material(network, root=None, seed=4, amount=small) for _ in "ab")
    assert list(one.quiet) == ["rendered still"] and [g.frames for g in one.gestures[::2]] == [4, 6, 9, 12, 18]
    np.testing.assert_array_equal(one.quiet["rendered still"][0], other.quiet["rendered still"][0])


def test_noise_is_as_strong_as_asked_for_and_shakes_only_when_asked_to() -> None:
    picture = np.full((40, 40, 3), 128, np.uint8)
    film = np.stack(list(noisy(picture, np.random.default_rng(0), frames=5, noise=4.0)))
    assert film.dtype == np.uint8 and film.std() == pytest.approx(4.0, rel=0.05)
    picture[:, 20:] = 0
    (still,) = noisy(picture, np.random.default_rng(0), frames=1, noise=0.0)
    (moved,) = noisy(picture, np.random.default_rng(0), frames=1, noise=0.0, shake=3.0)
    np.testing.assert_array_equal(still, picture)
    assert not np.array_equal(moved, picture)


def test_the_card_ships_a_rule_of_the_grid_that_rests_on_still() -> None:
    rule = Smoothing.from_dict(get_card("tsm-mobilenetv2-motion").options["smoothing"])
    assert dataclasses.replace(rule, hold=None) in recipe_rule.GRID  # `hold` begins no gesture, so the choice stands


# --- streams ----------------------------------------------------------------------------------------------------------


def test_no_video_of_training_is_among_those_held_out(tmp_path: Path) -> None:
    names = [*video_names("train"), *video_names("validation"), "another"]
    for name in names:
        (tmp_path / "video" / "intel").mkdir(parents=True, exist_ok=True)
        (tmp_path / "video" / "intel" / f"{name}.mp4").touch()
    assert {path.stem for path in held_out_videos(tmp_path)} == {*video_names("validation"), "another"}
    assert set(QUIET) < set(video_names("validation"))


@pytest.mark.shared
def test_still_scenes_with_sensor_noise_show_no_gesture(shared: Path) -> None:
    model = TSM.from_pretrained(SHIPPED, runtime="torch")
    path = shared / "data" / "video" / "intel" / "people-detection.mp4"
    (one,) = watch_noise(model, [path], seed=0, seconds=10)
    assert one.gestures("shipped") == [] and one.seconds == pytest.approx(10)


def test_a_watched_stream_tells_what_was_shown_and_when() -> None:
    model = TSM.from_pretrained(SHIPPED, runtime="torch")
    clip, _ = render_segments([("still", 1.0), ("left", 1.5)], size=(120, 160), fps=24.0, seed=3, joined=True)
    one = watch(model, "clip", ((frame, index / 24) for index, frame in enumerate(clip)))
    assert one.seconds == pytest.approx(2.5) and len(one.times) == 30
    ((at, what),) = one.gestures("shipped")
    assert what == "left" and 1.0 < at < 2.5


def test_the_price_counts_each_gesture_once(network: TemporalNetwork) -> None:
    rules = {"strict": Smoothing(window=3, threshold=1.0, rest=REST), "plain": PLAIN}
    prices = measure_price(network, rules, root=None, frames=10, clips=20)
    assert prices["strict"].recall == (0, 18) and prices["plain"].recall[0] >= 13
    assert prices["plain"].facts()["gestures"] == 18 and prices["strict"].false == (0, 2)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_measures_what_the_folder_holds_and_prints_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe_hands, "_VARIANTS", recipe_hands._VARIANTS[:1])
    folder = tmp_path / "gestures" / "asl"
    folder.mkdir(parents=True)
    clip, _ = render_segments(
        [("still", 0.5), ("up", 1.0), ("still", 0.5)], size=(96, 128), fps=24, seed=1, joined=True
    )
    with VideoWriter(folder / "wave.avi", fps=24, size=(96, 128)) as video:
        for frame in clip:
            video.write(frame)
    (folder / "labels.csv").write_text(
        "file,word,signer,split,raise_start,raise_end,lower_start,lower_end\nwave.avi,wave,F,train,14,34,-1,-1\n"
    )
    assert main(["real", "--data", str(tmp_path), "--clips", "0", "--threads", "1", "--json"]) == 0
    *said, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["hands"]["without shift (control): up against down, nothing fitted"]["by_signer"] == {"F": 0.5}
    assert found["strokes_shown"]["plain"][1] == 1 and "videos" not in found
    assert any("no held-out video" in line for line in said)


def test_a_folder_without_footage_is_refused_with_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["real", "--data", str(tmp_path), "--threads", "1"]) == 1
    assert "hint: give `--data`" in capsys.readouterr().err


def test_the_rule_command_prints_the_choice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    material = Material({"quiet": [one_hots([REST] * 40)]}, [Gesture(UP, 2, 12, one_hots([REST, REST, *[UP] * 20]))])
    monkeypatch.setattr(recipe_real, "training_material", lambda *_args, **_options: material)
    assert main(["rule", "--data", ".", "--threads", "1", "--json"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert any("<- chosen" in line for line in table)
    assert json.loads(last)["chosen"]["false_per_minute"] == {"quiet": 0.0}


# --- many frames ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_three_thousand_frames_leave_state_and_memory_as_they_were() -> None:
    pytest.importorskip("onnxruntime")
    session = TSM.from_pretrained("tsm-mobilenetv2-motion", runtime="onnx").session()
    clip, _ = render_segments([("still", 1.0), ("left", 1.0)], size=(96, 128), fps=12.0, seed=3)
    states, kept = [], []
    for index in range(3000):
        session.update(clip[index % len(clip)], timestamp=index / 12)
        if (index + 1) % 600 == 0:  # a whole number of loops
            states.append({name: array.copy() for name, array in session.state.numpy().items()})
            kept.append(len(json.dumps(session.memory.to_dict())))
    assert all(np.isfinite(array).all() for array in states[-1].values())
    for state in states[1:]:
        for name, array in state.items():
            np.testing.assert_array_equal(array, states[0][name])  # the past of a causal shift is finite
    assert max(kept) - min(kept) < 64  # digits of a counter
