"""Where weights files are looked for: in the package, in the cache folder, then at the card's address."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from effvision.cards import Card, get_card, list_cards, predictor_class
from effvision.checkpoints import bundled, cache_folder, find_weights, read_checkpoint
from effvision.errors import CheckpointError, DownloadError
from weights_server import CARD, SHA256, WEIGHTS, Server, left_in, own_card

pytestmark = pytest.mark.usefixtures("patient")


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


@pytest.mark.parametrize("name", ["COPY.SAFETENSORS", "COPY.PTH"])
def test_a_checkpoint_whose_suffix_is_in_capitals_is_read_all_the_same(name: str, tmp_path: Path) -> None:
    card = get_card("tsm-mobilenetv2-motion")
    whole = find_weights(card)
    if name.endswith("PTH"):
        torch.save(dict(read_checkpoint(whole)), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(whole.read_bytes())
    given = card.name if name.endswith("PTH") else None  # a safetensors file names its card
    model = predictor_class(card.family).from_pretrained(tmp_path / name, card=given, runtime="torch")
    assert model.metadata.card == card.name
    with pytest.raises(CheckpointError, match=f"no checkpoint file.*ABSENT{name}"):
        predictor_class(card.family).from_pretrained(tmp_path / f"ABSENT{name}", card=card.name, runtime="torch")


def test_bundled_weights_that_are_missing_say_how_to_get_them_back() -> None:
    with pytest.raises(DownloadError, match=r"far-away\.pth.*\nhint: pip install"):
        find_weights(own_card(bundled=True))


def test_a_file_in_the_cache_is_used_and_no_server_is_asked(server: Server, cache: Path) -> None:
    cache.mkdir()
    (cache / CARD.weights).write_bytes(WEIGHTS)
    assert find_weights(own_card(server, sha256=SHA256)) == cache / CARD.weights
    assert server.requests == []


def test_a_file_in_the_cache_that_is_another_one_is_refused(server: Server, cache: Path) -> None:
    cache.mkdir()
    (cache / CARD.weights).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=rf"far-away.*{SHA256}\nhint: "):
        find_weights(own_card(server, sha256=SHA256))


def test_what_is_nowhere_is_fetched_into_the_cache_once(server: Server, cache: Path) -> None:
    for _ in range(2):
        assert find_weights(own_card(server, sha256=SHA256)).read_bytes() == WEIGHTS
    assert server.requests == [("/models/far-away.pth", None)]
    assert left_in(cache) == [CARD.weights]


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("EFFVISION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "effvision"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "effvision"
