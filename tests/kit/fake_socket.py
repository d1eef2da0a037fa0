"""A visitor's side of a WebSocket without a server."""

from __future__ import annotations

import asyncio
import json
from typing import Any


class FakeSocket:
    """A page that says what it is told to and keeps what it hears."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.heard: list[Any] = []
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.deaf = deaf

    async def receive(self) -> dict[str, Any]:
        return await self.inbox.get()

    async def send_text(self, text: str) -> None:
        if self.deaf:
            await asyncio.Event().wait()
        self.heard.append(json.loads(text))

    async def send_bytes(self, data: bytes) -> None:
        await self.send_text(json.dumps({"kind": "frame", "bytes": len(data)}))

    def say(self, message: bytes | dict[str, Any]) -> None:
        content = {"bytes": message} if isinstance(message, bytes) else {"text": json.dumps(message)}
        self.inbox.put_nowait({"type": "websocket.receive", **content})

    def leave(self) -> None:
        self.inbox.put_nowait({"type": "websocket.disconnect"})

    def count(self, kind: str) -> int:
        return sum(said["kind"] == kind for said in self.heard)

    async def wait_for(self, kind: str, count: int = 1) -> None:
        async def enough() -> None:
            while self.count(kind) < count:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(enough(), 60)
