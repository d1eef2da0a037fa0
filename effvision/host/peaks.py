"""From response maps to places and scores: how well, how clearly and where each template was found. NumPy only."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCORES", "Peaks", "Score", "find_peaks", "moved_boxes"]

Score = Literal["peak", "plain", "temporal", "combined"]
SCORES: tuple[Score, ...] = ("peak", "plain", "temporal", "combined")
_RELEVANT = 0.75  # of the maximum: what is lower is no peak
_USUAL_STRENGTH = 40.0  # root of the sum of squares of a template's filters, per filter, that the authors divide by
_CELLS_PER_BOX = 8


class Peaks(NamedTuple):
    """What `find_peaks` found, for M objects."""

    place: NDArray[np.intp]
    """(M,) index into the flattened map: of the highest peak, where the rule knows one, else of the largest response."""
    score: NDArray[np.float32]
    """(M,) by the rule that was asked for."""
    height: NDArray[np.float32]
    """(M,) the largest response."""


def find_peaks(response: NDArray[np.floating], strength: NDArray[np.floating], score: Score = "peak") -> Peaks:
    """Find the best place in each map and say how good it is.

    `plain`: the response itself. `peak`: the share of the highest peak among all peaks above three quarters of it, 1 where
    there is no other; 0 on a plateau without a peak, or where nothing answers at all. `temporal`: the response over the
    strength of the filters. `combined`: `peak` times `temporal`, which counts up to 1.

    Args:
        response: (M, R, R).
        strength: (M,) root of the sum of squares of an object's filters, per filter.
        score: Which rule.
    """
    objects, rows, columns = response.shape
    flat = response.reshape(objects, rows * columns)
    highest = flat.max(axis=1) if objects else np.zeros(0, response.dtype)
    place = flat.argmax(axis=1) if objects else np.zeros(0, np.intp)
    value = highest
    if score in ("temporal", "combined"):
        value = highest / np.maximum(strength / _USUAL_STRENGTH, 1e-9)
    if score in ("peak", "combined"):
        above = np.maximum(response - _RELEVANT * highest[:, None, None], 0)
        padded = np.full((objects, rows + 2, columns + 2), -np.inf, response.dtype)
        padded[:, 1:-1, 1:-1] = above
        around = np.stack(
            [padded[:, y : y + rows, x : x + columns] for y in range(3) for x in range(3) if (y, x) != (1, 1)]
        )
        alone = above > around.max(axis=0)  # higher than all its neighbours
        heights = np.where(alone, above, 0).reshape(objects, rows * columns)
        total = heights.sum(axis=1)
        peak = heights.max(axis=1, initial=0) / (total + 1e-9)
        peak = np.where(highest > 0, peak, 0)
        place = np.where(peak > 0, heights.argmax(axis=1), place) if objects else place
        value = peak if score == "peak" else peak * np.minimum(value, 1)
    return Peaks(place, np.asarray(value, np.float32), np.asarray(highest, np.float32))


def moved_boxes(
    boxes: NDArray[np.floating], place: NDArray[np.intp], offsets: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Move boxes to where their templates were found, edge by edge.

    Args:
        boxes: (M, 4) `x1 y1 x2 y2` in pixels that the search pictures were laid around.
        place: (M,) index into the flattened response.
        offsets: (M, 4, R, R) of ymin, ymax, xmin, xmax in cells; a cell is an eighth of the box.
    """
    side = offsets.shape[-1]
    chosen = offsets.reshape(len(boxes), 4, side * side)[np.arange(len(boxes)), :, place][:, [2, 0, 3, 1]]
    shift = np.stack([place % side, place // side], axis=1) - (side - 1) / 2
    size = boxes[:, 2:] - boxes[:, :2]
    cell = np.tile(size, (1, 2)) / _CELLS_PER_BOX
    result: NDArray[np.float64] = boxes + (np.tile(shift, (1, 2)) + chosen) * cell
    return result
