"""Label maps of landscapes, from a seed: sky, mountains, hills, ground, water, roads, what stands there, the furthest first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.models.sige.scenes_guide import CELL
from effvision.models.sige.scenes_palette import SIZE, check_seed, class_index

__all__ = ["layout"]

Bytes = NDArray[np.uint8]
Points = NDArray[np.float64]


class _Canvas:
    """A label map while it is drawn, (256, 256) uint8, and the random numbers behind it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.cv2: Any = import_cv2()
        self.rng = rng
        self.labels = np.full((SIZE, SIZE), class_index("sky"), dtype=np.uint8)
        self.horizon = int(rng.uniform(0.34, 0.58) * SIZE)

    def flip(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def polygon(self, name: str, points: Points) -> None:
        """Fill a polygon given by its corners (P, 2) as x, y."""
        self.cv2.fillPoly(self.labels, [np.rint(points).astype(np.int32)], class_index(name))

    def ellipse(self, name: str, x: float, y: float, wide: float, high: float) -> None:
        """Fill an ellipse given by its centre and half axes."""
        axes = (max(1, round(wide)), max(1, round(high)))
        self.cv2.ellipse(self.labels, (round(x), round(y)), axes, 0, 0, 360, class_index(name), -1)

    def scale(self, y: float) -> float:
        """How large things on the ground are whose foot is in this row: about 0.25 at the horizon, 1 in the last row."""
        return 0.22 + 0.78 * max(0.0, (y - self.horizon) / (SIZE - self.horizon))

    def ground(self, x: float, y: float, *names: str) -> bool:
        """Whether the pixel at x, y lies inside and has one of these classes."""
        row, column = round(y), round(x)
        inside = 0 <= row < SIZE and 0 <= column < SIZE
        return inside and int(self.labels[row, column]) in [class_index(name) for name in names]


_LAND = ("grass", "field", "sand", "snow")


def layout(seed: int) -> Bytes:
    """Label map (256, 256) uint8 of a landscape.

    Raises:
        DTypeError, RangeError: a seed that is no whole number from 0 on.
    """
    canvas = _Canvas(np.random.default_rng((1, check_seed(seed))))
    _clouds(canvas)
    _mountains(canvas)
    _hills(canvas)
    winter = canvas.flip(0.1)
    _land(canvas, "snow" if winter else "sand" if canvas.flip(0.12) else "grass")
    if not winter:
        for _ in range(int(canvas.rng.integers(0, 4))):
            _field(canvas)
    water = canvas.rng.random()
    if water < 0.30:
        _sea(canvas)
    elif water < 0.65:
        _lake(canvas)
    if canvas.flip(0.5):
        _road(canvas)
    _objects(canvas)
    return canvas.labels


def _line(canvas: _Canvas, height: float, swing: float, roughness: float) -> Points:
    """Rows (256,) of a skyline around a height, by halving an interval again and again."""
    rows = canvas.rng.uniform(-swing, swing, 3)
    while len(rows) < SIZE:
        swing *= roughness
        middle = (rows[:-1] + rows[1:]) / 2 + canvas.rng.uniform(-swing, swing, len(rows) - 1)
        rows = np.insert(rows, np.arange(1, len(rows)), middle)
    begin = int(canvas.rng.integers(0, len(rows) - SIZE + 1))
    return np.asarray(height + rows[begin : begin + SIZE])


def _below(rows: Points, bottom: int = SIZE) -> NDArray[np.bool_]:
    """Mask (256, 256) of what lies under a line and above a row."""
    every = np.arange(SIZE)[:, None]
    return np.asarray((every >= rows[None]) & (every < bottom))


def _clouds(canvas: _Canvas) -> None:
    for _ in range(int(canvas.rng.integers(0, 6))):
        x, y = canvas.between(0, SIZE), canvas.between(0, canvas.horizon * 0.8)
        size = canvas.between(8, 30) * (1.1 - 0.6 * y / canvas.horizon)
        for _ in range(int(canvas.rng.integers(3, 9))):
            part = size * canvas.between(0.4, 1.0)
            across = x + canvas.between(-2.2, 2.2) * size
            canvas.ellipse("cloud", across, y - canvas.between(0, 0.5) * part, part * 1.3, part * 0.62)


def _mountains(canvas: _Canvas) -> None:
    if canvas.flip(0.3):
        return
    for layer in range(int(canvas.rng.integers(1, 3))):
        top = canvas.horizon - canvas.between(30, 85) * (1.0 - 0.45 * layer)
        rows = _line(canvas, top, canvas.between(14, 42), 0.56)
        mask = _below(rows, canvas.horizon + 8)
        canvas.labels[mask] = class_index("mountain")
        if canvas.flip(0.65):
            cap = _line(canvas, top + canvas.between(-22, 14), 8, 0.72)
            jagged = cap + 0.35 * (rows - rows.mean())
            canvas.labels[mask & ~_below(jagged)] = class_index("snow")


def _hills(canvas: _Canvas) -> None:
    for layer in range(int(canvas.rng.integers(0, 3))):
        rows = _line(canvas, canvas.horizon - canvas.between(4, 34) / (1 + layer), canvas.between(4, 16), 0.36)
        canvas.labels[_below(rows)] = class_index("hill" if layer == 0 or canvas.flip(0.5) else "grass")


def _land(canvas: _Canvas, name: str) -> None:
    canvas.labels[_below(_line(canvas, canvas.horizon, canvas.between(0, 6), 0.4))] = class_index(name)
    if canvas.flip(0.35):  # a second ground nearby
        other = ("grass", "sand")[int(canvas.rng.integers(2))] if name != "snow" else "grass"
        rows = _line(canvas, canvas.between(canvas.horizon + 30, SIZE), canvas.between(4, 24), 0.4)
        canvas.labels[_below(rows)] = class_index(other)


def _field(canvas: _Canvas) -> None:
    """A field in perspective: a band between two rows, its sides aiming at the horizon."""
    top = canvas.between(canvas.horizon + 4, SIZE - 40)
    bottom = top + canvas.between(10, 60) * (0.3 + canvas.scale(top))
    middle, aim = canvas.between(0, SIZE), canvas.between(0, SIZE)
    half = canvas.between(20, 70)
    corners = []
    for y, sides in ((top, (-1, 1)), (bottom, (1, -1))):
        share = (y - canvas.horizon + 12) / (bottom - canvas.horizon + 12)
        corners += [(aim + (middle + side * half - aim) * share, y + canvas.between(-3, 3)) for side in sides]
    shape = np.zeros_like(canvas.labels)
    canvas.cv2.fillPoly(shape, [np.rint(corners).astype(np.int32)], 1)
    land = np.isin(canvas.labels, [class_index(name) for name in ("grass", "sand")])
    canvas.labels[(shape == 1) & land] = class_index("field")


def _sea(canvas: _Canvas) -> None:
    """Water from the horizon to a shore, or from a shore to the lower edge."""
    every = np.arange(SIZE)[:, None]
    shore = _line(canvas, canvas.between(canvas.horizon + 30, SIZE - 10), canvas.between(5, 30), 0.45)
    beach = canvas.between(2, 26)
    if canvas.flip(0.55):
        water, sand = every < shore, every < shore + beach
    else:
        water, sand = every >= shore, every >= shore - beach
    land = every >= canvas.horizon
    if canvas.flip(0.75):
        canvas.labels[land & sand] = class_index("sand")
    canvas.labels[land & water] = class_index("water")


def _lake(canvas: _Canvas) -> None:
    """A flat bay of several ellipses, perhaps with a beach; or a river that comes nearer."""
    if canvas.flip(0.4):
        return _ribbon(canvas, "water", canvas.between(14, 40), border=("sand", 1.25) if canvas.flip(0.6) else None)
    y = canvas.between(canvas.horizon + 12, SIZE - 20)
    x, wide = canvas.between(30, SIZE - 30), canvas.between(30, 110) * (0.4 + 0.6 * canvas.scale(y))
    parts = [
        (
            x + canvas.between(-0.7, 0.7) * wide,
            y + canvas.between(-0.12, 0.12) * wide,
            wide * canvas.between(0.5, 1),
            canvas.between(0.16, 0.34),
        )
        for _ in range(4)
    ]
    rim = canvas.between(2, 9)
    for name, more in (("sand", rim), ("water", 0.0)) if canvas.flip(0.7) else (("water", 0.0),):
        for across, down, half, flat in parts:
            canvas.ellipse(
                name, across, max(down, canvas.horizon + half * flat + 2), half + more, half * flat + more / 2
            )
    return None


def _road(canvas: _Canvas) -> None:
    _ribbon(canvas, "road", canvas.between(16, 44))


def _ribbon(canvas: _Canvas, name: str, width: float, *, border: tuple[str, float] | None = None) -> None:
    """A winding band from the lower edge to the horizon, ever narrower; `border`: another class, so many times as wide."""
    rows = np.arange(canvas.horizon + 2, SIZE)
    near = (rows - canvas.horizon) / (SIZE - canvas.horizon)
    begin, end = canvas.between(0.05, 0.95) * SIZE, canvas.between(0.1, 0.9) * SIZE
    turn, swing = canvas.between(0, 6.3), canvas.between(10, 60)
    middle = end + (begin - end) * near + swing * near**0.7 * np.sin(turn + 5.0 * near**0.5)
    for label, times in ([border] if border else []) + [(name, 1.0)]:
        half = times * width / 2 * (0.06 + 0.94 * near)
        left, right = np.stack([middle - half, rows], 1), np.stack([middle + half, rows], 1)
        canvas.polygon(label, np.concatenate([left, right[::-1]]))


# --- what stands on the ground --------------------------------------------------------------------------------------


def _objects(canvas: _Canvas) -> None:
    """Trees, bushes, rocks and houses, drawn from far to near."""
    kinds: list[tuple[Callable[[_Canvas, float, float], None], int, float]] = [
        (_house, 5, 0.6), (_tree, 12, 0.85), (_bush, 10, 0.75), (_rock, 7, 0.6),
    ]  # fmt: skip
    todo: list[tuple[float, float, Callable[[_Canvas, float, float], None]]] = []
    for draw, most, share in kinds:
        if not canvas.flip(share):
            continue
        centre = canvas.between(0, SIZE)  # things of a kind stand together more often than not
        spread = canvas.between(25, 160)
        for _ in range(int(canvas.rng.integers(1, most + 1))):
            y = canvas.horizon + 4 + (SIZE + 10 - canvas.horizon) * canvas.rng.random() ** 1.3
            todo.append((y, float(canvas.rng.normal(centre, spread)), draw))
    if canvas.flip(0.3):
        _wood(canvas)
    for y, x, draw in sorted(todo, key=lambda one: one[0]):
        draw(canvas, x, y)


def _wood(canvas: _Canvas) -> None:
    """A row of distant trees as one mass."""
    y = canvas.between(canvas.horizon + 2, canvas.horizon + 40)
    x, half = canvas.between(0, SIZE), canvas.between(20, 120)
    high = canvas.between(10, 26) * (0.5 + canvas.scale(y))
    for _ in range(int(half / 3)):
        part = high * canvas.between(0.35, 0.6)
        canvas.ellipse("tree", x + canvas.between(-half, half), y - part, part, part * canvas.between(0.9, 1.4))


def _tree(canvas: _Canvas, x: float, y: float) -> None:
    if not canvas.ground(x, min(y, SIZE - 1), *_LAND):
        return
    high = canvas.between(46, 96) * canvas.scale(y)
    if canvas.flip(0.35):  # a conifer
        half, stories = high * canvas.between(0.18, 0.28), int(canvas.rng.integers(1, 4))
        for story in range(stories):
            top, foot = y - high * (1 - 0.22 * story), y - high * (0.1 + 0.24 * (stories - 1 - story))
            wide = half * (1 - 0.22 * (stories - 1 - story))
            canvas.polygon("tree", np.array([[x, top], [x - wide, foot], [x + wide, foot]]))
    else:
        part = high * canvas.between(0.2, 0.3)
        canvas.ellipse("tree", x, y - high * 0.62, part * 1.15, part)
        for _ in range(5):
            canvas.ellipse(
                "tree", x + canvas.between(-1, 1) * part, y - high * canvas.between(0.5, 0.8), part * 0.75, part * 0.65
            )
    stem = max(1.0, high * 0.035)
    canvas.polygon(
        "tree", np.array([[x - stem, y - high * 0.5], [x + stem, y - high * 0.5], [x + stem, y], [x - stem, y]])
    )


def _bush(canvas: _Canvas, x: float, y: float) -> None:
    if not canvas.ground(x, min(y, SIZE - 1), *_LAND):
        return
    size = canvas.between(8, 22) * canvas.scale(y)
    for _ in range(4):
        canvas.ellipse(
            "bush", x + canvas.between(-1.2, 1.2) * size, y - size * 0.6, size * canvas.between(0.5, 0.9), size * 0.6
        )


def _rock(canvas: _Canvas, x: float, y: float) -> None:
    if not canvas.ground(x, min(y, SIZE - 1), *_LAND, "water"):
        return
    size = canvas.between(9, 36) * canvas.scale(y)
    turns = np.sort(canvas.rng.uniform(0, 2 * np.pi, 8))
    radius = size * canvas.rng.uniform(0.65, 1.0, 8)
    below = np.where(np.sin(turns) > 0, 0.3, 0.75)  # flat underneath
    canvas.polygon(
        "rock", np.stack([x + radius * np.cos(turns) * 1.2, y + radius * np.sin(turns) * below - size * 0.2], 1)
    )


def _house(canvas: _Canvas, x: float, y: float) -> None:
    if not canvas.ground(x, min(y, SIZE - 1), *_LAND):
        return
    scale = canvas.scale(y)
    cells = max(1, round(canvas.between(1.6, 5.2) * scale))
    wide = cells * CELL + int(canvas.rng.integers(0, 3))
    left = round((x - wide / 2) / CELL) * CELL - (wide - cells * CELL) // 2  # windows then lie in the middle
    stories = max(1, round(canvas.between(0.7, 2.3) * scale))
    foot = round(y)
    top = round((foot - stories * CELL - canvas.between(3, 9)) / CELL) * CELL - 1
    over, high = 2 + round(3 * scale), round(canvas.between(0.28, 0.5) * wide) + 4
    canvas.polygon("wall", np.array([[left, top], [left + wide, top], [left + wide, foot], [left, foot]]))
    if canvas.flip(0.5):  # the gable to the front, or the long side
        canvas.polygon(
            "roof", np.array([[left - over, top + 1], [left + wide / 2, top - high], [left + wide + over, top + 1]])
        )
    else:
        slope = round(canvas.between(0.08, 0.25) * wide)
        corners = [
            [left - over, top],
            [left + slope, top - high],
            [left + wide - slope, top - high],
            [left + wide + over, top],
        ]
        canvas.polygon("roof", np.array(corners))
    if canvas.flip(0.4):
        at, step = left + wide * canvas.between(0.6, 0.75), max(2, round(3 * scale))
        chimney = [(at + right, top - high + down) for right, down in ((0, -3), (step, -3), (step, 6), (0, 6))]
        canvas.polygon("wall", np.array(chimney))
