"""A picture in work: its label map, what an editor keeps of it, and the pixels shown. NumPy only; any runtime may compute."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import DTypeError, InputError, RuntimeFailure, ShapeError, StateError
from effvision.host.editing import Editor, Rect
from effvision.models.sige.encoding import Encoding, hull_of
from effvision.state import Array, State

__all__ = ["INPUT", "Drawn", "EditState", "Mark", "check_mask"]

INPUT = "labels"
"""The graph's input, (N, C, H, W) float32."""

_MAP = "map."  # begins the name of what the editor keeps, among the arrays of a state


@dataclass(frozen=True)
class Drawn:
    """What one step gave.

    Attributes:
        picture: (H, W, 3) uint8 RGB; read-only, not written to again.
        labels: (H, W) uint8; read-only.
        changed: (H, W) bool.
        macs, dense_macs: Multiply-adds, computed and of a full pass.
        how, note: See `effvision.edits.Edit`.
    """

    picture: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    changed: NDArray[np.bool_]
    macs: float
    dense_macs: float
    how: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Mark:
    """A place to return to after an error: the editor's own mark and the label map then; None for none."""

    position: int | None
    labels: NDArray[np.uint8] | None


class EditState(State):
    """The state of one picture: `labels` (1, H, W), the last input, and the maps the editor keeps, (1, ...) each.

    A step overwrites it and gives the same object back; `copy` keeps one, as plain arrays. What undo needs is not part of it.

    Args:
        editor: This picture's own.
        encoding: From labels to the network's input.
    """

    __slots__ = ("_back", "_forth", "_inputs", "editor", "encoding", "labels", "picture")

    def __init__(self, editor: Editor, encoding: Encoding) -> None:
        self.editor = editor
        self.encoding = encoding
        self._empty()

    @property
    def _arrays(self) -> dict[str, Array]:  # type: ignore[override]  # made when asked for: the editor owns them
        if self.labels is None:
            return {}
        return {"labels": self.labels[None], **{_MAP + name: array for name, array in self.editor.kept().items()}}

    def _empty(self) -> None:
        self.labels: NDArray[np.uint8] | None = None
        self.picture: NDArray[np.uint8] | None = None
        self._inputs: NDArray[np.float32] | None = None
        self._back: deque[tuple[Rect, NDArray[np.uint8]]] = deque()  # labels before each step the editor can undo
        self._forth: deque[tuple[Rect, NDArray[np.uint8]]] = deque()

    @property
    def memory_bytes(self) -> int:
        """Everything held: kept maps, journal, input, labels, picture."""
        own = [array.nbytes for array in (self.labels, self.picture, self._inputs) if array is not None]
        own += [labels.nbytes for _, labels in (*self._back, *self._forth)]
        return self.editor.cache_bytes + self.editor.journal_bytes + sum(own)

    # --- steps --------------------------------------------------------------------------------------------------------

    def draw(self, labels: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None, *, check: bool = False) -> Drawn:
        """Take a label map: all of it the first time, then what differs from the last one.

        Args:
            labels: (H, W) uint8, checked; the state keeps it.
            mask: (H, W) bool; labels outside of it are taken to be what they were.
            check: Refuse labels that changed outside of the mask.

        Raises:
            InputError: with `check`, labels changed outside of the mask.
            RuntimeFailure: the back end failed. In both cases everything is as it was before.
        """
        if self.labels is None or self._inputs is None:
            inputs = self.encoding.array(labels)
            done = self.editor.update({INPUT: inputs})
            self._inputs = inputs
            return self._show(labels, done.output, None, done)
        differs = labels != self.labels
        if mask is not None:
            missed = differs & ~mask
            if check and missed.any():
                row, column = (int(axis[0]) for axis in np.nonzero(missed))
                raise InputError(
                    f"{int(missed.sum())} labels changed outside of the mask, the first at row {row}, column {column}\n"
                    "hint: give a mask that covers every change, or none: then it is found"
                )
            if missed.any():
                labels, differs = np.where(mask, labels, self.labels), differs & mask
        if not differs.any():
            return self._unchanged()
        part = hull_of(differs)
        before = self.labels[part[0] : part[1], part[2] : part[3]].copy()
        try:
            self.encoding.write(self._inputs, labels, part)
            done = self.editor.update({INPUT: self._inputs}, self.encoding.touched(differs))
        except BaseException:
            self.encoding.write(self._inputs, self.labels, part)
            raise
        self._back.append((part, before))
        self._forth.clear()
        while len(self._back) > self.editor.can_undo:  # the editor forgot the oldest
            self._back.popleft()
        return self._show(labels, done.output, done.changed[0], done)

    def undo(self, to: int | None = None) -> Drawn:
        """Go back one step, or to a mark of `editor.checkpoint`.

        Raises:
            StateError: there is no picture, or the way back is not known.
        """
        held = self.editor.can_undo
        return self._moved(self.editor.undo(to), self._back, self._forth, held - self.editor.can_undo)

    def redo(self) -> Drawn:
        """Do the step undone last again.

        Raises:
            StateError: there is none.
        """
        return self._moved(self.editor.redo(), self._forth, self._back, 1)

    def commit(self) -> None:
        """Forget the way; the picture stays.

        Raises:
            StateError: there is no picture.
        """
        self.editor.commit()
        self._back.clear()
        self._forth.clear()

    def reset(self) -> None:
        """Forget the picture too."""
        self.editor.reset()
        self._empty()

    # --- places to return to ------------------------------------------------------------------------------------------

    def mark(self) -> Mark:
        """Remember the picture as it is now, at no cost."""
        return Mark(None if self.labels is None else self.editor.checkpoint(), self.labels)

    def return_to(self, mark: Mark) -> None:
        """Go back to where `mark` was taken; where the journal no longer reaches so far, compute that picture anew."""
        if mark.labels is None or mark.position is None:
            self.reset()  # the editor may have had a picture already
            return
        same = self.labels is mark.labels
        if same and self.editor.checkpoint() == mark.position:
            return
        try:
            if same:  # stopped between the editor's step and ours: which labels lie on the way is not known
                self.editor.undo(mark.position)
                self.commit()
                self._inputs = self.encoding.array(mark.labels)
            else:
                self.undo(mark.position)
        except StateError:
            self.reset()
            self.draw(mark.labels)

    def take_up(self, arrays: Mapping[str, Array]) -> None:
        """Go on from the arrays of a saved state, nothing computed and nothing to undo.

        Raises:
            StateError: arrays of another network, engine or mode.
        """
        if not arrays:
            return
        labels = np.array(arrays["labels"][0], np.uint8) if "labels" in arrays else np.zeros(0, np.uint8)
        if labels.shape != self.encoding.size or int(labels.max()) >= len(self.encoding.names):
            raise StateError(f"the saved label map is {labels.shape}, or holds labels of no class: it is damaged")
        kept = {name.removeprefix(_MAP): np.asarray(array) for name, array in arrays.items() if name.startswith(_MAP)}
        if len(kept) != len(arrays) - 1:
            raise StateError(f"the saved state holds unknown arrays: {', '.join(sorted(arrays))[:200]}")
        if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in kept.values()):
            raise StateError("the saved state holds maps that are NaN or infinite: it is damaged")
        inputs = self.encoding.array(labels)
        try:
            output = self.editor.restore({INPUT: inputs}, kept)
        except StateError as error:
            raise StateError(
                f"{error}\nhint: open it with the runtime that saved it; its label map alone is numpy.load(path)['labels'][0]"
            ) from error
        self._empty()
        self._inputs = inputs
        self.labels, self.picture = _fixed(labels), _fixed(_pixels(output))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _show(
        self, labels: NDArray[np.uint8], output: NDArray[Any], rects: tuple[Rect, ...] | None, done: Any
    ) -> Drawn:
        """Show what the editor's output is now; None for `rects`: it is the first picture."""
        picture = _pixels(output)
        if rects is None or self.picture is None:
            changed = np.ones(self.encoding.size, np.bool_)
        else:  # a block computed as a whole may differ beyond the rectangles by rounding
            changed = _differ(picture, self.picture)
            for top, bottom, left, right in rects:
                changed[top:bottom, left:right] = True
        self.labels, self.picture = _fixed(labels), _fixed(picture)
        return Drawn(self.picture, self.labels, changed, done.macs, done.dense_macs, done.how, done.note)

    def _unchanged(self, note: str = "") -> Drawn:
        nothing = np.zeros(self.encoding.size, np.bool_)
        labels, picture = self.present()
        return Drawn(picture, labels, nothing, 0.0, self.editor.dense_macs, note=note)

    def present(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The label map and the picture.

        Raises:
            StateError: there is none yet.
        """
        if self.labels is None or self.picture is None:
            raise StateError("there is no picture yet\nhint: call `update` with a label map first")
        return self.labels, self.picture

    def _moved(
        self,
        output: NDArray[Any],
        source: deque[tuple[Rect, NDArray[np.uint8]]],
        target: deque[tuple[Rect, NDArray[np.uint8]]],
        steps: int,
    ) -> Drawn:
        """Follow the editor some steps back or forth."""
        labels, before = self.present()
        labels = labels.copy()
        for _ in range(steps):
            part, there = source.pop()
            here = labels[part[0] : part[1], part[2] : part[3]]
            target.append((part, here.copy()))
            here[...] = there
            if self._inputs is not None:
                self.encoding.write(self._inputs, labels, part)
        picture = _pixels(output)
        self.labels, self.picture = _fixed(labels), _fixed(picture)
        changed = _differ(picture, before)
        return Drawn(picture, labels, changed, 0.0, self.editor.dense_macs)


def check_mask(mask: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask (H, W) bool.

    Raises:
        DTypeError, ShapeError: not bool; another shape.
    """
    array = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask)
    if array.dtype != np.bool_:
        raise DTypeError(f"the mask is {array.dtype}\nhint: give bool, True where labels changed: mask = mask > 0")
    if array.shape != size:
        raise ShapeError(f"the mask has shape {array.shape}, the picture {size}\nhint: give one bool a pixel, (H, W)")
    return array


def _pixels(output: NDArray[Any]) -> NDArray[np.uint8]:
    """(1, 3, H, W) in -1..1 to (H, W, 3) uint8; a network that gives NaN is an error, not noise."""
    values = np.clip(output[0].transpose(1, 2, 0), -1, 1)
    if np.isnan(values.sum()):
        raise RuntimeFailure(
            f"the network gave {int(np.isnan(values).sum())} values that are no numbers; the picture stays as it was\n"
            "hint: its weights, or a division in it, make them"
        )
    values += 1
    values *= 127.5
    found: NDArray[np.uint8] = np.rint(values, out=values).astype(np.uint8, order="C")
    return found


def _differ(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where two pictures (H, W, 3) differ; ten times as fast as `any` over so short an axis."""
    red, green, blue = np.moveaxis(first != second, 2, 0)
    return np.asarray(red | green | blue)


def _fixed(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    array.flags.writeable = False
    return array
