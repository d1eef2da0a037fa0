"""Where clouds are labelled: one at a time, behind the live frames of others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from effvision.demos.sharing import Turns

__all__ = ["Desk", "behind"]

Made = TypeVar("Made")

_BEHIND = 10  # of the priorities 0 to 19
_LONGEST_S = 0.25


def behind(work: Callable[[], Made]) -> Made:
    """Return what `work` makes, in a thread of low priority, which the threads it starts inherit, where only threads are meant.

    A network that is loaded so computes with what live frames leave. Python itself must not run at a low priority: whoever
    holds its lock and waits for a core would make everybody wait.
    """

    def run() -> Made:
        if sys.platform.startswith("linux"):  # elsewhere it would be the whole process
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BEHIND)
        return work()

    with ThreadPoolExecutor(1, "loading") as thread:
        return thread.submit(run).result()


class Desk:
    """Lets one labelling run at a time, in the order they came.

    Args:
        turns: Of the live frames of other visitors, tab by tab.

    Attributes:
        thread: Where they run.
    """

    def __init__(self, turns: Sequence[Turns]) -> None:
        self._turns = tuple(turns)
        self._line: list[object] = []
        self._moved = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, "labelling")

    def breathe(self, spent_s: float) -> None:
        """Rest as long as was worked, but not long, where there are live frames besides."""
        if any(turns.live for turns in self._turns):
            time.sleep(min(spent_s, _LONGEST_S))

    @contextlib.asynccontextmanager
    async def turn(self, tell: Callable[[int], Any]) -> AsyncIterator[None]:
        """Wait for one's turn and keep it while inside; `tell` is awaited with how many are before, when that changes."""
        ticket = object()
        self._line.append(ticket)
        try:
            while before := self._line.index(ticket):
                moved = self._moved
                await tell(before)
                await moved.wait()
            yield
        finally:
            self._line.remove(ticket)
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()
