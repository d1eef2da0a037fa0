"""The engine that edits a picture: what is common to the one in torch and the one that runs an exported file.

It finds what changed, follows it from block to block, has parts computed, and keeps what they were before; how a block is
computed, and with what arrays, its children say.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from numpy.typing import NDArray

from effvision.errors import InputError, RuntimeFailure, StateError
from effvision.host.edit_blocks import Block, Cell
from effvision.host.edit_costs import Choice, Machine, Plan, choose, slack
from effvision.host.edit_inputs import check_mask, share
from effvision.host.edit_journal import Array, Journal, Maps, Step, patch
from effvision.host.edit_limits import Limit
from effvision.host.regions import Mask, Rect, covered, paint, tidy

__all__ = ["PROMISES", "Editing", "Update"]

PROMISES = {
    "local": "approximate: each block computes the edit grown by {halo} pixels of its own map and keeps the rest; "
    "instance and group norms keep the statistics of the first pass",
    "exact": "equal to the full pass up to rounding",
    "frozen": "equal up to rounding to the full pass whose instance and group norms keep the statistics of the first pass",
    "reference": "approximate, as published: each convolution computes the active blocks of the mask at its resolution; "
    "instance and group norms keep the statistics of the first pass",
}
"""What the picture of each mode is compared with a full pass."""


@dataclass(frozen=True)
class Update:
    """What one update gave.

    Attributes:
        output: What the network returns: the engine's own maps, into which the next update writes; copy what has to stay.
        changed: For every output picture, the rectangles (top, bottom, left, right) that were written; the whole for the first.
        macs: Multiply-adds computed.
        dense_macs: Those of a full pass.
        seconds: Time spent.
        how: For every block computed, by the name of its result: `dense` and perhaps why, or the number of rectangles or tiles.
        note: What there is to know about this update, such as an edit that reaches the whole picture.
    """

    output: Any
    changed: tuple[tuple[Rect, ...], ...]
    macs: float
    dense_macs: float
    seconds: float
    how: Mapping[str, str]
    note: str = ""

    @property
    def computed_fraction(self) -> float:
        """Multiply-adds computed, as a share of a full pass."""
        return self.macs / self.dense_macs if self.dense_macs else float(bool(self.how))


B = TypeVar("B", bound=Block[Any])


class Editing(ABC, Generic[B]):
    """A network with a memory of one picture.

    One engine serves one picture at a time and one thread.

    Attributes:
        mode: How far a change is followed.
        promise: What that means for the picture, in a sentence.
        dense_macs: Multiply-adds of a full pass.
    """

    failures: ClassVar[tuple[type[Exception], ...]] = ()
    """What a failing back end raises, besides our own `RuntimeFailure`."""
    back_end: ClassVar[str]
    """Its name."""

    def __init__(
        self,
        blocks: Sequence[B],
        inputs: Sequence[Cell],
        outputs: Sequence[Cell],
        *,
        mode: str,
        promise: str,
        limit: Limit,
        plan: Plan,
        machine: Machine,
        journal_bytes: int,
    ) -> None:
        self.mode, self.promise = mode, promise
        self._blocks, self._inputs, self._outputs = list(blocks), list(inputs), list(outputs)
        self._limit, self._plan, self._machine = limit, plan, machine
        self.dense_macs = sum(block.macs for block in self._blocks)
        self._slack = {block.target.index: slack(block, machine) for block in self._blocks}
        self._journal = Journal(journal_bytes)
        self._maps: Maps | None = None

    # --- what a back end says -----------------------------------------------------------------------------------------

    @abstractmethod
    def _given(self, inputs: Any) -> tuple[Array, ...]:
        """The inputs as a tuple, or an error that says why they do not fit."""

    @abstractmethod
    def _check_finite(self, array: Array, name: str) -> None:
        """Refuse NaN and infinity."""

    @abstractmethod
    def _mask(self, mask: Any) -> NDArray[Any]:
        """A mask as an array, not checked yet."""

    @abstractmethod
    def _find(self, before: Array, after: Array, mask: Mask | None) -> list[Rect]:
        """The rectangles of an input that may have changed."""

    @abstractmethod
    def _missed(self, before: Array, after: Array, rects: Sequence[Rect]) -> int:
        """How many pixels differ outside of some rectangles."""

    @abstractmethod
    def _own(self, array: Array) -> Array:
        """A copy of an input that nobody else can change."""

    @abstractmethod
    def _begin(self) -> Maps:
        """Empty maps for a new picture, whose norms take their statistics from it."""

    @abstractmethod
    def _whole(self, block: B, maps: Maps) -> Array:
        """Compute all of a block's target."""

    @abstractmethod
    def _compute(self, block: B, choice: Choice, maps: Maps, step: Step) -> None:
        """Compute the parts of a choice and write them into the target's map."""

    @abstractmethod
    def _packed(self, outputs: list[Array]) -> Any:
        """The outputs in the structure in which the network returns them."""

    def _quiet(self) -> AbstractContextManager[Any]:
        """What everything runs in."""
        return nullcontext()

    def _masks(self, given: Sequence[Array], changes: Mapping[int, list[Rect]]) -> list[Mask]:
        """Difference masks of the changed pictures, where the mode asks for them."""
        return []

    # --- pictures -----------------------------------------------------------------------------------------------------

    def __call__(self, *inputs: Any) -> Any:
        """`update(inputs).output`: the network's own signature."""
        return self.update(inputs).output

    def update(self, inputs: Any, mask: Any = None, *, check: bool = False) -> Update:
        """Take a picture: all of it the first time, then what differs from the last one.

        Args:
            inputs: What the network is called with: an array, or a tuple of several, of the example's shapes and dtypes;
                tensors where the network runs in torch.
            mask: (H, W) bool, True where the pictures of this size changed; what changed elsewhere is not seen. Without it the
                change is looked for.
            check: Look whether something changed that the mask misses.

        Raises:
            InputError: another number, shape or dtype of inputs, NaN, another shape of mask; or, with `check`, a change outside
                of the mask. Nothing was changed.
            RuntimeFailure: the back end failed, out of memory say. Everything is as it was before.
        """
        start = time.perf_counter()
        given = self._given(inputs)
        known = None if mask is None else self._known(mask)
        with self._quiet():
            if self._maps is None:
                return self._first(given, start)
            changes = self._changes(given, known, check=check)
            if not any(changes.values()):
                return Update(self.output, ((),) * len(self._outputs), 0.0, self.dense_macs, _since(start), {})
            return self._edit(given, changes, start)

    @property
    def output(self) -> Any:
        """What the network returns for the picture as it is now.

        Raises:
            StateError: there is no picture yet.
        """
        maps = self._present()
        return self._packed([maps[cell.index] for cell in self._outputs])

    def reset(self) -> None:
        """Forget the picture; the next one is computed in full, and gives the statistics that norms keep."""
        self._maps = None
        self._journal.restart()

    def changed_mask(self, update: Update, output: int = 0) -> Mask:
        """The pixels of an output picture that an update wrote, (H, W) bool."""
        return paint(update.changed[output], *self._outputs[output].size)

    @property
    def cache_bytes(self) -> int:
        """What the kept maps take in memory; 0 before the first picture."""
        return 0 if self._maps is None else self._maps.bytes

    @property
    def journal_bytes(self) -> int:
        """What undo and redo take in memory."""
        return self._journal.bytes

    # --- steps --------------------------------------------------------------------------------------------------------

    @property
    def can_undo(self) -> int:
        """How many updates can be undone."""
        return self._journal.can_undo

    @property
    def can_redo(self) -> int:
        """How many undone updates can be done again."""
        return self._journal.can_redo

    def checkpoint(self) -> int:
        """Return a mark of the picture as it is now, for `undo(to=mark)`."""
        self._present()
        return self._journal.position

    def undo(self, to: int | None = None) -> Any:
        """Go back one update, or to a mark; return the output, bit for bit what it was.

        Raises:
            StateError: there is no picture, or that update is no longer known.
        """
        maps = self._present()
        with self._quiet():
            self._journal.back(self._journal.position - 1 if to is None else to, maps.swap, maps.take_back)
        return self.output

    def redo(self) -> Any:
        """Do the update undone last again; return the output.

        Raises:
            StateError: there is none.
        """
        maps = self._present()
        with self._quiet():
            self._journal.forward(maps.swap)
        return self.output

    def commit(self) -> None:
        """Forget what could be undone and redone, and its memory; the picture stays."""
        self._present()
        self._journal.forget()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _present(self) -> Maps:
        if self._maps is None:
            raise StateError("there is no picture yet\nhint: call update(inputs) first")
        return self._maps

    def _first(self, given: Sequence[Array], start: float) -> Update:
        """The full pass."""
        for cell, array in zip(self._inputs, given, strict=True):
            self._check_finite(array, cell.name)
        maps = self._begin()
        try:
            for cell, array in zip(self._inputs, given, strict=True):
                maps.replace(cell.index, self._own(array), None)
            for block in self._blocks:
                maps.replace(block.target.index, self._whole(block, maps), None)
        except self.failures as error:
            if isinstance(error, RuntimeFailure):
                raise
            raise RuntimeFailure(
                f"{self.back_end} failed during the full pass, so there is no picture: {error}"
            ) from error
        self._maps = maps
        changed = tuple(((0, cell.size[0], 0, cell.size[1]),) for cell in self._outputs)
        how = {block.target.name: "dense" for block in self._blocks}
        return Update(self.output, changed, self.dense_macs, self.dense_macs, _since(start), how)

    def _known(self, mask: Any) -> Mask:
        """A mask that fits one of the inputs at least, or an error that says why it does not."""
        sizes = {cell.size for cell in self._inputs if cell.picture}
        array = self._mask(mask)
        size = tuple(array.shape) if tuple(array.shape) in sizes else max(sizes, default=(1, 1))
        return check_mask(array, size[0], size[1])

    def _changes(self, given: Sequence[Array], known: Mask | None, *, check: bool) -> dict[int, list[Rect]]:
        """The rectangles of every input that changed."""
        maps = self._present()
        changes = {}
        for cell, tensor in zip(self._inputs, given, strict=True):
            before = maps[cell.index]
            fits = known is not None and cell.picture and known.shape == cell.size
            rects = self._find(before, tensor, known if fits else None)
            changes[cell.index] = rects
            if fits and check and (left := self._missed(before, tensor, rects)):
                raise InputError(
                    f"{left} pixels of input `{cell.name}` changed outside of the mask\n"
                    "hint: give a mask that covers every change, or none: then it is found"
                )
        return changes

    def _edit(self, given: Sequence[Array], changes: dict[int, list[Rect]], start: float) -> Update:
        """Patch the inputs and what follows from them; all of it or, after an exception, nothing."""
        maps = self._present()
        step = Step()
        try:
            masks = self._masks(given, changes)
            for cell, array in zip(self._inputs, given, strict=True):
                for rect in changes[cell.index]:
                    if rect == (0, cell.size[0], 0, cell.size[1]):
                        maps.replace(cell.index, self._own(array), step)
                    else:
                        maps.write(cell.index, rect, patch(array, rect), step)
                    # here it is in the cache; what is refused is taken back
                    written = maps[cell.index]
                    self._check_finite(patch(written, rect) if cell.picture else written, cell.name)
            self._limit.begin(changes, share(changes, self._inputs), masks)
            how, macs = self._follow(changes, maps, step)
        except BaseException as error:
            maps.take_back(step)
            if isinstance(error, self.failures) and not isinstance(error, RuntimeFailure):
                raise RuntimeFailure(
                    f"{self.back_end} failed during an update, which was taken back: {error}"
                ) from error
            raise
        self._journal.note(step)
        seen = tuple(tuple(changes.get(cell.index, ())) for cell in self._outputs)
        return Update(self.output, seen, macs, self.dense_macs, _since(start), how, self._note(how, seen))

    def _follow(self, changes: dict[int, list[Rect]], maps: Maps, step: Step) -> tuple[dict[str, str], float]:
        """Compute every block that the changes reach; `changes` grows by what they changed."""
        how: dict[str, str] = {}
        macs = 0.0
        for block in self._blocks:
            reached = [
                found
                for leaf in block.leaves
                for rect in changes.get(leaf.index, ())
                if (found := block.reaches(leaf, rect))
            ]
            if not reached:
                continue
            choice, rects = self._choose(block, reached)
            if not rects:
                continue
            name, index = block.target.name, block.target.index
            macs += choice.macs
            if choice.how == "dense":
                self._replace(block, rects, maps, step)
                how[name] = f"dense: {block.reason}" if block.dense else "dense"
            else:
                self._compute(block, choice, maps, step)
                how[name] = (
                    f"{len(choice.parts)} {choice.how if len(choice.parts) > 1 else choice.how.removesuffix('s')}"
                )
            changes[index] = rects
        return how, macs

    def _replace(self, block: B, rects: Sequence[Rect], maps: Maps, step: Step) -> None:
        """Compute all of a block and take over what changes: the picture does not hang on what is cheapest here."""
        index, whole = block.target.index, self._whole(block, maps)
        if list(rects) == [block.whole]:
            maps.replace(index, whole, step)
            return
        for rect in rects:
            maps.write(index, rect, patch(whole, rect), step)

    def _choose(self, block: B, reached: list[Rect]) -> tuple[Choice, list[Rect]]:
        """How to compute a block, and the rectangles that change by it."""
        h, w = block.target.size
        rects = tidy(self._limit.part(block, reached), h, w, self._slack[block.target.index])
        if block.dense or not rects:
            return Choice("dense", [block.whole], 0.0, block.macs), [block.whole] if rects else []
        return choose(block, rects, self._machine, self._plan, tiled=self._tiled(block)), rects

    def _tiled(self, block: B) -> bool:
        """Whether tiles are possible: a batch of one."""
        return all(not leaf.picture or leaf.shape[0] == 1 for leaf in block.leaves)

    def _note(self, how: Mapping[str, str], written: tuple[tuple[Rect, ...], ...]) -> str:
        """Say where an edit did not stay small."""
        for cell, rects in zip(self._outputs, written, strict=True):
            h, w = cell.size
            if cell.picture and covered(rects, h, w) >= 0.9 * h * w:
                lost = [f"`{name}` is computed {text}" for name, text in how.items() if text.startswith("dense: ")]
                return "the edit reaches (nearly) all of the output" + (f"; {lost[0]}" if lost else "")
        return ""


def _since(start: float) -> float:
    return time.perf_counter() - start
