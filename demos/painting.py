"""One visitor's painting: the label map, the picture that follows it, and what can be undone. Plain calls, run in threads."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from effvision.errors import EffvisionError, InputError, ShapeError

__all__ = ["Box", "Drawn", "Painting", "bounds"]

Box = tuple[int, int, int, int]
"""Left, top, width, height in pixels; all 0 where there is nothing."""

NOTHING: Box = (0, 0, 0, 0)


def bounds(mask: np.ndarray) -> Box:
    """Return the smallest box around the true pixels of (H, W) bool."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return NOTHING
    top, left = int(rows[0]), int(columns[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def part(array: np.ndarray, box: Box) -> np.ndarray:
    """Return the part of (H, W, ...) in a box; a view."""
    left, top, width, height = box
    return array[top : top + height, left : left + width]


@dataclass(frozen=True)
class Drawn:
    """What a change made of the picture.

    Attributes:
        picture: Where pixels differ from those before.
        pixels: They, (h, w, 3) uint8 RGB.
        area: A box around all that was computed again.
        mask: What was computed in it, (h, w) bool.
        labels: Where the label map was changed by something else than painting.
        map: The labels there, (h, w) uint8.
        said: Times and counts, plain data.
    """

    picture: Box
    pixels: np.ndarray
    area: Box
    mask: np.ndarray
    labels: Box
    map: np.ndarray
    said: dict[str, Any]

    @property
    def payload(self) -> bytes:
        """Pixels, the mask with eight pixels a byte, labels; one after the other."""
        mask = np.packbits(self.mask, bitorder="little").tobytes()
        return np.ascontiguousarray(self.pixels).tobytes() + mask + np.ascontiguousarray(self.map).tobytes()


@dataclass
class _Stroke:
    """One thing a visitor did. `labels` is the map on the other side of it; `updates` how many of the session's steps it took,
    0 where the session no longer knows them.
    """

    number: int
    labels: np.ndarray
    updates: int


@dataclass
class Painting:
    """A label map that is painted on.

    Attributes:
        session: Of `effvision.SIGE`; what an update of it leaves undone is undone here too.
        labels: (H, W) uint8; what the page has.
        turn: Held during every computation, so that visitors' times do not mix.
        most: Strokes that can be undone.
        shown: The picture the page has, (H, W, 3) uint8 RGB.
    """

    session: Any
    labels: np.ndarray
    turn: Any
    most: int
    shown: np.ndarray = field(init=False)
    _past: list[_Stroke] = field(default_factory=list, init=False)
    _future: list[_Stroke] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.shown = np.zeros((*self.labels.shape, 3), np.uint8)

    def begin(self) -> Drawn:
        """Draw the whole picture in a session that has none yet."""
        with self.turn:
            result = self.session.update(self.labels)
        return self._drawn(result, everything=True)

    def paint(self, stroke: int, box: Box, labels: np.ndarray) -> Drawn:
        """Take labels (h, w) uint8 for a box of the map; what carries the same `stroke` is undone together.

        Raises:
            EffvisionError: it cannot be drawn; nothing was changed.
        """
        left, top, width, height = box
        rows, columns = self.labels.shape
        if not (width and height) or left + width > columns or top + height > rows:
            raise ShapeError(
                f"a change of {width} x {height} at {left}, {top} does not lie in the map of {columns} x {rows}"
            )
        new = self.labels.copy()
        part(new, box)[...] = labels.reshape(height, width)
        return self._change(stroke, new, told=False)

    def replace(self, stroke: int, labels: np.ndarray) -> Drawn:
        """Take another label map, (H, W) uint8; it can be undone like a stroke.

        Raises:
            EffvisionError: it cannot be drawn; nothing was changed.
        """
        return self._change(stroke, labels, told=True)

    def undo(self) -> Drawn:
        """Take the last stroke back.

        Raises:
            InputError: there is none.
            EffvisionError: it cannot be done; nothing was changed.
        """
        return self._move(self._past, self._future, "undo")

    def redo(self) -> Drawn:
        """Do the stroke again that was taken back last; raises as `undo`."""
        return self._move(self._future, self._past, "redo")

    def measure(self, fresh: Any) -> dict[str, Any]:
        """Draw the whole picture in another session and compare.

        Args:
            fresh: A session of the same model and mode without a picture.

        Returns:
            `ms` of the full pass, `network_ms` of it in the network, and `most`, the largest difference of a channel, 0..255.
        """
        with self.turn:
            result = fresh.update(self.labels)
        difference = np.abs(result.image.astype(np.int16) - self.shown)
        timing = result.timing
        return {
            "ms": round(timing.total_ms, 3),
            "network_ms": round(timing.run_ms, 3),
            "most": int(difference.max()),
            "mean": round(float(difference.mean()), 4),
        }

    # -- inside ----------------------------------------------------------------------------------------------------------------

    def _change(self, stroke: int, new: np.ndarray, *, told: bool) -> Drawn:
        before, differs = self.labels, new != self.labels
        with self.turn:
            result = self.session.update(new)
        if differs.any():
            if self._past and self._past[-1].number == stroke and not self._future:
                self._past[-1].updates += bool(self._past[-1].updates)
            else:
                self._past.append(_Stroke(stroke, before, 1))
            self._future.clear()
            self.labels = new
        return self._drawn(result, labels=bounds(differs) if told else NOTHING)

    def _move(self, source: list[_Stroke], target: list[_Stroke], there: str) -> Drawn:
        if not source:
            raise InputError(f"there is nothing to {there}")
        stroke, began, note = source[-1], time.perf_counter(), ""
        if stroke.updates:
            with self.turn:
                result = self._step(stroke.updates, there)
        else:  # the session has forgotten how the picture was
            note = "The steps to that picture were no longer kept, so it was computed anew."
            with self.turn:
                result = self.session.update(stroke.labels)
            for other in (*self._past, *self._future):
                other.updates = 0
        source.pop()
        before, self.labels = self.labels, stroke.labels
        target.append(_Stroke(stroke.number, before, stroke.updates))
        took_ms = (time.perf_counter() - began) * 1e3
        return self._drawn(result, labels=bounds(before != self.labels), moved=there, took_ms=took_ms, note=note)

    def _step(self, count: int, there: str) -> Any:
        """Move the session by so many steps, or not at all; return its last result."""
        here = self.session.checkpoint()
        if there == "undo":
            return self.session.undo(here - count)
        try:
            return [self.session.redo() for _ in range(count)][-1]
        except EffvisionError:
            self.session.undo(here)
            raise

    def _drawn(
        self,
        result: Any,
        *,
        labels: Box = NOTHING,
        everything: bool = False,
        moved: str = "",
        took_ms: float | None = None,
        note: str = "",
    ) -> Drawn:
        self._forget()
        image, whole = result.image, (0, 0, self.labels.shape[1], self.labels.shape[0])
        picture = whole if everything else bounds((image != self.shown).any(axis=2))
        pixels = part(image, picture).copy()
        part(self.shown, picture)[...] = pixels
        changed = np.zeros(self.labels.shape, bool) if moved else result.changed
        area = bounds(changed)
        said: dict[str, Any] = {"undo": len(self._past), "redo": len(self._future), "note": note, "moved": moved}
        if moved:
            said["took_ms"] = round(took_ms or 0.0, 3)
        else:
            said |= {
                "took_ms": round(result.timing.total_ms, 3),
                "network_ms": round(result.timing.run_ms, 3),
                "share": round(float(result.computed_fraction), 6),
                "macs": float(result.macs),
                "dense_macs": float(result.dense_macs),
            }
        return Drawn(
            picture, pixels, area, part(changed, area), labels, part(self.labels, labels), {**said, "all": everything}
        )

    def _forget(self) -> None:
        """Drop the oldest strokes, and the steps of those that the session has forgotten."""
        del self._past[: max(0, len(self._past) - self.most)]
        for strokes, known in ((self._past, self.session.can_undo), (self._future, self.session.can_redo)):
            for stroke in reversed(strokes):  # the newest first
                known = known - stroke.updates if stroke.updates else -1
                if known < 0:
                    known, stroke.updates = -1, 0
