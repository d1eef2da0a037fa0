"""What edits one picture: the few methods a predictor asks of it, and the plainest way to provide them, the whole pass.

Arrays go in and come out; which runtime computes is nobody's business. A runtime gives an editor by `Runtime.editor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from effvision.errors import RangeError, StateError

__all__ = ["Arrays", "Edited", "Editor", "Rect", "WholeEditor"]

Arrays = Mapping[str, NDArray[Any]]
Rect = tuple[int, int, int, int]
"""Top, bottom, left, right: half-open."""


class Edited(Protocol):
    """What an update gave.

    Attributes:
        output: The network's first output (N, C, H, W). It may be the editor's own memory: copy what has to stay.
        changed: For every output the rectangles that were written; the whole for the first picture.
        macs: Multiply-adds computed.
        dense_macs: Those of a full pass.
        how: For every block computed how, in a few words.
        note: What there is to know about this update.
    """

    @property
    def output(self) -> NDArray[Any]:
        """(N, C, H, W)."""

    @property
    def changed(self) -> tuple[tuple[Rect, ...], ...]:
        """Rectangles by output."""

    @property
    def macs(self) -> float:
        """Computed."""

    @property
    def dense_macs(self) -> float:
        """Of a full pass."""

    @property
    def how(self) -> Mapping[str, str]:
        """By block."""

    @property
    def note(self) -> str:
        """Perhaps empty."""


class Editor(Protocol):
    """One picture in work. After an exception of any method everything is as it was before the call."""

    def update(self, arrays: Arrays, mask: NDArray[np.bool_] | None = None, *, check: bool = False) -> Edited:
        """Take the graph's inputs by name: all of it the first time, then what differs from the last ones.

        Args:
            arrays: (N, C, H, W) each. They are not kept.
            mask: (H, W), True where they changed; without it the change is looked for.
            check: Refuse a change outside of the mask.
        """

    def undo(self, to: int | None = None) -> NDArray[Any]:
        """Go back one update, or to a mark of `checkpoint`; return the output."""

    def redo(self) -> NDArray[Any]:
        """Do the update undone last again; return the output."""

    def commit(self) -> None:
        """Forget what could be undone and redone."""

    def checkpoint(self) -> int:
        """Return a mark of the picture as it is now."""

    def reset(self) -> None:
        """Forget the picture."""

    @property
    def can_undo(self) -> int:
        """How many updates can be undone."""

    @property
    def can_redo(self) -> int:
        """How many undone updates can be done again."""

    @property
    def promise(self) -> str:
        """What the picture is compared with a full pass, in a sentence."""

    @property
    def dense_macs(self) -> float:
        """Multiply-adds of a full pass; 0 where they cannot be counted."""

    @property
    def cache_bytes(self) -> int:
        """What is kept of the picture."""

    @property
    def journal_bytes(self) -> int:
        """What undo and redo take."""

    def kept(self) -> dict[str, NDArray[Any]]:
        """Return what is kept besides the inputs, by name, first axis 1 or N; views, not copies. Nothing before a picture."""

    def restore(self, arrays: Arrays, kept: Arrays) -> NDArray[Any]:
        """Take up a picture again: its inputs and what `kept` gave; compute nothing; return the output.

        Raises:
            StateError: names, shapes or dtypes of another network or engine.
        """


@dataclass(frozen=True)
class _Whole:
    """See `Edited`."""

    output: NDArray[Any]
    changed: tuple[tuple[Rect, ...], ...]
    macs: float
    dense_macs: float
    how: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


class WholeEditor:
    """Computes all of the picture for every edit: what any runtime can do, at the price of the full pass.

    Args:
        run: The graph: inputs by name to its output.
        shape: Of the output, (N, C, H, W).
        macs: Multiply-adds of a pass; 0 where they cannot be counted.
        journal_bytes: What undo and redo may take; beyond it the oldest steps are forgotten.

    Raises:
        RangeError: a negative journal.
    """

    promise = "equal to the full pass: this runtime computes it for every edit"

    def __init__(
        self,
        run: Callable[[Arrays], NDArray[Any]],
        *,
        shape: tuple[int, ...],
        macs: float,
        journal_bytes: int,
    ) -> None:
        if journal_bytes < 0:
            raise RangeError(f"journal_bytes = {journal_bytes}\nhint: it cannot be negative")
        self.dense_macs = macs
        self._run, self._shape, self._limit = run, shape, journal_bytes
        self._now: tuple[dict[str, NDArray[Any]], NDArray[Any]] | None = None
        self._done: list[tuple[dict[str, NDArray[Any]], NDArray[Any]]] = []
        self._undone: list[tuple[dict[str, NDArray[Any]], NDArray[Any]]] = []
        self._first = 0

    def update(self, arrays: Arrays, mask: NDArray[np.bool_] | None = None, *, check: bool = False) -> _Whole:
        """Compute the picture; nothing if the inputs are what they were. Mask and check say nothing here: all is seen."""
        if self._now is not None and all(np.array_equal(self._now[0][name], arrays[name]) for name in arrays):
            return _Whole(self._now[1], ((),), 0.0, self.dense_macs)
        output = np.array(self._run(arrays))
        now = ({name: np.array(array) for name, array in arrays.items()}, output)
        if self._now is not None:
            self._done.append(self._now)
            self._undone.clear()
        self._now = now
        while self._done and self.journal_bytes > self._limit:
            del self._done[0]
            self._first += 1
        h, w = output.shape[2:]
        return _Whole(output, (((0, h, 0, w),),), self.dense_macs, self.dense_macs, {"picture": "dense"})

    def undo(self, to: int | None = None) -> NDArray[Any]:
        """Go back; see `Editor.undo`."""
        now, position = self._present(), self._first + len(self._done)
        wanted = position - 1 if to is None else to
        if not self._first <= wanted <= position:
            raise StateError(
                f"cannot go back to position {wanted}: positions {self._first} to {position} are known\n"
                f"hint: older steps were committed, or forgotten beyond journal_bytes = {self._limit}"
            )
        for _ in range(position - wanted):
            self._undone.append(now)
            now = self._now = self._done.pop()
        return now[1]

    def redo(self) -> NDArray[Any]:
        """Go forward; see `Editor.redo`."""
        now = self._present()
        if not self._undone:
            raise StateError("nothing to redo: no step was undone since the last change\nhint: ask `can_redo` first")
        self._done.append(now)
        self._now = self._undone.pop()
        return self._now[1]

    def commit(self) -> None:
        """Forget the way; positions go on counting."""
        self._present()
        self._first += len(self._done)
        self._done.clear()
        self._undone.clear()

    def checkpoint(self) -> int:
        """Return the position."""
        self._present()
        return self._first + len(self._done)

    def reset(self) -> None:
        """Forget the picture and the way."""
        self._now, self._first = None, 0
        self._done.clear()
        self._undone.clear()

    @property
    def can_undo(self) -> int:
        """How many updates can be undone."""
        return len(self._done)

    @property
    def can_redo(self) -> int:
        """How many undone updates can be done again."""
        return len(self._undone)

    @property
    def cache_bytes(self) -> int:
        """Inputs and output."""
        return 0 if self._now is None else _bytes(self._now)

    @property
    def journal_bytes(self) -> int:
        """Inputs and outputs of the steps."""
        return sum(map(_bytes, [*self._done, *self._undone]))

    def kept(self) -> dict[str, NDArray[Any]]:
        """The output."""
        return {} if self._now is None else {"output": self._now[1]}

    def restore(self, arrays: Arrays, kept: Arrays) -> NDArray[Any]:
        """Take up a picture; see `Editor.restore`."""
        if set(kept) != {"output"} or kept["output"].shape != self._shape or kept["output"].dtype != np.float32:
            raise StateError(
                f"these are the maps of another network or engine: {', '.join(sorted(kept))[:200] or 'none'}"
            )
        self.reset()
        self._now = {name: np.array(array) for name, array in arrays.items()}, np.array(kept["output"])
        return self._now[1]

    def _present(self) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
        if self._now is None:
            raise StateError("there is no picture yet\nhint: call update first")
        return self._now


def _bytes(step: tuple[dict[str, NDArray[Any]], NDArray[Any]]) -> int:
    return sum(array.nbytes for array in (*step[0].values(), step[1]))
