"""How frames relate during one call of a network: a whole clip, a stream, or a probe of shapes.

A shift site does not know which it runs in: it asks `current`, which the network sets around each call. It is a context
variable, so two threads that share a network never see each other's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from torch import Tensor

from effvision.errors import StateError, StreamingError
from effvision.ops.temporal_shift import causal_shift, stream_shift, temporal_shift

__all__ = ["Clip", "Direction", "Probe", "Stream", "Time", "current", "during"]

Direction = Literal["bidirectional", "causal", "none"]


class Time:
    """How frames relate during one call of the network; kept per thread, never on a module."""

    def shift(self, x: Tensor, fold: int) -> Tensor:
        """Shift the features (N*T, C, H, W) that reach one site; called once per site, in a fixed order."""
        raise StreamingError("this layer works on a whole clip")

    @property
    def frames(self) -> int:
        """Frames per clip at this depth."""
        raise StreamingError(
            "a layer that looks at the whole clip (non-local, temporal pool) cannot work frame by frame"
        )


class Clip(Time):
    """Whole clips of one length, shifted both ways or from the past only."""

    def __init__(self, frames: int, direction: Direction) -> None:
        self._frames = frames
        self._shift = temporal_shift if direction == "bidirectional" else causal_shift

    def shift(self, x: Tensor, fold: int) -> Tensor:
        """Shift within each clip."""
        return self._shift(x, frames=self._frames, fold=fold)

    @property
    def frames(self) -> int:
        """Frames per clip at this depth."""
        return self._frames

    def halve(self) -> None:
        """Note that a temporal pool has halved the frame rate."""
        self._frames = (self._frames + 1) // 2


class Stream(Time):
    """One frame of each stream; `kept` collects what the next step will hold."""

    def __init__(self, held: Sequence[Tensor]) -> None:
        self._held = iter(held)
        self.kept: list[Tensor] = []

    def shift(self, x: Tensor, fold: int) -> Tensor:
        """Exchange channels with the frame before."""
        held = next(self._held, None)
        if held is None:
            raise StateError(f"the state holds {len(self.kept)} arrays, fewer than the network has shift sites")
        y, keep = stream_shift(x, held)
        self.kept.append(keep)
        return y


class Probe(Time):
    """Records the shapes of the channels each site would hold."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def shift(self, x: Tensor, fold: int) -> Tensor:
        """Leave the features as they are."""
        self.shapes.append((x.shape[1] // fold, *x.shape[2:]))
        return x

    @property
    def frames(self) -> int:
        """A probe is a clip of one frame."""
        return 1

    def halve(self) -> None:
        """One frame stays one frame."""


current: ContextVar[Time] = ContextVar("effvision_tsm_time")


@contextmanager
def during(time: Time) -> Iterator[None]:
    """Put `time` in place for the calls inside the `with` block, in this thread."""
    token = current.set(time)
    try:
        yield
    finally:
        current.reset(token)
