"""Sample media of this family, generated: three balloons drift over hills, and two pass behind a tower."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._files import as_path
from effvision._optional import import_cv2
from effvision.sources import VideoWriter, as_frame

__all__ = ["FIRST_BOXES", "SIZE", "moving_boxes", "render", "write_sample"]

SIZE = (360, 480)
_FPS = 25.0
_SECONDS = 8.0
_ENLARGED = 4  # balloons are drawn so much larger than they are shown, so that they move by parts of pixels
_RADIUS = (26, 34)  # half width, half height in pixels
_STARTS = ((105.0, 92.0), (368.0, 112.0), (247.0, 218.0))  # centres in the first frame
FIRST_BOXES = tuple((x - _RADIUS[0], y - _RADIUS[1], x + _RADIUS[0], y + _RADIUS[1]) for x, y in _STARTS)
"""`x1 y1 x2 y2` of the balloons in the first frame, whatever the seed."""
_COLORS = (
    ((214, 62, 54), (250, 240, 222)),
    ((38, 92, 158), (246, 196, 62)),
    ((104, 58, 128), (232, 122, 150)),
)
_TOWER = (150, 292, 322)  # its top, and the columns it hides


def render(
    count: int, *, seed: int = 0, size: tuple[int, int] = SIZE
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """Yield frames (H, W, 3) uint8 RGB and the true boxes (3, 4) of the balloons.

    Args:
        count: Frames.
        seed: Another one drifts on other paths and has other hills; the first boxes stay.
        size: (height, width); other than `SIZE` the picture is cut or continued, not scaled.
    """
    rng = np.random.default_rng([seed, 77])
    scene = _landscape(rng, size)
    sprites = [_balloon(rng, *colors) for colors in _COLORS]
    speed = rng.uniform(0.5, 1.1, 3) * (1, -1, 1)
    sway = rng.uniform(8, 20, (3, 2))
    period = rng.uniform(50, 90, (3, 2))
    growth = rng.uniform(-0.12, 0.12, 3)
    noise = np.random.default_rng([seed, 78])
    for index in range(count):
        frame = scene.copy()
        boxes = np.empty((3, 4))
        for which, sprite in enumerate(sprites):
            turn = 2 * np.pi * index / period[which]
            x = _STARTS[which][0] + _fold(speed[which] * index, 110.0) + sway[which, 0] * np.sin(turn[0])
            y = _STARTS[which][1] + sway[which, 1] * np.sin(turn[1])
            scale = 1 + growth[which] * np.sin(2 * np.pi * index / 160)
            half = np.array(_RADIUS) * scale
            boxes[which] = [x - half[0], y - half[1], x + half[0], y + half[1]]
            _paste(frame, sprite, boxes[which])
        frame[_TOWER[0] :, _TOWER[1] : _TOWER[2]] = (104, 94, 88)
        frame[_TOWER[0] - 10 : _TOWER[0], _TOWER[1] - 4 : _TOWER[2] + 4] = (150, 72, 58)
        frame += noise.normal(0, 2.0, frame.shape[:2])[..., None]
        yield np.clip(frame, 0, 255).astype(np.uint8), boxes


def write_sample(path: str | os.PathLike[str], *, seed: int = 0) -> Path:
    """Write the video: 480x360, 25 frames a second, 8 seconds.

    Raises:
        InputError: the suffix is no video's.
        SourceError: the folder does not exist or cannot be written.
    """
    with VideoWriter(as_path(path), fps=_FPS, size=SIZE) as video:
        for image, _ in render(round(_FPS * _SECONDS), seed=seed):
            video.write(image)
    return Path(path)


def moving_boxes(
    batch: int, steps: int, *, seed: int, frames: Sequence[Any] = ()
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """Yield pictures with `batch` boxes each: balloons, or boxes that lie anywhere in the user's own `frames`."""
    rng = np.random.default_rng([seed, 79])
    if len(frames):
        for step in range(steps):
            image = as_frame(frames[step % len(frames)])
            height, width = image.shape[:2]
            center = rng.uniform(0.2, 0.8, (batch, 2)) * (width, height)
            half = rng.uniform(0.05, 0.25, (batch, 2)) * min(height, width)
            yield image, np.concatenate([center - half, center + half], axis=1)
        return
    for image, boxes in render(steps, seed=seed):
        chosen = boxes[np.arange(batch) % 3]
        yield image, chosen + rng.uniform(-4, 4, (batch, 1)) * (1, 1, 1, 1)


def _fold(value: float, reach: float) -> float:
    """Go forth and back between 0 and `reach`."""
    turned = abs(value) % (2 * reach)
    return float(np.sign(value) * min(turned, 2 * reach - turned))


def _balloon(rng: np.random.Generator, dark: Sequence[int], light: Sequence[int]) -> NDArray[np.float32]:
    """A balloon of stripes with a basket, (H, W, 4): RGB and how much it covers."""
    height, width = 2 * _RADIUS[1] * _ENLARGED, 2 * _RADIUS[0] * _ENLARGED
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    across, down = (x / width - 0.5) * 2, (y / height - 0.4) / 0.4
    inside = across**2 * np.where(down > 0, 1 + 0.5 * down, 1.0) + np.abs(down) ** 2 < 1
    bulge = across / np.sqrt(np.maximum(1e-3, 1 - np.minimum(down**2, 0.95)))
    stripe = np.sin(bulge * rng.uniform(6, 8) + rng.uniform(0, 6)) > 0
    band = np.abs(down + rng.uniform(-0.1, 0.3)) < 0.12
    color = np.where((stripe ^ band)[..., None], np.array(dark, np.float32), np.array(light, np.float32))
    color = color * (0.78 + 0.3 * np.clip(0.6 - across * 0.5 - down * 0.3, 0, 1))[..., None]
    basket = (np.abs(across) < 0.2) & (y > height * 0.87)
    ropes = (np.abs(np.abs(across) - 0.18 - 1.2 * np.clip(0.87 - y / height, 0, 1)) < 0.035) & (y > height * 0.74)
    color[basket | (ropes & ~inside)] = (96, 66, 40)
    cover = (inside | basket | (ropes & (y < height * 0.88))).astype(np.float32)
    return np.concatenate([color, cover[..., None]], axis=2).astype(np.float32)


def _paste(frame: NDArray[np.float32], sprite: NDArray[np.float32], box: NDArray[np.float64]) -> None:
    cv2 = import_cv2()
    left, top = max(0, int(box[0]) - 1), max(0, int(box[1]) - 1)
    right, bottom = min(frame.shape[1], int(box[2]) + 2), min(frame.shape[0], int(box[3]) + 2)
    if left >= right or top >= bottom:
        return
    scale_x, scale_y = (box[2] - box[0]) / sprite.shape[1], (box[3] - box[1]) / sprite.shape[0]
    # sampled between four pixels of the drawing for each of the picture, so that edges stay soft
    fine = cv2.warpAffine(
        sprite,
        np.array(
            [
                [scale_x * 2, 0, (box[0] - left) * 2 + 0.5 * scale_x],
                [0, scale_y * 2, (box[1] - top) * 2 + 0.5 * scale_y],
            ]
        ),
        ((right - left) * 2, (bottom - top) * 2),
        flags=cv2.INTER_LINEAR,
    )
    shown = fine.reshape(bottom - top, 2, right - left, 2, 4).mean(axis=(1, 3))
    cover = shown[..., 3:]
    region = frame[top:bottom, left:right]
    color = shown[..., :3] / np.maximum(cover, 1e-3)
    region += cover * (color - region)


def _landscape(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """Sky with clouds over rows of hills, (H, W, 3) float32 0..255."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    down = (y / SIZE[0])[..., None]
    scene = np.array((118, 172, 214), np.float32) * (1 - down) + np.array((226, 226, 214), np.float32) * down
    clouds = sum(
        np.sin(x / rng.uniform(20, 70) + rng.uniform(0, 6)) * np.sin(y / rng.uniform(14, 30) + rng.uniform(0, 6))
        for _ in range(6)
    )
    scene += 26 * np.clip(np.asarray(clouds) / 2.5, 0, 1)[..., None]
    for level, color in enumerate(((128, 156, 138), (98, 134, 98), (74, 112, 70))):
        ridge = SIZE[0] * (0.62 + 0.13 * level)
        for _ in range(3):
            ridge = ridge + rng.uniform(4, 14) * np.sin(x / rng.uniform(25, 90) + rng.uniform(0, 6))
        grain = 7 * np.sin(x * rng.uniform(0.3, 0.6) + y * rng.uniform(0.1, 0.3)) * np.sin(y * rng.uniform(0.2, 0.5))
        hill = np.array(color, np.float32) + grain[..., None] - 24 * ((y - ridge) / SIZE[0])[..., None]
        scene = np.where((y > ridge)[..., None], hill, scene)
    return np.asarray(scene, np.float32)
