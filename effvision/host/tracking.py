"""How an object is followed from match to match (provisional)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effvision.host.peaks import find_peaks, moved_boxes

__all__ = ["Followed", "Rule", "follow", "fresh_signs", "search_boxes"]

_SIGNS = 4


@dataclass(frozen=True)
class Rule:
    lost_below: float = 0.3
    scale_rate: float = 0.25


class Followed(NamedTuple):
    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    lost: NDArray[np.bool_]
    signs: NDArray[np.float64]
    refresh: NDArray[np.bool_]


def fresh_signs(count: int) -> NDArray[np.float64]:
    return np.zeros((count, _SIGNS))


def search_boxes(boxes, signs, rule):
    return boxes, np.arange(len(boxes))


def follow(priors, owner, outputs, boxes, signs, rule, size):
    response, offsets, strength = (np.asarray(outputs[n]) for n in ("response", "offsets", "strength"))
    peaks = find_peaks(response, strength)
    found = moved_boxes(priors, peaks.place, offsets)
    return Followed(found, peaks.score, peaks.score < rule.lost_below, signs, np.zeros(len(boxes), bool))
