"""Weights files: where they are looked for, and fetched from a server that is whole, broken, slow, lying or absent."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effvision import checkpoints
from effvision.cards import Card, get_card, list_cards, predictor_class
from effvision.checkpoints import bundled, cache_folder, download, find_weights
from effvision.errors import CheckpointError, DownloadError

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

Answer = Callable[["_Handler"], None]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = 5

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


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    answer: Answer

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.closing = threading.Event()
        self.answer = whole

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models/far-away.pth"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up


def whole(handler: _Handler) -> None:
    """Resume where it is asked to, as servers of large files do."""
    start = handler.start
    if start >= len(WEIGHTS):
        handler.send(b"", status=416, Content_Range=f"bytes */{len(WEIGHTS)}")
    elif start:
        about = f"bytes {start}-{len(WEIGHTS) - 1}/{len(WEIGHTS)}"
        handler.send(WEIGHTS[start:], status=206, Content_Range=about)
    else:
        handler.send(WEIGHTS)


def from_the_start(handler: _Handler) -> None:
    """Take no notice of `Range`."""
    handler.send(WEIGHTS)


def cut(handler: _Handler) -> None:
    """State everything, send a part, hang up."""
    start = handler.start
    handler.send(WEIGHTS[start : start + 200_000], status=206 if start else 200, stated=len(WEIGHTS) - start)


def cut_chunked(handler: _Handler) -> None:
    """The same without a length: only the missing last chunk tells."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"10000\r\n" + WEIGHTS[:0x9000])
    handler.close_connection = True


def no_http(handler: _Handler) -> None:
    """Speak something else."""
    handler.wfile.write(b"220 ftp ready\r\n")


def hang(handler: _Handler) -> None:
    """Take the connection and say nothing."""
    handler.server.closing.wait(10)


def stall(handler: _Handler) -> None:
    """Begin, then say nothing more."""
    handler.send(WEIGHTS[:70_000], stated=len(WEIGHTS))
    handler.wfile.flush()
    handler.server.closing.wait(10)


def status(code: int) -> Answer:
    return lambda handler: handler.send(b"<html>no</html>", status=code)


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as running:
        thread = threading.Thread(target=lambda: running.serve_forever(poll_interval=0.01), daemon=True)
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no proxy or offline switch of the machine the tests run on."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("EFFVISION_OFFLINE", raising=False)
    monkeypatch.setenv("EFFVISION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "_opener", None)
    return tmp_path / "cache"


def _card(server: _Server | None = None, **changes: Any) -> Card:
    return replace(CARD, urls=(server.url,) if server else (), **changes)


def _left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.is_dir() else []


# --- where weights are looked for ---------------------------------------------------------------------------------------


def test_bundled_weights_are_found_in_the_package_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFVISION_OFFLINE", "1")
    card = get_card("tsm-mobilenetv2-motion")
    assert find_weights(card) == bundled(card.weights)
    assert bundled("no such file") is None


@pytest.mark.parametrize("card", [card for card in list_cards() if card.bundled], ids=lambda card: card.name)
def test_bundled_weights_name_their_card_so_that_a_copy_of_the_file_is_enough(card: Card, tmp_path: Path) -> None:
    copy = tmp_path / "renamed.safetensors"
    copy.write_bytes(find_weights(card).read_bytes())
    assert predictor_class(card.family).from_pretrained(copy, runtime="torch").metadata.card == card.name


def test_bundled_weights_that_are_missing_say_how_to_get_them_back() -> None:
    with pytest.raises(DownloadError, match=r"far-away\.pth.*\nhint: pip install"):
        find_weights(_card(bundled=True))


def test_a_file_in_the_cache_is_used_and_no_server_is_asked(server: _Server, cache: Path) -> None:
    cache.mkdir()
    (cache / CARD.weights).write_bytes(WEIGHTS)
    assert find_weights(_card(server, sha256=SHA256)) == cache / CARD.weights
    assert server.requests == []


def test_a_file_in_the_cache_that_is_another_one_is_refused(server: _Server, cache: Path) -> None:
    cache.mkdir()
    (cache / CARD.weights).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=rf"far-away.*{SHA256}\nhint: "):
        find_weights(_card(server, sha256=SHA256))


def test_what_is_nowhere_is_fetched_into_the_cache_once(server: _Server, cache: Path) -> None:
    for _ in range(2):
        assert find_weights(_card(server, sha256=SHA256)).read_bytes() == WEIGHTS
    assert server.requests == [("/models/far-away.pth", None)]
    assert _left(cache) == [CARD.weights]


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("EFFVISION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "effvision"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "effvision"


# --- fetching -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [False, True])
def test_a_whole_answer_becomes_the_file(server: _Server, tmp_path: Path, progress: bool) -> None:
    download(_card(server), tmp_path / "deep" / "down" / "w.pth", progress=progress)
    assert (tmp_path / "deep" / "down" / "w.pth").read_bytes() == WEIGHTS
    assert _left(tmp_path / "deep" / "down") == ["w.pth"]


def test_a_transfer_that_breaks_is_resumed_where_it_broke(server: _Server, cache: Path) -> None:
    server.answer = cut
    for _ in range(2):
        with pytest.raises(DownloadError, match="resume"):
            find_weights(_card(server))
        assert CARD.weights not in _left(cache)  # it appears only when whole
    server.answer = whole
    assert find_weights(_card(server)).read_bytes() == WEIGHTS
    assert [asked for _, asked in server.requests] == [None, "bytes=200000-", "bytes=400000-"]
    assert _left(cache) == [CARD.weights]


def test_a_server_that_cannot_resume_sends_everything_again(server: _Server, cache: Path) -> None:
    server.answer = cut
    with pytest.raises(DownloadError):
        find_weights(_card(server))
    server.answer = from_the_start
    assert find_weights(_card(server)).read_bytes() == WEIGHTS
    assert server.requests[-1][1] == "bytes=200000-"


@pytest.mark.parametrize("surplus", [0, 100])
def test_a_partial_file_that_is_already_whole_or_too_long_does_not_block_for_ever(
    server: _Server, cache: Path, surplus: int
) -> None:
    server.answer = cut
    with pytest.raises(DownloadError):
        find_weights(_card(server))
    (partial,) = cache.iterdir()
    partial.write_bytes(WEIGHTS + b"x" * surplus)
    server.answer = whole
    assert find_weights(_card(server)).read_bytes() == WEIGHTS


def test_bytes_that_are_not_the_cards_never_get_its_name(server: _Server, cache: Path) -> None:
    card = _card(server, sha256="0" * 64)
    for _ in range(2):  # nor do they stand in the way of the next attempt
        with pytest.raises((CheckpointError, DownloadError), match="SHA-256"):
            find_weights(card)
        assert CARD.weights not in _left(cache)
    assert find_weights(replace(card, sha256=SHA256)).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (status(404), "404"),
        (status(403), "403"),
        (status(500), "500"),
        (cut, "broke"),
        (cut_chunked, "127.0.0.1"),
        (no_http, "127.0.0.1"),
        (hang, "timed out"),
        (stall, "timed out"),
    ],
    ids=["404", "403", "500", "cut", "chunked", "no http", "hang", "stall"],
)
def test_a_server_that_fails_is_named_with_its_reason_and_what_to_do(
    server: _Server, cache: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, said: str
) -> None:
    monkeypatch.setattr(checkpoints, "_READ_TIMEOUT_S", 0.3)
    server.answer = answer
    with pytest.raises(DownloadError) as caught:
        find_weights(_card(server))
    message = str(caught.value)
    assert said in message and f"127.0.0.1:{server.server_port}" in message
    assert server.url in message and str(cache / CARD.weights) in message and "hint: download" in message
    assert CARD.weights not in _left(cache)


def test_the_next_address_is_tried_when_one_fails(server: _Server) -> None:
    gone = server.url.replace(str(server.server_port), "9")  # discard: nobody listens
    card = replace(CARD, urls=(gone, server.url))
    assert find_weights(card).read_bytes() == WEIGHTS


def test_two_at_once_leave_one_whole_file(server: _Server, cache: Path) -> None:
    both = threading.Event()

    def halves(handler: _Handler) -> None:
        """Hold the second half back until both have asked, or it is clear that one waits for the other."""
        start, middle = handler.start, len(WEIGHTS) // 2
        if len(handler.server.requests) > 1:
            both.set()
        handler.send(WEIGHTS[start : max(start, middle)], stated=len(WEIGHTS) - start, status=206 if start else 200)
        handler.wfile.flush()
        both.wait(1)
        handler.wfile.write(WEIGHTS[max(start, middle) :])

    server.answer = halves
    ended: list[Exception | None] = []

    def fetch() -> None:
        try:
            find_weights(_card(server))
            ended.append(None)
        except Exception as error:
            ended.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (cache / CARD.weights).read_bytes() == WEIGHTS
    assert ended == [None, None]


def test_the_proxy_of_the_environment_is_used(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    card = replace(CARD, urls=("http://weights.invalid/far-away.pth",))  # a name no resolver knows, only the proxy
    assert find_weights(card).read_bytes() == WEIGHTS
    assert server.requests == [("http://weights.invalid/far-away.pth", None)]


# --- no network -----------------------------------------------------------------------------------------------------------


def _in_time(card: Card, cache: Path, *words: str) -> None:
    """The error comes in under a second and says what to fetch, where to put it and how to name it."""
    started = time.perf_counter()
    with pytest.raises(DownloadError) as caught:
        find_weights(card)
    took_s = time.perf_counter() - started
    message = str(caught.value)
    for word in (card.name, *card.urls, str(cache / card.weights), card.weights, "hint: ", *words):
        assert word in message, message
    assert took_s < 1.0, f"{took_s:.2f} s"


def test_a_host_that_is_down_is_said_in_under_a_second(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    _in_time(replace(CARD, urls=(f"http://127.0.0.1:{port}/w.pth",), sha256=SHA256), cache, "refused", SHA256)


def test_a_name_that_no_resolver_knows_is_said_in_under_a_second(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    _in_time(replace(CARD, urls=("https://weights.invalid/w.pth",)), cache, "Name or service not known")


@pytest.mark.parametrize("urls", [1, 3])
def test_a_resolver_or_host_that_never_answers_is_given_up_in_under_a_second(
    cache: Path, monkeypatch: pytest.MonkeyPatch, urls: int
) -> None:
    over = threading.Event()

    def silent(*_: Any, **__: Any) -> None:
        over.wait(10)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    try:
        addresses = tuple(f"https://weights{number}.invalid/w.pth" for number in range(urls))
        card = replace(CARD, urls=addresses)
        started = time.perf_counter()
        with pytest.raises(DownloadError, match="no answer"):
            find_weights(card)
        assert time.perf_counter() - started < 1.0
    finally:
        over.set()


def test_the_published_cards_say_their_own_address_place_and_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    card = get_card("tsm-mobilenetv2-jester")
    _in_time(card, cache, "Network is unreachable", "mobilenetv2_jester_online.pth.tar")


@pytest.mark.parametrize(("switch", "asked"), [("1", False), ("yes", False), ("0", True), ("", True)])
def test_offline_means_that_no_server_is_asked(
    server: _Server, cache: Path, monkeypatch: pytest.MonkeyPatch, switch: str, asked: bool
) -> None:
    monkeypatch.setenv("EFFVISION_OFFLINE", switch)
    if asked:
        assert find_weights(_card(server)).is_file()
    else:
        _in_time(_card(server), cache, "EFFVISION_OFFLINE")
    assert bool(server.requests) is asked


def test_a_card_without_an_address_says_so(cache: Path) -> None:
    _in_time(_card(), cache, "no address")


def test_a_cache_folder_that_cannot_be_made_is_our_error(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EFFVISION_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match="file"):
        find_weights(_card(server))
