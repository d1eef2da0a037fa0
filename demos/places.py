"""Who is connected to a tab: a page of this server, as many at once as there is room for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from effvision.demos.channel import Limits
from effvision.demos.sharing import Turns
from effvision.demos.tabs import same_origin

__all__ = ["Guest", "Visitors", "Workers", "live_route"]

Workers = Callable[..., Any]
"""Awaited with a function and its arguments, runs it in a thread."""


class Guest(Protocol):
    """One connection.

    Attributes:
        files: What was uploaded for it through Gradio and is not deleted yet.
    """

    files: set[Path]

    async def run(self) -> None:
        """Talk to the page until it leaves."""


class Visitors:
    """Who is connected to one tab now, and the threads they share."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.turns = Turns()
        self.now: set[Guest] = set()
        self.seen = 0

    @property
    def full(self) -> bool:
        """Whether nobody else may come in."""
        return len(self.now) >= self.limits.visitors

    def enter(self, visitor: Guest) -> None:
        """Take somebody in."""
        self.now.add(visitor)
        self.seen += 1

    def held(self) -> set[Path]:
        """Uploaded files that somebody uses."""
        return {path for visitor in tuple(self.now) for path in tuple(visitor.files)}


def live_route(name: str, visitors: Visitors, make: Callable[[Any, Workers], Guest]) -> Any:
    """Return the WebSocket route of a tab.

    Args:
        name: Of the tab.
        visitors: Of the tab; whoever finds no room is told so.
        make: Makes a guest of an accepted Starlette WebSocket and its part in the threads that all visitors share.
    """
    from starlette.routing import WebSocketRoute

    async def live(socket: Any) -> None:
        if not same_origin(socket):
            await socket.close(1008)
            return
        await socket.accept()
        if visitors.full:
            full = f"All {visitors.limits.visitors} places are taken; try again in a minute."
            await socket.send_json({"kind": "error", "text": full, "ended": True})
            await socket.close(1013)
            return
        visitor = make(socket, visitors.turns.share())
        visitors.enter(visitor)
        try:
            await visitor.run()
        finally:
            visitors.now.discard(visitor)

    return WebSocketRoute(f"/effvision/live/{name}", live)
