"""Which values of a network are kept, and the blocks between them (`effvision.host.edit_blocks`)."""

from __future__ import annotations

from collections.abc import Iterable

from effvision.host.edit_blocks import Block
from effvision.incremental.trace import Graph, Value

__all__ = ["NetworkBlock", "choose_kept", "make_blocks"]

NetworkBlock = Block[Value]

CONVOLUTIONS = 2  # a block ends after so many convolutions, at the next narrow place
DEPTH = 5  # and wherever it is after so many
DISTANCE = 8  # a value read so many convolutions later is kept for itself: the skips of a U-Net


def choose_kept(graph: Graph, *, every_convolution: bool = False) -> set[int]:
    """Choose the values that are kept: inputs, outputs, both sides of what has no rule, and narrow places in between.

    Args:
        graph: The network.
        every_convolution: Keep the output of every convolution, as the published engine does.

    Returns:
        Their indices.
    """
    values = graph.values
    kept = {*graph.inputs, *graph.outputs, *graph.constants}
    users: dict[int, list[Value]] = {value.index: [] for value in values}
    for value in values:
        for source in value.inputs:
            users[source].append(value)
    for value in values:
        if value.call is None:
            continue
        for source in value.inputs:
            if (value.rule is None) != (values[source].rule is None):
                kept.add(source)
        if every_convolution and value.rule is not None and value.rule.heavy:
            kept.add(value.index)
    if not every_convolution:
        _keep_distant(values, users, kept)
        _keep_narrow(values, users, kept)
        while shared := _shared(graph, users, kept):
            kept.update(shared)
    return kept


def _heavy(value: Value) -> bool:
    return value.rule is not None and value.rule.heavy


def _shared(graph: Graph, users: dict[int, list[Value]], kept: set[int]) -> set[int]:
    """The last values with convolutions behind them that several blocks would compute, each for itself."""
    owners: dict[int, set[int]] = {value.index: set() for value in graph.values}
    behind: set[int] = set()
    for block in make_blocks(graph, kept):
        for value in block.members:
            owners[value.index].add(block.target.index)
            if _heavy(value) or any(source in behind for source in value.inputs):
                behind.add(value.index)
        behind -= kept
    found = {index for index in behind if len(owners[index]) > 1}
    return {index for index in found if any(owners[user.index] != owners[index] for user in users[index])}


def _keep_distant(values: list[Value], users: dict[int, list[Value]], kept: set[int]) -> None:
    """Keep values that are read long after they were made, both in order and in depth."""
    made: dict[int, int] = {}
    depth: dict[int, int] = {}
    count = 0
    for value in values:
        count += _heavy(value)
        made[value.index] = count
        depth[value.index] = max((depth[source] for source in value.inputs), default=0) + _heavy(value)
    for value in values:
        for user in users[value.index]:
            far = made[user.index] - made[value.index] > DISTANCE
            if far and depth[user.index] - depth[value.index] > DISTANCE // 2 and value.rule is not None:
                kept.add(value.index)


def _keep_narrow(values: list[Value], users: dict[int, list[Value]], kept: set[int]) -> None:
    """Keep a value where it is the only one alive and enough convolutions lie behind it."""
    depth: dict[int, int] = {}
    waiting: set[int] = set()  # values not kept that something later reads
    candidate: Value | None = None

    def settle(chosen: Iterable[int]) -> None:
        """Keep some values and count again."""
        kept.update(chosen)
        for value in values:
            if value.index in depth:
                depth[value.index] = behind(value)

    def behind(value: Value) -> int:
        """Convolutions between the kept values behind a value and itself, itself included."""
        if value.index in kept or value.rule is None:
            return 0
        return max((depth.get(source, 0) for source in value.inputs), default=0) + _heavy(value)

    for value in values:
        if value.rule is None:
            depth[value.index] = 0
            continue
        if _heavy(value):
            if candidate is not None:
                settle([candidate.index])
                candidate = None
            elif behind(value) > DEPTH:
                settle(source for source in value.inputs if values[source].rule is not None)
        depth[value.index] = behind(value)
        waiting = {index for index in waiting if index not in kept and users[index][-1].index > value.index}
        if value.index in kept:
            candidate = None if depth[value.index] == 0 and not waiting else candidate
        elif users[value.index]:
            waiting.add(value.index)
        narrow = waiting == {value.index} and depth[value.index] >= CONVOLUTIONS
        if narrow and (candidate is None or value.bytes <= candidate.bytes):
            candidate = value


def make_blocks(graph: Graph, kept: set[int]) -> list[NetworkBlock]:
    """Make the block of every kept value that is computed, in an order in which they can be computed."""
    blocks = []
    for target in graph.values:
        if target.index not in kept or target.call is None:
            continue
        members: set[int] = set()
        leaves: set[int] = set()
        pending = [target.index]
        while pending:
            value = graph.values[pending.pop()]
            members.add(value.index)
            for source in value.inputs:
                if source in kept:
                    leaves.add(source)
                elif source not in members:
                    pending.append(source)
        chain = [graph.values[index] for index in sorted(members)]
        without = next((value for value in chain if value.rule is None), None)
        reason = "" if without is None else f"{without.operation}: {without.reason}"
        blocks.append(
            Block(target, chain, [graph.values[index] for index in sorted(leaves)], without is not None, reason)
        )
    return blocks
