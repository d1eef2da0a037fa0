"""Computing a block, or parts of one, in torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from effvision.host.edit_blocks import Walk
from effvision.host.edit_costs import Choice
from effvision.host.edit_journal import Maps, Step, patch
from effvision.host.regions import Rect
from effvision.incremental.blocks import NetworkBlock
from effvision.incremental.rules import Affine

__all__ = ["compute_parts", "compute_whole"]

_TOGETHER = 1 << 22  # elements of one leaf that go into one batch of tiles


def compute_whole(block: NetworkBlock, maps: Maps) -> Tensor:
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


def laid_out(tensor: Tensor, maps: Maps, block: NetworkBlock) -> Tensor:
    """Make a tensor that is nobody else's memory; a picture is channels-last."""
    shared = {maps[leaf.index].untyped_storage().data_ptr() for leaf in block.leaves}
    if tensor.ndim == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor.clone() if tensor.untyped_storage().data_ptr() in shared else tensor


def _compute(block: NetworkBlock, rows: Walk, columns: Walk, crops: Mapping[int, Tensor]) -> Tensor:
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


def _crop(block: NetworkBlock, maps: Maps, rows: Walk, columns: Walk) -> dict[int, Tensor]:
    crops = {}
    for leaf, down, across in zip(block.leaves, rows.leaves, columns.leaves, strict=True):
        tensor = maps[leaf.index]
        crops[leaf.index] = patch(tensor, (*down, *across)) if leaf.picture else tensor
    return crops


def compute_parts(block: NetworkBlock, choice: Choice, maps: Maps, step: Step) -> None:
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


def _compute_alike(block: NetworkBlock, group: list[tuple[Rect, Walk, Walk]], maps: Maps, step: Step) -> None:
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
