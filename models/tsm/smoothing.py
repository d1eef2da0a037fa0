"""Steadies the labels of a stream; separate from the network and from the session that uses it.

The rule of the reference's online demo is one setting of it, `JESTER_DEMO`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from effvision.errors import InputError

__all__ = ["JESTER_DEMO", "Smoothing", "SmoothingMemory", "softmax"]


@dataclass
class SmoothingMemory:
    """What smoothing remembers: recent logits (each K numbers) and recent labels. Plain data."""

    logits: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Smoothing:
    """A rule from logits to a steady label.

    Attributes:
        window: Logits of this many last frames are averaged; 1 keeps each frame's own.
        masked: Classes never answered: the label before them stays; before any label, the best class that is not masked.
        merged: Classes answered as another one.
        confirm: Keep the old label unless the last two answers agree: a label holds for two frames at least.
        start: Class the history begins with, where `confirm` or `masked` need one before the first answer.
        threshold: Score (softmax of the averaged logits, 0..1) a class needs, over a full window, to be answered; 0: none.
        rest: Class answered while no class reaches `threshold`; None: the label before stays.
        hold: A class that is shown stays until its score falls below this, at most `threshold`: a gesture that slows down does
            not flicker. None: `threshold` itself.
    """

    window: int = 1
    masked: tuple[int, ...] = ()
    merged: Mapping[int, int] = field(default_factory=dict)
    confirm: bool = False
    start: int | None = None
    threshold: float = 0.0
    rest: int | None = None
    hold: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise InputError(f"`window` must be a whole number of frames, 1 or more; got {self.window!r}")
        if not isinstance(self.masked, tuple) or not isinstance(self.merged, Mapping):
            raise InputError(
                f"`masked` must be a tuple and `merged` a mapping of classes; got {self.masked!r}, {self.merged!r}"
            )
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not number or not 0 <= self.threshold <= 1:
            raise InputError(f"`threshold` must be a score, 0 to 1; got {self.threshold!r:.100}")
        if self.hold is not None and not (isinstance(self.hold, float) and 0 <= self.hold <= self.threshold):
            raise InputError(f"`hold` must be a score, 0.0 to `threshold` ({self.threshold}); got {self.hold!r:.100}")

    def check_classes(self, count: int) -> None:
        """Refuse a rule that names a class outside 0..count-1, masks every class, or would answer a masked one.

        Raises:
            InputError: it does.
        """
        named = [
            *self.masked,
            *self.merged.keys(),
            *self.merged.values(),
            *(index for index in (self.start, self.rest) if index is not None),
        ]
        if wrong := [index for index in named if not isinstance(index, int) or not 0 <= index < count]:
            raise InputError(f"the smoothing rule names class {wrong[0]!r}, but there are classes 0 to {count - 1}")
        if len(set(self.masked)) == count:
            raise InputError(
                f"`masked` names all {count} classes, which leaves none to answer\nhint: leave one out of it"
            )
        for index in (*self.merged.values(), self.start, self.rest):
            if index in self.masked:
                raise InputError(
                    f"class {index} is in `masked`, never to be answered, and in `start`, `rest` or what `merged` answers\n"
                    "hint: leave it out of one of them"
                )

    def begin(self) -> SmoothingMemory:
        """Return the memory of a stream that has seen nothing."""
        return SmoothingMemory(labels=[] if self.start is None else [self.start, self.start])

    def update(self, logits: np.ndarray, memory: SmoothingMemory) -> tuple[int, np.ndarray]:
        """Take the logits (K,) of one frame; return the label's index and the averaged logits (K,). Updates `memory`."""
        memory.logits = [*memory.logits, logits.tolist()][-self.window :]
        mean: np.ndarray = np.asarray(memory.logits, np.float32).mean(axis=0)
        best = int(mean.argmax())
        if best in self.masked and not memory.labels:  # no label yet that could stay
            best = next(index for index in (-mean).argsort(kind="stable").tolist() if index not in self.masked)
        if self.threshold and not self._sure(best, mean, memory):
            best = self._unsure(best, mean, memory)
        return self.decide(best, memory), mean

    def _sure(self, best: int, mean: np.ndarray, memory: SmoothingMemory) -> bool:
        # a few frames that agree by chance are no full window: it also keeps the first frames of a stream quiet
        return len(memory.logits) == self.window and bool(softmax(mean)[best] >= self.threshold)

    def _unsure(self, best: int, mean: np.ndarray, memory: SmoothingMemory) -> int:
        shown = memory.labels[-1] if memory.labels else None
        if self.hold is not None and shown is not None and softmax(mean)[shown] >= self.hold:
            return shown
        if self.rest is not None:
            return self.rest
        return memory.labels[-1] if memory.labels else best  # something has to be answered first

    def decide(self, index: int, memory: SmoothingMemory) -> int:
        """Take one frame's best class (the first one not masked, see `update`); return the class to show. Updates `memory`."""
        history = memory.labels
        if index in self.masked and history:
            index = history[-1]
        index = self.merged.get(index, index)
        if self.confirm and history and index != history[-1] and (len(history) < 2 or history[-1] != history[-2]):
            index = history[-1]
        memory.labels = [*history, index][-2:]
        return index

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` takes back (JSON turns the keys of `merged` into text)."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Smoothing:
        """Rebuild from `to_dict`, a card's table or exported metadata."""
        merged = {int(old): int(new) for old, new in data.get("merged", {}).items()}
        known = {key: data[key] for key in ("window", "confirm", "start", "threshold", "rest", "hold") if key in data}
        return Smoothing(masked=tuple(data.get("masked", ())), merged=merged, **known)


JESTER_DEMO = Smoothing(window=12, masked=(7, 8, 21, 22, 3), merged={0: 2}, confirm=True, start=2)
"""The reference demo's `process_output`: twelve logits summed, some gestures masked, a change confirmed."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits (K,) into scores (K,) float32 that sum to 1."""
    weights = np.exp(logits - logits.max())
    return (weights / weights.sum()).astype(np.float32)  # type: ignore[no-any-return]
