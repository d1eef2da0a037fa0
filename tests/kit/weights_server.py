"""For tests of weights files: a card, and a server on this machine that is whole, broken, slow or lying."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from effvision.cards import Card

WEIGHTS = bytes(range(256)) * 2048  # 512 KiB
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
CARD = Card(
    name="far-away",
    family="tsm",
    task="classification",
    summary="a card whose weights lie on the test's own server",
    weights="far-away.pth",
    licence="none",
    paper="none",
    data="none",
    network={},
    preprocess={},
    classes=2,
)

Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    timeout = 60

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        self.server.answer(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def send(self, data: bytes, *, status: int = 200, stated: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if stated is None else stated))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    @property
    def start(self) -> int:
        """Where the client wants to resume."""
        return int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    answer: Answer

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.closing = threading.Event()
        self.answer = whole

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models/far-away.pth"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up


def whole(handler: Handler) -> None:
    """Resume where it is asked to, as servers of large files do."""
    start = handler.start
    if start >= len(WEIGHTS):
        handler.send(b"", status=416, Content_Range=f"bytes */{len(WEIGHTS)}")
    elif start:
        about = f"bytes {start}-{len(WEIGHTS) - 1}/{len(WEIGHTS)}"
        handler.send(WEIGHTS[start:], status=206, Content_Range=about)
    else:
        handler.send(WEIGHTS)


def from_the_start(handler: Handler) -> None:
    """Take no notice of `Range`."""
    handler.send(WEIGHTS)


def cut(handler: Handler) -> None:
    """State everything, send a part, hang up."""
    start = handler.start
    handler.send(WEIGHTS[start : start + 200_000], status=206 if start else 200, stated=len(WEIGHTS) - start)


def cut_chunked(handler: Handler) -> None:
    """The same without a length: only the missing last chunk tells."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"10000\r\n" + WEIGHTS[:0x9000])
    handler.close_connection = True


def no_http(handler: Handler) -> None:
    """Speak something else."""
    handler.wfile.write(b"220 ftp ready\r\n")


def hang(handler: Handler) -> None:
    """Take the connection and say nothing."""
    handler.server.closing.wait(10)


def stall(handler: Handler) -> None:
    """Begin, then say nothing more."""
    handler.send(WEIGHTS[:70_000], stated=len(WEIGHTS))
    handler.wfile.flush()
    handler.server.closing.wait(10)


def status(code: int) -> Answer:
    return lambda handler: handler.send(b"<html>no</html>", status=code)


def own_card(server: Server | None = None, **changes: Any) -> Card:
    return replace(CARD, urls=(server.url,) if server else (), **changes)


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.is_dir() else []
