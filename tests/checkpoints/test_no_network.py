"""No network: said in under a second, with what to fetch and where to put it."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effvision.cards import Card, get_card
from effvision.checkpoints import find_weights
from effvision.errors import DownloadError
from waiting import best_of_three
from weights_server import CARD, SHA256, Server, own_card

pytestmark = pytest.mark.alone  # all are under a second here, but not where something else keeps the machine busy


def _in_time(card: Card, cache: Path, *words: str) -> None:
    """The error comes in under a second and says what to fetch, where to put it and how to name it."""
    message = best_of_three(lambda: _told_in_under_a_second(card))
    for word in (card.name, *card.urls, str(cache / card.weights), card.weights, "hint: ", *words):
        assert word in message, message


def _told_in_under_a_second(card: Card) -> str:
    started = time.perf_counter()
    with pytest.raises(DownloadError) as caught:
        find_weights(card)
    took_s = time.perf_counter() - started
    assert took_s < 1.0, f"{took_s:.2f} s"
    return str(caught.value)


def test_a_host_that_is_down_is_said_in_under_a_second(cache: Path) -> None:
    with socket.socket() as held:  # bound, so that nobody else listens there
        held.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{held.getsockname()[1]}/w.pth"
        _in_time(replace(CARD, urls=(address,), sha256=SHA256), cache, "refused", SHA256)


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
        over.wait(60)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    try:
        addresses = tuple(f"https://weights{number}.invalid/w.pth" for number in range(urls))
        card = replace(CARD, urls=addresses)
        assert "no answer" in best_of_three(lambda: _told_in_under_a_second(card))
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
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, switch: str, asked: bool
) -> None:
    monkeypatch.setenv("EFFVISION_OFFLINE", switch)
    if asked:
        assert find_weights(own_card(server)).is_file()
    else:
        _in_time(own_card(server), cache, "EFFVISION_OFFLINE")
    assert bool(server.requests) is asked


def test_a_card_without_an_address_says_so(cache: Path) -> None:
    _in_time(own_card(), cache, "no address")


def test_a_cache_folder_that_cannot_be_made_is_our_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EFFVISION_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match="file"):
        find_weights(own_card(server))
