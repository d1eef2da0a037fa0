"""What is in a clip: backgrounds, the masked and textured object, and how hard it all is to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.models.tsm.clips_media import Media

cv2: Any = import_cv2()

__all__ = ["Look", "make_backdrop", "make_object", "random_colour"]

Array = NDArray[Any]
Generator = np.random.Generator


@dataclass(frozen=True)
class Look:
    """How hard a clip is to read. Every field but the two tuples is a probability or an amount, 0 for none.

    Attributes:
        shapes: Families of masks of the object.
        textures: Families of fillings of the object; `picture` needs media.
        plain: Share of backgrounds that are a plain gradient.
        film: Share of the other backgrounds that play, where media have films.
        size: Smallest and largest diameter of the object at the anchor.
        empty: Share of `still` clips without object.
        distractors: Most small things that tremble and flicker.
        walker: Share of clips with a second, large object that drifts slowly.
        camera: Largest trembling of the camera, in sides; also scales the sway of the object.
        defects: Noise, flicker, blur, compression, grey and colour casts.
    """

    shapes: tuple[str, ...] = ("disc", "blob", "slab", "hand")
    textures: tuple[str, ...] = ("clouds", "bands", "skin", "picture")
    plain: float = 0.25
    film: float = 0.4
    size: tuple[float, float] = (0.24, 0.85)
    empty: float = 0.0
    distractors: int = 3
    walker: float = 0.15
    camera: float = 0.012
    defects: float = 1.0

    @classmethod
    def train(cls) -> Look:
        """The training distribution."""
        return cls(empty=0.25)

    @classmethod
    def easy(cls) -> Look:
        """The first stage of the curriculum: plain backgrounds, large objects, little trembling."""
        return cls(plain=0.8, size=(0.3, 0.85), empty=0.1, distractors=0, walker=0.0, camera=0.003, defects=0.3)

    @classmethod
    def validation(cls) -> Look:
        """As hard as `train`, with shapes and textures that it does not contain; an object in every clip."""
        return cls(shapes=("star", "cross", "crescent", "mitten"), textures=("checks", "cells", "dots", "picture"))

    @classmethod
    def sample(cls) -> Look:
        """Clean pictures that a person reads at once."""
        return cls(shapes=("hand",), textures=("skin",), plain=0.0, size=(0.5, 0.65), distractors=0, walker=0.0,
                   camera=0.002, defects=0.0)  # fmt: skip

    def exact(self) -> Look:
        """The same without anything random per frame: opposite classes are then bit-exact time reversals."""
        return replace(self, film=0.0, distractors=0, walker=0.0, camera=0.0, defects=0.0, empty=0.0)


def make_backdrop(rng: Generator, size: tuple[int, int], count: int, media: Media | None, look: Look) -> Array:
    """Backgrounds (1 or count, H', W', 3) uint8, a little larger than the picture so that the camera can tremble."""
    height, width = (round(side * 1.12) for side in size)
    if rng.uniform() < look.plain or (media is None and look.plain > 0 and rng.uniform() < 0.3):
        return _gradient(rng, height, width)[None]
    if media is None:
        return _room(rng, height, width)[None]
    if media.films and rng.uniform() < look.film:
        film = media.films[rng.integers(len(media.films))]
        start, forward = rng.integers(len(film)), rng.uniform() < 0.5
        order = (start + np.arange(count)) % (2 * len(film) - 2)  # there and back: no jump at the end
        order = np.minimum(order, 2 * len(film) - 2 - order)
        chosen = film[order if forward else order[::-1]]
    elif media.films and rng.uniform() < 0.4:
        film = media.films[rng.integers(len(media.films))]
        chosen = film[rng.integers(len(film))][None]
    else:
        chosen = media.stills[rng.integers(len(media.stills))][None]
    box, flip = _crop_box(rng, chosen.shape[1:3], height / width, 0.7), rng.uniform() < 0.5
    return np.stack([_crop(picture, box, flip, height, width) for picture in chosen])


def _gradient(rng: Generator, height: int, width: int) -> Array:
    corners = (random_colour(rng) + rng.uniform(-40, 40, (2, 2, 3))).clip(0, 255).astype(np.uint8)
    return cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[no-any-return]


def _room(rng: Generator, height: int, width: int) -> Array:
    """A wall and a floor with a few soft boxes: enough for a background without any file."""
    picture = _gradient(rng, height, width).astype(np.float32) * 0.5 + 90
    floor = int(height * rng.uniform(0.62, 0.85))
    picture[floor:] = picture[floor:] * 0.6 + random_colour(rng) * 0.25
    for _ in range(rng.integers(3, 7)):
        x, y = rng.integers(0, width), rng.integers(0, floor)
        w, h = rng.integers(width // 12, width // 3), rng.integers(height // 12, height // 3)
        picture[y : y + h, x : x + w] = picture[y : y + h, x : x + w] * 0.55 + random_colour(rng) * 0.4
    blurred = cv2.GaussianBlur(picture, (0, 0), min(height, width) / 110 + 0.3)
    noisy: Array = np.clip(blurred + 5 * _clouds(rng, height, width)[..., None], 0, 255)
    return noisy.astype(np.uint8)


def make_object(
    rng: Generator, pose: Array, size: tuple[int, int], media: Media | None, look: Look, backdrop: Array
) -> Array:
    """The object, premultiplied RGBA (D, D, 4) uint8, at about the resolution it is seen with."""
    side, reach = min(size), math.exp(pose[2]) / 2
    d = int(np.clip(round(2 * reach * side * 1.3), 24, 640))
    shape, texture = look.shapes[rng.integers(len(look.shapes))], look.textures[rng.integers(len(look.textures))]
    alpha = _mask(rng, shape, d)
    filling = _texture(rng, texture if media or texture != "picture" else look.textures[0], d, media)
    x, y = pose[:2] * side + np.array(backdrop.shape[2:0:-1]) / 2
    reach = max(2.0, reach * side)
    near = backdrop[0, max(0, int(y - reach)) : int(y + reach), max(0, int(x - reach)) : int(x + reach)]
    behind = near.reshape(-1, 3).mean(0) if near.size else backdrop[0].reshape(-1, 3).mean(0)
    gap = filling.reshape(-1, 3).mean(0) - behind
    if np.abs(gap).max() < 40:  # an object of the colour of its background would be invisible
        filling = filling + (65 if behind.mean() < 128 else -65)
    rgba = np.concatenate([filling.clip(0, 255) * alpha[..., None], 255 * alpha[..., None]], axis=2)
    return rgba.round().astype(np.uint8)


def _mask(rng: Generator, shape: str, d: int) -> Array:
    """Soft mask (d, d) float 0..1 that reaches a little less than the whole square."""
    theta = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    radius, flatten = np.full(64, 0.46), rng.uniform(0.55, 1)
    mask = np.zeros((d, d), np.uint8)
    if shape in ("hand", "mitten"):
        _draw_hand(rng, mask, fingers=shape == "hand")
    else:
        if shape == "blob":
            for order in range(2, 6):
                radius = radius * (1 + rng.uniform(-0.16, 0.16) * np.cos(order * theta + rng.uniform(0, 6.28)))
        elif shape == "slab":
            radius = 0.32 / np.maximum(np.abs(np.cos(theta)), np.abs(np.sin(theta))) ** 0.92
        elif shape == "star":
            points, depth = rng.integers(3, 7), rng.uniform(0.25, 0.5)
            saw = np.abs((theta * points / (2 * math.pi)) % 1 - 0.5) * 2
            radius = radius * (1 - depth * saw)
        elif shape == "cross":
            near = np.abs((theta + math.pi / 4) % (math.pi / 2) - math.pi / 4)  # angle to the nearest axis
            radius = np.minimum(0.46, rng.uniform(0.13, 0.2) / np.maximum(np.sin(near), 0.2))
        radius = radius / radius.max() * 0.47
        points_xy = np.stack([np.cos(theta) * radius, np.sin(theta) * radius * flatten], axis=1)
        cv2.fillPoly(mask, [np.round((points_xy + 0.5) * d * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
        if shape == "crescent":
            away = rng.uniform(0.22, 0.4)
            cv2.circle(mask, (round(d * (0.5 + away)), d // 2), round(d * 0.3), 0, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(mask, (0, 0), d * rng.uniform(0.008, 0.03)).astype(np.float32) / 255  # type: ignore[no-any-return]


def _draw_hand(rng: Generator, mask: Array, *, fingers: bool) -> None:
    d, wrist = len(mask), rng.uniform(0.17, 0.22)
    turn = 1 if rng.uniform() < 0.5 else -1

    def stroke(x0: float, y0: float, x1: float, y1: float, thick: float) -> None:
        ends = [(round((0.5 + turn * (x - 0.5)) * d), round(y * d)) for x, y in ((x0, y0), (x1, y1))]
        cv2.line(mask, ends[0], ends[1], 255, max(1, round(thick * d)), cv2.LINE_AA)

    stroke(0.5, 0.7, 0.5, 0.98, wrist)  # forearm
    cv2.ellipse(mask, (d // 2, round(0.6 * d)), (round(0.17 * d), round(0.18 * d)), 0, 0, 360, 255, -1, cv2.LINE_AA)
    stroke(0.42, 0.66, 0.2, 0.5, 0.085)  # thumb
    if not fingers:
        stroke(0.46, 0.55, 0.47, 0.2, 0.17)
        stroke(0.56, 0.55, 0.57, 0.24, 0.15)
        return
    for x, tip, lean in ((0.38, 0.2, -0.07), (0.46, 0.1, -0.02), (0.54, 0.12, 0.03), (0.62, 0.22, 0.09)):
        bent = rng.uniform(0, 0.16) if rng.uniform() < 0.3 else 0
        stroke(x, 0.55, x + lean, tip + bent + rng.uniform(-0.02, 0.02), rng.uniform(0.068, 0.08))


def _texture(rng: Generator, texture: str, d: int, media: Media | None) -> Array:
    """Filling (d, d, 3), float RGB 0..255 or a little outside."""
    first, second = random_colour(rng), random_colour(rng)
    if texture == "picture" and media is not None:
        picture = media.stills[rng.integers(len(media.stills))]
        box = _crop_box(rng, picture.shape[:2], 1.0, 0.35)
        return _crop(picture, box, rng.uniform() < 0.5, d, d).astype(np.float32)
    if texture == "skin":
        tone = np.array([224, 172, 136]) * rng.uniform(0.35, 1.08) + rng.uniform(-14, 14, 3)
        y, x = np.mgrid[0:d, 0:d].astype(np.float32) / d - 0.5
        shade = 1 + rng.uniform(-0.35, 0.35) * x + rng.uniform(-0.35, 0.1) * y + 0.05 * _clouds(rng, d, d)
        return (tone * shade[..., None]).astype(np.float32)  # type: ignore[no-any-return]
    if texture == "bands":
        y, x = np.mgrid[0:d, 0:d].astype(np.float32) / d
        angle, waves = rng.uniform(0, math.pi), rng.uniform(2, 6)
        wave = np.sin(2 * math.pi * waves * (x * math.cos(angle) + y * math.sin(angle)) + _clouds(rng, d, d))
        mix = 0.5 + 0.5 * wave
    elif texture == "checks":
        y, x = np.mgrid[0:d, 0:d].astype(np.float32) / d
        cells = rng.uniform(2.5, 6)
        mix = ((x * cells).astype(int) + (y * cells * rng.uniform(0.5, 1)).astype(int)) % 2
    elif texture == "cells":
        seeds = rng.uniform(0, 1, (rng.integers(6, 18), 2)).astype(np.float32)
        grid = np.mgrid[0:d, 0:d].reshape(2, -1, 1).transpose(1, 2, 0).astype(np.float32) / d
        nearest = ((grid - seeds) ** 2).sum(2).argmin(1)
        mix = rng.uniform(0, 1, len(seeds))[nearest].reshape(d, d)
    elif texture == "dots":
        spots = np.zeros((d, d), np.uint8)
        for x, y in rng.uniform(0, d, (rng.integers(6, 20), 2)):
            cv2.circle(spots, (int(x), int(y)), max(2, int(d * rng.uniform(0.03, 0.1))), 255, -1, cv2.LINE_AA)
        mix = spots / 255
    else:
        mix = 0.5 + 0.5 * _clouds(rng, d, d)
    return (first + (second - first) * mix[..., None]).astype(np.float32)  # type: ignore[no-any-return]


def _clouds(rng: Generator, height: int, width: int) -> Array:
    """Smooth noise (height, width), about -1..1."""
    total = np.zeros((height, width), np.float32)
    for cells, weight in ((3, 0.6), (7, 0.5), (15, 0.3)):
        total += weight * cv2.resize(
            rng.uniform(-1, 1, (cells, cells)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
    return total


def random_colour(rng: Generator) -> Array:
    """A colour of any hue, (3,) float RGB 0..255."""
    hue, saturation, value = rng.uniform(0, 6), rng.uniform(0, 1) ** 1.3, rng.uniform(0.1, 1)
    wheel = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return 255 * value * (1 - saturation + saturation * wheel)  # type: ignore[no-any-return]


def _crop_box(rng: Generator, shape: Sequence[int], ratio: float, least: float) -> tuple[int, int, int, int]:
    """Random y, x, height, width of a box with height/width = `ratio` inside a picture."""
    most = min(shape[1], shape[0] / ratio)
    width = most * rng.uniform(least, 1)
    height = width * ratio
    y, x = rng.uniform(0, shape[0] - height + 1e-6), rng.uniform(0, shape[1] - width + 1e-6)
    return int(y), int(x), max(2, int(height)), max(2, int(width))


def _crop(picture: Array, box: tuple[int, int, int, int], flip: bool, height: int, width: int) -> Array:
    y, x, h, w = box
    part = picture[y : y + h, x : x + w]
    part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if h > height else cv2.INTER_LINEAR)
    return part[:, ::-1] if flip else part  # type: ignore[no-any-return]
