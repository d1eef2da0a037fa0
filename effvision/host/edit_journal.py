"""What is kept of an edited picture, and what it was: maps that are written in place, and the old pixels in a journal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from effvision.errors import StateError
from effvision.host.regions import Rect

__all__ = ["Journal", "Maps", "Old", "Step", "patch"]

Array = Any  # (N, C, H, W): numpy here, a tensor where torch computes


@dataclass(frozen=True)
class Old:
    """What some pixels of a map were: all of it where `rect` is None."""

    index: int
    rect: Rect | None
    pixels: Array


@dataclass
class Step:
    """One change of some maps: what they were before, in the order in which it was overwritten."""

    old: list[Old] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return sum(int(item.pixels.nbytes) for item in self.old)


def patch(tensor: Array, rect: Rect) -> Array:
    """The part of a map (N, C, H, W) that a rectangle covers; a view."""
    return tensor[:, :, rect[0] : rect[1], rect[2] : rect[3]]


class Maps:
    """The kept maps, by index. Every write notes in a `Step` what was there before."""

    def __init__(self) -> None:
        self._maps: dict[int, Array] = {}

    def __getitem__(self, index: int) -> Array:
        return self._maps[index]

    def __contains__(self, index: int) -> bool:
        return index in self._maps

    def copied(self, part: Array) -> Array:
        """A part of a map in memory of its own."""
        return np.array(part)

    def put(self, part: Array, pixels: Array) -> None:
        """Overwrite a part of a map."""
        part[...] = pixels

    @property
    def bytes(self) -> int:
        """What they take in memory."""
        return sum(int(tensor.nbytes) for tensor in self._maps.values())

    def replace(self, index: int, tensor: Array, step: Step | None) -> None:
        """Put another map in place of one; nothing is copied."""
        if step is not None:
            step.old.append(Old(index, None, self._maps[index]))
        self._maps[index] = tensor

    def write(self, index: int, rect: Rect, pixels: Array, step: Step) -> None:
        """Overwrite a part of a map."""
        part = patch(self._maps[index], rect)
        step.old.append(Old(index, rect, self.copied(part)))
        self.put(part, pixels)

    def take_back(self, step: Step) -> None:
        """Put back what a step overwrote and forget it; takes no memory, so it works where memory ran out."""
        for item in reversed(step.old):
            if item.rect is None:
                self._maps[item.index] = item.pixels
            else:
                self.put(patch(self._maps[item.index], item.rect), item.pixels)

    def swap(self, step: Step) -> Step:
        """Put back what a step overwrote; return the step that undoes this. After an exception nothing was changed."""
        inverse = Step()
        try:
            for item in reversed(step.old):
                if item.rect is None:
                    self.replace(item.index, item.pixels, inverse)
                else:
                    self.write(item.index, item.rect, item.pixels, inverse)
        except BaseException:
            self.take_back(inverse)
            raise
        return inverse


class Journal:
    """Steps that can be undone and done again, within a limit of memory.

    Args:
        limit_bytes: Beyond it the oldest steps are forgotten.

    Attributes:
        bytes: What the journal takes in memory.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._done: deque[tuple[Step, int]] = deque()  # with its bytes, which cost time to add up
        self._undone: list[tuple[Step, int]] = []
        self._first = 0  # number of the oldest step still known
        self.bytes = 0

    @property
    def position(self) -> int:
        """How many steps lie behind, counted from the first picture."""
        return self._first + len(self._done)

    @property
    def can_undo(self) -> int:
        """How many steps can be undone."""
        return len(self._done)

    @property
    def can_redo(self) -> int:
        """How many undone steps can be done again."""
        return len(self._undone)

    def note(self, step: Step) -> None:
        """Add a step; what was undone before can no longer be done again, and the oldest may be forgotten."""
        size = step.bytes
        self.bytes += size - sum(undone for _, undone in self._undone)
        self._undone.clear()
        self._done.append((step, size))
        while self._done and self.bytes > self.limit_bytes:
            self.bytes -= self._done.popleft()[1]
            self._first += 1

    def forget(self) -> None:
        """Forget all steps; positions go on counting."""
        self._first = self.position
        self._done.clear()
        self._undone.clear()
        self.bytes = 0

    def restart(self) -> None:
        """Forget all steps for another picture: no position of this one is known any more."""
        self.forget()
        self._first += 1

    def back(self, position: int, swap: Callable[[Step], Step], take_back: Callable[[Step], None]) -> None:
        """Undo steps until `position` lie behind; all of them or, after an exception, none.

        Args:
            position: Where to.
            swap: `Maps.swap`.
            take_back: `Maps.take_back`.

        Raises:
            StateError: the steps in between are no longer known, or there are none.
        """
        if not self._first <= position <= self.position:
            raise StateError(
                f"cannot go back to position {position}: positions {self._first} to {self.position} are known\n"
                f"hint: older steps were committed, or forgotten beyond journal_bytes = {self.limit_bytes}"
            )
        inverses: list[Step] = []
        try:
            for place in range(len(self._done) - 1, position - self._first - 1, -1):
                inverses.append(swap(self._done[place][0]))
        except BaseException:
            for inverse in reversed(inverses):
                take_back(inverse)
            raise
        self._undone += [(inverse, self._done.pop()[1]) for inverse in inverses]

    def forward(self, swap: Callable[[Step], Step]) -> None:
        """Do the step undone last again.

        Raises:
            StateError: nothing was undone since the last change.
        """
        if not self._undone:
            raise StateError("nothing to redo: no step was undone since the last change\nhint: ask `can_redo` first")
        inverse = swap(self._undone[-1][0])
        self._done.append((inverse, self._undone.pop()[1]))
