"""Cards: found by name, listed in a steady order, complete, and unchangeable."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, replace
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import pytest

from effvision import cards
from effvision.cards import Card, default_card, get_card, list_cards, predictor_class
from effvision.errors import CardError

CARDS = list_cards()
every_card = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)


@pytest.fixture
def another_family(monkeypatch: pytest.MonkeyPatch) -> Card:
    """A card of a family that is not TSM, as later ones will be."""
    other = replace(
        get_card("tsm-mobilenetv2-motion"), name="points-small", family="points", default=True, bundled=False
    )
    known = {card.name: card for card in CARDS} | {other.name: other}
    monkeypatch.setattr(cards, "_read_all", lambda: known)
    return other


def test_a_card_is_found_by_its_exact_name() -> None:
    for card in CARDS:
        assert get_card(card.name) is card
        assert get_card(card.name, family=card.family) is card


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("tsm-mobilenet-motion", "tsm-mobilenetv2-motion"),
        ("TSM-MobileNetV2-Motion", "tsm-mobilenetv2-motion"),
        ("tsm_mobilenetv2_motion", "tsm-mobilenetv2-motion"),
        ("tsm-mobilenetv2-jestr", "tsm-mobilenetv2-jester"),
        ("resnet50-kinetics", "tsm-resnet50-kinetics-8f"),
    ],
)
def test_a_name_nearly_right_is_answered_with_the_right_one(given: str, meant: str) -> None:
    with pytest.raises(CardError) as caught:
        get_card(given)
    told, hint = str(caught.value).split("\nhint: ")
    assert repr(given) in told and meant in hint


def test_a_name_that_is_near_to_nothing_lists_what_there_is() -> None:
    with pytest.raises(CardError) as caught:
        get_card("zzz")
    assert "`effvision list`" in str(caught.value) and all(card.name in str(caught.value) for card in CARDS)


def test_a_card_of_another_family_says_which_class_takes_it(
    another_family: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "predictor_class", lambda family: type("Points", (), {}))
    with pytest.raises(CardError, match=r"'points-small' belongs to the family points, not tsm\nhint: .*import Points"):
        get_card("points-small", family="tsm")


def test_near_names_come_from_the_family_asked_for(another_family: Card) -> None:
    with pytest.raises(CardError) as caught:
        get_card("points-smal", family="tsm")
    assert "points-small" not in str(caught.value)


def test_a_family_that_does_not_exist_names_those_that_do(another_family: Card) -> None:
    for look in (default_card, predictor_class):
        with pytest.raises(CardError, match=r"no family 'pvcn'.*points, pvcnn, sige, tsm"):
            look("pvcn")


def test_each_family_has_one_default_and_lists_it_first(another_family: Card) -> None:
    listed = list_cards()
    assert {card.family for card in listed} == {"minkunet", "patchnet", "points", "pvcnn", "sige", "tsm"}
    for family in ("points", "pvcnn", "tsm"):
        own = list_cards(family)
        assert [card.default for card in own] == [True] + [False] * (len(own) - 1)
        assert own[0] is default_card(family)
        assert own == [card for card in listed if card.family == family]


def test_an_unknown_family_has_no_cards() -> None:
    assert list_cards("pvcn") == []


def test_bundled_cards_come_before_those_to_fetch() -> None:
    where = [card.bundled for card in list_cards("tsm")]
    assert where == sorted(where, reverse=True)


def test_a_card_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        CARDS[0].name = "other"  # type: ignore[misc]
    listed = list_cards()
    listed.clear()
    assert list_cards() == CARDS


def test_a_card_without_its_authors_labels_numbers_its_classes() -> None:
    card = replace(CARDS[0], labels=(), classes=3)
    assert card.class_names == ("class 0", "class 1", "class 2")
    assert replace(card, labels=("a", "b")).class_names == ("a", "b")


@every_card
def test_a_name_can_be_typed_without_quotes(card: Card) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+(\.[0-9]+)?)+", card.name)


@every_card
def test_published_weights_have_https_addresses_and_their_own_file_name(card: Card) -> None:
    place = PurePosixPath(
        card.weights
    )  # in the cache folder: a name, or one in the authors' folder where that tells files apart
    assert len(place.parts) <= 2 and not place.is_absolute() and ".." not in place.parts
    for url in card.urls:
        parts = urlsplit(url)
        assert parts.scheme == "https" and parts.hostname
        assert parts.path.endswith(f"/{card.weights}")  # what is downloaded by hand already has the right name
    assert not card.sha256 or re.fullmatch(r"[0-9a-f]{64}", card.sha256)


def test_no_two_cards_share_a_weights_file() -> None:
    names = [card.weights for card in CARDS]
    assert len(set(names)) == len(names)


@every_card
def test_labels_and_classes_agree(card: Card) -> None:
    assert not (card.labels and card.classes) or len(card.labels) == card.classes
    assert all(label.strip() == label != "" for label in card.class_names)


@every_card
def test_a_card_takes_what_it_does_not_say_from_its_family(card: Card) -> None:
    if card.task == "tracking":
        assert (card.preprocess["template"], card.preprocess["search"]) == (64, 119)
        return
    if card.task == "editing":
        assert card.preprocess["kind"] in ("labels", "scenes") and len(card.preprocess["size"]) == 2
        assert len(card.preprocess["colors"]) == len(card.labels)
        return
    if card.task != "classification":  # the others say all of it themselves
        assert card.preprocess["kind"] in ("scene", "room", "object", "scan")
        assert card.preprocess["voxel_m" if card.family == "minkunet" else "points"] > 0
        return
    assert {"short_side", "size", "mean", "std"} <= set(card.preprocess)
    height, width = card.preprocess["size"]
    assert min(height, width) >= 1 and card.preprocess["short_side"] >= max(height, width)
    assert len(card.preprocess["mean"]) == len(card.preprocess["std"]) == 3
    assert "sampling" in card.options


@every_card
def test_the_class_of_a_card_is_the_one_of_its_family(card: Card) -> None:
    assert predictor_class(card.family).family == card.family
