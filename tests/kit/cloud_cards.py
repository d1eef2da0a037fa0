"""Small cards of models that label clouds, for tests: no weights are bundled for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from effvision import cards
from effvision.cards import Card

SCENE = {"kind": "scene", "block_m": 12.0, "points": 256, "features": ["height", "intensity"], "merge_below": 16}
OBJECT = {"kind": "object", "points": 128, "votes": 2}
ROOM = {"kind": "room", "points": 256}
LABELS = ("ground", "low vegetation", "trees", "building")


def tiny(name: str, preprocess: Mapping[str, Any], **changes: Any) -> Card:
    """A card of a network that is quick to build, run and export."""
    settings: dict[str, Any] = {
        "summary": "for tests",
        "weights": f"{name}.safetensors",
        "licence": "Apache-2.0",
        "paper": "none",
        "data": "none",
        "urls": ("https://example.org/none.safetensors",),
        "network": {"stages": [[8, 1, 6], [8, 1, 0]], "cloud": [8], "head": [8]},
        "labels": LABELS,
    }
    return Card(name=name, family="pvcnn", task="segmentation", preprocess=preprocess, **{**settings, **changes})


CARDS = (
    tiny("pvcnn-tiny", SCENE, default=True),
    tiny("pvcnn-tiny-object", OBJECT),
    tiny("pvcnn-tiny-room", ROOM),
)


def add_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make them known, until the test ends."""
    known = {name: card for name, card in cards._read_all().items() if card.family != "pvcnn"}
    monkeypatch.setattr(cards, "_read_all", lambda: {**known, **{card.name: card for card in CARDS}})
