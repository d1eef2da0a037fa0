"""What a TSM session remembers besides the network's state, and the checks of what its updates are given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from effvision.errors import DTypeError, RangeError
from effvision.models.tsm.clock import FrameClock
from effvision.models.tsm.smoothing import Smoothing, SmoothingMemory
from effvision.predictor import Memory

__all__ = ["TSMMemory", "positive", "sound", "where"]


@dataclass
class TSMMemory(Memory):
    """Clock, smoothing and the last answer of one stream. Plain data."""

    clock: FrameClock = field(default_factory=lambda: FrameClock(None, math.inf))
    smoothing: Smoothing = field(default_factory=Smoothing)
    smoothed: SmoothingMemory = field(default_factory=SmoothingMemory)
    source: str | None = None
    timestamp: float | None = None
    logits: list[float] | None = None
    mean: list[float] | None = None
    chosen: int = 0
    steps: int = 0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TSMMemory:
        """Rebuild from `to_dict`."""
        nested = {
            "clock": FrameClock(**data["clock"]),
            "smoothing": Smoothing.from_dict(data["smoothing"]),
            "smoothed": SmoothingMemory(**data["smoothed"]),
        }
        return cls(**{**data, **nested})


def sound(memory: TSMMemory, classes: int) -> bool:
    """Whether a memory read from a file could have been written by a session of this model."""

    def number(value: object, *, least: float = -math.inf) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= least

    def row(values: object) -> bool:
        return isinstance(values, list) and len(values) == classes and all(number(value) for value in values)

    clock, smoothed = memory.clock, memory.smoothed
    counts = (memory.updates, memory.steps, memory.chosen, *smoothed.labels)
    memory.smoothing.check_classes(classes)
    return (
        all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
        and all(index < classes for index in (memory.chosen, *smoothed.labels))
        and all(value is None or number(value) for value in (memory.timestamp, clock.last_s, clock.due_s))
        and (clock.period_s is None or (number(clock.period_s, least=0.0) and clock.period_s > 0))
        and number(clock.max_gap_s, least=0.0)
        and number(clock.interval_s, least=0.0)
        and all(value is None or isinstance(value, str) for value in (memory.source, memory.reset_reason))
        and (memory.logits is None) == (memory.mean is None) == (memory.steps == 0)
        and all(row(values) for values in (memory.logits, memory.mean) if values is not None)
        and isinstance(smoothed.logits, list)
        and all(row(values) for values in smoothed.logits)
    )


def where(inputs: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """Check and return the options `source` and `timestamp` of one update."""
    source, timestamp = inputs.get("source"), inputs.get("timestamp")
    if source is not None and not isinstance(source, str):
        raise DTypeError(f"`source` must be text; got {type(source).__name__}")
    return source, None if timestamp is None else _number("timestamp", timestamp, "seconds")


def positive(name: str, value: Any) -> float | None:
    """Check an option that is a positive number, or None."""
    number = None if value is None else _number(name, value, "a positive number")
    if number is not None and number <= 0:
        raise RangeError(f"`{name}` must be a positive number, or None; got {value!r}")
    return number


def _number(name: str, value: Any, what: str) -> float:
    kinds = (int, float, np.integer, np.floating)
    if isinstance(value, (bool, np.timedelta64)) or not isinstance(value, kinds):
        raise DTypeError(f"`{name}` must be {what} as a number; got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RangeError(f"`{name}` must be {what}, and finite; got {str(value)[:40]}")
    return number
