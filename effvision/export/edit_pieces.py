"""Convolutions whose results are split: each part is written as a convolution of its own.

What several layers need of the same map is often one convolution with a split behind it (SPADE's scale and shift). In ONNX
Runtime the split copies the map, and a layout made for convolutions ends at it. Weights are stored once all the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from effvision.export.edit_operators import Piece, Unwritable, part_of
from effvision.incremental.blocks import NetworkBlock
from effvision.incremental.trace import Slot, Value

__all__ = ["find_pieces"]

_SPLITS = ("chunk", "split", "split_with_sizes")
_ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "elu")


def find_pieces(block: NetworkBlock) -> dict[int, Piece | None]:
    """What is written otherwise in a block: a piece for every part, None for what only leads to pieces."""
    users: dict[int, list[Value]] = defaultdict(list)
    for value in block.members:
        for source in set(value.inputs):
            users[source].append(value)
    found: dict[int, Piece | None] = {}
    for value in block.members:
        if value.operation == "conv2d" and value.rule is not None and value.given["groups"] == 1:
            found.update(_pieces(value, users, block.target))
    return found


def _pieces(value: Value, users: dict[int, list[Value]], target: Value) -> dict[int, Piece | None]:
    """The pieces of one convolution; nothing if something needs all of it."""
    last, activation = value, None
    if len(users[value.index]) == 1 and users[value.index][0].operation in _ACTIVATIONS:
        last = activation = users[value.index][0]
    parts = users[last.index]
    if target in (value, last) or not parts or any(part.operation not in _SPLITS for part in parts):
        return {}
    found: dict[int, Piece | None] = {value.index: None, last.index: None}
    for part in parts:
        try:
            piece = Piece(value, *part_of(part, value.shape[1]), activation)
        except Unwritable:
            return {}
        found[part.index] = piece
        added = _added(part, users[part.index]) if activation is None and part is not target else None
        if added is not None:
            found[part.index] = None
            found[added[0].index] = Piece(value, piece.start, piece.end, None, added[1])
    return found


def _added(part: Value, users: Sequence[Value]) -> tuple[Value, float] | None:
    """The sum of a part and a number, where nothing else needs the part."""
    if len(users) != 1 or users[0].operation != "add" or len(users[0].inputs) != 1:
        return None
    given = users[0].given
    numbers = [given[key] for key in ("self", "other") if not isinstance(given[key], Slot)]
    if (
        len(numbers) != 1
        or isinstance(numbers[0], bool)
        or not isinstance(numbers[0], (int, float))
        or given["alpha"] != 1
    ):
        return None
    return users[0], float(numbers[0])
