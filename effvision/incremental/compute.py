"""Computing a part of a block, and choosing the parts: all of it, a few rectangles, or tiles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from effvision.incremental.blocks import Block, Walk
from effvision.incremental.costs import Machine
from effvision.incremental.journal import Maps, Step, patch
from effvision.incremental.regions import Rect, area, paint, tiles
from effvision.incremental.rules import Affine

__all__ = ["Choice", "Plan", "choose", "compute_parts", "compute_whole", "parts_of", "slack"]

Plan = Literal["auto", "dense", "rectangles", "tiles"]
_WORTH = 0.8  # parts are chosen only if they cost less than this share of dense: the model is no better than that
_TILE_SIZES = (8, 16, 32)
_TOGETHER = 1 << 22  # elements of one leaf that go into one batch of tiles


@dataclass(frozen=True)
class Choice:
    """How a block is computed.

    Attributes:
        how: `dense`, `rectangles` or `tiles`.
        parts: The rectangles of its target; the whole for `dense`.
        seconds: What the model predicts.
    """

    how: str
    parts: list[Rect]
    seconds: float


def work(block: Block, rows: Walk, columns: Walk) -> tuple[float, float]:
    """Multiply-adds and elements of computing one part of a block."""
    macs = elements = 0.0
    for value, high, wide in zip(block.members, rows.lengths, columns.lengths, strict=True):
        h, w = value.size
        share = high * wide / (h * w) if value.picture else 1.0
        macs += value.macs * share
        elements += value.elements * share
    return macs, elements


def parts_of(block: Block, parts: Sequence[Rect]) -> tuple[float, float]:
    """Multiply-adds and elements of several parts."""
    found = [work(block, block.walk(0, part[0], part[1]), block.walk(1, part[2], part[3])) for part in parts]
    return sum(macs for macs, _ in found), sum(elements for _, elements in found)


def _seconds(machine: Machine, macs: float, elements: float, calls: float) -> float:
    return machine.mac_s * macs + machine.element_s * elements + machine.call_s * calls


def slack(block: Block, machine: Machine) -> float:
    """Pixels of the target that cost as much as one part more."""
    h, w = block.target.size
    each = _seconds(machine, block.macs, sum(value.elements for value in block.members), 0) / (h * w)
    return machine.call_s * (len(block.members) + 3) / max(each, 1e-12)


def choose(block: Block, rects: Sequence[Rect], machine: Machine, plan: Plan, *, tiled: bool) -> Choice:
    """Choose the cheapest way to compute some rectangles of a block's target.

    Args:
        block: One that is not dense.
        rects: Already tidy.
        machine: What things cost.
        plan: `auto`, or the way that has to be taken.
        tiled: Whether tiles are possible: a batch of one.
    """
    calls = len(block.members) + 3
    everything = sum(value.elements for value in block.members)
    kept = machine.kept_s * block.target.elements
    dense = Choice("dense", [block.whole], _seconds(machine, block.macs, everything, calls) + kept)
    if plan == "dense" or list(rects) == [block.whole]:
        return dense
    macs, elements = parts_of(block, rects)
    written = sum(map(area, rects)) / _pixels(block)
    seconds = _seconds(machine, macs, elements + 2 * written * block.target.elements, calls * len(rects))
    best = Choice("rectangles", list(rects), seconds + kept * written)
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


def _pixels(block: Block) -> int:
    h, w = block.target.size
    return h * w


def _tiling(block: Block, parts: list[Rect], machine: Machine) -> Choice:
    """What some tiles cost: as many of the first as there are."""
    first = min(parts, key=lambda part: (part[0] == 0) + (part[2] == 0))
    macs, elements = parts_of(block, [first])
    written = block.target.elements * area(first) / _pixels(block)
    each = machine.tile_factor * machine.mac_s * macs + machine.element_s * (elements + 2 * written)
    each += machine.kept_s * written + machine.call_s
    return Choice("tiles", parts, len(parts) * each + 9 * machine.call_s * (len(block.members) + 3))


def compute_whole(block: Block, maps: Maps) -> Tensor:
    """Compute all of a block's target; norms that keep the statistics of the first pass take them in it.

    Returns:
        The target; pictures are channels-last.
    """
    held = {leaf.index: maps[leaf.index] for leaf in block.leaves}
    last = {source: value.index for value in block.members for source in value.inputs}
    for value in block.members:
        tensors = [held[source] for source in value.inputs]
        if isinstance(value.rule, Affine):
            if value.rule.scale is None:  # the first pass
                value.rule.observe(tensors[0])
            held[value.index] = value.rule.run(tensors, ())
        elif value.call is not None:
            held[value.index] = value.call(tensors)
        for source in value.inputs:
            if last[source] == value.index:
                held.pop(source, None)
    return laid_out(held[block.target.index], maps, block)


def laid_out(tensor: Tensor, maps: Maps, block: Block) -> Tensor:
    """Make a tensor that is nobody else's memory; a picture is channels-last."""
    shared = {maps[leaf.index].untyped_storage().data_ptr() for leaf in block.leaves}
    if tensor.ndim == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor.clone() if tensor.untyped_storage().data_ptr() in shared else tensor


def _compute(block: Block, rows: Walk, columns: Walk, crops: Mapping[int, Tensor]) -> Tensor:
    """Compute a part of a block from crops of its leaves."""
    held = dict(crops)
    for value, down, across in zip(block.members, rows.steps, columns.steps, strict=True):
        tensors, ways = [], []
        for source, (top, height, row), (left, width, column) in zip(value.inputs, down, across, strict=True):
            tensor = held[source]
            if tensor.ndim == 4:
                if tensor.shape[2] != height or tensor.shape[3] != width:
                    tensor = tensor[:, :, top : top + height, left : left + width]
                ways.append((row, column))
            else:
                ways.append(((), ()))
            tensors.append(tensor)
        if value.rule is not None:
            held[value.index] = value.rule.run(tensors, ways)
    return held[block.target.index]


def _crop(block: Block, maps: Maps, rows: Walk, columns: Walk) -> dict[int, Tensor]:
    crops = {}
    for leaf, down, across in zip(block.leaves, rows.leaves, columns.leaves, strict=True):
        tensor = maps[leaf.index]
        crops[leaf.index] = patch(tensor, (*down, *across)) if leaf.picture else tensor
    return crops


def compute_parts(block: Block, choice: Choice, maps: Maps, step: Step) -> None:
    """Compute the parts of a choice and write them into the target's map."""
    if choice.how != "tiles":
        for part in choice.parts:
            rows, columns = block.walk(0, part[0], part[1]), block.walk(1, part[2], part[3])
            maps.write(
                block.target.index, part, _compute(block, rows, columns, _crop(block, maps, rows, columns)), step
            )
        return
    alike: dict[tuple[int, int], list[tuple[Rect, Walk, Walk]]] = defaultdict(list)
    for part in choice.parts:
        rows, columns = block.walk(0, part[0], part[1]), block.walk(1, part[2], part[3])
        alike[rows.kind, columns.kind].append((part, rows, columns))
    for group in alike.values():
        _compute_alike(block, group, maps, step)


def _compute_alike(block: Block, group: list[tuple[Rect, Walk, Walk]], maps: Maps, step: Step) -> None:
    """Compute parts that differ only in where they lie, as batches."""
    _, rows, columns = group[0]
    largest = max(
        (down[1] - down[0]) * (across[1] - across[0]) * (leaf.shape[1] if leaf.picture else 1)
        for leaf, down, across in zip(block.leaves, rows.leaves, columns.leaves, strict=True)
    )
    count = max(1, _TOGETHER // max(1, largest))
    for first in range(0, len(group), count):
        some = group[first : first + count]
        crops = [_crop(block, maps, down, across) for _, down, across in some]
        stacked = {
            leaf.index: torch.cat([crop[leaf.index] for crop in crops]) if leaf.picture else maps[leaf.index]
            for leaf in block.leaves
        }
        found = _compute(block, rows, columns, stacked)
        for number, (part, _, _) in enumerate(some):
            maps.write(block.target.index, part, found[number : number + 1], step)
