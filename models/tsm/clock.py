"""Which frames of a live source are due, so that the network sees the rate it was trained at."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FrameClock"]


@dataclass
class FrameClock:
    """Chooses by timestamp the source frames nearest to a steady rate. Plain data.

    Attributes:
        period_s: Seconds between two frames of the network; None: every frame is due.
        max_gap_s: A longer silence breaks the stream.
        last_s: Timestamp of the last frame seen, due or not.
        due_s: When the next frame is due.
        interval_s: Average spacing of the source's last frames.
    """

    period_s: float | None
    max_gap_s: float
    last_s: float | None = None
    due_s: float | None = None
    interval_s: float = 0.0

    def interruption(self, now_s: float) -> str | None:
        """Say `seek` if time went back, `gap` after a long silence, else None."""
        if self.last_s is None:
            return None
        if now_s < self.last_s - (self.period_s or 0.0):  # a camera's clock may tremble
            return "seek"
        return "gap" if now_s - self.last_s > self.max_gap_s else None

    def tick(self, now_s: float) -> bool:
        """Take the timestamp of one frame; say whether the network runs on it."""
        if self.last_s is not None and now_s > self.last_s:
            spacing = now_s - self.last_s
            self.interval_s += 0.1 * (spacing - self.interval_s) if self.interval_s else spacing
        first, self.last_s = self.last_s is None, now_s
        if self.period_s is None:
            return True
        if first or self.due_s is None:
            self.due_s = now_s + self.period_s
            return True
        # the next frame would be farther from the due time than this one
        if now_s + self.interval_s / 2 < self.due_s - 1e-9:
            return False
        self.due_s += self.period_s
        if self.due_s < now_s:  # the source is slower than the network's rate: do not try to catch up
            self.due_s = now_s + self.period_s
        return True
