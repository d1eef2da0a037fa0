from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import cv2
import numpy as np
import pytest

from effvision.errors import InputError, SourceError
from effvision.models.tsm.clips import IGNORED, LABELS, Look, Media, opposite, render_clip, render_segments

EXACT = Look.train().exact()
SIDE = 64


def foreground_moments(label: str, seed: int) -> np.ndarray:
    """x, y, log spread of what differs from the background in each frame, (T, 3): an oracle that knows no path."""
    look = Look(shapes=("slab",), textures=("skin",), plain=1.0, size=(0.3, 0.4)).exact()
    clip = render_clip(label, frames=7, size=(SIDE, SIDE), fps=12, seed=seed, look=look).astype(float)
    background = np.median(clip, axis=0) if label not in ("closer", "away") else clip.mean(axis=(1, 2))[:, None, None]
    rows = []
    for picture, behind in zip(clip, np.broadcast_to(background, clip.shape), strict=True):
        weight = np.abs(picture - behind).max(axis=2)
        weight[weight < 30] = 0
        y, x = np.mgrid[0:SIDE, 0:SIDE]
        total = weight.sum() + 1e-9
        cx, cy = (x * weight).sum() / total, (y * weight).sum() / total
        rows.append((cx, cy, np.log((weight > 0).sum() + 1.0)))
    return np.array(rows)


@pytest.mark.parametrize(("label", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
def test_the_object_of_a_translation_moves_the_named_way_in_the_picture(label: str, axis: int, sign: int) -> None:
    ways = []
    for seed in range(12):
        moments = foreground_moments(label, seed)
        ways.append(sign * (moments[4:, axis].mean() - moments[:3, axis].mean()))
    assert np.mean(np.array(ways) > 1) >= 0.9


@pytest.mark.parametrize(("label", "sign"), [("closer", 1), ("away", -1)])
def test_the_object_grows_when_it_comes_closer(label: str, sign: int) -> None:
    look = Look(shapes=("slab",), textures=("skin",), plain=1.0, size=(0.3, 0.4)).exact()
    for seed in range(6):
        clip = render_clip(label, frames=7, size=(SIDE, SIDE), fps=12, seed=seed, look=look)
        detail = [cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 40, 80) for frame in clip]
        boxes = [cv2.boundingRect(edges) for edges in detail]
        areas = [w * h for _, _, w, h in boxes]
        assert sign * (np.mean(areas[4:]) - np.mean(areas[:3])) > 0


@pytest.mark.parametrize(("label", "sign"), [("clockwise", 1), ("counter-clockwise", -1)])
def test_clockwise_is_as_the_viewer_sees_it(label: str, sign: int) -> None:
    look = Look(shapes=("hand",), textures=("skin",), plain=1.0, size=(0.6, 0.7)).exact()
    right = 0
    for seed in range(8):
        clip = render_clip(label, frames=7, size=(96, 96), fps=12, seed=seed, look=look)
        turns = []
        for before, after in pairwise(clip):
            first, second = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, after))
            # dense optical flow is the oracle; its curl is positive for clockwise, y pointing down
            flow = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)
            turns.append((np.gradient(flow[..., 1], axis=1) - np.gradient(flow[..., 0], axis=0)).sum())
        right += sign * np.sum(turns) > 0
    assert right >= 7


@pytest.mark.parametrize("label", ["left", "right", "up", "down", "closer", "away", "clockwise", "counter-clockwise"])
def test_opposite_classes_are_time_reversals_bit_for_bit_with_an_ideal_camera(label: str) -> None:
    for seed in (0, 1):
        one = render_clip(label, frames=6, size=(48, 64), fps=12, seed=seed, look=EXACT, anchor=0.25)
        other = render_clip(opposite(label), frames=6, size=(48, 64), fps=12, seed=seed, look=EXACT, anchor=0.75)
        np.testing.assert_array_equal(one, other[::-1])


def test_the_frame_at_the_anchor_is_the_same_in_every_class() -> None:
    for seed in range(4):
        middles = [render_clip(name, frames=7, size=(48, 48), fps=12, seed=seed, look=EXACT)[3] for name in LABELS]
        for middle in middles[1:]:
            np.testing.assert_array_equal(middle, middles[0])


def test_shake_turns_round() -> None:
    turned = [np.any(np.diff(np.sign(np.diff(foreground_moments("shake", seed)[:, 0]))) != 0) for seed in range(10)]
    assert np.mean(turned) >= 0.8


def test_still_moves_far_less_than_any_motion() -> None:
    change = {}
    for label in LABELS:
        clips = [render_clip(label, frames=6, size=(48, 48), fps=12, seed=seed, look=EXACT) for seed in range(12)]
        change[label] = np.median([np.abs(np.diff(clip.astype(int), axis=0)).mean() for clip in clips])
    assert change.pop("still") < 0.5 * min(change.values())


@pytest.mark.parametrize("look", [Look.train(), Look.easy(), Look.validation(), Look.sample()])
def test_a_seed_gives_the_same_clip_without_any_file(look: Look) -> None:
    clips = [render_clip("shake", frames=5, size=(60, 80), fps=12, seed=seed, look=look) for seed in (3, 3, 4)]
    assert clips[0].shape == (5, 60, 80, 3)
    assert clips[0].dtype == np.uint8
    np.testing.assert_array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


def test_media_are_used_for_backgrounds() -> None:
    striped = np.zeros((40, 60, 3), np.uint8)
    striped[:, ::2] = 255
    look = Look(plain=0.0, film=0.0, textures=("skin",)).exact()
    clip = render_clip("still", frames=2, size=(32, 32), fps=12, seed=1, media=Media((striped,)), look=look)
    assert clip.std() > 40


def test_segments_carry_a_label_for_each_frame() -> None:
    clip, labels = render_segments([("still", 0.5), ("left", 0.5), ("right", 0.5)], size=(48, 64), fps=12, seed=0)
    assert clip.shape == (18, 48, 64, 3)
    assert labels.shape == (18,)
    assert set(labels[:6]) == {LABELS.index("still")}
    assert set(labels[6:8]) == set(labels[12:14]) == {IGNORED}  # the change itself belongs to neither
    assert set(labels[8:12]) <= {LABELS.index("left"), IGNORED}
    assert set(labels[14:]) <= {LABELS.index("right"), IGNORED}


def test_joined_segments_go_on_where_the_one_before_ended() -> None:
    look = Look(shapes=("slab",), textures=("skin",), plain=1.0, size=(0.3, 0.3)).exact()
    clip = render_segments(
        [("still", 0.5), ("right", 0.5)], size=(64, 64), fps=12, seed=2, look=look, anchor=0.9, joined=True
    )[0]
    step = np.abs(np.diff(clip.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert step[5] < 3 * np.median(step[6:]) + 1  # no jump where one segment ends


@pytest.mark.parametrize(
    "change",
    [
        {"label": "sideways"},  # no such motion
        {"frames": 1},  # one frame holds no motion
        {"size": (8, 64)},  # too small to see anything
        {"fps": 0.0},
        {"anchor": 1.5},
    ],
)
def test_arguments_outside_their_range_are_refused(change: dict[str, object]) -> None:
    arguments: dict[str, object] = {"label": "left", "frames": 4, "size": (32, 32), "fps": 12.0, "seed": 0, **change}
    with pytest.raises(InputError):
        render_clip(arguments.pop("label"), **arguments)  # type: ignore[arg-type]


def test_missing_media_are_named(tmp_path: object) -> None:
    with pytest.raises(SourceError, match="EFFVISION_SHARED"):
        Media.load(str(tmp_path), "train")
    with pytest.raises(InputError, match="train, validation"):
        Media.load(str(tmp_path), "test")


def test_rendering_does_not_import_torch() -> None:
    code = (
        "import sys\n"
        "from effvision.models.tsm.clips import render_clip\n"
        "render_clip('left', frames=2, size=(32, 32), fps=12, seed=0)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
