"""How a block is computed: all of it, a few rectangles, or tiles; whatever costs least on this machine.

Only ratios matter: a block computed dense and the same block computed in parts are the same operations on other sizes. So a
few numbers are enough: a multiply-add, an element that passes through memory, one that is kept in memory not used before, a
call, and how much slower small tiles are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from effvision.host.edit_blocks import Block, Walk
from effvision.host.regions import Rect, area, paint, tiles

__all__ = ["Choice", "Machine", "Plan", "choose", "parts_of", "slack"]

Plan = Literal["auto", "dense", "rectangles", "tiles"]
_WORTH = 0.8  # parts are chosen only if they cost less than this share of dense: the model is no better than that
_TILE_SIZES = (8, 16, 32)


@dataclass(frozen=True)
class Machine:
    """Costs in seconds.

    Attributes:
        mac_s: One multiply-add of a convolution of ordinary size.
        element_s: One element read, changed and written.
        kept_s: One element copied into fresh memory, as the journal does: the system has to hand out and clear its pages.
        call_s: One operation of any size, the Python around it included.
        tile_factor: How many times slower a multiply-add is where the map comes in small tiles.
    """

    mac_s: float
    element_s: float
    kept_s: float
    call_s: float
    tile_factor: float


@dataclass(frozen=True)
class Choice:
    """How a block is computed.

    Attributes:
        how: `dense`, `rectangles` or `tiles`.
        parts: The rectangles of its target; the whole for `dense`.
        seconds: What the model predicts.
        macs: Multiply-adds.
    """

    how: str
    parts: list[Rect]
    seconds: float
    macs: float


def work(block: Block[Any], rows: Walk, columns: Walk) -> tuple[float, float]:
    """Multiply-adds and elements of computing one part of a block."""
    macs = elements = 0.0
    for value, high, wide in zip(block.members, rows.lengths, columns.lengths, strict=True):
        h, w = value.size
        share = high * wide / (h * w) if value.picture else 1.0
        macs += value.macs * share
        elements += value.elements * share
    return macs, elements


def parts_of(block: Block[Any], parts: Sequence[Rect]) -> tuple[float, float]:
    """Multiply-adds and elements of several parts."""
    found = [work(block, block.walk(0, part[0], part[1]), block.walk(1, part[2], part[3])) for part in parts]
    return sum(macs for macs, _ in found), sum(elements for _, elements in found)


def _seconds(machine: Machine, macs: float, elements: float, calls: float) -> float:
    return machine.mac_s * macs + machine.element_s * elements + machine.call_s * calls


def slack(block: Block[Any], machine: Machine) -> float:
    """Pixels of the target that cost as much as one part more."""
    each = _seconds(machine, block.macs, block.elements, 0) / area(block.whole)
    return machine.call_s * (len(block.members) + 3) / max(each, 1e-12)


def choose(block: Block[Any], rects: Sequence[Rect], machine: Machine, plan: Plan, *, tiled: bool) -> Choice:
    """Choose the cheapest way to compute some rectangles of a block's target.

    Args:
        block: One that is not dense.
        rects: Already tidy.
        machine: What things cost.
        plan: `auto`, or the way that has to be taken.
        tiled: Whether tiles are possible: a batch of one.
    """
    calls = len(block.members) + 3
    kept = machine.kept_s * block.target.elements
    dense = Choice("dense", [block.whole], _seconds(machine, block.macs, block.elements, calls) + kept, block.macs)
    if plan == "dense" or list(rects) == [block.whole]:
        return dense
    macs, elements = parts_of(block, rects)
    written = sum(map(area, rects)) / area(block.whole)
    seconds = _seconds(machine, macs, elements + 2 * written * block.target.elements, calls * len(rects))
    best = Choice("rectangles", list(rects), seconds + kept * written, macs)
    if plan == "rectangles":
        return best
    if tiled and (plan == "tiles" or len(rects) > 2):
        mask = paint(rects, *block.target.size)
        options = [_tiling(block, tiles(mask, size), machine) for size in _TILE_SIZES]
        cheapest = min(options, key=lambda option: option.seconds)
        if plan == "tiles":
            return cheapest
        best = min(best, cheapest, key=lambda option: option.seconds)
    return best if best.seconds < _WORTH * dense.seconds else dense


def _tiling(block: Block[Any], parts: list[Rect], machine: Machine) -> Choice:
    """What some tiles cost: as many of the first as there are."""
    first = min(parts, key=lambda part: (part[0] == 0) + (part[2] == 0))
    macs, elements = parts_of(block, [first])
    written = block.target.elements * area(first) / area(block.whole)
    each = machine.tile_factor * machine.mac_s * macs + machine.element_s * (elements + 2 * written)
    each += machine.kept_s * written + machine.call_s
    seconds = len(parts) * each + 9 * machine.call_s * (len(block.members) + 3)
    return Choice("tiles", parts, seconds, parts_of(block, parts)[0])
