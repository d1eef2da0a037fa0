"""Where clouds are labelled: one at a time, behind the live frames of others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["Desk"]

_BEHIND = 10  # of the priorities 0 to 19


def _stand_behind() -> None:
    """Let this thread, and those it starts, take what the live frames of other visitors leave; where only threads are meant."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BEHIND)


class Desk:
    """Lets one labelling run at a time, in the order they came.

    Attributes:
        thread: Where they run, and where their networks are loaded: both use every core, at a low priority.
    """

    def __init__(self) -> None:
        self._line: list[object] = []
        self._moved = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, "labelling", initializer=_stand_behind)

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
