"""How each class looks: colour, texture and light of its pixels. The sun stands at the upper left, always.

A painter takes the pixels of its class and gives their colours, (3, P) float32 RGB in 0..1, before shadows and haze.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.models.sige.scenes_view import Pixels, smooth

__all__ = ["HAZE", "PAINTERS", "blend"]

Array = NDArray[Any]
Colour = Any  # three numbers, or an array (3, P)

HAZE = (0.80, 0.86, 0.91)

_SKY = np.array(
    [[-1.0, 0.20, 0.44, 0.80], [-0.55, 0.38, 0.62, 0.90], [-0.15, 0.66, 0.82, 0.94], [0.15, 0.90, 0.91, 0.88]],
    dtype=np.float32,
)  # height in the picture, then the colour there


def blend(first: Colour, second: Colour, share: Array) -> Array:
    """From the first colour at share 0 to the second at 1; colours (3,) or (3, P), share (P,) -> (3, P)."""
    start, end = (np.asarray(one, np.float32).reshape(3, -1) for one in (first, second))
    return np.asarray(start + (end - start) * np.clip(share, 0, 1), dtype=np.float32)


def _column(red: float, green: float, blue: float) -> Array:
    """One colour as (3, 1) float32."""
    return np.array([[red], [green], [blue]], dtype=np.float32)


def _sky_colour(height: Array) -> Array:
    """Colour (3, P) of a clear sky at heights (P,), -1 in the first row and 1 in the last."""
    return np.stack([np.interp(height, _SKY[:, 0], _SKY[:, 1 + k]) for k in range(3)]).astype(np.float32)


def _lighter(colour: Array, amount: Array) -> Array:
    """Colours (3, P) times 1 + amount (P,)."""
    return np.asarray(colour * (1 + amount), dtype=np.float32)


def _grain(p: Pixels) -> Array:
    """Texture of the ground (P,): fine far away, coarse nearby."""
    near = p.near
    return np.asarray(p.plane("fine") * (1 - 0.6 * near) + p.plane("clump") * near, dtype=np.float32)


def _sky(p: Pixels) -> Array:
    return _lighter(_sky_colour(p.plane("height")), 0.012 * p.plane("broad"))


def _cloud(p: Pixels) -> Array:
    view = p.view
    behind = _sky_colour(p.plane("height"))
    noise = 0.55 * p.plane("patch") + 0.3 * p.plane("clump")
    thick = 1 - p.take(view.soft(4.0, "sky"))
    cover = smooth(0.42, 0.86, thick + 0.30 * noise)
    light = 0.62 + 0.55 * p.take(view.bulge(7.0, "cloud")) + 0.45 * noise + 0.25 * p.plane("crags")
    return blend(behind, blend((0.68, 0.74, 0.84), (1.0, 0.995, 0.98), light), cover)


def _crags(p: Pixels) -> Array:
    """Light (P,) on the flanks of mountains, the same under rock and snow."""
    bulge = p.take(p.view.bulge(8.0, "mountain", "snow"))
    return np.asarray(1.05 * p.plane("crags") + 0.55 * bulge + 0.15 * p.plane("clump"), dtype=np.float32)


def _mountain(p: Pixels) -> Array:
    light = 0.46 + 0.85 * _crags(p)
    stone = blend((0.27, 0.28, 0.37), (0.74, 0.67, 0.62), light)
    return blend(stone, HAZE, 0.10 + 0.42 * smooth(-0.6, 0.1, p.plane("height")) * (1 - p.near))


def _snow(p: Pixels) -> Array:
    near = p.near
    steep = 1 - 0.82 * smooth(-0.35, 0.0, p.plane("height"))  # flanks of mountains above, drifts on flat ground below
    light = (
        0.76
        + 0.75 * steep * _crags(p)
        + 0.10 * p.plane("fine")
        + 0.22 * near * p.plane("patch")
        + 0.1 * p.plane("broad")
    )
    return blend((0.58, 0.68, 0.86), (1.0, 0.995, 0.985), light)


def _hill(p: Pixels) -> Array:
    bulge = p.take(p.view.bulge(8.0, "hill"))
    light = 0.42 + 0.5 * bulge + 0.42 * p.plane("leaves") + 0.25 * p.plane("broad") + 0.3 * p.plane("fine")
    wood = blend((0.15, 0.29, 0.24), (0.47, 0.60, 0.36), light)
    return blend(wood, HAZE, 0.12 + 0.40 * smooth(-0.9, 0.3, -p.plane("height")))


def _grass(p: Pixels) -> Array:
    near, grain = p.near, _grain(p)
    meadow = blend((0.62, 0.73, 0.36), (0.35, 0.56, 0.17), smooth(0.0, 0.9, near + 0.5 * p.plane("broad")))
    meadow = _lighter(meadow, 0.17 * grain + 0.12 * p.plane("patch") + 0.06 * p.plane("leaves"))
    flower = (p.plane("fine") > 0.66) & (p.plane("patch") + p.plane("broad") > 0.5) & (near > 0.2)
    petals = blend((0.97, 0.80, 0.22), (0.98, 0.96, 0.88), p.plane("broad") > 0.3)
    return np.where(flower, petals, meadow)


def _field(p: Pixels) -> Array:
    rows = p.plane("rows")
    corn = blend((0.71, 0.53, 0.22), (0.95, 0.80, 0.42), 0.55 + 0.42 * rows + 0.25 * _grain(p))
    return _lighter(corn, 0.10 * p.plane("broad") + 0.14 * p.plane("fine"))


def _sand(p: Pixels) -> Array:
    light = 0.62 + 0.35 * p.plane("waves") + 0.22 * p.plane("fine") + 0.18 * p.plane("broad")
    beach = blend((0.78, 0.66, 0.46), (0.97, 0.90, 0.73), light)
    wet = 1 - smooth(2.0, 8.0, p.take(p.view.distance(10.0, "water")) + 2.5 * p.plane("patch"))
    return _lighter(beach, -0.30 * wet)


def _water(p: Pixels) -> Array:
    """Depth, waves and foam; what it mirrors is added when everything else is painted."""
    near, waves = p.near, p.plane("waves")
    shore = p.take(p.view.distance(24.0, "sand", "grass", "rock", "field", "bush", "snow", "road"))
    deep = blend((0.50, 0.69, 0.82), (0.08, 0.32, 0.52), smooth(-0.1, 0.85, near + 0.12 * p.plane("broad")))
    shallow = (1 - smooth(1.0, 20.0, shore + 4 * p.plane("patch"))) * (0.25 + 0.55 * near)
    colour = _lighter(blend(deep, (0.26, 0.66, 0.68), shallow), 0.20 * waves)
    crest = smooth(0.6, 1.0, waves + 0.2 * p.plane("fine")) * (0.10 + 0.40 * near)
    beach = p.take(p.view.distance(10.0, "sand", "rock"))
    foam = 1 - smooth(1.2, 3.2, beach + 2.2 * p.plane("clump") + 1.2 * waves)
    return blend(blend(colour, (0.86, 0.94, 0.98), crest), (0.96, 0.98, 0.98), 0.85 * foam)


def _road(p: Pixels) -> Array:
    verge = p.take(p.view.distance(20.0, *_BESIDE_ROADS))
    grey = 0.50 + 0.16 * p.plane("fine") + 0.10 * p.plane("patch") * (0.5 + p.near)
    asphalt = blend((0.33, 0.33, 0.36), (0.66, 0.64, 0.62), grey)
    line = smooth(1.6, 2.2, verge) * (1 - smooth(2.9, 3.6, verge)) * p.take(p.view.distance(5.0, "sky") > 4)
    return blend(asphalt, (0.93, 0.92, 0.88), 0.8 * line * smooth(0.15, 0.4, p.near))


_BESIDE_ROADS = ("grass", "field", "sand", "snow", "hill", "water", "mountain")


def _tree(p: Pixels) -> Array:
    view = p.view
    bulge = p.take(view.bulge(5.0, "tree"))
    light = 0.36 + 0.62 * bulge + 0.50 * p.plane("leaves") + 0.22 * p.plane("fine") + 0.12 * p.plane("clump")
    crown = blend((0.05, 0.15, 0.09), (0.40, 0.58, 0.19), light)
    crown = blend(crown, (0.60, 0.72, 0.28), smooth(0.75, 1.25, light) * 0.8)
    stem = blend(
        (0.20, 0.13, 0.09), (0.48, 0.34, 0.22), 0.5 + 0.8 * p.take(view.bulge(2.0, "tree")) + 0.4 * p.plane("fine")
    )
    ground = p.take(view.distance(4.0, "grass", "road", "field", "sand", "snow", "water"))
    return blend(crown, stem, p.take(view.stems()) * smooth(4.0, 2.5, ground))


def _bush(p: Pixels) -> Array:
    bulge = p.take(p.view.bulge(4.0, "bush"))
    light = 0.42 + 0.55 * bulge + 0.42 * p.plane("leaves") + 0.30 * p.plane("fine")
    leaves = blend((0.06, 0.20, 0.10), (0.50, 0.72, 0.34), light)
    bloom = (p.plane("fine") > 0.5) & (p.plane("clump") > 0.15) & (bulge > -0.3)
    petals = blend((0.86, 0.34, 0.36), (0.92, 0.50, 0.66), p.plane("broad") > 0)
    return np.where(bloom, petals, leaves)


def _rock(p: Pixels) -> Array:
    light = 0.46 + 0.60 * p.take(p.view.bulge(4.0, "rock")) + 0.40 * p.plane("crags") + 0.25 * p.plane("leaves")
    stone = blend((0.23, 0.22, 0.23), (0.76, 0.72, 0.66), light + 0.15 * p.plane("fine"))
    return blend(stone, (0.44, 0.48, 0.24), 0.5 * smooth(0.25, 0.6, p.plane("patch")))


def _wall(p: Pixels) -> Array:
    view = p.view
    wall = view.mask("wall")
    plaster = blend((0.80, 0.72, 0.60), (0.97, 0.93, 0.84), 0.68 + 0.22 * p.plane("courses") + 0.22 * p.plane("patch"))
    side = p.take(view.bulge(3.0, "wall"))
    plaster = _lighter(plaster, 0.10 * side + 0.05 * p.plane("fine"))
    eaves = np.zeros(wall.shape, np.float32)
    for down, dark in ((1, 0.42), (2, 0.36), (3, 0.24), (4, 0.12)):
        under = view.moved(view.mask("roof"), 0, down).astype(np.float32) * dark
        np.maximum(eaves, under, out=eaves)
    plaster = _lighter(plaster, -p.take(eaves))
    opening = view.windows()
    kind = p.take(opening)
    rim = np.zeros(wall.shape, np.bool_)
    for right, down in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        rim |= opening != view.moved(opening, right, down)
    glass = blend((0.16, 0.24, 0.33), (0.62, 0.76, 0.86), 0.45 + 0.9 * p.plane("leaves"))
    door = _lighter(_column(0.46, 0.27, 0.16), 0.25 * p.plane("courses"))
    frame = p.take(rim) & (kind > 0)
    filled = np.where(kind == 1, glass, np.where(kind == 2, door, plaster))
    return np.where(frame, _column(0.96, 0.95, 0.92), filled)


def _roof(p: Pixels) -> Array:
    view = p.view
    roof = view.mask("roof")
    tiles = blend((0.46, 0.16, 0.11), (0.83, 0.40, 0.28), 0.55 + 0.42 * p.plane("courses") + 0.30 * p.plane("patch"))
    light = 0.22 * p.take(view.bulge(5.0, "roof")) + 0.10 * p.plane("fine")
    ridge = p.take(roof & (1 - (view.moved(roof, 0, 2) & roof)))
    gutter = p.take(roof & (1 - (view.moved(roof, 0, -1) & roof)))
    return _lighter(tiles, light + 0.22 * ridge - 0.40 * gutter)


PAINTERS: dict[str, Callable[[Pixels], Array]] = {
    "sky": _sky, "cloud": _cloud, "mountain": _mountain, "snow": _snow, "hill": _hill, "grass": _grass, "field": _field,
    "sand": _sand, "water": _water, "road": _road, "tree": _tree, "bush": _bush, "rock": _rock, "wall": _wall, "roof": _roof,
}  # fmt: skip
"""The painter of each class."""
