"""Addresses: what may be shown of them, whether anybody answers, and why a server that answers gave no stream.

OpenCV says of every failure only that it did not open, and waits half a minute for a host that is switched off. So the host is
asked first, and a server that refused is asked for its reason.
"""

from __future__ import annotations

import os
import re
import socket
from urllib.parse import SplitResult, urlsplit
from urllib.request import proxy_bypass

from effvision.errors import SourceError

__all__ = ["SCHEMES", "check_host", "masked", "parse_address", "why_refused"]

SCHEMES: dict[str, int | None] = {
    "rtsp": 554,
    "rtsps": 322,
    "rtmp": 1935,
    "rtmps": 443,
    "http": 80,
    "https": 443,
    "tcp": None,
    "udp": None,
    "rtp": None,
}
"""Schemes FFmpeg reads live video from, and their usual ports."""

_ASKED_FIRST = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "http", "https"})
"""Schemes whose server bears a caller that hangs up at once. A bare `tcp://` sender often serves one caller and ends."""

_CONNECT_S = 3.0
_SECRETS = re.compile(r"(?i)((?<![a-z])(?:pass(?:word|wd|phrase)?|pwd?|token|secret|(?:api_?)?key|auth)=)[^&\s\"'!;]+")
# A password may hold `@`, and by mistake also `/`, `?` or `#`; then rather too much is hidden than too little.
_USER = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://)([^/?#\s\"']*@|[^/?#\s\"':]*:[^\s\"']*@)")


def masked(text: str) -> str:
    """Return an address or a pipeline with its passwords and tokens replaced by `***`, fit for names, messages and logs."""

    def hide(match: re.Match[str]) -> str:
        user, colon, _ = match[2].partition(":")
        return f"{match[1]}{user}:***@" if colon else f"{match[1]}***@"

    return _SECRETS.sub(r"\1***", _USER.sub(hide, text))


def parse_address(address: str) -> SplitResult:
    """Split an address and refuse one that cannot be right.

    Raises:
        SourceError: no host, a port that is none, or characters that no address holds.
    """
    shown = masked(address)
    if any(ord(char) < 33 for char in address):
        raise SourceError(f"{shown!r:.300} is no address: it holds a blank or a control character")
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        hint = "\nhint: in a password write / as %2F, # as %23, ? as %3F and @ as %40" if "@" in address else ""
        raise SourceError(
            f"{shown!r:.300} is no address: its host or port cannot be read{hint}"
        ) from None  # the cause may quote the password
    if not parts.hostname and parts.scheme not in ("udp", "rtp"):
        raise SourceError(f"{shown!r:.300} names no host\nhint: it should look like {parts.scheme}://HOST:PORT/PATH")
    if parts.scheme == "tcp" and port is None:
        raise SourceError(f"{shown} names no port\nhint: it should look like tcp://HOST:PORT")
    return parts


def check_host(address: str) -> None:
    """Connect to the host of `address` and hang up; at once for a dead port, within 3 s per address of the host otherwise.

    Raises:
        SourceError: the name is unknown, nothing listens at the port, or nothing answers.
    """
    parts = parse_address(address)
    if parts.scheme in _ASKED_FIRST and not _proxied(parts):
        _connect(masked(address), parts).close()


def why_refused(address: str) -> str:
    """Ask a server that answers why it gives no stream; the end of a sentence that begins with the address.

    No password is sent.

    Raises:
        SourceError: a bare `tcp://` sender that does not answer.
    """
    parts = parse_address(address)
    if parts.scheme == "tcp":
        _connect(masked(address), parts).close()
    if parts.scheme not in ("rtsp", "http") or _proxied(parts):
        return f"gives no video that this OpenCV's FFmpeg can read{_hint(parts)}"
    status, words = _status(parts)
    if status in (401, 403) and parts.username is not None:
        return f"refused the user or the password in the address ({status} {words})"
    if status in (401, 403):
        return f"asks for a user and a password ({status} {words})\nhint: {parts.scheme}://USER:PASSWORD@{parts.hostname}/..."
    if status in (404, 410, 454):
        return (
            f"has no stream at this path ({status} {words})\nhint: the path is in the camera's manual or its web page"
        )
    if status >= 300:
        return f"answers {status} {words}"
    return f"answers, but gives no video that this OpenCV's FFmpeg can read{_hint(parts)}"


def _hint(parts: SplitResult) -> str:
    if parts.scheme.startswith("rtsp"):
        return "\nhint: for a camera that only speaks UDP set OPENCV_FFMPEG_CAPTURE_OPTIONS='rtsp_transport;udp'"
    if parts.scheme.startswith("http"):
        return "\nhint: is it a video stream, and not the page around it?"
    return "\nhint: check that it is being sent, and that no firewall drops it"


def _connect(shown: str, parts: SplitResult) -> socket.socket:
    host = parts.hostname or ""
    port = parts.port or SCHEMES[parts.scheme] or 0
    try:
        return socket.create_connection((host, port), timeout=_CONNECT_S)
    except socket.gaierror as error:
        raise SourceError(
            f"{shown}: the name {host} is not known ({error.strerror})\nhint: check its spelling, or give the IP address"
        ) from error
    except ConnectionRefusedError as error:
        raise SourceError(
            f"{shown}: {host} refused the connection, nothing listens at port {port}\n"
            "hint: check the port, and that the stream is switched on"
        ) from error
    except TimeoutError as error:
        raise SourceError(
            f"{shown}: {host} did not answer at port {port} within {_CONNECT_S:g} s\n"
            "hint: check that it is switched on, in reach of this network, and not behind a firewall"
        ) from error
    except (OSError, UnicodeError) as error:  # no route; a name that no resolver takes
        raise SourceError(f"{shown}: {host} cannot be reached at port {port}: {error}") from error


def _status(parts: SplitResult) -> tuple[int, str]:
    """Status and words of the server's answer to the plainest question; (0, "") when it says nothing of the kind."""
    host = parts.netloc.rpartition("@")[2]
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    question = {
        "rtsp": f"DESCRIBE rtsp://{host}{path} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n",
        "http": f"GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n",
    }[parts.scheme]
    try:
        with _connect(host, parts) as connection:
            connection.sendall(question.encode())
            line = connection.recv(512).partition(b"\r\n")[0].decode("latin-1")
    except OSError:
        return 0, ""
    match = re.match(r"(?:RTSP|HTTP)/\d\.\d (\d{3}) ?([\w -]*)", line)
    return (int(match[1]), match[2].strip()) if match else (0, "")


def _proxied(parts: SplitResult) -> bool:
    """Whether FFmpeg goes through a proxy; then this machine need not reach the host itself."""
    proxy = os.environ.get("http_proxy")
    return bool(proxy and parts.scheme.startswith("http") and not proxy_bypass(parts.hostname or ""))
