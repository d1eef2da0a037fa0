"""Procedural tables, chairs, shelves and beds: labelled solids; the front is towards -y, the floor is z = 0.

Parts reach a little into each other, so that the surfaces where they touch are buried and not sampled.
"""

from __future__ import annotations

import numpy as np

from effvision.models.pvcnn.shapes_draw import Draw
from effvision.models.pvcnn.shapes_solids import Lathe, Solid, Tube, box, prism, ring, rod, slab, taper

__all__ = ["bed", "chair", "shelf", "table"]

_IN = 0.004  # m by which one part reaches into another


def legs(kind: str, places: list[tuple[float, float]], top: float, thick: float, splay: float) -> list[Solid]:
    """One leg under each place (x, y), `square`, `tapered` or `round`; feet stand `splay` m further out."""
    made: list[Solid] = []
    for x, y in places:
        far = max(float(np.hypot(x, y)), 1e-6)
        foot, head = (x * (1 + splay / far), y * (1 + splay / far), 0.0), (x, y, top + _IN)
        if kind == "round":
            made.append(rod("leg", foot, head, thick * 0.35, thick * 0.5))
        else:
            end = thick * (0.55 if kind == "tapered" else 1.0)
            made.append(taper("leg", foot, head, (end, end), (thick, thick)))
    return made


def star(arms: int, reach: float, thick: float, turn: float, wheels: bool) -> list[Solid]:
    """A foot of several arms, with a ball under each where it rolls."""
    made: list[Solid] = []
    for angle in turn + np.arange(arms) / arms * 2 * np.pi:
        c, s = np.cos(angle), np.sin(angle)
        end = (reach * c, reach * s, thick * (1.2 if wheels else 0.6))
        made.append(rod("leg", (0, 0, thick * 1.6), end, thick * 0.6, thick * 0.45))
        if wheels:
            arc = np.linspace(-np.pi / 2, np.pi / 2, 7)
            profile = np.stack([np.cos(arc), np.sin(arc)], axis=1) * thick * 0.8
            profile[[0, -1], 0] = 0
            made.append(Lathe("leg", profile, (reach * c, reach * s, thick * 0.8)))
    return made


def table(d: Draw) -> list[Solid]:
    """Parts `top`, `leg` (also pedestals, side panels and stretchers) and `drawers`."""
    length, height = d.key("length", 0.45, 2.5), d.key("height", 0.28, 1.15)
    thick, leg = d.key("top thickness", 0.012, 0.09), d.key("leg thickness", 0.025, 0.13)
    shape = d.variant("top", ("rectangle", "disc", "rounded"), development=("oval",), held=("hexagon", "octagon"))
    kind = d.variant(
        "legs", ("square", "tapered", "round", "pedestal", "panels"), development=("trestle",),
        held=("three", "six", "sled", "star"),
    )  # fmt: skip
    width = length * (d.free(0.8, 1) if shape in ("disc", "hexagon", "octagon") else d.free(0.42, 0.95))
    leg, under = min(leg, 0.2 * width), height - thick
    outline = {
        "rectangle": np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length / 2, width / 2],
        "disc": ring(24, length / 2, width / 2),
        "oval": ring(24, length / 2, width / 2),
        "rounded": ring(24, length / 2, width / 2, square=5.0),
        "hexagon": ring(6, length / 2, width / 2),
        "octagon": ring(8, length / 2, width / 2, turn=np.pi / 8),
    }[shape]
    made: list[Solid] = [prism("top", outline, under, height, bevel=d.free(0, 0.02))]
    inset = 0.62 if shape not in ("rectangle", "rounded") else d.free(0.82, 0.97)
    x, y = inset * length / 2 - leg / 2, inset * width / 2 - leg / 2
    corners = [(-x, -y), (x, -y), (x, y), (-x, y)]
    made += _under_table(d, kind, corners, under, leg, width)
    if kind in ("square", "tapered", "panels", "six", "sled") and d.flip(0.45):
        half, deep = x * d.free(0.3, 0.95), under * d.free(0.15, 0.5)
        middle = d.free(-1, 1) * (x - half)
        made.append(box("drawers", (middle - half, -y, under - deep), (middle + half, y * 0.95, under + _IN)))
        count = d.whole(1, 2, 3)
        for i in range(count):  # fronts, a little proud
            z = under - deep * (i + 1) / count
            made.append(
                box(
                    "drawers",
                    (middle - half * 0.95, -y - 0.012, z + deep / count * 0.08),
                    (middle + half * 0.95, -y + _IN, z + deep / count * 0.92),
                )
            )
    return made


def _under_table(
    d: Draw, kind: str, corners: list[tuple[float, float]], under: float, leg: float, width: float
) -> list[Solid]:
    x, y = corners[2]
    if kind in ("square", "tapered", "round", "six", "three"):
        if kind == "six":
            corners = [*corners, (0.0, -y), (0.0, y)]
        if kind == "three":
            corners = [(0.0, -y), (x * 0.87, y * 0.6), (-x * 0.87, y * 0.6)]
        made = legs(
            d.variant("leg shape", ("square", "round")) if kind in ("six", "three") else kind, corners, under, leg,
            d.free(0, 0.25) * leg if kind != "round" else d.free(0, 0.12) * under,
        )  # fmt: skip
        if kind in ("square", "tapered") and d.flip(0.5):  # stretchers
            z = under * d.free(0.1, 0.85)
            for side in (-1, 1):
                made.append(slab("leg", (side * x, 0, z), (leg * 0.6, 2 * y, leg * 0.6)))
        return made
    if kind == "panels":
        return [box("leg", (s * x - leg / 3, -y, 0), (s * x + leg / 3, y, under + _IN)) for s in (-1, 1)]
    if kind in ("trestle", "sled"):
        made = []
        for s in (-1, 1):
            made.append(slab("leg", (s * x, 0, leg / 2), (leg, 2 * y + leg, leg)))
            if kind == "trestle":
                made.append(taper("leg", (s * x, 0, 0), (s * x, 0, under + _IN), (leg, 0.3 * y), (leg, 1.4 * y)))
            else:
                made += [slab("leg", (s * x, t * y, under / 2), (leg, leg, under + 2 * _IN)) for t in (-1, 1)]
        return [*made, slab("leg", (0, 0, under * 0.45), (2 * x, leg * 0.6, leg))]
    column: Solid = rod("leg", (0, 0, leg * 0.8), (0, 0, under + _IN), leg * 0.8, leg * d.free(0.5, 0.9))
    if kind == "star":
        return [column, *star(d.whole(3, 4, 5), width * 0.42, leg, d.free(0, 6), False)]
    foot = width * d.free(0.22, 0.42)
    return [column, Lathe("leg", [[0, 0], [foot, 0], [foot, leg * 0.4], [leg * 0.7, leg], [0, leg]])]


def chair(d: Draw) -> list[Solid]:
    """Parts `seat`, `back`, `leg` and `arm`."""
    width, high = d.key("seat width", 0.3, 0.8), d.key("seat height", 0.22, 0.82)
    thick, leg = d.key("seat thickness", 0.02, 0.16), d.key("leg thickness", 0.018, 0.08)
    deep = width * d.free(0.85, 1.1)
    kind = d.variant(
        "legs", ("square", "tapered", "round", "swivel"), development=("sled",), held=("cantilever", "block", "three")
    )
    under, x, y = high - thick, width / 2 - leg / 2, deep / 2 - leg / 2
    outline = ring(20, width / 2, deep / 2, square=d.free(3, 12)) if d.flip(0.5) else None
    flat = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, deep / 2] if outline is None else outline
    made: list[Solid] = [prism("seat", flat, under, high, bevel=d.free(0, 0.08))]
    corners = [(-x, -y), (x, -y), (x, y), (-x, y)]
    if kind == "swivel":
        made.append(rod("leg", (0, 0, leg), (0, 0, under + _IN), leg * 0.8))
        made += star(5, width * d.free(0.42, 0.55), leg, d.free(0, 6), d.flip(0.7))
    elif kind == "block":
        made.append(box("leg", (-x, -y, 0), (x, y, under + _IN)))
    elif kind in ("sled", "cantilever"):
        radius = leg * 0.45
        for s in (-1, 1):
            path = [(s * x, -y, under + _IN), (s * x, -y, radius), (s * x, y, radius), (s * x, y, under + _IN)]
            made.append(Tube("leg", path[: 4 if kind == "sled" else 3], radius))
        made.append(Tube("leg", [(-x, y, radius), (x, y, radius)], radius))
    else:
        if kind == "three":
            corners = [(0.0, -y), (x, y), (-x, y)]
        made += legs("round" if kind == "three" else kind, corners, under, leg, d.free(0, 0.15) * under)
    made += _chair_back(d, width, deep, high, leg)
    arms = d.variant("arms", ("none", "posts", "none"), held=("solid",))
    if arms != "none":
        top, wide = high + d.free(0.16, 0.28), max(0.035, leg) * d.free(1, 1.6)
        for s in (-1, 1):
            low = top - wide * 0.6 if arms == "posts" else under
            made.append(box("arm", (s * x - wide / 2, -y * 0.9, low), (s * x + wide / 2, y + 0.01, top)))
            if arms == "posts":
                post = (s * x, -y * d.free(0.3, 0.7), high - _IN)
                made.append(taper("arm", post, (*post[:2], top - _IN), (leg * 0.7,) * 2, (leg * 0.7,) * 2))
    return made


def _chair_back(d: Draw, width: float, deep: float, high: float, leg: float) -> list[Solid]:
    tall, tilt = d.key("back height", 0.18, 0.95), d.key("back tilt", 0.0, 0.38)
    kind = d.variant("back", ("panel", "slats", "frame"), development=("ladder",), held=("curved", "spindles"))
    thick = d.free(0.02, 0.05)
    y = deep / 2 - thick / 2

    def at(x: float, share: float) -> tuple[float, float, float]:
        return x, y + tilt * tall * share, high + tall * share - (_IN if share == 0 else 0)

    if kind == "curved":
        made: list[Solid] = []
        radius, half, pieces = width * 0.62, 1.0, 10
        for i in range(pieces):
            a0, a1 = (-half + 2 * half * (i + j) / pieces for j in (-0.02, 1.02))
            quad = [(r * np.sin(a), r * np.cos(a)) for r, a in ((radius - thick, a0), (radius, a0), (radius, a1),
                                                                (radius - thick, a1))]  # fmt: skip
            made.append(prism("back", np.add(quad, [0, y + thick / 2 - radius]), high - _IN, high + tall))
        return made
    if kind == "panel":
        low = d.free(0, 0.3)
        wide = width * d.free(0.75, 1.0)
        made = [taper("back", at(0, low), at(0, 1), (wide, thick), (wide * d.free(0.8, 1.0), thick))]
        posts = [s * wide * 0.3 for s in (-1, 1)] if low > 0.02 else []
        return made + [taper("back", at(x, 0), at(x, low + 0.02), (leg, thick), (leg, thick)) for x in posts]
    x = width / 2 - leg / 2
    made = [taper("back", at(s * x, 0), at(s * x, 1), (leg, thick), (leg * 0.8, thick)) for s in (-1, 1)]
    rail = min(0.3 * tall, d.free(0.04, 0.14))
    begin = 1 - rail / tall
    made.append(taper("back", at(0, begin), at(0, 1), (2 * x + leg, thick * 1.2), (2 * x + leg, thick * 1.2)))
    count = d.whole(3, 4, 5, 6)
    for i in range(count):
        if kind in ("slats", "spindles"):
            across = x * (2 * (i + 1) / (count + 1) - 1)
            if kind == "slats":
                slat = (x / count, thick * 0.5)
                made.append(taper("back", at(across, 0), at(across, begin + 0.02), slat, slat))
            else:
                made.append(rod("back", at(across * 0.7, 0), at(across, begin + 0.03), 0.009))
        elif kind == "ladder" and i < 4:
            low = begin * (i + 0.5) / 4
            bar = (2 * x, thick * 0.6)
            made.append(taper("back", at(0, low), at(0, low + 0.12 * begin), bar, bar))
    return made


def shelf(d: Draw) -> list[Solid]:
    """Parts `side` (uprights), `board` and `back`."""
    width, height = d.key("width", 0.35, 2.2), d.key("height", 0.45, 2.5)
    deep, thick = d.key("depth", 0.16, 0.6), d.key("thickness", 0.01, 0.055)
    count = {"few": d.whole(3, 4, 5), "two": 2, "six": 6, "many": d.whole(7, 8, 9)}[
        d.variant("boards", ("few",), development=("six",), held=("two", "many"))
    ]
    kind = d.variant("sides", ("panels", "divided", "panels"), development=("plinth",), held=("posts", "leaning"))
    x, y, count = width / 2, deep / 2, max(2, min(count, int(height / (3 * thick))))
    low = height * (0.1 if kind == "plinth" else d.free(0, 0.06))
    levels = np.linspace(low + thick / 2, height - thick / 2 - (0.01 if kind == "posts" else 0), count)
    made: list[Solid] = []
    lean = deep * 0.6 if kind == "leaning" else 0.0
    for z in levels:
        front = -y + lean * z / height
        made.append(box("board", (-x, front, z - thick / 2), (x, y, z + thick / 2)))
    if kind in ("posts", "leaning"):
        post = max(thick, 0.025)
        for s in (-1, 1):
            at = s * (x - post / 2 + _IN)
            front = -y + post / 2
            made.append(taper("side", (at, front, 0), (at, front + lean, height), (post, post), (post, post)))
            made.append(slab("side", (at, y - post / 2 + _IN, height / 2), (post, post, height)))
        if kind == "posts" and d.flip(0.5):
            for a, b in ((-1, 1), (1, -1)):
                made.append(rod("back", (a * x * 0.95, y, low), (b * x * 0.95, y, height * 0.95), 0.012))
        return made
    for s in (-1, 1):
        made.append(box("side", (s * x - thick / 2, -y - _IN, 0), (s * x + thick / 2, y + _IN, height + _IN)))
    if kind == "divided":
        for at in np.linspace(-x, x, d.whole(3, 4))[1:-1]:
            made.append(box("side", (at - thick / 2, -y + _IN, low), (at + thick / 2, y, height - _IN)))
    if kind == "plinth":
        made.append(box("side", (-x, -y + 0.03, 0), (x, -y + 0.03 + thick, low + _IN)))
    if d.flip(0.7):
        made.append(box("back", (-x + _IN, y - 0.006, low), (x - _IN, y + 0.006, height - _IN)))
    return made


def bed(d: Draw) -> list[Solid]:
    """Parts `mattress` (and pillows), `headboard` (and footboard) and `frame` (and legs)."""
    width, high = d.key("width", 0.7, 2.1), d.key("frame height", 0.16, 0.75)
    soft, head = d.key("mattress thickness", 0.07, 0.4), d.key("headboard height", 0.12, 1.1)
    length, rail = d.free(1.8, 2.15), d.free(0.08, 0.2)
    x, y = width / 2, length / 2
    kind = d.variant("frame", ("box", "legs", "legs"), held=("bunk", "posts"))
    made: list[Solid] = [_mattress(d, x, y, high, soft)]
    made += _pillows(d, x, y, high + soft)
    rail = min(rail, high * 0.8)
    bottom = 0.0 if kind == "box" else high - rail
    made.append(box("frame", (-x - 0.02, -y - 0.02, bottom), (x + 0.02, y + 0.02, high + _IN)))
    tall = {"bunk": high + soft + d.free(0.9, 1.1), "posts": d.free(1.7, 2.1)}.get(kind, bottom + _IN)
    thick = d.free(0.05, 0.09)
    if kind != "box":
        for s in (-1, 1):
            for t in (-1, 1):
                at = (s * x, t * y)
                made.append(taper("frame", (*at, 0), (*at, tall), (thick, thick), (thick, thick)))
    if kind == "bunk":
        made.append(box("frame", (-x - 0.02, -y - 0.02, tall - rail), (x + 0.02, y + 0.02, tall)))
        made.append(_mattress(d, x, y, tall, soft * 0.7))
        for i in range(5):
            made.append(rod("frame", (x + 0.05, -y * 0.55, tall * (i + 0.5) / 5.5), (x + 0.05, -y * 0.8, tall * (i + 0.5)
                            / 5.5), 0.016))  # fmt: skip
        made += [box("frame", (x + 0.02, -y * q - 0.02, 0), (x + 0.07, -y * q + 0.02, tall)) for q in (0.55, 0.8)]
    elif kind == "posts":
        for s in (-1, 1):
            made.append(box("frame", (s * x - 0.02, -y, tall - 0.05), (s * x + 0.02, y, tall)))
            made.append(box("frame", (-x, s * y - 0.02, tall - 0.05), (x, s * y + 0.02, tall)))
    return made + _boards(d, x, y, high + soft, head)


def _mattress(d: Draw, x: float, y: float, low: float, soft: float) -> Solid:
    return prism("mattress", ring(24, x - 0.01, y - 0.01, square=d.free(8, 16)), low - _IN, low + soft, bevel=0.03)


def _pillows(d: Draw, x: float, y: float, top: float) -> list[Solid]:
    count = d.whole(0, 1, 2) if x > 0.6 else d.whole(0, 1)
    made: list[Solid] = []
    for i in range(count):
        middle = (2 * i + 1 - count) * x * 0.48
        flat = np.add(ring(16, x / max(count, 1.3) * 0.75, 0.2, square=4), [middle, y - 0.28])
        made.append(prism("mattress", flat, top - 0.01, top + d.free(0.08, 0.14), bevel=0.3))
    return made


def _boards(d: Draw, x: float, y: float, top: float, head: float) -> list[Solid]:
    kind = d.variant("headboard", ("panel", "bars", "panel"), held=("arched", "cushions"))
    foot = d.variant("footboard", ("none", "none", "low"), development=("tall",))
    made: list[Solid] = []
    ends = [(y + 0.04, top + head)]
    if foot != "none":
        ends.append((-y - 0.04, top + (0.05 if foot == "low" else 0.35)))
    for at, tall in ends:
        y0, y1 = at - 0.035, at + 0.035
        if kind == "bars" and at > 0:
            made.append(box("headboard", (-x, y0, tall - 0.08), (x, y1, tall)))
            made += [box("headboard", (s * x - 0.04, y0, 0), (s * x + 0.04, y1, tall - _IN)) for s in (-1, 1)]
            for q in np.linspace(-0.8, 0.8, d.whole(5, 7, 9)):
                made.append(rod("headboard", (q * x, at, top * 0.5), (q * x, at, tall - 0.07), 0.018))
        elif kind == "arched" and at > 0:
            arc = np.linspace(0, np.pi, 13)
            outline = np.stack([np.cos(arc) * x, top * 0.8 + np.sin(arc) * (tall - top * 0.8)], axis=1)
            made.append(prism("headboard", np.concatenate([[[-x, 0.0], [x, 0.0]], outline]), y0, y1, axis=1))
        else:
            made.append(box("headboard", (-x - 0.02, y0, 0), (x + 0.02, y1, tall)))
            if kind == "cushions" and at > 0:
                for q in (-0.66, 0, 0.66):
                    flat = np.add(ring(12, x * 0.3, head * 0.42, square=5), [q * x, tall - head * 0.5])
                    made.append(prism("headboard", flat, y0 + _IN, y0 - 0.07, axis=1, bevel=0.25))
    return made
