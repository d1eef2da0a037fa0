"""Procedural clips of ten motions, for training, tests and the `sample` command; numpy and OpenCV only, no file, no torch.

A clip is a scene (background, one masked and textured object, distractors), a path of the object, and a camera. The scene,
the path's random numbers and the camera each have a generator of their own, so with one seed

- the object has the same look, place, size and angle at the anchor time in every class, and
- opposite classes are exact time reversals of each other (bit for bit where the camera is ideal, as in `Look.exact`),

so that no single frame can tell left from right. Lengths are in units of the picture's shorter side, from its centre.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import InputError
from effvision.models.tsm.clips_camera import film, tremble
from effvision.models.tsm.clips_media import Media
from effvision.models.tsm.clips_scene import Look, make_backdrop, make_object

__all__ = ["IGNORED", "LABELS", "SMALLEST", "Look", "Media", "opposite", "render_clip", "render_segments"]

LABELS = ("left", "right", "up", "down", "closer", "away", "clockwise", "counter-clockwise", "shake", "still")
SMALLEST = 16
"""Fewest pixels of height or width in which a motion can be drawn."""
IGNORED = -1
"""Frame label where no class is right: around a change of motion, or while the object is outside the picture."""

Array = NDArray[Any]
Generator = np.random.Generator

# these classes are the time reversal of those
_BASE = {"left": "right", "up": "down", "away": "closer", "counter-clockwise": "clockwise"}
# sides/s, 1/s (log size), rad/s; slower is `still`
_SLOWEST = {"right": 0.30, "down": 0.30, "closer": 0.45, "clockwise": 0.9}
_FASTEST = {"right": 2.0, "down": 2.0, "closer": 2.0, "clockwise": 5.0}
_TRAVEL = {"right": 1.1, "down": 1.1, "closer": 1.15, "clockwise": 60.0}  # most of one segment
_PIECE_S = 2.0  # longer segments repeat


def opposite(label: str) -> str:
    """The label of the clip played backwards: left for right, and so on; `shake` and `still` are their own."""
    pairs = {**_BASE, **{base: other for other, base in _BASE.items()}}
    return pairs.get(_known(label), label)


def render_clip(
    label: str,
    *,
    frames: int,
    size: tuple[int, int],
    fps: float,
    seed: int,
    media: Media | None = None,
    look: Look | None = None,
    anchor: float = 0.5,
) -> Array:
    """Render one motion.

    Args:
        label: One of `LABELS`, as seen in the picture: `left` is towards smaller x, `clockwise` as the viewer sees it.
        frames: T >= 2.
        size: (height, width) in pixels, `SMALLEST` (16) or more each.
        fps: Frames per second, which sets how far the object moves from one frame to the next.
        seed: Everything random; the same seed gives the same scene and the same pose at the anchor in every class.
        media: Pictures for backgrounds and textures; without, all is procedural.
        look: `Look.sample()` by default.
        anchor: Where in the clip (0 first frame, 1 last) place, size and angle are the same in every class.

    Returns:
        (T, H, W, 3), uint8 RGB.

    Raises:
        InputError: an argument is outside its range.
    """
    lengths = [(_known(label), frames)]
    return _render(lengths, size=size, fps=fps, seed=seed, media=media, look=look, anchor=anchor, joined=False)[0]


def render_segments(
    segments: Sequence[tuple[str, float]],
    *,
    size: tuple[int, int],
    fps: float,
    seed: int,
    media: Media | None = None,
    look: Look | None = None,
    anchor: float = 0.5,
    joined: bool = False,
) -> tuple[Array, Array]:
    """Render several motions of one object, one after the other.

    Args:
        segments: (label, seconds) each.
        anchor: As in `render_clip`, within each segment, or with `joined` within the last.
        size: As in `render_clip`.
        fps: As in `render_clip`.
        seed: As in `render_clip`.
        media: As in `render_clip`.
        look: As in `render_clip`.
        joined: The object goes on from where the segment before left it, even out of the picture. Otherwise it fades
            out and comes back near the centre wherever the next segment starts at another place.

    Returns:
        Pictures (T, H, W, 3), uint8 RGB, and the label index of each frame (T,), int64: `IGNORED` on the first frames of
        a segment after another one (and of any `shake`), and while the object is outside the picture.

    Raises:
        InputError: no segment, or an argument is outside its range.
    """
    lengths = [(_known(label), round(seconds * fps)) for label, seconds in segments]
    return _render(lengths, size=size, fps=fps, seed=seed, media=media, look=look, anchor=anchor, joined=joined)


def _known(label: str) -> str:
    if label not in LABELS:
        raise InputError(f"`label` must be one of {', '.join(LABELS)}; got {label!r}")
    return label


def _render(
    lengths: list[tuple[str, int]], *, size: tuple[int, int], fps: float, seed: int, media: Media | None,
    look: Look | None, anchor: float, joined: bool,
) -> tuple[Array, Array]:  # fmt: skip
    short = not lengths or min(count for _, count in lengths) < 2
    if short or min(size) < SMALLEST or not fps > 0 or not 0 <= anchor <= 1:
        raise InputError(
            f"a clip needs segments of 2 frames or more, a `size` of {SMALLEST} pixels or more, `fps` > 0 and `anchor` in "
            f"0..1; got {[count for _, count in lengths]} frames, size={size}, fps={fps}, anchor={anchor}"
        )
    look = look or Look.sample()
    scene, motion, camera = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    total, aspect = sum(count for _, count in lengths), size[1] / min(size)
    backdrop = make_backdrop(scene, size, total, media, look)
    low, high = look.size
    pose = np.array([
        scene.uniform(-0.28, 0.28) * aspect, scene.uniform(-0.28, 0.28) * size[0] / min(size),
        math.log(low) + scene.uniform() * math.log(high / low), scene.uniform(-math.pi, math.pi),
    ])  # fmt: skip
    if look.shapes == ("hand",):  # upright, as a person holds it
        pose[3] *= 0.08
    path, shown, labels = _plan(lengths, pose, fps, motion, look, anchor, joined)
    layer = make_object(scene, pose, size, media, look, backdrop)
    if {name for name, _ in lengths} == {"still"} and scene.uniform() < look.empty:
        shown = shown * 0
    path[:, :2] += tremble(motion, total, look.camera) * 0.4
    pictures = film(backdrop, layer, path, shown, size, camera, scene, look)
    outside = (np.abs(path[:, 0]) > 0.5 * aspect + 0.04) | (np.abs(path[:, 1]) > 0.5 * size[0] / min(size) + 0.04)
    outside[1:] |= outside[:-1]
    names = [name for name, count in lengths for _ in range(count)]
    labels[outside & (np.array(names) != "still")] = IGNORED
    return pictures, labels


def _plan(
    lengths: list[tuple[str, int]], pose: Array, fps: float, rng: Generator, look: Look, anchor: float, joined: bool
) -> tuple[Array, Array, Array]:
    """Poses (T, 4: x, y, log diameter, angle in rad clockwise), visibility (T,) in 0..1 and frame labels (T,)."""
    parts: list[Array] = []
    labels: list[Array] = []
    for label, count in lengths:
        pieces = max(1, round(count / fps / _PIECE_S)) if not joined else 1
        for piece in np.array_split(np.arange(count), pieces):
            parts.append(_moved(label, max(2, len(piece)), fps, rng, anchor)[: len(piece)])
        own = np.full(count, LABELS.index(label))
        if labels:
            own[:2] = IGNORED
        if label == "shake":  # before it turns round for the first time it cannot be told from left or right
            own[:3] = IGNORED
        labels.append(own)
    if joined:
        for index in range(len(parts) - 2, -1, -1):  # the last one is anchored, those before lead to it
            step = parts[index][-1] - parts[index][-2]
            parts[index] = parts[index] - parts[index][-1] + parts[index + 1][0] - step
    path = np.concatenate(parts)
    shown = np.ones(len(path))
    start = 0
    for part in parts[:-1]:
        start += len(part)
        if np.abs(path[start] - path[start - 1])[:3].max() > 0.12 and not joined:
            shown[max(0, start - 2) : start + 2] *= (0.66, 0.1, 0.1, 0.66)[: len(shown[max(0, start - 2) : start + 2])]
    return path + pose, shown, np.concatenate(labels)


def _moved(label: str, count: int, fps: float, rng: Generator, anchor: float) -> Array:
    """Poses (count, 4) relative to the one at the anchor; opposite classes draw the same numbers and reverse the result."""
    base = _BASE.get(label, label)
    if label != base:
        return _moved(base, count, fps, rng, 1 - anchor)[::-1]
    seconds, share, tilt = (count - 1) / fps, rng.uniform(), float(np.clip(rng.normal(0, 0.17), -0.38, 0.38))
    drift, heading = rng.uniform(0, 0.1), rng.uniform(-math.pi, math.pi)
    velocity = np.array([drift * math.cos(heading), drift * math.sin(heading), *rng.uniform(-0.12, 0.12, 2)])
    frequency, phase, bump = rng.uniform(1.8, 3.6), rng.uniform(0, 2 * math.pi), rng.uniform() < 0.5
    u = (np.arange(count - 1) + 0.5) / (count - 1)
    profile = 0.5 + 0.5 * np.sin(math.pi * u) if bump else np.ones(count - 1)
    steps = np.repeat(velocity[None] / fps, count - 1, axis=0)
    if base in _SLOWEST:
        slow = _SLOWEST[base]
        fast = max(slow * 1.05, min(_FASTEST[base], _TRAVEL[base] / seconds))
        move = slow * (fast / slow) ** share / fps * profile / profile.mean()
        across = {"right": (0, 1), "down": (1, 0)}.get(base)
        if across:
            steps[:, across[0]] += move * math.cos(tilt)
            steps[:, across[1]] += move * math.sin(tilt)
        else:
            steps[:, 2 if base == "closer" else 3] += move
    moved = np.concatenate([np.zeros((1, 4)), np.cumsum(steps, axis=0)])
    if base == "shake":
        reach = (0.8 + 1.4 * share) / (2 * math.pi * frequency)  # peak speed 0.8..2.2 sides/s
        swing = reach * np.sin(2 * math.pi * frequency * np.arange(count) / fps + phase)
        moved[:, 0] += swing * math.cos(1.5 * tilt)
        moved[:, 1] += swing * math.sin(1.5 * tilt)
    at = anchor * (count - 1)
    before = min(int(at), count - 2)
    return moved - (moved[before] + (at - before) * (moved[before + 1] - moved[before]))  # type: ignore[no-any-return]
