"""Boxes that hold one plain colour: their shape says nothing, and both runtimes say the same of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from effvision import PatchNet, Tracks
from effvision.host.peaks import SCORES

RED = (200, 30, 40)
BOX = [45.0, 35, 95, 75]  # within the red


@pytest.fixture(scope="module")
def exported() -> PatchNet:
    """The bundled file in ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    return PatchNet.from_pretrained("patchnet", runtime="onnx", threads=1)


def scene(kind: str, count: int = 4) -> list[NDArray[np.uint8]]:
    """A red rectangle that goes to the right: over noise, over grey, or as large as the frame."""
    rng, frames = np.random.default_rng(0), []
    for at in range(count):
        frame = np.full((120, 160, 3), 90, np.uint8)
        if kind == "over noise":
            frame = rng.integers(0, 255, frame.shape, dtype=np.uint8)
        frame[30:80, 40 + 2 * at : 100 + 2 * at] = RED
        if kind == "everywhere":
            frame[:] = RED
        frames.append(frame)
    return frames


def followed(model: PatchNet, frames: list[NDArray[np.uint8]], **options: Any) -> list[Tracks]:
    session = model.session(boxes=BOX, **options)
    return [session.update(frame, timestamp=at / 10) for at, frame in enumerate(frames)]


@pytest.mark.parametrize("score", ["likeness", *SCORES])
@pytest.mark.parametrize("kind", ["over noise", "over grey", "everywhere"])
def test_a_plain_box_is_the_same_in_both_runtimes(
    model: PatchNet, exported: PatchNet, clips: Any, kind: str, score: str
) -> None:
    one, other = (followed(each, scene(kind), score=score) for each in (model, exported))
    assert max(clips.apart(*pair) for pair in zip(one, other, strict=True)) < 1e-4
    told = np.array([result.scores[0] for result in one[1:]])
    assert (told <= 0.6 + 1e-6).all() and (told > 0.5 if score == "likeness" else told == 0).all()


@pytest.mark.parametrize("kind", ["over noise", "over grey", "everywhere"])
def test_a_plain_box_keeps_its_size_and_stays_over_its_colour(model: PatchNet, kind: str) -> None:
    for at, result in enumerate(followed(model, scene(kind, 12))):
        x1, y1, x2, y2 = result.boxes[0].tolist()
        assert (x2 - x1, y2 - y1) == pytest.approx((50, 40), abs=1e-3)
        inside = max(0, min(x2, 100 + 2 * at) - max(x1, 40 + 2 * at)) * max(0, min(y2, 80) - max(y1, 30))
        assert kind == "everywhere" or inside > 0.6 * 50 * 40


def test_a_plain_box_that_is_lost_is_not_found_again_and_ends_when_it_was_said(model: PatchNet) -> None:
    frames = scene("over grey", 14)
    for frame in frames[2:6]:
        frame[:] = 90
    for options, ended in (({}, False), ({"max_lost_s": 1.0}, True)):
        results = followed(model, frames, **options)
        assert not results[1].lost[0] and all(result.lost[0] for result in results[2:12])
        assert (results[-1].ids.tolist() == []) is ended
        assert sum(result.ended == (1,) for result in results) == ended


def test_a_single_grey_level_is_not_plain(model: PatchNet, exported: PatchNet) -> None:
    frame = scene("over grey")[0]
    frame[40:70:7, 50:92:5] += 1
    for each in (model, exported):
        assert followed(each, [frame] * 3)[-1].scores[0] > 0.99


def test_a_detector_s_plain_boxes_are_followed_by_their_colours(model: PatchNet, exported: PatchNet) -> None:
    for each in (model, exported):
        session = each.session()
        for at, frame in enumerate(scene("over grey", 5)):
            result = session.update(frame, **({"detections": [BOX]} if at == 0 else {}))
        assert result.ids.tolist() == [1] and 0.5 < result.scores[0] <= 0.6 + 1e-6 and not result.lost[0]
