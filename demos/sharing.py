"""How visitors share one machine: whoever has used the least of late goes first, and nobody may talk without pause."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from effvision.errors import InputError

if TYPE_CHECKING:
    from anyio import CapacityLimiter

__all__ = ["Pace", "Share", "Turns"]

_FADE_S = 3.0  # after so long most of what was used is forgotten
_MORE = 2.0  # than one's part in the threads is the most that anybody uses while others are there
_LATELY_S = 1.0
_LONGEST_S = 0.5  # wait before it is looked again


class Turns:
    """The threads that all visitors of a page work in: as many as the machine has cores, two at least.

    When more is wanted than there are threads, the visitor that has used them least of late goes first. With one after the
    other in the order they came, a visitor with large frames would take as many turns as the others, and most of the time. And
    nobody uses more than twice a fair part, even where a thread is free just now: a long piece of work would be in the way of
    all the short ones that come while it lasts, and threads are not cores.

    Made and used in the event loop's thread, but for `live`.

    Args:
        threads: How many; default: the machine's cores.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._free = threads or max(2, os.cpu_count() or 1)
        self._threads: CapacityLimiter | None = None  # belongs to the event loop, so it is made inside it
        self._most = self._free
        self._shares: WeakSet[Share] = WeakSet()
        self._last = 0.0
        self._waiting: list[tuple[Share, asyncio.Future[None]]] = []

    def share(self) -> Share:
        """Return a newcomer's part in them."""
        newcomer = Share(self)
        self._shares.add(newcomer)
        return newcomer

    @property
    def live(self) -> bool:
        """Whether anybody has worked here in the last second; may be asked from any thread."""
        return time.monotonic() - self._last < _LATELY_S

    def _most_s(self, now: float) -> float:
        """Return how much anybody may have used, counted as `Share.used` does."""
        there = sum(now - share.last < _LATELY_S for share in self._shares)
        return _MORE * self._most * _FADE_S / max(1, there)

    async def _enter(self, share: Share) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((share, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # it was given the turn and will not take it
            elif (share, turn) in self._waiting:  # else `_leave` has passed over it meanwhile
                self._waiting.remove((share, turn))
            raise

    def _leave(self) -> None:
        self._free += 1
        now = time.monotonic()
        while self._free and self._waiting:
            at = min(range(len(self._waiting)), key=lambda place: self._waiting[place][0].used(now))
            _, turn = self._waiting.pop(at)
            if not turn.cancelled():
                self._free -= 1
                turn.set_result(None)

    def _limiter(self) -> CapacityLimiter:
        from anyio import CapacityLimiter

        if self._threads is None:
            self._threads = CapacityLimiter(self._most)
        return self._threads


class Share:
    """One visitor's part in the threads; called with a function and its arguments, runs it in one of them."""

    def __init__(self, turns: Turns) -> None:
        self._turns, self._used_s, self._counted = turns, 0.0, time.monotonic()
        self.last = 0.0  # moment of its last piece of work

    def used(self, now: float) -> float:
        """Return the seconds of a thread it has used, those of long ago counting less."""
        return self._used_s * math.exp((self._counted - now) / _FADE_S)

    async def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run it when it is this visitor's turn; return what it returns."""
        from anyio import to_thread

        while (over := self.used(now := time.monotonic()) / self._turns._most_s(now)) > 1:
            await asyncio.sleep(min(_LONGEST_S, _FADE_S * math.log(over)))
        await self._turns._enter(self)
        began = time.monotonic()
        try:
            return await to_thread.run_sync(partial(function, *arguments), limiter=self._turns._limiter())
        finally:
            now = time.monotonic()
            self._used_s, self._counted = self.used(now) + now - began, now
            self.last = self._turns._last = now
            self._turns._leave()


class Pace:
    """Lets so many messages and bytes a second through, and twice as many at once after a rest.

    Args:
        messages: A second.
        size: Bytes a second.
        patience_s: Seconds that somebody may send too many messages without a rest; large files may take longer.
    """

    def __init__(self, messages: float, size: float, *, patience_s: float = 5.0) -> None:
        self._rates, self._patience_s = (messages, size), patience_s
        self._fast_since: float | None = None
        self._left = [2 * messages, 2 * size]
        self._counted = time.monotonic()

    async def take(self, size: int) -> None:
        """Count a message of so many bytes; wait until there is room for it, and let others go on in any case.

        Raises:
            InputError: more messages have come than are let through for too long. What waits to be read is then as much, and
                may be from somebody who has left.
        """
        now = time.monotonic()
        passed, self._counted = now - self._counted, now
        for at, (rate, taken) in enumerate(zip(self._rates, (1, size), strict=True)):
            self._left[at] = min(2 * rate, self._left[at] + passed * rate) - taken
        late = max(-left / rate for left, rate in zip(self._left, self._rates, strict=True))
        if self._left[0] >= 0:
            self._fast_since = None
        elif self._fast_since is None:
            self._fast_since = now
        elif now - self._fast_since > self._patience_s:
            raise InputError(f"more than {self._rates[0]:g} messages a second have come for {self._patience_s:g} s")
        await asyncio.sleep(max(0.0, late))
