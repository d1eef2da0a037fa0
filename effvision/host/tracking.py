"""How an object is followed from match to match: where to look, what to believe, when to say that it is lost. NumPy only.

The template is that of the box that was given, for ever: whatever is learned from one's own answers drifts. What the matcher
finds by shape is joined with what the colours of the object say, because shape tells the place precisely and colour survives
turning and bending. An object that is lost keeps its last place and is looked for around it, in five windows a frame.

The constants were chosen on generated films with exact truth, on natural clips tracked forth and back, and on a detector's own
boxes of a video; none on a tracking benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effvision.host.crops import MEAN_RGB
from effvision.host.peaks import Score, find_peaks

__all__ = ["Followed", "Rule", "Signs", "begin", "follow", "no_signs", "search_boxes"]

_CELLS, _SEARCH, _TEMPLATE, _STEP = 7, 119, 64, 8
_REACH = _CELLS // 2
_THIN = 2  # every second pixel along each axis says as much of colours as all
_FIRST = (_SEARCH - _TEMPLATE + 1) // 2 - _REACH * _STEP  # 4: row of the search picture where the first place begins
_INNER, _NEAR = 25, 36  # 80 % and 113 % of the box, in pixels of a search picture from its middle
_CROSS = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
_CORNERS = np.array([[0, 0], [1, 1], [1, -1], [-1, 1], [-1, -1]])
_LEAST = 1e-6
_PLAIN = 0.5  # grey levels: a template that varies by less is of one colour, and what it answers is rounding
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Rule:
    """The constants.

    Attributes:
        color_share: Share of the colours in where an object is; the rest is the matcher's.
        color_bins: Levels of each of the three channels.
        rim_penalty: How much less the corner of a window counts than its middle: most objects move little between two frames.
        size_gain: Share of a measured change of size that is taken over: 1 jitters, 0.25 (the authors') lags behind zooms.
        size_limit: The size stays within this factor of the given box's: one that runs away never comes back.
        shape_weight: Weight in the score of the response over the template's on its own frame,
        color_weight: of the object's colours in the box over those in the given one,
        histogram_weight: and of the likeness (Bhattacharyya) of the two histograms.
        lost_below: Score below which an object is lost.
        found_above: Score that a lost object must reach to be believed again; higher: five windows are five chances to err.
        tile: Distance of a lost object's windows in boxes: twice the reach of one (3/8), so that they leave no gap.
        search_s: Seconds for which a lost object is looked for around its place; after that only there.
    """

    color_share: float = 0.5
    color_bins: int = 8
    rim_penalty: float = 0.3
    size_gain: float = 0.5
    size_limit: float = 4.0
    shape_weight: float = 0.4
    color_weight: float = 0.4
    histogram_weight: float = 0.2
    lost_below: float = 0.5
    found_above: float = 0.65
    tile: float = 0.75
    search_s: float = 5.0


Signs = dict[str, NDArray[Any]]
"""What is known of M objects besides their filters, each with M rows:

`center` and `size` (M, 2) where it was last believed to be, `first_size` (M, 2) of the given box, `height` (M,) of the
response on the given box's own frame, infinite for a template of one plain colour, `colors` (M, bins ** 3) how much each colour
speaks for it, 0..1, `likely` (M,) the mean of that in the given box, `histogram` (M, bins ** 3) roots of the colours' shares
there, `lost` (M,) bool, `lost_s` and `frames_lost` (M,) how long.
"""


class Followed(NamedTuple):
    """What one frame said of M objects."""

    boxes: NDArray[np.float64]
    """(M, 4) as measured; what is remembered for the next frame is damped, and that of a lost object."""
    scores: NDArray[np.float32]
    lost: NDArray[np.bool_]
    signs: Signs


def no_signs(count: int, rule: Rule) -> Signs:
    """Return signs of `count` objects of which nothing is known."""
    colors = rule.color_bins**3
    return {
        "center": np.zeros((count, 2)),
        "size": np.ones((count, 2)),
        "first_size": np.ones((count, 2)),
        "height": np.ones(count),
        "colors": np.zeros((count, colors), np.float32),
        "likely": np.ones(count),
        "histogram": np.zeros((count, colors), np.float32),
        "lost": np.zeros(count, bool),
        "lost_s": np.zeros(count),
        "frames_lost": np.zeros(count, np.int64),
    }


def begin(
    boxes: Floats, template: NDArray[np.float32], search: NDArray[np.float32], response: Floats, rule: Rule
) -> Signs:
    """Start objects.

    Args:
        boxes: (M, 4) in pixels.
        template: (M, 3, 64, 64) what lies in them.
        search: (M, 3, 119, 119) pictures around the boxes, of the same frame.
        response: (M, 7, 7) of the boxes' own templates in these.
        rule: The constants.
    """
    boxes = np.asarray(boxes, np.float64)
    signs = no_signs(len(boxes), rule)
    if not len(boxes):
        return signs
    codes, count = _codes(search, rule.color_bins), rule.color_bins**3
    away = np.abs(np.arange(0, _SEARCH, _THIN) - _SEARCH // 2)
    near, inner = away <= _NEAR, away <= _INNER
    inside = _histograms(codes[:, inner][:, :, inner].reshape(len(boxes), -1), count)
    outside = _histograms(codes[:, ~(near[:, None] & near)], count)
    # a colour that is nowhere says nothing: 1/2
    signs["colors"] = ((inside + 1e-3) / (inside + outside + 2e-3)).astype(np.float32)
    signs["center"], signs["size"] = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    signs["first_size"] = signs["size"].copy()
    plain = np.ptp(template, axis=(2, 3)).max(axis=1) < _PLAIN
    signs["height"] = np.where(plain, np.inf, np.maximum(response[:, _REACH, _REACH], _LEAST).astype(np.float64))
    signs["likely"] = np.maximum(_color_map(codes, signs["colors"])[:, _REACH, _REACH], _LEAST)
    middle = np.full(len(boxes), _REACH)
    signs["histogram"] = np.sqrt(_place_histograms(codes, middle, middle, count)).astype(np.float32)
    return signs


def search_boxes(
    signs: Mapping[str, Any], size: tuple[int, int], rule: Rule
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Say where to look.

    Args:
        signs: Of M objects.
        size: (height, width) of the frame; windows of lost objects whose middle is outside are left out.
        rule: The constants.

    Returns:
        Boxes (R, 4) to lay search pictures around, and whose each is (R,), ascending: one for an object, up to five for one
        that is lost.
    """
    center, extent, lost = signs["center"], signs["size"], signs["lost"]
    owner, middles = np.arange(len(center)), center
    wide = np.flatnonzero(lost & (signs["lost_s"] < rule.search_s))
    if len(wide):
        turns = (signs["frames_lost"][wide] % 2 == 1)[:, None, None]
        tiles = np.where(turns, _CROSS, _CORNERS)[:, 1:] * rule.tile
        around = center[wide, None] + tiles * extent[wide, None]
        inside = ((around >= 0) & (around < np.array(size[::-1]))).all(axis=2)
        owner = np.concatenate([owner, np.repeat(wide, 4)[inside.ravel()]])
        middles = np.concatenate([middles, around[inside]])
        order = np.argsort(owner, kind="stable")
        owner, middles = owner[order], middles[order]
    half = extent[owner] / 2
    return np.concatenate([middles - half, middles + half], axis=1), owner


def follow(
    windows: NDArray[np.float64],
    owner: NDArray[np.intp],
    search: NDArray[np.float32],
    outputs: Mapping[str, Any],
    signs: Mapping[str, Any],
    rule: Rule,
    *,
    seconds: float,
    score: Score | None = None,
) -> Followed:
    """Believe the best of what was found in the windows of each object, or say that it is lost.

    Of a template of one plain colour the shape says nothing: the place is that of the colours, the size stays, the score is
    what colours and histogram count at most, and the matcher's own scores are 0.

    Args:
        windows: (R, 4) of `search_boxes`.
        owner: (R,) likewise.
        search: (R, 3, 119, 119) what lies in them.
        outputs: `response` (R, 7, 7), `offsets` (R, 4, 7, 7) and `strength` (R,) of the matcher.
        signs: Of M objects.
        rule: The constants.
        seconds: Since the last frame.
        score: Which score is told: one of `effvision.host.peaks`, or the one the rule decides by. It decides in any case.
    """
    objects = len(signs["lost"])
    if not objects:
        return Followed(np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, bool), dict(signs))
    codes = _codes(search, rule.color_bins)
    shape = np.asarray(outputs["response"]) / signs["height"][owner, None, None]
    color = _color_map(codes, signs["colors"][owner])
    away = (np.arange(_CELLS) - _REACH) ** 2
    rim = 1 - rule.rim_penalty * (away[:, None] + away) / (2 * _REACH**2)
    both = (1 - rule.color_share) * shape + rule.color_share * color
    both = np.where(signs["lost"][owner, None, None], both, both * rim).reshape(len(owner), -1)
    place = both.argmax(axis=1)
    chosen = _best_windows(both[np.arange(len(owner)), place], owner, objects)
    place = place[chosen]
    rows, columns = place // _CELLS, place % _CELLS
    alike = _place_histograms(codes[chosen], rows, columns, rule.color_bins**3)
    sure = (
        rule.shape_weight * np.clip(shape[chosen, rows, columns], 0, 1)
        + rule.color_weight * np.minimum(color[chosen, rows, columns] / signs["likely"], 1)
        + rule.histogram_weight * (signs["histogram"] * np.sqrt(alike)).sum(axis=1)
    )
    plain = np.isinf(signs["height"])
    offsets = np.where(plain[:, None, None, None], 0, np.asarray(outputs["offsets"])[chosen])
    center, size, measured = _moved(windows[chosen], place, offsets, rule)
    first = signs["first_size"]
    size = np.clip(size, first / rule.size_limit, first * rule.size_limit)
    lost = np.where(signs["lost"], sure < rule.found_above, sure < rule.lost_below)
    after = _next_signs(signs, center, size, lost, seconds)
    told = np.clip(sure, 0, 1).astype(np.float32)
    if score is not None:
        told = find_peaks(np.asarray(outputs["response"])[chosen], np.asarray(outputs["strength"])[chosen], score).score
        told = np.where(plain, np.float32(0), told)
    half = np.where(lost[:, None], after["size"], measured) / 2
    return Followed(np.concatenate([after["center"] - half, after["center"] + half], axis=1), told, lost, after)


def _best_windows(values: Floats, owner: NDArray[np.intp], objects: int) -> NDArray[np.intp]:
    """Return the best window of each object: the first of its own after sorting by object, then by value."""
    order = np.lexsort((-values, owner))
    chosen: NDArray[np.intp] = order[np.searchsorted(owner[order], np.arange(objects))]
    return chosen


def _next_signs(
    signs: Mapping[str, Any], center: Floats, size: Floats, lost: NDArray[np.bool_], seconds: float
) -> Signs:
    """Take over where objects were found; those that are lost keep their place and size."""
    after: Signs = dict(signs)
    after["center"] = np.where(lost[:, None], signs["center"], center)
    after["size"] = np.where(lost[:, None], signs["size"], size)
    after["lost"], after["lost_s"] = lost, np.where(lost, signs["lost_s"] + seconds, 0.0)
    after["frames_lost"] = np.where(lost, signs["frames_lost"] + 1, 0)
    return after


def _moved(
    windows: NDArray[np.float64], place: NDArray[np.intp], offsets: Floats, rule: Rule
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return centres, damped sizes of the old aspect and measured sizes (M, 2) after the matched place and the edges."""
    edges = offsets.reshape(len(place), 4, -1)[np.arange(len(place)), :, place]  # ymin ymax xmin xmax in cells
    shift = np.stack([place % _CELLS, place // _CELLS], axis=1) - _REACH + (edges[:, [2, 0]] + edges[:, [3, 1]]) / 2
    size = windows[:, 2:] - windows[:, :2]
    center = (windows[:, :2] + windows[:, 2:]) / 2 + shift * size / _STEP
    growth = (edges[:, [3, 1]] - edges[:, [2, 0]]) / _STEP
    return center, size * (1 + rule.size_gain * growth.mean(axis=1))[:, None], size * np.maximum(1 + growth, _LEAST)


def _codes(search: NDArray[np.float32], bins: int) -> NDArray[np.intp]:
    """Number the colours of every second pixel: (R, 60, 60)."""
    thin = search[:, :, ::_THIN, ::_THIN] + np.array(MEAN_RGB, np.float32)[:, None, None]
    levels = np.clip(thin * np.float32(bins / 256), 0, bins - 1).astype(np.intp)
    numbers: NDArray[np.intp] = (levels[:, 0] * bins + levels[:, 1]) * bins + levels[:, 2]
    return numbers


def _histograms(codes: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    """Shares of the colours, (M, count), of codes (M, P)."""
    rows = len(codes)
    flat = (codes + count * np.arange(rows)[:, None]).ravel()
    shares: NDArray[np.float64] = np.bincount(flat, minlength=rows * count).reshape(rows, count) / max(
        codes.shape[1], 1
    )
    return shares


def _place_histograms(
    codes: NDArray[np.intp], rows: NDArray[np.intp], columns: NDArray[np.intp], count: int
) -> NDArray[np.float64]:
    """Shares of the colours in the box at one place of each picture: (M, count)."""
    side = np.arange(_TEMPLATE // _THIN)
    down, across = (((_FIRST + at * _STEP) // _THIN)[:, None] + side for at in (rows, columns))
    there = codes[np.arange(len(codes))[:, None, None], down[:, :, None], across[:, None, :]]
    return _histograms(there.reshape(len(codes), -1), count)


def _color_map(codes: NDArray[np.intp], colors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean of how much the colours speak for the object, over the box at each place: (R, 7, 7)."""
    first, cells, side = _FIRST // _THIN, _CELLS + _STEP - 1, _STEP // _THIN  # 14 x 14 cells of 8 pixels
    inner = codes[:, first : first + cells * side, first : first + cells * side]
    speaks = np.take_along_axis(colors, inner.reshape(len(codes), -1), axis=1)
    mean = speaks.reshape(-1, cells, side, cells, side).mean(axis=(2, 4), dtype=np.float64)
    sums = np.zeros((len(codes), cells + 1, cells + 1))
    sums[:, 1:, 1:] = mean.cumsum(axis=1).cumsum(axis=2)
    box = sums[:, _STEP:, _STEP:] - sums[:, :-_STEP, _STEP:] - sums[:, _STEP:, :-_STEP] + sums[:, :-_STEP, :-_STEP]
    means: NDArray[np.float64] = box / (_STEP * _STEP)
    return means
