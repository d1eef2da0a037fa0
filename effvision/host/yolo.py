"""What the output of a YOLO network means: its layout told from shapes, boxes read from its numbers.

Three families of layouts are in use, all with boxes in pixels of the network's input:

    v8            (1, 4+K, A)   middle x y, width, height, then a score for each of K classes (YOLOv8 and later)
    v8 transposed (1, A, 4+K)   the same, box by box
    v5            (1, A, 5+K)   middle x y, width, height, whether there is an object, then K classes given that there is one
    end to end    (1, N, 6)     x1 y1 x2 y2, score, class; suppression is done, rows that are not needed are zero

A is fixed by the size of the input: one box for each pixel of the feature maps, three in YOLOv5. So a shape tells its layout
nearly always, and the number of class names settles the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effvision.errors import DetectorError
from effvision.host.boxes import xywh_to_xyxy

__all__ = ["Reading", "Rows", "decode", "readings"]

_SLACK = 1e-2  # scores in half precision may leave 0..1 by a hair
_CLASS_SLACK = 1e-3
_MOST_ROWS = 1000  # of a file that suppresses by itself; they are exported with 300

# Strides of the feature maps that one network looks for objects in.
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (4, 8, 16, 32, 64), (16, 32))


class Reading(NamedTuple):
    """One way to understand an output: the name of the layout, and K; None where the output does not tell K."""

    layout: str
    classes: int | None


class Rows(NamedTuple):
    """Boxes that score enough, in pixels of the network's input.

    Attributes:
        boxes: (M, 4) float64 `x1 y1 x2 y2`, finite, with an area.
        scores: (M,) float32, 0..1.
        classes: (M,) int64.
        dropped: How many others were not finite or had no area.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    dropped: int

    def take(self, which: NDArray[np.int64]) -> Rows:
        """Return some of them, in that order."""
        return Rows(self.boxes[which], self.scores[which], self.classes[which], self.dropped)


def readings(shape: tuple[int, ...], size: tuple[int, int], classes: int | None = None) -> list[Reading]:
    """Return every way to understand an output of this shape; one for a file that can be used.

    Args:
        shape: Of the only output.
        size: Rows and columns of the input that gave it.
        classes: Class names there are; None if that is not known.

    Returns:
        Readings that fit. "one score too many" is the layout of YOLOX and YOLOv6, whose first score is no class: it cannot be
        told from "v8 transposed" without `classes`, and is not read here.
    """
    if len(shape) != 3 or shape[0] != 1:
        return []
    cells = {sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in strides) for strides in _STRIDES}
    _, rows, columns = shape
    found = []
    if columns in cells:
        found.append(Reading("v8", rows - 4))
    if rows in cells:
        found += [Reading("v8 transposed", columns - 4), Reading("one score too many", columns - 5)]
    if rows in {3 * count for count in cells}:
        found.append(Reading("v5", columns - 5))
    if not found and columns == 6:
        return [Reading("end to end", None)]
    if not found and classes and rows == 4 + classes < columns:  # feature maps of other strides
        return [Reading("v8", classes)]
    fitting = [one for one in found if one.classes and one.classes > 0 and classes in (None, one.classes)]
    if not fitting and columns == 6 and rows <= _MOST_ROWS:  # as many rows as places, by chance
        return [Reading("end to end", None)]
    return fitting


def decode(output: NDArray[np.floating], layout: str, confidence: float, *, where: str = "the network") -> Rows:
    """Read the boxes whose score is above `confidence`.

    Args:
        output: As the layout says, float32 or float16.
        layout: One of the names above.
        confidence: 0..1; a box with several classes counts as its best.
        where: Who answered, for messages.

    Raises:
        DetectorError: scores outside 0..1, classes that are no whole numbers, or boxes that are not in pixels.
    """
    table = output[0] if layout == "v8" else output[0].T  # (columns, boxes)
    dropped = 0
    if layout == "end to end":
        best = _checked(table[4], where)
    elif layout == "v5":
        sure = _checked(table[4], where)
        dropped = int(np.count_nonzero(np.isnan(sure)))
        table = table[:, sure > confidence]  # a class given that there is an object is not surer than the object
        best = _checked(_highest(table[5:]).astype(np.float32) * table[4], where)
    else:
        best = _checked(_highest(table[4:]), where)
    chosen = np.flatnonzero(best > confidence)
    boxes = table[:4, chosen].T.astype(np.float64)
    if layout == "end to end":
        order = np.argsort(-best[chosen], kind="stable")
        chosen, boxes = chosen[order], boxes[order]
        classes = _whole(table[5, chosen].astype(np.float64), where)
    else:
        classes = table[5 if layout == "v5" else 4 :, chosen].argmax(axis=0)
        boxes = xywh_to_xyxy(boxes, center=True)
    good = np.isfinite(boxes).all(axis=1) & (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
    dropped += int(np.count_nonzero(~good)) + int(np.count_nonzero(np.isnan(best)))
    if good.any() and boxes[good].min() >= -1 and boxes[good].max() <= 1:
        raise DetectorError(
            f"{where} answered boxes that all lie within the first pixel, such as {boxes[good][0].tolist()}\n"
            "hint: they look like shares of the input; export it with boxes in pixels"
        )
    scores = np.minimum(best[chosen[good]], np.float32(1))
    return Rows(boxes[good], scores, classes[good].astype(np.int64), dropped)


def _highest(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the highest score of each box, (K, M) to (M,)."""
    if scores.dtype != np.float16 or scores.shape[1] == 0:
        highest: NDArray[np.floating] = scores.max(axis=0)
        return highest
    # Positive numbers in half precision are in the order of their bits. Comparing these is a hundred times as fast as NumPy's
    # arithmetic, which is slowest for the tiny scores that most boxes have.
    bits: NDArray[np.int16] = scores.view(np.int16).max(axis=0)
    return bits.view(np.float16)


def _checked(scores: NDArray[np.floating], where: str) -> NDArray[np.float32]:
    out = scores.astype(np.float32, copy=False)
    odd = out[(out > 1 + _SLACK) | (out < -_SLACK)]
    if len(odd):
        raise DetectorError(
            f"{where} answered the score {odd[0]:g}; scores must lie within 0..1\n"
            "hint: a network that gives logits has to be exported with its sigmoid"
        )
    return out


def _whole(classes: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    rounded = np.rint(classes)
    good = (np.abs(classes - rounded) <= _CLASS_SLACK) & (rounded >= 0)
    if not good.all():
        raise DetectorError(
            f"{where} answered the class {classes[~good][0]:g}; classes are whole numbers from 0\n"
            "hint: the six columns must be x1 y1 x2 y2 score class"
        )
    return rounded
