"""The blocks between what is kept of an edited picture: what a part of one is computed from, and where a change reaches.

A block makes one kept value from other kept values. Inside it everything is computed anew for the part that changed, so only
block borders take memory. Nothing here computes: an engine in torch and one that runs an exported file walk the same blocks.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

from effvision.host.edit_axes import Axis, Span
from effvision.host.regions import Rect

__all__ = ["REMEMBERED", "Block", "Cell", "Walk"]

REMEMBERED = 20_000
"""Walks kept per block and axis: an edit repeats few."""


class Cell(Protocol):
    """One tensor of a network, as far as edits are concerned."""

    @property
    def index(self) -> int:
        """Its number; what it is made of has lower ones."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W), or what it has."""

    @property
    def picture(self) -> bool:
        """Whether it has rows and columns."""

    @property
    def inputs(self) -> tuple[int, ...]:
        """Numbers of what it is made of."""

    @property
    def axes(self) -> tuple[tuple[Axis, Axis] | None, ...]:
        """For each input: rows and columns; None: no picture, needed as a whole. Empty if there is no rule."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns; (1, 1) of what is no picture."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""

    @property
    def macs(self) -> float:
        """Multiply-adds of making all of it."""


V = TypeVar("V", bound=Cell)


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
class Block(Generic[V]):
    """What makes one kept value.

    Attributes:
        target: The kept value.
        members: The values computed on the way, the target last.
        leaves: The kept values it starts from.
        dense: Whether something in it has no rule: it is computed as a whole, and changes as a whole.
        reason: Why.
    """

    target: V
    members: list[V]
    leaves: list[V]
    dense: bool
    reason: str = ""
    _walks: dict[tuple[int, int, int], Walk] = field(default_factory=dict)
    _ways: dict[tuple[Any, ...], Span | None] = field(default_factory=dict)
    _kinds: dict[tuple[Any, ...], int] = field(default_factory=dict)

    @cached_property
    def whole(self) -> Rect:
        """All of the target."""
        h, w = self.target.size
        return 0, h, 0, w

    @cached_property
    def macs(self) -> float:
        """Multiply-adds of computing all of it."""
        return sum(value.macs for value in self.members)

    @cached_property
    def elements(self) -> int:
        """Numbers that computing all of it passes through."""
        return sum(value.elements for value in self.members)

    def walk(self, axis: int, lo: int, hi: int) -> Walk:
        """What has to be computed along an axis (0 rows, 1 columns) for pixels [lo, hi) of the target."""
        key = (axis, lo, hi)
        found = self._walks.get(key)
        if found is None:
            if len(self._walks) > REMEMBERED:
                self._walks.clear()
                self._kinds.clear()
            found = self._walks[key] = self._backward(axis, lo, hi)
        return found

    def needs(self, axis: int, lo: int, hi: int) -> tuple[dict[int, Span], dict[int, list[tuple[int, int, Hashable]]]]:
        """What pixels [lo, hi) of the target along an axis are computed from.

        Returns:
            The pixels of every value, by its number; and what each member asks of each input: the pixels and the recipe.
        """
        need: dict[int, Span] = {self.target.index: (lo, hi)}
        wanted: dict[int, list[tuple[int, int, Hashable]]] = {}
        for value in reversed(self.members):
            first, last = need[value.index]
            asked: list[tuple[int, int, Hashable]] = []
            for source, axes in zip(value.inputs, value.axes, strict=True):
                if axes is None:
                    need[source] = (0, 1)
                    asked.append((0, 1, ()))
                    continue
                a, b, how = axes[axis].needs(first, last)
                old = need.get(source)
                need[source] = (a, b) if old is None else (min(a, old[0]), max(b, old[1]))
                asked.append((a, b, how))
            wanted[value.index] = asked
        return need, wanted

    def _backward(self, axis: int, lo: int, hi: int) -> Walk:
        need, wanted = self.needs(axis, lo, hi)
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

    def reaches(self, leaf: V, rect: Rect, *, core: bool = False) -> Rect | None:
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
                if len(self._ways) > REMEMBERED:
                    self._ways.clear()
                self._ways[key] = self._forward(leaf, axis, rect[2 * axis], rect[2 * axis + 1], core)
            spans.append(self._ways[key])
        rows, columns = spans
        return None if rows is None or columns is None else (*rows, *columns)

    def _forward(self, leaf: V, axis: int, lo: int, hi: int, core: bool) -> Span | None:
        changed: dict[int, Span] = {leaf.index: (lo, hi)}
        for value in self.members:
            size = value.size[axis]
            found: Span | None = None
            for number, source in enumerate(value.inputs):
                if source not in changed:
                    continue
                axes = value.axes[number] if value.axes else None
                if axes is None:
                    span = (0, size)
                else:
                    span = axes[axis].core(*changed[source]) if core else axes[axis].touches(*changed[source])
                if span[0] < span[1]:
                    found = span if found is None else (min(found[0], span[0]), max(found[1], span[1]))
            if found is not None:
                changed[value.index] = found
        return changed.get(self.target.index)
