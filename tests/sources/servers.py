"""Cameras for tests: numbered pictures, and servers that send them as motion JPEG over HTTP and as RTP over RTSP.

Pure Python on 127.0.0.1, a port of their own each. `stop` cuts every connection, as a camera does that loses its power;
`start` brings the server back on the same port.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import Self

BITS = 16
HEIGHT, WIDTH = 96, 16 * BITS
JPEG_PAYLOAD = 26  # RTP payload type, RFC 3551
RTP_CLOCK_HZ = 90_000
FRAGMENT = 1400  # bytes of a picture in one RTP packet


def numbered(number: int, *, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Draw a number as a bar code: (height, 256, 3) uint8 RGB, a red band at the bottom shows the order of channels."""
    bits = [(number >> (BITS - 1 - place)) & 1 for place in range(BITS)]
    bars = np.repeat(np.array(bits, np.uint8) * 255, WIDTH // BITS)
    image = np.repeat(np.tile(bars, (height, 1))[..., None], 3, axis=2)
    image[-height // 4 :] = (220, 20, 20)
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """Read the bar code of `numbered` back."""
    bars = image[: image.shape[0] // 2].mean(axis=(0, 2)).reshape(BITS, -1).mean(axis=1) > 127
    return int("".join("1" if bar else "0" for bar in bars), 2)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode RGB as baseline JPEG, 4:2:0, with the standard Huffman tables."""
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1])


class _Server:
    """A listening socket, and a thread for each that calls."""

    scheme: str

    def __init__(self, *, fps: float = 30.0) -> None:
        self.fps = fps
        self.frozen = threading.Event()  # while set, connections stay open and nothing is sent
        self.port = 0
        self.sent = 0  # pictures, which is also the number the next one bears
        self.start()

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/live"

    def start(self) -> None:
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    def stop(self) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def pictures(self) -> Iterator[bytes]:
        """Give pictures at the server's rate; numbers go on from one connection to the next."""
        due = time.monotonic()
        while not self._stopped.is_set():
            if self.frozen.is_set():
                self._stopped.wait(0.02)
                continue
            yield jpeg(numbered(self.sent))
            self.sent += 1
            due = max(due + 1 / self.fps, time.monotonic() - 1.0)
            self._stopped.wait(max(0.0, due - time.monotonic()))

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection:
            self.answer(connection)

    def answer(self, connection: socket.socket) -> None:
        raise NotImplementedError


class MjpegServer(_Server):
    """Motion JPEG over HTTP, `multipart/x-mixed-replace`, as cheap network cameras send it."""

    scheme = "http"

    def answer(self, connection: socket.socket) -> None:
        head, _ = _head(connection, b"")
        if not head.startswith("GET /live "):
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\nConnection: close\r\n\r\n"
        )
        for picture in self.pictures():
            part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
            connection.sendall(part + picture + b"\r\n")


class RtspServer(_Server):
    """RTSP (RFC 2326) with RTP/JPEG (RFC 2435) interleaved in the one TCP connection; UDP is refused."""

    scheme = "rtsp"

    def __init__(self, *, fps: float = 30.0, login: str = "") -> None:
        self.login = login  # "user:password", or "" where anybody may look
        super().__init__(fps=fps)

    def answer(self, connection: socket.socket) -> None:
        rest = b""
        while True:
            head, rest = _head(connection, rest)
            lines = head.split("\r\n")
            method, address, _ = lines[0].split(" ", 2)
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            status, more, body = self._reply(method, address, fields)
            more += f"Content-Length: {len(body)}\r\n" if body else ""
            reply = f"RTSP/1.0 {status}\r\nCSeq: {fields.get('cseq', '0')}\r\nSession: 1234\r\n{more}\r\n{body}"
            connection.sendall(reply.encode())
            if method == "PLAY" and status.startswith("200"):
                self._play(connection)
                return
            if method == "TEARDOWN":
                return

    def _reply(self, method: str, address: str, fields: dict[str, str]) -> tuple[str, str, str]:
        token = base64.b64encode(self.login.encode()).decode()
        if method != "OPTIONS" and self.login and fields.get("authorization") != f"Basic {token}":
            return "401 Unauthorized", 'WWW-Authenticate: Basic realm="test"\r\n', ""
        if method == "DESCRIBE" and not address.endswith("/live"):
            return "404 Not Found", "", ""
        if method == "DESCRIBE":
            description = (
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                f"m=video 0 RTP/AVP {JPEG_PAYLOAD}\r\na=control:track1\r\n"
            )
            return "200 OK", f"Content-Type: application/sdp\r\nContent-Base: {address}/\r\n", description
        if method == "SETUP":
            wanted = fields.get("transport", "")
            if "TCP" not in wanted:
                return "461 Unsupported Transport", "", ""
            return "200 OK", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n", ""
        return "200 OK", "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n" if method == "OPTIONS" else "", ""

    def _play(self, connection: socket.socket) -> None:
        sequence = itertools.count(1)
        started = time.monotonic()
        for picture in self.pictures():
            stamp = int((time.monotonic() - started) * RTP_CLOCK_HZ) & 0xFFFFFFFF
            packets = []
            for payload, last in rtp_jpeg(picture):
                marker = 0x80 if last else 0
                head = struct.pack(">BBHII", 0x80, marker | JPEG_PAYLOAD, next(sequence) & 0xFFFF, stamp, 7)
                packets.append(struct.pack(">cBH", b"$", 0, len(head) + len(payload)) + head + payload)
            connection.sendall(b"".join(packets))


def rtp_jpeg(picture: bytes) -> Iterator[tuple[bytes, bool]]:
    """Cut a baseline JPEG into RTP payloads (RFC 2435, section 3.1); True marks the last one of the picture."""
    tables, place = b"", 2
    height = width = kind = 0
    while True:
        marker, length = struct.unpack(">HH", picture[place : place + 4])
        segment = picture[place + 4 : place + 2 + length]
        place += 2 + length
        if marker == 0xFFDB:  # quantisation tables of 8 bits, each behind its number
            tables += b"".join(segment[start + 1 : start + 65] for start in range(0, len(segment), 65))
        elif marker == 0xFFC0:
            height, width = struct.unpack(">HH", segment[1:5])
            kind = {0x21: 0, 0x22: 1}[segment[7]]  # 4:2:2 or 4:2:0
        elif marker == 0xFFDA:
            break
    scan = picture[place:].removesuffix(b"\xff\xd9")
    for offset in range(0, len(scan), FRAGMENT):
        head = struct.pack(">B3sBBBB", 0, offset.to_bytes(3, "big"), kind, 255, width // 8, height // 8)
        if offset == 0:  # Q = 255: the tables travel with the first packet
            head += struct.pack(">BBH", 0, 0, len(tables)) + tables
        yield head + scan[offset : offset + FRAGMENT], offset + FRAGMENT >= len(scan)


def _head(connection: socket.socket, rest: bytes) -> tuple[str, bytes]:
    """Read one request up to its blank line; ValueError when the other side has gone."""
    while b"\r\n\r\n" not in rest:
        data = connection.recv(4096)
        if not data:
            raise ValueError("closed")
        rest += data
    head, _, rest = rest.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


class FileServer:
    """Plain files over HTTP with Content-Length, as a web server gives them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = files.get(self.path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(data or b"")

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FileServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@contextlib.contextmanager
def dead_port() -> Iterator[int]:
    """A port of this machine nobody listens on, held so that nobody else can."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])
