"""Procedural lamps, mugs, bottles, monitors, airplanes and cars: labelled solids; z is up, the front is towards -y."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.models.pvcnn.shapes_draw import Draw
from effvision.models.pvcnn.shapes_solids import Lathe, Solid, Tube, box, loft, prism, ring, rod, slab, taper

__all__ = ["airplane", "bottle", "car", "lamp", "monitor", "mug"]


def hollow(outer: NDArray[Any], thick: float, floor: bool) -> NDArray[Any]:
    """The closed profile of a vessel with walls `thick`: its outside (S, 2) from the bottom up, then the inside down."""
    inner = outer[::-1] - [thick, 0]
    if floor:
        inner[-1, 1] += thick
        return np.concatenate([[[0, outer[0, 1]]], outer, inner, [[0, inner[-1, 1]]]])
    return np.concatenate([outer, inner, outer[:1]])


def arc(start: float, end: float, count: int) -> NDArray[Any]:
    """Points (count, 2) on the unit circle between two angles, rad."""
    angle = np.linspace(start, end, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def lamp(d: Draw) -> list[Solid]:
    """Parts `base`, `pole` and `shade`."""
    height, spread = d.key("height", 0.28, 1.9), d.key("shade radius", 0.3, 1.0)
    tall, thin = d.key("shade height", 0.5, 1.5), d.key("pole radius", 0.004, 0.022)
    radius = spread * (0.12 + 0.1 * height)
    tall = min(tall * radius, 0.45 * height)
    foot = d.variant("base", ("disc", "dome", "block"), development=("tripod",), held=("cross", "ball"))
    kind = d.variant("pole", ("straight", "turned", "straight"), development=("bent",), held=("arc",))
    wide = max(d.free(0.5, 0.95) * radius, 0.07)
    made = _lamp_base(foot, wide, thin, height)
    start = min(0.35 * height, wide * 0.5) if foot == "tripod" else 0.01
    top = np.array([0, 0, height - tall * d.free(0.2, 0.7)])
    if kind == "bent":
        elbow = np.array([0.35 * height, 0, 0.6 * height])
        top = np.array([d.free(-0.1, 0.1) * height, 0, height])
        made.append(Tube("pole", [(0, 0, start), elbow, top], thin))
    elif kind == "arc":
        way = arc(np.pi, 0.25 * np.pi, 12) * [0.3 * height, 0.3 * height] + [0.3 * height, 0.7 * height]
        path = np.concatenate([[[0, 0, start]], np.stack([way[:, 0], 0 * way[:, 0], way[:, 1]], axis=1)])
        made.append(Tube("pole", path, thin))
        top = path[-1]
    elif kind == "turned":
        z = np.linspace(0, top[2] - start, 11)
        bulge = thin * (1 + d.free(1, 3) * np.sin(z / z[-1] * np.pi * d.whole(1, 2, 3)) ** 2)
        made.append(Lathe("pole", [[0, 0], *np.stack([bulge, z], axis=1), [0, z[-1]]], (0, 0, start)))
    else:
        made.append(rod("pole", (0, 0, start), top, thin))
    hang = kind in ("bent", "arc")
    return [*made, *_lamp_shade(d, top, radius * (0.8 if hang else 1), tall, thin, hang)]


def _lamp_base(foot: str, wide: float, thin: float, height: float) -> list[Solid]:
    thick = min(0.02 + 0.08 * wide, 0.1 * height)
    if foot == "tripod":
        rise = min(0.36 * height, wide * 0.55)
        ends = [(wide * np.cos(a), wide * np.sin(a), 0.0) for a in np.arange(3) * 2 * np.pi / 3]
        return [rod("base", end, (0, 0, rise), thin * 0.8) for end in ends]
    if foot == "cross":
        return [slab("base", (0, 0, thick / 2), size) for size in ((2 * wide, wide * 0.25, thick), (wide * 0.25,
                2 * wide, thick))]  # fmt: skip
    if foot == "block":
        return [prism("base", np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * wide * 0.8, 0, thick * 2, bevel=0.1)]
    if foot == "disc":
        return [Lathe("base", [[0, 0], [wide, 0], [wide, thick], [0, thick]])]
    rise = min((0.5 if foot == "dome" else 1.6) * wide, 0.3 * height)
    curve = arc(0 if foot == "dome" else -1.0, np.pi / 2, 9) * [wide, rise if foot == "dome" else rise / 2]
    curve[:, 1] -= curve[0, 1]
    curve[-1, 0] = 0
    return [Lathe("base", [[0, 0], *curve])]


def _lamp_shade(d: Draw, top: NDArray[Any], radius: float, tall: float, thin: float, hang: bool) -> list[Solid]:
    kind = d.variant("shade", ("cone", "drum", "dome"), development=("flared",), held=("globe", "pyramid"))
    low = top[2] - tall * (0.8 if hang else 0.3)
    at = (top[0], 0, low)
    wall = max(0.003, radius * 0.03)
    if kind == "globe":
        ball = arc(-np.pi / 2, np.pi / 2, 13) * radius * 0.75
        ball[[0, -1], 0] = 0
        return [Lathe("shade", ball, (top[0], 0, top[2] + (-0.6 if hang else 0.6) * radius))]
    if kind == "pyramid":
        half = radius * 0.4
        big, small = ring(4, radius, turn=np.pi / 4), ring(4, half, turn=np.pi / 4)
        ends = [
            np.column_stack([np.add(flat, [top[0], 0]), np.full(4, z)]) for flat, z in ((big, low), (small, low + tall))
        ]
        return [loft("shade", *ends)]
    share = np.linspace(0, 1, 2 if kind in ("cone", "drum") else 8)
    narrow = d.free(0.35, 0.75)
    width = {
        "cone": 1 - (1 - narrow) * share,
        "drum": 1 - 0.06 * share,
        "dome": np.sqrt(1 - (0.96 * share) ** 2) if hang else np.sqrt(1 - (0.9 * share) ** 2),
        "flared": narrow + (1 - narrow) * (1 - share) ** 2,
    }[kind]
    outer = np.stack([np.maximum(width * radius, wall * 2), share * tall], axis=1)
    made: list[Solid] = [Lathe("shade", hollow(outer, wall, False), at)]
    held = float(np.interp(top[2] - low, outer[:, 1], outer[:, 0]))
    return [*made, slab("shade", (top[0], 0, top[2] - 0.004), (2 * held - wall, 2 * thin, 0.006))]


def mug(d: Draw) -> list[Solid]:
    """Parts `body`, `handle` and `saucer`."""
    radius, slim = d.key("radius", 0.028, 0.06), d.key("height by radius", 1.0, 3.4)
    cone, thick = d.key("rim by foot", 0.75, 1.6), d.key("handle thickness", 0.08, 0.26) * radius
    tall = slim * radius
    shape = d.variant("body", ("straight", "barrel", "curved"), development=("waisted",), held=("bowl", "stepped"))
    share = np.linspace(0, 1, 2 if shape == "straight" else 8)
    width = {
        "straight": 1 + (cone - 1) * share,
        "barrel": 1 + 0.22 * np.sin(np.pi * share) + 0.2 * (cone - 1) * share,
        "curved": cone - (cone - 0.8) * (1 - share) ** 3,
        "waisted": 1 - 0.2 * np.sin(np.pi * share) + 0.2 * (cone - 1) * share,
        "bowl": 0.45 + 0.85 * np.sin(share * np.pi / 2) ** 0.8,
        "stepped": np.where(share > 0.45, 1.15, 0.75),
    }[shape] * radius
    outer, wall = np.stack([width, share * tall], axis=1), radius * 0.09
    made: list[Solid] = [Lathe("body", hollow(outer, wall, True))]
    kind = d.variant("handle", ("ring", "oval", "ring"), development=("square",), held=("two", "ear"))
    size, middle = min(d.free(0.26, 0.38) * tall, radius), tall * d.free(0.48, 0.58)
    curve = arc(-np.pi * 0.56, np.pi * 0.56, 12)
    out = size * {"ring": 1.0, "two": 0.9}.get(kind, d.free(0.6, 1.3))
    if kind == "square":
        curve = np.array([[-0.3, -1], [1, -1], [1, 1], [-0.3, 1]])
    elif kind == "ear":
        curve = np.array([[-0.3, -0.9], [0.4, -0.35], [0.95, 0.4], [1, 0.85], [0.7, 1.0], [-0.3, 0.8]])
    for side in (1, -1) if kind == "two" else (1,):
        z = middle + curve[:, 1] * size
        x = np.interp(z, outer[:, 1], outer[:, 0]) * (curve[:, 0] <= 0.2)
        rim = float(np.interp(middle, outer[:, 1], outer[:, 0]))
        x = np.where(x > 0, np.maximum(x - wall * 0.5, 0), rim + np.maximum(curve[:, 0], 0) * out)
        made.append(Tube("handle", np.stack([side * x, 0 * x, z], axis=1), thick / 2))
    if d.flip(0.4):
        plate = max(width[0], radius) * d.free(1.6, 2.3)
        rise = plate * d.free(0.06, 0.16)
        edge = [[0, -0.08 * plate], [plate * 0.5, -0.08 * plate], [plate, rise - 0.08 * plate],
                [plate, rise - 0.02 * plate], [plate * 0.5, 0.001], [0, 0.001]]  # fmt: skip
        made.append(Lathe("saucer", edge))
    return made


def bottle(d: Draw) -> list[Solid]:
    """Parts `body`, `neck` and `cap`."""
    radius, slim = d.key("radius", 0.025, 0.075), d.key("body height by radius", 1.6, 6.0)
    thin, long = d.key("neck by radius", 0.2, 0.72), d.key("neck length by radius", 0.35, 2.6)
    shape = d.variant(
        "body", ("shoulder", "sloped", "round"), development=("ribbed",), held=("flask", "jug", "waisted")
    )
    tall, neck, rise = slim * radius, thin * radius, radius * d.free(0.35, 0.9)
    sides: dict[str, list[list[Any]]] = {
        "shoulder": [[1, 0], [1, 1]],
        "sloped": [[0.85, 0], [1, 0.1], [1, 0.65], [0.8, 1]],
        "round": [[0.8, 0], [1, 0.06], [1, 0.8], [0.93, 1]],
        "ribbed": [[1, 0], *[[1 - 0.1 * (i % 2), (i + 1) / 9] for i in range(8)], [1, 1]],
        "flask": [[0.6, 0], *[[0.6 + 0.9 * np.sin(np.pi * s) ** 0.7, s] for s in np.linspace(0.08, 0.92, 9)], [0.6, 1]],
        "jug": [[1, 0], [1, 1]],
        "waisted": [[1, 0], [1, 0.25], [0.68, 0.5], [1, 0.75], [1, 1]],
    }
    side = sides[shape]
    made: list[Solid] = []
    begin = side[-1][0] * radius
    bend = arc(0, np.pi / 2, 6) * [max(begin - neck, 0.0), rise] + [neck, tall]
    if shape == "jug":
        flat = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * radius * [1.0, d.free(0.5, 1)]
        made.append(prism("body", flat, 0, tall))
        made.append(prism("body", flat, tall, tall + rise, bevel=1 - neck * 0.8 / radius))
    else:
        made.append(Lathe("body", [[0, 0], *np.array(side, float) * [radius, tall], *bend[1:], [0, tall + rise]]))
    end = tall + rise + long * radius
    made.append(rod("neck", (0, 0, tall + rise - 0.001), (0, 0, end), neck, neck * d.free(0.75, 1.0)))
    kind = d.variant("cap", ("screw", "cork", "screw"), development=("ball",), held=("pump", "cone"))
    wide, high = neck * (0.85 if kind == "cork" else d.free(1.06, 1.35)), radius * d.free(0.35, 0.75)
    low = end - (high * 0.5 if kind != "cork" else 0.002)
    if kind == "ball":
        ball = arc(-np.pi / 2, np.pi / 2, 11) * wide * 1.3
        ball[[0, -1], 0] = 0
        return [*made, Lathe("cap", ball, (0, 0, end + wide * 0.9))]
    made.append(rod("cap", (0, 0, low), (0, 0, low + high), wide, wide * (0.45 if kind == "cone" else 1.0)))
    if kind == "pump":
        stem = low + high * 2.2
        made.append(rod("cap", (0, 0, low), (0, 0, stem), wide * 0.3))
        made.append(box("cap", (-wide * 0.5, -wide * 2.6, stem - wide * 0.3), (wide * 0.5, wide * 0.5, stem + 0.002)))
    return made


def monitor(d: Draw) -> list[Solid]:
    """Parts `screen`, `neck` and `foot`."""
    width, aspect = d.key("width", 0.28, 1.5), d.key("aspect", 1.0, 2.6)
    thick, lift = d.key("thickness", 0.01, 0.14), d.key("lift", 0.04, 0.42)
    high, lift = width / aspect, lift * width
    thick = min(thick, 0.25 * high)
    kind = d.variant("screen", ("flat", "bulge", "flat"), development=("deep",), held=("curved", "dual"))
    middle, top = lift + high / 2, lift + high
    made: list[Solid] = []
    if kind == "curved":
        radius, half, pieces = width * 0.8, 0.625, 12
        for i in range(pieces):
            a0, a1 = (-half + 2 * half * (i + j) / pieces for j in (-0.02, 1.02))
            quad = [(r * np.sin(a), r * np.cos(a) - radius) for r, a in ((radius, a0), (radius, a1),
                    (radius + thick, a1), (radius + thick, a0))]  # fmt: skip
            made.append(prism("screen", np.array(quad), lift, top))
    else:
        for at in (-0.5, 0.5) if kind == "dual" else (0.0,):
            wide = width * (0.97 if kind == "dual" else 1)
            made.append(slab("screen", (at * width * 1.0, thick / 2, middle), (wide, thick, high)))
        if kind in ("bulge", "deep"):
            back = thick * d.free(1.4, 2.2) if kind == "bulge" else width * d.free(0.4, 0.6)
            sizes = (width * 0.8, high * 0.8), (width * 0.45, high * 0.45)
            made.append(taper("screen", (0, thick * 0.9, middle), (0, thick + back, middle), *sizes, axis=1))
    neck = d.variant("neck", ("flat", "round", "flat"), held=("arm", "fork"))
    behind, wide = thick + 0.012, width * d.free(0.08, 0.22)
    grip = lift + high * d.free(0.15, 0.5)
    if neck == "round":
        made.append(rod("neck", (0, behind, 0.004), (0, behind, grip), wide * 0.3))
    elif neck == "flat":
        made.append(taper("neck", (0, behind, 0.004), (0, behind, grip), (wide, 0.03), (wide * 0.8, 0.03)))
    elif neck == "arm":
        path = [(0, behind + 0.1 * width, 0.0), (0, behind + 0.1 * width, middle), (0, thick * 0.5, middle)]
        made.append(Tube("neck", path, max(0.012, width * 0.025)))
    else:
        made += [rod("neck", (s * wide, behind, 0.004), (s * wide * 0.6, behind, grip), width * 0.022) for s in (-1, 1)]
    return [*made, *_monitor_foot(d, width, behind + (0.1 * width if neck == "arm" else 0))]


def _monitor_foot(d: Draw, width: float, behind: float) -> list[Solid]:
    kind = d.variant("foot", ("rectangle", "disc", "oval"), development=("wedge",), held=("vee", "legs"))
    thick, half = max(0.01, 0.02 * width), width * d.free(0.18, 0.32)
    if kind == "vee":
        return [rod("foot", (0, behind + 0.02, thick * 0.6), (s * half * 1.2, behind - half * 1.3, thick * 0.6),
                    thick * 0.6) for s in (-1, 1)]  # fmt: skip
    if kind == "legs":
        bar = slab("foot", (0, behind, thick * 1.1), (half * 2.4, thick, thick))
        return [bar, *[slab("foot", (s * half * 1.2, behind, thick / 2), (thick * 1.4, half, thick)) for s in (-1, 1)]]
    flat = {
        "rectangle": np.array([[-1, -0.6], [1, -0.6], [1, 0.6], [-1, 0.6]]) * half,
        "disc": ring(24, half * 0.8),
        "oval": ring(24, half, half * 0.65),
        "wedge": np.array([[-1, -0.8], [1, -0.8], [0.4, 0.5], [-0.4, 0.5]]) * half,
    }[kind]
    return [prism("foot", np.add(flat, [0, behind - 0.15 * half]), 0, thick)]


def airplane(d: Draw) -> list[Solid]:
    """Parts `body`, `wing`, `tail` and `engine`; the nose points to -y. Lengths by the body's, which is 20 m or so."""
    long, radius = d.free(8, 30), d.key("body radius by length", 0.035, 0.1)
    span, sweep = d.key("half span by length", 0.25, 0.75), d.key("sweep by span", -0.05, 0.75)
    chord, tip = d.key("chord by length", 0.1, 0.28), d.key("tip by chord", 0.2, 0.9)
    kind = d.variant("wing", ("low", "low", "middle"), development=("high",), held=("delta", "biplane"))
    if kind == "delta":
        chord, tip, span, sweep = 0.45, 0.12, 0.32, 0.9
    nose = arc(-np.pi / 2, 0, 7) * [radius, 2.2 * radius] + [0, 2.2 * radius - 0.5]
    nose[0, 0] = 0
    end = radius * d.free(0.15, 0.35)
    tail_up = np.array([[radius, 0.18], [end, 0.49], [0, 0.5]])
    made: list[Solid] = [Lathe("body", np.concatenate([nose, tail_up]) * long, (0, 0, 0), (0, 1, 0))]
    heights = {"high": (0.8,), "middle": (0.0,), "biplane": (-0.7, 1.6)}.get(kind, (-0.6,))
    at, rise = d.free(-0.12, 0.0) + (0.1 if kind == "delta" else 0), d.free(0, 0.12)
    for level in heights:
        made += _pair("wing", level * radius, at, span, sweep, chord, tip, rise, long)
    if kind == "biplane":
        made += [rod("wing", np.array([s * span * 0.6, at + chord * 0.4 + sweep * span * 0.6, -0.6 * radius]) * long,
                     np.array([s * span * 0.6, at + chord * 0.4 + sweep * span * 0.6, 1.7 * radius + rise * span * 0.6])
                     * long, 0.006 * long) for s in (-1, 1)]  # fmt: skip
    made += _airplane_tail(d, long, radius, chord, kind == "delta")
    power = d.variant("engines", ("two", "four", "nose"), held=("rear", "six"))
    size = radius * d.free(0.35, 0.55)
    if power == "nose":
        hub = (-0.5 + 0.3 * radius) * long
        made.append(rod("engine", (0, hub, 0), (0, hub - radius * long, 0), radius * 0.55 * long, radius * 0.2 * long))
        turn = d.free(0, np.pi)
        for blade in turn + np.arange(3) * 2 * np.pi / 3:
            way = np.array([np.cos(blade), 0, np.sin(blade)]) * 1.9 * radius * long
            made.append(rod("engine", (0, hub - radius * 0.7 * long, 0), np.add(way, [0, hub - radius * 0.7 * long, 0]),
                            radius * 0.12 * long))  # fmt: skip
        return made
    if power == "rear":
        spots = [(s * (radius + size * 0.8), 0.26, 0.4 * radius) for s in (-1, 1)]
    else:
        places = {"two": (0.36,), "four": (0.3, 0.58), "six": (0.25, 0.48, 0.7)}[power]
        spots = [
            (s * q * span, at + sweep * q * span - 0.02, heights[0] * radius + rise * q * span - size * 0.9)
            for q in places for s in (-1, 1)
        ]  # fmt: skip
    pod = np.array([[0, 0], [0.85, 0], [1, 0.9], [0.9, 2.6], [0.55, 3.6], [0, 3.6]]) * size
    return made + [Lathe("engine", pod * long, np.array(spot) * long, (0, 1, 0)) for spot in spots]


def _pair(
    label: str, z: float, at: float, span: float, sweep: float, chord: float, tip: float, rise: float, long: float
) -> list[Solid]:
    """Two wings from the axis outwards: their leading edges begin at `at` along the body; shares of its length."""
    made: list[Solid] = []
    for s in (-1, 1):
        start = np.array([0, at + chord / 2, z]) * long
        end = np.array([s * span, at + sweep * span + chord * tip / 2, z + rise * span]) * long
        made.append(taper(label, start, end, (chord * long, 0.13 * chord * long), (chord * tip * long, 0.08 * chord
                          * tip * long), axis=0))  # fmt: skip
    return made


def _airplane_tail(d: Draw, long: float, radius: float, chord: float, delta: bool) -> list[Solid]:
    kind = d.variant("tail", ("plain", "plain", "cross"), development=("twin",), held=("tee",))
    high, wide, deep = d.free(0.12, 0.2), d.free(0.13, 0.22), min(0.14, 0.6 * chord + 0.03)
    at = 0.49 - deep
    fin = [(0.0, 1.0)] if kind != "twin" else [(-0.8, 0.8), (0.8, 0.8)]
    made: list[Solid] = []
    for x, share in fin:
        start = np.array([x * wide, at + deep / 2, 0.2 * radius]) * long
        end = np.array([x * wide, at + deep * 0.75 + 0.4 * high, 0.2 * radius + high * share]) * long
        size = np.array([0.09, 1.0]) * deep * long
        made.append(taper("tail", start, end, size, size * [0.7, 0.6], axis=2))
    if not delta:
        z = {"tee": high * 0.97, "cross": high * 0.4}.get(kind, 0.25 * radius)
        made += _pair("tail", z, at + (0.5 * z if kind == "tee" else 0.01), wide, 0.4, deep * 0.8, 0.6, 0.0, long)
    return made


def car(d: Draw) -> list[Solid]:
    """Parts `body`, `cabin` and `wheel`; the bonnet points to -y."""
    long, wide = d.key("length", 2.6, 6.0), d.key("width", 1.4, 2.2)
    belt, roof = d.key("belt height", 0.55, 1.3), d.key("cabin height", 0.32, 1.0)
    radius, clear = d.key("wheel radius", 0.22, 0.52), d.free(0.1, 0.25)
    kind = d.variant("shape", ("sedan", "hatch", "coupe"), development=("van",), held=("pickup", "six wheels"))
    belt = max(belt, radius * 1.3)
    nose, x = d.free(0.75, 0.98), wide / 2
    side = [(-0.5, clear), (0.5, clear), (0.5, belt * 0.98), (0.3, belt), (-0.2, belt), (-0.49, belt * nose)]
    made: list[Solid] = [prism("body", np.array([(a * long, b) for a, b in side]), -x, x, axis=0)]
    begin, top0, top1, end = {
        "sedan": (-0.22, -0.08, 0.14, 0.32), "hatch": (-0.2, -0.06, 0.36, 0.48), "coupe": (-0.12, 0.04, 0.12, 0.42),
        "van": (-0.4, -0.28, 0.47, 0.49), "pickup": (-0.24, -0.14, 0.03, 0.06), "six wheels": (-0.48, -0.44, -0.2, -0.18),
    }[kind]  # fmt: skip
    share, rise = d.free(0.72, 0.92), belt + roof
    ends = []
    for z, front, back, half in ((belt - 0.03, begin, end, x * 0.96), (rise, top0, top1, x * share)):
        ends.append(
            [(-half, front * long, z), (half, front * long, z), (half, back * long, z), (-half, back * long, z)]
        )
    made.append(loft("cabin", *ends))
    if kind == "pickup":
        for s in (-1, 1):
            made.append(box("body", (s * x * 0.93 - 0.06, 0.08 * long, belt - 0.02), (s * x * 0.93 + 0.06, 0.5 * long,
                            belt + 0.35)))  # fmt: skip
        made.append(box("body", (-x * 0.9, 0.47 * long, belt - 0.02), (x * 0.9, 0.5 * long, belt + 0.34)))
    if kind == "six wheels":
        made.append(box("body", (-x, -0.15 * long, belt - 0.02), (x, 0.5 * long, belt + roof * d.free(0.9, 1.4))))
    places = (-0.32, 0.12, 0.34) if kind == "six wheels" else (-d.free(0.28, 0.34), d.free(0.26, 0.33))
    rubber = d.free(0.16, 0.28)
    for y in places:
        for s in (-1, 1):
            inner = (s * (x - rubber * 0.8), y * long, radius)
            made.append(rod("wheel", inner, (s * (x + rubber * 0.25), y * long, radius), radius, radius * 0.97))
    return made
