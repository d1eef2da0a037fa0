"""Which values are kept, and the blocks between them: what is computed again from what.

A block makes one kept value from other kept values. Inside it everything is computed anew for the part that changed, so only
block borders take memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from effvision.incremental.axes import Span
from effvision.incremental.regions import Rect
from effvision.incremental.trace import Graph, Value

__all__ = ["Block", "Walk", "choose_kept", "make_blocks"]

CONVOLUTIONS = 2  # a block ends after so many convolutions, at the next narrow place
DEPTH = 5  # and wherever it is after so many
DISTANCE = 8  # a value read so many convolutions later is kept for itself: the skips of a U-Net
_REMEMBERED = 20_000  # walks kept per block and axis: an edit repeats few


@dataclass(frozen=True)
class Walk:
    """How one axis of a block is computed.

    Attributes:
        leaves: For every leaf, the pixels it has to give.
        lengths: For every member, the pixels of it that are computed.
        steps: For every member and each of its inputs: where its pixels start in what that input computed, how many, and the
            recipe. It does not depend on where in the map the interval lies.
        kind: A number that walks of one block and axis share exactly if their `steps` are equal.
    """

    leaves: tuple[Span, ...]
    lengths: tuple[int, ...]
    steps: tuple[tuple[tuple[int, int, Hashable], ...], ...]
    kind: int


@dataclass(eq=False)
class Block:
    """What makes one kept value.

    Attributes:
        target: The kept value.
        members: The values computed on the way, the target last.
        leaves: The kept values it starts from.
        dense: Whether something in it has no rule: it is computed as a whole, and changes as a whole.
        reason: Why.
    """

    target: Value
    members: list[Value]
    leaves: list[Value]
    dense: bool
    reason: str = ""
    _walks: dict[tuple[int, int, int], Walk] = field(default_factory=dict)
    _ways: dict[tuple[Any, ...], Span | None] = field(default_factory=dict)
    _kinds: dict[tuple[Any, ...], int] = field(default_factory=dict)

    @property
    def whole(self) -> Rect:
        """All of the target."""
        h, w = self.target.size
        return 0, h, 0, w

    @property
    def macs(self) -> float:
        """Multiply-adds of computing all of it."""
        return sum(value.macs for value in self.members)

    def walk(self, axis: int, lo: int, hi: int) -> Walk:
        """What has to be computed along an axis (0 rows, 1 columns) for pixels [lo, hi) of the target."""
        key = (axis, lo, hi)
        found = self._walks.get(key)
        if found is None:
            if len(self._walks) > _REMEMBERED:
                self._walks.clear()
                self._kinds.clear()
            found = self._walks[key] = self._backward(axis, lo, hi)
        return found

    def _backward(self, axis: int, lo: int, hi: int) -> Walk:
        need: dict[int, Span] = {self.target.index: (lo, hi)}
        wanted: dict[int, list[tuple[int, int, Hashable]]] = {}
        for value in reversed(self.members):
            first, last = need[value.index]
            rule = value.rule
            asked: list[tuple[int, int, Hashable]] = []
            for source, axes in zip(value.inputs, rule.axes if rule else (), strict=True):
                if axes is None:
                    need[source] = (0, 1)
                    asked.append((0, 1, ()))
                    continue
                a, b, how = axes[axis].needs(first, last)
                old = need.get(source)
                need[source] = (a, b) if old is None else (min(a, old[0]), max(b, old[1]))
                asked.append((a, b, how))
            wanted[value.index] = asked
        steps = tuple(
            tuple(
                (a - need[source][0], b - a, how)
                for source, (a, b, how) in zip(value.inputs, wanted[value.index], strict=True)
            )
            for value in self.members
        )
        lengths = tuple(need[value.index][1] - need[value.index][0] for value in self.members)
        kind = self._kinds.setdefault((axis, steps), len(self._kinds))
        return Walk(tuple(need[leaf.index] for leaf in self.leaves), lengths, steps, kind)

    def reaches(self, leaf: Value, rect: Rect, *, core: bool = False) -> Rect | None:
        """The part of the target that may change with a part of a leaf; None if none does.

        Args:
            leaf: One of `leaves`.
            rect: The part of it.
            core: Ask only where the part lies in the target, without what leaks from it.
        """
        spans = []
        for axis in (0, 1):
            key = (leaf.index, axis, rect[2 * axis], rect[2 * axis + 1], core)
            if key not in self._ways:
                if len(self._ways) > _REMEMBERED:
                    self._ways.clear()
                self._ways[key] = self._forward(leaf, axis, rect[2 * axis], rect[2 * axis + 1], core)
            spans.append(self._ways[key])
        rows, columns = spans
        return None if rows is None or columns is None else (*rows, *columns)

    def _forward(self, leaf: Value, axis: int, lo: int, hi: int, core: bool) -> Span | None:
        changed: dict[int, Span] = {leaf.index: (lo, hi)}
        for value in self.members:
            size = value.size[axis]
            found: Span | None = None
            for number, source in enumerate(value.inputs):
                if source not in changed:
                    continue
                axes = value.rule.axes[number] if value.rule else None
                if axes is None:
                    span = (0, size)
                else:
                    span = axes[axis].core(*changed[source]) if core else axes[axis].touches(*changed[source])
                if span[0] < span[1]:
                    found = span if found is None else (min(found[0], span[0]), max(found[1], span[1]))
            if found is not None:
                changed[value.index] = found
        return changed.get(self.target.index)


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


def make_blocks(graph: Graph, kept: set[int]) -> list[Block]:
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
