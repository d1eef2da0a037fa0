"""From a scene and a path to pictures: trembling camera, motion blur, distractors and the defects of a cheap sensor."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.models.tsm.clips_scene import Look, make_object, random_colour

cv2: Any = import_cv2()

__all__ = ["film", "tremble"]

Array = NDArray[Any]
Generator = np.random.Generator


def tremble(rng: Generator, count: int, most: float) -> Array:
    """Shaky hand: white noise plus a slow sway, (count, 2), of a random size up to `most` each."""
    white = rng.standard_normal((count, 2)) * most * rng.uniform() ** 2
    slow = np.sin(np.arange(count)[:, None] * rng.uniform(0.1, 0.8, 2) + rng.uniform(0, 6.28, 2)) * most * rng.uniform()
    return white + slow


def film(
    backdrop: Array, layer: Array, path: Array, shown: Array, size: tuple[int, int], rng: Generator, scene: Generator,
    look: Look,
) -> Array:  # fmt: skip
    """Render a scene along a path.

    Args:
        backdrop: (1 or T, H', W', 3), uint8 RGB, a little larger than the pictures.
        layer: The object, premultiplied RGBA (D, D, 4) uint8.
        path: (T, 4): x, y from the centre and log diameter in shorter sides, angle in rad clockwise.
        shown: (T,), 0 invisible .. 1.
        size: (height, width) of the pictures in pixels.
        rng: The camera's generator.
        scene: The scene's generator.
        look: Which defects, how many distractors.

    Returns:
        (T, H, W, 3), uint8 RGB.
    """
    count, side = len(path), min(size)
    shake = tremble(rng, count, look.camera) * side
    pictures = np.empty((count, *size, 3), np.uint8)
    margin = (np.array(backdrop.shape[2:0:-1]) - np.array(size[::-1])) / 2
    for t in range(count):
        dx, dy = shake[t] - margin
        behind = backdrop[t % len(backdrop)]
        pictures[t] = cv2.warpAffine(
            behind, np.array([[1, 0, dx], [0, 1, dy]], np.float64), size[::-1], borderMode=cv2.BORDER_REFLECT_101
        )
    canvas = pictures.astype(np.float32)
    if rng.uniform() < look.walker:
        kind = replace(look, shapes=look.shapes[:1], textures=look.textures[:1])
        other = make_object(scene, np.array([0, 0, -0.8, 0]), size, None, kind, backdrop)
        speed, at = rng.uniform(-0.12, 0.12), rng.uniform(-0.5, 0.5)
        walk = np.zeros((count, 4))
        walk[:, 0] = at + speed * (np.arange(count) - count / 2) / 12
        walk[:, 1], walk[:, 2] = rng.uniform(-0.1, 0.4), math.log(rng.uniform(0.2, 0.5))
        walk[:, 1] += 0.006 * np.sin(np.arange(count) * rng.uniform(0.5, 2))
        _paint(canvas, other, walk, np.ones(count), shake, 0.0)
    _distract(canvas, rng, look)
    shutter = rng.uniform(0.1, 0.35) if rng.uniform() < 0.35 * min(1, look.defects) else 0.0
    if shown.any():
        _paint(canvas, layer, path, shown, shake, shutter)
    if look.defects:
        return _defects(canvas, rng, look.defects)
    # frame by frame: every copy of a whole film in float takes half a gigabyte
    for picture, drawn in zip(pictures, canvas, strict=True):
        np.rint(drawn, out=drawn)
        picture[:] = np.clip(drawn, 0, 255, out=drawn)
    return pictures


def _paint(canvas: Array, layer: Array, path: Array, shown: Array, shake: Array, shutter: float) -> None:
    """Draw a layer into float pictures (T, H, W, 3), in place; a shutter > 0 (share of a frame) blurs what moves."""
    height, width = canvas.shape[1:3]
    side, centre = min(width, height), np.array([width, height]) / 2 - 0.5
    for t in np.flatnonzero(shown > 0):
        poses = [path[t]]
        if shutter:
            poses += [path[t] + shutter * (path[at] - path[t]) for at in (t - 1, t + 1) if 0 <= at < len(path)]
        spots = [pose[:2] * side + centre + shake[t] for pose in poses]
        # only the box that the layer can reach: most objects cover a small part of the picture
        reach = max(math.exp(pose[2]) for pose in poses) * side * 0.71 + 2
        left, top = (max(0, int(value - reach)) for value in np.min(spots, axis=0))
        right, bottom = (int(value + reach) + 1 for value in np.max(spots, axis=0))
        box = canvas[t, top : max(top, bottom), left : max(left, right)]
        if not box.size:
            continue
        drawn = [_warp(layer, pose, spot - (left, top), side, box) for pose, spot in zip(poses, spots, strict=True)]
        paint = drawn[0].astype(np.float32)
        if len(drawn) == 3:
            paint = (paint + (drawn[1].astype(np.float32) + drawn[2])) * np.float32(1 / 3)
        paint *= np.float32(shown[t])
        box *= 1 - paint[..., 3:] * np.float32(1 / 255)
        box += paint[..., :3]


def _warp(layer: Array, pose: Array, spot: Array, side: int, box: Array) -> Array:
    zoom = math.exp(pose[2]) * side / len(layer)
    a, b = zoom * math.cos(pose[3]), zoom * math.sin(pose[3])
    half = (len(layer) - 1) / 2
    matrix = np.array([[a, -b, spot[0] - a * half + b * half], [b, a, spot[1] - b * half - a * half]])
    return cv2.warpAffine(layer, matrix, (box.shape[1], box.shape[0]), flags=cv2.INTER_LINEAR)  # type: ignore[no-any-return]


def _distract(canvas: Array, rng: Generator, look: Look) -> None:
    """Small things that tremble in place and come and go without order."""
    count, height, width = canvas.shape[:3]
    side = min(height, width)
    for _ in range(rng.integers(0, look.distractors + 1) if look.distractors else 0):
        h, w = (max(2, int(side * extent)) for extent in rng.uniform(0.04, 0.12, 2))
        y, x = rng.uniform(0, height - h), rng.uniform(0, width - w)
        steps = rng.standard_normal((count, 2)) * side * rng.uniform(0, 0.02)
        on, colour = np.flatnonzero(rng.uniform(size=count) < rng.uniform(0.3, 1.2)), random_colour(rng)
        for t in on:
            top, left = int(np.clip(y + steps[t, 0], 0, height - h)), int(np.clip(x + steps[t, 1], 0, width - w))
            canvas[t, top : top + h, left : left + w] *= 0.3
            canvas[t, top : top + h, left : left + w] += 0.7 * colour


@lru_cache(maxsize=1)
def _noise_bank() -> Array:
    return np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)


def _defects(canvas: Array, rng: Generator, amount: float) -> Array:
    """What a cheap camera does, (T, H, W, 3) float to uint8; every kind is drawn alike for all classes."""
    count = len(canvas)
    gain = np.ones((count, 1, 1, 3), np.float32) * rng.uniform(0.75, 1.2)
    gain *= 1 + amount * rng.uniform(-0.12, 0.12, 3)
    if rng.uniform() < 0.35 * amount:  # mains flicker
        gain *= 1 + 0.04 * rng.standard_normal((count, 1, 1, 1))
    if rng.uniform() < 0.15 * amount:  # exposure follows the scene, either way
        gain *= 1 + np.linspace(0, rng.uniform(-0.25, 0.25), count).reshape(-1, 1, 1, 1)
    canvas *= gain
    if rng.uniform() < 0.12 * amount:
        canvas[:] = canvas @ np.array([[0.299], [0.587], [0.114]], np.float32)
    if rng.uniform() < 0.25 * amount:
        sigma = rng.uniform(0.4, 1.1) * min(canvas.shape[1:3]) / 64
        for picture in canvas:
            cv2.GaussianBlur(picture, (0, 0), sigma, dst=picture)
    if rng.uniform() < 0.7 * amount:
        strength = np.float32(rng.uniform(0.5, 9))
        bank = _noise_bank()
        if len(bank) < 2 * canvas[0].size:
            bank = np.resize(bank, 2 * canvas[0].size)
        for picture, start in zip(canvas, rng.integers(0, len(bank) - canvas[0].size, count), strict=True):
            picture += bank[start : start + picture.size].reshape(picture.shape) * strength
    pictures = canvas.round().clip(0, 255).astype(np.uint8)
    if rng.uniform() < 0.2 * amount:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 75))]
        for t in range(count):
            decoded = cv2.imdecode(cv2.imencode(".jpg", pictures[t], quality)[1], cv2.IMREAD_COLOR)
            pictures[t] = pictures[t] if decoded is None else decoded
    return pictures
