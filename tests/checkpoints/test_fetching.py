"""Weights fetched from a server that is whole, broken, slow or lying."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from effvision import checkpoints
from effvision.checkpoints import download, find_weights
from effvision.errors import CheckpointError, DownloadError
from weights_server import (
    CARD,
    SHA256,
    WEIGHTS,
    Answer,
    Handler,
    Server,
    cut,
    cut_chunked,
    from_the_start,
    hang,
    left_in,
    no_http,
    own_card,
    stall,
    status,
    whole,
)

pytestmark = pytest.mark.usefixtures("patient")


@pytest.mark.parametrize("progress", [False, True])
def test_a_whole_answer_becomes_the_file(server: Server, tmp_path: Path, progress: bool) -> None:
    download(own_card(server), tmp_path / "deep" / "down" / "w.pth", progress=progress)
    assert (tmp_path / "deep" / "down" / "w.pth").read_bytes() == WEIGHTS
    assert left_in(tmp_path / "deep" / "down") == ["w.pth"]


def test_a_transfer_that_breaks_is_resumed_where_it_broke(server: Server, cache: Path) -> None:
    server.answer = cut
    for _ in range(2):
        with pytest.raises(DownloadError, match="resume"):
            find_weights(own_card(server))
        assert CARD.weights not in left_in(cache)  # it appears only when whole
    server.answer = whole
    assert find_weights(own_card(server)).read_bytes() == WEIGHTS
    assert [asked for _, asked in server.requests] == [None, "bytes=200000-", "bytes=400000-"]
    assert left_in(cache) == [CARD.weights]


def test_a_server_that_cannot_resume_sends_everything_again(server: Server, cache: Path) -> None:
    server.answer = cut
    with pytest.raises(DownloadError):
        find_weights(own_card(server))
    server.answer = from_the_start
    assert find_weights(own_card(server)).read_bytes() == WEIGHTS
    assert server.requests[-1][1] == "bytes=200000-"


@pytest.mark.parametrize("surplus", [0, 100])
def test_a_partial_file_that_is_already_whole_or_too_long_does_not_block_for_ever(
    server: Server, cache: Path, surplus: int
) -> None:
    server.answer = cut
    with pytest.raises(DownloadError):
        find_weights(own_card(server))
    (partial,) = cache.iterdir()
    partial.write_bytes(WEIGHTS + b"x" * surplus)
    server.answer = whole
    assert find_weights(own_card(server)).read_bytes() == WEIGHTS


def test_bytes_that_are_not_the_cards_never_get_its_name(server: Server, cache: Path) -> None:
    card = own_card(server, sha256="0" * 64)
    for _ in range(2):  # nor do they stand in the way of the next attempt
        with pytest.raises((CheckpointError, DownloadError), match="SHA-256"):
            find_weights(card)
        assert CARD.weights not in left_in(cache)
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
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, said: str
) -> None:
    if said == "timed out":
        monkeypatch.setattr(checkpoints, "_READ_TIMEOUT_S", 0.3)
    server.answer = answer
    with pytest.raises(DownloadError) as caught:
        find_weights(own_card(server))
    message = str(caught.value)
    assert said in message and f"127.0.0.1:{server.server_port}" in message
    assert server.url in message and str(cache / CARD.weights) in message and "hint: download" in message
    assert CARD.weights not in left_in(cache)


def test_the_next_address_is_tried_when_one_fails(server: Server) -> None:
    gone = server.url.replace(str(server.server_port), "9")  # discard: nobody listens
    card = replace(CARD, urls=(gone, server.url))
    assert find_weights(card).read_bytes() == WEIGHTS


def test_two_at_once_leave_one_whole_file(server: Server, cache: Path) -> None:
    both = threading.Event()

    def halves(handler: Handler) -> None:
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
            find_weights(own_card(server))
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


def test_the_proxy_of_the_environment_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    card = replace(CARD, urls=("http://weights.invalid/far-away.pth",))  # a name no resolver knows, only the proxy
    assert find_weights(card).read_bytes() == WEIGHTS
    assert server.requests == [("http://weights.invalid/far-away.pth", None)]
