"""Pairs of rendered frames with objects whose true boxes are known.

Pictures are cut out with a mask and pasted on others; between the two frames each object moves, turns, grows and bends a
little, the camera moves, and light, blur, noise and compression differ. A background is an object too: its boxes move with
the camera. Places are in pixels, a pixel covering [x, x + 1), as boxes are half-open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2

cv2: Any = import_cv2()

__all__ = ["Look", "Scene", "outline", "render_scene"]

Array = NDArray[Any]
Rng = np.random.Generator
Pick = Callable[[Rng], Array]
"""Draws a picture (H, W, 3) uint8 RGB."""

_PLAIN = 10.0  # standard deviation of brightness below which a patch shows nothing to match
_LARGE = 120  # pixels a side from which on a crop leaves out every other pixel
_VISIBLE = 0.6  # share of an object that must show in both frames


@dataclass(frozen=True)
class Look:
    """How much may change between the frames.

    Attributes:
        scale: Largest growth or shrinking of an object.
        aspect: Largest change of its width over its height.
        turn_degrees: Largest rotation either way.
        bend: Largest bending, as a share of the object.
        camera: Largest shift of the camera as a share of the frame; it zooms and turns along.
        light: How much brightness, contrast and colours change.
        spoiled: Probability of blur, of noise and of compression.
        hidden: Probability that something covers a part of an object in a frame.
        smallest, largest: Sides of an object in pixels.
        frame: Shortest and longest long side of a frame in pixels.
        grain: Largest strength of fine texture, in values, that moves with what it lies on. Our media are small; crops take
            single pixels of large objects, whose fine texture is then no more than noise.
    """

    scale: float = 1.25
    aspect: float = 1.1
    turn_degrees: float = 15.0
    bend: float = 0.12
    camera: float = 0.08
    light: float = 1.0
    spoiled: float = 0.45
    hidden: float = 0.2
    smallest: float = 16.0
    largest: float = 300.0
    frame: tuple[int, int] = (160, 800)
    grain: float = 16.0

    @classmethod
    def still(cls) -> Look:
        """Nothing changes between the frames but where objects are."""
        return cls(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, grain=0.0)


class Scene(NamedTuple):
    """Two frames (H, W, 3) uint8 RGB and the boxes (K, 4) `x1 y1 x2 y2` of the same K objects in them."""

    first: Array
    second: Array
    boxes_first: Array
    boxes_second: Array


class _Cutout(NamedTuple):
    """Pixels of an object in the two frames, its mask 0..1 and its outline (P, 2) in pixels of the cutout."""

    pictures: tuple[Array, Array]
    masks: tuple[Array, Array]
    outline: Array


def outline(kind: str, rng: Rng) -> Array:
    """Return a closed outline (P, 2) that just fills the unit square: `rectangle`, `ellipse` or `blob`."""
    if kind == "rectangle":
        return np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.ones_like(angle)
    if kind == "blob":
        for wave in range(2, 6):
            radius += rng.normal(0, 0.28 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
        radius = np.maximum(radius, 0.3)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    low, high = points.min(0), points.max(0)
    return np.asarray((points - low) / (high - low))


def render_scene(rng: Rng, pick: Pick, look: Look) -> Scene:
    """Render two frames from pictures that `pick` draws; only objects that stay visible have boxes."""
    ground = pick(rng)
    longest = min(float(np.exp(rng.uniform(*np.log(look.frame)))), 2.0 * max(ground.shape[:2]))
    long_side, short_side = round(longest), round(longest * rng.choice([9 / 16, 3 / 4, 1.0], p=[0.5, 0.4, 0.1]))
    width, height = (long_side, short_side) if rng.uniform() < 0.85 else (short_side, long_side)
    plate, camera = _ground(rng, ground, (height, width), look)
    frames = [_warp(plate, matrix, (height, width)) for matrix in camera]
    owners = [np.zeros((height, width), np.int32) for _ in frames]
    boxes: list[tuple[Array, Array, float, float]] = []
    before: _Cutout | None = None
    for number in range(1, int(rng.integers(1, 5)) + 1):
        size = _size(rng, (height, width), look)
        if before is None or rng.uniform() > 0.2:  # else the same object again, to be mistaken for
            before = _cut(rng, pick, size, look)
        if before is None:
            continue
        poses = _poses(rng, before.pictures[0].shape[:2], (height, width), look)
        places = []
        for frame, owner, pose, picture, mask in zip(frames, owners, poses, before.pictures, before.masks, strict=True):
            _paste(frame, owner, picture, mask, pose, number)
            places.append(_box(_moved(before.outline, pose)))
            if rng.uniform() < look.hidden:
                _cover(rng, pick, frame, owner, places[-1])
        area = cv2.contourArea(before.outline.astype(np.float32))
        grown = [area * abs(np.linalg.det(pose[:, :2])) for pose in poses]
        boxes.append((places[0], places[1], grown[0], grown[1]))
    shown = [
        (one, other)
        for number, (one, other, *areas) in enumerate(boxes, 1)
        if all((owner == number).sum() >= _VISIBLE * area for owner, area in zip(owners, areas, strict=True))
    ]
    shown += _ground_boxes(rng, frames[0], owners, camera, look)
    first, second = (_spoil(rng, frame, look) for frame in frames)
    found = np.array(shown, np.float64).reshape(-1, 2, 4)
    return Scene(first, second, found[:, 0], found[:, 1])


def _size(rng: Rng, frame: tuple[int, int], look: Look) -> tuple[float, float]:
    """Height and width of an object in the first frame."""
    most = min(look.largest, 0.5 * min(frame))
    side = float(np.exp(rng.uniform(np.log(look.smallest), np.log(most))))
    longer = float(np.exp(np.clip(rng.normal(0, 0.35), -0.7, 0.7)))
    low, high = look.smallest, 0.7 * min(frame)
    return float(np.clip(side * longer, low, high)), float(np.clip(side / longer, low, high))


def _cut(rng: Rng, pick: Pick, size: tuple[float, float], look: Look) -> _Cutout | None:
    """Cut an object of about this size out of a picture; None where nothing but plain colour was found."""
    rows, columns = max(8, round(size[0])), max(8, round(size[1]))
    for _ in range(6):
        source = pick(rng)
        dense = min(
            float(np.exp(rng.uniform(np.log(0.7), np.log(2.5)))), source.shape[0] / rows, source.shape[1] / columns
        )
        high, wide = max(4, int(rows * dense)), max(4, int(columns * dense))
        top, left = rng.integers(source.shape[0] - high + 1), rng.integers(source.shape[1] - wide + 1)
        picture = _resized(source[top : top + high, left : left + wide], (rows, columns))
        if picture.mean(2).std() > _PLAIN:
            break
    else:
        return None
    picture = _grained(rng, picture if rng.uniform() < 0.5 else picture[:, ::-1].copy(), look)
    points = outline(str(rng.choice(["rectangle", "ellipse", "blob"], p=[0.3, 0.25, 0.45])), rng)
    points = points * (columns, rows)
    mask = np.zeros((rows * 4, columns * 4), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 4 * 16).astype(np.int32)], 255, shift=4)
    alpha = _resized(mask, (rows, columns)).astype(np.float32) / 255
    pictures, masks = (picture, picture), (alpha, alpha)
    if rng.uniform() < look.spoiled:  # one of the two is out of focus
        wide = 0.1 + float(rng.uniform(0, 0.025)) * (rows * columns) ** 0.5
        pictures = picture, cv2.GaussianBlur(picture, (0, 0), wide)
    if look.bend and rng.uniform() < 0.8:
        places = _bent(rng, (rows, columns), rng.uniform(0, look.bend))
        bent = (
            cv2.remap(layer, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for layer in (pictures[1], alpha)
        )
        other, other_mask = bent
        pictures, masks = (picture, other), (alpha, other_mask)
    lights = [_light(rng, 0.5 * look.light), _light(rng, 0.5 * look.light)] if look.light else [None, None]
    shown = tuple(
        cv2.LUT(one, table) if table is not None else one for one, table in zip(pictures, lights, strict=True)
    )
    return _Cutout((shown[0], shown[1]), masks, points)


def _grained(rng: Rng, picture: Array, look: Look) -> Array:
    """Add fine texture to something large, in half of the cases."""
    if rng.uniform() < 0.5 or not look.grain or min(picture.shape[:2]) < _LARGE:
        return picture
    fine = np.empty(picture.shape[:2], np.float32)
    cv2.setRNGSeed(int(rng.integers(1 << 31)))
    cv2.randn(fine, 0.0, float(rng.uniform(0, look.grain)))
    return np.clip(np.round(picture + fine[..., None]), 0, 255).astype(np.uint8)


def _bent(rng: Rng, size: tuple[int, int], share: float) -> tuple[Array, Array]:
    """Where each pixel of a bent cutout comes from; its border stays."""
    rows, columns = size
    fields = []
    for along, length in ((1, columns), (0, rows)):
        coarse = np.zeros((6, 6), np.float32)
        coarse[1:-1, 1:-1] = rng.uniform(-1, 1, (4, 4)) * share * length
        own = np.arange(length, dtype=np.float32)
        fields.append(
            cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC) + (own if along else own[:, None])
        )
    return fields[0], fields[1]


def _poses(rng: Rng, cutout: tuple[int, ...], frame: tuple[int, int], look: Look) -> list[Array]:
    """Two affine maps (2, 3) from the pixels of a cutout to those of the frames."""
    size = np.array([cutout[1], cutout[0]], np.float64)
    spare = np.array([frame[1], frame[0]]) - 0.6 * size
    place = 0.3 * size + rng.uniform(0, 1, 2) * np.maximum(spare, 1)
    calm = 0.3 if rng.uniform() < 0.4 else 1.0  # frames next to each other differ little
    move = rng.normal(0, 1.2, 2) * calm * size / 8
    first = np.exp(rng.uniform(-0.1, 0.1)) * np.eye(2) if look.scale > 1 else np.eye(2)
    scale = np.exp(np.clip(rng.normal(0, 0.45 * calm), -1, 1) * np.log(look.scale))
    longer = np.exp(rng.uniform(-0.5, 0.5) * calm * np.log(look.aspect))
    angle = np.deg2rad(rng.uniform(-1, 1) * calm * look.turn_degrees) * (rng.uniform() < 0.6)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    second = turn @ np.diag([scale * longer, scale / longer]) @ first
    return [_about(first, size / 2, place), _about(second, size / 2, place + move)]


def _about(linear: Array, middle: Array, place: Array) -> Array:
    return np.concatenate([linear, (place - linear @ middle)[:, None]], axis=1)


def _ground(rng: Rng, picture: Array, frame: tuple[int, int], look: Look) -> tuple[Array, list[Array]]:
    """A background larger than the frame, and where the camera sees it in the two frames."""
    height, width = frame
    room = 1 + 2 * look.camera + 0.1
    rows, columns = int(height * room) + 1, int(width * room) + 1
    share = min(picture.shape[0] / rows, picture.shape[1] / columns)
    share *= rng.uniform(max(0.5, min(1.0, 0.5 / share)), 1)
    high, wide = max(8, int(rows * share)), max(8, int(columns * share))
    top, left = rng.integers(picture.shape[0] - high + 1), rng.integers(picture.shape[1] - wide + 1)
    plate = _resized(picture[top : top + high, left : left + wide], (rows, columns))
    middle, place = np.array([columns / 2, rows / 2]), np.array([width / 2, height / 2])
    angle, scale = np.deg2rad(rng.normal(0, 20) * look.camera), np.exp(rng.normal(0, 0.4) * look.camera)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    move = np.clip(rng.normal(0, 0.5, 2), -1, 1) * look.camera * place
    return plate, [_about(np.eye(2), middle, place), _about(turn, middle, place + move)]


def _ground_boxes(
    rng: Rng, frame: Array, owners: list[Array], camera: list[Array], look: Look
) -> list[tuple[Array, Array]]:
    """Boxes on the background where it has texture and nothing lies before it."""
    found: list[tuple[Array, Array]] = []
    height, width = frame.shape[:2]
    for _ in range(4):
        rows, columns = _size(rng, (height, width), look)
        left, top = rng.uniform(0, max(1, width - columns)), rng.uniform(0, max(1, height - rows))
        inner = frame[int(top) : int(top + rows), int(left) : int(left + columns)]
        if len(found) == 1 or inner.size == 0 or inner.mean(2).std() < 1.5 * _PLAIN:
            continue
        corners = np.array([[left, top], [left + columns, top], [left + columns, top + rows], [left, top + rows]])
        back = np.linalg.inv(camera[0][:, :2])
        other = _moved((corners - camera[0][:, 2]) @ back.T, camera[1])
        boxes = _box(corners), _box(other)
        free = [_share_of(owner, box, 0) for owner, box in zip(owners, boxes, strict=True)]
        if min(free) >= _VISIBLE:
            found.append(boxes)
    return found


def _share_of(owner: Array, box: Array, number: int) -> float:
    """Which share of a box, as far as the whole of it, belongs to an object."""
    x1, y1, x2, y2 = np.round(box).astype(int)
    seen = owner[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)]
    return float((seen == number).sum() / max(1, (x2 - x1) * (y2 - y1)))


def _cover(rng: Rng, pick: Pick, frame: Array, owner: Array, box: Array) -> None:
    """Put something over a side of a box."""
    size = box[2:] - box[:2]
    rows, columns = (max(6, round(float(side * rng.uniform(0.3, 0.7)))) for side in size[::-1])
    source = pick(rng)
    picture = _resized(source[: min(len(source), 2 * rows), : min(source.shape[1], 2 * columns)], (rows, columns))
    side = rng.choice([0.0, 1.0], 2) + rng.normal(0, 0.1, 2)
    pose = _about(np.eye(2), np.array([columns / 2, rows / 2]), box[:2] + side * size)
    _paste(frame, owner, picture, np.ones((rows, columns), np.float32), pose, -1)


def _paste(frame: Array, owner: Array, picture: Array, mask: Array, pose: Array, number: int) -> None:
    """Paint a cutout into a frame, in place, and say in `owner` whose the pixels are."""
    rows, columns = picture.shape[:2]
    corners = _moved(np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float64), pose)
    x1, y1 = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
    x2, y2 = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, [frame.shape[1], frame.shape[0]])
    if x2 <= x1 or y2 <= y1:
        return
    near = pose.copy()
    near[:, 2] -= (x1, y1)
    size = (int(y2 - y1), int(x2 - x1))
    colour = _warp(picture, near, size).astype(np.float32)
    alpha = _warp(mask, near, size, outside=cv2.BORDER_CONSTANT)
    below = frame[y1:y2, x1:x2]
    below[:] = np.round(below + alpha[..., None] * (colour - below)).astype(np.uint8)
    owner[y1:y2, x1:x2][alpha > 0.5] = number


def _warp(picture: Array, matrix: Array, size: tuple[int, int], outside: int | None = None) -> Array:
    """Lay a picture into another by an affine map of places; OpenCV counts from the middle of pixels."""
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    border = cv2.BORDER_REPLICATE if outside is None else outside
    return cv2.warpAffine(picture, centred, (size[1], size[0]), flags=cv2.INTER_LINEAR, borderMode=border)  # type: ignore[no-any-return]


def _spoil(rng: Rng, frame: Array, look: Look) -> Array:
    """Change the light, blur, add noise, compress."""
    if look.light:
        frame = cv2.LUT(frame, _light(rng, look.light))
    if rng.uniform() < look.spoiled:
        frame = cv2.GaussianBlur(frame, (0, 0), float(rng.uniform(0.3, 1.4)) * max(1.0, max(frame.shape) / 400))
    if rng.uniform() < 0.6 * look.spoiled:
        frame = cv2.filter2D(frame, -1, _streak(float(rng.uniform(2, 8)), float(rng.uniform(0, np.pi))))
    if rng.uniform() < look.spoiled:
        noise = np.empty(frame.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(1 << 31)))
        cv2.randn(noise, 0, float(rng.uniform(1, 12)))
        frame = np.clip(frame + noise, 0, 255).astype(np.uint8)
    if rng.uniform() < look.spoiled:
        quality = int(rng.integers(35, 95))
        _, code = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
        frame = cv2.imdecode(code, cv2.IMREAD_COLOR)
    return frame


def _light(rng: Rng, much: float) -> Array:
    """A table (1, 256, 3) of new values: gain, contrast, gamma and colours."""
    values = np.arange(256, dtype=np.float64)[:, None] / 255
    gain = np.exp(rng.normal(0, 0.08 * much) + rng.normal(0, 0.03 * much, 3))
    curve = 0.5 + (values ** np.exp(rng.normal(0, 0.08 * much)) - 0.5) * np.exp(rng.normal(0, 0.08 * much))
    return np.asarray(np.clip(np.round(255 * curve * gain), 0, 255).astype(np.uint8)[None])


def _streak(length: float, angle: float) -> Array:
    """A kernel that blurs along a line."""
    half = int(np.ceil(length / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for along in np.linspace(-length / 2, length / 2, 8 * half + 1):
        kernel[round(half + along * np.sin(angle)), round(half + along * np.cos(angle))] += 1
    return kernel / kernel.sum()  # type: ignore[no-any-return]


def _resized(picture: Array, size: tuple[int, int]) -> Array:
    shrinks = picture.shape[0] >= size[0] and picture.shape[1] >= size[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(picture, (size[1], size[0]), interpolation=way)  # type: ignore[no-any-return]


def _moved(points: Array, pose: Array) -> Array:
    return points @ pose[:, :2].T + pose[:, 2]


def _box(points: Array) -> Array:
    return np.concatenate([points.min(0), points.max(0)])
