"""For tests whose machine may be slow, busy or stopped for a moment: wait for a condition, and measure more than once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_until(true: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Wait until it is so. The deadline is far away: it is met by what never happens, not by what is slow."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def best_of_three(measure: Callable[[], Found]) -> Found:
    """Measure again where an assertion fails, twice at most.

    A defect is there every time; that the machine was busy with something else is not.
    """
    for _ in range(2):
        try:
            return measure()
        except AssertionError as error:
            print(f"measured again: {error}")  # noqa: T201 - shown by pytest if the last one fails too
    return measure()
